"""Lesson 05's checks: a sum undone, window means, the notes' last loop fixed, a curve predicted, a curve named."""

import functools
import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch

from course_utils.checks.runner import Answer, exercise
from course_utils.checks.values import Wrong, choice, compare, mean, numbers, short

NAMES = ("sum since the start", "mean since the start", "sum of the epoch", "mean of the epoch")
WINDOW = 4


def _epochs(generator: torch.Generator, num_epochs: int, length: int) -> list[list[float]]:
    """Return the batch losses of each epoch; they fall, with some noise, as in a real run."""
    rows = torch.rand(num_epochs, length, generator=generator, dtype=torch.float64)
    return [(row + 2.0 / epoch).tolist() for epoch, row in enumerate(rows, start=1)]


@exercise(
    "05-recover",
    "Get the kilometres back",
    praise="Nothing was lost: the sum since the start determines the mean of every epoch.",
)
def recover(answer: Answer) -> None:
    """Check exercise 1 of lesson 05: the epochs' means from the sum since the start."""
    generator = torch.Generator().manual_seed(0)
    for num_epochs, length in ((4, 5), (1, 3), (6, 23)):
        epochs = _epochs(generator, num_epochs, length)
        sums = list(accumulate(sum(epoch) for epoch in epochs))
        right = [mean(epoch) for epoch in epochs]
        given = numbers(answer(sums, length))
        compare(
            given,
            right,
            [
                (
                    right[1:],
                    f"The first epoch is missing: {num_epochs} sums, {num_epochs} epochs. Before "
                    "the first, the sum was 0.",
                ),
                (
                    [sums[0], *right[1:]],
                    "Your first value is the sum of the first epoch. Divide it by the number of batches, too.",
                ),
                (
                    [total / length for total in sums],
                    "You divide the whole sum by the batches of one epoch. First subtract the sum before this epoch.",
                ),
                (
                    [total / (length * count) for count, total in enumerate(sums, start=1)],
                    "That is the mean since the start. An epoch's own sum is what was added since the "
                    "previous epoch: subtract.",
                ),
                (
                    [mean * length for mean in right],
                    "Those are the sums of the epochs. Divide each by the number of batches in an epoch.",
                ),
                (
                    [mean * length / num_epochs for mean in right],
                    "You divide by the number of epochs. An epoch's sum has one loss per batch: divide "
                    "by the number of batches.",
                ),
                ([-mean for mean in right], "The sign is reversed: subtract the earlier sum from the later one."),
                (sums, "Those are the sums as they were given. Subtract the previous one from each, then divide."),
            ],
            f"For the sums {short(sums)} of epochs of {length} batches the means are {short(right)}; "
            f"yours are {short(given)}.",
        )


def _divide_by(count: int, losses: Sequence[float]) -> float:
    return sum(losses) / count


def _windows(epochs: list[list[float]], window: int, finish: Callable[[list[float]], float]) -> list[float]:
    """Return one value per window of each epoch, including the short one at its end."""
    return [finish(epoch[start : start + window]) for epoch in epochs for start in range(0, len(epoch), window)]


@exercise(
    "05-windows",
    "Write this step",
    praise="You divide each sum by what was added, and no batch of one epoch is counted in the next.",
)
def window_means(answer: Answer) -> None:
    """Check exercise 2 of lesson 05: means over windows that start again with each epoch."""
    generator = torch.Generator().manual_seed(0)
    for num_epochs, length, window in ((3, 7, 3), (2, 4, 2), (2, 3, 5)):
        epochs = _epochs(generator, num_epochs, length)
        flat = [loss for epoch in epochs for loss in epoch]
        full = [[epoch[s : s + window] for s in range(0, length - window + 1, window)] for epoch in epochs]
        carried, kept = [], 0.0
        for epoch in epochs:
            for place, loss in enumerate(epoch, start=1):
                kept += loss
                if place % window == 0:
                    carried.append(kept / window)
                    kept = 0.0
        ends = [place for place in range(1, length + 1) if place % window == 0 or place == length]
        given = numbers(answer([list(epoch) for epoch in epochs], window))
        compare(
            given,
            _windows(epochs, window, mean),
            [
                (
                    _windows(epochs, window, functools.partial(_divide_by, window)),
                    "The last window of an epoch is short, but you divide it by the full length. "
                    "Divide by what was added.",
                ),
                (
                    _windows(epochs, window, sum),
                    "Those are sums. They show the trend as well, but the short window at the end of an epoch is too "
                    "low: divide each by the number of losses in it.",
                ),
                (
                    _windows([flat], window, mean),
                    "Your windows continue from one epoch into the next. Start a new window with each epoch.",
                ),
                (
                    [mean(losses) for epoch in full for losses in epoch],
                    "The rest at the end of an epoch is missing: it is a window too, a short one.",
                ),
                (
                    carried,
                    "You add the rest of an epoch to the first window of the next one, which becomes too large. Log "
                    "the rest at the end of the epoch and set the sum to zero.",
                ),
                (
                    [sum(epoch[:end]) / window for epoch in epochs for end in ends],
                    "You do not set the sum to zero after a window: each value includes all windows "
                    "before it. This is the ramp.",
                ),
                (
                    [mean(epoch[:end]) for epoch in epochs for end in ends],
                    "Your sum and count continue after a window: that is the mean since the epoch "
                    "began. Set both to zero.",
                ),
                (
                    [mean(epoch) for epoch in epochs],
                    "Those are the means of whole epochs. Log after every window, too.",
                ),
                (
                    [mean(flat[max(0, end - window) : end]) for end in range(1, len(flat) + 1)],
                    "That is a moving mean, one value per batch. Here each batch belongs to only one window.",
                ),
            ],
            f"For epochs of {length} batches in windows of {window} the means are "
            f"{short(_windows(epochs, window, mean))}; yours are {short(given)}.",
        )


def _starter_loop(epochs, log):
    """Log as the starter code of exercise 3 does; it is that of the notes."""
    steps = 0
    running_loss1 = 0.0
    for epoch, batches in enumerate(epochs):
        running_loss = 0.0
        for loss, _size in batches:
            running_loss += loss
            running_loss1 += loss
        steps += 1  # noqa: SIM113
        if steps % 4 == 0:
            log("step_loss", running_loss1 / 4, steps)
            log("epoch_loss", running_loss / len(batches), epoch)


@exercise(
    "05-books",
    "Cure this loop",
    starter=_starter_loop,
    returns_nothing=True,
    praise="Two accumulators, each divided by what was added to it, and steps that count batches.",
)
def books(answer: Answer) -> None:
    """Check exercise 3 of lesson 05: the two curves of the notes' last loop."""
    generator = torch.Generator().manual_seed(0)
    for num_epochs, length in ((3, 6), (2, 8), (5, 3)):
        epochs = [
            [(loss, 1 if place == length else 3) for place, loss in enumerate(losses, start=1)]
            for losses in _epochs(generator, num_epochs, length)
        ]
        curves: dict[str, list[tuple[Any, Any]]] = {"step_loss": [], "epoch_loss": []}

        def log(tag: str, value: Any, step: Any, curves: dict = curves) -> None:
            if tag not in curves:
                raise Wrong(f"You log under {tag!r}. The tags are 'step_loss' and 'epoch_loss'.")
            curves[tag].append((step, value))

        answer([list(batches) for batches in epochs], log)
        flat = [loss for batches in epochs for loss, _ in batches]
        _check_epoch_loss(curves["epoch_loss"], epochs)
        _check_step_loss(curves["step_loss"], epochs, flat)


def _check_epoch_loss(points: list[tuple[Any, Any]], epochs: list[list[tuple[float, int]]]) -> None:
    length, total = len(epochs[0]), len(epochs) * len(epochs[0])
    if len(points) == total:
        raise Wrong(f"epoch_loss has {total} points, one for each batch. Log it once, after the loop over the batches.")
    if len(points) != len(epochs):
        raise Wrong(
            f"epoch_loss has {len(points)} points for {len(epochs)} epochs. Its line is inside the if of the window: "
            "move it out, after the loop over the batches."
        )
    values = numbers([value for _, value in points], len(epochs))
    sizes = [size for _, size in epochs[0]]
    losses = [[loss for loss, _ in batches] for batches in epochs]
    weighted = [[loss * size for loss, size in batches] for batches in epochs]
    compare(
        values,
        [sum(row) / sum(sizes) for row in weighted],
        [
            (
                [mean(row) for row in losses],
                "epoch_loss counts each batch equally, but the last one is short. Add loss × size and divide "
                "by the number of samples.",
            ),
            (
                [sum(row) / sum(sizes) for row in losses],
                f"You add one loss per batch and divide by the samples: the result is {sum(sizes) / length:.3g} times "
                "too small. Add loss × size.",
            ),
            (
                [sum(row) / length for row in weighted],
                "You add loss × size and divide by the number of batches. Divide by the number of samples.",
            ),
            ([sum(row) for row in losses], "epoch_loss is a sum. Divide it."),
            ([sum(row) for row in weighted], "epoch_loss is a sum over samples. Divide it by their number."),
            (
                list(accumulate(sum(row) / sum(sizes) for row in weighted)),
                "epoch_loss grows from epoch to epoch: set its sum to zero when an epoch begins.",
            ),
        ],
        f"In epochs of {length} batches, epoch_loss should be {short([sum(row) / sum(sizes) for row in weighted])}; "
        f"yours is {short(values)}.",
    )
    if [step for step, _ in points] != list(range(len(epochs))):
        raise Wrong(
            f"epoch_loss is logged at {short([step for step, _ in points])}. Its step is the epoch: 0, 1, 2 and so on."
        )


def _check_step_loss(points: list[tuple[Any, Any]], epochs: list[list[tuple[float, int]]], flat: list[float]) -> None:
    length, ends = len(epochs[0]), range(WINDOW, len(flat) + 1, WINDOW)
    right = [mean(flat[end - WINDOW : end]) for end in ends]
    values = numbers([value for _, value in points])
    if len(values) == len(epochs) // WINDOW:
        raise Wrong(
            f"step_loss has {len(values)} points for {len(flat)} batches: steps counts epochs. Move steps += 1 and the "
            "if into the loop over the batches."
        )
    lost, kept = [], 0.0
    for place, loss in enumerate(flat):
        kept = loss if place % length == 0 else kept + loss
        if (place + 1) % WINDOW == 0:
            lost.append(kept / WINDOW)
            kept = 0.0
    compare(
        values,
        right,
        [
            (
                [sum(flat[:end]) / WINDOW for end in ends],
                "step_loss climbs: running_loss1 is never set to zero. Set it to zero after each point.",
            ),
            (
                [mean(flat[:end]) for end in ends],
                "step_loss is the mean since the start. Set running_loss1 to zero after each point, and divide by 4.",
            ),
            (
                lost,
                "You set running_loss1 to zero when an epoch begins, but a window of steps continues: what was added "
                "before the end of the epoch is lost. Set it to zero only after each point.",
            ),
            ([sum(flat[end - WINDOW : end]) for end in ends], "step_loss is a sum of 4 losses. Divide it by 4."),
            (flat, "You log a step_loss for each batch. Log it after every 4 batches."),
        ],
        f"In epochs of {length} batches, step_loss should be {short(right)}; yours is {short(values)}.",
    )
    if [step for step, _ in points] != list(ends):
        raise Wrong(
            f"step_loss is logged at the steps {short([step for step, _ in points])}. A step is a batch, counted over "
            f"all epochs: {short(list(ends))}."
        )


@exercise(
    "05-predict",
    "Predict this curve",
    praise="The three batches left over from an epoch are in the window of the next.",
)
def predict_curve(answer: Answer) -> None:
    """Check exercise 4 of lesson 05: the four numbers that the loop of the exercise logs."""
    given = numbers(answer())
    right, window_loss = [], 0.0
    for _ in range(4):
        for i in range(13):
            window_loss += 1.0
            if (i + 1) % 10 == 0:
                right.append(window_loss / 10)
                window_loss = 0.0
    never = "You expect a sum that is never set to zero. It is, after each point, but not at the end of an epoch."
    compare(
        given,
        right,
        [
            (
                [1.0] * 4,
                "You expect the mean each time. But i starts again with each epoch, and window_loss does not: what "
                "does it hold when the second epoch begins?",
            ),
            ([1.0, 2.0, 3.0, 4.0], never),
            ([1.0, 2.3, 3.6, 4.9], never),
            (
                [1.0, 1.3, 1.6, 1.9],
                "Three batches are left over in each epoch, but they do not pile up: the next point includes them "
                "and sets the sum to zero.",
            ),
            ([1.3] * 4, "Nothing is left over before the first epoch, so the first point is different."),
            ([10.0, 13.0, 13.0, 13.0], "Those are the sums. The loop divides by 10."),
            ([1.0] * 5, "52 batches have five full windows, but i starts again with each epoch: one point per epoch."),
            ([1.0, 0.3] * 4, "Nothing is logged at the end of an epoch: i + 1 is 13 there, and 13 % 10 is not 0."),
        ],
        f"The loop logs four numbers, one per epoch; yours are {short(given)}. Start with the first: ten losses of 1.0 "
        "are added, then divided by 10.",
    )


@exercise("05-name", "Name this curve", praise="You know four curves by their numbers, whatever they look like.")
def name_curve(answer: Answer) -> None:
    """Check exercise 5 of lesson 05: which of four numbers was logged after each epoch."""
    generator = torch.Generator().manual_seed(0)
    # Sums of 64ths are exact in any order: a comparison with == fails only in the case meant for it.
    falling = [[round(64 * x) / 64 for x in row] for row in _epochs(generator, 4, 5)]
    # The loss of this run grows, so that its means rise as the sums of another run do.
    runs = {"a loss that falls": falling, "a loss that grows": [[3 * x for x in row] for row in falling[::-1]]}
    # The sums of this run are all below the means of the others: size alone does not name a curve.
    runs["small losses"] = [[x / 100 for x in row] for row in falling]
    runs["another order"] = falling
    given: dict[tuple[str, str], str] = {}
    for run, epochs in runs.items():
        sums = [sum(epoch) for epoch in epochs]
        totals = list(accumulate(sums))
        curves = {
            NAMES[0]: totals,
            NAMES[1]: [total / (5 * count) for count, total in enumerate(totals, start=1)],
            NAMES[2]: sums,
            NAMES[3]: [total / 5 for total in sums],
        }
        for name, logged in curves.items():
            if run == "another order":  # of the additions: the last digit differs
                logged = [math.nextafter(value, math.inf) for value in logged]
            try:
                named = answer(list(logged), [list(epoch) for epoch in epochs])
            except Wrong:
                if given and answer.value is None:
                    raise Wrong(
                        "Your function names some curves and returns None for others. If you compare with ==: floats "
                        "added in another order differ in their last digit. Use math.isclose."
                    ) from None
                raise
            given[run, name] = choice(named, NAMES)
    if len(set(given.values())) == 1:
        raise Wrong(f"Your function returns {given['small losses', NAMES[0]]!r} for every curve.")
    _check_names(given)


def _check_names(given: dict[tuple[str, str], str]) -> None:
    falling = {right: named for (run, right), named in given.items() if run == "a loss that falls"}
    pairs = [(NAMES[0], NAMES[2], "sums"), (NAMES[1], NAMES[3], "means")]
    for first, second, kind in pairs:
        if falling[first] == falling[second] and falling[first] in (first, second):
            raise Wrong(
                f"You call both {kind} {falling[first]!r}. After the first epoch they are equal: compare a later epoch."
            )
    if all(named == right for right, named in falling.items()):
        for (run, right), named in given.items():
            if named != right and run == "another order":
                raise Wrong(
                    f"You call the {right} {named!r} when its losses were added in another order. Then the last digit "
                    "differs: compare with math.isclose, not with ==."
                )
            if named != right:
                raise Wrong(
                    f"With {run} you call the {right} {named!r}. You judge by the look of the curve, or by its size: "
                    "compute the four candidates and compare the numbers."
                )
        return
    swapped = dict([*((a, b) for a, b, _ in pairs), *((b, a) for a, b, _ in pairs)])
    if all(named == swapped[right] for right, named in falling.items()):
        raise Wrong("You swapped the epoch and the start: 'since the start' means that nothing was set to zero.")
    right, named = next((right, named) for right, named in falling.items() if named != right)
    raise Wrong(f"You call the {right} {named!r}. Compute that number for the last epoch and compare.")
