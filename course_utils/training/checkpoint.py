"""Checkpoints: files that are written whole or not at all, and what a run is compared with before it is resumed."""

import io
import pickle
import re
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from course_utils.files import remove_unfinished, write_atomically
from course_utils.training.loaders import Loader

State = Mapping[str, Any]

NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
FORMAT = 1
# After a save that took t seconds, the next is due WAIT_FACTOR · t seconds later, at most LONGEST_WAIT.
WAIT_FACTOR, LONGEST_WAIT = 100, 10.0
# The names of the numbers that `fingerprint` returns.
DATA = ("train_batches", "train_rows", "batch_size", "order_seed", "train_checksum")


def save(state: State, folder: str | Path, *, keep_previous: bool = True) -> None:
    """Write a state as the folder's newest checkpoint and keep the previous one.

    If the process or the machine dies at any moment, a whole checkpoint is left.

    Args:
        keep_previous: False if the newest file is damaged, so that it does not replace the good one before it.

    Raises:
        OSError: the file cannot be written, for example because the disk is full; the older checkpoints are untouched.
        TypeError: the state holds an object that `load` would refuse.
    """
    folder = Path(folder)
    buffer = io.BytesIO()
    torch.save(_plain({"format": FORMAT} | dict(state)), buffer)
    write_atomically(folder / NEWEST, buffer.getvalue(), previous=folder / PREVIOUS if keep_previous else None)


def load(folder: str | Path) -> dict[str, Any] | None:
    """Return the state of a folder's newest undamaged checkpoint, on the CPU; None if there are no checkpoints.

    Only tensors and plain values are read (`weights_only=True`), so a checkpoint from elsewhere cannot run code.

    Warns:
        RuntimeWarning: the newest is damaged, and the previous one is used.

    Raises:
        ValueError: all of them are damaged, or are not checkpoints of this course.
    """
    state, _ = _load(Path(folder))
    return state


def _load(folder: Path) -> tuple[dict[str, Any] | None, bool]:
    """Return the newest undamaged state, and whether it is that of the newest file."""
    damaged = []
    for name in (NEWEST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = _read(path)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, ValueError, KeyError) as error:
            damaged.append(f"{path} cannot be read ({str(error).splitlines()[0] if str(error) else repr(error)})")
            continue
        if damaged:
            warnings.warn(f"{damaged[0]}: continuing from the previous one, {name}", RuntimeWarning, stacklevel=3)
        return state, not damaged
    if damaged:
        raise ValueError(f"{'; '.join(damaged)}: start the run again, in another folder")
    return None, True


def _read(path: Path) -> dict[str, Any]:
    # torch.load ignores the checksums in the file; zipfile compares them.
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad:
        raise ValueError(f"its part {bad} does not match its checksum")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message explains how to run what such a file asks for, which nobody should do.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            refusal = f"it asks for {asked[1]}, which no checkpoint of this course does; none of it was run"
        else:
            refusal = (
                "it holds more than tensors and plain values, unlike every checkpoint of this course; none was run"
            )
        raise ValueError(refusal) from error
    except (AssertionError, AttributeError, IndexError, TypeError) as error:
        raise ValueError(f"it does not hold a state ({type(error).__name__}: {error})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"it does not hold a state of format {FORMAT}")
    return state


def _plain(value: object, where: str = "state") -> object:
    """Return a copy of nested dicts and lists of tensors and plain values, and name what is neither."""
    if value is None or isinstance(value, Tensor) or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(each, f"{where}[{key!r}]") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_plain(each, where) for each in value]) if type(value) in (list, tuple) else list(value)
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()  # one of NumPy's numbers
    raise TypeError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot hold: use numbers, text or tensors"
    )


def check_storable(state: State) -> None:
    """Check that a checkpoint can hold a state of this kind, before a run starts.

    Raises:
        TypeError: a part of it is neither a tensor nor a plain value; the message names it.
    """
    _plain(state)


class Checkpoints:
    """The checkpoints in the folder of a run; without a folder, nothing is saved.

    After a save that took t seconds, the next is due 100 t later, at most 10 s. Saving therefore takes about a
    hundredth of the time. Epochs of ten seconds and more are all saved; runs of shorter epochs are saved less often
    than each epoch, and always at the end.

    Args:
        folder: the run's folder, or None.
        writes: whether this process is the one that saves.
    """

    def __init__(self, folder: str | Path | None, *, writes: bool = True):
        self.folder = None if folder is None else Path(folder)
        self.writes = writes and folder is not None
        self._due_at = 0.0
        self._newest_is_whole = True

    def open(self, *, resume: bool) -> dict[str, Any] | None:
        """Create the folder, check it, and return the state to continue from, if any.

        Raises:
            ValueError: the folder holds another run and `resume` is False, or `resume` without a folder.
            OSError: the folder cannot be created or written to.
        """
        if self.folder is None:
            if resume:
                raise ValueError("resume=True needs run_dir, the folder of the run to continue")
            return None
        if self.writes:
            _check_folder(self.folder, resume)
        if not resume:
            return None
        with warnings.catch_warnings():
            if not self.writes:
                warnings.simplefilter("ignore", RuntimeWarning)  # one process warns for all of them
            state, self._newest_is_whole = _load(self.folder)
        return state

    def due(self) -> bool:
        """Return whether enough time has passed since the last save."""
        return self.writes and time.monotonic() >= self._due_at

    def save(self, state: State) -> None:
        """Save a state; if it cannot be written, warn with a RuntimeWarning and let the run continue."""
        if self.folder is None or not self.writes:
            return
        began = time.monotonic()
        try:
            save(state, self.folder, keep_previous=self._newest_is_whole)
            self._newest_is_whole = True
        except OSError as error:
            warnings.warn(
                f"the checkpoint of step {state['step']} could not be written in {str(self.folder)!r} ({error}): "
                "training continues, and the previous checkpoint is kept",
                RuntimeWarning,
                stacklevel=2,
            )
        now = time.monotonic()
        self._due_at = now + min(WAIT_FACTOR * (now - began), LONGEST_WAIT)


def _check_folder(folder: Path, resume: bool) -> None:
    """Create the folder of a run if needed, and check that it can be written to and does not hold another run."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"run_dir {str(folder)!r} is a file: give the name of a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder / NEWEST)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"run_dir {str(folder)!r} cannot be written to ({error}): choose another folder") from error
    if not resume and (any(folder.glob("checkpoint*.pt")) or any(folder.glob("events.out.tfevents.*"))):
        raise ValueError(
            f"run_dir {str(folder)!r} holds another run: continue it (resume=True, --resume), "
            "delete it, or choose another folder"
        )


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


def check_same_model(saved: Mapping[str, Tensor], mine: Mapping[str, Tensor]) -> None:
    """Check that a checkpoint's weights fit a model.

    Raises:
        ValueError: keys or shapes differ; the message lists them.
    """
    parts = [f"missing here {name}" for name in saved if name not in mine]
    parts += [f"missing in the checkpoint {name}" for name in mine if name not in saved]
    parts += [
        f"{name} has shape {tuple(saved[name].shape)} in the checkpoint, {tuple(mine[name].shape)} here"
        for name in saved
        if name in mine and isinstance(mine[name], Tensor) and saved[name].shape != mine[name].shape
    ]
    if len(parts) > 10:
        parts = [*parts[:10], f"{len(parts) - 10} more"]
    if parts:
        raise ValueError(f"the checkpoint is of another model: {'; '.join(parts)}")


def describe(
    model: nn.Module, optimizer: Optimizer, scheduler: object, loss_fn: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, object]:
    """Return the names and numbers that describe what a run is made with."""
    described: dict[str, object] = {
        "model": type(model).__name__,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "optimizer": type(optimizer).__name__,
        "scheduler": None if scheduler is None else type(scheduler).__name__,
        "loss_fn": getattr(loss_fn, "__name__", type(loss_fn).__name__),
        "reduction": getattr(loss_fn, "reduction", "mean"),
    }
    for name, value in optimizer.defaults.items():
        if name not in ("foreach", "fused", "capturable", "differentiable"):
            value = value.item() if isinstance(value, Tensor) else value
            known = value is None or isinstance(value, bool | int | float | str | tuple)
            described[name] = value if known else type(value).__name__
    return described


def fingerprint(train: Loader) -> dict[str, int | None]:
    """Return numbers that change with the training data: batches, rows, batch size, seed of the order, and a checksum.

    The checksum covers at most 1,024 evenly spaced rows, of data that is held in tensors.
    """
    dataset: Any = getattr(train, "dataset", None)
    tensors = getattr(dataset, "tensors", ())
    given: object = train
    if type(given) is list or type(given) is tuple:
        tensors = [each for batch in (given[0], given[-1]) if isinstance(batch, list | tuple) for each in batch]
    checksum = 0
    for tensor in tensors:
        if isinstance(tensor, Tensor) and tensor.numel():
            rows = tensor.detach()[:: -(-len(tensor) // 1024)] if tensor.ndim else tensor.detach()
            checksum = zlib.crc32(rows.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes(), checksum)
    num_rows = len(dataset) if hasattr(dataset, "__len__") else None
    batch_size, seed = getattr(train, "batch_size", None), getattr(train, "seed", None)
    return dict(zip(DATA, (len(train), num_rows, batch_size, seed, checksum), strict=True))
