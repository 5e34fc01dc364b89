"""Signals: the first one ends a run after its step; when it is saved, the process does what the signal asked for."""

import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from course_utils.training import checkpoint
from course_utils.training.signals import finish_step_on_signal

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")

ROOT = Path(__file__).resolve().parents[2]
PREEMPTIONS = [signal.SIGTERM, signal.SIGUSR1] if os.name == "posix" else []
ALL = [signal.SIGINT, *PREEMPTIONS]


def send(signum):
    os.kill(os.getpid(), signum)


@contextmanager
def handler(signum, action):
    """Handle a signal in this way, and as before at the end."""
    before = signal.signal(signum, action)
    try:
        yield
    finally:
        signal.signal(signum, before)


def handlers():
    return [signal.getsignal(each) for each in (*ALL, signal.SIGCHLD)]


@pytest.mark.parametrize("signum", ALL)
def test_the_first_signal_stops_once_and_the_handlers_are_restored(signum):
    before, stops = handlers(), []
    with finish_step_on_signal(lambda: stops.append(1)) as received:
        assert received.signum is None
        send(signum)
        assert (received.signum, stops) == (signum, [1])
    assert handlers() == before


def test_without_a_signal_nothing_happens():
    before, stops = handlers(), []
    with finish_step_on_signal(lambda: stops.append(1)) as received:
        pass
    received.exit()
    assert (received.signum, stops, handlers()) == (None, [], before)


def test_an_error_restores_the_handlers_too():
    def fail():
        with finish_step_on_signal(lambda: None):
            send(signal.SIGTERM)
            raise ValueError("in the step")

    before = handlers()
    with pytest.raises(ValueError, match="in the step"):
        fail()
    assert handlers() == before


@pytest.mark.parametrize("first", ALL)
def test_ctrl_c_after_a_signal_interrupts_at_once(first):
    seen = []

    def interrupt():
        with finish_step_on_signal(lambda: None) as received:
            send(first)
            seen.append(received.signum)
            send(signal.SIGINT)
            seen.append("still running")

    before = handlers()
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert seen == [first]
    assert handlers() == before


@pytest.mark.parametrize("second", PREEMPTIONS)
@pytest.mark.parametrize("first", ALL)
def test_a_second_request_to_end_does_not_disturb_the_save(first, second):
    stops = []
    with finish_step_on_signal(lambda: stops.append(1)) as received:
        send(first)
        send(second)
    assert stops == [1]
    # After Ctrl-C the process could live on; a request to end that follows is obeyed.
    assert received.signum == (second if first == signal.SIGINT else first)


@pytest.mark.parametrize("signum", PREEMPTIONS)
def test_exit_has_the_code_that_a_shell_reports(signum):
    with finish_step_on_signal(lambda: None) as received:
        send(signum)
    with pytest.raises(SystemExit) as left:
        received.exit()
    assert left.value.code == 128 + signum


def test_exit_after_ctrl_c_returns():
    with finish_step_on_signal(lambda: None) as received:
        send(signal.SIGINT)
    received.exit()


@pytest.mark.parametrize("signum", PREEMPTIONS)
def test_a_handler_of_the_program_gets_the_signal_at_the_exit(signum):
    heard = []
    with handler(signum, lambda number, frame: heard.append(number)):
        with finish_step_on_signal(lambda: None) as received:
            send(signum)
            assert heard == []
        received.exit()
    assert heard == [signum]


@pytest.mark.parametrize("signum", ALL)
def test_an_ignored_signal_stays_ignored(signum):
    stops = []
    with handler(signum, signal.SIG_IGN), finish_step_on_signal(lambda: stops.append(1)) as received:
        send(signum)
        assert signal.getsignal(signum) == signal.SIG_IGN
    assert (received.signum, stops) == (None, [])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports handlers in C")
def test_a_handler_in_c_stays(tmp_path):
    with (tmp_path / "stacks").open("w") as file:
        faulthandler.register(signal.SIGUSR1, file)
        try:
            with finish_step_on_signal(lambda: None) as received:
                send(signal.SIGUSR1)
            send(signal.SIGUSR1)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    assert received.signum is None
    assert (tmp_path / "stacks").read_text().count("test_a_handler_in_c_stays") == 2


def test_a_handler_that_python_cannot_restore_stays(monkeypatch):
    installed = []
    monkeypatch.setattr(signal, "getsignal", lambda signum: None)
    monkeypatch.setattr(signal, "signal", lambda *arguments: installed.append(arguments))
    with finish_step_on_signal(lambda: None):
        pass
    assert installed == []


def test_without_proc_python_is_believed(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    with finish_step_on_signal(lambda: None) as received:
        send(signal.SIGTERM)
    assert received.signum == signal.SIGTERM


def test_another_thread_installs_nothing():
    before, inside = handlers(), []

    def run():
        with finish_step_on_signal(lambda: None):
            inside.extend(handlers())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == before


FORKS = """
import os, signal, sys
from course_utils.training import checkpoint
from course_utils.training.signals import finish_step_on_signal

with finish_step_on_signal(lambda: os.write(1, b"stopped")):
    for name in sys.argv[1:]:
        child = os.fork()
        if not child:
            os.kill(os.getpid(), getattr(signal, name))
            os._exit(7)
        print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_can_be_terminated_and_leaves_the_rest_to_its_parent():
    command = [sys.executable, "-c", FORKS, "SIGINT", "SIGTERM", "SIGUSR1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.split() == ["SIGINT", "7", "SIGTERM", "-15", "SIGUSR1", "7"]


def test_a_worker_that_ends_with_the_signal_does_not_break_the_step():
    def worker_failed(signum, frame):
        raise RuntimeError("DataLoader worker is killed by signal: Terminated")

    with handler(signal.SIGCHLD, worker_failed):
        with finish_step_on_signal(lambda: None):
            with pytest.raises(RuntimeError, match="killed by signal"):
                send(signal.SIGCHLD)  # before any other signal, so this is an error
            send(signal.SIGTERM)
            send(signal.SIGCHLD)
        assert signal.getsignal(signal.SIGCHLD) is worker_failed


# Preemption: whole runs, in processes of their own.

# One process imports PyTorch and forks a child for each run. A child stops in the middle of a step, in the model, until
# it has got its signal.
RUNS = """
import json, os, random, sys
import numpy, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter
from course_utils.training import Trainer, checkpoint

torch.set_num_threads(1)
torch.optim.SGD([torch.zeros(1)], lr=1.0)  # PyTorch imports a good deal with the first optimizer: once is enough
folder, cases = sys.argv[1], json.loads(sys.argv[2])
NUM_EPOCHS, BREAK = 4, 20  # of 8 steps each


def train(run_dir, at_the_break=lambda: None, num_workers=0, in_validation=False):
    torch.manual_seed(0), random.seed(0), numpy.random.seed(0)
    x = torch.randn(60, 6)
    y = (x.sum(1) > 0).long() + (x[:, 0] > 1).long()
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_EPOCHS * 8)
    trainer = Trainer(
        model, optimizer, nn.CrossEntropyLoss(), scheduler=scheduler, device="cpu", run_dir=run_dir, log_every=5,
        progress=False,
    )
    waiting = [at_the_break]

    def wait(module, inputs):
        due = trainer.step >= BREAK and module.training is not in_validation
        if due and waiting:
            waiting.pop()()

    model.register_forward_pre_hook(wait)
    data = TensorDataset(x, y)
    train, valid = DataLoader(data, 8, shuffle=True, num_workers=num_workers), DataLoader(data, 30)
    trainer.fit(train, valid, num_epochs=NUM_EPOCHS, resume=True)


def live(*arguments, **options):
    child = os.fork()
    if not child:
        code = 0
        try:
            os.setsid()
            train(*arguments, **options)
        except SystemExit as left:
            code = left.code
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 3
        os._exit(code)
    return child


def exit_code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def preempted(run_dir, signum, group, **options):
    there, here = os.pipe()
    on, go = os.pipe()
    child = live(run_dir, lambda: (os.write(here, b"."), os.read(on, 1)), **options)
    os.read(there, 1)
    (os.killpg if group else os.kill)(child, signum)
    os.write(go, b".")
    return exit_code(child)


def state(run_dir):
    saved = checkpoint.load(run_dir)
    del saved["history"]["samples_per_second"]
    return saved


def differing(one, other, where=""):
    if isinstance(one, dict) and one.keys() == other.keys():
        return [each for key in one for each in differing(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, (list, tuple)) and len(one) == len(other):
        return [each for index, pair in enumerate(zip(one, other)) for each in differing(*pair, f"{where}/{index}")]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same else [where]


for num_workers in (0, 1):
    assert exit_code(live(f"{folder}/whole {num_workers}", num_workers=num_workers)) == 0
found = {}
for name, (signum, group, num_workers, in_validation) in cases.items():
    run_dir, whole = f"{folder}/{name}", state(f"{folder}/whole {num_workers}")
    code = preempted(run_dir, signum, group, num_workers=num_workers, in_validation=in_validation)
    step = checkpoint.load(run_dir)["step"]
    resumed = exit_code(live(run_dir, num_workers=num_workers))
    found[name] = {"code": code, "step": step, "resumed": resumed, "differing": differing(whole, state(run_dir))}
print(json.dumps(found))
"""

# signal, whether the whole process group gets it, worker processes, whether it comes during validation
CASES = (
    {
        "SIGTERM": (signal.SIGTERM, False, 0, False),
        "SIGUSR1": (signal.SIGUSR1, False, 0, False),
        "SIGTERM in validation": (signal.SIGTERM, False, 0, True),
        "SIGTERM to a group with workers": (signal.SIGTERM, True, 1, False),
        "SIGUSR1 to a group with workers": (signal.SIGUSR1, True, 1, False),
    }
    if os.name == "posix"
    else {}
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What became of the runs that got each signal."""
    folder = tmp_path_factory.mktemp("preemption")
    script = folder / "runs.py"
    script.write_text(RUNS)
    done = subprocess.run(
        [sys.executable, str(script), str(folder), json.dumps(CASES)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"stderr": done.stderr}


@pytest.mark.parametrize("name", CASES)
def test_a_preempted_run_saves_its_step_exits_with_the_signals_code_and_goes_on_to_the_same_end(runs, name):
    signum, _, _, in_validation = CASES[name]
    assert runs[name] == {
        "code": 128 + signum,
        "step": 24 if in_validation else 21,
        "resumed": 0,
        "differing": [],
    }, runs["stderr"]


WORKER = """
import os, sys
from pathlib import Path
from course_utils.__main__ import main

code = main(sys.argv[2:])
Path(sys.argv[1], os.environ["RANK"]).write_text(str(code))
sys.exit(code)
"""


@pytest.mark.slow
def test_sigterm_to_torchrun_stops_all_processes_after_the_same_step(tmp_path):
    run_dir, script = tmp_path / "run", tmp_path / "worker.py"
    script.write_text(WORKER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    options = ["train", "--device", "cpu", "--epochs", "100000", "--log-every", "10", "--run-dir", str(run_dir)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*launcher, str(tmp_path), *options], env=environment, **pipes) as process:
        try:
            line = process.stdout.readline()
            while not line.startswith("step"):
                assert line, process.stderr.read()
                line = process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            shown, error = process.communicate(timeout=60)
        finally:
            for each in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
                each.kill()
            process.kill()
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["143", "143"], error
    step = checkpoint.load(run_dir)["step"]
    assert f"stopped after step {step}: continue with --resume --run-dir {run_dir}\n" in shown
    assert step % 10 == 0 or step % 23 == 0  # the end of a window, or of an epoch
    assert "another process of this run has ended" not in error
