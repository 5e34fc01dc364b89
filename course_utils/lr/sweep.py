"""Train one model at many learning rates at once, and describe what each rate does."""

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.data import Batches, check_dense
from course_utils.errors import non_negative_integer, positive_integer, positive_number, quoted, valid_seed
from course_utils.files import open_regular, write_atomically
from course_utils.lr.stack import Stack, choose_forward
from course_utils.optimizers import make_optimizer

# All of them are kept in memory: 40 MB.
MOST_LOSSES = 10**7
MOST_RATES = 10**4


@dataclass
class Sweep:
    """One model trained at many learning rates, from the same weights and with the same batches.

    Attributes:
        lrs: the rates, rising.
        losses: the loss of each batch before its step, shape (rates, steps); NaN for steps that a run has not reached,
            and from the step on whose loss was not finite.
        optimizer, options, num_epochs, batch_size, seed: the settings of the training.
        method: "layers" (all runs' layers computed at once) or "vmap" (any model, by `torch.func.vmap`).
        steps_done: the number of columns of `losses` that are filled.
    """

    lrs: list[float]
    losses: Tensor
    optimizer: str
    num_epochs: int
    batch_size: int
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    method: str = "layers"
    steps_done: int = 0

    @property
    def final_losses(self) -> Tensor:
        """The mean loss over the batches of the last epoch (or of the latest steps, as many), shape (rates,)."""
        steps_per_epoch = self.losses.shape[1] // self.num_epochs
        return self.losses[:, max(0, self.steps_done - steps_per_epoch) : self.steps_done].mean(1)

    @property
    def _slack(self) -> float:
        """How far the loss of a batch varies by chance, as a fraction: 0.1 for batches of 64, less for larger ones."""
        return min(0.25, 0.8 / math.sqrt(self.batch_size))

    @property
    def diverged(self) -> Tensor:
        """Which runs diverged, bool of shape (rates,).

        Their loss became infinite or NaN, or it rose clearly above its start and ended no better than it started. The
        latter is typical of networks with ReLU: the first steps kill the units, and the loss stays at ln(classes). A
        rate that is far too small also ends there, but its loss never rises.
        """
        seen = self.losses[:, : self.steps_done]
        start = self.losses[:, 0]
        rose = self.losses.nan_to_num(0.0).amax(1) > (1 + self._slack) * start
        return seen.isnan().any(1) | (rose & (self.final_losses > (1 - self._slack) * start))

    @property
    def zones(self) -> list[str]:
        """For each rate "too slow", "works" or "diverges": three adjacent zones, of which one or two may be empty.

        A run works if it covered at least half of the way from the loss at the start to the best final loss of the
        sweep. The zone "works" is the longest unbroken row of such rates; a lucky run beyond it does not count. If no
        run learned anything, "diverges" begins at the first run that diverged.
        """
        finals, start = self.final_losses, self.losses[:, 0].nan_to_num(math.inf).amin().item()
        best = finals.nan_to_num(math.inf).amin().item()
        works = (finals <= (start + best) / 2).tolist() if best < (1 - self._slack) * start else []
        rows = [list(row) for good, row in groupby(range(len(works)), key=works.__getitem__) if good]
        row = max(rows, key=len, default=[])
        first_bad = next((index for index, bad in enumerate(self.diverged.tolist()) if bad), len(self.lrs))
        low, high = (row[0], row[-1] + 1) if row else (first_bad, first_bad)
        return ["too slow"] * low + ["works"] * (high - low) + ["diverges"] * (len(self.lrs) - high)

    def nearest(self, lr: float) -> int:
        """Return the index of the rate nearest to `lr` by ratio."""
        return min(range(len(self.lrs)), key=lambda index: abs(math.log(self.lrs[index] / lr)))

    def save(self, path: str | Path, *, digits: int = 9) -> None:
        """Write the sweep as JSON (NaN becomes null), whole or not at all.

        Args:
            digits: significant digits of each loss; 9 digits keep every float32 exactly.

        Raises:
            OSError: the file cannot be written.
        """
        curves = [
            [None if math.isnan(loss) else float(f"{loss:.{digits}g}") for loss in curve]
            for curve in self.losses.tolist()
        ]
        try:
            write_atomically(Path(path), json.dumps({**vars(self), "losses": curves}))
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; choose another folder for the sweep", str(path)) from error

    @classmethod
    def load(cls, path: str | Path) -> "Sweep":
        """Return the sweep that `save` wrote.

        Raises:
            OSError: there is no such file, or it cannot be read, or it is not a regular file.
            ValueError: the file is damaged or does not hold a sweep.
        """
        try:
            with open_regular(Path(path)) as file:
                found = json.loads(file.read().decode("utf-8"))
            curves = [[math.nan if loss is None else loss for loss in curve] for curve in found["losses"]]
            sweep = cls(**{**found, "losses": torch.tensor(curves), "lrs": _checked_rates(found["lrs"])})
            if sweep.losses.ndim != 2 or len(sweep.losses) != len(sweep.lrs):
                raise ValueError(f"{len(sweep.lrs)} rates but losses of shape {tuple(sweep.losses.shape)}")
            num_steps = sweep.losses.shape[1]
            if (
                not sweep.losses.is_floating_point()
                or not num_steps
                or num_steps % positive_integer("num_epochs", sweep.num_epochs)
            ):
                raise ValueError(f"{num_steps} losses of {sweep.losses.dtype} in {sweep.num_epochs} epochs")
            make_optimizer(sweep.optimizer, [torch.zeros(1)], 1.0, **sweep.options)
            positive_integer("batch_size", sweep.batch_size)
            valid_seed("seed", sweep.seed)
            if non_negative_integer("steps_done", sweep.steps_done) > num_steps:
                raise ValueError(f"steps_done is {sweep.steps_done}, of {num_steps} steps")
        # RuntimeError: the JSON is nested too deeply, or PyTorch cannot store a number.
        except (ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{str(path)!r} does not hold a sweep, or it is damaged ({error}): delete it") from error
        return sweep


def _checked_rates(lrs: Any) -> list[float]:
    if isinstance(lrs, Tensor):
        check_dense("lrs", lrs)
    try:
        if isinstance(lrs, str | bytes | dict):
            raise TypeError("its letters or keys are no rates")
        numbers = list(islice(lrs.tolist() if isinstance(lrs, Tensor) else lrs, MOST_RATES + 1))
    except TypeError as error:
        raise ValueError(f"lrs must be a list of learning rates, got {quoted(lrs)}") from error
    if len(numbers) > MOST_RATES:
        raise ValueError(f"lrs must hold at most {MOST_RATES:,} learning rates, got {quoted(lrs)}")
    if not numbers:
        raise ValueError(f"lrs must hold at least one learning rate, got {quoted(lrs)}: give rising rates")
    rates = [positive_number(f"lrs[{index}]", number) for index, number in enumerate(numbers)]
    for index, (before, rate) in enumerate(pairwise(rates), start=1):
        if rate == before:
            raise ValueError(f"lrs[{index}] repeats {rate!r}: give each learning rate once")
        if rate < before:
            raise ValueError(f"lrs[{index}] is {rate!r}, after {before!r}: give rising rates, as from sorted(lrs)")
    return rates


def _made(make_model: Callable[[], nn.Module], device: torch.device) -> nn.Module:
    if isinstance(make_model, nn.Module) or not callable(make_model):
        raise TypeError(f"make_model must be a function that returns a new model, got {type(make_model).__name__}")
    model = make_model()
    if not isinstance(model, nn.Module):
        raise TypeError(f"make_model must return a torch.nn.Module, got {model!r}")
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no weights that require gradients: there is nothing to train")
    return copy.deepcopy(model).to(device)  # the caller may keep a reference to the model


def _check_logits(model: nn.Module, x: Tensor, y: Tensor) -> None:
    name, top = type(model).__name__, int(y.max())
    try:
        logits = copy.deepcopy(model)(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{name} cannot take x of shape {tuple(x.shape)}, {x.dtype}: {error}") from error
    shape = tuple(getattr(logits, "shape", ()))
    if len(shape) != 2 or shape[0] != len(x) or shape[1] <= top:
        raise ValueError(
            f"{name} must return logits of shape (batch, classes), here ({len(x)}, {top + 1} or more) "
            f"because the largest label is {top}, but it returned {shape or type(logits).__name__}"
        )


@contextmanager
def _random_numbers_from(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """Continue PyTorch's random numbers from `states` inside this block, and from where they were after it."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, device)
        yield
        states[:] = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in cuda)]


def _seeded(seed: int, device: torch.device) -> list[Tensor]:
    """Return the states of PyTorch's generators after `torch.manual_seed(seed)`."""
    devices = [torch.device("cpu"), *([device] if device.type == "cuda" else [])]
    return [torch.Generator(device).manual_seed(seed).get_state() for device in devices]


def iter_sweep_lr(
    make_model: Callable[[], nn.Module],
    x: Tensor,
    y: Tensor,
    lrs: Iterable[float],
    *,
    optimizer: str = "sgd",
    num_epochs: int = 10,
    batch_size: int = 64,
    seed: int = 0,
    **optimizer_options: Any,
) -> Iterator[Sweep]:
    """Train as `sweep_lr` does, and yield the same `Sweep` after every step, with one more column filled in.

    The arguments are checked at once, before the first step. Closing the generator ends the training.
    """
    rates = _checked_rates(lrs)
    example = make_optimizer(optimizer, [torch.zeros(1)], 1.0, **optimizer_options)
    num_epochs, seed = positive_integer("num_epochs", num_epochs), valid_seed("seed", seed)
    batches = Batches(x, y, batch_size=batch_size, seed=seed)
    batch_size, num_steps = batches.batch_size, num_epochs * len(batches)
    if num_steps * len(rates) > MOST_LOSSES:
        raise ValueError(
            f"num_epochs={num_epochs} would give {num_steps} losses for each of {len(rates)} rates, and "
            f"{MOST_LOSSES:,} in all is the most: give fewer epochs, fewer rates or a larger batch_size"
        )
    random_numbers = _seeded(seed, x.device)
    with _random_numbers_from(random_numbers, x.device):
        model = _made(make_model, x.device)
    with _random_numbers_from(list(random_numbers), x.device):  # training draws the same numbers again
        _check_logits(model, x[:batch_size], y)
        method, forward = choose_forward(model, x[:batch_size])
    stack = Stack(model, forward, example, rates)
    losses = torch.full((len(rates), num_steps), math.nan, dtype=stack.lr.dtype)
    options = {name: example.defaults[name] for name in optimizer_options}  # Python's own numbers, as `save` needs them
    sweep = Sweep(rates, losses, optimizer, num_epochs, batch_size, seed, options, method)
    return _steps(sweep, stack, batches, random_numbers)


def _steps(sweep: Sweep, stack: Stack, batches: Batches, random_numbers: list[Tensor]) -> Iterator[Sweep]:
    if stack.lr.device.type == "cpu":
        # The large tensors of a step are freed at its end. glibc would return them to the system and fetch them again,
        # page by page, in the next step (a third of the time); once it has freed one block of this size, it keeps
        # them. No page of the block itself is ever touched.
        torch.empty(30 << 20, dtype=torch.uint8)
    for x, y in (batch for _ in range(sweep.num_epochs) for batch in batches):
        # Only models with other layers than those in LAYERS can draw random numbers, for dropout.
        with _random_numbers_from(random_numbers, x.device) if sweep.method == "vmap" else nullcontext():
            losses = stack.step(x, y)
        finite = losses.isfinite()
        if finite.all():
            sweep.losses[stack.rows, sweep.steps_done] = losses
            sweep.steps_done += 1
            yield sweep
            continue
        sweep.losses[stack.rows[finite], sweep.steps_done] = losses[finite]
        sweep.steps_done += 1
        stack.keep(finite)
        if not finite.any():  # no run is left: the rest of the curves is NaN
            sweep.steps_done = sweep.losses.shape[1]
            yield sweep
            return
        yield sweep


def sweep_lr(
    make_model: Callable[[], nn.Module],
    x: Tensor,
    y: Tensor,
    lrs: Iterable[float],
    *,
    optimizer: str = "sgd",
    num_epochs: int = 10,
    batch_size: int = 64,
    seed: int = 0,
    **optimizer_options: Any,
) -> Sweep:
    """Train one model at many learning rates at once, each from the same weights and with the same batches.

    Up to rounding, the curve of each run is that of `torch.manual_seed(seed)`, `make_model()`, `Batches(x, y,
    batch_size=batch_size, seed=seed)`, cross-entropy and `make_optimizer`. A run whose loss is infinite or NaN ends;
    the others continue. All runs share their dropout masks; each has its own running means in batch normalization.

    Args:
        make_model: a function that returns a new model; its `forward` returns logits (batch, classes).
        x: inputs, shape (rows, …), on the device to train on.
        y: labels, shape (rows,), int64.
        lrs: rising learning rates.
        optimizer: a name in `OPTIMIZERS`; `optimizer_options` as in `make_optimizer`, the same for every rate.

    Raises:
        ValueError: a rate, number, name or option is not valid, the data do not fit, the model's logits do not fit the
            labels, or `torch.func.vmap` cannot run the model.
        TypeError: x or y is not a tensor, the labels are not int64, or `make_model` does not return a model.

    >>> x, y = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2
    >>> sweep = sweep_lr(lambda: nn.Linear(2, 2), x, y, [0.01, 0.1, 1.0], num_epochs=3, batch_size=32)
    >>> sweep.losses.shape, sweep.steps_done
    (torch.Size([3, 6]), 6)
    """
    *_, sweep = iter_sweep_lr(
        make_model,
        x,
        y,
        lrs,
        optimizer=optimizer,
        num_epochs=num_epochs,
        batch_size=batch_size,
        seed=seed,
        **optimizer_options,
    )
    return sweep


def descend(start: float, lr: float, curvature: float, num_steps: int) -> list[float]:
    """Return the start and every w after it in `num_steps` steps of `torch.optim.SGD` on f(w) = ½ · curvature · w².

    Each step multiplies w by 1 − lr · curvature, so w converges if lr is below 2 / curvature.

    >>> descend(1.0, 0.25, 2.0, 3)
    [1.0, 0.5, 0.25, 0.125]
    """
    w = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=lr)
    path = [w.item()]
    for _ in range(num_steps):
        optimizer.zero_grad()
        (0.5 * curvature * w**2).backward()
        optimizer.step()
        path.append(w.item())
    return path
