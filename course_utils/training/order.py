"""The order of a loader's data: whether a resumed run can repeat it, and what it depends on."""

import zlib
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset, default_collate

from course_utils.data import Batches
from course_utils.training.distributed import Shard
from course_utils.training.loaders import samplers
from course_utils.training.rng import is_generator

# Their order depends on the number of the pass alone, or never changes.
FIXED_ORDER = (Batches, Shard, list, tuple)
# How many items of a list, or numbers of a tensor, are compared to see whether its owner has reordered it.
COMPARED = 64
STATE_DICT = "state_dict() and load_state_dict()"


def keeper_of_the_place(loader: object) -> Any:
    """Return the loader, or the part of it, that keeps the place in a pass itself, with a `state_dict`; or None."""
    parts = [loader]
    if isinstance(loader, DataLoader) and not loader.num_workers:
        parts += [loader.dataset] if isinstance(loader.dataset, IterableDataset) else samplers(loader)
    return next((part for part in parts if hasattr(part, "state_dict") and hasattr(part, "load_state_dict")), None)


def why_inexact(loader: object) -> str | None:
    """Return why a resumed run may not repeat the order of a loader; None if it does."""
    if keeper_of_the_place(loader) is not None:
        return None
    if isinstance(loader, DataLoader) and loader.persistent_workers and not _draws_nothing(loader):
        return (
            "the processes of persistent_workers=True keep random numbers of their own, which the data set may use, "
            "so only persistent_workers=False is exact"
        )
    if isinstance(loader, DataLoader) and loader.num_workers and not loader.in_order:
        return "with in_order=False, batches come in the order in which the worker processes end them"
    for part in _order_makers(loader):
        if not _is_repeatable(part):
            return (
                f"{type(part).__name__} may keep a state that cannot be seen from outside, "
                f"so its class has to have {STATE_DICT}"
            )
    return None


def _order_makers(loader: object) -> list[object]:
    """Return the parts that decide the order of the data."""
    dataset = getattr(loader, "dataset", None)
    ordered = isinstance(dataset, IterableDataset) or type(dataset) in (list, tuple)
    return [loader, *samplers(loader), *([dataset] if ordered else [])]


def _is_known(part: object) -> bool:
    """Return whether a part is a list, or one of this course's and PyTorch's classes that order data."""
    if isinstance(part, DataLoader):
        return type(part).__iter__ is DataLoader.__iter__
    from_torch = type(part).__module__.startswith("torch.utils.data") and not isinstance(part, IterableDataset)
    return from_torch or type(part) in (*FIXED_ORDER, range)


def _is_repeatable(part: object) -> bool:
    """Return whether a part orders its data by what is restored: random numbers or the number of the pass."""
    draws = any(map(is_generator, getattr(part, "__dict__", {}).values()))
    return draws or _is_known(part) or hasattr(part, "set_epoch")


def _draws_nothing(loader: DataLoader[Any]) -> bool:
    """Return whether a DataLoader's rows are known to be the same each time."""
    datasets: list[object] = [loader.dataset]
    while datasets:
        dataset = datasets.pop()
        if type(dataset) is Subset:
            datasets.append(dataset.dataset)
        elif type(dataset) is ConcatDataset:
            datasets += dataset.datasets
        elif type(dataset) not in (TensorDataset, list, tuple):
            return False
    return loader.collate_fn is default_collate


def checksums(loader: object, *, by_itself: bool) -> dict[str, int]:
    """Return checksums of what the order depends on besides random numbers, such as a sampler's list of rows.

    Args:
        by_itself: True for parts whose own code may change them when a pass begins; False for lists and PyTorch's
            samplers, which only their owner changes.
    """
    found: dict[str, int | None] = {}
    dataset = getattr(loader, "dataset", None)
    for part in _order_makers(loader):
        if isinstance(part, DataLoader) or hasattr(part, "set_epoch") or by_itself == _is_known(part):
            continue
        if type(part) in (list, tuple):
            found[f"the order of a {type(part).__name__}"] = _checksum(part)
        for name, value in getattr(part, "__dict__", {}).items():
            if value is not dataset:
                found[f"{type(part).__name__}.{name}"] = _checksum(value)
    return {name: value for name, value in found.items() if value is not None}


def _checksum(value: Any, depth: int = 3) -> int | None:
    """Return a checksum of at most `COMPARED` evenly spaced items of plain values, lists and arrays; else None."""
    if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_nested):
        return None
    if hasattr(value, "reshape") and hasattr(value, "tolist"):
        value = value.reshape(-1)
        value = value[:: len(value) // COMPARED + 1].tolist()
    elif type(value) is dict:
        value = list(value.values())
    if type(value) in (list, tuple):
        items = value[:: len(value) // COMPARED + 1]
        value = repr([len(value), *(_checksum(each, depth - 1) for each in items if depth)])
    elif not isinstance(value, (bool, int, float, str)):
        return None
    return zlib.crc32(repr(value).encode())
