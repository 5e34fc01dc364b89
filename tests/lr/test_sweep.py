"""Sweeps against training one by one with PyTorch's own optimizers, and what a sweep says of its rates."""

import json
import math
import os
import re

import numpy as np
import pytest
import torch
from record_sweep import CONFIGS
from torch import nn
from torch.nn import functional as F

from course_utils.data import Batches, load
from course_utils.experiments.recorded_sweeps import RATES, RECORDED
from course_utils.lr import Sweep, descend, iter_sweep_lr, sweep_lr
from course_utils.lr.stack import Stack
from course_utils.models import CNN, MLP
from course_utils.optimizers import OPTIMIZERS, make_optimizer

CLASSES = {
    "sgd": torch.optim.SGD,
    "momentum": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits():
    return load("digits").train.dataset.tensors


def few(count=75, dtype=torch.float64):
    """A few digits: with batches of 20 the last one is short."""
    x, y = load("digits").train.dataset.tensors
    return x[:count].to(dtype), y[:count]


def one_by_one(make_model, x, y, rates, *, optimizer, num_epochs, batch_size=20, seed=0, **options):
    """The loop that the sweep promises to equal, with PyTorch's own optimizer."""
    options = {"momentum": 0.9, **options} if optimizer == "momentum" else options
    curves = []
    for rate in rates:
        torch.manual_seed(seed)
        model = make_model()
        real = CLASSES[optimizer](model.parameters(), lr=rate, **options)
        batches = Batches(x, y, batch_size=batch_size, seed=seed)
        curves.append([])
        for _ in range(num_epochs):
            for xb, yb in batches:
                real.zero_grad()
                loss = F.cross_entropy(model(xb), yb)
                loss.backward()
                real.step()
                curves[-1].append(loss.item())
    return torch.tensor(curves, dtype=x.dtype)


def double(make_model):
    return lambda: make_model().double()


# The same curves as one by one. In float64 rounding cannot hide a wrong rule, not even at a rate far too large.


@pytest.mark.parametrize("make_model", [MLP, CNN])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_curves_equal_those_of_torch_optim(optimizer, make_model):
    x, y = few()
    rates = [1e-4, 1e-2, 0.1, 1.0]
    setting = {"optimizer": optimizer, "num_epochs": 2, "batch_size": 20, "seed": 3}
    sweep = sweep_lr(double(make_model), x, y, rates, **setting)
    expected = one_by_one(double(make_model), x, y, rates, **setting)
    assert sweep.method == "layers"
    assert sweep.losses.shape == (4, 8)
    torch.testing.assert_close(sweep.losses, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("sgd", {"weight_decay": 0.1}),
        ("sgd", {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1}),
        ("momentum", {"momentum": 0.99}),
        ("momentum", {"momentum": 0}),
        ("momentum", {"nesterov": True}),
        ("rmsprop", {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
        ("rmsprop", {"momentum": 0.9}),
        ("adam", {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
        ("adamw", {"weight_decay": 0.5}),
        ("adamw", {"weight_decay": 0}),
    ],
)
def test_every_option_means_what_it_means_in_torch_optim(optimizer, options):
    x, y = few()
    setting = {"optimizer": optimizer, "num_epochs": 2, "batch_size": 20, **options}
    sweep = sweep_lr(double(MLP), x, y, [1e-3, 1e-2, 0.1], **setting)
    assert sweep.options == options
    torch.testing.assert_close(
        sweep.losses, one_by_one(double(MLP), x, y, [1e-3, 1e-2, 0.1], **setting), rtol=1e-8, atol=1e-10
    )
    plain = sweep_lr(double(MLP), x, y, [1e-3, 1e-2, 0.1], optimizer=optimizer, num_epochs=2, batch_size=20)
    assert not torch.allclose(plain.losses, sweep.losses, rtol=1e-6), "the option changed nothing"


class OneBlock(nn.Module):
    """Batch normalization, dropout, GELU and a residual: nothing of it is known to a stack by its layers."""

    def __init__(self):
        super().__init__()
        self.flatten, self.first, self.norm = nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(64, 10)

    def forward(self, x):
        h = self.flatten(x)
        return self.last(h + self.drop(F.gelu(self.norm(self.first(h)))))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_any_other_model_has_the_same_curves_through_vmap(optimizer):
    x, y = few()
    setting = {"optimizer": optimizer, "num_epochs": 2, "batch_size": 20, "seed": 5}
    sweep = sweep_lr(double(OneBlock), x, y, [1e-3, 1e-2, 0.1], **setting)
    assert sweep.method == "vmap"
    torch.testing.assert_close(
        sweep.losses, one_by_one(double(OneBlock), x, y, [1e-3, 1e-2, 0.1], **setting), rtol=1e-8, atol=1e-10
    )


def test_frozen_weights_stay_and_unused_ones_do_no_harm():
    class PartlyFrozen(MLP):
        def __init__(self):
            super().__init__()
            self.base[1].weight.requires_grad_(False)
            self.unused = nn.Linear(3, 3)

    x, y = few()
    setting = {"optimizer": "adamw", "num_epochs": 2, "batch_size": 20}
    sweep = sweep_lr(double(PartlyFrozen), x, y, [1e-3, 0.1], **setting)
    expected = one_by_one(double(PartlyFrozen), x, y, [1e-3, 0.1], **setting)
    torch.testing.assert_close(sweep.losses, expected, rtol=1e-8, atol=1e-10)


def test_the_checks_before_the_first_step_do_not_count_as_steps():
    class Cooling(MLP):
        """Its logits shrink with every call, by a number that it keeps itself."""

        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x) / self.calls

    x, y = few()
    setting = {"optimizer": "sgd", "num_epochs": 2, "batch_size": 20}
    sweep = sweep_lr(double(Cooling), x, y, [1e-3, 0.1], **setting)
    expected = one_by_one(double(Cooling), x, y, [1e-3, 0.1], **setting)
    torch.testing.assert_close(sweep.losses, expected, rtol=1e-8, atol=1e-10)


def test_in_float32_the_digits_give_the_same_curves(digits):
    rates = [1e-4, 1e-2, 0.1, 0.3]
    setting = {"optimizer": "sgd", "num_epochs": 2, "batch_size": 64}
    sweep = sweep_lr(MLP, *digits, rates, **setting)
    torch.testing.assert_close(sweep.losses, one_by_one(MLP, *digits, rates, **setting), rtol=1e-4, atol=1e-5)


def test_a_sweep_repeats_itself_bit_for_bit(digits):
    first, second = (sweep_lr(MLP, *digits, [0.01, 0.1, 10.0], optimizer="adam", num_epochs=1) for _ in range(2))
    assert torch.equal(first.losses, second.losses)


def test_another_seed_gives_other_weights_and_another_order():
    x, y = few()
    first, other = (sweep_lr(double(MLP), x, y, [0.1], num_epochs=1, batch_size=20, seed=seed) for seed in (0, 1))
    assert not torch.allclose(first.losses, other.losses)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make_model", [MLP, CNN, OneBlock])
def test_on_cuda_the_curves_are_those_of_the_cpu(make_model):
    class NoDropout(OneBlock):  # the two devices draw different masks
        def __init__(self):
            super().__init__()
            self.drop = nn.Identity()

    make_model = NoDropout if make_model is OneBlock else make_model
    x, y = few()
    setting = {"optimizer": "adam", "num_epochs": 2, "batch_size": 20}
    before = torch.cuda.get_rng_state()
    sweep = sweep_lr(double(make_model), x.cuda(), y.cuda(), [1e-3, 0.1], **setting)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert sweep.losses.device.type == "cpu"
    torch.testing.assert_close(sweep.losses, sweep_lr(double(make_model), x, y, [1e-3, 0.1], **setting).losses)


# Runs that blow up


def deep():
    """Linear layers without ReLU: at a large rate its loss grows without limit."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)).double()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_run_that_blows_up_leaves_and_the_others_go_on(optimizer):
    x, y = few()
    rates = [1e-3, 1e-2, 1e150, 1e200]
    setting = {"optimizer": optimizer, "num_epochs": 3, "batch_size": 20}
    sweep = sweep_lr(deep, x, y, rates, **setting)
    expected = one_by_one(deep, x, y, rates, **setting)
    assert not expected[2:].isfinite().all(dim=1).any()
    for run in range(4):
        bad = ~expected[run].isfinite()
        end = int(bad.int().argmax()) if bad.any() else len(bad)
        torch.testing.assert_close(sweep.losses[run, :end], expected[run, :end], rtol=1e-8, atol=1e-10)
        assert sweep.losses[run, end:].isnan().all()
    assert sweep.diverged.tolist() == [False, False, True, True]
    assert sweep.final_losses.isnan().tolist() == [False, False, True, True]
    assert sweep.zones[2:] == ["diverges", "diverges"]


def test_a_run_that_blew_up_is_not_computed_any_more(monkeypatch):
    sizes = []
    step = Stack.step

    def counted(stack, x, y):
        sizes.append(len(stack.rows))
        return step(stack, x, y)

    monkeypatch.setattr(Stack, "step", counted)
    sweep_lr(deep, *few(), [1e-3, 1e200], num_epochs=2, batch_size=20)
    assert sizes[0] == 2
    assert sizes[-1] == 1
    assert len(sizes) == 8


def test_where_every_run_blows_up_the_sweep_ends_early_and_is_complete():
    seen = [sweep.steps_done for sweep in iter_sweep_lr(deep, *few(), [1e200, 1e201], num_epochs=5, batch_size=20)]
    assert len(seen) < 20
    assert seen[:-1] == list(range(1, len(seen)))
    assert seen[-1] == 20


@pytest.mark.parametrize(
    "beyond",
    [
        lambda logits: logits / 0,
        lambda logits: logits * 0 + torch.tensor([1.5e308] + [-1.5e308] * 9, dtype=torch.float64),
    ],
    ids=["NaN", "infinity"],
)
def test_a_loss_that_is_never_finite_counts_as_blown_up(beyond):
    class Infinite(MLP):
        def forward(self, x):
            return beyond(super().forward(x))

    sweep = sweep_lr(double(Infinite), *few(), [0.1, 0.2], num_epochs=1, batch_size=20)
    assert sweep.losses.isnan().all()
    assert sweep.diverged.all()
    assert sweep.zones == ["diverges", "diverges"]


# Step by step, and nothing left behind


def test_the_same_sweep_fills_in_step_by_step():
    steps = iter_sweep_lr(double(MLP), *few(), [0.01, 0.1], num_epochs=2, batch_size=20)
    first = None
    for count, sweep in enumerate(steps, start=1):
        first = first or sweep
        assert sweep is first
        assert sweep.steps_done == count
        assert sweep.losses[:, :count].isfinite().all()
        assert sweep.losses[:, count:].isnan().all()
        torch.testing.assert_close(sweep.final_losses, sweep.losses[:, max(0, count - 4) : count].mean(1))
        assert len(sweep.zones) == 2
        assert not sweep.diverged.any()
    assert count == 8


@pytest.mark.parametrize("make_model", [MLP, OneBlock])
def test_the_random_numbers_of_others_go_on_as_if_nothing_had_been(make_model):
    torch.manual_seed(8)
    expected = torch.rand(4)
    torch.manual_seed(8)
    found = []
    steps = iter_sweep_lr(double(make_model), *few(), [0.01, 0.1], num_epochs=1, batch_size=20)
    for _ in steps:
        found.append(torch.rand(1))
    assert torch.equal(torch.cat(found), expected)
    quiet = sweep_lr(double(make_model), *few(), [0.01, 0.1], num_epochs=1, batch_size=20)
    torch.manual_seed(9)
    noisy = iter_sweep_lr(double(make_model), *few(), [0.01, 0.1], num_epochs=1, batch_size=20)
    for sweep in noisy:
        torch.rand(sweep.steps_done)
    assert torch.equal(sweep.losses, quiet.losses)


@pytest.mark.parametrize("make_model", [MLP, OneBlock])
def test_closing_leaves_nothing_behind(make_model):
    kept = make_model().double()
    weights = {name: tensor.clone() for name, tensor in kept.state_dict().items()}
    before = torch.get_rng_state()
    steps = iter_sweep_lr(lambda: kept, *few(), [0.01, 0.1], batch_size=20)
    sweep = next(steps)
    steps.close()
    assert sweep.steps_done == 1
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in kept.state_dict().items())
    assert all(weight.grad is None for weight in kept.parameters())


@pytest.mark.parametrize("make_model", [MLP, OneBlock])
def test_an_interrupt_inside_a_step_leaves_nothing_behind(make_model, monkeypatch):
    def interrupted(stack, x, y):
        if make_model is OneBlock:  # no other kind of step draws random numbers
            torch.rand(3)
        raise KeyboardInterrupt

    before = torch.get_rng_state()
    steps = iter_sweep_lr(double(make_model), *few(), [0.01, 0.1], batch_size=20)
    next(steps)
    monkeypatch.setattr(Stack, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()
    assert list(steps) == []


def test_an_error_in_make_model_gives_the_random_numbers_back():
    def broken():
        torch.rand(2)
        raise RuntimeError("no model today")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no model today"):
        iter_sweep_lr(broken, *few(), [0.1])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_sweep_trains_also_where_gradients_are_off():
    expected = sweep_lr(double(MLP), *few(), [0.1], num_epochs=1, batch_size=20)
    with torch.no_grad():
        sweep = sweep_lr(double(MLP), *few(), [0.1], num_epochs=1, batch_size=20)
        assert not torch.is_grad_enabled()
    assert torch.equal(sweep.losses, expected.losses)


# What a sweep says of its rates


def hand_made(curves, *, num_epochs=2, batch_size=64, lrs=None):
    losses = torch.tensor(curves)
    lrs = lrs or [10.0 ** (index - len(curves)) for index in range(len(curves))]
    return Sweep(lrs, losses, "sgd", num_epochs, batch_size, steps_done=losses.shape[1])


NAN = math.nan


def test_final_loss_is_the_mean_of_the_last_epoch():
    sweep = hand_made([[2.0, 1.0, 0.5, 0.3], [2.0, 9.0, NAN, NAN]])
    assert sweep.final_losses[0] == pytest.approx(0.4)
    assert sweep.final_losses[1].isnan()


@pytest.mark.parametrize(
    ("curve", "diverged"),
    [
        ([2.3, 2.0, 1.0, 0.5], False),
        ([2.3, 2.31, 2.29, 2.3], False),  # far too small: flat at ln(10), never above it
        ([2.3, 2.45, 2.3, 2.2], False),  # as far as chance goes for batches of 64
        ([2.3, 3.1, 2.31, 2.3], True),  # the dead ReLU network: flat at ln(10), but it had risen
        ([2.3, 3.1, 2.2, 2.15], True),
        ([2.3, 50.0, 1.0, 0.5], False),  # came back
        ([2.3, 4.0, 8.0, 16.0], True),
        ([2.3, 4.0, 8.0, NAN], True),
        ([2.3, 2.0, NAN, NAN], True),
        ([NAN, NAN, NAN, NAN], True),
    ],
)
def test_diverged_is_not_finite_or_risen_and_not_come_back(curve, diverged):
    assert hand_made([[2.3, 2.0, 1.0, 0.2], curve]).diverged.tolist() == [False, diverged]


def test_small_batches_may_stray_further_before_a_run_counts_as_diverged():
    curve = [2.3, 2.7, 2.35, 2.25]
    assert hand_made([curve], batch_size=64).diverged.tolist() == [True]
    assert hand_made([curve], batch_size=8).diverged.tolist() == [False]


def ending(*finals, rise=None):
    """A sweep whose runs start at 2.3 and end at these losses; a run that ends above 2 and comes late had risen."""
    curves = [
        [2.3, 5.0 if rise is not None and index >= rise else 2.3, final, final] for index, final in enumerate(finals)
    ]
    return hand_made(curves)


@pytest.mark.parametrize(
    ("sweep", "zones"),
    [
        (ending(2.3, 2.2, 0.5, 0.1, 2.3, 2.3), "ssWWdd"),
        (ending(2.3, 2.2, 0.5, 0.1, 0.4), "ssWWW"),
        (ending(0.5, 0.1, 2.3), "WWd"),
        (ending(0.1), "W"),
        (ending(2.3, 1.3, 1.1, 0.1), "ssWW"),  # half of the way from 2.3 to 0.1 is 1.2
        (ending(2.3, 0.5, 0.1, 2.3, 0.05, 2.3), "sWWddd"),  # a lucky run, even the best, beyond one that failed
        (ending(2.3, 0.5, 2.3, 0.1, 0.2, 2.3), "sssWWd"),
        (ending(2.3, 0.1, NAN, NAN), "sWdd"),
        (ending(2.3, 2.29, 2.28), "sss"),  # nobody learned, nobody blew up
        (ending(2.3, 2.3, 2.3, 2.3, rise=2), "ssdd"),  # nobody learned, two blew up
        (ending(2.3, 2.3, NAN, 2.3, 2.3), "ssddd"),
        (ending(NAN, NAN), "dd"),
    ],
)
def test_zones_are_three_neighbors(sweep, zones):
    names = {"s": "too slow", "W": "works", "d": "diverges"}
    assert sweep.zones == [names[letter] for letter in zones]


def bounds(sweep):
    """The first rate that works and the first that diverges, after a check that the three zones follow each other."""
    counts = [sweep.zones.count(zone) for zone in ("too slow", "works", "diverges")]
    assert min(counts) > 0
    assert sweep.zones == ["too slow"] * counts[0] + ["works"] * counts[1] + ["diverges"] * counts[2]
    return sweep.lrs[counts[0]], sweep.lrs[counts[0] + counts[1]]


# Where the zones must begin, in decades around what was measured; no run of the left zone may count as blown up.
EDGES = {
    "sgd": ((0.02, 0.2), (0.5, 2.5)),
    "momentum": ((0.003, 0.03), (0.1, 0.8)),
    "rmsprop": ((1e-4, 1e-3), (0.01, 0.2)),
    "adam": ((1e-4, 2e-3), (0.05, 0.4)),
    "adamw": ((1e-4, 2e-3), (0.05, 0.4)),
}


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.proof)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_zones_of_the_mlp_read_right(optimizer, every, digits):
    sweep = sweep_lr(MLP, *digits, RATES[::every], optimizer=optimizer, num_epochs=5)
    (low, high), (low_end, high_end) = EDGES[optimizer]
    works, diverges = bounds(sweep)
    assert low < works < high
    assert low_end < diverges < high_end
    zones = sweep.zones
    assert not any(bad for bad, zone in zip(sweep.diverged.tolist(), zones, strict=True) if zone != "diverges")
    assert sweep.diverged[-4 // every :].all()
    assert zones[int(sweep.final_losses.nan_to_num(9e9).argmin())] == "works"


@pytest.mark.parametrize("optimizer", ["rmsprop", "adamw"])
def test_zones_of_the_cnn_read_right(optimizer, digits):
    sweep = sweep_lr(CNN, *digits, RATES[::6], optimizer=optimizer, num_epochs=3)
    (low, high), (low_end, high_end) = EDGES[optimizer]
    works, diverges = bounds(sweep)
    assert low / 2 < works < high * 2
    assert low_end / 2 < diverges < high_end * 5


def test_nearest_goes_by_ratio():
    sweep = hand_made([[1.0, 1.0]] * 3, lrs=[0.001, 0.01, 1.0])
    assert [sweep.nearest(lr) for lr in (1e-9, 0.004, 0.09, 0.11, 50)] == [0, 1, 1, 2, 2]


# Optimizers by name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_make_optimizer_makes_the_real_one_with_its_own_defaults(name):
    weights = [nn.Parameter(torch.zeros(2))]
    made, real = make_optimizer(name, weights, 0.5), CLASSES[name](weights, lr=0.5)
    assert type(made) is type(real)
    assert made.param_groups[0]["params"] == weights
    assert made.defaults == {**real.defaults, **({"momentum": 0.9} if name == "momentum" else {})}


def test_make_optimizer_takes_groups():
    groups = [{"params": [torch.zeros(1)], "lr": 0.1}, {"params": [torch.zeros(1)]}]
    assert [group["lr"] for group in make_optimizer("adam", groups, 0.5, eps=1e-3).param_groups] == [0.1, 0.5]


@pytest.mark.parametrize(
    ("name", "lr", "options", "message"),
    [
        ("sdg", 0.1, {}, "unknown optimizer 'sdg': did you mean 'sgd'? known: sgd, momentum, rmsprop, adam, adamw"),
        ("lbfgs", 0.1, {}, "unknown optimizer 'lbfgs'"),
        (None, 0.1, {}, "unknown optimizer None"),
        ("sgd", 0, {}, "lr must be a finite number above 0, got 0"),
        ("sgd", "0.1", {}, "lr must be a finite number above 0, got '0.1'"),
        ("sgd", 0.1, {"momentun": 0.9}, "unknown sgd option 'momentun': did you mean 'momentum'?"),
        ("adam", 0.1, {"momentum": 0.9}, "unknown adam option 'momentum'"),
        ("sgd", 0.1, {"momentum": -1}, "momentum must be at least 0 and below 1, got -1"),
        ("sgd", 0.1, {"nesterov": True}, "nesterov=True needs a momentum above 0: give momentum=0.9"),
        ("adam", 0.1, {"betas": 0.9}, "betas must be a pair of numbers, such as (0.9, 0.999), got 0.9"),
        ("adam", 0.1, {"weight_decay": "0.1"}, "weight_decay must be a finite number of at least 0, got '0.1'"),
    ],
)
def test_make_optimizer_refuses_what_makes_no_sense(name, lr, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_optimizer(name, [torch.zeros(1)], lr, **options)
    if lr == 0.1:
        with pytest.raises(ValueError, match=re.escape(message)):
            iter_sweep_lr(MLP, *few(), [0.1], optimizer=name, batch_size=20, **options)


# Bad input. `iter_sweep_lr` itself raises, before any step is asked for.


@pytest.mark.parametrize(
    ("lrs", "message"),
    [
        ([], "lrs must hold at least one learning rate, got []"),
        ("0.1", "lrs must be a list of learning rates, got '0.1'"),
        (0.1, "lrs must be a list of learning rates, got 0.1"),
        ({0.1: 1}, "lrs must be a list of learning rates, got {0.1: 1}"),
        (None, "lrs must be a list of learning rates, got None"),
        (torch.tensor(0.5), "lrs must be a list of learning rates, got tensor(0.5000)"),
        (b"12", "lrs must be a list of learning rates, got b'12'"),
        (range(1, 10**12), "lrs must hold at most 10,000 learning rates, got range(1, 1000000000000)"),
        ([0.1, 0], "lrs[1] must be a finite number above 0, got 0"),
        ([-0.1], "lrs[0] must be a finite number above 0, got -0.1"),
        ([0.1, NAN], "lrs[1] must be a finite number above 0, got nan"),
        ([0.1, math.inf], "lrs[1] must be a finite number above 0, got inf"),
        ([0.1, "0.2"], "lrs[1] must be a finite number above 0, got '0.2'"),
        ([[0.1, 0.2]], "lrs[0] must be a finite number above 0, got [0.1, 0.2]"),
        ([0.1, 0.3, 0.2], "lrs[2] is 0.2, after 0.3: give rising rates, as from sorted(lrs)"),
        ([0.1, 0.2, 0.2], "lrs[2] repeats 0.2: give each learning rate once"),
    ],
)
def test_rates_that_make_no_sense_are_refused(lrs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        iter_sweep_lr(MLP, *few(), lrs)


@pytest.mark.parametrize(
    "lrs", [torch.logspace(-2, -1, 3, dtype=torch.float64), (rate for rate in (0.1, 0.2, 0.5)), range(1, 4)]
)
def test_rates_may_come_in_any_row_of_numbers(lrs):
    sweep = sweep_lr(double(MLP), *few(), lrs, num_epochs=1, batch_size=20)
    assert len(sweep.lrs) == 3
    assert all(type(rate) is float for rate in sweep.lrs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be a whole number of at least 1, got 0"),
        ({"num_epochs": 1.5}, "num_epochs must be a whole number of at least 1, got 1.5"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": -5}, "batch_size must be a whole number of at least 1, got -5"),
        ({"batch_size": 76}, "batch_size 76 is larger than the data (75 rows)"),
        ({"num_epochs": 10**7}, "num_epochs=10000000 would give 20000000 losses for each of 1 rates"),
        ({"seed": "zero"}, "seed must be a whole number from 0 to 2**63 - 1, got 'zero'"),
        ({"seed": -1}, "seed must be a whole number from 0 to 2**63 - 1, got -1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        iter_sweep_lr(double(MLP), *few(), [0.1], **options)


def test_numbers_may_be_numpys(tmp_path):
    numbers = {"num_epochs": np.int64(1), "batch_size": np.int32(25), "seed": np.uint8(3), "momentum": np.float32(0.5)}
    sweep = sweep_lr(double(MLP), *few(), np.array([0.1, 0.2]), **numbers)
    assert (sweep.num_epochs, sweep.batch_size, sweep.seed, sweep.steps_done) == (1, 25, 3, 3)
    sweep.save(tmp_path / "sweep.json")  # JSON knows no number of NumPy's
    assert Sweep.load(tmp_path / "sweep.json").options == {"momentum": 0.5}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda x, y: (x, y.double()),
            TypeError,
            "labels must be whole numbers of dtype torch.int64, got torch.float64",
        ),
        (lambda x, y: (x, y[:-1]), ValueError, "x has 75 rows but y has 74 labels"),
        (lambda x, y: (x, y - 1), ValueError, "labels must count from 0, got -1"),
        (
            lambda x, y: (x, y + 5),
            ValueError,
            "MLP must return logits of shape (batch, classes), here (64, 15 or more)",
        ),
        (lambda x, y: (x / 0, y), ValueError, "x has NaN or infinity in 75 of 75 rows"),
        (lambda x, y: (x.numpy(), y), TypeError, "x must be a tensor, got ndarray"),
        (lambda x, y: (x, y.tolist()), TypeError, "y must be a tensor, got list"),
        (lambda x, y: (x[:, :, :7], y), ValueError, "MLP cannot take x of shape (64, 1, 7, 8), torch.float64"),
        (lambda x, y: (x.float(), y), ValueError, "MLP cannot take x of shape (64, 1, 8, 8), torch.float32"),
        (lambda x, y: ((x * 16).byte(), y), ValueError, "MLP cannot take x of shape (64, 1, 8, 8), torch.uint8"),
    ],
)
def test_data_that_do_not_fit_are_refused(change, error, message):
    with pytest.raises(error, match=re.escape(message)):
        iter_sweep_lr(double(MLP), *change(*few()), [0.1])


@pytest.mark.parametrize(
    ("make_model", "error", "message"),
    [
        (MLP(), TypeError, "make_model must be a function that returns a new model, got MLP"),
        ("mlp", TypeError, "make_model must be a function that returns a new model, got str"),
        (lambda: None, TypeError, "make_model must return a torch.nn.Module, got None"),
        (nn.Flatten, ValueError, "Flatten has no weights that require gradients"),
        (lambda: MLP().requires_grad_(False), ValueError, "MLP has no weights that require gradients"),
        (
            lambda: MLP(num_classes=9).double(),
            ValueError,
            "here (20, 10 or more) because the largest label is 9, but it returned (20, 9)",
        ),
        (lambda: nn.Linear(8, 10).double(), ValueError, "but it returned (20, 1, 8, 10)"),
        (lambda: nn.Sequential(nn.Flatten(), nn.RNN(64, 10)).double(), ValueError, "but it returned tuple"),
        (
            lambda: nn.Sequential(nn.Flatten(0), nn.Linear(1280, 10), nn.Unflatten(0, (1, 10))).double(),
            ValueError,
            "but it returned (1, 10)",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(make_model, error, message):
    with pytest.raises(error, match=re.escape(message)):
        iter_sweep_lr(make_model, *few(), [0.1], batch_size=20)


# On disk


def example():
    return sweep_lr(deep, *few(), [1e-3, 0.1, 1e200], optimizer="momentum", num_epochs=2, batch_size=20, momentum=0.8)


def test_a_saved_sweep_comes_back_whole(tmp_path):
    sweep = sweep_lr(MLP, *few(dtype=torch.float32), [1e-3, 10.0], optimizer="adam", num_epochs=2, betas=(0.5, 0.9))
    sweep.save(tmp_path / "new" / "folder" / "sweep.json")
    again = Sweep.load(tmp_path / "new" / "folder" / "sweep.json")
    assert torch.equal(again.losses, sweep.losses)
    assert again.losses.dtype == torch.float32
    assert {**vars(again), "losses": 0} == {**vars(sweep), "losses": 0, "options": {"betas": [0.5, 0.9]}}
    assert again.zones == sweep.zones


def test_nan_is_kept_as_null_in_plain_json(tmp_path):
    sweep = example()
    sweep.save(tmp_path / "sweep.json")
    text = (tmp_path / "sweep.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail)["losses"][2][-1] is None
    again = Sweep.load(tmp_path / "sweep.json")
    torch.testing.assert_close(again.losses, sweep.losses.float(), equal_nan=True)
    assert again.diverged.tolist() == [False, False, True]


def test_fewer_digits_make_a_smaller_file(tmp_path):
    sweep = example()
    sweep.save(tmp_path / "whole.json")
    sweep.save(tmp_path / "short.json", digits=3)
    assert (tmp_path / "short.json").stat().st_size < 0.9 * (tmp_path / "whole.json").stat().st_size
    short = Sweep.load(tmp_path / "short.json").losses[:2]
    torch.testing.assert_close(short, sweep.losses[:2].float(), rtol=6e-3, atol=0)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "sweep.json"
    with pytest.raises(OSError, match=r"choose another folder for the sweep.*sweep\.json") as caught:
        example().save(path)
    assert caught.value.strerror
    assert caught.value.filename == str(path)


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "sweep.json"
    example().save(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(OSError, match="No space left on device; choose another folder"):
            example().save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def damaged(**changes):
    good = {"lrs": [0.1, 0.2], "losses": [[1.0], [None]], "optimizer": "sgd", "num_epochs": 1, "batch_size": 4}
    return json.dumps({key: value for key, value in (good | changes).items() if value is not None})


def test_the_example_of_the_damaged_ones_is_good(tmp_path):
    (tmp_path / "sweep.json").write_text(damaged())
    assert Sweep.load(tmp_path / "sweep.json").lrs == [0.1, 0.2]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{half",
        "[]",
        "3",
        "null",
        '"text"',
        "{}",
        damaged(losses=None),
        damaged(lrs=None),
        damaged(optimizer=None),
        damaged(lrs=[0.1]),
        damaged(lrs=[0.2, 0.1]),
        damaged(lrs=[0.1, "x"]),
        damaged(losses=[[1.0], [1.0, 2.0]]),
        damaged(losses=[1.0, 2.0]),
        damaged(losses=[["a"], ["b"]]),
        damaged(losses=5),
        damaged(color="blue"),
        damaged(losses=[[1], [2]]),
        damaged(losses=[[], []]),
        damaged(losses=[[10**400], [1.0]]),
        damaged(losses=[[1.0, 0.5, 0.2], [1.0, 0.5, 0.2]], num_epochs=2),
        damaged(num_epochs=0),
        damaged(batch_size="4"),
        damaged(optimizer=["sgd"]),
        damaged(options={"momentum": 2}),
        damaged(options=[1]),
        damaged(seed=-1),
        damaged(steps_done=2),
        "[" * 100_000,
    ],
)
def test_a_damaged_file_is_told_by_its_name(text, tmp_path):
    path = tmp_path / "sweep.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{str(path)!r} does not hold a sweep, or it is damaged (")):
        Sweep.load(path)


def test_a_file_of_other_bytes_is_told_by_its_name(tmp_path):
    path = tmp_path / "sweep.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="does not hold a sweep, or it is damaged"):
        Sweep.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "sweep.json")
    with pytest.raises(OSError, match="not a regular file"):
        Sweep.load(tmp_path / "sweep.json")


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        Sweep.load(tmp_path / "nothing.json")


# The recorded sweeps


def test_the_records_are_those_that_the_tool_makes_and_small():
    files = {path.name: path.stat().st_size for path in RECORDED.iterdir() if path.suffix == ".json"}
    assert files.keys() == {config.file_name for config in CONFIGS}
    assert sum(files.values()) < 200_000


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.file_name)
def test_a_record_is_complete_and_its_zones_read_right(config):
    record = Sweep.load(RECORDED / config.file_name)
    assert (record.optimizer, record.options) == (config.optimizer, config.options)
    assert (record.num_epochs, record.batch_size, record.seed, record.method) == (5, 64, 0, "layers")
    assert record.lrs == RATES
    assert record.losses.shape == (49, 115)
    assert record.steps_done == 115
    (low, high), (low_end, high_end) = EDGES[config.optimizer]
    works, diverges = bounds(record)
    assert low < works < high
    assert low_end < diverges < high_end * 2


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.file_name)
def test_a_record_is_what_a_fresh_run_gives(config, digits):
    record = Sweep.load(RECORDED / config.file_name)
    first_works = record.zones.index("works")
    # Up to the lower end of the zone that works, training is stable: another machine's rounding does not grow.
    chosen = [0, first_works // 2, first_works]
    fresh = sweep_lr(
        CNN,
        *digits,
        [record.lrs[index] for index in chosen],
        optimizer=config.optimizer,
        num_epochs=5,
        **config.options,
    )
    torch.testing.assert_close(fresh.losses, record.losses[chosen], rtol=5e-3, atol=2e-3)


def test_descend_multiplies_by_one_minus_lr_times_curvature():
    path = descend(1.5, lr=0.3, curvature=4.0, num_steps=6)
    assert path == pytest.approx([1.5 * (1 - 0.3 * 4.0) ** step for step in range(7)])
    assert abs(descend(1.0, 0.49, 4.0, 200)[-1]) < 0.02
    assert abs(descend(1.0, 0.51, 4.0, 200)[-1]) > 100
