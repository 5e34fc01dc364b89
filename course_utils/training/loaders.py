"""Loaders: what the loop and the finder expect of the data that they are given."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

Batch = tuple[Tensor, Tensor]
# Ctrl-C also ends the worker processes of a DataLoader. Its next batch then fails with one of these.
LOST_WORKER = (RuntimeError, OSError, EOFError)


class Loader(Protocol):
    """Batches `(x, y)` with a known length, the same number in every pass: a DataLoader, `data.Batches`, a list."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


def check_loader(name: str, loader: Loader) -> None:
    """Check that a loader yields batches and knows how many there are in a pass.

    Raises:
        TypeError: it is a data set, has no length, or cannot be iterated over.
        ValueError: it is empty.
    """
    _check_is_not_a_data_set(name, loader)
    if not hasattr(loader, "__iter__") or not hasattr(loader, "__len__"):
        raise TypeError(
            f"{name} must be an iterable of (x, y) batches with a length, such as a DataLoader, "
            f"got {type(loader).__name__}"
        )
    if len(loader) == 0:
        raise ValueError(f"{name} is empty, 0 batches: is the data set empty, or drop_last=True with few rows?")


def check_repeatable(name: str, loader: Iterable[Batch]) -> None:
    """Check that a loader yields batches and can be iterated over again and again.

    Raises:
        TypeError: it is a data set or an iterator, or cannot be iterated over.
    """
    _check_is_not_a_data_set(name, loader)
    if not hasattr(loader, "__iter__") or hasattr(loader, "__next__"):
        raise TypeError(
            f"{name} must be iterable again and again, such as a DataLoader, got {type(loader).__name__}: "
            "the batches that an iterator has yielded are gone"
        )


def _check_is_not_a_data_set(name: str, loader: object) -> None:
    if isinstance(loader, Dataset):
        raise TypeError(
            f"{name} is a {type(loader).__name__}, which yields single samples: "
            "wrap it, DataLoader(dataset, batch_size=64, shuffle=True)"
        )


def no_batches(name: str, number: int) -> ValueError:
    """Make the error for a loader that yielded nothing in a pass; passes are numbered from 1."""
    return ValueError(
        f"{name} yielded no batches in pass {number}: a loader must yield its batches in every pass, as a DataLoader "
        "or a list does and a generator does not. An empty data set, or drop_last=True with few rows, yields none"
    )


def unpack(name: str, batch: object) -> Batch:
    """Return a batch as `(x, y)`.

    Raises:
        TypeError: it is not a pair of tensors.
        ValueError: x and y have different numbers of rows, or none.
    """
    if isinstance(batch, dict):
        keys = ", ".join(map(repr, batch))
        raise TypeError(f"{name} must yield pairs (x, y), got a {type(batch).__name__} with the keys {keys}")
    if not isinstance(batch, tuple | list):
        raise TypeError(f"{name} must yield pairs (x, y), got a {type(batch).__name__}")
    if len(batch) != 2:
        raise TypeError(f"{name} must yield pairs (x, y), got a {type(batch).__name__} of length {len(batch)}")
    x, y = batch
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise TypeError(f"{name} must yield tensors (x, y), got ({type(x).__name__}, {type(y).__name__})")
    shape = x.shape
    if not shape or not y.ndim:
        raise ValueError(f"{name} yields single samples, x of shape {tuple(shape)}: batches need a first dimension")
    if shape[0] != y.shape[0] or not shape[0]:
        raise ValueError(
            f"{name} yields {len(x)} rows of x but {len(y)} of y: they must be the same number, at least 1"
        )
    return x, y


def batches_on(device: torch.device, name: str, loader: Iterable[object]) -> Iterator[Batch]:
    """Yield a loader's batches, checked and moved to the device; a copy from pinned memory does not wait.

    Raises:
        TypeError, ValueError: a batch is not a pair of tensors with the same number of rows.
    """
    non_blocking = device.type == "cuda"
    for batch in loader:
        x, y = unpack(name, batch)
        if x.device != device or y.device != device:
            x, y = x.to(device, non_blocking=non_blocking), y.to(device, non_blocking=non_blocking)
        yield x, y


def samplers(loader: object) -> list[object]:
    """Return the samplers of a DataLoader, each once; other loaders have none."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    found: list[object] = []
    for sampler in (getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)):
        if sampler is not None and not any(sampler is each for each in found):
            found.append(sampler)
    return found
