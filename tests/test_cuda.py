"""What only a CUDA device can show: a run that goes on there to the last bit, where it waits, NCCL, and the doctor."""

import contextlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from loop_doctor import LoopDoctor
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from course_utils.data import Batches, load
from course_utils.devices import resolve_device
from course_utils.lr import find_lr
from course_utils.models import CNN, MLP
from course_utils.training import NonFiniteError, Trainer, checkpoint, distributed

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ROOT = Path(__file__).resolve().parents[1]


def rows(count=160, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    return x, torch.randint(3, (count,), generator=generator)


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def make(run_dir=None, *, model=None, lr=0.05, **options):
    model = model or small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=200)
    options = {"log_every": 4, "progress": False, "device": "cuda"} | options
    return Trainer(model, optimizer, nn.CrossEntropyLoss(), scheduler=scheduler, run_dir=run_dir, **options)


def on_the_device():
    x, y = rows()
    return Batches(x.cuda(), y.cuda(), batch_size=16, seed=3)


def from_pinned_memory():
    return DataLoader(TensorDataset(*rows()), batch_size=16, shuffle=True, pin_memory=True)


def everything(trainer):
    """All that training changes, for an exact comparison."""
    optimizer = trainer.optimizer.state_dict()
    state = {f"{key} {name}": value for key, each in optimizer["state"].items() for name, value in each.items()}
    counts = (trainer.step, trainer.epoch, trainer.skipped_steps, trainer.history, optimizer["param_groups"])
    return dict(trainer.model.state_dict()) | state, (*counts, trainer.scaler.state_dict())


# The loop.


def test_auto_is_the_card_and_one_that_is_not_there_is_refused():
    assert resolve_device("auto").type == "cuda"
    beyond = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ValueError, match=rf"device '{beyond}' is not available \(available: cpu, cuda:0"):
        resolve_device(beyond)


@pytest.mark.parametrize("source", [on_the_device, from_pinned_memory])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_that_was_stopped_ends_bit_identical(tmp_path, precision, source):
    options = {"precision": precision, "accumulation_steps": 2, "max_grad_norm": 1.0, "track_grad_norm": True}
    torch.manual_seed(1)
    whole = make(tmp_path / "whole", **options)
    torch.manual_seed(1)
    whole.fit(source(), num_epochs=6)
    assert whole.model[0].weight.is_cuda
    torch.manual_seed(1)
    first = make(tmp_path / "run", **options)
    torch.manual_seed(1)
    first.progress = lambda now, num_steps, history: first.stop() if now >= 12 else None
    first.fit(source(), num_epochs=6)
    assert 12 <= first.step < 30
    second = make(tmp_path / "run", **options)
    torch.rand(17), torch.rand(5, device="cuda")
    second.fit(source(), num_epochs=6, resume=True)
    (tensors, counts), (others, other_counts) = everything(second), everything(whole)
    assert [name for name, value in tensors.items() if not torch.equal(value, others[name])] == []
    assert counts == other_counts


def test_a_run_of_the_card_goes_on_on_the_cpu(tmp_path):
    first = make(tmp_path)
    first.fit(on_the_device(), num_epochs=2)
    second = make(tmp_path, device="cpu")
    second.fit(Batches(*rows(), batch_size=16, seed=3), num_epochs=3, resume=True)
    assert (second.step, second.epoch) == (30, 3)
    assert second.model[0].weight.device.type == "cpu"


def test_a_scaler_that_starts_too_high_skips_steps_and_counts_them(tmp_path):
    each = make(tmp_path, precision="fp16")
    each.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**24)
    each.fit(on_the_device(), num_epochs=4)
    assert each.skipped_steps > 0
    assert each.step == 40 - each.skipped_steps
    assert checkpoint.load(tmp_path)["step"] == each.step
    assert all(parameter.isfinite().all() for parameter in each.model.parameters())


def test_a_loss_that_is_not_finite_ends_the_run():
    x, y = rows()
    x[70] = float("nan")
    with pytest.raises(NonFiniteError, match="the loss of step 5 is nan"):
        make().fit(list(zip(x.cuda().split(16), y.cuda().split(16), strict=True)), num_epochs=1)


class Waits(contextlib.ExitStack):
    """Counts how often the program waits for the card, as CUDA itself tells it."""

    def __enter__(self):
        self.caught = self.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        self.callback(torch.cuda.set_sync_debug_mode, "default")
        return self

    def count(self):
        return sum("called a synchronizing" in str(warning.message) for warning in self.caught)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loop_waits_once_a_window_and_not_at_each_step(precision):
    def waits(log_every):
        trainer = make(log_every=log_every, precision=precision, max_grad_norm=1.0)
        data = on_the_device()
        trainer.fit(data, num_epochs=1)  # the first pass also sets up libraries
        with Waits() as waits:
            trainer.fit(data, num_epochs=4)
        return waits.count()

    # 40 steps: the windows of 4 end 8 times more often than those of 50, and nothing else may differ.
    seldom, often = waits(50), waits(4)
    assert 0 < seldom <= 4 * 3
    assert 8 <= often - seldom <= 10


def test_several_processes_add_up_with_nccl(monkeypatch):
    """A group of one, told that it is one of two: NCCL takes no two processes on one card."""
    store = torch.distributed.HashStore()
    torch.cuda.set_device(0)
    torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    try:
        device = torch.device("cuda:0")
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "world_size", lambda: 2)
            assert distributed.all_reduce_sum([[1.5, 2.0], [3.0, 4.0]], device) == [[1.5, 2.0], [3.0, 4.0]]
            assert distributed.any_process(True, device)
            assert not distributed.any_process(False, device)
            assert distributed.broadcast(True)
            assert distributed.all_gather({"rank": 0})[0] == {"rank": 0}
            assert float(distributed.loss_weight(7, "mean", device)) == 2.0
            wrapped = distributed.wrap(small_model().to(device), device)
        assert isinstance(wrapped, nn.parallel.DistributedDataParallel)
        alone = small_model().to(device)
        x, y = rows(16)
        parts = [(x[:8].to(device), y[:8].to(device)), (x[8:].to(device), y[8:].to(device))]
        for model in (wrapped.eval(), alone.eval()):
            for each_x, each_y in distributed.synchronized_last(model, parts):
                F.cross_entropy(model(each_x), each_y).backward()
        for one, other in zip(wrapped.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
    finally:
        torch.distributed.destroy_process_group()


def command(*arguments, program=("-m", "course_utils")):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *program, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110
    )


def test_the_command_trains_there_and_goes_on(tmp_path):
    options = ["train", "--device", "cuda", "--precision", "bf16", "--quiet", "--run-dir", str(tmp_path / "run")]
    first = command(*options, "--epochs", "2")
    assert first.returncode == 0, first.stderr
    second = command(*options, "--epochs", "3", "--resume")
    assert second.returncode == 0, second.stderr
    assert checkpoint.load(tmp_path / "run")["epoch"] == 3


def test_more_processes_than_cards_are_refused_in_words(tmp_path):
    count = torch.cuda.device_count() + 1
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    done = command("-m", "course_utils", "train", "--device", "cuda", "--run-dir", str(tmp_path), program=launcher)
    assert done.returncode != 0
    assert f"device 'cuda:{count - 1}' is not available (available: cpu, cuda:0" in done.stderr


@pytest.mark.parametrize("make_model", [MLP, CNN])
def test_the_finder_suggests_a_rate_that_trains(make_model):
    data = load(device="cuda")
    torch.manual_seed(0)
    model = make_model().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = find_lr(model, optimizer, nn.functional.cross_entropy, data.train)
    for group in optimizer.param_groups:
        group["lr"] = found.suggestion.point
    history = Trainer(model, optimizer, nn.CrossEntropyLoss(), progress=False).fit(data.train, data.valid, num_epochs=4)
    assert history.valid_accuracy[-1][1] > 0.85


# The doctor, with a card that waits in earnest.


def watched(step, *, num_epochs=3, device="cuda"):
    """Watch a loop of 30 steps whose line after `optimizer.step()` is given."""
    model = small_model().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = rows()
    x, y = x.to(device), y.to(device)
    with LoopDoctor() as doctor:
        for _ in range(num_epochs):
            for each_x, each_y in zip(x.split(16), y.split(16), strict=True):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(each_x), each_y)
                loss.backward()
                optimizer.step()
                step(loss)
    return doctor


@pytest.mark.parametrize(
    "read",
    [
        lambda loss: loss.item(),
        lambda loss: float(loss.detach()),
        lambda loss: loss.detach().cpu(),
        lambda loss: loss.detach().to("cpu"),
        lambda loss: loss.detach().tolist(),
        lambda loss: "large" if loss > 1 else "small",
    ],
    ids=["item", "float", "cpu", "to", "tolist", "if"],
)
def test_a_read_at_each_step_is_told(read):
    findings = watched(read).findings
    assert [finding.code for finding in findings] == ["waits-every-step"]
    assert "30" in findings[0].evidence


def test_a_sum_on_the_card_is_no_wait_and_a_read_on_the_cpu_is_none():
    total = torch.zeros((), device="cuda")
    assert watched(lambda loss: total.add_(loss.detach())).findings == []
    assert watched(lambda loss: loss.item(), device="cpu").findings == []


def test_a_sound_loop_in_mixed_precision_is_left_in_peace():
    model = small_model().cuda()
    optimizer, scaler = torch.optim.Adam(model.parameters(), lr=0.01), torch.amp.GradScaler("cuda", init_scale=2.0**8)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    total = torch.zeros((), device="cuda")
    with LoopDoctor() as doctor:
        for _ in range(4):
            for x, y in from_pinned_memory():
                x, y = x.to("cuda", non_blocking=True), y.to("cuda", non_blocking=True)
                optimizer.zero_grad()
                with torch.autocast("cuda", torch.float16):
                    loss = F.cross_entropy(model(x), y)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
                scheduler.step()
                total += loss.detach()
    assert doctor.findings == [], str(doctor)


def test_a_rate_that_is_too_high_is_told_there_too():
    torch.manual_seed(0)
    data, model = load(device="cuda"), MLP().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    with Waits() as waits, LoopDoctor() as doctor:
        for x, y in data.train:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert [finding.code for finding in doctor.findings] == ["learning-rate-too-high"]
    # The data's order goes to the card; losses and moves come from it together, at the end of the block.
    assert waits.count() < 10 < len(data.train)


def test_a_step_that_goes_into_a_cuda_graph_is_left_alone():
    model = small_model().cuda().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = (each[:16].cuda() for each in rows())

    def step():
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with LoopDoctor() as doctor:
        with torch.cuda.stream(aside):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(100):
                step()
        before = model[0].weight.detach().clone()
        graph.replay()
    assert not torch.equal(model[0].weight, before)
    assert doctor.findings == [], str(doctor)


def test_the_doctor_changes_no_bit_there():
    def weights(watch):
        torch.manual_seed(2)
        trainer = make(lr=0.02)
        with LoopDoctor() if watch else contextlib.nullcontext():
            trainer.fit(on_the_device(), num_epochs=3)
        return trainer.model.state_dict().values()

    assert all(torch.equal(one, other) for one, other in zip(weights(False), weights(True), strict=True))


def test_a_loop_without_zero_grad_is_named_there_too():
    model = small_model().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with LoopDoctor() as doctor:
        for x, y in on_the_device():
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert [finding.code for finding in doctor.findings] == ["missing-zero-grad"]
