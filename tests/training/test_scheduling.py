"""Schedulers stepped per step and per epoch, and those that do not fit the run; PyTorch's own rates are the oracle."""

import io
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

from course_utils.training import checkpoint
from course_utils.training.scheduling import Scheduling


def make_optimizer(lr=1.0):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)


def make(scheduler, **options):
    """Return the scheduling for `scheduler(optimizer)`."""
    optimizer = make_optimizer()
    return Scheduling(scheduler(optimizer), optimizer, **options)


def rates(schedule, num_steps):
    """Return the rate of each of `num_steps` steps, as the trainer would take them."""
    optimizer, taken = schedule.scheduler.optimizer, []
    for _ in range(num_steps):
        taken.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.after_step()
    return taken


def through_a_checkpoint(state, folder):
    checkpoint.save({"scheduler": state}, folder)
    return torch.load(folder / checkpoint.NEWEST, weights_only=True)["scheduler"]


def plan(num_steps, num_epochs):
    return {"num_steps": num_steps, "num_epochs": num_epochs}


cosine = partial(schedulers.CosineAnnealingLR, T_max=10)
one_cycle = partial(schedulers.OneCycleLR, max_lr=1.0, total_steps=10)
polynomial = partial(schedulers.PolynomialLR, total_iters=10)
linear_to_zero = partial(schedulers.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=10)


def warm_up_and_cosine(optimizer, T_max=10):
    up = schedulers.LinearLR(optimizer, 0.1, total_iters=5)
    return schedulers.SequentialLR(optimizer, [up, cosine(optimizer, T_max=T_max)], milestones=[5])


def cosine_and_constant(optimizer):
    down, rest = cosine(optimizer), schedulers.ConstantLR(optimizer, 0.01, total_iters=1000)
    return schedulers.SequentialLR(optimizer, [down, rest], milestones=[10])


def chained(optimizer):
    return schedulers.ChainedScheduler([schedulers.ConstantLR(optimizer, 0.1, total_iters=2), cosine(optimizer)])


class OwnScheduler(schedulers.LRScheduler):
    def get_lr(self):
        return [group["lr"] / 2 for group in self.optimizer.param_groups]


ENDLESS_EXAMPLES = {
    "StepLR": partial(schedulers.StepLR, step_size=4),
    "MultiStepLR": partial(schedulers.MultiStepLR, milestones=[4, 8]),
    "ExponentialLR": partial(schedulers.ExponentialLR, gamma=0.9),
    "ConstantLR": partial(schedulers.ConstantLR, factor=0.5, total_iters=10),
    "LinearLR": partial(schedulers.LinearLR, start_factor=1.0, end_factor=0.1, total_iters=10),
    "CosineAnnealingWarmRestarts": partial(schedulers.CosineAnnealingWarmRestarts, T_0=5),
    "CyclicLR": partial(schedulers.CyclicLR, base_lr=0.1, max_lr=1.0, step_size_up=5),
    "ReduceLROnPlateau": schedulers.ReduceLROnPlateau,
    "SWALR": partial(SWALR, swa_lr=0.05, anneal_epochs=10),
}


def falling(step):
    return 1 - step / 100


DEPENDENT_EXAMPLES = {
    "MultiplicativeLR": partial(schedulers.MultiplicativeLR, lr_lambda=lambda step: 0.9),
    "OwnScheduler": OwnScheduler,
}


# Stepping.


def test_without_a_scheduler_nothing_happens():
    schedule = Scheduling(None, make_optimizer())
    schedule.after_step()
    schedule.after_epoch({})
    schedule.check_plan(10, 1, plan(5, 1))
    schedule.load_state_dict(schedule.state_dict())
    assert schedule.state_dict() == {}


@pytest.mark.parametrize(("every", "expected"), [("step", [1.0, 0.5, 0.25, 0.125]), ("epoch", [1.0, 1.0, 0.5, 0.5])])
def test_a_scheduler_is_stepped_after_each_step_or_after_each_epoch(every, expected):
    schedule = make(partial(schedulers.ExponentialLR, gamma=0.5), every=every)
    taken = []
    for _epoch in range(2):
        taken += rates(schedule, 2)
        schedule.after_epoch({"epoch_loss": 1.0})
    assert taken == expected


@pytest.mark.parametrize("every", ["step", "epoch"])
def test_reduce_lr_on_plateau_gets_its_figure_after_each_epoch(every):
    schedule = make(
        partial(schedulers.ReduceLROnPlateau, mode="max", factor=0.5, patience=0), every=every, metric="valid_accuracy"
    )
    taken = []
    for accuracy in (0.5, 0.6, 0.6, 0.7, 0.7):
        taken += rates(schedule, 1)
        schedule.after_epoch({"valid_loss": 1.0, "valid_accuracy": accuracy})
    assert taken == [1.0, 1.0, 1.0, 0.5, 0.5]
    assert schedule.scheduler.get_last_lr() == [0.25]


def test_a_figure_that_an_epoch_does_not_have_is_refused():
    schedule = make(schedulers.ReduceLROnPlateau, metric="valid_los")
    with pytest.raises(
        ValueError, match=r"unknown scheduler_metric 'valid_los': did you mean 'valid_loss'\? known: ep"
    ):
        schedule.after_epoch({"epoch_loss": 1.0, "valid_loss": 1.0})


# What is not a scheduler for this optimizer.


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ("cosine", r"must be a scheduler, got 'cosine': make one from the optimizer, for example StepLR\(optimizer, "),
        (0.1, r"must be a scheduler, got 0\.1"),
        (schedulers.StepLR, r"is the class StepLR: make one from the optimizer"),
        (make_optimizer, r"is the function make_optimizer: wrap it, as in .*LambdaLR\(optimizer, function\)"),
    ],
)
def test_what_is_not_a_scheduler_is_refused(scheduler, message):
    with pytest.raises(TypeError, match=message):
        Scheduling(scheduler, make_optimizer())


def test_a_scheduler_of_another_optimizer_is_refused():
    with pytest.raises(ValueError, match="StepLR was made for another optimizer, so it would never change"):
        Scheduling(schedulers.StepLR(make_optimizer(), 1), make_optimizer())


def test_an_unknown_unit_and_a_metric_that_is_not_a_name_are_refused():
    with pytest.raises(ValueError, match=r"unknown scheduler_every 'epochs': did you mean 'epoch'\?"):
        make(cosine, every="epochs")
    with pytest.raises(TypeError, match=r"scheduler_metric must be the name of a figure, .* got 3"):
        make(schedulers.ReduceLROnPlateau, metric=3)


@pytest.mark.parametrize(
    ("mode", "metric", "message"),
    [
        ("min", "valid_accuracy", "'valid_accuracy' is better when it is larger.*make it with mode='max'"),
        ("max", "epoch_loss", "'epoch_loss' is better when it is smaller.*make it with mode='min'"),
    ],
)
def test_a_mode_that_does_not_fit_the_metric_is_refused(mode, metric, message):
    with pytest.raises(ValueError, match=f"ReduceLROnPlateau has mode='{mode}', but {message}"):
        make(partial(schedulers.ReduceLROnPlateau, mode=mode), metric=metric)
    make(partial(schedulers.ReduceLROnPlateau, mode=mode), metric="f1")


# What PyTorch's schedulers do after their end, which the rules rest on.


@pytest.mark.parametrize("name", sorted(set(ENDLESS_EXAMPLES) - {"ReduceLROnPlateau"}))
def test_endless_schedulers_go_on_and_never_exceed_the_rates_that_they_had(name):
    taken = rates(make(ENDLESS_EXAMPLES[name]), 60)
    assert max(taken[20:]) <= max(taken[:20])
    assert min(taken) > 0


def test_a_cosine_climbs_from_two_steps_after_t_max():
    taken = rates(make(cosine), 21)
    assert taken[10] == min(taken) == pytest.approx(0.0, abs=1e-12)
    assert taken[11] > taken[10]
    assert taken[20] == pytest.approx(1.0)


def test_one_cycle_raises_at_the_first_step_after_its_end():
    schedule = make(one_cycle)
    assert rates(schedule, 10)[-1] == pytest.approx(1.0 / 25 / 1e4, rel=1e-3)
    with pytest.raises(ValueError, match="Tried to step 11 times"):
        rates(schedule, 1)


@pytest.mark.parametrize("scheduler", [polynomial, linear_to_zero])
def test_a_decay_to_zero_stays_zero(scheduler):
    taken = rates(make(scheduler), 30)
    assert taken[9] > 0
    assert taken[10:] == pytest.approx([0.0] * 20, abs=1e-12)


# A new run.


@pytest.mark.parametrize(("num_steps", "fits"), [(9, True), (10, True), (11, False)])
def test_one_cycle_that_is_shorter_than_the_run_is_refused_at_once(num_steps, fits):
    if fits:
        make(one_cycle).check_plan(num_steps, 1, None)
        return
    with pytest.raises(
        ValueError, match=r"total_steps=10, but this run has 11 steps for it, and .* raises an error: make"
    ):
        make(one_cycle).check_plan(num_steps, 1, None)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (cosine, "CosineAnnealingLR has T_max=10, but this run has 12 steps.* climbs again: make it with T_max=12"),
        (
            polynomial,
            "PolynomialLR has total_iters=10, but this run has 12 steps.* stays 0: make it with total_iters=12",
        ),
        (linear_to_zero, "LinearLR has total_iters=10, but this run has 12 steps .* stays 0"),
        (chained, "CosineAnnealingLR has T_max=10, but this run has 12 steps"),
    ],
)
def test_a_schedule_that_ends_before_a_new_run_does_warns(scheduler, message):
    make(scheduler).check_plan(11, 1, None)
    with pytest.warns(RuntimeWarning, match=message):
        make(scheduler).check_plan(12, 1, None)


def test_the_length_is_counted_in_the_unit_of_the_scheduler():
    make(cosine, every="epoch").check_plan(1000, 10, None)
    make(one_cycle, every="epoch").check_plan(1000, 10, None)
    with pytest.raises(ValueError, match="has total_steps=10, but this run has 11 epochs for it"):
        make(one_cycle, every="epoch").check_plan(1000, 11, None)


def test_a_part_of_a_sequence_is_judged_by_its_own_share():
    make(warm_up_and_cosine).check_plan(16, 1, None)
    with pytest.warns(RuntimeWarning, match="T_max=10, but this run has 12 steps for it"):
        make(warm_up_and_cosine).check_plan(17, 1, None)
    make(cosine_and_constant).check_plan(1000, 1, None)


def test_a_new_run_with_any_other_scheduler_is_taken_as_it_is():
    for scheduler in (*ENDLESS_EXAMPLES.values(), *DEPENDENT_EXAMPLES.values()):
        make(scheduler).check_plan(1000, 100, None)


# A run that continues with another length.


@pytest.mark.parametrize("scheduler", ENDLESS_EXAMPLES.values(), ids=ENDLESS_EXAMPLES)
def test_a_run_with_an_endless_scheduler_may_become_longer_and_shorter(scheduler):
    make(scheduler).check_plan(1000, 100, plan(20, 2))
    make(scheduler).check_plan(20, 2, plan(1000, 100))


@pytest.mark.parametrize("name", sorted(DEPENDENT_EXAMPLES))
@pytest.mark.parametrize("num_epochs", [1, 3])
def test_a_run_whose_rates_may_depend_on_its_length_keeps_it(name, num_epochs):
    schedule = make(DEPENDENT_EXAMPLES[name])
    schedule.check_plan(20, 2, plan(20, 2))
    message = (
        rf"planned with 2 epochs \(20 steps\) and would now have {num_epochs} epochs \({10 * num_epochs} steps\), but "
        rf"{name} may depend on that\. Keep num_epochs=2, or start a new run"
    )
    with pytest.raises(ValueError, match=message):
        schedule.check_plan(10 * num_epochs, num_epochs, plan(20, 2))


def test_a_function_of_the_step_may_go_on_while_it_falls():
    schedule = make(partial(schedulers.LambdaLR, lr_lambda=falling))
    rates(schedule, 20)
    schedule.check_plan(50, 5, plan(20, 2))
    schedule.check_plan(10, 1, plan(20, 2))


def test_a_function_of_the_step_that_was_made_for_another_length_is_refused():
    shorter, longer = (make(partial(schedulers.LambdaLR, lr_lambda=lambda s, n=n: 1 - s / n)) for n in (20, 40))
    rates(shorter, 20)
    longer.load_state_dict(shorter.state_dict())
    with pytest.raises(ValueError, match=r"LambdaLR has the rate 0\.5 at this point, and the run had 0\. Keep num_ep"):
        longer.check_plan(40, 4, plan(20, 2))


def test_a_function_of_the_step_that_climbs_beyond_the_planned_end_is_refused():
    schedule = make(partial(schedulers.LambdaLR, lr_lambda=lambda step: abs(1 - step / 20)))
    rates(schedule, 20)
    with pytest.raises(ValueError, match=r"but LambdaLR climbs again after the planned end\. Keep num_epochs=2"):
        schedule.check_plan(40, 4, plan(20, 2))


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (cosine, "CosineAnnealingLR has T_max=10, which is saved with the run, and then climbs again"),
        (one_cycle, "OneCycleLR has total_steps=10, which is saved with the run, and then raises an error"),
        (polynomial, "PolynomialLR has total_iters=10, which is saved with the run, and then stays 0"),
        (linear_to_zero, "LinearLR has total_iters=10, .* stays 0"),
        (chained, "CosineAnnealingLR has T_max=10, .* climbs again"),
        (partial(warm_up_and_cosine, T_max=5), "CosineAnnealingLR has T_max=5, .* climbs again"),
    ],
)
def test_a_run_is_not_continued_beyond_the_end_of_its_schedule(scheduler, message):
    with pytest.raises(
        ValueError, match=rf"planned with 2 epochs \(10 steps\) and would now have 4 epochs \(20 .*{message}"
    ):
        make(scheduler).check_plan(20, 4, plan(10, 2))


def test_a_run_may_be_continued_up_to_the_end_of_its_schedule():
    # Epoch by epoch, as in a notebook: `fit(num_epochs=1)`, `fit(num_epochs=2)`, …
    for scheduler in (cosine, one_cycle, polynomial, linear_to_zero, chained, warm_up_and_cosine):
        for num_epochs in range(2, 6):
            make(scheduler).check_plan(2 * num_epochs, num_epochs, plan(2 * num_epochs - 2, num_epochs - 1))


def test_a_part_that_has_ended_in_both_plans_does_not_keep_a_run_from_going_on():
    make(cosine_and_constant).check_plan(2000, 20, plan(100, 1))


def test_a_cosine_that_was_to_climb_again_from_the_start_warns_only():
    with pytest.warns(RuntimeWarning, match="T_max=10, but this run has 30 steps"):
        make(cosine).check_plan(30, 3, plan(20, 2))


def test_a_checkpoint_without_a_plan_is_judged_as_a_new_run():
    schedule = make(cosine)
    rates(schedule, 5)
    schedule.check_plan(10, 2, None)
    with pytest.warns(RuntimeWarning, match="climbs again"):
        schedule.check_plan(20, 4, None)


def test_a_longer_schedule_made_for_the_resumed_run_is_replaced_by_the_saved_one_and_refused(tmp_path):
    first = make(cosine)
    before = rates(first, 10)
    longer = make(partial(cosine, T_max=20))
    longer.load_state_dict(through_a_checkpoint(first.state_dict(), tmp_path))
    # PyTorch restores T_max without a word, and the rate would climb back to where it began.
    assert longer.scheduler.T_max == 10
    with pytest.raises(ValueError, match="T_max=10, which is saved with the run, and then climbs again"):
        longer.check_plan(20, 4, plan(10, 2))
    longer.scheduler.optimizer.load_state_dict(first.scheduler.optimizer.state_dict())
    assert rates(longer, 11)[-1] == pytest.approx(before[0])


# The state.


RESUMABLE = ENDLESS_EXAMPLES | {
    "CosineAnnealingLR": cosine,
    "OneCycleLR": partial(one_cycle, total_steps=30),
    "PolynomialLR": partial(polynomial, total_iters=30),
    "LambdaLR": partial(schedulers.LambdaLR, lr_lambda=falling),
    "MultiplicativeLR": DEPENDENT_EXAMPLES["MultiplicativeLR"],
    "OwnScheduler": OwnScheduler,
    "ChainedScheduler": chained,
    "SequentialLR": warm_up_and_cosine,
    "MultiStepLR in SequentialLR": lambda optimizer: schedulers.SequentialLR(
        optimizer,
        [schedulers.ConstantLR(optimizer, 0.5), schedulers.MultiStepLR(optimizer, [2, 4, 4])],
        milestones=[12],
    ),
}


@pytest.mark.parametrize("scheduler", RESUMABLE.values(), ids=RESUMABLE)
@pytest.mark.parametrize("done", [0, 7, 13])
def test_a_restored_scheduler_continues_bit_for_bit(scheduler, done, tmp_path):
    def some(schedule, count):
        taken = rates(schedule, count)
        for _ in range(count if schedule.every == "epoch" else 0):
            schedule.after_epoch({"valid_loss": 1.0})
            taken.append(schedule.scheduler.optimizer.param_groups[0]["lr"])
        return taken

    whole, first, second = make(scheduler), make(scheduler), make(scheduler)
    some(whole, done)
    some(first, done)
    saved = through_a_checkpoint(first.state_dict(), tmp_path)
    kept = io.BytesIO()
    torch.save(saved, kept)
    second.scheduler.optimizer.load_state_dict(first.scheduler.optimizer.state_dict())
    second.load_state_dict(saved)
    assert some(second, 15) == some(whole, 15)
    # The state that was loaded belongs to the caller.
    again = io.BytesIO()
    torch.save(saved, again)
    assert again.getvalue() == kept.getvalue()


def test_milestones_of_another_number_are_taken_from_the_state(tmp_path):
    state = through_a_checkpoint(make(partial(schedulers.MultiStepLR, milestones=[3])).state_dict(), tmp_path)
    schedule = make(partial(schedulers.MultiStepLR, milestones=[1, 2]))
    schedule.load_state_dict(state)
    assert rates(schedule, 5) == pytest.approx([1.0, 1.0, 1.0, 0.1, 0.1])
