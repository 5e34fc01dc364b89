"""Lesson 07's checks: curves on the right steps, a picture that looks right, a loop that closes once, and a crash."""

import contextlib
import io
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from course_utils.checks.runner import Answer, exercise
from course_utils.checks.values import Wrong, same, short

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Points = list[tuple[int, float]]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="check-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _writer(folder: Path) -> Iterator[Any]:
    """A real SummaryWriter, closed whatever happens."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    try:
        yield writer
    finally:
        writer.close()


def _read(folder: Path) -> Any:
    """All that TensorBoard's own reader finds in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def _curves(folder: Path) -> dict[str, Points]:
    found = _read(folder)
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def _files(folder: Path) -> int:
    return len(list(folder.glob("*tfevents*")))


def _curve(curves: dict[str, Points], tag: str) -> Points:
    """One curve; where it is missing, what is there instead."""
    if tag not in curves:
        there = f"there are {', '.join(map(repr, curves))}" if curves else "there is no curve at all"
        raise Wrong(f"The file holds no curve with the tag {tag!r}: {there}. The tag is the first argument.")
    return curves[tag]


def _compare(name: str, points: Points, right: Points, typical: Sequence[tuple[Points, str]]) -> None:
    """Be content with the right points; else name the misconception that made others."""
    if _alike(points, right):
        return
    for wrong, why in typical:
        if _alike(points, wrong):
            raise Wrong(why)
    if len(points) != len(right):
        raise Wrong(f"{name} has {len(points)} points; it should have {len(right)}.")
    step, (given, wanted) = next(
        (place, pair) for place, pair in enumerate(zip(points, right, strict=True)) if not _alike(pair[:1], pair[1:])
    )
    raise Wrong(
        f"Point {step + 1} of {name} should stand at step {wanted[0]} with the value {wanted[1]:.4f}; yours stands at "
        f"step {given[0]} with {given[1]:.4f}."
    )


def _alike(first: Points, second: Points) -> bool:
    # An event file keeps a value in 32 bits.
    return [step for step, _ in first] == [step for step, _ in second] and same(
        [value for _, value in first], [value for _, value in second], rel_tol=1e-5
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _runs() -> Iterator[list[list[float]]]:
    """A few runs: the batch losses of each epoch."""
    generator = torch.Generator().manual_seed(0)
    for sizes in ((4, 4, 4), (5, 3), (1, 1)):
        yield [(1 + torch.rand(size, generator=generator)).tolist() for size in sizes]


@exercise(
    "07-log-losses",
    "Write this step",
    praise="Each loss stands at its own step, each epoch at its number, in one file.",
    returns_nothing=True,
)
def log_losses(answer: Answer) -> None:
    """Check exercise 1 of lesson 07: two curves in a real event file, read with TensorBoard's own reader."""
    for epochs in _runs():
        with _folder() as folder, _writer(folder) as writer:
            answer(writer, epochs)
            if writer.file_writer is None:
                raise Wrong("You closed the writer. It is not yours: whoever opened it closes it.")
            writer.flush()
            curves, files = _curves(folder), _files(folder)
        if files > 1:
            raise Wrong(
                f"There are {files} event files: each add_scalar after a close() opened one. Do not close here."
            )
        flat = [loss for losses in epochs for loss in losses]
        steps, total = _curve(curves, "loss/step"), len(flat)
        numbered = [(number, loss) for number, losses in enumerate(epochs, 1) for loss in losses]
        restarted = [(number, loss) for losses in epochs for number, loss in enumerate(losses, 1)]
        _compare(
            "'loss/step'",
            steps,
            list(enumerate(flat, 1)),
            [
                (
                    [(0, loss) for loss in flat],
                    "All points of 'loss/step' stand at step 0: global_step, the third argument, is missing.",
                ),
                (
                    list(enumerate(flat)),
                    "Your first batch is step 0. After it one step is done, so it is step 1: count before you log.",
                ),
                (
                    numbered,
                    "You gave 'loss/step' the number of the epoch: all its batches stand on one x. Count the batches.",
                ),
                (
                    [(step - 1, loss) for step, loss in numbered],
                    "You gave 'loss/step' the number of the epoch: all its batches stand on one x. Count the batches.",
                ),
                (
                    restarted,
                    "Your count begins anew in each epoch, so the curve runs back. Set it once, before the loop over "
                    "epochs.",
                ),
                (
                    [(step - 1, loss) for step, loss in restarted],
                    "Your count begins anew in each epoch, so the curve runs back. Set it once, before the loop over "
                    "epochs.",
                ),
                (
                    [(len(epochs), epochs[-1][-1])],
                    "'loss/step' has the last loss alone: log inside the loop over the batches.",
                ),
            ],
        )
        ends = torch.tensor([len(losses) for losses in epochs]).cumsum(0).tolist()
        means = [_mean(losses) for losses in epochs]
        running = [
            (number, _mean(losses[: count + 1]))
            for number, losses in enumerate(epochs, 1)
            for count in range(len(losses))
        ]
        _compare(
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
                    "'loss/epoch' stands at the number of the step. Its global_step is the number of the epoch.",
                ),
                (
                    [(0, mean) for mean in means],
                    "The points of 'loss/epoch' all stand at step 0: give the epoch's number.",
                ),
                (running, "'loss/epoch' has a point for every batch: log it once, after the loop over the batches."),
                (
                    [(number, _mean(flat[:end])) for number, end in enumerate(ends, 1)],
                    "Your sum is never set back: 'loss/epoch' is the mean since the start of the run. Begin each epoch "
                    "at 0.",
                ),
                (
                    [(number, sum(losses) / total) for number, losses in enumerate(epochs, 1)],
                    "You divide by all batches of the run. The mean of an epoch divides by the batches of that epoch.",
                ),
                (
                    [(number, sum(flat[: ends[number - 1]]) / len(losses)) for number, losses in enumerate(epochs, 1)],
                    "Your sum is never set back: 'loss/epoch' holds the epochs before as well. Begin each epoch at 0.",
                ),
                (
                    [(number, losses[-1]) for number, losses in enumerate(epochs, 1)],
                    "'loss/epoch' holds the last batch's loss. The mean is over all batches of the epoch.",
                ),
            ],
        )


@exercise(
    "07-log-image",
    "Write this line",
    praise="TensorBoard shows the digit as it is: -1 is black and 1 is white.",
    returns_nothing=True,
)
def log_image(answer: Answer) -> None:
    """Check exercise 2 of lesson 07: the pixels of the PNG that stands in the event file."""
    generator = torch.Generator().manual_seed(0)
    for step, (height, width) in ((3, (8, 8)), (7, (6, 9)), (1, (5, 4))):
        # The darkest and the brightest pixel differ from image to image, so stretching the contrast shows.
        image = torch.rand(1, height, width, generator=generator) * 1.4 - 0.8
        image[0, 0, 0], image[0, -1, 0] = -0.9, 0.7
        with _folder() as folder, _writer(folder) as writer:
            answer(writer, image, step)
            writer.flush()
            found = _read(folder)
            tags = found.Tags()["images"]
            if not tags:
                raise Wrong("The file holds no image: call writer.add_image.")
            if "input" not in tags:
                raise Wrong(f"The file holds no image with the tag 'input': there is {', '.join(map(repr, tags))}.")
            events = found.Images("input")
        if len(events) != 1:
            raise Wrong(f"The file holds {len(events)} images with the tag 'input'; one was asked for.")
        if events[0].step != step:
            missing = " Is global_step, the third argument, missing?" if events[0].step == 0 else ""
            raise Wrong(f"Your image stands at step {events[0].step}; it was given with step {step}.{missing}")
        _look(_pixels(events[0].encoded_image_string), image[0])


def _pixels(png: bytes) -> Tensor:
    """The grey values of a PNG, 0 to 255, height × width."""
    from PIL import Image

    return torch.tensor(np.array(Image.open(io.BytesIO(png)).convert("L")), dtype=torch.float64)


def _look(shown: Tensor, image: Tensor) -> None:
    """Compare what is shown with the image, whose values lie between -1 and 1."""
    right = (image.double() + 1) / 2 * 255
    if shown.shape != right.shape:
        turned = " It lies on its side." if shown.shape == right.T.shape else ""
        raise Wrong(
            f"Your picture is {shown.shape[0]} pixels high and {shown.shape[1]} wide; the digit is {right.shape[0]} "
            f"high and {right.shape[1]} wide.{turned}"
        )
    low, high = image.min().double(), image.max().double()
    typical = [
        (
            image * 255,
            "The values below 0 all became black: add_image takes 0 to 1 and cuts off the rest. Move -1 … 1 to 0 … 1 "
            "first.",
        ),
        (image / 2 * 255, "Halving leaves half of the values below 0, and they became black. Add 1 before you halve."),
        ((image + 1) * 255, "The bright half became white: image + 1 reaches from 0 to 2. Halve it as well."),
        (image.abs() * 255, "With abs() a black pixel became a white one. Move the values: add 1, then halve."),
        (
            (image.double() - low) / (high - low) * 255,
            "You stretched the contrast: the darkest pixel of this image is not -1. Move every image in the same way, "
            "or two images cannot be compared.",
        ),
        (right * 255, "Nearly all is white: add_image multiplies floats by 255 by itself. Give it 0 to 1."),
        (255 - right, "Black and white have changed places."),
        (right.T, "Your picture lies on its side: height and width have changed places."),
    ]
    if (shown - right).abs().max() <= 1.5:
        return
    for wrong, why in typical:
        if wrong.shape == shown.shape and (shown - wrong.double().clamp(0, 255).floor()).abs().max() <= 1.5:
            raise Wrong(why)
    row, column = divmod(int((shown - right).abs().argmax()), right.shape[1])
    raise Wrong(
        f"The pixel in row {row}, column {column} is {image[row, column]:.2f} and should be shown as "
        f"{right[row, column]:.0f} of 255; yours is {shown[row, column]:.0f}."
    )


def _sick(folder: Any, epochs: Any) -> None:
    """The lines that exercise 3 gives to be cured; they are compared and never run."""
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
    praise="Both curves are whole, in one file, and the writer is closed even when training fails.",
    returns_nothing=True,
    given=_sick,
)
def train_and_log(answer: Answer) -> None:
    """Check exercise 3 of lesson 07: the cured lines on real runs, one of which fails half-way."""
    for epochs in ([[2.0, 1.5, 1.0, 0.5], [0.8, 0.9, 0.4, 0.3], [0.2, 0.1, 0.3, 0.6]], *_runs()):
        with _folder() as folder:
            with _writers_closed("when the function had returned"):
                answer(str(folder), epochs)
            _judge_curves(_curves(folder), epochs)
            if (files := _files(folder)) != 1:
                raise Wrong(f"There are {files} event files: each add_scalar after a close() opens one. Close once.")
    _fails_half_way(answer)


def _judge_curves(curves: dict[str, Points], epochs: list[list[float]]) -> None:
    flat = [loss for losses in epochs for loss in losses]
    windows = [flat[end - 3 : end] for end in range(3, len(flat) + 1, 3)]
    means = [_mean(losses) for losses in epochs]
    if "step_loss" not in curves and windows and len(epochs) < 3:
        raise Wrong(
            f"There is no 'step_loss' after {len(flat)} batches: `steps` counts epochs. Count inside the loop over the "
            "batches."
        )
    if windows:
        in_epochs = [sum(map(sum, epochs[end - 3 : end])) / 3 for end in range(3, len(epochs) + 1, 3)]
        never_back = [sum(flat[: 3 * (index + 1)]) / 3 for index in range(len(windows))]
        ends = torch.tensor([len(losses) for losses in epochs]).cumsum(0).tolist()
        thirds = range(3, len(flat) + 1, 3)
        since = [max(start for start in (0, *ends) if start < end) for end in thirds]
        in_epoch = [sum(flat[max(end - 3, start) : end]) / 3 for end, start in zip(thirds, since, strict=True)]
        at = [next(epoch for epoch, end in enumerate(ends) if step <= end) for step in range(3, len(flat) + 1, 3)]
        _compare(
            "'step_loss'",
            _curve(curves, "step_loss"),
            _at(3, [_mean(w) for w in windows]),
            [
                (
                    _at(3, in_epochs),
                    "'step_loss' is much too large and has a point every three epochs: `steps` counts epochs, while "
                    "the sum grows with each batch. Count inside the loop over the batches.",
                ),
                (_at(3, [sum(w) for w in windows]), "'step_loss' holds sums. Divide by the 3 batches of the window."),
                (_at(3, never_back), "The sum of 'step_loss' is never set back to 0 after a report."),
                (
                    _at(3, in_epoch),
                    "You set the sum of 'step_loss' back at each new epoch, so a report loses the batches before. Set "
                    "it back after a report alone.",
                ),
                (
                    [(epoch, _mean(w)) for epoch, w in zip(at, windows, strict=True)],
                    "'step_loss' stands at the number of the epoch. Its global_step is `steps`.",
                ),
            ],
        )
    seen = _curve(curves, "epoch_loss")
    if len(seen) < len(means):
        raise Wrong(
            f"'epoch_loss' has {len(seen)} point{'s' * (len(seen) != 1)} for {len(means)} epochs: it stands inside the "
            "`if`. Log it once in each epoch, after the loop over the batches."
        )
    if len(seen) > len(means):
        raise Wrong(
            f"'epoch_loss' has {len(seen)} points for {len(means)} epochs: it stands in the loop over the batches. Log "
            "it once in each epoch, after that loop."
        )
    _compare(
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
                "You moved 'epoch_loss' by one: keep the number of the epoch as it was, from 0.",
            ),
        ],
    )


def _at(every: int, values: Sequence[float]) -> Points:
    return [(every * (index + 1), value) for index, value in enumerate(values)]


class _Broken(Exception):
    """The training of a check that fails on purpose."""


def _fails_half_way(answer: Answer) -> None:
    def epochs() -> Iterator[list[float]]:
        yield [1.0, 2.0, 3.0]
        raise _Broken("the training failed here, on purpose")

    with _folder() as folder:
        with _writers_closed("when the training failed half-way"):
            try:
                answer(str(folder), epochs())
            except _Broken:
                pass
            else:
                raise Wrong(
                    "The training failed half-way, and your function hid the error. Close the writer and let the error "
                    "go on: `with` does both."
                )
        if _curves(folder).get("step_loss") != [(3, 2.0)]:
            raise Wrong("When the training fails half-way, the points before it are not on disk. Use `with`.")


@contextlib.contextmanager
def _writers_closed(when: str) -> Iterator[None]:
    """See that every writer which the block opened has been closed: an open one keeps a thread."""
    before, left = set(threading.enumerate()), []
    try:
        yield
    finally:
        new = set(threading.enumerate()) - before
        left += [thread for thread in new if type(thread).__name__ == "_AsyncWriterThread"]
        for thread in left:
            thread.stop()  # so that nothing of it goes on after the check
    if left:
        raise Wrong(
            f"The writer was still open {when}: what waits in its queue would be lost if the process ended now. Use "
            "`with SummaryWriter(folder) as writer:`."
        )


@exercise(
    "07-survivors",
    "Predict this curve",
    praise="What was flushed or closed is sure; what came after it may be lost.",
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
                f"Your function gave {short(given)}. It should give two numbers: the files and the sure points."
            )
        right, adds, closes = _really(actions), actions.count("add"), actions.count("close")
        if tuple(given) == right:
            continue
        told = f"For {actions!r} "
        files, points = given
        there = "there is 1 file" if right[0] == 1 else f"there are {right[0]} files"
        if files == right[0]:
            typical = [
                (adds, f"you call all {adds} points sure. Only what was added before a flush or a close is."),
                (
                    _adds_before_last(actions, ("flush",)),
                    f"{right[1]} points are sure: close() brings points to disk, as flush() does.",
                ),
                (
                    _adds_before_first(actions),
                    f"{right[1]} points are sure: look at the last flush or close, not at the first.",
                ),
                (
                    right[1] - _adds_before_first(actions),
                    f"{right[1]} points are sure: what is on disk stays there, so do not begin anew at 0.",
                ),
            ]
        else:
            typical = [
                (closes, f"{there}. The first one is there as soon as the writer is made."),
                (closes + 1, f"{there}. close() opens none; the next add after it does."),
                (1, f"{there}: an add after a close opens another one."),
            ]
        seen = points if files == right[0] else files
        for value, why in typical:
            if seen == value:
                raise Wrong(told + why)
        raise Wrong(f"{told}a real writer left {right[0]} files and {right[1]} sure points; you say {short(given)}.")


def _adds_before_last(actions: Sequence[str], kinds: Sequence[str]) -> int:
    places = [place for place, action in enumerate(actions) if action in kinds]
    return actions[: places[-1]].count("add") if places else 0


def _adds_before_first(actions: Sequence[str]) -> int:
    places = [place for place, action in enumerate(actions) if action in ("flush", "close")]
    return actions[: places[0]].count("add") if places else 0


def _really(actions: Sequence[str]) -> tuple[int, int]:
    """Do the actions with a real writer: its files, and the points on disk after the last flush or close."""
    sure = 0
    with _folder() as folder, _writer(folder) as writer:
        for step, action in enumerate(actions):
            if action == "add":
                writer.add_scalar("loss", 1.0, step)
            else:
                getattr(writer, action)()
                sure = len(_curves(folder).get("loss", []))
        return _files(folder), sure
