"""Runs that differ in when their gradients are cleared, scaled and used, trained together from the same weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.data import Batches
from course_utils.errors import positive_integer, positive_number
from course_utils.lr.stack import Stack, choose_forward


@dataclass(frozen=True)
class Plan:
    """What one run of plain SGD does with its gradients.

    Attributes:
        lr: the learning rate.
        clear_every: clear the gradients after this many micro-batches; None never clears them.
        step_once: take one step just before each clearing (accumulation), not one after every micro-batch.
        scaled: divide each loss by `clear_every`.

    Raises:
        ValueError: a rate that is no positive number, or a count that is no positive whole number.
    """

    lr: float
    clear_every: int | None = 1
    step_once: bool = False
    scaled: bool = False

    def __post_init__(self):
        positive_number("lr", self.lr)
        if self.clear_every is not None:
            positive_integer("clear_every", self.clear_every)

    def clears(self, micro_batch: int) -> bool:
        """Whether the gradients are cleared after this micro-batch, counted from 1."""
        return self.clear_every is not None and micro_batch % self.clear_every == 0

    def steps(self, micro_batch: int) -> bool:
        """Whether a step is taken after this micro-batch, counted from 1."""
        return self.clears(micro_batch) or not self.step_once

    @property
    def factor(self) -> float:
        """What each loss is multiplied with before its backward."""
        return 1 / self.clear_every if self.scaled and self.clear_every else 1.0


@dataclass
class Runs:
    """What was seen of each run.

    Attributes:
        plans: what each run does, one a row.
        losses: the loss of each micro-batch before its backward, not scaled, shape (plans, micro-batches).
        norms: the length of all gradients in `.grad` as one vector, right after each backward, the same shape.
        done: how many micro-batches have been trained; what comes after them is NaN.
    """

    plans: list[Plan]
    losses: Tensor
    norms: Tensor
    done: int = 0


def iter_runs(model: nn.Module, batches: Batches, plans: Sequence[Plan], *, num_epochs: int) -> Iterator[Runs]:
    """Train one copy of a model for each plan, all on the same micro-batches; yield the runs after each micro-batch.

    Each run is, up to rounding, the loop that is written down with `loss.backward()`, `torch.optim.SGD` and
    `zero_grad()`; its gradients come from PyTorch's autograd.

    Args:
        model: where every run starts; it is not changed. It gives logits (batch, classes).
        batches: the micro-batches; epoch `e` takes the order of `set_epoch(e)`.
        plans: what each run does with its gradients.
        num_epochs: passes over `batches`.

    Raises:
        ValueError: no plans, or a number of epochs that is no positive whole number.
    """
    if not plans:
        raise ValueError(f"plans must name at least one run, got {plans!r}")
    positive_integer("num_epochs", num_epochs)
    x, _ = batches.dataset.tensors
    _, forward = choose_forward(model, x[: batches.batch_size])
    stack = Stack.copies(model, len(plans))
    weights = [weight for weight in stack.values() if weight.requires_grad]
    held = [torch.zeros_like(weight) for weight in weights]  # what .grad holds
    lrs, factors = (
        torch.tensor(values, device=x.device)
        for values in zip(*((plan.lr, plan.factor) for plan in plans), strict=True)
    )
    shape = (len(plans), len(batches) * num_epochs)
    runs = Runs(list(plans), torch.full(shape, torch.nan), torch.full(shape, torch.nan))
    for epoch in range(num_epochs):
        batches.set_epoch(epoch)
        for x, y in batches:
            logits = forward(stack, x)
            losses = F.cross_entropy(logits, y.expand(len(plans), -1), reduction="none").mean(1)
            # No run's loss depends on another run's weights: the gradient of the sum holds the gradient of each.
            grads = torch.autograd.grad((losses * factors).sum(), weights)
            runs.losses[:, runs.done] = losses.detach().cpu()
            runs.done += 1
            steps, clears = (
                torch.tensor(answers, device=x.device)
                for answers in zip(*((plan.steps(runs.done), plan.clears(runs.done)) for plan in plans), strict=True)
            )
            runs.norms[:, runs.done - 1] = _use(weights, held, grads, lrs, steps, clears).cpu()
            yield runs


@torch.no_grad()
def _use(
    weights: list[Tensor], held: list[Tensor], grads: Sequence[Tensor], lrs: Tensor, steps: Tensor, clears: Tensor
) -> Tensor:
    """Add the gradients to the held ones, step and clear where asked; return the lengths of what was held."""
    squares = torch.zeros_like(lrs)
    for weight, total, grad in zip(weights, held, grads, strict=True):
        total += grad
        squares += total.flatten(1).square().sum(1)
        each = (-1, *[1] * (weight.ndim - 1))
        # A run that takes no step now is masked out: 0 × infinity would be NaN.
        weight.sub_((total * lrs.view(each)).masked_fill_(~steps.view(each), 0.0))
        total.masked_fill_(clears.view(each), 0.0)
    return squares.sqrt()
