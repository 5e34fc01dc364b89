"""Lesson 07's checks: curves at the right steps, an image that looks right, a loop that closes once, and a crash."""

import contextlib
import io
import operator
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from course_utils.checks.runner import Answer, exercise
from course_utils.checks.values import Points, Wrong, first_difference, mean, name_mistake, same_points, short

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="check-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _writer(folder: Path) -> Iterator[Any]:
    """Yield a real SummaryWriter and close it, whatever happens."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    try:
        yield writer
    finally:
        writer.close()


def _read_events(folder: Path) -> Any:
    """Return everything that TensorBoard's own reader finds in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def _curves(folder: Path) -> dict[str, Points]:
    found = _read_events(folder)
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def _count_files(folder: Path) -> int:
    return len(list(folder.glob("*tfevents*")))


def _curve(curves: dict[str, Points], tag: str) -> Points:
    """Return one curve."""
    if tag not in curves:
        if not curves:
            raise Wrong(f"The file holds no curves. Log one with the tag {tag!r}, the first argument of add_scalar.")
        raise Wrong(
            f"The file holds no curve with the tag {tag!r}; its tags are {', '.join(map(repr, curves))}. The "
            "tag is the first argument."
        )
    return curves[tag]


def _same_logged(first: Points, second: Points) -> bool:
    return same_points(first, second, rel_tol=1e-5)  # An event file stores a value in 32 bits.


def _compare_points(name: str, points: Points, right: Points, mistakes: Sequence[tuple[Points, str]]) -> None:
    """Raise `Wrong` if a curve has the wrong points, with the misconception that leads to them."""
    if _same_logged(points, right):
        return
    name_mistake(points, mistakes, _same_logged)
    if len(points) != len(right):
        raise Wrong(f"{name} has {len(points)} points; it should have {len(right)}.")
    place = first_difference(points, right, lambda one, other: _same_logged([one], [other]))
    given, wanted = points[place], right[place]
    raise Wrong(
        f"Point {place + 1} of {name} should be at step {wanted[0]} with the value {wanted[1]:.4f}; yours is at step "
        f"{given[0]} with the value {given[1]:.4f}."
    )


def _loss_cases() -> Iterator[list[list[float]]]:
    """Yield a few runs: the batch losses of each epoch."""
    generator = torch.Generator().manual_seed(0)
    for sizes in ((4, 4, 4), (5, 3), (1, 1)):
        yield [(1 + torch.rand(size, generator=generator)).tolist() for size in sizes]


@exercise(
    "07-log-losses",
    "Write this step",
    praise="Each loss is at its own step, each epoch at its number, in one file.",
    returns_nothing=True,
)
def log_losses(answer: Answer) -> None:
    """Check exercise 1 of lesson 07: two curves in a real event file, read with TensorBoard's own reader."""
    for epochs in _loss_cases():
        with _temporary_folder() as folder, _writer(folder) as writer:
            answer(writer, epochs)
            if writer.file_writer is None:
                raise Wrong("You closed the writer. It is not yours: whoever opened it closes it.")
            writer.flush()
            curves, files = _curves(folder), _count_files(folder)
        if files > 1:
            raise Wrong(
                f"There are {files} event files: each add_scalar after a close() opens one. Do "
                "not close the writer here."
            )
        flat = [loss for losses in epochs for loss in losses]
        steps, total = _curve(curves, "loss/step"), len(flat)
        numbered = [(number, loss) for number, losses in enumerate(epochs, 1) for loss in losses]
        restarted = [(number, loss) for losses in epochs for number, loss in enumerate(losses, 1)]
        _compare_points(
            "'loss/step'",
            steps,
            list(enumerate(flat, 1)),
            [
                (
                    [(0, loss) for loss in flat],
                    "All points of 'loss/step' be at step 0: global_step, the third argument, is missing.",
                ),
                (
                    list(enumerate(flat)),
                    "Your first batch is step 0. After it one step is done, so it is step 1: count before you log.",
                ),
                (
                    numbered,
                    "You logged 'loss/step' at the number of the epoch, so all its batches are at the "
                    "same x. Count the batches.",
                ),
                (
                    [(step - 1, loss) for step, loss in numbered],
                    "You logged 'loss/step' at the number of the epoch, so all its batches are at the "
                    "same x. Count the batches.",
                ),
                (
                    restarted,
                    "Your count starts again in each epoch, so the curve goes back. Set it once, "
                    "before the loop over epochs.",
                ),
                (
                    [(step - 1, loss) for step, loss in restarted],
                    "Your count starts again in each epoch, so the curve goes back. Set it once, "
                    "before the loop over epochs.",
                ),
                (
                    [(len(epochs), epochs[-1][-1])],
                    "'loss/step' has only the last loss: log inside the loop over the batches.",
                ),
            ],
        )
        ends = torch.tensor([len(losses) for losses in epochs]).cumsum(0).tolist()
        means = [mean(losses) for losses in epochs]
        running = [
            (number, mean(losses[: count + 1]))
            for number, losses in enumerate(epochs, 1)
            for count in range(len(losses))
        ]
        _compare_points(
            "'loss/epoch'",
            _curve(curves, "loss/epoch"),
            list(enumerate(means, 1)),
            [
                (
                    list(enumerate(map(sum, epochs), 1)),
                    "'loss/epoch' holds the sum of the epoch. Divide it by the number of its batches.",
                ),
                (list(enumerate(means)), "Your first epoch is number 0. Here the epochs count from 1."),
                (
                    list(zip(ends, means, strict=True)),
                    "'loss/epoch' is at the number of the step. Its global_step is the number of the epoch.",
                ),
                (
                    [(0, mean) for mean in means],
                    "The points of 'loss/epoch' are all at step 0: pass the epoch's number.",
                ),
                (running, "'loss/epoch' has a point for every batch: log it once, after the loop over the batches."),
                (
                    [(number, mean(flat[:end])) for number, end in enumerate(ends, 1)],
                    "Your sum is never reset: 'loss/epoch' is the mean since the start of the "
                    "run. Start each epoch at 0.",
                ),
                (
                    [(number, sum(losses) / total) for number, losses in enumerate(epochs, 1)],
                    "You divide by the number of all batches of the run. Divide by the number "
                    "of batches in that epoch.",
                ),
                (
                    [(number, sum(flat[: ends[number - 1]]) / len(losses)) for number, losses in enumerate(epochs, 1)],
                    "Your sum is never reset: 'loss/epoch' holds the epochs before as well. Start each epoch at 0.",
                ),
                (
                    [(number, losses[-1]) for number, losses in enumerate(epochs, 1)],
                    "'loss/epoch' holds the last batch's loss. Log the mean over all batches of the epoch.",
                ),
            ],
        )


@exercise(
    "07-log-image",
    "Write this line",
    praise="TensorBoard shows the digit as it is: −1 is black and 1 is white.",
    returns_nothing=True,
)
def log_image(answer: Answer) -> None:
    """Check exercise 2 of lesson 07: the pixels of the PNG in the event file."""
    generator = torch.Generator().manual_seed(0)
    for step, (height, width) in ((3, (8, 8)), (7, (6, 9)), (1, (5, 4))):
        # The darkest and the brightest pixel differ from image to image, so stretching the contrast shows.
        image = torch.rand(1, height, width, generator=generator) * 1.4 - 0.8
        image[0, 0, 0], image[0, -1, 0] = -0.9, 0.7
        with _temporary_folder() as folder, _writer(folder) as writer:
            answer(writer, image, step)
            writer.flush()
            found = _read_events(folder)
            tags = found.Tags()["images"]
            if not tags:
                raise Wrong("The file holds no image: call writer.add_image.")
            if "input" not in tags:
                raise Wrong(f"The file holds no image with the tag 'input'; its tags are {', '.join(map(repr, tags))}.")
            events = found.Images("input")
        if len(events) != 1:
            raise Wrong(f"The file holds {len(events)} images with the tag 'input'; it should hold one.")
        if events[0].step != step:
            if events[0].step == 0:
                raise Wrong(
                    f"Your image is at step 0; it should be at step {step}. Is global_step, the "
                    "third argument, missing?"
                )
            raise Wrong(f"Your image is at step {events[0].step}; it should be at step {step}.")
        _compare_images(_pixels(events[0].encoded_image_string), image[0])


def _pixels(png: bytes) -> Tensor:
    """Return the gray values of a PNG, 0 to 255, height × width."""
    from PIL import Image

    return torch.tensor(np.array(Image.open(io.BytesIO(png)).convert("L")), dtype=torch.float64)


def _compare_images(shown: Tensor, image: Tensor) -> None:
    """Raise `Wrong` if the picture shown differs from the image, whose values are between -1 and 1."""
    right = (image.double() + 1) / 2 * 255
    if shown.shape != right.shape and shown.shape == right.T.shape:
        raise Wrong(
            f"Your picture is {shown.shape[0]} pixels high and {shown.shape[1]} wide; the digit is {right.shape[0]} "
            f"high and {right.shape[1]} wide. You swapped height and width."
        )
    if shown.shape != right.shape:
        raise Wrong(
            f"Your picture is {shown.shape[0]} pixels high and {shown.shape[1]} wide; the digit is {right.shape[0]} "
            f"high and {right.shape[1]} wide."
        )
    low, high = image.min().double(), image.max().double()
    mistakes = [
        (
            image * 255,
            "All values below 0 became black: add_image takes 0 to 1 and clips the rest. Map −1 … 1 to 0 … 1 first.",
        ),
        (image / 2 * 255, "Halving leaves the negative values below 0, so they became black. Add 1 before you halve."),
        ((image + 1) * 255, "The bright half became white: image + 1 ranges from 0 to 2. Halve it, too."),
        (image.abs() * 255, "With abs(), black pixels became white. Shift the values instead: add 1, then halve."),
        (
            (image.double() - low) / (high - low) * 255,
            "You stretched the contrast: the darkest pixel of this image is not −1. Map every image in the same way, "
            "or two images cannot be compared.",
        ),
        (
            right * 255,
            "Nearly everything is white: add_image itself multiplies floats by 255. Pass values from 0 to 1.",
        ),
        (255 - right, "You swapped black and white."),
        (right.T, "You swapped height and width: your picture is on its side."),
    ]
    if (shown - right).abs().max() <= 1.5:
        return
    for wrong, why in mistakes:
        if wrong.shape == shown.shape and (shown - wrong.double().clamp(0, 255).floor()).abs().max() <= 1.5:
            raise Wrong(why)
    row, column = divmod(int((shown - right).abs().argmax()), right.shape[1])
    raise Wrong(
        f"The pixel in row {row}, column {column} is {image[row, column]:.2f} and should be shown as "
        f"{right[row, column]:.0f} of 255; yours is {shown[row, column]:.0f}."
    )


def _starter_loop(folder: Any, epochs: Any) -> None:
    """Log as the starter code of exercise 3 does; it is compared and never run."""
    writer = SummaryWriter(folder)
    steps = 0
    running_loss1 = 0.0
    for epoch, losses in enumerate(epochs):
        running_loss = 0.0
        for loss in losses:
            running_loss += loss
            running_loss1 += loss
        steps += 1  # noqa: SIM113  (the learner's own line)
        if steps % 3 == 0:
            writer.add_scalar("step_loss", running_loss1 / 3, steps)
            running_loss1 = 0.0
            writer.close()
            writer.add_scalar("epoch_loss", running_loss / len(losses), epoch)
            writer.close()


@exercise(
    "07-cure",
    "Cure this loop",
    praise="Both curves are complete, in one file, and the writer is closed even when training fails.",
    returns_nothing=True,
    starter=_starter_loop,
)
def train_and_log(answer: Answer) -> None:
    """Check exercise 3 of lesson 07: the fixed loop on real runs, one of which fails halfway."""
    for epochs in ([[2.0, 1.5, 1.0, 0.5], [0.8, 0.9, 0.4, 0.3], [0.2, 0.1, 0.3, 0.6]], *_loss_cases()):
        with _temporary_folder() as folder:
            with _require_closed(
                "The writer was still open when the function had returned: what waits in its queue would be lost if "
                "the process ended now. Use `with SummaryWriter(folder) as writer:`."
            ):
                answer(str(folder), epochs)
            _check_curves(_curves(folder), epochs)
            if (files := _count_files(folder)) != 1:
                raise Wrong(f"There are {files} event files: each add_scalar after a close() opens one. Close once.")
    _check_failure(answer)


def _check_curves(curves: dict[str, Points], epochs: list[list[float]]) -> None:
    flat = [loss for losses in epochs for loss in losses]
    windows = [flat[end - 3 : end] for end in range(3, len(flat) + 1, 3)]
    means = [mean(losses) for losses in epochs]
    if "step_loss" not in curves and windows and len(epochs) < 3:
        raise Wrong(
            f"There is no 'step_loss' after {len(flat)} batches: `steps` counts epochs. Count inside "
            "the loop over the batches."
        )
    if windows:
        in_epochs = [sum(map(sum, epochs[end - 3 : end])) / 3 for end in range(3, len(epochs) + 1, 3)]
        never_back = [sum(flat[: 3 * (index + 1)]) / 3 for index in range(len(windows))]
        ends = torch.tensor([len(losses) for losses in epochs]).cumsum(0).tolist()
        thirds = range(3, len(flat) + 1, 3)
        since = [max(start for start in (0, *ends) if start < end) for end in thirds]
        in_epoch = [sum(flat[max(end - 3, start) : end]) / 3 for end, start in zip(thirds, since, strict=True)]
        at = [next(epoch for epoch, end in enumerate(ends) if step <= end) for step in range(3, len(flat) + 1, 3)]
        _compare_points(
            "'step_loss'",
            _curve(curves, "step_loss"),
            _points_every(3, [mean(w) for w in windows]),
            [
                (
                    _points_every(3, in_epochs),
                    "'step_loss' is much too large and has one point every three epochs: `steps` counts epochs, while "
                    "the sum grows with each batch. Count inside the loop over the batches.",
                ),
                (
                    _points_every(3, [sum(w) for w in windows]),
                    "'step_loss' holds sums. Divide by the 3 batches of the window.",
                ),
                (_points_every(3, never_back), "The sum of 'step_loss' is never reset: set it to 0 after each point."),
                (
                    _points_every(3, in_epoch),
                    "You reset the sum of 'step_loss' at each new epoch, so a point loses the batches before it. "
                    "Reset it only after a point.",
                ),
                (
                    [(epoch, mean(w)) for epoch, w in zip(at, windows, strict=True)],
                    "'step_loss' is at the number of the epoch. Its global_step is `steps`.",
                ),
            ],
        )
    seen = _curve(curves, "epoch_loss")
    if len(seen) < len(means):
        raise Wrong(
            f"'epoch_loss' has fewer points, {len(seen)}, than there are epochs, {len(means)}: it is inside the `if`. "
            "Log it once per epoch, after the loop over the batches."
        )
    if len(seen) > len(means):
        raise Wrong(
            f"'epoch_loss' has {len(seen)} points for {len(means)} epochs: it is in the loop over the batches. Log it "
            "once per epoch, after that loop."
        )
    _compare_points(
        "'epoch_loss'",
        seen,
        list(enumerate(means)),
        [
            (
                list(enumerate(map(sum, epochs))),
                "'epoch_loss' holds sums. Divide by the number of batches of the epoch.",
            ),
            (
                list(enumerate(means, 1)),
                "You shifted 'epoch_loss' by one: keep the number of the epoch as it was, from 0.",
            ),
        ],
    )


def _points_every(every: int, values: Sequence[float]) -> Points:
    return [(every * (index + 1), value) for index, value in enumerate(values)]


class _TrainingFailed(Exception):
    """The error of a training run that fails on purpose."""


def _check_failure(answer: Answer) -> None:
    def epochs() -> Iterator[list[float]]:
        yield [1.0, 2.0, 3.0]
        raise _TrainingFailed("the training failed here, on purpose")

    with _temporary_folder() as folder:
        with _require_closed(
            "The writer was still open when training failed halfway: what waits in its queue would be lost if the "
            "process ended now. Use `with SummaryWriter(folder) as writer:`."
        ):
            try:
                answer(str(folder), epochs())
            except _TrainingFailed:
                pass
            else:
                raise Wrong(
                    "Training failed halfway, and your function hid the error. Close the writer and let the error "
                    "through: `with` does both."
                )
        if _curves(folder).get("step_loss") != [(3, 2.0)]:
            raise Wrong("When training fails halfway, the points before the failure are not on disk. Use `with`.")


@contextlib.contextmanager
def _require_closed(otherwise: str) -> Iterator[None]:
    """Raise `Wrong` if a writer that the block opened is still open: an open one keeps a thread."""
    before, left = set(threading.enumerate()), list[Any]()
    try:
        yield
    finally:
        new = set(threading.enumerate()) - before
        left += [thread for thread in new if type(thread).__name__ == "_AsyncWriterThread"]
        for thread in left:
            thread.stop()  # so that nothing of it outlives the check
    if left:
        raise Wrong(otherwise)


@exercise(
    "07-survivors",
    "Predict this curve",
    praise="Whatever was flushed or closed is sure; whatever came later may be lost.",
)
def survivors(answer: Answer) -> None:
    """Check exercise 4 of lesson 07: files and sure points, compared with a real writer that does the same."""
    for actions in (
        ["add", "add", "flush", "add"],
        ["add", "close", "close", "add", "add", "flush"],
        ["add", "close"],
        ["add", "add", "add"],
        ["add", "flush", "add", "close", "add", "flush", "add", "close", "add"],
        [],
    ):
        given = answer(list(actions))
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise Wrong(
                f"Your function returned {short(given)}. It should return two numbers: the files and the sure points."
            )
        right, adds, closes = _run_actions(actions), actions.count("add"), actions.count("close")
        if tuple(given) == right:
            continue
        files, points = given
        before_first = _adds_before_first(actions)
        if files == right[0]:
            mistakes = [
                (
                    adds,
                    f"For {actions!r}, you call all {adds} points sure. Only what was added before a "
                    "flush or a close is sure.",
                ),
                (
                    _adds_before_last(actions, ("flush",)),
                    f"For {actions!r}, the number of sure points is {right[1]}: close() writes points "
                    "to disk, as flush() does.",
                ),
                (
                    before_first,
                    f"For {actions!r}, the number of sure points is {right[1]}: look at the last flush or "
                    "close, not at the first.",
                ),
                (
                    right[1] - before_first,
                    f"For {actions!r}, the number of sure points is {right[1]}: what is on disk stays there, so "
                    "do not start again at 0.",
                ),
            ]
        else:
            mistakes = [
                (
                    closes,
                    f"For {actions!r}, the number of files is {right[0]}. The first one exists as "
                    "soon as the writer is made.",
                ),
                (
                    closes + 1,
                    f"For {actions!r}, the number of files is {right[0]}. close() opens none; "
                    "the next add after it does.",
                ),
                (1, f"For {actions!r}, the number of files is {right[0]}: an add after a close opens another one."),
            ]
        name_mistake(points if files == right[0] else files, mistakes, operator.eq)
        raise Wrong(
            f"For {actions!r}, a real writer left {right[0]} file(s) and {right[1]} sure point(s); you "
            f"returned {short(given)}."
        )


def _adds_before_last(actions: Sequence[str], kinds: Sequence[str]) -> int:
    places = [place for place, action in enumerate(actions) if action in kinds]
    return actions[: places[-1]].count("add") if places else 0


def _adds_before_first(actions: Sequence[str]) -> int:
    places = [place for place, action in enumerate(actions) if action in ("flush", "close")]
    return actions[: places[0]].count("add") if places else 0


def _run_actions(actions: Sequence[str]) -> tuple[int, int]:
    """Do the actions with a real writer: its files, and the points on disk after the last flush or close."""
    sure = 0
    with _temporary_folder() as folder, _writer(folder) as writer:
        for step, action in enumerate(actions):
            if action == "add":
                writer.add_scalar("loss", 1.0, step)
            else:
                getattr(writer, action)()
                sure = len(_curves(folder).get("loss", []))
        return _count_files(folder), sure
