"""Runs that clear, scale and use their gradients at different times, trained together from the same weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.data import Batches
from course_utils.errors import positive_integer, positive_number
from course_utils.lr.stack import Stack, choose_forward


@dataclass(frozen=True)
class AccumulationConfig:
    """When one run of plain SGD clears, scales and uses its gradients.

    Attributes:
        lr: the learning rate.
        clear_every: clear the gradients after this many micro-batches; None never clears them.
        step_once: take one step just before each clearing (accumulation) instead of one after every micro-batch.
        scaled: divide each loss by `clear_every`.

    Raises:
        ValueError: the rate is not a positive number, or the count is not a positive whole number.
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
        """Return whether the gradients are cleared after this micro-batch, counted from 1."""
        return self.clear_every is not None and micro_batch % self.clear_every == 0

    def steps(self, micro_batch: int) -> bool:
        """Return whether a step is taken after this micro-batch, counted from 1."""
        return self.clears(micro_batch) or not self.step_once

    @property
    def factor(self) -> float:
        """The number that each loss is multiplied by before its backward()."""
        return 1 / self.clear_every if self.scaled and self.clear_every else 1.0


@dataclass
class AccumulationRuns:
    """The losses and gradient norms of several runs.

    Attributes:
        configs: how each run is trained, one per row.
        losses: the unscaled loss of each micro-batch before its backward(), shape (runs, micro-batches).
        norms: the norm of all gradients in `.grad` as one vector, right after each backward(), the same shape.
        done: how many micro-batches have been trained; later columns are NaN.
    """

    configs: list[AccumulationConfig]
    losses: Tensor
    norms: Tensor
    done: int = 0

    @property
    def finished(self) -> bool:
        """Whether all micro-batches have been trained."""
        return self.done == self.losses.shape[1]


def window_means(losses: Tensor, size: int) -> list[float]:
    """Return the mean of each full window of `size` losses, shape (micro-batches,).

    >>> window_means(torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]), 2)
    [2.0, 6.0]
    """
    return losses[: len(losses) // size * size].view(-1, size).mean(1).tolist()


def iter_runs(
    model: nn.Module, batches: Batches, configs: Sequence[AccumulationConfig], *, num_epochs: int
) -> Iterator[AccumulationRuns]:
    """Train one copy of a model per config, all on the same micro-batches; yield the runs after each micro-batch.

    Up to rounding, each run equals the loop written out with `loss.backward()`, `torch.optim.SGD` and `zero_grad()`;
    its gradients come from PyTorch's autograd.

    Args:
        model: every run starts from its weights; it is not changed. It returns logits (batch, classes).
        batches: the micro-batches; epoch `e` uses the order of `set_epoch(e)`.
        configs: what each run does with its gradients.
        num_epochs: passes over `batches`.

    Raises:
        ValueError: there are no configs, or num_epochs is not a positive whole number.
    """
    if not configs:
        raise ValueError(f"configs must describe at least one run, got {configs!r}")
    num_epochs = positive_integer("num_epochs", num_epochs)
    x, _ = batches.dataset.tensors
    _, forward = choose_forward(model, x[: batches.batch_size])
    stack = Stack.copies(model, len(configs))
    weights = [weight for weight in stack.values() if weight.requires_grad]
    accumulated = [torch.zeros_like(weight) for weight in weights]  # what .grad holds
    lrs, factors = (
        torch.tensor(values, device=x.device)
        for values in zip(*((config.lr, config.factor) for config in configs), strict=True)
    )
    shape = (len(configs), len(batches) * num_epochs)
    runs = AccumulationRuns(list(configs), torch.full(shape, torch.nan), torch.full(shape, torch.nan))
    for epoch in range(num_epochs):
        batches.set_epoch(epoch)
        for x, y in batches:
            logits = forward(stack, x)
            losses = F.cross_entropy(logits, y.expand(len(configs), -1), reduction="none").mean(1)
            # No run's loss depends on another run's weights, so the gradient of the sum contains each run's gradient.
            grads = torch.autograd.grad((losses * factors).sum(), weights)
            runs.losses[:, runs.done] = losses.detach().cpu()
            runs.done += 1
            steps, clears = (
                torch.tensor(answers, device=x.device)
                for answers in zip(
                    *((config.steps(runs.done), config.clears(runs.done)) for config in configs), strict=True
                )
            )
            runs.norms[:, runs.done - 1] = _use(weights, accumulated, grads, lrs, steps, clears).cpu()
            yield runs


@torch.no_grad()
def _use(
    weights: list[Tensor],
    accumulated: list[Tensor],
    grads: Sequence[Tensor],
    lrs: Tensor,
    steps: Tensor,
    clears: Tensor,
) -> Tensor:
    """Add the gradients to the accumulated ones, step and clear each run as asked; return the accumulated norms."""
    squares = torch.zeros_like(lrs)
    for weight, total, grad in zip(weights, accumulated, grads, strict=True):
        total += grad
        squares += total.flatten(1).square().sum(1)
        each = (-1, *[1] * (weight.ndim - 1))
        # Mask out the runs that take no step now: 0 × infinity would be NaN.
        weight.sub_((total * lrs.view(each)).masked_fill_(~steps.view(each), 0.0))
        total.masked_fill_(clears.view(each), 0.0)
    return squares.sqrt()
