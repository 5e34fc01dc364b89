"""Two processes on one machine (gloo) against one process with the joined batch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from course_utils.__main__ import main
from course_utils.data import Batches
from course_utils.training import checkpoint, distributed, loaders
from course_utils.training.loaders import Batch

pytestmark = pytest.mark.skipif(os.name == "nt", reason="torchrun on Windows comes without its store")

ROOT = Path(__file__).resolve().parents[2]
# Two processes add the same numbers in another order, in single precision: over a dozen steps that stays below this.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def run(*command):
    """Run a program that starts processes of its own, and end all of them if it takes too long."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    options = {"cwd": ROOT, "env": environment, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **options) as process:
        try:
            shown, error = process.communicate(timeout=100)
        finally:
            if process.poll() is None:
                for each in psutil.Process(process.pid).children(recursive=True):
                    each.kill()
                process.kill()
    return subprocess.CompletedProcess(command, process.returncode, shown, error)


def rows(count=27):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, generator=generator)
    return x, torch.randint(3, (count,), generator=generator)


# Alone, with the numbers of the processes made up.


def as_one_of(monkeypatch, rank, size):
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "world_size", lambda: size)


def test_the_parts_of_a_batch_make_the_batch(monkeypatch):
    x, y = rows(27)
    parts = []
    for rank in range(3):
        as_one_of(monkeypatch, rank, 3)
        data = distributed.Shard(Batches(x, y, batch_size=10, transform=lambda x: 2 * x), repeat=True)
        data.set_epoch(2)
        assert len(data) == 3
        parts.append(list(data))
    whole = Batches(x, y, batch_size=10)
    whole.set_epoch(2)
    for index, (x_whole, y_whole) in enumerate(whole):
        joined = torch.empty_like(x_whole), torch.empty_like(y_whole)
        for rank in range(3):
            joined[0][rank::3], joined[1][rank::3] = parts[rank][index]
        assert torch.equal(joined[0], 2 * x_whole)
        assert torch.equal(joined[1], y_whole)
    # A new order each epoch, without being told.
    assert not torch.equal(next(iter(data))[0], parts[2][0][0])


def test_a_process_without_rows_repeats_one_in_training_and_none_in_validation(monkeypatch):
    as_one_of(monkeypatch, 1, 2)
    x, y = rows(9)
    data = Batches(x, y, batch_size=4, shuffle=False)
    assert [len(y) for _, y in distributed.Shard(data, repeat=True)] == [2, 2, 1]
    assert [len(y) for _, y in distributed.Shard(data, repeat=False)] == [2, 2]


def test_alone_nothing_is_wrapped_or_added():
    model, device = nn.Linear(2, 2), torch.device("cpu")
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.wrap(model, device) is model
    assert distributed.all_reduce_sum([[1.0, 2.0]], device) == [[1.0, 2.0]]
    assert distributed.all_gather("a") == ["a"]
    assert distributed.broadcast(True)
    assert not distributed.any_process(False, device)
    assert distributed.shard([1], None) == ([1], None)
    assert distributed.of_this_rank([{"of": "the first"}]) == {"of": "the first"}
    with distributed.process_group("cpu"):
        assert distributed.world_size() == 1


def test_each_process_takes_its_own_gpu(monkeypatch):
    as_one_of(monkeypatch, 1, 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(distributed, "resolve_device", lambda name: torch.device("cuda" if name == "auto" else name))
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert distributed.local_device("auto") == torch.device("cuda:1")
    assert distributed.local_device("cuda:0") == torch.device("cuda:0")
    assert distributed.local_device("cpu") == torch.device("cpu")
    assert taken == [torch.device("cuda:1")]


def test_samplers_are_told_the_epoch():
    class Told:
        epochs = ()

        def set_epoch(self, epoch):
            self.epochs += (epoch,)

    class Loader(Told):
        sampler, batch_sampler = Told(), Told()

    loader = Loader()
    loaders.set_epoch(loader, 3)
    assert loader.epochs == loader.sampler.epochs == loader.batch_sampler.epochs == (3,)


def test_a_sampler_inside_a_batch_sampler_is_told_once():
    x, y = rows(8)
    sampler = DistributedSampler(TensorDataset(x, y), num_replicas=2, rank=0)
    loaders.set_epoch(DataLoader(TensorDataset(x, y), batch_sampler=BatchSampler(sampler, 2, False)), 3)
    assert sampler.epoch == 3


# Two processes for real.

WORKER = """
import json, os, sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from course_utils.training import checkpoint, distributed
from course_utils.data import Batches
from course_utils.training import Trainer

torch.set_num_threads(1)
folder = sys.argv[1]
sys.path.insert(0, sys.argv[2])
from test_distributed import rows

def make(run_dir=None, dropout=0.0, reduction="mean", lr=0.1, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    loss_fn = nn.CrossEntropyLoss(reduction=reduction)
    torch.manual_seed(distributed.rank())
    options = {"log_every": 2, "progress": False, "device": "cpu"} | options
    return Trainer(model, optimizer, loss_fn, run_dir=run_dir, **options)

def weights(trainer):
    return torch.cat([each.detach().flatten() for each in trainer.model.parameters()]).tolist()

def data(**options):
    return Batches(*rows(27), batch_size=8, **options)

def figures(history):
    state = history.state_dict()
    del state["samples_per_second"]
    return state

def result(trainer, history):
    return {"weights": weights(trainer), "history": figures(history)}

def cases():
    found = {}
    for name, options in {
        "mean": {},
        "sum": {"reduction": "sum", "lr": 0.01},
        "accumulated": {"accumulation_steps": 3, "max_grad_norm": 0.5, "track_grad_norm": True},
    }.items():
        trainer = make(**options)
        found[name] = result(trainer, trainer.fit(data(), data(shuffle=False), num_epochs=3))
    return found

def refusals():
    found = {}
    dataset = TensorDataset(*rows(27))
    for name, loader in {
        "same data": DataLoader(dataset, batch_size=8, shuffle=True),
        "lengths": [rows(8)] * (2 + distributed.rank()),
    }.items():
        try:
            make().fit(loader, num_epochs=1)
        except ValueError as error:
            found[name] = str(error)
    return found

def sampler():
    dataset = TensorDataset(*rows(24))
    sampler = DistributedSampler(dataset, shuffle=True, seed=4)
    orders = []
    inner = sampler.set_epoch
    sampler.set_epoch = lambda epoch: (orders.append(epoch), inner(epoch))
    trainer = make()
    history = trainer.fit(DataLoader(dataset, batch_size=4, sampler=sampler), num_epochs=3)
    return result(trainer, history) | {"epochs": orders}

def resumed():
    whole = make(dropout=0.5)
    end = result(whole, whole.fit(data(), data(shuffle=False), num_epochs=4))
    first = make(folder + "/run", dropout=0.5)
    if distributed.rank() == 1:
        # One process alone is asked to stop: both do, at the end of its window.
        first.model.register_forward_hook(lambda *_: first.stop() if first.step == 5 else None)
    first.fit(data(), data(shuffle=False), num_epochs=4)
    torch.rand(distributed.rank() + 3)
    second = make(folder + "/run", dropout=0.5)
    history = second.fit(data(), data(shuffle=False), num_epochs=4, resume=True)
    return {"stopped": first.step, "whole": end, "resumed": result(second, history)}

def work():
    with distributed.process_group("cpu"):
        found = {"cases": cases(), "refusals": refusals(), "sampler": sampler(), "resumed": resumed()}
        found["all"] = distributed.all_gather([found["resumed"]["resumed"], found["cases"]])
        if distributed.rank() == 0:
            print(json.dumps(found), flush=True)

if __name__ == "__main__":
    # What torchrun does, without two more imports of PyTorch: a store, and two processes that know of it.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
    }
    workers = []
    for rank in range(2):
        os.environ["RANK"] = str(rank)
        workers.append(os.fork())
        if not workers[-1]:
            try:
                work()
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
    sys.exit(any([os.waitpid(worker, 0)[1] for worker in workers]))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes found, all in one start."""
    folder = tmp_path_factory.mktemp("two")
    script = folder / "worker.py"
    script.write_text(WORKER)
    done = run(sys.executable, str(script), str(folder), str(Path(__file__).parent))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"folder": folder}


def alone(name):
    """Run a part of the worker's script in this process, alone, with the same seeds."""
    space = {"__name__": "alone"}
    sys_argv, sys.argv = sys.argv, ["worker", "", str(Path(__file__).parent)]
    try:
        exec(WORKER, space)
    finally:
        sys.argv = sys_argv
        sys.path.remove(str(Path(__file__).parent))
    return space[name]


@pytest.mark.parametrize("name", ["mean", "sum", "accumulated"])
def test_two_processes_give_the_weights_and_figures_of_the_joined_batch(found, name):
    # 27 rows in batches of 8: the last batch of 3 is cut into 2 and 1, so the parts weigh differently.
    one, two = alone("cases")()[name], found["cases"][name]
    torch.testing.assert_close(torch.tensor(two["weights"]), torch.tensor(one["weights"]), **TOLERANCE)
    for figure, points in one["history"].items():
        assert [step for step, _ in two["history"][figure]] == [step for step, _ in points], figure
        assert [value for _, value in two["history"][figure]] == pytest.approx([v for _, v in points], rel=1e-4)
    assert one["history"]["valid_accuracy"]


def test_both_processes_end_with_the_same(found):
    first, second = found["all"]
    assert first == second


def test_a_distributed_sampler_is_reshuffled_each_epoch_and_gives_the_joined_batch(found):
    assert found["sampler"]["epochs"] == [0, 1, 2]
    one = alone("make")()
    x, y = rows(24)
    for epoch in range(3):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(4 + epoch))
        for index in order.split(8):
            one.train_step([Batch(x[index], y[index], len(index))], [1.0])
    weights = torch.cat([each.detach().flatten() for each in one.model.parameters()])
    torch.testing.assert_close(torch.tensor(found["sampler"]["weights"]), weights, **TOLERANCE)


def test_data_that_is_not_cut_is_refused(found):
    assert re.search(
        r"2 processes would each train on all .* sampler=DistributedSampler\(dataset, shuffle=True\)",
        found["refusals"]["same data"],
    )
    assert "the processes have [2, 3] batches each: they must have the same number" in found["refusals"]["lengths"]


def test_a_stop_that_one_process_hears_stops_both_and_resume_ends_bit_identical(found):
    # Each process draws other random numbers (dropout); both come back.
    assert found["resumed"]["stopped"] == 6
    assert found["resumed"]["resumed"] == found["resumed"]["whole"]
    state = checkpoint.load(found["folder"] / "run")
    assert len(state["passes"]) == 2
    assert not torch.equal(state["passes"][0]["now"]["torch"], state["passes"][1]["now"]["torch"])


# The second process is killed as its epoch 4 begins and, when torchrun has started both again, as its epoch 7 does.
KILLED = """
import os, signal, sys
from course_utils.__main__ import main
from course_utils.training import checkpoint, distributed, loaders, passes

checkpoint.WAIT_FACTOR = 0  # a save after every epoch
last_epoch = 3 if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" else 6
set_epoch = loaders.set_epoch

def set_epoch_or_die(loader, epoch):
    if distributed.rank() == 1 and epoch == last_epoch:
        os.kill(os.getpid(), signal.SIGKILL)
    set_epoch(loader, epoch)

loaders.set_epoch = passes.set_epoch = set_epoch_or_die
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_resume_goes_on_and_torchrun_restarts(tmp_path):
    run_dir, script = tmp_path / "run", tmp_path / "killed.py"
    script.write_text(KILLED)
    options = ["train", "--device", "cpu", "--lr", "0.02", "--log-every", "10", "--epochs", "9"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    broken = run(sys.executable, *launcher, str(script), *options, "--run-dir", str(run_dir))
    assert broken.returncode != 0
    assert re.search(r"Signal 9 \(SIGKILL\) received by PID", broken.stderr)
    # The first process reports its end both times; it may lose the connection and be told to stop by torchrun too.
    reported = "another process of this run has ended, or torchrun was stopped: start all of them again with --resume"
    assert broken.stderr.count(reported) >= 2
    # The first process may be ended before it has saved the epoch of the kill, but no epoch before.
    assert checkpoint.load(run_dir)["epoch"] in (5, 6)

    assert main([*options, "--quiet", "--run-dir", str(run_dir), "--resume"]) == 0
    assert main([*options, "--quiet", "--run-dir", str(tmp_path / "alone")]) == 0
    resumed, alone = checkpoint.load(run_dir), checkpoint.load(tmp_path / "alone")
    assert resumed["step"] == alone["step"] == 9 * 23
    for name, value in alone["model"].items():
        # What rounding makes of 207 steps; a lost or repeated epoch moves the weights by a hundred times more.
        torch.testing.assert_close(resumed["model"][name], value, rtol=0, atol=2e-3)
    assert [step for step, _ in resumed["history"]["step_loss"]] == [step for step, _ in alone["history"]["step_loss"]]
