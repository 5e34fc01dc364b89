"""Lesson 03's checks: the right answer passes, and each typical wrong one is explained by its misconception."""

import copy
import math

import pytest
import torch

from course_utils import checks
from course_utils.checks.schedules import _reference_loop, _starter_loop

from . import message_for

# Exercise 1.


def even_ratios(start, end, num_steps):
    return [start * (end / start) ** (step / (num_steps - 1)) for step in range(num_steps)]


WRONG_RATES = {
    "equal distances": lambda a, b, n: torch.linspace(a, b, n, dtype=torch.float64).tolist(),
    "Your last rate is not the end": lambda a, b, n: [a * (b / a) ** (step / n) for step in range(n)],
    "Your first rate is not the start": lambda a, b, n: [a * (b / a) ** (step / n) for step in range(1, n + 1)],
    "one rate too many": lambda a, b, n: even_ratios(a, b, n + 1),
    "You return the exponents": lambda a, b, n: [math.log10(lr) for lr in even_ratios(a, b, n)],
    "You return the logarithms": lambda a, b, n: [math.log(lr) for lr in even_ratios(a, b, n)],
    "Your rates fall": lambda a, b, n: even_ratios(a, b, n)[::-1],
    "You multiply by end / start at every step": lambda a, b, n: [a * (b / a) ** step for step in range(n)],
    "You return 3 rates. num_steps=5 asks for 5": lambda a, b, n: [a, b, b],
    "rate 1 should be 0.01; yours is 0.5": lambda a, b, n: [a, 0.5, *even_ratios(a, b, n)[2:]],
    "It should return a list of numbers": lambda a, b, n: a,
    "returned None": lambda a, b, n: print(end=""),
    "ZeroDivisionError": lambda a, b, n: 1 / 0,
}


def test_rates_of_even_ratio_pass_also_as_a_tensor():
    assert checks.even_ratios(even_ratios).passed
    assert checks.even_ratios(
        lambda a, b, n: torch.logspace(math.log10(a), math.log10(b), n, dtype=torch.float64)
    ).passed


@pytest.mark.parametrize("words", WRONG_RATES)
def test_wrong_rates_are_explained(words):
    assert words in message_for(checks.even_ratios, WRONG_RATES[words])


# Exercise 2.


def finite(losses):
    kept = []
    for loss in losses:
        if not math.isfinite(loss):
            break
        kept.append(loss)
    return kept


def centered(losses):
    return [sum(losses[max(0, i - 2) : i + 3]) / len(losses[max(0, i - 2) : i + 3]) for i in range(len(losses))]


def lowest(values):
    return min(range(len(values)), key=values.__getitem__)


def behind(losses):
    return [sum(losses[max(0, i - 4) : i + 1]) / len(losses[max(0, i - 4) : i + 1]) for i in range(len(losses))]


def exponential(losses):
    means = [losses[0]]
    for loss in losses[1:]:
        means.append(0.8 * means[-1] + 0.2 * loss)
    return means


def read_finder(lrs, losses):
    return lrs[lowest(centered(finite(losses)))] / 3


WRONG_READINGS = {
    "sweet spot": lambda lrs, losses: lrs[lowest(centered(finite(losses)))],
    "One lucky batch decided": lambda lrs, losses: lrs[lowest(finite(losses))] / 3,
    "the rate of the lowest single loss": lambda lrs, losses: lrs[lowest(finite(losses))],
    "Your mean looks back": lambda lrs, losses: lrs[lowest(behind(finite(losses)))] / 3,
    "Your mean is an exponential one": lambda lrs, losses: lrs[lowest(exponential(finite(losses)))] / 3,
    "You return the lowest mean loss": lambda lrs, losses: min(centered(finite(losses))),
    "You return the index": lambda lrs, losses: lowest(centered(finite(losses))),
    "always return the largest rate": lambda lrs, losses: lrs[-1] / 3,
    "A NaN or an infinity gets into your answer": lambda lrs, losses: lrs[lowest(centered(losses))] / 3,
    "For curve 0 the rate is": lambda lrs, losses: 0.123,
    "It should return one number": lambda lrs, losses: (1e-3, 1e-2),
    "Your answer holds NaN": lambda lrs, losses: math.nan,
    "Your function changed `losses`": lambda lrs, losses: losses.clear() or 0.1,
}


def test_the_right_reading_passes():
    assert checks.read_finder(read_finder).passed


@pytest.mark.parametrize("words", WRONG_READINGS)
def test_a_wrong_reading_is_explained(words):
    assert words in message_for(checks.read_finder, WRONG_READINGS[words])


# Exercise 3.


def step_at(model, optimizer, loss_fn, x, y, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
    return loss_fn(model(x), y).item()


def try_rate(model, optimizer, loss_fn, x, y, lr):
    model, optimizer = copy.deepcopy((model, optimizer))
    return step_at(model, optimizer, loss_fn, x, y, lr)


def by_states(model, optimizer, loss_fn, x, y, lr, copied=copy.deepcopy, and_optimizer=True):
    kept, own = copied(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    loss = step_at(model, optimizer, loss_fn, x, y, lr)
    model.load_state_dict(kept)
    if and_optimizer:
        optimizer.load_state_dict(own)
    return loss


def only_the_weights(model, optimizer, loss_fn, x, y, lr):
    kept, own = [p.detach().clone() for p in model.parameters()], copy.deepcopy(optimizer.state_dict())
    loss = step_at(model, optimizer, loss_fn, x, y, lr)
    with torch.no_grad():
        for p, value in zip(model.parameters(), kept, strict=True):
            p.copy_(value)
    optimizer.load_state_dict(own)
    return loss


def without_the_state(model, optimizer, loss_fn, x, y, lr):
    rate = optimizer.param_groups[0]["lr"]
    loss = by_states(model, optimizer, loss_fn, x, y, lr, and_optimizer=False)
    optimizer.param_groups[0]["lr"] = rate
    return loss


def copied_apart(model, optimizer, loss_fn, x, y, lr):
    return step_at(copy.deepcopy(model), copy.deepcopy(optimizer), loss_fn, x, y, lr)


def at_its_own_rate(model, optimizer, loss_fn, x, y, lr):
    model, optimizer = copy.deepcopy((model, optimizer))
    return step_at(model, optimizer, loss_fn, x, y, optimizer.param_groups[0]["lr"])


WRONG_TRIES = {
    "The weights have changed": step_at,
    "it holds the weights themselves": lambda *given: by_states(*given, copied=lambda state: state),
    "the weights but not the buffers": only_the_weights,
    "the optimizer's rate is 1.5 and was 0.1": lambda *given: by_states(*given, and_optimizer=False),
    "SGD still remembers your step in its state (momentum_buffer)": without_the_state,
    "You return the loss before the step": copied_apart,
    "Your step used the optimizer's own rate, 0.1": at_its_own_rate,
    "After one step at the rate 1.5 the loss is": lambda *given: 12.3,
    "It should return one number": lambda *given: [1.0],
}


@pytest.mark.parametrize("answer", [try_rate, by_states])
def test_restoring_passes_in_either_way(answer):
    assert checks.try_rate(answer).passed


@pytest.mark.parametrize("words", WRONG_TRIES)
def test_what_is_not_restored_is_named(words):
    assert words in message_for(checks.try_rate, WRONG_TRIES[words])


# Exercise 4.


def warmup_cosine(step, num_steps, num_warmup, final):
    if step < num_warmup:
        return 0.1 + 0.9 * step / num_warmup
    done = (step - num_warmup) / (num_steps - num_warmup)
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2


def changed(*, up=None, down=None):
    def answer(step, num_steps, num_warmup, final):
        if step < num_warmup and up:
            return up(step, num_warmup)
        if step >= num_warmup and down:
            return down((step - num_warmup) / (num_steps - num_warmup), final)
        return warmup_cosine(step, num_steps, num_warmup, final)

    return answer


WRONG_SCHEDULES = {
    "Your warm-up starts at 0": changed(up=lambda step, n: step / n),
    "Your warm-up is (step + 1)": changed(up=lambda step, n: (step + 1) / n),
    "Your cosine counts from step 0": lambda step, n, w, final: (
        warmup_cosine(step, n, w, final) if step < w else warmup_cosine(step, n, 0, final)
    ),
    "never reaches its end": lambda step, n, w, final: warmup_cosine(step, n + w if step >= w else n, w, final),
    "It should fall to final": lambda step, n, w, final: warmup_cosine(step, n, w, 0.0),
    "is cut off at final": lambda step, n, w, final: max(final, warmup_cosine(step, n, w, 0.0)),
    "cut off at final": changed(down=lambda d, final: max(final, (1 + math.cos(math.pi * d)) / 2)),
    "You add final": changed(down=lambda done, final: final + (1 + math.cos(math.pi * done)) / 2),
    "down and up again": changed(down=lambda d, final: final + (1 - final) * (1 + math.cos(2 * math.pi * d)) / 2),
    "takes radians": changed(down=lambda d, final: final + (1 - final) * (1 + math.cos(180 * d)) / 2),
    "Your rate falls linearly": changed(down=lambda done, final: 1 - (1 - final) * done),
    "Your schedule has no warm-up": lambda step, n, w, final: (
        final + (1 - final) * (1 + math.cos(math.pi * (step - w) / (n - w))) / 2
    ),
    "step 0 should have the share 0.1000; yours is 7.0000": lambda step, n, w, final: 7.0,
    "ZeroDivisionError": lambda step, n, w, final: (
        0.1 + 0.9 * step / w if step <= w else warmup_cosine(step, n, w, final)
    ),
    "returned None": lambda step, n, w, final: print(end=""),
}


def test_the_right_schedule_passes():
    assert checks.warmup_cosine(warmup_cosine).passed


@pytest.mark.parametrize("words", WRONG_SCHEDULES)
def test_a_wrong_schedule_is_explained(words):
    assert words in message_for(checks.warmup_cosine, WRONG_SCHEDULES[words])


# Exercise 5.


def loop(place, *, note_after=False, step=True, note=True, zero=True):
    def answer(model, optimizer, scheduler, loss_fn, epochs):
        used = []
        for batches in epochs:
            if place == "epoch's start":
                scheduler.step()
            for x, y in batches:
                if zero:
                    optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                if note:
                    used.append(optimizer.param_groups[0]["lr"])
                if step:
                    optimizer.step()
                if place == "every step":
                    scheduler.step()
            if place == "epoch's end":
                scheduler.step()
        return [0.4] * 5 if note_after else used

    return answer


WRONG_LOOPS = {
    "at every step, and before the optimizer": lambda *given: _starter_loop(*given),
    "falls in one epoch as much as it should in several": loop("every step"),
    "at the start of an epoch": loop("epoch's start"),
    "The rate never changes": loop("nowhere"),
    "You recorded 5 rates for 11 steps": loop("epoch's end", note_after=True),
    "You recorded 0 rates for 11 steps": loop("epoch's end", note=False),
    "The weights never change": loop("epoch's end", step=False),
    "or a step does something else": loop("epoch's end", zero=False),
    "Step 0 should have the rate 0.4; yours is 0.8": lambda *given: [2 * lr for lr in _reference_loop(*given)],
}


def test_the_fixed_loop_passes_and_the_starter_loop_is_not_attempted():
    assert checks.cured_schedule(loop("epoch's end")).passed
    assert "Not attempted yet: these are the lines as they were given" in repr(checks.cured_schedule(_starter_loop))


@pytest.mark.parametrize("words", WRONG_LOOPS)
def test_a_loop_that_is_not_fixed_is_explained(words):
    assert words in message_for(checks.cured_schedule, WRONG_LOOPS[words])


def stub(*given): ...


@pytest.mark.parametrize("name", ["even_ratios", "read_finder", "try_rate", "warmup_cosine"])
def test_an_untouched_stub_is_not_attempted(name):
    assert "Not attempted yet" in repr(getattr(checks, name)(stub))
