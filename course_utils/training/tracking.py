"""Where the figures of a run go: TensorBoard files in its folder, and a progress bar or a function of the user."""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from course_utils.training.history import History

Progress = bool | Callable[[int, int, History], object]
ReportFunction = Callable[[int, History], object]

TAGS = {
    "step_loss": "loss/step",
    "epoch_loss": "loss/epoch",
    "valid_loss": "loss/valid",
    "valid_accuracy": "accuracy/valid",
    "lr": "lr",
    "grad_norm": "grad_norm",
    "samples_per_second": "samples_per_second",
}

# The longest time in seconds that figures wait for others. TensorBoard reads the files every five seconds.
HOLD = 0.5


class Tracking:
    """The TensorBoard files of one run: opened once, closed once whatever happens, with each step written once.

    The figures of one step are written together. Those of slow steps are written at once; those of fast steps wait for
    others, at most `HOLD` seconds, because each write costs as much as several small steps. A checkpoint is saved only
    after `flush`, so a run that is killed and resumed shows every step once. If the disk is full, a RuntimeWarning
    says so and the run continues without the files.

    Args:
        folder: the run's folder; None writes nothing.
        first_step: the first step of this part of the run. If there was an earlier part, TensorBoard drops what its
            files hold of this step and later.
        made_with: hyperparameters, which are written for TensorBoard's HParams page when a run starts.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path | None, *, first_step: int, made_with: Mapping[str, object]):
        self._writer: Any = None  # a SummaryWriter while files are written
        self._folder = folder
        self._waiting: list[tuple[int, object]] = []
        self._flushed = -math.inf  # the clock has no fixed origin: on Linux it is 0 when the machine starts
        if folder is None:
            return
        try:
            from tensorboard.compat.proto.summary_pb2 import Summary
            from torch.utils.tensorboard import SummaryWriter
            from torch.utils.tensorboard.summary import hparams
        except ImportError as error:
            raise ImportError(
                "run_dir keeps TensorBoard files, which need tensorboard: pip install tensorboard, or leave run_dir out"
            ) from error
        self._summary = Summary
        before = _event_files(folder)
        purge_step = first_step if before else None
        try:
            self._writer = SummaryWriter(str(folder), purge_step=purge_step)
            late = _event_files(folder) - before
            if before and late and max(late) < max(before):
                # TensorBoard reads files in the order of their names, which count whole seconds.
                self._writer.close()
                for path in late:
                    path.unlink()
                time.sleep(1)
                self._writer = SummaryWriter(str(folder), purge_step=purge_step)
            if not before:
                known = {name: _shown(value) for name, value in made_with.items()}
                for part in hparams(known, dict.fromkeys(TAGS.values(), 0.0)):
                    self._writer.file_writer.add_summary(part)
                self._writer.flush()
        except OSError as error:
            self._stop_writing(error)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures of one step, named as the lists of `History`."""
        if self._writer is None:
            return
        values = [self._summary.Value(tag=TAGS.get(name, name), simple_value=value) for name, value in figures.items()]
        # One record for all of them costs a fifth of as many calls of add_scalar.
        self._waiting.append((step, self._summary(value=values)))
        if time.monotonic() - self._flushed >= HOLD:
            self.flush()

    def flush(self) -> None:
        """Write all waiting figures to the file."""
        waiting, self._waiting = self._waiting, []
        self._flushed = time.monotonic()
        if self._writer is None:
            return
        try:
            for step, summary in waiting:
                self._writer.file_writer.add_summary(summary, step)
            self._writer.flush()
        except OSError as error:
            self._stop_writing(error)

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        self.flush()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _stop_writing(self, error: OSError) -> None:
        warnings.warn(
            f"TensorBoard files in {str(self._folder)!r} cannot be written ({error}): training continues without them",
            RuntimeWarning,
            stacklevel=3,
        )
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError):  # it fails for the reason that was just reported
                writer.close()


def _shown(value: object) -> object:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _event_files(folder: str | Path) -> set[Path]:
    return set(Path(folder).glob("events.out.tfevents.*"))


@contextlib.contextmanager
def reporting(progress: Progress, first_step: int, num_steps: int) -> Iterator[ReportFunction]:
    """Provide a function `report(step, history)` that moves a bar, calls `progress`, or does neither.

    Args:
        progress: True for a bar, in a notebook or a terminal; False for none; or a function that is called as
            `progress(step, num_steps, history)`.
        first_step: the number of steps that were done before a resume.
        num_steps: the number of steps of the whole run.
    """
    if callable(progress):
        yield lambda step, history: progress(step, num_steps, history)
    elif not progress:
        yield lambda step, history: None
    else:
        from tqdm.auto import tqdm  # imported late: it looks for ipywidgets

        with tqdm(total=num_steps, initial=first_step, unit="step") as bar:

            def report(step: int, history: History) -> None:
                names = ("step_loss", "epoch_loss", "valid_loss", "valid_accuracy")
                latest = {name: getattr(history, name)[-1][1] for name in names if getattr(history, name)}
                bar.set_postfix_str(", ".join(f"{name} {value:.4g}" for name, value in latest.items()), refresh=False)
                bar.update(step - bar.n)

            yield report
