"""Schedules against PyTorch's own schedulers, stepped one by one, and what they refuse."""

import inspect
import math
from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, LinearLR, SequentialLR

from course_utils.lr import schedules
from course_utils.lr.schedules import (
    constant,
    cosine,
    exponential,
    linear,
    multistep,
    one_cycle,
    step_decay,
    warmup_cosine,
)
from course_utils.models import MLP
from course_utils.training import Trainer

BASE = 0.3
NUM_STEPS = 40


def make_optimizer(lr=BASE, momentum=0.0):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=momentum)


def rates_of(make_scheduler, num_steps=NUM_STEPS + 1, *, lr=BASE):
    """The rate of each step under one of PyTorch's schedulers, stepped as a loop steps it."""
    optimizer = make_optimizer(lr)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def closed_rates(make_scheduler, num_steps):
    """The rate of each step by the formula that PyTorch's scheduler has for it, base rate 1; None if it has none."""
    scheduler = make_scheduler(make_optimizer(lr=1.0))
    if isinstance(scheduler, lr_scheduler.OneCycleLR):  # it never goes from step to step
        return rates_of(make_scheduler, num_steps, lr=1.0)
    if not hasattr(scheduler, "_get_closed_form_lr"):
        return None
    rates = []
    for step in range(num_steps):
        scheduler.last_epoch = step
        rates += scheduler._get_closed_form_lr()
    return rates


def warmup_then_cosine(optimizer):
    up = LinearLR(optimizer, start_factor=0.2, total_iters=8)
    down = lr_scheduler.CosineAnnealingLR(optimizer, NUM_STEPS - 8, eta_min=0.05 * BASE)
    return SequentialLR(optimizer, [up, down], milestones=[8])


# ours, PyTorch's, how many steps both are asked for
PAIRS = {
    "constant": (constant, lambda o: lr_scheduler.ConstantLR(o, factor=1.0), NUM_STEPS + 1),
    "step_decay": (partial(step_decay, every=7, factor=0.3), lambda o: lr_scheduler.StepLR(o, 7, 0.3), NUM_STEPS + 1),
    "multistep": (
        partial(multistep, milestones=[5, 6, 30]),
        lambda o: lr_scheduler.MultiStepLR(o, [5, 6, 30]),
        NUM_STEPS + 1,
    ),
    "exponential": (partial(exponential, factor=0.93), lambda o: lr_scheduler.ExponentialLR(o, 0.93), NUM_STEPS + 1),
    "linear": (
        partial(linear, num_steps=NUM_STEPS, final=0.1),
        lambda o: LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=NUM_STEPS),
        NUM_STEPS + 10,
    ),
    "linear, as a warm-up": (
        partial(linear, num_steps=9, start=0.2, final=1.0),
        lambda o: LinearLR(o, 0.2, total_iters=9),
        NUM_STEPS + 1,
    ),
    "cosine": (
        partial(cosine, num_steps=NUM_STEPS),
        lambda o: lr_scheduler.CosineAnnealingLR(o, NUM_STEPS),
        NUM_STEPS + 1,
    ),
    "cosine, to a floor": (
        partial(cosine, num_steps=NUM_STEPS, final=0.25),
        lambda o: lr_scheduler.CosineAnnealingLR(o, NUM_STEPS, eta_min=0.25 * BASE),
        NUM_STEPS + 1,
    ),
    "warmup_cosine": (
        partial(warmup_cosine, num_steps=NUM_STEPS, num_warmup=8, start=0.2, final=0.05),
        warmup_then_cosine,
        NUM_STEPS + 1,
    ),
    "one_cycle": (
        partial(one_cycle, num_steps=NUM_STEPS),
        lambda o: lr_scheduler.OneCycleLR(o, BASE, total_steps=NUM_STEPS, cycle_momentum=False),
        NUM_STEPS,
    ),
    "one_cycle, other options": (
        partial(one_cycle, num_steps=NUM_STEPS, warmup=0.21, start=0.1, final=0.01),
        lambda o: lr_scheduler.OneCycleLR(
            o, BASE, total_steps=NUM_STEPS, pct_start=0.21, div_factor=10, final_div_factor=10, cycle_momentum=False
        ),
        NUM_STEPS,
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # from inside SequentialLR
@pytest.mark.parametrize("name", PAIRS)
def test_it_is_pytorchs_own_schedule(name):
    """PyTorch multiplies from step to step and rounds each time: the two may differ in the sixteenth digit."""
    ours, theirs, num_steps = PAIRS[name]
    expected = rates_of(theirs, num_steps)
    rates = [BASE * ours(step) for step in range(num_steps)]
    assert rates == pytest.approx(expected, rel=1e-13, abs=1e-15 * BASE)
    assert name == "constant" or len(set(rates)) > 2


@pytest.mark.parametrize("name", PAIRS)
def test_it_is_pytorchs_own_formula_to_the_last_bit(name, monkeypatch):
    monkeypatch.setitem(globals(), "BASE", 1.0)  # the floors of PyTorch's schedulers are rates, not shares
    ours, theirs, num_steps = PAIRS[name]
    expected = closed_rates(theirs, num_steps)
    if expected is None:
        assert name == "warmup_cosine"  # a chain of two that are compared by themselves
    else:
        assert [ours(step) for step in range(num_steps)] == expected


def test_pytorchs_own_steps_leave_its_own_formula_in_the_last_digits():
    """So nothing can agree with both to the last bit."""

    def theirs(optimizer):
        return lr_scheduler.CosineAnnealingLR(optimizer, NUM_STEPS)

    stepped, formula = rates_of(theirs, lr=1.0), closed_rates(theirs, NUM_STEPS + 1)
    assert stepped != formula
    assert stepped == pytest.approx(formula, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("name", PAIRS)
def test_lambda_lr_takes_it_as_it_is(name):
    shape = PAIRS[name][0]
    assert rates_of(lambda optimizer: LambdaLR(optimizer, shape)) == [
        BASE * shape(step) for step in range(NUM_STEPS + 1)
    ]


def test_every_schedule_is_compared():
    functions = {
        name
        for name, value in inspect.getmembers(schedules, inspect.isfunction)
        if value.__module__ == schedules.__name__ and not name.startswith("_")
    }
    assert functions == {name.split(",")[0] for name in PAIRS}


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        (partial(linear, num_steps=10, final=0.2), 0.2),
        (partial(cosine, num_steps=10, final=0.2), 0.2),
        (partial(warmup_cosine, num_steps=10, num_warmup=0, final=0.2), 0.2),
        (partial(one_cycle, num_steps=10, final=0.2), 0.2),
    ],
)
def test_it_stays_at_its_end_and_never_rises_again(shape, last):
    assert shape(10) == pytest.approx(last)
    assert shape(10_000) == shape(10)


def test_a_warmup_may_start_at_nothing_and_one_cycle_may_have_one_step():
    assert linear(0, 5, start=0.0, final=1.0) == 0.0
    assert one_cycle(0, 1, final=0.5) == 0.5
    assert one_cycle(0, 4, warmup=0.25) == 1.0


def test_a_run_with_it_is_saved_and_goes_on(tmp_path):
    """PyTorch saves no lambda; a partial has nothing to save, so it must be given again."""
    x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batches = [(x[i : i + 10], torch.arange(10)) for i in range(0, 40, 10)]

    def run(folder, *epochs):
        for resume, num_epochs in enumerate(epochs):
            torch.manual_seed(0)
            model = MLP()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            scheduler = LambdaLR(optimizer, partial(cosine, num_steps=16))
            trainer = Trainer(
                model,
                optimizer,
                torch.nn.CrossEntropyLoss(),
                scheduler=scheduler,
                device="cpu",
                run_dir=folder,
                log_every=1,
                progress=False,
            )
            history = trainer.fit(batches, num_epochs=num_epochs, resume=bool(resume))
        return history.lr

    rates = run(tmp_path / "in two parts", 2, 4)
    assert rates == run(tmp_path / "at once", 4)
    assert [lr for _, lr in rates] == [0.1 * cosine(step, 16) for step in range(16)]


@pytest.mark.parametrize("step", [-1, 1.0, "3", None, True])
@pytest.mark.parametrize("name", PAIRS)
def test_a_step_is_a_count(name, step):
    with pytest.raises(ValueError, match=rf"step must be a whole number of at least 0, got {step!r}"):
        PAIRS[name][0](step)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: step_decay(0, every=0), r"every must be a whole number of at least 1, got 0"),
        (lambda: step_decay(0, every=5, factor=0), r"factor must be a finite number above 0, got 0"),
        (lambda: exponential(0, factor=math.nan), r"factor must be a finite number above 0, got nan"),
        (lambda: exponential(2000, factor=2), r"factor must be smaller, got 2\.0: its power of 2000 is infinite"),
        (lambda: multistep(0, milestones=30), r"milestones must be a list of steps, got 30"),
        (lambda: multistep(0, milestones=[3.5]), r"milestones\[0\] must be a whole number of at least 1, got 3\.5"),
        (lambda: multistep(0, milestones=[30, 20]), r"milestones must rise, got \[30, 20\]"),
        (lambda: multistep(0, milestones=[3], factor=-1), r"factor must be a finite number above 0, got -1"),
        (lambda: linear(0, 0), r"num_steps must be a whole number of at least 1, got 0"),
        (lambda: linear(0, 5, start=2), r"start must be a fraction of the base rate, from 0 to 1, got 2"),
        (lambda: linear(0, 5, final=-0.1), r"final must be a fraction of the base rate, from 0 to 1, got -0\.1"),
        (lambda: cosine(0, 2.5), r"num_steps must be a whole number of at least 1, got 2\.5"),
        (lambda: cosine(0, 5, final=math.nan), r"final must be a fraction of the base rate, from 0 to 1, got nan"),
        (lambda: cosine(0, 5, final="0"), r"final must be a fraction of the base rate, from 0 to 1, got '0'"),
        (lambda: warmup_cosine(0, 5, num_warmup=5), r"num_warmup must be a whole number below num_steps=5, got 5"),
        (lambda: warmup_cosine(0, 5, num_warmup=0.1), r"num_warmup must be a whole number of at least 0, got 0\.1"),
        (lambda: warmup_cosine(3, 5, num_warmup=1, start=7), r"start must be a fraction .* got 7"),
        (lambda: one_cycle(0, 0), r"num_steps must be a whole number of at least 1, got 0"),
        (lambda: one_cycle(0, 5, warmup=1), r"warmup must be a fraction of the steps, between 0 and 1, got 1"),
        (lambda: one_cycle(0, 5, start=True), r"start must be a fraction of the base rate, from 0 to 1, got True"),
        (lambda: one_cycle(0, 5, final=3), r"final must be a fraction of the base rate, from 0 to 1, got 3"),
    ],
)
def test_bad_numbers_are_quoted(call, message):
    with pytest.raises(ValueError, match=message):
        call()
