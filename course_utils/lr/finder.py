"""The learning-rate finder: raise the rate at every step, watch the loss, and restore everything."""

import contextlib
import copy
import enum
import itertools
import math
import operator
import statistics
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from course_utils import devices
from course_utils.errors import positive_integer, positive_number, quoted
from course_utils.training import distributed, gradients, loaders, validation
from course_utils.training.evaluation import modes_kept
from course_utils.training.history import History
from course_utils.training.loaders import Batch, forward, prepare, to_device
from course_utils.training.losses import BatchLoss
from course_utils.training.rng import RandomStates
from course_utils.training.signals import finish_step_on_signal
from course_utils.training.tracking import Progress, reporting

LEAST_STEPS, MOST_STEPS = 20, 10**5
# The search ends when the loss is more than this many times its first value above its lowest one.
TOO_HIGH = 3.0
# The suggestion, as fractions of the rate at which the smoothed loss was lowest.
LOW, POINT, HIGH = 1 / 10, 1 / 3, 1 / 2


class End(enum.Enum):
    """How a search ended."""

    LAST_RATE = "at the last rate"
    NOT_FINITE = "at a loss that is NaN or infinite"
    RAN_AWAY = "at a loss that ran away"
    INTERRUPTED = "at a signal, such as Ctrl-C"


@dataclass(frozen=True)
class Suggestion:
    """Learning rates to start with: from `low` to `high`, or `point` if only one is needed."""

    low: float
    point: float
    high: float


@dataclass(frozen=True)
class LRFinderResult:
    """What a search for the learning rate found.

    Attributes:
        lrs: the rates, rising; with several parameter groups, those of the group with the largest rate.
        losses: the mean loss per sample of each step's batch *before* that step, so that `losses[i]` is the result of
            the rates before `lrs[i]`. All of them are finite: the search ends at the first that is not.
        smoothed: the losses as a centered moving mean with triangular weights, which does not lag.
        suggestion: a range and a point, or None if the losses do not show one.
        reason: the reason for it, in one sentence.
        interrupted: whether Ctrl-C or another signal ended the search. There is a suggestion all the same if the loss
            had already risen again.
    """

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: Suggestion | None
    reason: str
    interrupted: bool = False

    def __repr__(self) -> str:
        if self.suggestion is None:
            return f"LRFinderResult(no suggestion: {self.reason})"
        found = self.suggestion
        return f"LRFinderResult(lr {found.point:.2g}, or from {found.low:.2g} to {found.high:.2g}: {self.reason})"


def find_lr(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: Callable[..., Tensor],
    loader: Iterable[Any],
    *,
    start: float = 1e-6,
    end: float = 10.0,
    num_steps: int = 100,
    accumulation_steps: int = 1,
    max_grad_norm: float | None = None,
    precision: str = "fp32",
    scaler: torch.amp.GradScaler | None = None,
    prepare_batch: Callable[[Any], tuple[Any, Any]] | None = None,
    loss_count: Callable[[Any], float | Tensor] | None = None,
    progress: Progress = False,
) -> LRFinderResult:
    """Search for a learning rate: train with rates that rise from `start` to `end`, then restore everything.

    The search starts from the model and the optimizer as they are. However it ends, even by an error or Ctrl-C, it
    restores bit for bit: parameters, buffers and their gradients, the mode of each module, the optimizer's state and
    the rate of each group (so a scheduler continues as if nothing had happened), the scaler, the random numbers of
    Python, NumPy, PyTorch and CUDA, and the generators and the epoch of the loader and its samplers. Plain attributes
    of a module are not restored.

    Args:
        model, optimizer, loss_fn, prepare_batch, loss_count: as for `Trainer`; the batches are moved to the model's
            device.
        loader: batches `(x, y)`, or others with `prepare_batch`; if it ends before the search does, it is iterated over
            again.
        start, end: the first and the last rate, of the group with the largest one; the others keep their ratio to it.
        num_steps: the number of rates, evenly spaced by ratio, at least 20. With fewer than 100, chance matters much.
        accumulation_steps, max_grad_norm, precision: those of the training that follows.
        scaler: the gradient scaler of your own loop; a copy of it is used. None makes a new one for "fp16".
        progress: True for a bar, False for none, or a function that is called as `progress(step, num_steps, history)`,
            where `history` has `step_loss` and `lr`.

    Returns the rates, the losses, and a suggestion: a third of the rate at which the smoothed loss was lowest, and a
    range from a tenth to a half of it. This is a rule of thumb, chosen on the digits with the models of this course,
    so train with it and look. A deep network with small batches may need more steps before its loss falls at all.
    Ctrl-C or a notebook's stop button ends the search after its step, and the result is `interrupted`.

    Raises:
        ValueError: `start`, `end` or a count is out of range, the loader is empty, or parts do not fit together.
        TypeError: the model, the optimizer or the scaler is not one, or the loader can be iterated over only once.
        SystemExit: after SIGTERM or SIGUSR1; its code is 128 + the signal.

    >>> x, y = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator ...>
    >>> model = nn.Linear(2, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> found = find_lr(model, optimizer, nn.CrossEntropyLoss(), [(x, y)], start=1e-4, end=100.0)
    >>> found.lrs[0], len(found.lrs) == len(found.losses), optimizer.param_groups[0]["lr"]
    (0.0001, True, 0.1)
    """
    validation.check_model(model)
    accumulation_steps = positive_integer("accumulation_steps", accumulation_steps)
    batch_loss = BatchLoss(loss_fn, count=loss_count, joins=accumulation_steps > 1)
    validation.check_optimizer(optimizer, model, batch_loss.module)
    validation.check_progress(progress)
    device = next(model.parameters()).device
    devices.check_precision(precision, device)
    lrs = rising_rates(start, end, num_steps)
    if max_grad_norm is not None:
        max_grad_norm = positive_number("max_grad_norm", max_grad_norm)
    loaders.check_repeatable("loader", loader)
    ratios = _ratios(optimizer)
    if scaler is None:
        scaler = devices.make_scaler(precision, device)
    if not isinstance(scaler, torch.amp.GradScaler):
        raise TypeError(f"scaler must be a torch.amp.GradScaler or None, got {quoted(scaler)}")
    scaler = copy.deepcopy(scaler)
    autocast = devices.autocast(precision, device)
    losses: list[float] = []
    history = History()
    stopped: list[bool] = []

    with contextlib.ExitStack() as stack:
        received = stack.enter_context(finish_step_on_signal(lambda: stopped.append(True)))
        stack.enter_context(_interruptible(stopped))
        stack.enter_context(_restored(model, optimizer, batch_loss.module, loader))
        stack.enter_context(modes_kept(model, batch_loss.module, training=True))
        stack.enter_context(torch.enable_grad())
        report = stack.enter_context(reporting(progress, 0, num_steps))
        batches = stack.enter_context(contextlib.closing(_repeated(loader, prepare_batch)))
        lowest = math.inf
        for lr in lrs:
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                _set_rate(group, lr * ratio)
            try:
                micro = list(itertools.islice(batches, accumulation_steps))
            except loaders.LOST_WORKER:
                if stopped:
                    break
                raise
            optimizer.zero_grad()
            loss = _backward(model, batch_loss, micro, device, scaler, autocast)
            losses.append(loss)
            lowest = min(lowest, loss)
            if not math.isfinite(loss) or _ran_away(losses[0], lowest, loss):
                break
            if max_grad_norm is not None:
                scaler.unscale_(optimizer)
                gradients.clip(optimizer, max_grad_norm)
            if scaler.is_enabled():
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
            history.step_loss.append((len(losses), loss))
            history.lr.append((len(losses), lr))
            report(len(losses), history)
            if stopped:
                break
    received.exit()
    return suggest(lrs, losses, interrupted=bool(stopped))


@contextlib.contextmanager
def _interruptible(stopped: list[bool]) -> Iterator[None]:
    """End the block at a KeyboardInterrupt, by a second Ctrl-C for example, as at a first one."""
    try:
        yield
    except KeyboardInterrupt:
        stopped.append(True)


def _backward(
    model: nn.Module,
    loss_fn: BatchLoss,
    micro: list[Batch],
    device: torch.device,
    scaler: torch.amp.GradScaler,
    autocast: contextlib.AbstractContextManager[object],
) -> float:
    """Add up the gradients of a step's micro-batches, as of one batch, and return its mean loss per sample."""
    shares: list[float | Tensor] = [1.0]
    if len(micro) > 1:
        counts = [loss_fn.count(batch.y, batch.rows) for batch in micro]
        shares = distributed.shares(counts, loss_fn.reduction, device)
    total = 0.0
    for batch, share in zip(micro, shares, strict=True):
        with autocast:
            loss = loss_fn(forward(model, to_device(batch.inputs, device)), to_device(batch.y, device))
        weighted = loss if len(micro) == 1 else loss * share
        scaler.scale(weighted).backward()
        total += weighted.item()
    return total if loss_fn.reduction == "mean" else total / sum(batch.rows for batch in micro)


def rising_rates(start: float, end: float, num_steps: int) -> list[float]:
    """Return `num_steps` rates from `start` to `end`, each the previous one times the same factor.

    Raises:
        ValueError: a rate is not a finite number above 0, the end is not above the start, or the steps are below 20.

    >>> rates = rising_rates(0.001, 10, 21)
    >>> rates[0], round(rates[5], 6), rates[20]
    (0.001, 0.01, 10.0)
    """
    start, end = positive_number("start", start), positive_number("end", end)
    if end <= start:
        raise ValueError(f"end must be above start, got start={start!r} and end={end!r}: the rates rise")
    if math.isinf(end / start):
        raise ValueError(f"end / start must be a finite number, got start={start!r} and end={end!r}")
    num_steps = positive_integer("num_steps", num_steps)
    if num_steps < LEAST_STEPS:
        raise ValueError(
            f"num_steps must be at least {LEAST_STEPS}, got {num_steps}: fewer losses show nothing but noise"
        )
    if num_steps > MOST_STEPS:
        raise ValueError(f"num_steps must be at most {MOST_STEPS:,}, got {num_steps}: a few hundred show the same")
    return [*(start * (end / start) ** (step / (num_steps - 1)) for step in range(num_steps - 1)), end]


def suggest(rates: Sequence[float], losses: Sequence[float], *, interrupted: bool = False) -> LRFinderResult:
    """Derive a suggestion from losses that were measured at rising rates.

    Args:
        rates: all rates of the search.
        losses: one for each rate, or fewer if the search ended early. They are read up to the first that is not
            finite or that ran away.
        interrupted: whether a signal ended the search; then there is a suggestion only if the loss rose again before.
    """
    kept: list[float] = []
    end, lowest = End.INTERRUPTED if interrupted else End.LAST_RATE, math.inf
    for loss in losses:
        if not math.isfinite(loss):
            end = End.NOT_FINITE
            break
        kept.append(loss)
        lowest = min(lowest, loss)
        if _ran_away(kept[0], lowest, loss):
            end = End.RAN_AWAY
            break
    smoothed = _smooth(kept, max(2, len(rates) // 25))
    suggestion, reason = _read(list(rates[: len(kept)]), kept, smoothed, end)
    return LRFinderResult(list(rates[: len(kept)]), kept, smoothed, suggestion, reason, interrupted)


def _ran_away(first: float, lowest: float, loss: float) -> bool:
    """Return whether a loss exceeds the lowest by more than three times the first loss, or three times the fall."""
    return loss - lowest > TOO_HIGH * max(abs(first), first - lowest)


def _smooth(losses: Sequence[float], reach: int) -> list[float]:
    """Return a moving mean over `reach` neighbors on each side, with weights that fall linearly to zero."""
    weights = [reach + 1 - abs(distance) for distance in range(-reach, reach + 1)]
    means = []
    for middle in range(len(losses)):
        near = losses[max(0, middle - reach) : middle + reach + 1]
        used = weights[max(0, reach - middle) :][: len(near)]
        means.append(sum(map(operator.mul, used, near)) / sum(used))
    return means


# Whole sentences, by how the search ended. The fields: num_losses, height (the loss at the start),
# bottom (the lowest smoothed loss), best (the rate there), first, last (the first and the last rate).
TOO_FEW = {
    End.LAST_RATE: "the search ended within its first steps ({num_losses} taken): give more steps",
    End.NOT_FINITE: "the loss stopped being a number within the first steps ({num_losses} taken): "
    "look for NaN in the data and the weights, or give a smaller start",
    End.RAN_AWAY: "the loss ran away within the first steps ({num_losses} taken): "
    "look for NaN in the data and the weights, or give a smaller start",
    End.INTERRUPTED: "the search was interrupted within its first steps ({num_losses} taken): let it run longer",
}
NO_FALL = {
    End.LAST_RATE: "the loss stayed near {height:.3g} up to the largest rate, {last:.3g}: "
    "give a larger end, or more steps",
    End.NOT_FINITE: "the loss stopped being a number at {last:.3g} without falling clearly below its start, "
    "{height:.3g}: give more steps or a smaller start, or look for NaN in the data",
    End.RAN_AWAY: "the loss ran away at {last:.3g} without falling clearly below its start, "
    "{height:.3g}: give more steps or a smaller start, or look for NaN in the data",
    End.INTERRUPTED: "the search was interrupted at {last:.3g}, while the loss was still near {height:.3g}: "
    "let it run longer",
}
STILL_FALLING = {
    End.LAST_RATE: "the loss was still falling at the largest rate, {last:.3g}: give a larger end",
    End.INTERRUPTED: "the search was interrupted at {last:.3g}, before the loss rose again: let it run longer",
}
TOO_EARLY = "the loss was lowest at {best:.3g}, too near to the start, {first:.3g}: give a smaller start"
FELL = {
    End.LAST_RATE: "the loss fell from {height:.3g} to {bottom:.3g}, where the rate was {best:.2g}",
    End.NOT_FINITE: "the loss fell from {height:.3g} to {bottom:.3g}, where the rate was {best:.2g}, "
    "and stopped being a number at {last:.2g}",
    End.RAN_AWAY: "the loss fell from {height:.3g} to {bottom:.3g}, where the rate was {best:.2g}, "
    "and ran away at {last:.2g}",
    End.INTERRUPTED: "the loss fell from {height:.3g} to {bottom:.3g}, where the rate was {best:.2g}, "
    "and had risen again when the search was interrupted at {last:.2g}",
}


def _read(lrs: list[float], losses: list[float], smoothed: list[float], end: End) -> tuple[Suggestion | None, str]:
    """Return a suggestion, or None, and the reason as a sentence."""
    if len(losses) < LEAST_STEPS // 2:
        return None, TOO_FEW[end].format(num_losses=len(losses))
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    beginning = losses[: max(8, len(losses) // 5)]
    height, bottom = statistics.fmean(beginning), smoothed[lowest]
    # The standard deviation; `statistics.pstdev` takes as long as half of a step.
    noise = math.dist(beginning, [height] * len(beginning)) / math.sqrt(len(beginning))
    # The loss at the bottom is the result of the step before.
    best = lrs[max(lowest - 1, 0)]
    fields = {"height": height, "bottom": bottom, "best": best, "first": lrs[0], "last": lrs[-1]}
    clear = max(2 * noise, 1e-3 * abs(height))
    if height - bottom <= clear:
        return None, NO_FALL[end].format(**fields)
    at_the_end = lowest >= len(smoothed) - max(2, len(smoothed) // 25)
    if (end is End.LAST_RATE and at_the_end) or (end is End.INTERRUPTED and smoothed[-1] - bottom <= clear):
        return None, STILL_FALLING[end].format(**fields)
    if best * POINT < lrs[0]:
        return None, TOO_EARLY.format(**fields)
    return Suggestion(max(best * LOW, lrs[0]), best * POINT, best * HIGH), FELL[end].format(**fields)


def _repeated(
    loader: Iterable[Any], prepare_batch: Callable[[Any], tuple[Any, Any]] | None
) -> Generator[Batch, None, None]:
    """Yield the loader's batches, in pass after pass."""
    for number in itertools.count(1):
        batch = None
        for batch in loader:
            yield prepare("loader", batch, prepare_batch)
        if batch is None:
            raise loaders.no_batches("loader", number)


def _ratios(optimizer: Optimizer) -> list[float]:
    """Return each group's rate as a fraction of the largest; if a scheduler has set them, its initial rates count."""
    rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    largest = max(rates)
    return [rate / largest if largest > 0 else 1.0 for rate in rates]


def _set_rate(group: dict[str, Any], lr: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


@contextlib.contextmanager
def _restored(model: nn.Module, optimizer: Optimizer, loss_module: nn.Module | None, loader: Any) -> Iterator[None]:
    """Restore model, loss, optimizer, loader and random numbers at the end, whatever happens.

    The optimizer works on copies of its state and its groups; parameters and buffers are copied back into the same
    tensors. Loader and samplers get their attributes back, including a count of epochs.
    """
    modules = [each for root in (model, loss_module) if root is not None for each in root.modules()]
    slots = [(each, dict(each._parameters), dict(each._buffers)) for each in modules]
    held = {
        id(tensor): tensor
        for _, parameters, buffers in slots
        for tensor in (*parameters.values(), *buffers.values())
        if tensor is not None
    }
    values = [(tensor, tensor.detach().clone(), tensor.grad) for tensor in held.values()]
    keepers = (optimizer, loader, *loaders.samplers(loader))
    attributes = [(keeper, dict(vars(keeper))) for keeper in keepers if hasattr(keeper, "__dict__")]
    random_states = RandomStates(loader)
    numbers = random_states.get_state()
    try:
        optimizer.state = defaultdict(dict, {key: copy.deepcopy(kept) for key, kept in optimizer.state.items()})
        optimizer.param_groups = [
            {name: value if name == "params" else copy.deepcopy(value) for name, value in group.items()}
            for group in optimizer.param_groups
        ]
        for tensor, _, grad in values:
            if grad is not None:
                tensor.grad = None  # backward() adds to it, even if the optimizer does not hold the parameter
        if getattr(loader, "_iterator", None) is not None:
            # A DataLoader with persistent workers: a pass in progress stays as it is.
            loader._iterator = None
        yield
    finally:
        for keeper, kept in attributes:
            vars(keeper).clear()
            vars(keeper).update(kept)
        for module, parameters, buffers in slots:
            module._parameters.clear()
            module._parameters.update(parameters)
            module._buffers.clear()
            module._buffers.update(buffers)
        with torch.no_grad():
            for tensor, value, grad in values:
                if not _overlaps(tensor):
                    tensor.copy_(value)
                if tensor.is_leaf and tensor.grad is not grad:
                    tensor.grad = grad
        random_states.set_state(numbers)


def _overlaps(tensor: Tensor) -> bool:
    """Return whether several entries share memory, as after `expand`: PyTorch does not allow writing to them."""
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
