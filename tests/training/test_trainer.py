"""The trainer against loops written by hand, PyTorch itself as the oracle."""

import gc
import math
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, TensorDataset

from course_utils import devices
from course_utils.data import Batches, load
from course_utils.models import MLP
from course_utils.training import Callback, NonFiniteError, RunCompleteError, Trainer, checkpoint


def rows(count=50, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator, dtype=dtype)
    return x, torch.randint(3, (count,), generator=generator)


def small_model(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def batches(count=50, batch_size=8, **options):
    return Batches(*rows(count), batch_size=batch_size, **options)


def trainer(model=None, *, lr=0.1, momentum=0.0, loss_fn=None, progress=False, schedule=None, **options):
    model = model or small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    if schedule is not None:
        options["scheduler"] = schedule(optimizer)
    return Trainer(model, optimizer, loss_fn or nn.CrossEntropyLoss(), device="cpu", progress=progress, **options)


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def by_hand(model, loader, *, num_epochs, lr=0.1, momentum=0.0, loss_fn=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    loss_fn = loss_fn or nn.CrossEntropyLoss()
    losses = []
    for _ in range(num_epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append((loss.item(), len(y)))
    return losses


# The step.


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weights_and_losses_equal_the_hand_written_loop_bit_for_bit(momentum):
    mine, hand = small_model(), small_model()
    history = trainer(mine, momentum=momentum, log_every=1).fit(batches(), num_epochs=3)
    losses = by_hand(hand, batches(), num_epochs=3, momentum=momentum)
    assert same_weights(mine, hand)
    assert [value for _, value in history.step_loss] == [loss for loss, _ in losses]
    assert [step for step, _ in history.step_loss] == list(range(1, 22))


def test_a_dataloader_and_a_list_are_trained_on_as_well():
    for make in (lambda: DataLoader(TensorDataset(*rows()), batch_size=8, shuffle=True), lambda: list(batches())):
        mine, hand = small_model(), small_model()
        torch.manual_seed(1)
        trainer(mine).fit(make(), num_epochs=2)
        torch.manual_seed(1)
        by_hand(hand, make(), num_epochs=2)
        assert same_weights(mine, hand)


def test_a_new_run_takes_the_epochs_orders_from_the_first():
    data, seen = batches(), []
    data.set_epoch(5)
    inner = data.order
    data.order = lambda epoch: seen.append(epoch) or inner(epoch)
    trainer().fit(data, num_epochs=3)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("stop_after", [None, 9])
@pytest.mark.parametrize("make_data", [batches, lambda: DataLoader(TensorDataset(*rows()), batch_size=8, shuffle=True)])
def test_another_fit_continues_where_the_last_one_ended(make_data, stop_after):
    torch.manual_seed(1)
    whole = trainer(momentum=0.9, log_every=3)
    whole.fit(make_data(), make_data(), num_epochs=4)
    torch.manual_seed(1)
    parts, data = trainer(momentum=0.9, log_every=3), make_data()
    if stop_after is None:
        parts.fit(data, make_data(), num_epochs=2)
    else:
        parts.progress = lambda step, num_steps, history: parts.stop() if step == stop_after else None
        parts.fit(data, make_data(), num_epochs=4)
        assert (parts.epoch, parts.position) == (1, 2)
        parts.progress = False
    parts.fit(data, make_data(), num_epochs=4)
    assert same_weights(whole.model, parts.model)
    assert parts.history == whole.history
    with pytest.raises(RunCompleteError, match=r"the run already has 4 epochs and num_epochs=4 asks for no more"):
        parts.fit(data, num_epochs=4)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("count", [48, 50, 41])
def test_accumulated_micro_batches_equal_the_joined_batch(reduction, count):
    # 41 and 50 rows end in a short micro-batch and in a step of fewer micro-batches.
    x, y = rows(count, torch.float64)
    joined, parts = small_model(torch.float64), small_model(torch.float64)
    loss_fn = nn.CrossEntropyLoss(reduction=reduction)
    losses = by_hand(joined, list(zip(x.split(24), y.split(24), strict=True)), num_epochs=2, loss_fn=loss_fn, lr=0.02)
    history = trainer(parts, loss_fn=loss_fn, lr=0.02, accumulation_steps=3, log_every=1).fit(
        list(zip(x.split(8), y.split(8), strict=True)), num_epochs=2
    )
    assert len(history.step_loss) == 2 * math.ceil(count / 24)
    for mine, hand in zip(parts.parameters(), joined.parameters(), strict=True):
        torch.testing.assert_close(mine, hand, rtol=1e-12, atol=1e-14)
    per_sample = [loss if reduction == "mean" else loss / n for loss, n in losses]
    assert [value for _, value in history.step_loss] == pytest.approx(per_sample, rel=1e-12)


def test_clipping_equals_pytorchs_own_and_the_norm_is_kept():
    mine, hand = small_model(), small_model()
    history = trainer(mine, max_grad_norm=0.05, track_grad_norm=True, log_every=1).fit(batches(), num_epochs=1)
    optimizer, norms = torch.optim.SGD(hand.parameters(), lr=0.1), []
    for x, y in batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(hand(x), y).backward()
        norms.append(nn.utils.clip_grad_norm_(hand.parameters(), 0.05).item())
        optimizer.step()
    assert same_weights(mine, hand)
    assert [value for _, value in history.grad_norm] == norms
    assert max(norms) > 0.05


def test_the_norm_is_kept_only_on_request():
    assert trainer(log_every=1).fit(batches(), num_epochs=1).grad_norm == []


def test_the_scheduler_is_stepped_once_a_step():
    each = trainer(
        lr=0.1, log_every=1, accumulation_steps=2, schedule=lambda optimizer: StepLR(optimizer, 2, gamma=0.5)
    )
    history = each.fit(batches(count=48), num_epochs=2)
    # 6 micro-batches an epoch make 3 steps; the lr is the one that the step was taken with.
    assert [value for _, value in history.lr] == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]


def test_bf16_trains_under_autocast_and_keeps_fp32_weights():
    mine, hand = small_model(), small_model()
    trainer(mine, precision="bf16").fit(batches(), num_epochs=1)
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1)
    for x, y in batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(hand(x), y)
        loss.backward()
        optimizer.step()
    assert same_weights(mine, hand)
    assert all(parameter.dtype == torch.float32 for parameter in mine.parameters())


def test_steps_that_the_scaler_skips_are_not_counted_and_leave_the_schedule():
    mine, hand = small_model(), small_model()
    each = trainer(
        mine,
        log_every=1,
        loss_fn=lambda logits, y: 8 * nn.functional.cross_entropy(logits, y),
        schedule=lambda optimizer: StepLR(optimizer, 1, gamma=0.9),
    )
    # The scaler works on the CPU too: here with a first scale so large that the first steps overflow.
    each.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    history = each.fit(batches(), num_epochs=1)
    assert 0 < each.skipped_steps < len(batches()) - 1
    assert each.step == len(batches()) - each.skipped_steps == len(history.step_loss)
    assert history.lr == [(step, pytest.approx(0.1 * 0.9 ** (step - 1))) for step in range(1, each.step + 1)]
    # The same loop by hand, without the batches that were skipped.
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1)
    for index, (x, y) in enumerate(batches()):
        if index < each.skipped_steps:
            continue
        optimizer.param_groups[0]["lr"] = 0.1 * 0.9 ** (index - each.skipped_steps)
        optimizer.zero_grad()
        (8 * nn.functional.cross_entropy(hand(x), y)).backward()
        optimizer.step()
    for a, b in zip(mine.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns_on_cuda(precision):
    data = load(device="cuda")
    model = MLP()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    history = Trainer(model, optimizer, nn.CrossEntropyLoss(), precision=precision, progress=False).fit(
        data.train, data.valid, num_epochs=5
    )
    assert history.valid_accuracy[-1][1] > 0.8


# The figures.


class Reads(TorchFunctionMode):
    """Counts how often a tensor's value is asked for, which makes the program wait for a GPU."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        self.count += name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu")
        return function(*args, **(kwargs or {}))


def test_losses_are_read_once_a_window_and_once_an_epoch():
    data = batches(count=160)
    with Reads() as reads:
        trainer(momentum=0.9, log_every=10, max_grad_norm=1.0).fit(data, num_epochs=3)
    # 60 steps: a window ends at each tenth, an epoch at each twentieth, and these fall together. Each time, the losses
    # are read, and how many labels count. In addition, the smallest and the largest label of the first batch are read,
    # and at the end whether the weights are finite.
    assert reads.count == 2 * 6 + 3
    with Reads() as reads:
        trainer(log_every=50).fit(data, num_epochs=3)
    assert reads.count == 2 * 4 + 3


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_epoch_and_window_means_of_a_frozen_model_are_its_loss(reduction):
    x, y = rows(50)
    model = small_model()
    exact = nn.functional.cross_entropy(model(x), y).item()
    each = trainer(model, lr=0.0, loss_fn=nn.CrossEntropyLoss(reduction=reduction), log_every=7)
    history = each.fit(batches(), batches(shuffle=False), num_epochs=2)
    # 7 batches an epoch, the last of 2 rows: a mean of batch means would be off.
    assert history.epoch_loss == [(7, pytest.approx(exact)), (14, pytest.approx(exact))]
    assert history.step_loss == [(7, pytest.approx(exact)), (14, pytest.approx(exact))]
    assert history.valid_loss == [(7, pytest.approx(exact)), (14, pytest.approx(exact))]
    accuracy = (model(x).argmax(1) == y).double().mean().item()
    assert history.valid_accuracy == [(7, accuracy), (14, accuracy)]


def test_windows_run_on_over_the_end_of_an_epoch():
    history = trainer(log_every=5).fit(batches(), num_epochs=3)
    losses = by_hand(small_model(), batches(), num_epochs=3)
    for index, (step, value) in enumerate(history.step_loss):
        window = losses[5 * index : 5 * index + 5]
        assert step == 5 * index + 5
        assert value == pytest.approx(sum(loss * n for loss, n in window) / sum(n for _, n in window), rel=1e-12)
    assert len(history.step_loss) == 4
    for epoch, (step, value) in enumerate(history.epoch_loss):
        losses_of_epoch = losses[7 * epoch : 7 * epoch + 7]
        assert step == 7 * epoch + 7
        assert value == pytest.approx(sum(loss * n for loss, n in losses_of_epoch) / 50, rel=1e-12)
    assert [step for step, _ in history.samples_per_second] == [5, 10, 15, 20]
    assert min(value for _, value in history.samples_per_second) > 0


def test_labels_that_are_no_classes_have_no_accuracy():
    x, _ = rows(20)
    data = [(x, x[:, :1])]
    model = nn.Linear(6, 1)
    history = trainer(model, loss_fn=nn.MSELoss()).fit(data, data, num_epochs=1)
    assert history.valid_accuracy == []
    assert len(history.valid_loss) == 1


def test_evaluation_records_no_graph_and_gives_every_mode_back():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    model[1].eval()
    seen = []
    model[2].register_forward_hook(lambda module, args, output: seen.append((module.training, torch.is_grad_enabled())))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    each = trainer(model)
    first, second = each.evaluate(batches()), each.evaluate(batches())
    assert first.loss == pytest.approx(second.loss)
    assert set(seen) == {(False, False)}
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_fit_trains_a_model_that_was_left_in_evaluation_and_gives_that_back():
    model = small_model().eval()
    modes = []
    model[1].register_forward_hook(lambda module, args, output: modes.append(module.training))
    trainer(model).fit(batches(), batches(), num_epochs=1)
    assert modes == [False] + [True] * 7 + [False] * 7  # one batch is tried before the first step
    assert not model.training


def test_another_fit_on_other_data_begins_them_at_their_beginning():
    one, other = batches(count=48), [tuple(part[:8] for part in rows(seed=1))] * 3
    seen = []
    each = trainer(log_every=1)
    each.progress = lambda step, num_steps, history: each.stop() if step == 4 else None
    each.fit(one, num_epochs=2)
    assert each.position == 4
    each.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    each.progress = False
    each.fit(other, num_epochs=2, steps_per_epoch=6)
    assert len(seen) == 2 + 6
    assert all(torch.equal(x, other[0][0]) for x in seen)


def test_a_loader_with_persistent_workers_is_not_used_twice_at_once():
    loader = DataLoader(TensorDataset(*rows()), batch_size=8, num_workers=1, persistent_workers=True)
    with pytest.raises(ValueError, match=r"train and valid are the same DataLoader with persistent_workers=True"):
        trainer().fit(loader, loader, num_epochs=1)


def test_a_plateau_of_an_accuracy_that_there_is_not_is_refused_before_the_first_step():
    x, _ = rows(20)
    data = [(x, x[:, :1])]
    each = trainer(
        nn.Linear(6, 1),
        loss_fn=nn.MSELoss(),
        scheduler_metric="valid_accuracy",
        schedule=lambda optimizer: ReduceLROnPlateau(optimizer, mode="max"),
    )
    with pytest.raises(ValueError, match=r"scheduler_metric is 'valid_accuracy', but the targets are not class"):
        each.fit(data, data, num_epochs=1)
    assert each.step == 0


# Progress and stopping.


def test_progress_is_called_after_each_window_and_each_epoch():
    calls = []
    trainer(
        log_every=3, progress=lambda step, num_steps, history: calls.append((step, num_steps, len(history.lr)))
    ).fit(batches(), num_epochs=2)
    assert calls == [(3, 14, 1), (6, 14, 2), (7, 14, 2), (9, 14, 3), (12, 14, 4), (14, 14, 4)]


def test_the_bar_counts_to_the_last_step(capsys):
    trainer(progress=True, log_every=4).fit(batches(), batches(), num_epochs=2)
    shown = capsys.readouterr().err
    assert "14/14" in shown
    assert re.search(r"valid_accuracy 0\.\d+", shown)


def test_stop_ends_the_run_after_the_step_and_keeps_the_history():
    each = trainer(log_every=1)
    each.progress = lambda step, num_steps, history: each.stop() if step == 9 else None
    history = each.fit(batches(), num_epochs=5)
    assert (each.step, each.epoch, each.position) == (9, 1, 2)
    assert [step for step, _ in history.step_loss] == list(range(1, 10))
    assert len(history.epoch_loss) == 1


def test_stop_from_another_thread():
    each, started = trainer(log_every=1), threading.Event()
    each.progress = lambda step, num_steps, history: started.set()
    results = []
    thread = threading.Thread(target=lambda: results.append(each.fit(batches(), num_epochs=10**6)))
    thread.start()
    assert started.wait(30)
    each.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert len(results[0].step_loss) == each.step > 0


def test_ctrl_c_ends_the_step_and_gives_the_handler_back():
    each = trainer(log_every=1)
    before = signal.getsignal(signal.SIGINT)
    in_step = []

    def interrupt(module, args):
        if each.step == 4 and not in_step:
            in_step.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    each.model.register_forward_pre_hook(interrupt)
    history = each.fit(batches(), num_epochs=3)
    # The signal came inside step 5, which was ended in order.
    assert [step for step, _ in history.step_loss] == [1, 2, 3, 4, 5]
    assert signal.getsignal(signal.SIGINT) is before
    mine, hand = each.model, small_model()
    by_hand(hand, list(batches())[:5], num_epochs=1)
    assert same_weights(mine, hand)


def test_an_interrupt_that_the_data_raises_returns_the_history():
    def loader():
        yield from list(batches())[:3]
        raise KeyboardInterrupt

    class Interrupted(list):
        def __iter__(self):
            return loader()

    each = trainer(log_every=1)
    history = each.fit(Interrupted(range(7)), num_epochs=2)
    assert [step for step, _ in history.step_loss] == [1, 2, 3]


def live_objects():
    """The number of tensors, and of Python's other objects, that nothing has freed."""
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects()), sys.getallocatedblocks()


def test_no_tensor_and_no_graph_is_left_behind_by_a_step():
    x, y = rows(100)
    seen = []

    def look(step, num_steps, history):
        # In the first epoch PyTorch still sets itself up. Both looks are in the middle of an epoch.
        if step in (150, 750):
            seen.append(live_objects())

    trainer(lr=0.001, log_every=50, progress=look).fit(Batches(x, y, batch_size=1), num_epochs=8)
    (tensors, blocks), (last_tensors, last_blocks) = seen
    assert last_tensors == tensors
    # In 600 steps only the figures of windows and epochs are added: far less than one object per step.
    assert last_blocks - blocks < 300


@pytest.mark.proof
def test_memory_stays_the_same_over_twenty_thousand_steps():
    x, y = rows(2000)
    data = Batches(x, y, batch_size=1)
    process = psutil.Process()
    memory = []
    each = trainer(lr=0.001, log_every=50, progress=lambda *_: memory.append(process.memory_info().rss))
    history = each.fit(data, num_epochs=11)
    assert each.step == 22_000
    assert memory[-1] - memory[len(memory) // 11] < 2**21
    assert len(history.step_loss) == 440


@pytest.mark.parametrize(
    "error", [RuntimeError("DataLoader worker (pid 1) exited unexpectedly"), FileNotFoundError(2, "x")]
)
def test_ctrl_c_that_breaks_the_loader_too_returns_the_history(error):
    class Dying(list):
        """Like a DataLoader whose worker processes Ctrl-C has ended."""

        def __iter__(self):
            yield from self[:3]
            os.kill(os.getpid(), signal.SIGINT)
            raise error

    each = trainer(log_every=1, accumulation_steps=2)
    history = each.fit(Dying(batches()), num_epochs=2)
    # The third batch was fetched for the second step, which was never taken.
    assert len(history.step_loss) == each.step == 1


def test_a_loader_that_breaks_by_itself_is_reported_as_it_is():
    class Broken(list):
        def __iter__(self):
            yield self[0]
            raise RuntimeError("worker exited")

    with pytest.raises(RuntimeError, match="worker exited"):
        trainer().fit(Broken(batches()), num_epochs=1)


CTRL_C = """
import os, signal, torch
from torch.utils.data import DataLoader, TensorDataset
from course_utils.training import Trainer

class Interrupting(TensorDataset):
    fetched = 0

    def __getitem__(self, index):
        self.fetched += 1
        if self.fetched == 60:
            # A terminal sends Ctrl-C to the whole group of processes. Here it comes while a batch is fetched.
            os.killpg(0, signal.SIGINT)
        return super().__getitem__(index)

if __name__ == "__main__":
    data = Interrupting(torch.randn(400, 2), torch.zeros(400, dtype=torch.long))
    loader = DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context="spawn")
    model = torch.nn.Linear(2, 2)
    trainer = Trainer(
        model, torch.optim.SGD(model.parameters(), lr=0.1), torch.nn.CrossEntropyLoss(), device="cpu", log_every=1,
        accumulation_steps=6, progress=False,
    )
    history = trainer.fit(loader, num_epochs=100)
    print("returned", len(history.step_loss), trainer.step)
"""


@pytest.mark.proof
@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_ctrl_c_that_ends_the_process_of_a_real_loader_returns_the_history(tmp_path):
    script = tmp_path / "interrupted.py"
    script.write_text(CTRL_C)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    # 60 rows are 15 batches, and 6 batches make a step.
    counted, steps = map(int, re.search(r"returned (\d+) (\d+)", done.stdout).groups())
    assert counted == steps <= 2


# What is not finite.


def test_a_loss_that_is_not_finite_names_its_step_its_lr_and_the_lesson():
    x, y = rows(40)
    data = list(zip(x.split(8), y.split(8), strict=True))
    data[2] = (torch.full((8, 6), math.nan), data[2][1])
    each = trainer(lr=0.25, log_every=4)
    with pytest.raises(NonFiniteError, match=r"loss of step 3 is nan at lr 0\.25.*02_learning_rate"):
        each.fit(data, num_epochs=1)


def test_steps_with_bad_gradients_are_skipped_on_request():
    x, y = rows(40)
    data = list(zip(x.split(8), y.split(8), strict=True))
    good = data[:2] + data[3:]
    data[2] = (torch.full((8, 6), math.nan), data[2][1])
    mine, hand = small_model(), small_model()
    each = trainer(mine, momentum=0.9, on_nonfinite="skip", log_every=1)
    history = each.fit(data, num_epochs=2)
    by_hand(hand, good, num_epochs=2, momentum=0.9)
    assert same_weights(mine, hand)
    assert (each.step, each.skipped_steps, len(history.step_loss)) == (8, 2, 8)


@pytest.mark.parametrize(
    "frozen", [torch.zeros(2, dtype=torch.uint8), torch.tensor([True]), torch.zeros(0, 3), torch.tensor([-math.inf])]
)
def test_frozen_parameters_may_be_of_any_kind(frozen):
    model = small_model()
    model.register_parameter("frozen", nn.Parameter(frozen, requires_grad=False))
    assert len(trainer(model).fit(batches(), num_epochs=1).epoch_loss) == 1


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(rows(8)[0].to_sparse(), id="sparse"),
        pytest.param(torch.nested.nested_tensor(list(rows(8)[0].split(1)), layout=torch.jagged), id="jagged"),
    ],
)
def test_a_run_with_a_folder_takes_tensors_of_other_layouts(x, tmp_path):
    class Model(nn.Linear):
        def forward(self, x):
            return super().forward(torch.cat(x.unbind()) if x.is_nested else x)

    each = trainer(Model(6, 3), run_dir=tmp_path)
    assert len(each.fit([(x, rows(8)[1])], num_epochs=1).epoch_loss) == 1


def test_an_epoch_without_any_finite_step_is_an_error():
    data = [(torch.full((8, 6), math.nan), rows(8)[1])] * 3
    with pytest.raises(NonFiniteError, match=r"no step of epoch 1 had finite gradients \(3 skipped\)"):
        trainer(on_nonfinite="skip").fit(data, num_epochs=1)


# Bad input.


def test_an_optimizer_of_another_model_is_refused():
    optimizer = torch.optim.SGD(small_model(seed=1).parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"4 of the optimizer's 4 tensors are not parameters of this model.*01_optim"):
        Trainer(small_model(), optimizer, nn.CrossEntropyLoss())


@pytest.mark.parametrize(
    ("name", "value"), [("lr", math.nan), ("momentum", math.nan), ("momentum", math.inf), ("weight_decay", math.nan)]
)
def test_an_optimizer_with_a_setting_that_is_no_number_is_refused(name, value):
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), **({"lr": 0.1} | {name: value}))
    with pytest.raises(ValueError, match=rf"the optimizer's {name} \(group 0\) must be a finite number.* got {value}"):
        Trainer(model, optimizer, nn.CrossEntropyLoss())


def test_parameters_on_two_devices_are_refused():
    model = small_model()
    model[2].to("meta")
    model[2].weight = nn.Parameter(model[2].weight.to("meta"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"on 2 devices \(cpu, meta\)"):
        Trainer(model, optimizer, nn.CrossEntropyLoss())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"accumulation_steps": 0}, ValueError, r"accumulation_steps must be .* at least 1, got 0"),
        ({"log_every": 0}, ValueError, r"log_every must be .* at least 1, got 0"),
        ({"max_grad_norm": -1.0}, ValueError, r"max_grad_norm must be .* got -1.0"),
        ({"precision": "fp17"}, ValueError, r"unknown precision 'fp17': did you mean 'fp16'"),
        ({"precision": "fp16"}, ValueError, r"'fp16' needs a CUDA device, not 'cpu': use 'bf16' or 'fp32'"),
        ({"on_nonfinite": "skp"}, ValueError, r"unknown on_nonfinite 'skp': did you mean 'skip'"),
        ({"loss_fn": nn.CrossEntropyLoss(reduction="none")}, ValueError, r"reduction='none'.*use 'mean' or 'sum'"),
        ({"loss_fn": "cross entropy"}, TypeError, r"loss_fn must be a function of \(logits, y\), got str"),
        ({"model": nn.ReLU()}, ValueError, r"ReLU has no parameters"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    model = options.pop("model", None)
    if model is not None:
        optimizer = torch.optim.SGD(small_model().parameters(), lr=0.1)
        with pytest.raises(error, match=message):
            Trainer(model, optimizer, nn.CrossEntropyLoss())
        return
    with pytest.raises(error, match=message):
        trainer(**options)


def test_parts_of_the_wrong_kind_are_refused():
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got function"):
        Trainer(lambda x: x, optimizer, nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match=r"optimizer must be an instance of torch.optim.Optimizer, got float"):
        Trainer(model, 0.1, nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match=r"progress must be True, False or a function .* got 'bar'"):
        trainer(progress="bar").fit(batches(), num_epochs=1)


class Empty(list):
    """Says that it has batches and gives none."""

    def __len__(self):
        return 3


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ValueError, r"train is empty, 0 batches"),
        (Empty(), ValueError, r"train yielded no batches in pass 1"),
        ((pair for pair in []), TypeError, r"train must be iterable again and again.* got generator"),
        (TensorDataset(*rows()), TypeError, r"train is a TensorDataset, which yields single samples: wrap it"),
        ([(rows()[0],)], TypeError, r"must yield pairs \(x, y\), got a tuple of length 1"),
        ([(*rows(), rows()[1])], TypeError, r"must yield pairs \(x, y\), got a tuple of length 3"),
        ([{"x": rows()[0], "y": rows()[1]}], TypeError, r"got a dict with the keys 'x', 'y'"),
        ([rows()[0]], TypeError, r"must yield pairs \(x, y\), got a Tensor"),
        ([([1.0], [0])], TypeError, r"must yield tensors \(x, y\).* got \(list, list\)"),
        ([(rows()[0], rows()[1][:-1])], ValueError, r"yields 50 rows of x but 49 of y"),
        ([(rows()[0][0], rows()[1][0])], ValueError, r"yields single samples, x of shape \(6,\)"),
    ],
)
def test_bad_loaders_are_refused(data, error, message):
    with pytest.raises(error, match=message):
        trainer().fit(data, num_epochs=1)


def test_a_loss_of_several_numbers_is_refused():
    with pytest.raises(ValueError, match=r"tensor of shape \(8,\).*use reduction='mean'"):
        trainer(loss_fn=lambda logits, y: nn.functional.cross_entropy(logits, y, reduction="none")).fit(
            batches(), num_epochs=1
        )
    with pytest.raises(TypeError, match=r"loss_fn must return a tensor, got float"):
        trainer(loss_fn=lambda logits, y: 1.0).fit(batches(), num_epochs=1)


def test_validation_data_is_checked_too():
    with pytest.raises(ValueError, match=r"valid is empty, 0 batches"):
        trainer().fit(batches(), [], num_epochs=1)
    with pytest.raises(ValueError, match=r"valid yielded no batches, so there is nothing to evaluate on"):
        trainer().fit(batches(), Empty(), num_epochs=1)
    with pytest.raises(TypeError, match=r"loader is a TensorDataset"):
        trainer().evaluate(TensorDataset(*rows()))


def test_bf16_is_refused_on_a_gpu_that_has_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GTX 1080")
    with pytest.raises(ValueError, match=r"'bf16' is not supported by GTX 1080: use 'fp16'"):
        devices.check_precision("bf16", torch.device("cuda"))
    devices.check_precision("fp16", torch.device("cuda"))


@pytest.mark.parametrize("num_epochs", [0, -1, 1.5])
def test_num_epochs_must_count(num_epochs):
    with pytest.raises(ValueError, match=rf"num_epochs must be .* got {num_epochs}"):
        trainer().fit(batches(), num_epochs=num_epochs)


def test_a_single_row_for_a_batch_norm_is_explained():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"BatchNorm cannot train on a batch of a single row.*drop_last=True"):
        trainer(model).fit(batches(count=17), num_epochs=1)


def test_a_step_without_any_label_that_counts_is_not_finite():
    x, _ = rows(16)
    ignored = torch.full((8,), -100)
    data = list(zip(x.split(8), (ignored, ignored), strict=True))
    with pytest.raises(NonFiniteError, match="loss of step 1 is nan"):
        trainer(accumulation_steps=2).fit(data, num_epochs=1)


def test_a_batch_that_is_skipped_leaves_no_trace_in_the_buffers():
    x, y = rows(24)
    data = list(zip(x.split(8), y.split(8), strict=True))
    without = data[:1] + data[2:]
    data[1] = (torch.full((8, 6), math.nan), data[1][1])

    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))

    mine, hand = model(), model()
    each = trainer(mine, on_nonfinite="skip")
    each.fit(data, num_epochs=1)
    trainer(hand).fit(without, num_epochs=1)
    assert each.skipped_steps == 1
    assert same_weights(mine, hand)


def test_a_run_never_ends_with_weights_that_are_not_finite():
    x, y = rows(8)
    each = trainer(lr=3e38, loss_fn=lambda logits, y: 100 * nn.functional.cross_entropy(logits, y))
    with pytest.raises(NonFiniteError, match=r"the weights are not finite after step 1 at lr 3e\+38"):
        each.fit([(1000 * x, y)], num_epochs=1)


# Found by trying to break the loop.


class StopsIn(Callback):
    """Stops the run when it reaches a point for the first time."""

    def __init__(self, point):
        setattr(self, point, lambda trainer, *_: trainer.stop())


def test_all_batches_are_evaluated_after_a_run_that_was_stopped():
    each = trainer(callbacks=[StopsIn("on_epoch_end")])
    each.fit(batches(), num_epochs=2)
    assert each.evaluate(batches()) == trainer(each.model).evaluate(batches())


def test_a_callback_that_stops_when_it_has_seen_the_figures_of_validation_loses_none():
    each = trainer(callbacks=[StopsIn("on_validation_end")])
    history = each.fit(batches(), batches(), num_epochs=2)
    assert (each.epoch, each.position, each.epoch_trained) == (1, 0, False)
    assert [len(each) for each in (history.epoch_loss, history.valid_loss)] == [1, 1]


def test_a_state_without_the_place_in_the_passes_finds_it_from_the_steps():
    data = list(zip(*(each.split(8) for each in rows(24)), strict=True))
    once, first, second = (trainer() for _ in range(3))
    once.fit(data, num_epochs=2, steps_per_epoch=5)
    first.fit(data, num_epochs=1, steps_per_epoch=5)
    second.load_state_dict(first.state_dict())
    second.fit(data, num_epochs=2, steps_per_epoch=5)
    assert same_weights(once.model, second.model)


def test_the_figures_of_an_epoch_that_ended_after_the_last_checkpoint_are_in_tensorboard_once(tmp_path, monkeypatch):
    monkeypatch.setattr("course_utils.training.tracking.HOLD", 0)

    class Killed(BaseException):
        pass

    def kill(step, num_steps, history):
        if step == 5:
            raise Killed

    data = list(zip(*(each.split(8) for each in rows(24)), strict=True))
    each = trainer(run_dir=tmp_path, log_every=1, checkpoint_every_steps=3, checkpoint_every=9, progress=kill)
    with pytest.raises(Killed):
        each.fit(data, num_epochs=3)
    assert checkpoint.load(tmp_path)["step"] == 3
    trainer(run_dir=tmp_path, log_every=1).fit(data, num_epochs=3, resume=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss/epoch")] == [3, 6, 9]
    assert [event.step for event in events.Scalars("loss/step")] == list(range(1, 10))
