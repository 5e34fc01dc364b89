"""Checkpoints: files that are written whole or not at all, and what a run is compared with before it is resumed."""

import errno
import io
import os
import pickle
import re
import stat
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from course_utils.errors import positive_integer, positive_number, quoted
from course_utils.files import remove_unfinished, take_lock, write_atomically
from course_utils.training.state import State, check_state, listed

NEWEST, PREVIOUS, LOCK = "checkpoint.pt", "checkpoint.previous.pt", "run.lock"
# What the names of a run's own files begin with; the last are those of TensorBoard.
OWN_FILES = ("checkpoint", LOCK, "events.out.tfevents.")
# Format 1 had no plan, callbacks and loss_fn, and "random" in place of "passes"; `load` turns it into format 2.
FORMAT = 2
# After a save that took t seconds, the next is due WAIT_FACTOR · t seconds later, at most LONGEST_WAIT.
WAIT_FACTOR, LONGEST_WAIT = 100, 10.0
# The names of the numbers that `fingerprint` returns.
DATA = ("train_batches", "train_rows", "batch_size", "order_seed", "train_checksum")


# The files.


def run_folder(run_dir: str | Path) -> Path:
    """Return the folder of a run as an absolute path; a leading ~ is the user's home folder.

    Raises:
        TypeError: it is neither text nor a Path.
        ValueError: it names no folder.
    """
    if not isinstance(run_dir, str | Path):
        raise TypeError(f"run_dir must be the name of a folder, as text or as a Path, got {quoted(run_dir)}")
    if not is_file_name(str(run_dir)):
        raise ValueError(f"run_dir {quoted(str(run_dir))} names no folder: give a name such as 'runs/first'")
    try:
        # Absolute, so that a program that changes its folder later saves to the same place.
        return Path(run_dir).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"run_dir {str(run_dir)!r} begins with a home folder that does not exist: {error}") from error


def is_file_name(name: str) -> bool:
    """Return whether the system can have a file of this name, with or without folders before it."""
    try:
        return bool(name.strip()) and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def save(state: State, folder: str | Path, *, keep_previous: bool = True) -> None:
    """Write a state as the folder's newest checkpoint and keep the previous one.

    If the process or the machine dies at any moment, a whole checkpoint is left.

    Args:
        keep_previous: False if the newest file is damaged, so that it does not replace the good one before it.

    Raises:
        OSError: the file cannot be written, for example because the disk is full; the older checkpoints are untouched.
        TypeError: the state holds an object that `load` would refuse.
    """
    folder = run_folder(folder)
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
    state, _ = _load(run_folder(folder))
    return state


def _load(folder: Path) -> tuple[dict[str, Any] | None, bool]:
    """Return the newest undamaged state, and whether it is that of the newest file."""
    damaged = []
    for name in (NEWEST, PREVIOUS):
        path = folder / name
        try:
            path.lstat()
        except FileNotFoundError:
            continue
        try:
            state = _read(path)
        except ValueError as error:
            damaged.append(f"{path} cannot be read ({error})")
            continue
        if damaged:
            warnings.warn(f"{damaged[0]}: continuing from the previous one, {name}", RuntimeWarning, stacklevel=3)
        return state, not damaged
    if damaged:
        raise ValueError(f"{'; '.join(damaged)}: start the run again, in another folder")
    return None, True


# What may be in the place of a file, by the first letter of `ls -l`. Opening a pipe would wait for a writer.
_KINDS = {"d": "a folder", "p": "a named pipe", "s": "a socket", "c": "a device", "b": "a device"}


def _read(path: Path) -> dict[str, Any]:
    """Return the state in a file.

    Raises:
        ValueError: the file does not hold the whole state of a run; the message says in one line why.
        PermissionError: this user may not read it.
    """
    try:
        kind = stat.filemode(path.stat().st_mode)[0]
        if kind != "-":
            raise ValueError(f"it is {_KINDS[kind]}, not a file")
        with path.open("rb") as file:
            state = _read_plain(file)
    except PermissionError:
        raise
    except OSError as error:
        leads_nowhere = error.errno in (errno.ENOENT, errno.ELOOP)
        raise ValueError("it is a link that leads nowhere" if leads_nowhere else str(error)) from error
    if state["format"] == 1:
        state = _of_format_2(state)
    check_state(state)
    if "passes" not in state:
        raise ValueError("passes is missing: it is the state of a trainer, not a checkpoint")
    return state


def _read_plain(file: BinaryIO) -> dict[str, Any]:
    """Return the dict of tensors and plain values that a file holds, with a format that this edition knows."""
    try:
        with zipfile.ZipFile(file) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise zipfile.BadZipFile("its parts are compressed, as in no file of PyTorch's")
            bad = archive.testzip()  # torch.load ignores the checksums in the file; zipfile compares them
            if bad:
                raise zipfile.BadZipFile(f"its part {bad} does not match its checksum")
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of some files before it refuses them
            state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what is damaged can make a reader fail in any way
        raise ValueError(_reason(error)) from error
    found = state.get("format") if isinstance(state, dict) else None
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise ValueError(f"it does not hold a state of format {FORMAT} or earlier")
    return dict(state)


def _reason(error: Exception) -> str:
    """Return in one line why a file cannot be read.

    PyTorch's own messages explain how to run what such a file asks for, which nobody should do.
    """
    first_line = (str(error).splitlines() or [""])[0]
    if isinstance(error, zipfile.BadZipFile):
        return first_line
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and asked:
        return f"it asks for {asked[1]}, which no checkpoint of this course does; none of it was run"
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it holds more than tensors and plain values, unlike every checkpoint of this course; none was run"
    return f"it does not hold a state ({type(error).__name__}: {first_line})"


def _of_format_2(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state of format 1 as one of format 2; what is missing or of the wrong kind is left to `check_state`."""
    new: dict[str, Any] = state | {"format": 2, "plan": None, "callbacks": []}
    if isinstance(state.get("model"), dict):
        new["model"] = {_original_name(str(name)): value for name, value in state["model"].items()}
    random, epoch, position = new.pop("random", None), state.get("epoch"), state.get("position")
    if state.get("epoch_trained") is True and isinstance(epoch, int):
        epoch, position = epoch + 1, 0  # the pass over the data is done, though the epoch is not closed
    if isinstance(random, list) and all(isinstance(each, dict) for each in random):
        new["passes"] = [
            {
                "number": epoch,
                "position": position,
                "ended": False,
                "start": {"random": each.get("epoch") if position else None, "order": {}, "workers": False},
                "now": each.get("now"),
                "kept": None,
            }
            for each in random
        ]
    return new


def _plain(value: object, where: str = "state") -> object:
    """Return a copy of nested dicts and lists of tensors and plain values, and name what is neither."""
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


# A run's checkpoints.


class Checkpoints:
    """The checkpoints in the folder of a run, of which no other run may use it meanwhile; without a folder, none.

    After a save that took t seconds, the next is due 100 t later, at most 10 s. Saving therefore takes about a
    hundredth of the time. Epochs of ten seconds and more are all saved; runs of shorter epochs are saved less often
    than each epoch, and always at the end. What `every_steps` and `every_seconds` ask for is not put off.

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
        self.folder = None if folder is None else run_folder(folder)
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
            own: the folder may hold the run that this object has saved or loaded; it is continued from memory.

        Raises:
            ValueError: another run is using the folder, or has left its files there and `resume` is False; the
                checkpoints are damaged; or `resume` without a folder.
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
        try:
            if self.writes and not resume:
                self._check_is_free(self.folder, own)
            if not resume:
                return None
            with warnings.catch_warnings():
                if not self.writes:
                    warnings.simplefilter("ignore", RuntimeWarning)  # one process warns for all of them
                state, self._newest_is_whole = _load(self.folder)
            self._newest = _stamp(self.folder / NEWEST)
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
        """Return whether to save after this epoch, counted from 1; of several processes, the one that saves decides."""
        return epoch % self.every == 0 and self.due()

    def due_after_step(self, step: int) -> bool:
        """Return whether `every_steps` or `every_seconds` asks for a checkpoint after this step, counted from 1.

        Several processes agree on the steps but not on the seconds, of which each has its own clock.
        """
        if self.folder is None:
            return False
        if self.every_steps is not None and step % self.every_steps == 0:
            return True
        return self.every_seconds is not None and time.monotonic() - self._saved_at >= self.every_seconds

    def save(self, state: State) -> None:
        """Save a state; if it cannot be written, keep the `error` and warn with a RuntimeWarning: the run continues."""
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


# What a run is saved with, and compared with.


def check_storable(state: State) -> None:
    """Check that a checkpoint can hold a state of this kind, and that a run could continue from it, before it starts.

    Raises:
        TypeError: a part of it is neither a tensor nor a plain value; the message names it.
        ValueError: a part of it is of the wrong kind, such as what a callback keeps.
    """
    _plain(state)
    check_state(state)


def model_state(model: nn.Module) -> dict[str, Any]:
    """Return the weights and buffers of a model by name; a compiled model has the names of the original."""
    return {_original_name(name): value for name, value in model.state_dict().items()}


def load_model_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load what `model_state` returned, compiled or not, into a model that is compiled or not.

    Raises:
        RuntimeError: names or shapes differ; `check_same_model` tells before anything is changed.
    """
    names = {_original_name(name): name for name in model.state_dict()}
    model.load_state_dict({names.get(name, name): value for name, value in state.items()})


def _original_name(name: str) -> str:
    """Return the name that a weight has without `torch.compile`, which puts `_orig_mod` before the names it covers."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def check_same(saved: Mapping[str, object], mine: Mapping[str, object]) -> None:
    """Check that a run continues with the settings and data that it was made with.

    Raises:
        ValueError: something differs; the message lists what it was and what it is now.
    """
    differing = [name for name in saved.keys() | mine.keys() if saved.get(name) != mine.get(name)]
    if differing:
        listed = "; ".join(f"{name} was {saved.get(name)!r}, is {mine.get(name)!r}" for name in sorted(differing))
        raise ValueError(
            f"the checkpoint was made with other settings or data: {listed}. Continue with the same ones, "
            "or start a new run in another folder"
        )


def check_same_model(saved: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Check that a checkpoint's weights fit a model, both by the names of `model_state`.

    Raises:
        ValueError: names, shapes or types differ; the message lists them.
    """
    parts = [f"missing here {name}" for name in saved if name not in mine]
    parts += [f"missing in the checkpoint {name}" for name in mine if name not in saved]
    for name in [name for name in saved if name in mine]:
        then, now = saved[name], mine[name]
        if not isinstance(then, Tensor) or not isinstance(now, Tensor):
            continue
        if then.shape != now.shape:
            parts.append(f"{name} has shape {tuple(then.shape)} in the checkpoint, {tuple(now.shape)} here")
        elif then.dtype != now.dtype:
            parts.append(f"{name} is {then.dtype} in the checkpoint, {now.dtype} here")
    if parts:
        raise ValueError(f"the checkpoint is of another model: {listed(parts)}")


def describe(
    model: nn.Module, optimizer: Optimizer, scheduler: object, loss_fn: Callable[..., Tensor]
) -> dict[str, object]:
    """Return the names and numbers that describe what a run is made with, whether its parts are compiled or not."""
    options = loss_fn.keywords if isinstance(loss_fn, partial) else {}
    loss_fn = _original(loss_fn.func if isinstance(loss_fn, partial) else loss_fn)
    described: dict[str, object] = {
        "model": type(_original(model)).__name__,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "optimizer": type(optimizer).__name__,
        "scheduler": None if scheduler is None else type(scheduler).__name__,
        "loss_fn": getattr(loss_fn, "__name__", type(loss_fn).__name__),
        "reduction": options.get("reduction", getattr(loss_fn, "reduction", "mean")),
    }
    hidden = ("foreach", "fused", "capturable", "differentiable")  # how the numbers are computed, not which
    return described | {name: _setting(value) for name, value in optimizer.defaults.items() if name not in hidden}


def _original(part: Any) -> Any:
    """Return the module inside one that `torch.compile` returned, or else the part itself."""
    return getattr(part, "_orig_mod", part)


def _setting(value: object) -> object:
    """Return a value that a checkpoint can hold and compare: of other objects, the name of their class."""
    if isinstance(value, list | tuple):
        return tuple(_setting(each) for each in value)
    if (isinstance(value, Tensor) and value.numel() == 1) or (
        hasattr(value, "item") and getattr(value, "ndim", 1) == 0
    ):
        value = value.item()  # also NumPy's numbers
    return value if isinstance(value, bool | int | float | str | None) else type(value).__name__


def fingerprint(train: Any) -> dict[str, object]:
    """Return numbers that change with the training data: batches, rows, batch size, seed of the order, and a checksum.

    A number that the loader does not know, such as how many batches a stream has, is None. The checksum covers at most
    1,024 evenly spaced rows, of data that is held in tensors.
    """
    dataset = getattr(train, "dataset", None)
    held: object = getattr(dataset, "tensors", ())
    if type(train) in (list, tuple) and train:
        held = (train[0], train[-1])
    checksum = 0
    for tensor in _tensors(held):
        if tensor.layout == torch.strided and not tensor.is_nested and tensor.numel():
            rows = tensor.detach()[:: -(-len(tensor) // 1024)] if tensor.ndim else tensor.detach()
            checksum = zlib.crc32(rows.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes(), checksum)
    batch_size, seed = _setting(getattr(train, "batch_size", None)), _setting(getattr(train, "seed", None))
    return dict(zip(DATA, (_length(train), _length(dataset), batch_size, seed, checksum), strict=True))


def _length(value: Any) -> int | None:
    try:
        return len(value)
    except (TypeError, NotImplementedError):
        return None


def _tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)
