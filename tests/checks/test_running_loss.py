"""Lesson 05's checks: the right answer passes, and each typical wrong one is explained by its misconception."""

import math
from itertools import accumulate

import pytest

from course_utils import checks
from course_utils.checks.running_loss import _starter_loop

from . import message_for


def mean(values):
    return sum(values) / len(values)


# Exercise 1: the sum since the start, undone.


def recover(sums, length):
    return [(after - before) / length for before, after in zip([0.0, *sums], sums, strict=False)]


WRONG_RECOVERIES = {
    "The first epoch is missing": lambda sums, length: recover(sums, length)[1:],
    "Your first value is the sum of the first epoch": lambda sums, n: [sums[0], *recover(sums, n)[1:]],
    "You divide the whole sum by the batches of one epoch": lambda sums, n: [total / n for total in sums],
    "That is the mean since the start": lambda sums, n: [total / (n * i) for i, total in enumerate(sums, start=1)],
    "Those are the sums of the epochs": lambda sums, n: [value * n for value in recover(sums, n)],
    "You divide by the number of epochs": lambda sums, n: [value * n / len(sums) for value in recover(sums, n)],
    "The sign is reversed": lambda sums, n: [-value for value in recover(sums, n)],
    "Those are the sums as they were given": lambda sums, n: list(sums),
    "Your function changed `sums`": lambda sums, n: sums.pop(),
    "It should return a list of numbers": lambda sums, n: sums[-1] / n,
    "the means are": lambda sums, n: [0.5],
}


def test_the_right_recovery_passes():
    assert checks.recover(recover).passed


@pytest.mark.parametrize("words", WRONG_RECOVERIES)
def test_a_wrong_recovery_is_explained(words):
    assert words in message_for(checks.recover, WRONG_RECOVERIES[words])


# Exercise 2: window means.


def windows(epochs, window, finish=mean, run_on=False, rest=True):
    rows = [[loss for epoch in epochs for loss in epoch]] if run_on else epochs
    cut = [row[start : start + window] for row in rows for start in range(0, len(row), window)]
    return [finish(losses) for losses in cut if rest or len(losses) == window]


def never_reset(epochs, window, divide):
    values = []
    for losses in epochs:
        total = 0.0
        for count, loss in enumerate(losses, start=1):
            total += loss
            if count % window == 0 or count == len(losses):
                values.append(total / (window if divide == "window" else count))
    return values


def carried_over(epochs, window):
    values, total = [], 0.0
    for losses in epochs:
        for i, loss in enumerate(losses):
            total += loss
            if (i + 1) % window == 0:
                values.append(total / window)
                total = 0.0
    return values


def moving(epochs, window):
    flat = [loss for epoch in epochs for loss in epoch]
    return [mean(flat[max(0, end - window) : end]) for end in range(1, len(flat) + 1)]


WRONG_WINDOWS = {
    "you divide it by the full length": lambda epochs, w: windows(epochs, w, lambda losses: sum(losses) / w),
    "Those are sums": lambda epochs, w: windows(epochs, w, sum),
    "continue from one epoch into the next": lambda epochs, w: windows(epochs, w, run_on=True),
    "The rest at the end of an epoch is missing": lambda epochs, w: windows(epochs, w, rest=False),
    "to the first window of the next one": carried_over,
    "This is the ramp": lambda epochs, w: never_reset(epochs, w, "window"),
    "that is the mean since the epoch began": lambda epochs, w: never_reset(epochs, w, "count"),
    "Those are the means of whole epochs": lambda epochs, w: [mean(losses) for losses in epochs],
    "That is a moving mean": moving,
    "Item 0 of your list": lambda epochs, w: [windows([losses], w) for losses in epochs],
    "Your answer holds NaN": lambda epochs, w: [math.nan],
    "the means are": lambda epochs, w: [0.5],
}


def test_the_right_windows_pass():
    assert checks.window_means(windows).passed


@pytest.mark.parametrize("words", WRONG_WINDOWS)
def test_wrong_windows_are_explained(words):
    assert words in message_for(checks.window_means, WRONG_WINDOWS[words])


# Exercise 3: the notes' last loop.


def books(
    window_sum="after each point",
    epoch_sum="weighted",
    epoch_place="after the batches",
    divide=True,
    numbers="batches",
    epoch_by="samples",
    epoch_reset=True,
    tag="step_loss",
):
    """A loop with one thing different from the right one."""

    def keep_books(epochs, log):
        steps, window, total, samples = 0, 0.0, 0.0, 0
        for epoch, batches in enumerate(epochs):
            if epoch_reset:
                total, samples = 0.0, 0
            if window_sum == "at each epoch":
                window = 0.0
            for loss, size in batches:
                window += loss
                total += loss * size if epoch_sum == "weighted" else loss
                samples += size
                steps += 1
                divisor = {"samples": samples, "batches": len(batches), "nothing": 1}[epoch_by]
                if steps % 4 == 0 or window_sum == "each batch":
                    log(tag, window / (4 if divide else 1), epoch if numbers == "epochs" else steps)
                    window = 0.0 if window_sum != "never" else window
                    if epoch_place == "in the if":
                        log("epoch_loss", total / divisor, epoch)
                if epoch_place == "in the batches":
                    log("epoch_loss", total / divisor, epoch)
            if epoch_place == "after the batches":
                log("epoch_loss", total / divisor, steps if numbers == "batches everywhere" else epoch)

    return keep_books


def epochs_for_steps(epochs, log):
    steps, running_loss1 = 0, 0.0
    for epoch, batches in enumerate(epochs):
        running_loss = samples = 0.0
        for loss, size in batches:
            running_loss += loss * size
            samples += size
            running_loss1 += loss
        steps += 1  # noqa: SIM113
        if steps % 4 == 0:
            log("step_loss", running_loss1 / 4, steps)
        log("epoch_loss", running_loss / samples, epoch)


def not_reset_but_divided_by_steps(epochs, log):
    steps, running_loss1 = 0, 0.0
    for epoch, batches in enumerate(epochs):
        for loss, _ in batches:
            running_loss1 += loss
            steps += 1
            if steps % 4 == 0:
                log("step_loss", running_loss1 / steps, steps)
        log("epoch_loss", sum(a * n for a, n in batches) / sum(n for _, n in batches), epoch)


def not_started(epochs, log):
    for batches in epochs:
        for loss, _ in batches:
            running_loss1 += loss  # noqa: F821, F841


def each_batch(epochs, log):
    books()(epochs, lambda tag, value, step: log(tag, value, step) if tag == "epoch_loss" else None)
    steps = 0
    for batches in epochs:
        for loss, _ in batches:
            steps += 1
            log("step_loss", loss, steps)


WRONG_BOOKS = {
    "step_loss climbs: running_loss1 is never set to zero": books(window_sum="never"),
    "step_loss is the mean since the start": not_reset_but_divided_by_steps,
    "what was added before the end of the epoch is lost": books(window_sum="at each epoch"),
    "step_loss is a sum of 4 losses": books(divide=False),
    "You log a step_loss for each batch": each_batch,
    "steps counts epochs": epochs_for_steps,
    "A step is a batch, counted over all epochs": books(numbers="epochs"),
    "Its step is the epoch": books(numbers="batches everywhere"),
    "one for each batch. Log it once": books(epoch_place="in the batches"),
    "Its line is inside the if": books(epoch_place="in the if"),
    "counts each batch equally": books(epoch_sum="plain", epoch_by="batches"),
    "2.67 times too small": books(epoch_sum="plain"),
    "You add loss × size and divide by the number of batches": books(epoch_by="batches"),
    "epoch_loss is a sum. Divide it.": books(epoch_sum="plain", epoch_by="nothing"),
    "epoch_loss is a sum over samples": books(epoch_by="nothing"),
    "epoch_loss grows from epoch to epoch": lambda epochs, log: grow(epochs, log),
    "The tags are 'step_loss' and 'epoch_loss'": books(tag="Step_loss"),
    "Your function uses a name before it has a value": not_started,
    "Your function changed argument 1": lambda *given: given[0].clear(),
    "epoch_loss should be": lambda epochs, log: [log("epoch_loss", 0.5, e) for e in range(len(epochs))],
    "step_loss should be": lambda epochs, log: books()(
        epochs, lambda tag, value, step: log(tag, 0.5 if tag == "step_loss" else value, step)
    ),
}


def grow(epochs, log):
    total = 0.0
    for epoch, batches in enumerate(epochs):
        total += sum(a * n for a, n in batches) / sum(n for _, n in batches)
        log("epoch_loss", total, epoch)


def test_the_fixed_loop_passes():
    assert checks.books(books()).passed


@pytest.mark.parametrize("words", WRONG_BOOKS)
def test_a_loop_that_is_still_wrong_is_explained(words):
    assert words in message_for(checks.books, WRONG_BOOKS[words])


def test_the_starter_loop_is_not_attempted():
    assert "these are the lines as they were given" in message_for(checks.books, _starter_loop)


# Exercise 4: a curve predicted.

WRONG_CURVES = {
    "You expect the mean each time": [1.0] * 4,
    "never set to zero. It is, after each point": [1.0, 2.0, 3.0, 4.0],
    "It is, after each point, but not at the end of an epoch": [1.0, 2.3, 3.6, 4.9],
    "they do not pile up": [1.0, 1.3, 1.6, 1.9],
    "Nothing is left over before the first epoch": [1.3] * 4,
    "Those are the sums. The loop divides by 10": [10, 13, 13, 13],
    "52 batches have five full windows": [1.0] * 5,
    "Nothing is logged at the end of an epoch": [1.0, 0.3] * 4,
    "Start with the first": [1.0, 1.3],
    "It should return a list of numbers": 1.3,
    "Your function returned None": None,
}


def test_the_right_prediction_passes():
    assert checks.predict_curve(lambda: [1.0, 1.3, 1.3, 1.3]).passed


@pytest.mark.parametrize("words", WRONG_CURVES)
def test_a_wrong_prediction_is_explained(words):
    assert words in message_for(checks.predict_curve, lambda: WRONG_CURVES[words])


# Exercise 5: a curve named.


def candidates(epochs):
    sums = [sum(losses) for losses in epochs]
    totals = list(accumulate(sums))
    batches = list(accumulate(len(losses) for losses in epochs))
    return {
        "sum since the start": totals,
        "mean since the start": [total / count for total, count in zip(totals, batches, strict=True)],
        "sum of the epoch": sums,
        "mean of the epoch": [mean(losses) for losses in epochs],
    }


def close(first, second):
    return math.isclose(first, second, rel_tol=1e-9)


def name_curve(logged, epochs, place=-1, alike=close):
    return next((name for name, curve in candidates(epochs).items() if alike(logged[place], curve[place])), "no")


def by_looks(logged, epochs):
    rises = logged[-1] > logged[0]
    size = logged[0] / epochs[0][0]
    if size > 2:
        return "sum since the start" if rises else "sum of the epoch"
    return (
        "mean of the epoch"
        if logged[-1] < mean([loss for losses in epochs for loss in losses])
        else ("mean since the start")
    )


SWAPPED = {
    "sum since the start": "sum of the epoch",
    "sum of the epoch": "sum since the start",
    "mean since the start": "mean of the epoch",
    "mean of the epoch": "mean since the start",
}


WRONG_NAMES = {
    "for every curve": lambda logged, epochs: "mean of the epoch",
    "It should return 'sum since the start', 'mean since the start'": lambda logged, epochs: "mean",
    "You call both sums 'sum since the start'": lambda logged, epochs: name_curve(logged, epochs, place=0),
    "You judge by the look of the curve": by_looks,
    "You swapped the epoch and the start": lambda logged, epochs: SWAPPED[name_curve(logged, epochs)],
    "compare with math.isclose": lambda logged, epochs: (
        "mean since the start" if (name := name_curve(logged, epochs, alike=lambda a, b: a == b)) == "no" else name
    ),
    "returns None for others. If you compare with ==": lambda logged, epochs: (
        None if (name := name_curve(logged, epochs, alike=lambda a, b: a == b)) == "no" else name
    ),
    "Compute that number for the last epoch": lambda logged, epochs: (
        "mean of the epoch" if name_curve(logged, epochs) == "sum of the epoch" else name_curve(logged, epochs)
    ),
}


def test_the_right_names_pass():
    assert checks.name_curve(name_curve).passed


@pytest.mark.parametrize("words", WRONG_NAMES)
def test_a_wrong_name_is_explained(words):
    assert words in message_for(checks.name_curve, WRONG_NAMES[words])
