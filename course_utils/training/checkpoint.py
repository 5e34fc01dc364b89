"""Checkpoints: files that are written whole or not at all, in a folder that one run has at a time."""

import io
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import torch
from torch import Tensor, nn

from course_utils.errors import folder_path, positive_integer, positive_number, quoted
from course_utils.files import remove_unfinished, take_lock, write_atomically
from course_utils.training.reading import FORMAT, read_checkpoint
from course_utils.training.state import State, check_state

NEWEST, PREVIOUS, LOCK = "checkpoint.pt", "checkpoint.previous.pt", "run.lock"
# What the names of a run's own files begin with; the last are those of TensorBoard.
OWN_FILES = ("checkpoint", LOCK, "events.out.tfevents.")
# After a save that took t seconds, the next is due WAIT_FACTOR · t seconds later, at most LONGEST_WAIT.
WAIT_FACTOR, LONGEST_WAIT = 100, 10.0


def save(state: State, folder: str | Path, *, keep_previous: bool = True) -> None:
    """Write a state as the folder's newest checkpoint and keep the previous one.

    If the process or the machine dies at any moment, a whole checkpoint is left.

    Args:
        keep_previous: False if the newest file is damaged, so that it does not replace the good one before it.

    Raises:
        OSError: the file cannot be written, for example because the disk is full; the older checkpoints are untouched.
        TypeError: the state holds an object that `load` would refuse.
    """
    folder = folder_path("run_dir", folder)
    buffer = io.BytesIO()
    torch.save(_plain({"format": FORMAT} | dict(state)), buffer)
    write_atomically(folder / NEWEST, buffer.getvalue(), previous=folder / PREVIOUS if keep_previous else None)


def load(folder: str | Path) -> dict[str, Any] | None:
    """Return the state of a folder's newest undamaged checkpoint, on the CPU; None if there are no checkpoints.

    Only tensors and plain values are read (`weights_only=True`), so a checkpoint from elsewhere cannot run code.
    Checkpoints of earlier editions are returned in the present form.

    Warns:
        RuntimeWarning: the newest is damaged, and the previous one is used.

    Raises:
        ValueError: all of them are damaged, or are not checkpoints of this course.
        OSError: this user may not read one of them.
    """
    state, _ = _load(folder_path("run_dir", folder))
    return state


def _load(folder: Path) -> tuple[dict[str, Any] | None, bool]:
    """Return the newest undamaged state, or None, and whether the newest file is undamaged."""
    damaged = []
    for name in (NEWEST, PREVIOUS):
        path = folder / name
        try:
            path.lstat()
        except FileNotFoundError:
            continue
        try:
            state = read_checkpoint(path)
        except ValueError as error:
            damaged.append(f"{path} cannot be read ({error})")
            continue
        if damaged:
            warnings.warn(f"{damaged[0]}: continuing from the previous one, {name}", RuntimeWarning, stacklevel=3)
        return state, not damaged
    if damaged:
        raise ValueError(f"{'; '.join(damaged)}: start the run again, in another folder")
    return None, True


def _plain(value: object, where: str = "state") -> object:
    """Return a copy of nested dicts and lists of tensors and plain values.

    Raises:
        TypeError: something in them is neither a tensor nor a plain value.
    """
    if value is None or type(value) in (bool, int, float, str, bytes, Tensor, nn.Parameter):
        return value
    if isinstance(value, Mapping):
        return {_plain(key, f"a key of {where}"): _plain(each, f"{where}[{key!r}]") for key, each in value.items()}
    if isinstance(value, list | tuple):
        values = [_plain(each, where) for each in value]
        return tuple(values) if isinstance(value, tuple) else values
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 and type(value.item()) in (bool, int, float):
        return value.item()  # one of NumPy's numbers
    raise TypeError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot hold: use numbers, text or tensors"
    )


def check_storable(state: State) -> None:
    """Check before a run starts that a checkpoint can hold its state, and that the run could continue from it.

    Raises:
        TypeError: a part of it is neither a tensor nor a plain value; the message names it.
        ValueError: a part of it is of the wrong kind, such as what a callback keeps.
    """
    _plain(state)
    check_state(state)


class Checkpoints:
    """The checkpoints in a run's folder, which is locked while the run uses it; without a folder, none.

    After a save that took t seconds, wait 100 t, at most 10 s. Saving therefore takes about a hundredth of the time.
    Epochs of ten seconds or more are all saved. Shorter ones are saved less often, and the last one always. The saves
    that `every_steps` and `every_seconds` ask for do not wait.

    Args:
        folder: the run's folder, or None.
        writes: whether this process is the one that saves.
        every: epochs between checkpoints.
        every_steps, every_seconds: steps and seconds between checkpoints, also within an epoch; None for neither.

    Attributes:
        folder: the folder as a path, or None.
        error: why the last save failed; None if it did not.

    Raises:
        TypeError, ValueError: the folder is not the name of one, or a number is not positive.
    """

    def __init__(
        self,
        folder: str | Path | None,
        *,
        writes: bool = True,
        every: int = 1,
        every_steps: int | None = None,
        every_seconds: float | None = None,
    ):
        # Absolute, so that a program that changes its folder later saves to the same place.
        self.folder = None if folder is None else folder_path("run_dir", folder).absolute()
        self.writes = writes and folder is not None
        self.every = positive_integer("checkpoint_every", every)
        self.every_steps = None if every_steps is None else positive_integer("checkpoint_every_steps", every_steps)
        self.every_seconds = (
            None if every_seconds is None else positive_number("checkpoint_every_seconds", every_seconds)
        )
        self.error: OSError | None = None
        self._lock: filelock.BaseFileLock | None = None
        self._due_at, self._saved_at = 0.0, time.monotonic()
        self._newest_is_whole = True
        self._newest: tuple[int, int] | None = None

    @property
    def folder_to_write(self) -> Path | None:
        """The folder if this process is the one that writes to it, else None."""
        return self.folder if self.writes else None

    def open(self, *, resume: bool, own: bool = False) -> dict[str, Any] | None:
        """Create the folder, lock it, check it, and return the state to continue from, if any.

        Args:
            resume: continue from the newest checkpoint.
            own: the folder may hold the run that this object saved or loaded, which continues from memory.

        Raises:
            ValueError: another run uses the folder, or left its files there and `resume` is False; the checkpoints
                are damaged; or `resume` is True without a folder.
            TypeError: `resume` is neither True nor False.
            OSError: the folder cannot be created or written to.
        """
        if not isinstance(resume, bool):
            raise TypeError(f"resume must be True or False, got {quoted(resume)}")
        self.error = None
        self._saved_at = time.monotonic()
        if self.folder is None:
            if resume:
                raise ValueError("resume=True needs run_dir, the folder of the run to continue")
            return None
        if self.writes:
            self._lock = _take_folder(self.folder)
        state = None
        try:
            if resume:
                with warnings.catch_warnings():
                    if not self.writes:
                        warnings.simplefilter("ignore", RuntimeWarning)  # one process warns for all of them
                    state, self._newest_is_whole = _load(self.folder)
                self._newest = _stamp(self.folder / NEWEST)
            elif self.writes:
                self._check_is_free(self.folder, own)
        except BaseException:
            self.close()
            raise
        return state

    def close(self) -> None:
        """Let other runs use the folder; a second call does nothing."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def due(self) -> bool:
        """Return whether enough time has passed since the last save."""
        return self.writes and time.monotonic() >= self._due_at

    def due_after_epoch(self, epoch: int) -> bool:
        """Return whether to save after this epoch, counted from 1; only the process that saves knows."""
        return epoch % self.every == 0 and self.due()

    def due_after_step(self, step: int) -> bool:
        """Return whether `every_steps` or `every_seconds` asks for a checkpoint after this step, counted from 1.

        Processes agree on the steps but not on the seconds, since each has its own clock.
        """
        if self.folder is None:
            return False
        if self.every_steps is not None and step % self.every_steps == 0:
            return True
        return self.every_seconds is not None and time.monotonic() - self._saved_at >= self.every_seconds

    def save(self, state: State) -> None:
        """Save a state; if it cannot be written, keep the `error`, warn with a RuntimeWarning, and continue."""
        began = time.monotonic()
        if self.folder is not None and self.writes:
            try:
                save(state, self.folder, keep_previous=self._newest_is_whole)
                self._newest_is_whole, self.error = True, None
                self._newest = _stamp(self.folder / NEWEST)
            except OSError as error:
                self.error = error
                warnings.warn(
                    f"the checkpoint of step {state['step']} could not be written in {str(self.folder)!r} ({error}): "
                    "training continues, and the previous checkpoint is kept",
                    RuntimeWarning,
                    stacklevel=2,
                )
        self._saved_at = time.monotonic()
        self._due_at = self._saved_at + min(WAIT_FACTOR * (self._saved_at - began), LONGEST_WAIT)

    def _check_is_free(self, folder: Path, own: bool) -> None:
        """Check that the folder holds no run, or with `own` none but the one that this object has saved or loaded."""
        if own:
            others = _stamp(folder / NEWEST) not in (None, self._newest)
        else:
            others = any(
                each.match("checkpoint*.pt") or each.match("events.out.tfevents.*") for each in folder.iterdir()
            )
        if others:
            raise ValueError(
                f"run_dir {str(folder)!r} holds another run: continue it (resume=True, --resume), "
                "delete it, or choose another folder"
            )


def _take_folder(folder: Path) -> filelock.BaseFileLock | None:
    """Create the folder of a run if needed, check that it can be written to, and return its lock, if it has locks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = take_lock(folder / LOCK, patience=0)
        try:
            if lock is not None:
                remove_unfinished(folder / NEWEST)
            tempfile.TemporaryFile(dir=folder).close()
        except BaseException:
            if lock is not None:
                lock.release()
            raise
    except TimeoutError as error:
        # Like a folder that holds another run, this is a wrong choice of run_dir, hence a ValueError.
        raise ValueError(
            f"run_dir {str(folder)!r} is in use: another run holds the lock {str(folder / LOCK)!r} until it ends. "
            "Wait for that, or choose another folder"
        ) from error
    except FileExistsError as error:
        raise NotADirectoryError(f"run_dir {str(folder)!r} is a file: give the name of a folder") from error
    except OSError as error:
        files = [each for each in folder.parents if each.is_file()] if isinstance(error, NotADirectoryError) else []
        reason = f"{str(files[0])!r} is a file" if files else error
        raise OSError(f"run_dir {str(folder)!r} cannot be written to ({reason}): choose another folder") from error
    return lock


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return the time and size of a file, which change when another run writes it; None if there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size
