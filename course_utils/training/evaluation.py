"""How good a model is on some data, measured without a graph; the model's mode is restored afterwards."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_utils.training import validation
from course_utils.training.history import Reduce
from course_utils.training.loaders import Batch


class Evaluation(NamedTuple):
    """Loss per sample on some data, and the share of correct answers; None when the targets are not class indices."""

    loss: float
    accuracy: float | None


@contextlib.contextmanager
def modes_kept(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a model into training or evaluation mode, and restore the mode of each of its modules at the end.

    A model that is already in training mode keeps the layers that its owner put into evaluation mode, such as a frozen
    BatchNorm.
    """
    modes = [(module, module.training) for module in model.modules()]
    if not (training and model.training):
        model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluate(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[Batch],
    *,
    autocast: contextlib.AbstractContextManager[object],
    all_reduce_sum: Reduce | None = None,
) -> Evaluation:
    """Compute loss per sample and accuracy, waiting for the device once, at the end.

    Args:
        loss_fn: with `reduction="mean"` or "sum".
        batches: pairs `(x, y)` on the model's device.
        autocast: the context that the forward pass runs in.
        all_reduce_sum: adds up rows of numbers over several processes.

    Raises:
        ValueError: there were no batches.
    """
    per_sample = validation.check_loss_fn(loss_fn) == "mean"
    losses, hits, num_rows, num_labels = [], [], 0, 0
    with modes_kept(model, training=False), torch.inference_mode(), autocast:
        for x, y in batches:
            logits = model(x)
            loss = loss_fn(logits, y)
            validation.check_loss(loss)
            losses.append(loss * len(y) if per_sample else loss)
            if not y.is_floating_point() and logits.ndim > 1:
                hits.append((logits.argmax(1) == y).sum())
                num_labels += y.numel()
            num_rows += len(y)
    total = math.fsum(torch.stack(losses).tolist()) if losses else 0.0
    correct = sum(torch.stack(hits).tolist()) if hits else 0
    sums: list[float] = [total, correct, num_rows, num_labels]
    if all_reduce_sum is not None:
        [sums] = all_reduce_sum([sums])
    total, correct, rows, labels = sums
    if not rows:
        raise ValueError("valid yielded no batches, so there is nothing to evaluate on")
    return Evaluation(total / rows, correct / labels if labels else None)
