"""Loaders: what the loop and the finder expect of the data they are given, and what they do with a batch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import Dataset

# Ctrl-C also ends the worker processes of a DataLoader. Its next batch then fails with one of these.
LOST_WORKER = (RuntimeError, OSError, EOFError)

Tensors = Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]
PrepareBatch = Callable[[Any], tuple[Tensors, Tensors]]


class Batch(NamedTuple):
    """One prepared batch, on the device where the loader left it.

    Attributes:
        inputs: what the model is called with: a tensor, a tuple or list (positional) or a dict (keywords).
        y: the targets: a tensor, or nested tuples, lists and dicts of tensors for a loss function of your own.
        rows: the number of samples, the first dimension.
    """

    inputs: Tensors
    y: Tensors
    rows: int


class Loader(Protocol):
    """Batches, again from the start in each pass: a DataLoader, `data.Batches`, a list. `num_batches` is its length."""

    def __iter__(self) -> Iterator[Any]: ...


def num_batches(loader: object) -> int | None:
    """Return how many batches a pass has; None if the loader does not know, as for an `IterableDataset`."""
    try:
        return len(loader)  # type: ignore[arg-type]  # the TypeError is the answer
    except (TypeError, NotImplementedError):
        return None


def check_loader(name: str, loader: object, *, steps_per_epoch: int | None = None) -> None:
    """Check that a loader yields batches in pass after pass, and that an epoch of it has an end.

    Raises:
        TypeError: it is a data set or an iterator, cannot be iterated over, or has neither a length nor
            `steps_per_epoch`.
        ValueError: it is empty.
    """
    check_repeatable(name, loader)
    length = num_batches(loader)
    if length is None and steps_per_epoch is None:
        raise TypeError(
            f"{name} has no length ({_described(loader)}), so an epoch has no end: "
            "give the number of steps, fit(..., steps_per_epoch=1000), or a loader with a length"
        )
    if length == 0:
        raise ValueError(f"{name} is empty, 0 batches: is the data set empty, or drop_last=True with few rows?")


def check_repeatable(name: str, loader: object) -> None:
    """Check that a loader yields batches and can be iterated over again and again.

    Raises:
        TypeError: it is a data set or an iterator, or cannot be iterated over.
    """
    if isinstance(loader, Dataset):
        raise TypeError(
            f"{name} is a {type(loader).__name__}, which yields single samples: "
            "wrap it, DataLoader(dataset, batch_size=64, shuffle=True)"
        )
    iterable = hasattr(loader, "__iter__") and not isinstance(loader, type) and getattr(loader, "ndim", 1) != 0
    if not iterable or hasattr(loader, "__next__"):
        raise TypeError(
            f"{name} must be iterable again and again, such as a DataLoader, got {type(loader).__name__}: "
            "the batches that an iterator has yielded are gone"
        )


def _described(loader: object) -> str:
    dataset, name = getattr(loader, "dataset", None), type(loader).__name__
    return name if dataset is None else f"a {name} of {type(dataset).__name__}"


def no_batches(name: str, number: int) -> ValueError:
    """Make the error for a loader that yielded nothing in a pass; passes are numbered from 1."""
    return ValueError(
        f"{name} yielded no batches in pass {number}: a loader must yield its batches in every pass, as a DataLoader "
        "or a list does and a generator does not. An empty data set, or drop_last=True with few rows, yields none"
    )


def prepare(name: str, batch: Any, prepare_batch: PrepareBatch | None = None) -> Batch:
    """Return a loader's batch as inputs, targets and their number of rows.

    Args:
        name: the loader's name, for errors.
        batch: a pair (inputs, y) or, with `prepare_batch`, anything that this function takes.
        prepare_batch: the user's function from the loader's batch to (inputs, y).

    Raises:
        TypeError: it is not a pair of tensors, or of tuples, lists or dicts with tensors.
        ValueError: x and y have different numbers of rows, or none.
    """
    if prepare_batch is not None:
        name, batch = f"prepare_batch (of {name})", prepare_batch(batch)
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise _not_a_pair(name, batch, prepared=prepare_batch is not None)
    inputs, y = batch
    if isinstance(inputs, Tensor) and isinstance(y, Tensor):
        shape = inputs.shape
        if not shape or not y.ndim:
            raise ValueError(
                f"{name} yields single samples, x of shape {tuple(shape)} and y of shape {tuple(y.shape)}: "
                "batches need a first dimension"
            )
        rows = shape[0]
        if rows != y.shape[0] or not rows:
            raise ValueError(
                f"{name} yields {rows} rows of x but {y.shape[0]} of y: they must be the same number, at least 1"
            )
        return Batch(inputs, y, rows)
    return _nested(name, inputs, y)


def _nested(name: str, inputs: Any, y: Any) -> Batch:
    """Return a batch with nested parts; its rows are those of y or, if y is nested, of the inputs."""
    # A tokenizer's BatchEncoding, for example, is a mapping and not a dict.
    inputs, y = (dict(each) if isinstance(each, Mapping) else each for each in (inputs, y))
    first, target = next(tensors_in(inputs), None), next(tensors_in(y), None)
    if first is None or target is None:
        raise TypeError(
            f"{name} must yield tensors (x, y), or tuples, lists or dicts with tensors, "
            f"got ({type(inputs).__name__}, {type(y).__name__}): use torch.as_tensor"
        )
    counted = target if isinstance(y, Tensor) else first
    if not counted.ndim or not len(counted):
        raise ValueError(
            f"{name} yields a batch without rows, of shape {tuple(counted.shape)}: "
            "batches need a first dimension of at least 1"
        )
    return Batch(inputs, y, len(counted))


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(each)


def _not_a_pair(name: str, batch: Any, *, prepared: bool) -> TypeError:
    """Make the error for a batch that is not a pair; name the way out for dicts and for longer tuples."""
    kind, example = type(batch).__name__, ""
    if isinstance(batch, Mapping):
        keys = list(batch)
        kind = f"{kind} with the keys {', '.join(map(repr, keys))}"
        example = f"(batch[{keys[0]!r}], batch[{keys[-1]!r}])" if keys else ""
    elif isinstance(batch, (tuple, list)):
        kind = f"{kind} of length {len(batch)}"
        parts = [f"batch[{i}]" for i in range(len(batch))]
        example = f"(({', '.join(parts[:-1])}), {parts[-1]})" if len(batch) > 2 else ""
    if prepared:
        return TypeError(f"{name} must return a pair (inputs, y), got {kind}")
    way_out = f": choose them, Trainer(..., prepare_batch=lambda batch: {example})" if example else ""
    return TypeError(f"{name} must yield pairs (x, y), got a {kind}{way_out}")


def to_device(value: Any, device: torch.device) -> Any:
    """Return a value with its nested tensors moved to a device; a copy from pinned memory does not wait.

    Tuples, lists and dicts keep their kind, what is already there is not copied, and what cannot move stays as it is.
    """
    if isinstance(value, Tensor):
        return value if value.device == device else value.to(device, non_blocking=device.type == "cuda")
    if hasattr(value, "to"):
        return value.to(device)  # a PackedSequence, or a batch of another library
    if isinstance(value, dict):
        return {key: to_device(each, device) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        moved = [to_device(each, device) for each in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    return value


def forward(model: nn.Module, inputs: Tensors) -> Any:
    """Call a model with a batch's inputs: one tensor or packed sequence, several in order, or keywords.

    Raises:
        ValueError: a BatchNorm got a single row in training.
    """
    try:
        if isinstance(inputs, Tensor | PackedSequence):  # the second is a tuple, but one input
            return model(inputs)
        return model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "BatchNorm cannot train on a batch of a single row, such as the last one of a pass: leave it out, "
            f"DataLoader(..., drop_last=True), or choose another batch_size ({error})"
        ) from error


def samplers(loader: object) -> list[object]:
    """Return the samplers of a DataLoader, and those that they wrap, each once; other loaders have none."""
    found: list[object] = []
    waiting = [getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    while waiting:
        sampler = waiting.pop(0)
        if sampler is not None and not any(sampler is each for each in found):
            found.append(sampler)
            waiting.append(getattr(sampler, "sampler", None))
    return found


def set_epoch(loader: object, epoch: int) -> None:
    """Pass the number of the epoch to a loader, its samplers and its data set, if they take it."""
    for each in (loader, *samplers(loader), getattr(loader, "dataset", None)):
        take: Callable[[int], object] | None = getattr(each, "set_epoch", None)
        if take is not None:
            take(epoch)
