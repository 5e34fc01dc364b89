"""How good a model is on some data, measured without a graph; the modes of its modules are restored afterwards."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from course_utils.training.history import Reduce, numbers, total_of
from course_utils.training.loaders import Batch, forward, to_device
from course_utils.training.losses import BatchLoss

_LABELS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Evaluation(NamedTuple):
    """Loss per sample on some data, and the share of correct answers; None when the targets are not class indices."""

    loss: float
    accuracy: float | None

    def figures(self) -> dict[str, float]:
        """Return the figures by the names that they have in a history."""
        return {"valid_loss": self.loss} | ({} if self.accuracy is None else {"valid_accuracy": self.accuracy})


@contextlib.contextmanager
def modes_kept(*modules: nn.Module | None, training: bool) -> Iterator[None]:
    """Put modules into training or evaluation mode, and restore the mode of each of their own modules at the end.

    One that is already in training mode keeps the layers that its owner put into evaluation mode, such as a frozen
    BatchNorm. None is left out.
    """
    roots = [module for module in modules if module is not None]
    modes = [(module, module.training) for root in roots for module in root.modules()]
    try:
        for root in roots:
            if not (training and root.training):
                root.train(training)
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluate(
    model: nn.Module,
    loss_fn: BatchLoss,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    autocast: contextlib.AbstractContextManager[object],
    all_reduce_sum: Reduce | None = None,
    on_batch: Callable[[Any, Any], object] | None = None,
) -> Evaluation:
    """Compute loss and accuracy as if all batches were one, waiting for the device at the end only.

    Gradients are off with `torch.no_grad()`, because a tensor that a layer keeps from `torch.inference_mode()` could
    not be trained with.

    Args:
        batches: are moved to the device one at a time.
        autocast: the context that the forward pass runs in.
        all_reduce_sum: adds up rows of numbers over several processes.
        on_batch: is called with the output and y of each batch.

    Returns the loss per sample, or per whatever the mean of `loss_fn` divides by, and the accuracy if y holds class
    indices.

    Raises:
        ValueError: there were no batches.
    """
    losses: list[Tensor] = []
    counts: list[float | Tensor] = []
    right: list[float | Tensor] = []
    labels: list[float | Tensor] = []
    strange: list[float | Tensor] = []  # labels that are not class indices
    with modes_kept(model, loss_fn.module, training=False):
        for batch in batches:
            counts.append(loss_fn.count(batch.y, batch.rows))
            inputs, y = to_device(batch.inputs, device), to_device(batch.y, device)
            with torch.no_grad(), autocast:
                output = forward(model, inputs)
                losses.append(loss_fn(output, y))
                if _are_classes(loss_fn, output, y):
                    classes = y.long()  # as uint8, 156 would equal -100
                    counted = classes != loss_fn.ignore_index
                    right.append(((output.argmax(1) == classes) & counted).sum())
                    labels.append(counted.sum())
                    if loss_fn.takes_classes is None:  # and so has not refused them
                        strange.append((((classes < 0) | (classes >= output.shape[1])) & counted).sum())
                else:
                    strange.append(1)
            if on_batch is not None:
                on_batch(output, y)
    hits = [sum(numbers(each)) for each in (right, labels, strange)]
    sums = [float(len(losses)), *_sums(losses, counts, loss_fn.reduction), *hits]
    if all_reduce_sum is not None:
        [sums] = all_reduce_sum([sums])
    num_batches, total, count, num_right, num_labels, num_strange = sums
    if not num_batches:
        raise ValueError("valid yielded no batches, so there is nothing to evaluate on")
    accuracy = num_right / num_labels if num_labels and not num_strange else None
    return Evaluation(total / count if count else math.nan, accuracy)


def _sums(losses: list[Tensor], counts: list[float | Tensor], reduction: str) -> tuple[float, float]:
    """Return the sum of what the losses are means of, and of what they divide by."""
    totals, divisors = numbers(losses), numbers(counts)
    if reduction == "mean":
        totals = [total_of(loss, count) for loss, count in zip(totals, divisors, strict=True)]
    return math.fsum(totals), math.fsum(divisors)


def _are_classes(loss_fn: BatchLoss, output: object, y: object) -> bool:
    """Return whether y has the shape and dtype of class indices, and the output their scores in dimension 1."""
    if not isinstance(output, Tensor) or not isinstance(y, Tensor) or output.is_nested or y.is_nested:
        return False
    if loss_fn.takes_classes is False or output.ndim < 2 or (output.ndim > 2 and not loss_fn.takes_classes):
        return False
    fits = output.shape[1] > 1 and y.shape == output.shape[:1] + output.shape[2:]
    return fits and y.dtype in _LABELS and output.is_floating_point() and output.layout == y.layout == torch.strided
