"""The finder: what it suggests, when it refuses to, and that it gives back every bit of what it borrowed."""

import copy
import math
import os
import random
import re
import signal
import threading
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from course_utils.data import Batches, load
from course_utils.lr import find_lr, schedules, sweep_lr
from course_utils.lr.finder import LRFinderResult, rising_rates, suggest
from course_utils.models import CNN, MLP
from course_utils.optimizers import OPTIMIZERS, make_optimizer

loss_fn = nn.CrossEntropyLoss()


class Net(nn.Module):
    """Batch normalization and dropout; a frozen layer in evaluation; a buffer that is replaced and one that is new."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(0.3)
        self.frozen, self.last = nn.BatchNorm1d(32), nn.Linear(32, 10)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("kept", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.seen = self.seen + 1
        self.kept.add_(1)
        if "late" not in self._buffers:
            self.register_buffer("late", torch.ones(1))
        return self.last(self.frozen(self.drop(self.norm(self.first(x.flatten(1)))).relu()))


@pytest.fixture(scope="module")
def digits():
    return load("digits").train.dataset.tensors


def bits(value):
    """A value in a form that compares bit for bit: NaN equals itself, and 0.0 is not -0.0."""
    if isinstance(value, torch.Tensor):
        return (
            str(value.dtype),
            tuple(value.shape),
            value.detach().cpu().contiguous().flatten().view(torch.uint8).tolist(),
        )
    if isinstance(value, dict):
        return {key: bits(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [bits(each) for each in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return repr(value) if isinstance(value, float) else value


def all_of(model, optimizer, loader, scaler=None, scheduler=None):
    """All that the finder may not change, in a form that compares bit for bit."""
    samplers = [loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    return bits(
        {
            "tensors": dict((*model.named_parameters(), *model.named_buffers())),
            "which tensors": [id(each) for each in (*model.parameters(), *model.buffers())],
            "gradients": [(id(p.grad), p.grad) for p in model.parameters()],
            "modes": [module.training for module in model.modules()],
            "optimizer": optimizer.state_dict(),
            "optimizer's own": sorted(vars(optimizer)),
            "which groups": [id(group) for group in optimizer.param_groups],
            "stepped": getattr(optimizer, "_opt_called", None),
            "scaler": scaler and scaler.state_dict(),
            "scheduler": scheduler and {k: v for k, v in scheduler.state_dict().items() if k != "lr_lambdas"},
            "python": random.getstate(),
            "numpy": list(np.random.get_state()),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "generators": [
                each.generator.get_state() for each in samplers if getattr(each, "generator", None) is not None
            ],
            "epochs": [getattr(each, "epoch", None) for each in samplers],
        }
    )


def warm(optimizer="momentum", seed=0):
    """A model that has trained a little: momentum is warm, gradients are left, one layer is in evaluation."""
    torch.manual_seed(seed)
    model = Net()
    optimizer = make_optimizer(optimizer, model.parameters(), 0.05)
    x, y = load("digits").valid.dataset.tensors
    for _ in range(3):
        optimizer.zero_grad()
        loss_fn(model(x[:50]), y[:50]).backward()
        optimizer.step()
    model.frozen.eval()
    return model, optimizer


def loaders(digits):
    x, y = digits
    generator = torch.Generator().manual_seed(5)
    return {
        "Batches": Batches(x, y, seed=3),
        "DataLoader": DataLoader(TensorDataset(x, y), 64, shuffle=True),
        "DataLoader with a generator": DataLoader(TensorDataset(x, y), 64, shuffle=True, generator=generator),
        "DataLoader with workers": DataLoader(
            TensorDataset(x, y), 256, shuffle=True, generator=generator, num_workers=1, persistent_workers=True
        ),
        "list": [(x[i : i + 64], y[i : i + 64]) for i in range(0, 1437, 64)],
    }


# Everything is given back.


LOADERS = ["Batches", "DataLoader", "DataLoader with a generator", "list"]
# Each loader and each optimizer once, and every pair of them as a proof.
PAIRS = [
    pytest.param(optimizer, name, marks=[] if name == LOADERS[index % 4] else pytest.mark.proof)
    for index, optimizer in enumerate(OPTIMIZERS)
    for name in LOADERS
]


@pytest.mark.parametrize(("optimizer", "name"), PAIRS)
def test_everything_is_given_back_bit_for_bit(digits, optimizer, name):
    loader = loaders(digits)[name]
    model, optimizer = warm(optimizer)
    before = all_of(model, optimizer, loader)
    found = find_lr(model, optimizer, loss_fn, loader, num_steps=40)
    assert len(found.losses) > 20
    assert all_of(model, optimizer, loader) == before


@pytest.mark.parametrize("training", [True, False])
def test_each_module_has_its_own_mode_again_and_the_search_trains(digits, training):
    model, optimizer = warm()
    model.train(training)
    modes = []
    model.register_forward_pre_hook(lambda module, _: modes.append((module.training, module.drop.training)))
    find_lr(model, optimizer, loss_fn, Batches(*digits), num_steps=20)
    assert set(modes) == {(True, True)}
    assert {module.training for module in model.modules()} == {training}


def test_a_frozen_layer_stays_in_evaluation(digits):
    model, optimizer = warm()
    running = model.frozen.running_mean.clone()
    seen = []
    model.register_forward_hook(lambda module, *_: seen.append(torch.equal(module.frozen.running_mean, running)))
    find_lr(model, optimizer, loss_fn, Batches(*digits), num_steps=20)
    assert all(seen)


class Fault(Exception):
    pass


@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["model", "loss", "loader", "optimizer", "progress"])
def test_everything_is_given_back_after_an_error_anywhere(digits, where, error):
    calls = []

    def fail_at_the_twelfth(*_):
        calls.append(1)
        if len(calls) == 12:
            raise error("in the middle")

    model, optimizer = warm("adam")
    loader, loss, progress = Batches(*digits, seed=2), loss_fn, False
    if where == "model":
        model.last.register_forward_hook(fail_at_the_twelfth)
    elif where == "loss":
        loss = lambda logits, y: fail_at_the_twelfth() or loss_fn(logits, y)  # noqa: E731
    elif where == "loader":
        loader.transform = lambda x: fail_at_the_twelfth() or x
    elif where == "optimizer":
        optimizer.register_step_post_hook(fail_at_the_twelfth)
    else:
        progress = fail_at_the_twelfth
    before = all_of(model, optimizer, loader)
    if error is KeyboardInterrupt:
        found = find_lr(model, optimizer, loss, loader, progress=progress)
        assert found.interrupted
        assert 0 < len(found.losses) <= 12
    else:
        with pytest.raises(error, match="in the middle"):
            find_lr(model, optimizer, loss, loader, progress=progress)
    assert len(calls) == 12
    assert all_of(model, optimizer, loader) == before


def sends(signum, at_step, steps):
    """A progress function that sends this process a signal."""

    def send(step, num_steps, history):
        steps.append(step)
        if step == at_step:
            os.kill(os.getpid(), signum)

    return send


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_ctrl_c_ends_the_search_after_its_step_and_returns_what_there_is(digits):
    model, optimizer = warm()
    loader, steps = Batches(*digits), []
    before, handler = all_of(model, optimizer, loader), signal.getsignal(signal.SIGINT)
    found = find_lr(model, optimizer, loss_fn, loader, progress=sends(signal.SIGINT, 7, steps))
    assert (found.interrupted, len(found.losses), found.suggestion) == (True, 7, None)
    assert found.reason == "the search was interrupted within its first steps (7 taken): let it run longer"
    assert steps == list(range(1, 8))
    assert all_of(model, optimizer, loader) == before
    assert signal.getsignal(signal.SIGINT) is handler
    assert not find_lr(model, optimizer, loss_fn, loader, num_steps=20).interrupted


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_preemption_ends_the_process_after_everything_is_given_back(digits, name):
    signum = getattr(signal, name)
    model, optimizer = warm()
    loader, steps = Batches(*digits), []
    before, handler = all_of(model, optimizer, loader), signal.getsignal(signum)
    with pytest.raises(SystemExit) as left:
        find_lr(model, optimizer, loss_fn, loader, progress=sends(signum, 7, steps))
    assert left.value.code == 128 + signum
    assert steps == list(range(1, 8))
    assert all_of(model, optimizer, loader) == before
    assert signal.getsignal(signum) is handler


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_ctrl_c_that_ends_the_loaders_processes_is_not_another_error(digits):
    model, optimizer = warm()

    class Dying:
        def __iter__(self):
            yield tuple(each[:64] for each in digits)
            os.kill(os.getpid(), signal.SIGINT)
            raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")

    found = find_lr(model, optimizer, loss_fn, Dying())
    assert (found.interrupted, len(found.losses)) == (True, 1)


def test_a_loader_that_breaks_by_itself_is_told_as_it_is(digits):
    model, optimizer = warm()

    class Dying(list):
        def __iter__(self):
            yield self[0]
            raise RuntimeError("worker exited")

    with pytest.raises(RuntimeError, match="worker exited"):
        find_lr(model, optimizer, loss_fn, Dying([tuple(each[:64] for each in digits)]))


def test_training_goes_on_as_if_nothing_had_been(digits):
    """The same weights to the last bit after twenty more steps, with dropout, momentum and a schedule under way."""

    def train(look_for_a_rate):
        model, optimizer = warm()
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
        loader = DataLoader(TensorDataset(*digits), 64, shuffle=True, generator=torch.Generator().manual_seed(1))
        model.train()
        for part in range(2):
            for _, (x, y) in zip(range(10), loader, strict=False):
                optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                optimizer.step()
                scheduler.step()
            if look_for_a_rate and part == 0:
                before = all_of(model, optimizer, loader, scheduler=scheduler)
                find_lr(model, optimizer, loss_fn, loader, num_steps=30)
                assert all_of(model, optimizer, loader, scheduler=scheduler) == before
        return bits([*model.parameters(), *model.buffers(), optimizer.param_groups[0]["lr"]])

    assert train(True) == train(False)


def test_a_schedulers_warning_about_a_forgotten_step_is_not_silenced(digits):
    model, optimizer = warm()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    vars(optimizer).pop("_opt_called", None)
    find_lr(model, optimizer, loss_fn, Batches(*digits), num_steps=20)
    with pytest.warns(UserWarning, match=r"lr_scheduler\.step\(\)` before `optimizer\.step"):
        scheduler.step()


def test_a_pass_under_way_and_its_worker_processes_are_left_alone(digits):
    def orders(look_for_a_rate):
        loader = loaders(digits)["DataLoader with workers"]
        passing = iter(loader)
        seen = [next(passing)[1].tolist()]
        if look_for_a_rate:
            model, optimizer = warm()
            find_lr(model, optimizer, loss_fn, loader, num_steps=20)
        seen += [y.tolist() for _, y in passing]
        seen += [y.tolist() for _, y in loader]
        return seen

    assert orders(True) == orders(False)


def test_the_first_pass_of_persistent_workers_is_still_the_first(digits):
    def order(look_for_a_rate):
        loader = loaders(digits)["DataLoader with workers"]
        if look_for_a_rate:
            find_lr(*warm(), loss_fn, loader, num_steps=20)
            assert loader._iterator is None
        return [y.tolist() for _, y in loader]

    assert order(True) == order(False)


def test_a_rate_in_a_tensor_stays_that_tensor(digits):
    model, _ = warm()
    lr = torch.tensor(0.05)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    found = find_lr(model, optimizer, loss_fn, Batches(*digits), num_steps=20)
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr == torch.tensor(0.05)
    plain = find_lr(model, torch.optim.Adam(model.parameters(), lr=0.05), loss_fn, Batches(*digits), num_steps=20)
    assert found.losses == pytest.approx(plain.losses, rel=1e-3)


def test_parameters_that_the_optimizer_does_not_hold_keep_their_gradients(digits):
    model, _ = warm()
    optimizer = torch.optim.SGD(model.last.parameters(), lr=0.1)
    before = all_of(model, optimizer, [])
    find_lr(model, optimizer, loss_fn, Batches(*digits), num_steps=20)
    assert all_of(model, optimizer, []) == before


def test_a_buffer_whose_entries_share_memory_is_no_obstacle(digits):
    model, optimizer = warm()
    model.register_buffer("spread", torch.zeros(1).expand(5))
    before = all_of(model, optimizer, [])
    find_lr(model, optimizer, loss_fn, Batches(*digits), num_steps=20)
    assert all_of(model, optimizer, []) == before


def test_a_buffer_that_is_made_during_the_search_goes_again(digits):
    torch.manual_seed(0)
    model = Net()
    find_lr(model, torch.optim.SGD(model.parameters(), lr=0.1), loss_fn, Batches(*digits), num_steps=20)
    assert sorted(name for name, _ in model.named_buffers() if "." not in name) == ["kept", "seen"]


def test_a_loss_with_weights_of_its_own_gets_them_and_its_mode_back(digits):
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("calls", torch.zeros(()))
            self.modes = set()

        def forward(self, logits, y):
            self.calls += 1
            self.modes.add(self.training)
            return loss_fn(self.scale * logits, y)

    model, loss = MLP(), Loss().eval()
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
    found = find_lr(model, optimizer, loss, Batches(*digits), num_steps=20)
    assert len(set(found.losses)) > 10
    assert (loss.calls, loss.scale, loss.scale.grad) == (0, 1, None)
    assert (loss.training, loss.modes) == (False, {True})


class Shuffled(Sampler):
    """Draws the order from a generator that is not PyTorch's."""

    def __init__(self, rows, generator):
        self.rows, self.rng = rows, generator

    def __len__(self):
        return self.rows

    def __iter__(self):
        order = list(range(self.rows))
        self.rng.shuffle(order)
        return iter(order)


@pytest.mark.parametrize("make", [random.Random, np.random.default_rng, np.random.RandomState])
def test_a_samplers_own_generator_is_given_back(digits, make):
    x, y = digits[0][:640], digits[1][:640]

    def order(look_for_a_rate):
        loader = DataLoader(TensorDataset(x, y), 64, sampler=Shuffled(640, make(5)))
        if look_for_a_rate:
            find_lr(*warm(), loss_fn, loader, num_steps=20)
        return [y.tolist() for _, y in loader]

    assert order(True) == order(False)


def test_the_scaler_is_only_lent(digits):
    model, optimizer = warm()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    for fresh in (True, False):
        kept = copy.deepcopy(scaler.state_dict())
        found = find_lr(model, optimizer, loss_fn, Batches(*digits), num_steps=20, scaler=scaler)
        assert scaler.state_dict() == kept
        assert (scaler._scale is None) == fresh
        assert found.losses == pytest.approx(
            find_lr(model, optimizer, loss_fn, Batches(*digits), num_steps=20).losses, rel=1e-3
        )
        scaler.scale(torch.ones(1))  # it makes its own tensors at its first use


def test_what_is_not_a_scaler_is_refused(digits):
    with pytest.raises(TypeError, match=r"scaler must be a torch\.amp\.GradScaler or None, got 1024\.0"):
        find_lr(*warm(), loss_fn, Batches(*digits), scaler=1024.0)


def test_it_works_where_gradients_are_off(digits):
    model, optimizer = warm()
    with torch.no_grad():
        found = find_lr(model, optimizer, loss_fn, Batches(*digits), num_steps=20)
        assert not torch.is_grad_enabled()
    assert len(set(found.losses)) > 10


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_cuda_everything_is_given_back_too(digits, precision):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, _ = warm()
    model.cuda()
    optimizer = make_optimizer("momentum", model.parameters(), 0.05)
    loader = Batches(*digits)
    before = all_of(model, optimizer, loader)
    assert find_lr(model, optimizer, loss_fn, loader, precision=precision).suggestion is not None
    assert all_of(model, optimizer, loader) == before


# What it does, step by step.


def by_hand(model, optimizer, loader, lrs):
    """The finder of lesson 03, without the stop."""
    losses = []
    batches = (batch for _ in range(100) for batch in loader)
    for lr, (x, y) in zip(lrs, batches, strict=False):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_the_losses_are_those_of_a_loop_written_by_hand(digits, optimizer):
    def make():
        torch.manual_seed(0)
        model = MLP()
        return model, make_optimizer(optimizer, model.parameters(), 0.1), Batches(*digits, seed=1)

    model, own, loader = make()
    found = find_lr(model, own, loss_fn, loader, num_steps=60)
    expected = by_hand(*make(), found.lrs)
    assert len(found.losses) > 40
    assert found.losses == expected[: len(found.losses)]
    factors = [b / a for a, b in zip(found.lrs, found.lrs[1:], strict=False)]
    assert factors == pytest.approx([1e7 ** (1 / 59)] * len(factors))


def test_short_data_are_passed_over_again_in_another_order(digits):
    x, y = digits
    orders = []
    loader = Batches(x[:128], y[:128], transform=lambda batch: orders.append(batch) or batch)
    found = find_lr(*warm(), loss_fn, loader, num_steps=20)
    assert len(found.losses) == len(orders) >= 18
    assert not torch.equal(orders[0], orders[2])


def test_accumulation_is_one_large_batch(digits):
    x, y = digits[0][:1430], digits[1][:1430]

    def search(batch_size, accumulation_steps, reduction):
        torch.manual_seed(0)
        model = MLP().double()
        loader = Batches(x.double(), y, batch_size=batch_size, shuffle=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = nn.CrossEntropyLoss(reduction=reduction)
        options = {"accumulation_steps": accumulation_steps, "num_steps": 30}
        end = 10.0 if reduction == "mean" else 0.1
        return find_lr(model, optimizer, loss, loader, start=end / 1e7, end=end, **options)

    for reduction in ("mean", "sum"):
        large, small = search(143, 1, reduction), search(13, 11, reduction)
        assert small.losses == pytest.approx(large.losses, rel=1e-6)
        assert small.suggestion == large.suggestion
        assert large.losses[0] == pytest.approx(math.log(10), abs=0.1), "losses are per sample with a sum too"


def test_unequal_micro_batches_count_by_their_rows(digits):
    x, y = digits[0][:40].double(), digits[1][:40]

    def search(loader, accumulation_steps):
        torch.manual_seed(0)
        model = MLP().double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return find_lr(model, optimizer, loss_fn, loader, num_steps=20, accumulation_steps=accumulation_steps)

    parts = [(x[:33], y[:33]), (x[33:], y[33:])]
    assert search(parts, 2).losses == pytest.approx(search([(x, y)], 1).losses, rel=1e-9)


def test_micro_batches_count_by_what_the_mean_of_the_loss_divides_by(digits):
    x, y = digits[0][:40].double(), digits[1][:40].clone()
    y[:20:2] = -1
    loss = nn.CrossEntropyLoss(torch.arange(1.0, 11.0).double(), ignore_index=-1)

    def search(loader, accumulation_steps, loss_fn=loss, **options):
        torch.manual_seed(0)
        model = MLP().double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options |= {"num_steps": 20, "accumulation_steps": accumulation_steps}
        return find_lr(model, optimizer, loss_fn, loader, **options).losses

    parts, whole = [(x[:20], y[:20]), (x[20:], y[20:])], search([(x, y)], 1)
    assert search(parts, 2) == pytest.approx(whole, rel=1e-9)
    weights = torch.arange(11.0).double().roll(-1)  # that of -1, the ignored class, is the last: 0
    by_user = search(parts, 2, lambda logits, y: loss(logits, y), loss_count=lambda y: weights[y].sum())
    assert by_user == pytest.approx(whole, rel=1e-9)


def test_other_batches_can_be_prepared(digits):
    class Named(MLP):
        def forward(self, pixels, brighter):
            return super().forward(pixels + brighter)

    def search(kind, loader, **options):
        torch.manual_seed(0)
        model = kind()
        return find_lr(model, torch.optim.SGD(model.parameters(), lr=0.1), loss_fn, loader, **options).losses

    x, y = digits[0][:640].split(64), digits[1][:640].split(64)
    dicts = [{"image": each, "label": label} for each, label in zip(x, y, strict=True)]
    pairs = search(MLP, [*zip(x, y, strict=True)])
    by_position = search(
        Named, dicts, prepare_batch=lambda batch: ((batch["image"], 0.0 * batch["image"]), batch["label"])
    )
    by_name = search(
        Named,
        dicts,
        prepare_batch=lambda batch: ({"brighter": 0.0 * batch["image"], "pixels": batch["image"]}, batch["label"]),
    )
    assert by_position == by_name == pairs


def test_groups_keep_their_ratio(digits):
    model, _ = warm()
    groups = [{"params": model.first.parameters(), "lr": 1e-4}, {"params": model.last.parameters(), "lr": 1e-2}]
    optimizer = torch.optim.SGD(groups)
    used = []
    optimizer.register_step_pre_hook(lambda own, *_: used.append([group["lr"] for group in own.param_groups]))
    found = find_lr(model, optimizer, loss_fn, Batches(*digits), num_steps=20)
    assert [head for _, head in used] == found.lrs[: len(used)]
    assert [body / head for body, head in used] == pytest.approx([0.01] * len(used))
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 1e-2]


@pytest.mark.parametrize(
    ("rates", "scheduled", "shares"),
    [([0.0], False, [1.0]), ([0.0, 0.1], False, [0.0, 1.0]), ([0.01, 0.1], True, [0.1, 1.0])],
)
def test_a_rate_of_zero_is_frozen_or_just_the_start_of_a_warmup(digits, rates, scheduled, shares):
    model, _ = warm()
    layers = [model.first, model.last][: len(rates)]
    optimizer = torch.optim.SGD([{"params": e.parameters(), "lr": lr} for e, lr in zip(layers, rates, strict=True)])
    if scheduled:
        shape = partial(schedules.linear, num_steps=5, start=0.0, final=1.0)
        torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
        assert {group["lr"] for group in optimizer.param_groups} == {0.0}
    used = []
    optimizer.register_step_pre_hook(lambda own, *_: used.append([group["lr"] for group in own.param_groups]))
    found = find_lr(model, optimizer, loss_fn, Batches(*digits), num_steps=20)
    assert used[0] == pytest.approx([found.lrs[0] * share for share in shares])


def test_gradients_are_clipped_where_the_training_will_clip_them(digits):
    model, optimizer = warm("sgd")
    norms = []
    hook = lambda own, *_: norms.append(  # noqa: E731
        torch.stack([p.grad.norm() for p in own.param_groups[0]["params"] if p.grad is not None]).norm().item()
    )
    optimizer.register_step_pre_hook(hook)
    find_lr(model, optimizer, loss_fn, Batches(*digits), max_grad_norm=0.01)
    assert max(norms) < 0.0101


def test_bf16_is_as_near_as_bf16_is(digits):
    torch.manual_seed(0)
    model = MLP()
    optimizer = make_optimizer("adam", model.parameters(), 0.1)
    exact = find_lr(model, optimizer, loss_fn, Batches(*digits))
    rough = find_lr(model, optimizer, loss_fn, Batches(*digits), precision="bf16")
    assert rough.losses != exact.losses
    assert rough.losses[:50] == pytest.approx(exact.losses[:50], rel=0.02)


def test_progress_is_told_step_by_step(digits):
    told = []
    found = find_lr(
        *warm(), loss_fn, Batches(*digits), num_steps=20, progress=lambda *each: told.append((each[0], each[1]))
    )
    assert told[:3] == [(1, 20), (2, 20), (3, 20)]
    assert len(told) >= len(found.losses) - 1


def test_progress_can_be_a_bar(digits, capsys):
    find_lr(*warm(), loss_fn, Batches(*digits), num_steps=20, progress=True)
    assert "step_loss" in capsys.readouterr().err


def test_it_works_on_a_thread(digits):
    found = []
    thread = threading.Thread(target=lambda: found.append(find_lr(*warm(), loss_fn, Batches(*digits), num_steps=20)))
    thread.start()
    thread.join()
    assert len(found[0].losses) > 10


# What it suggests.


@pytest.fixture(scope="module")
def landscapes(digits):
    """For each optimizer the final loss at rates in a row: ten epochs of the MLP."""
    rates = [10 ** (-4 + power / 2) for power in range(11)]
    return {name: sweep_lr(MLP, *digits, rates, optimizer=name, num_epochs=10) for name in OPTIMIZERS}


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.proof), pytest.param(2, marks=pytest.mark.proof)]
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_point_trains_well(digits, landscapes, optimizer, seed):
    torch.manual_seed(seed)
    model = MLP()
    found = find_lr(model, make_optimizer(optimizer, model.parameters(), 0.1), loss_fn, Batches(*digits, seed=seed))
    low, point, high = found.suggestion.low, found.suggestion.point, found.suggestion.high
    assert low < point < high
    assert low == pytest.approx(point * 3 / 10)
    assert high == pytest.approx(point * 3 / 2)
    sweep = landscapes[optimizer]
    index = sweep.nearest(point)
    assert sweep.zones[index] == "works"
    assert sweep.final_losses[index] < 0.65 < sweep.losses[:, 0].mean()


def test_a_convolutional_network_gets_a_rate_that_trains(digits):
    torch.manual_seed(0)
    model = CNN()
    optimizer = make_optimizer("momentum", model.parameters(), 0.1)
    loader = Batches(*digits)
    point = find_lr(model, optimizer, loss_fn, loader).suggestion.point
    optimizer.param_groups[0]["lr"] = point
    losses = by_hand(model, optimizer, loader, [point] * 69)
    assert sum(losses[-23:]) / 23 < 1.0


RATES = rising_rates(1e-6, 10.0, 100)


def curve(fall_at=1e-2, wall_at=1.0, noise=0.0, seed=0):
    """A loss that falls from 2.3 around one rate and runs away at another, with the noise of batches."""
    generator = torch.Generator().manual_seed(seed)
    chance = (noise * torch.randn(len(RATES), generator=generator)).tolist()
    return [
        2.3 - 1.8 / (1 + (fall_at / lr) ** 2) + 40 * max(0.0, math.log10(lr / wall_at)) + each
        for lr, each in zip(RATES, chance, strict=True)
    ]


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_the_point_lies_between_the_fall_and_the_wall(noise):
    found = suggest(RATES, curve(noise=noise))
    assert 0.01 < found.suggestion.point < 0.5
    assert found.suggestion.high < 1.0
    assert found.lrs[-1] < 10
    assert re.search(r"the loss fell from 2\.\d+ to 0\.\d+, where the rate was .*, and ran away at", found.reason)


def test_the_mean_does_not_lag():
    """An exponential mean of the same curve has its lowest point far to the right of the true one."""
    losses = [(math.log10(lr) + 2) ** 2 + 1 for lr in RATES]
    found = suggest(RATES, losses)
    lowest = found.lrs[found.smoothed.index(min(found.smoothed))]
    assert lowest == pytest.approx(0.01, rel=0.2)


def test_units_of_the_loss_do_not_matter():
    plain, scaled = suggest(RATES, curve(noise=0.05)), suggest(RATES, [1000 * loss for loss in curve(noise=0.05)])
    assert scaled.suggestion == plain.suggestion


def test_a_loss_below_zero_is_a_loss_too():
    found = suggest(RATES, [loss - 5 for loss in curve()])
    assert found.suggestion.point == pytest.approx(suggest(RATES, curve()).suggestion.point, rel=0.3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 30, 60, 85])
def test_what_is_no_number_never_enters(bad, at):
    losses = curve()
    losses[at] = bad
    found = suggest(RATES, losses)
    assert all(map(math.isfinite, found.losses + found.smoothed))
    assert len(found.losses) == len(found.smoothed) == len(found.lrs) <= at
    if found.suggestion is not None:
        assert found.suggestion.high < RATES[at]
    assert (found.suggestion is None) == (at < 60)


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ([math.nan] * 100, r"stopped being a number within the first steps \(0 taken\): look for NaN in the data"),
        ([2.3] * 41 + [math.nan] * 59, r"stopped being a number at 0\.000\d+ without falling clearly"),
        ([2.3, 2.3, 900.0] + [2.3] * 97, r"ran away within the first steps \(3 taken\)"),
        ([2.3] * 100, r"stayed near 2\.3 up to the largest rate, 10: give a larger end"),
        (curve(fall_at=10.0, wall_at=100.0), r"still falling at the largest rate, 10: give a larger end"),
        (
            [2.3 + 0.03 * i**2 for i in range(100)],
            r"ran away at .* without falling .*: give more steps or a smaller start",
        ),
        ([2.3, 1.0, 1.5, *[2.2] * 97], r"the loss was lowest at .*, too near to the start|stayed near"),
        (curve(fall_at=1e-9, wall_at=2e-6), r"give a smaller start"),
    ],
)
def test_where_there_is_nothing_to_suggest_it_says_why(losses, reason):
    found = suggest(RATES, losses)
    assert found.suggestion is None
    assert re.search(reason, found.reason)
    assert repr(found) == f"LRFinderResult(no suggestion: {found.reason})"


@pytest.mark.parametrize("num_steps", [20, 50, 100, 300])
def test_noise_alone_suggests_nothing(num_steps):
    rates = rising_rates(1e-6, 10.0, num_steps)
    suggested = 0
    for seed in range(50):
        noise = torch.randn(num_steps, generator=torch.Generator().manual_seed(seed))
        suggested += suggest(rates, (2.3 + 0.1 * noise).tolist()).suggestion is not None
    assert suggested <= 2  # of 50


def test_a_rate_far_too_large_from_the_start_on_is_told(digits):
    torch.manual_seed(0)
    model = MLP()
    found = find_lr(model, make_optimizer("sgd", model.parameters(), 1.0), loss_fn, Batches(*digits), start=20, end=90)
    assert found.suggestion is None
    assert "smaller start" in found.reason


def test_data_with_nan_are_told(digits):
    x, y = digits[0][:640].clone(), digits[1][:640]
    x[100] = math.nan
    found = find_lr(*warm(), loss_fn, [(x[i : i + 64], y[i : i + 64]) for i in range(0, 640, 64)])
    assert len(found.losses) == 1
    assert found.suggestion is None
    assert "look for NaN in the data" in found.reason


def test_an_interrupted_search_suggests_only_what_it_has_seen():
    """A suggestion needs a loss that fell and rose again; then it is that of the whole search."""
    losses = curve(noise=0.05)
    whole = suggest(RATES, losses)
    for count in range(10, len(whole.losses)):
        cut = suggest(RATES, losses[:count], interrupted=True)
        assert cut.interrupted
        assert cut.suggestion is None or cut.suggestion == whole.suggestion
        if count <= 70:  # the first quarter of the fall's far side
            assert cut.suggestion is None
    assert cut.suggestion == whole.suggestion
    assert "had risen again when the search was interrupted at" in cut.reason


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        (0, r"interrupted within its first steps \(0 taken\): let it run longer"),
        (30, r"interrupted at 0\.000\d+, while the loss was still near 2\.3: let it run longer"),
        (60, r"interrupted at 0\.01\d+, before the loss rose again: let it run longer"),
    ],
)
def test_an_interrupted_search_says_what_is_missing(count, reason):
    found = suggest(RATES, curve()[:count], interrupted=True)
    assert found.suggestion is None
    assert re.search(reason, found.reason)


def test_a_loss_that_ran_away_is_the_reason_even_if_a_signal_came_too():
    found = suggest(RATES, curve(), interrupted=True)
    assert found.interrupted
    assert "ran away" in found.reason


def test_a_readable_answer():
    found = suggest(RATES, curve())
    assert re.fullmatch(r"LRFinderResult\(lr 0\.\d+, or from 0\.\d+ to 0\.\d+: the loss fell from .*\)", repr(found))
    assert isinstance(found, LRFinderResult)


# What it refuses.


class Rows(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.zeros(64), 0


REFUSED = {
    "start of zero": ({"start": 0}, ValueError, r"start must be a finite number above 0, got 0"),
    "start below zero": ({"start": -1e-3}, ValueError, r"start must be a finite number above 0, got -0\.001"),
    "start that is no number": ({"start": "small"}, ValueError, r"start must be .* got 'small'"),
    "end that is NaN": ({"end": math.nan}, ValueError, r"end must be a finite number above 0, got nan"),
    "end that is infinite": ({"end": math.inf}, ValueError, r"end must be a finite number above 0, got inf"),
    "end at the start": ({"start": 0.1, "end": 0.1}, ValueError, r"above start, got start=0\.1 and end=0\.1"),
    "end below the start": ({"start": 1, "end": 0.1}, ValueError, r"above start, got start=1\.0 and end=0\.1"),
    "too few steps": ({"num_steps": 19}, ValueError, r"num_steps must be at least 20, got 19"),
    "too many steps": ({"num_steps": 10**6}, ValueError, r"num_steps must be at most 100,000, got 1000000"),
    "rates too far apart": ({"start": 1e-300, "end": 1e300}, ValueError, r"end / start must be a finite number, got"),
    "steps that are no count": ({"num_steps": 1e2}, ValueError, r"num_steps must be a whole number .* got 100\.0"),
    "no accumulation": ({"accumulation_steps": 0}, ValueError, r"accumulation_steps must be a whole number .* got 0"),
    "norm of zero": ({"max_grad_norm": 0}, ValueError, r"max_grad_norm must be a finite number above 0, got 0"),
    "unknown precision": ({"precision": "fp8"}, ValueError, r"unknown precision 'fp8'"),
    "progress that is no function": ({"progress": "bar"}, TypeError, r"progress must be True, False or a function"),
    "empty list": ({"loader": []}, ValueError, r"loader yielded no batches in pass 1.* An empty data set"),
    "data set": ({"loader": Rows()}, TypeError, r"loader is a Rows, which yields single samples: wrap it"),
    "iterator": ({"loader": iter([])}, TypeError, r"must be iterable again and again.* got list_iterator"),
    "no loader": ({"loader": 3}, TypeError, r"must be iterable again and again.* got int"),
    "no pairs": ({"loader": [torch.zeros(2, 64)]}, TypeError, r"loader must yield pairs \(x, y\), got a Tensor"),
    "no model": ({"model": len}, TypeError, r"model must be a torch\.nn\.Module, got builtin_function_or_method"),
    "no loss": ({"loss_fn": 0.3}, TypeError, r"loss_fn must be a function of \(logits, y\), got float"),
    "a loss for each sample": (
        {"loss_fn": nn.CrossEntropyLoss(reduction="none")},
        ValueError,
        r"has reduction='none', but backward",
    ),
    "a function with a loss for each sample": (
        {"loss_fn": lambda logits, y: nn.functional.cross_entropy(logits, y, reduction="none")},
        ValueError,
        r"loss_fn returned a tensor of shape \(64,\), but backward\(\) needs one number",
    ),
    "another model's optimizer": (
        {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters())},
        ValueError,
        r"are not parameters of this model",
    ),
    "an optimizer that calls the loss itself": (
        {"model": (linear := nn.Linear(64, 10)), "optimizer": torch.optim.LBFGS(linear.parameters())},
        TypeError,
        r"LBFGS\.step\(\) needs a closure",
    ),
    "three parts without prepare_batch": (
        {"loader": [(torch.zeros(2, 64), torch.zeros(2).long(), 1)]},
        TypeError,
        r"loader must yield pairs \(x, y\)",
    ),
    "lazy layers": (
        {"model": (lazy := nn.LazyLinear(10)), "optimizer": torch.optim.SGD(lazy.parameters())},
        ValueError,
        r"LazyLinear has layers that take their size from the first batch",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_told_and_everything_stays(digits, what):
    changed, error, message = REFUSED[what]
    model, optimizer = warm()
    loader = Batches(*digits)
    before = all_of(model, optimizer, loader)
    parts = {"model": model, "optimizer": optimizer, "loss_fn": loss_fn, "loader": loader, **changed}
    with pytest.raises(error, match=message):
        find_lr(**parts)
    assert all_of(model, optimizer, loader) == before


def test_a_loader_that_gives_its_batches_once_is_told(digits):
    class Once:
        def __init__(self, batches):
            self.batches = iter(batches)

        def __iter__(self):
            return self.batches

    with pytest.raises(
        ValueError, match="loader yielded no batches in pass 2: a loader must yield its batches in every pass"
    ):
        find_lr(*warm(), loss_fn, Once([tuple(each[:64] for each in digits)] * 5))


def test_rates_end_where_they_should():
    rates = rising_rates(1e-6, 10.0, 100)
    assert (len(rates), rates[0], rates[-1]) == (100, 1e-6, 10.0)
