"""How good a model is on some batches: measured without a graph, and with its mode given back."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_utils.training import validation


class Evaluation(NamedTuple):
    """Loss per sample on some data, and the share of right answers, None where the labels are no classes."""

    loss: float
    accuracy: float | None


@contextlib.contextmanager
def modes_kept(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a model into training or evaluation, and give each of its modules its own mode back.

    A model that is in training already keeps the layers that its owner put into evaluation, such as a frozen
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
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    autocast: contextlib.AbstractContextManager,
    all_reduce_sum: Callable[[list[list[float]]], list[list[float]]] | None = None,
    halted: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Compute loss per sample and accuracy; the device is waited for once, at the end.

    Args:
        loss_fn: with `reduction="mean"` or "sum".
        batches: pairs on the model's device.
        autocast: the context that the model runs in.
        all_reduce_sum: adds up rows of numbers over several processes.
        halted: asked after each batch; True ends the evaluation.

    Returns None where `halted` ended it.
    """
    per_sample = validation.check_loss_fn(loss_fn) == "mean"
    losses, rights, num_rows, num_labels = [], [], 0, 0
    with modes_kept(model, training=False), torch.inference_mode(), autocast:
        for x, y in batches:
            logits = model(x)
            loss = loss_fn(logits, y)
            validation.check_loss(loss)
            losses.append(loss * len(y) if per_sample else loss)
            if not y.is_floating_point() and logits.ndim > 1:
                rights.append((logits.argmax(1) == y).sum())
                num_labels += y.numel()
            num_rows += len(y)
            if halted():
                return None
    total = math.fsum(torch.stack(losses).tolist()) if losses else 0.0
    right = sum(torch.stack(rights).tolist()) if rights else 0
    if all_reduce_sum is not None:
        [[total, right, num_rows, num_labels]] = all_reduce_sum([[total, right, num_rows, num_labels]])
    if not num_rows:
        raise ValueError("valid gave no batch, so there is nothing to evaluate on")
    return Evaluation(total / num_rows, right / num_labels if num_labels else None)
