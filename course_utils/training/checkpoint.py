"""Checkpoints: written whole or not at all, and holding everything that an exact resume needs."""

import io
import pickle
import re
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from course_utils.files import remove_unfinished, write_atomically

NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
FORMAT = 1
# A save is put off until the time since the one before is this many times what that one took, or so many seconds.
PUT_OFF, AT_MOST = 100, 10.0
# What `fingerprint` knows of the training data.
DATA = ("train_batches", "train_rows", "batch_size", "order_seed", "train_checksum")


def save(state: Mapping, folder: str | Path, *, keep_previous: bool = True) -> None:
    """Write a state as the folder's newest checkpoint and keep the one before.

    A process or a machine that dies at any moment leaves a whole checkpoint behind.

    Args:
        keep_previous: False where the newest file is damaged and must not take the place of the good one before.

    Raises:
        OSError: the file can't be written, for example since the disk is full; the checkpoints before are untouched.
        TypeError: the state holds an object that `load` would refuse.
    """
    folder = Path(folder)
    buffer = io.BytesIO()
    torch.save(_plain({"format": FORMAT} | dict(state)), buffer)
    write_atomically(folder / NEWEST, buffer.getvalue(), previous=folder / PREVIOUS if keep_previous else None)


def load(folder: str | Path) -> dict | None:
    """Read a folder's newest checkpoint that is whole, onto the CPU; None where there is none.

    Only tensors and plain values are read (`weights_only=True`): a checkpoint from elsewhere can run no code.

    Warns:
        RuntimeWarning: the newest is damaged and the one before is taken.

    Raises:
        ValueError: all that are there are damaged, or are no checkpoints of this course.
    """
    state, _ = _load(Path(folder))
    return state


def _load(folder: Path) -> tuple[dict | None, bool]:
    """The newest whole state, and whether the newest file is the one."""
    damaged = []
    for name in (NEWEST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = _read(path)
        except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError) as error:
            damaged.append(f"{path} can't be read ({str(error).splitlines()[0] if str(error) else repr(error)})")
            continue
        if damaged:
            warnings.warn(f"{damaged[0]}: going on from the one before, {name}", RuntimeWarning, stacklevel=3)
        return state, not damaged
    if damaged:
        raise ValueError(f"{'; '.join(damaged)}: start the run anew, in another folder")
    return None, True


def _read(path: Path) -> dict:
    # torch.load takes no notice of the checksums in the file; zipfile does.
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad:
        raise ValueError(f"its part {bad} does not match its checksum")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own words say how to run what such a file asks for, which is the last thing to do with it.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"it asks for {asked[1] if asked else 'more than tensors and plain values'}, which no checkpoint of this "
            "course does; nothing of it was run"
        ) from error
    except (AssertionError, AttributeError, IndexError, TypeError) as error:
        raise ValueError(f"it holds no state ({type(error).__name__}: {error})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"it holds no state of format {FORMAT}")
    return state


def _plain(value: object, where: str = "state") -> object:
    """Copy nested dicts and lists with plain values in them, and name what is not plain."""
    if value is None or isinstance(value, Tensor) or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(each, f"{where}[{key!r}]") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_plain(each, where) for each in value]) if type(value) in (list, tuple) else list(value)
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()  # one of NumPy's numbers
    raise TypeError(f"{where} is a {type(value).__name__}, which no checkpoint can hold: use numbers, text or tensors")


def check_storable(state: Mapping) -> None:
    """Check, before a run begins, that a checkpoint can hold a state of this kind.

    Raises:
        TypeError: a part of it is neither a tensor nor a plain value; the message names it.
    """
    _plain(state)


class Checkpoints:
    """A run's checkpoints in its folder; without a folder, nothing is kept.

    Saving takes no more than a hundredth of the time: after a save that took a hundredth of a second the next is due
    a second later, and never more than ten seconds later. So epochs of ten seconds and more are all saved; runs of
    shorter ones save less often than each epoch, and always at the end.

    Args:
        folder: the run's folder, or None.
        writes: whether this process is the one that saves.
    """

    def __init__(self, folder: str | Path | None, *, writes: bool = True):
        self.folder = None if folder is None else Path(folder)
        self.writes = writes and folder is not None
        self._due_at = 0.0
        self._newest_is_whole = True

    def open(self, *, resume: bool) -> dict | None:
        """Make the folder, check it, and return the state to go on from, if any.

        Raises:
            ValueError: the folder holds another run and `resume` is False, or `resume` without a folder.
            OSError: the folder can't be made or written in.
        """
        if self.folder is None:
            if resume:
                raise ValueError("resume=True needs run_dir, the folder of the run to go on with")
            return None
        if self.writes:
            _check_folder(self.folder, resume)
        if not resume:
            return None
        with warnings.catch_warnings():
            if not self.writes:
                warnings.simplefilter("ignore", RuntimeWarning)  # one process says it for all
            state, self._newest_is_whole = _load(self.folder)
        return state

    def due(self) -> bool:
        """Tell whether enough time has gone by since the save before."""
        return self.writes and time.monotonic() >= self._due_at

    def save(self, state: Mapping) -> None:
        """Save a state; a disk that is full is told with a RuntimeWarning and ends nothing."""
        if not self.writes:
            return
        began = time.monotonic()
        try:
            save(state, self.folder, keep_previous=self._newest_is_whole)
            self._newest_is_whole = True
        except OSError as error:
            warnings.warn(
                f"the checkpoint of step {state['step']} could not be written in {str(self.folder)!r} ({error}): "
                "training goes on, and the checkpoint before is kept",
                RuntimeWarning,
                stacklevel=2,
            )
        now = time.monotonic()
        self._due_at = now + min(PUT_OFF * (now - began), AT_MOST)


def _check_folder(folder: Path, resume: bool) -> None:
    """Make a run's folder if need be, and check that it is one, can be written in, and holds no other run."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"run_dir {str(folder)!r} is a file: give the name of a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder / NEWEST)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"run_dir {str(folder)!r} can't be written in ({error}): choose another folder") from error
    if not resume and any(folder.glob("checkpoint*.pt")) | any(folder.glob("events.out.tfevents.*")):
        raise ValueError(
            f"run_dir {str(folder)!r} holds another run: go on with it (resume=True, --resume), "
            "delete it, or choose another folder"
        )


def check_same(saved: Mapping, mine: Mapping) -> None:
    """Check that a run goes on with what it was made with.

    Raises:
        ValueError: something differs; the message lists what it was and what it is now.
    """
    differing = [name for name in saved.keys() | mine.keys() if saved.get(name) != mine.get(name)]
    if differing:
        listed = "; ".join(f"{name} was {saved.get(name)!r}, is {mine.get(name)!r}" for name in sorted(differing))
        raise ValueError(
            f"the checkpoint was made with other settings or data: {listed}. Go on with the same, "
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
    if parts:
        more = f" and {len(parts) - 10} more" if len(parts) > 10 else ""
        raise ValueError(f"the checkpoint is of another model: {'; '.join(parts[:10])}{more}")


def describe(
    model: nn.Module, optimizer: Optimizer, scheduler: object, loss_fn: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, object]:
    """Describe what a run is made with, by names and numbers."""
    described = {
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


def fingerprint(train: Iterable) -> dict[str, int | None]:
    """Describe training data by numbers that change with it: batches, rows, batch size, order, and a checksum.

    The checksum is over a thousand rows at most, evenly spread, of data that lies in tensors.
    """
    dataset = getattr(train, "dataset", None)
    tensors = getattr(dataset, "tensors", ())
    if type(train) in (list, tuple):
        tensors = [each for batch in (train[0], train[-1]) if isinstance(batch, list | tuple) for each in batch]
    checksum = 0
    for tensor in tensors:
        if isinstance(tensor, Tensor) and tensor.numel():
            rows = tensor.detach()[:: -(-len(tensor) // 1024)] if tensor.ndim else tensor.detach()
            checksum = zlib.crc32(rows.cpu().contiguous().flatten().view(torch.uint8).numpy(), checksum)
    num_rows = len(dataset) if hasattr(dataset, "__len__") else None
    batch_size, seed = getattr(train, "batch_size", None), getattr(train, "seed", None)
    return dict(zip(DATA, (len(train), num_rows, batch_size, seed, checksum), strict=True))
