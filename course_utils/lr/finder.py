"""The learning-rate finder: raise the rate at every step, watch the loss, and put everything back."""

import contextlib
import copy
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils.data import Dataset

from course_utils import devices
from course_utils.errors import positive_integer, positive_number
from course_utils.training import gradients, validation
from course_utils.training.evaluation import modes_kept
from course_utils.training.history import History
from course_utils.training.rng import RandomStates
from course_utils.training.signals import finish_step_on_interrupt
from course_utils.training.tracking import Progress, reporting

LEAST_STEPS = 20
# The search ends when the loss stands this many of its starting heights above the lowest one seen.
TOO_HIGH = 3.0
# The suggestion as shares of the rate at which the smoothed loss was lowest.
LOW, POINT, HIGH = 1 / 10, 1 / 3, 1 / 2


@dataclass(frozen=True)
class Suggestion:
    """Learning rates to begin with: from `low` to `high`, and `point` where only one is wanted."""

    low: float
    point: float
    high: float


@dataclass(frozen=True)
class LRFinderResult:
    """What a search for the learning rate saw.

    Attributes:
        lrs: the rates, rising; with several parameter groups those of the group with the largest rate.
        losses: the mean loss per sample of each step's batch *before* that step, so that `losses[i]` is the work of
            the rates before `lrs[i]`. All are finite: the search ends at the first that is not.
        smoothed: the losses as a centred moving mean with triangular weights, which does not lag.
        suggestion: a range and a point, or None where the losses show none.
        reason: why, in one sentence.
    """

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: Suggestion | None
    reason: str

    def __repr__(self) -> str:
        if self.suggestion is None:
            return f"LRFinderResult(no suggestion: {self.reason})"
        found = self.suggestion
        return f"LRFinderResult(lr {found.point:.2g}, or from {found.low:.2g} to {found.high:.2g}: {self.reason})"


def find_lr(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    start: float = 1e-6,
    end: float = 10.0,
    num_steps: int = 100,
    accumulation_steps: int = 1,
    max_grad_norm: float | None = None,
    precision: str = "fp32",
    scaler: torch.amp.GradScaler | None = None,
    progress: Progress = False,
) -> LRFinderResult:
    """Look for a learning rate: train with rates that rise from `start` to `end`, then put everything back.

    The search begins at the model and the optimizer as they are. Whatever way it ends, also by an error or by Ctrl-C,
    it gives back bit for bit: parameters, buffers and their gradients, the mode of each module, the optimizer's state
    and the rate of each group (so a scheduler goes on as if nothing had been), the scaler, the random numbers of
    Python, NumPy, PyTorch and CUDA, and the loader's generator and epoch. What a module keeps elsewhere, in plain
    attributes, is not seen.

    Args:
        model, optimizer, loss_fn: as for `Trainer`; the batches follow the model to its device.
        loader: batches `(x, y)`; where it ends before the search does, it is passed over again.
        start, end: the first and the last rate, of the group with the largest one; the others keep their ratio to it.
        num_steps: how many rates, spaced evenly by ratio, at least 20. With fewer than 100 chance decides much.
        accumulation_steps, max_grad_norm, precision: as the training to come will have them.
        scaler: the gradient scaler of your own loop; a copy of it serves here. None makes a fresh one for "fp16".
        progress: True for a bar, False for none, or a function called as `progress(step, num_steps, history)`, where
            `history` has `step_loss` and `lr`.

    Returns the rates, the losses, and a suggestion: a third of the rate at which the smoothed loss was lowest, and a
    range from a tenth to a half of it. That is a rule of thumb, chosen on the digits with this course's models, and no
    proof: train with it and look. A deep network with small batches may need more steps before its loss falls at all.

    Raises:
        ValueError: `start`, `end` or a count that makes no sense, an empty loader, parts that do not fit together.
        TypeError: no model, no optimizer, or a loader that can be passed over only once.

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
    validation.check_optimizer(optimizer, model)
    reduction = validation.check_loss_fn(loss_fn)
    validation.check_progress(progress)
    device = next(model.parameters()).device
    devices.check_precision(precision, device)
    lrs = rising_rates(start, end, num_steps)
    positive_integer("accumulation_steps", accumulation_steps)
    if max_grad_norm is not None:
        positive_number("max_grad_norm", max_grad_norm)
    _check_lazy(model)
    _check_passes(loader)
    ratios = _ratios(optimizer)
    if scaler is None:
        scaler = devices.make_scaler(precision, device)
    scaler = copy.deepcopy(scaler)
    autocast = devices.autocast(precision, device)
    losses: list[float] = []
    history = History()
    stopped: list[bool] = []

    with contextlib.ExitStack() as stack:
        stack.enter_context(finish_step_on_interrupt(lambda: stopped.append(True)))
        stack.enter_context(_given_back(model, optimizer, loss_fn, loader))
        stack.enter_context(modes_kept(model, training=True))
        stack.enter_context(torch.enable_grad())
        report = stack.enter_context(reporting(progress, 0, num_steps))
        batches = stack.enter_context(contextlib.closing(_batches(loader, device)))
        lowest = math.inf
        for lr in lrs:
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                _set_rate(group, lr * ratio)
            gradients.zero_grad(optimizer)
            try:
                micro = list(itertools.islice(batches, accumulation_steps))
            except RuntimeError:
                # A Ctrl-C ends a DataLoader's own processes too; what they leave is no error then.
                if stopped:
                    break
                raise
            loss = _backward(model, loss_fn, micro, reduction, scaler, autocast)
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
    if stopped:
        raise KeyboardInterrupt
    return judge(lrs, losses)


def _backward(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    micro: list[tuple[Tensor, Tensor]],
    reduction: str,
    scaler: torch.amp.GradScaler,
    autocast: contextlib.AbstractContextManager,
) -> float:
    """Add up the gradients of a step's micro-batches, as if they were one batch, and give its mean loss per sample."""
    rows = sum(y.shape[0] for _, y in micro)
    total = 0.0
    for x, y in micro:
        with autocast:
            loss = loss_fn(model(x), y)
        validation.check_loss(loss)
        share = y.shape[0] / rows if reduction == "mean" else 1.0
        weighted = loss if share == 1.0 else loss * share
        (scaler.scale(weighted) if scaler.is_enabled() else weighted).backward()
        total += loss.item() * (share if reduction == "mean" else 1 / rows)
    return total


def rising_rates(start: float, end: float, num_steps: int) -> list[float]:
    """Give `num_steps` rates from `start` to `end`, each the one before times the same factor.

    Raises:
        ValueError: a rate that is no finite number above 0, an end that is not above the start, fewer than 20 steps.

    >>> rates = rising_rates(0.001, 10, 21)
    >>> rates[0], round(rates[5], 6), rates[20]
    (0.001, 0.01, 10.0)
    """
    start, end = positive_number("start", start), positive_number("end", end)
    if end <= start:
        raise ValueError(f"end must be above start, got start={start!r} and end={end!r}: the rates rise")
    positive_integer("num_steps", num_steps)
    if num_steps < LEAST_STEPS:
        raise ValueError(f"num_steps must be at least {LEAST_STEPS}, got {num_steps}: fewer losses show only chance")
    return [*(start * (end / start) ** (step / (num_steps - 1)) for step in range(num_steps - 1)), end]


def judge(rates: Sequence[float], losses: Sequence[float]) -> LRFinderResult:
    """Read a suggestion out of losses that were measured at rising rates.

    Args:
        rates: all rates that were asked for.
        losses: one for each rate, or fewer where the search ended early. They are read up to the first that is not
            finite and up to the first that has run away.
    """
    kept: list[float] = []
    ended, lowest = "", math.inf
    for loss in losses:
        if not math.isfinite(loss):
            ended = "stopped being a number"
            break
        kept.append(loss)
        lowest = min(lowest, loss)
        if _ran_away(kept[0], lowest, loss):
            ended = "ran away"
            break
    smoothed = _smooth(kept, max(2, len(rates) // 25))
    suggestion, reason = _read(list(rates[: len(kept)]), kept, smoothed, ended)
    return LRFinderResult(list(rates[: len(kept)]), kept, smoothed, suggestion, reason)


def _ran_away(first: float, lowest: float, loss: float) -> bool:
    """Whether a loss stands three of the first one's heights, or three of the whole fall, above the lowest one."""
    return loss - lowest > TOO_HIGH * max(abs(first), first - lowest)


def _smooth(losses: Sequence[float], reach: int) -> list[float]:
    """A moving mean of `reach` neighbours on each side, with weights that fall evenly to zero."""
    means = []
    for middle in range(len(losses)):
        near = range(max(0, middle - reach), min(len(losses), middle + reach + 1))
        weights = [reach + 1 - abs(index - middle) for index in near]
        means.append(sum(w * losses[index] for w, index in zip(weights, near, strict=True)) / sum(weights))
    return means


def _read(lrs: list[float], losses: list[float], smoothed: list[float], ended: str) -> tuple[Suggestion | None, str]:
    """Give a suggestion, or None, and a sentence; `ended` says how the loss left before the largest rate."""
    if len(losses) < LEAST_STEPS // 2:
        return None, (
            f"the loss {ended or 'was seen'} after only {len(losses)} steps: "
            "look for NaN in the data and the weights, or give a smaller start"
        )
    bottom = min(range(len(smoothed)), key=smoothed.__getitem__)
    begin = losses[: max(8, len(losses) // 5)]
    height, chance = statistics.fmean(begin), statistics.pstdev(begin)
    if height - smoothed[bottom] <= max(2 * chance, 1e-3 * abs(height)):
        if not ended:
            return None, (
                f"the loss stayed near {height:.3g} up to the largest rate, {lrs[-1]:.3g}: "
                "give a larger end, or more steps"
            )
        return None, (
            f"the loss {ended} at {lrs[-1]:.3g} without having fallen clearly below its start, {height:.3g}: "
            "give more steps or a smaller start, or look for NaN in the data"
        )
    if not ended and bottom >= len(smoothed) - max(2, len(smoothed) // 25):
        return None, f"the loss was still falling at the largest rate, {lrs[-1]:.3g}: give a larger end"
    # What was seen at the bottom is the work of the step before.
    rate = lrs[max(bottom - 1, 0)]
    if rate * POINT < lrs[0]:
        return None, f"the loss was lowest at {rate:.3g}, too near to the start, {lrs[0]:.3g}: give a smaller start"
    suggestion = Suggestion(max(rate * LOW, lrs[0]), rate * POINT, rate * HIGH)
    return suggestion, (
        f"the loss fell from {height:.3g} to {smoothed[bottom]:.3g}, where the rate was {rate:.2g}"
        + (f", and {ended} at {lrs[-1]:.2g}" if ended else "")
    )


def _check_lazy(model: nn.Module) -> None:
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            f"{type(model).__name__} has lazy layers whose shapes are not known yet: run one batch through it first"
        )


def _check_passes(loader: Iterable) -> None:
    if isinstance(loader, Dataset):
        raise TypeError(
            f"loader is a {type(loader).__name__}, which gives single samples: "
            "wrap it, DataLoader(dataset, batch_size=64, shuffle=True)"
        )
    if not hasattr(loader, "__iter__") or hasattr(loader, "__next__"):
        raise TypeError(
            f"loader must be something that can be passed over again and again, such as a DataLoader, got "
            f"{type(loader).__name__}: what an iterator has given cannot be put back"
        )


def _batches(loader: Iterable, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Pass over the loader again and again."""
    for number in itertools.count(1):
        given = 0
        for given, batch in enumerate(loader, start=1):  # noqa: B007
            x, y = validation.unpack("loader", batch)
            if x.device != device or y.device != device:
                x, y = x.to(device), y.to(device)
            yield x, y
        if not given:
            raise ValueError(
                "loader is empty, 0 batches: is the data set empty, or drop_last=True with few rows?"
                if number == 1
                else f"loader gave no batch in pass {number}: it must give its batches in every pass, "
                "as a DataLoader or a list does and a generator does not"
            )


def _ratios(optimizer: Optimizer) -> list[float]:
    """Each group's rate as a share of the largest; where a scheduler has set them, of the rates that it began with."""
    rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    largest = max(rates)
    return [rate / largest if largest > 0 else 1.0 for rate in rates]


def _set_rate(group: dict, lr: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


@contextlib.contextmanager
def _given_back(model: nn.Module, optimizer: Optimizer, loss_fn: Callable, loader: Iterable) -> Iterator[None]:
    """Lend model, optimizer, loader and random numbers, and have them back as they were whatever happens.

    The optimizer works on copies of its state and its groups; parameters and buffers are copied back into the very
    tensors that they were in. Loader and samplers get their attributes back, among them an epoch that they count.
    """
    modules = [each for root in (model, loss_fn) if isinstance(root, nn.Module) for each in root.modules()]
    slots = [(each, dict(each._parameters), dict(each._buffers)) for each in modules]
    held = {
        id(tensor): tensor for _, *kinds in slots for kind in kinds for tensor in kind.values() if tensor is not None
    }
    values = [(tensor, tensor.detach().clone(), tensor.grad) for tensor in held.values()]
    batch_sampler = getattr(loader, "batch_sampler", None)
    keepers = [optimizer, loader, getattr(loader, "sampler", None), batch_sampler]
    keepers.append(getattr(batch_sampler, "sampler", None))
    attributes = [(keeper, dict(vars(keeper))) for keeper in keepers if hasattr(keeper, "__dict__")]
    randomness = RandomStates(loader)
    numbers = randomness.now()
    try:
        optimizer.state = defaultdict(dict, {key: copy.deepcopy(kept) for key, kept in optimizer.state.items()})
        optimizer.param_groups = [
            {name: value if name == "params" else copy.deepcopy(value) for name, value in group.items()}
            for group in optimizer.param_groups
        ]
        for tensor, _, grad in values:
            if grad is not None:
                tensor.grad = None  # backward() adds to what it finds, also where the optimizer has no hand
        if getattr(loader, "_iterator", None) is not None:
            # A DataLoader with persistent workers: a pass that is under way there stays as it is.
            loader._iterator = None
        yield
    finally:
        for keeper, kept in attributes:
            vars(keeper).clear()
            vars(keeper).update(kept)
        for module, parameters, buffers in slots:
            for own, kept in ((module._parameters, parameters), (module._buffers, buffers)):
                own.clear()
                own.update(kept)
        with torch.no_grad():
            for tensor, value, grad in values:
                if not _overlaps(tensor):
                    tensor.copy_(value)
                if tensor.is_leaf and tensor.grad is not grad:
                    tensor.grad = grad
        randomness.put_back(numbers)


def _overlaps(tensor: Tensor) -> bool:
    """Whether several entries share one place in memory, as after `expand`: PyTorch lets nobody write there."""
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
