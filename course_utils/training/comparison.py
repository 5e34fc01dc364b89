"""What a run is compared with before it continues: its settings, its data, and the shapes of its weights."""

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from course_utils.training.loaders import num_batches, tensors_in
from course_utils.training.state import listed

# The names of the numbers that `fingerprint` returns.
DATA = ("train_batches", "train_rows", "batch_size", "order_seed", "train_checksum", "sampler")
# What describes a run only since format 2.
NOT_IN_FORMAT_1 = ("loss_settings", "sampler")


def check_same(saved: Mapping[str, object], mine: Mapping[str, object], *, with_data: bool = True) -> None:
    """Check that a run continues with the settings and data that it was made with.

    Args:
        with_data: whether the numbers that describe the data are compared.

    Raises:
        ValueError: something differs; the message lists what it was and what it is now.
    """
    names = saved.keys() | {name for name in mine if name not in NOT_IN_FORMAT_1}
    compared = names if with_data else names - set(DATA)
    differing = [name for name in compared if saved.get(name) != mine.get(name)]
    if differing:
        listed = "; ".join(f"{name} was {saved.get(name)!r}, is {mine.get(name)!r}" for name in sorted(differing))
        raise ValueError(
            f"the checkpoint was made with other settings or data: {listed}. Continue with the same ones, "
            "or start a new run in another folder"
        )


def check_same_model(saved: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Check that a checkpoint's weights fit a model; both are what `state.model_state` returns.

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
        "loss_settings": ", ".join(f"{name}={value!r}" for name, value in _settings_of(loss_fn, options).items()),
    }
    hidden = ("foreach", "fused", "capturable", "differentiable")  # how the numbers are computed, not which
    return described | {name: _setting(value) for name, value in optimizer.defaults.items() if name not in hidden}


def _settings_of(loss_fn: object, options: Mapping[str, object]) -> dict[str, object]:
    """Return the numbers and names that a loss keeps or is called with, such as its label_smoothing."""
    kept = vars(loss_fn) if isinstance(loss_fn, nn.Module) else options
    return {
        name: value
        for name, value in kept.items()
        if isinstance(value, bool | int | float | str) and name[0] != "_" and name != "training"
    }


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
    for tensor in tensors_in(held):
        if tensor.layout == torch.strided and not tensor.is_nested and tensor.numel():
            rows = tensor.detach()[:: -(-len(tensor) // 1024)] if tensor.ndim else tensor.detach()
            checksum = zlib.crc32(rows.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes(), checksum)
    batch_size, seed = _setting(getattr(train, "batch_size", None)), _setting(getattr(train, "seed", None))
    sampler = getattr(train, "sampler", None)
    name = None if sampler is None else type(sampler).__name__
    numbers = (num_batches(train), num_batches(dataset), batch_size, seed, checksum, name)
    return dict(zip(DATA, numbers, strict=True))
