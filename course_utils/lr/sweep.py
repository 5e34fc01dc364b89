"""Make an optimizer by name, and train one model at many learning rates at once."""

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from course_utils.data import Batches
from course_utils.errors import positive_integer, positive_number
from course_utils.files import write_atomically
from course_utils.lr.stack import Stack, choose_forward
from course_utils.optimizers import make_optimizer


@dataclass
class Sweep:
    """One model trained at many learning rates, from the same weights and with the same batches.

    Attributes:
        lrs: the rates, rising.
        losses: the loss of each batch before its step, shape (rates, steps); NaN where a run has not come to yet, and
            from the step on at which its loss was no finite number.
        optimizer, options, num_epochs, batch_size, seed: how it was trained.
        method: "layers" (all runs' layers computed at once) or "vmap" (any model, by `torch.func.vmap`).
        steps_done: how many columns of `losses` are filled.
    """

    lrs: list[float]
    losses: Tensor
    optimizer: str
    num_epochs: int
    batch_size: int
    seed: int = 0
    options: dict = field(default_factory=dict)
    method: str = "layers"
    steps_done: int = 0

    @property
    def final_losses(self) -> Tensor:
        """Mean loss of the last epoch's batches (of the last so many steps, while it fills in), shape (rates,)."""
        steps_per_epoch = self.losses.shape[1] // self.num_epochs
        return self.losses[:, max(0, self.steps_done - steps_per_epoch) : self.steps_done].mean(1)

    @property
    def _slack(self) -> float:
        """How far the loss of one batch strays by chance, as a share: 0.1 for batches of 64, less for larger ones."""
        return min(0.25, 0.8 / math.sqrt(self.batch_size))

    @property
    def diverged(self) -> Tensor:
        """Which runs blew up, bool of shape (rates,).

        That is: the loss became infinite or NaN; or it rose clearly above its start and ended no better than there.
        The second is the usual end of a network with ReLU: the first steps kill it, and it stays at ln(classes). A
        rate that is far too small ends there as well, but never rises.
        """
        seen = self.losses[:, : self.steps_done]
        start = self.losses[:, 0]
        rose = self.losses.nan_to_num(0.0).amax(1) > (1 + self._slack) * start
        return seen.isnan().any(1) | (rose & (self.final_losses > (1 - self._slack) * start))

    @property
    def zones(self) -> list[str]:
        """For each rate "too slow", "works" or "diverges": three neighbouring zones, of which one or two may be empty.

        A run works if it covered at least half of the way from the loss at the start to the best final loss of the
        sweep. The zone "works" is the longest unbroken row of such rates: a lucky run beyond it does not count. Where
        no run learned anything, "diverges" begins at the first run that blew up.
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
        """The index of the rate nearest to `lr` by ratio."""
        return min(range(len(self.lrs)), key=lambda index: abs(math.log(self.lrs[index] / lr)))

    def save(self, path: str | Path, *, digits: int = 9) -> None:
        """Write the sweep as JSON (NaN becomes null); the file is whole or not there.

        Args:
            digits: significant digits of each loss; 9 keep every float32 exactly.

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
        """Read a sweep that `save` wrote.

        Raises:
            OSError: there is no such file, or it cannot be read.
            ValueError: the file is damaged or no sweep.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            curves = [[math.nan if loss is None else loss for loss in curve] for curve in found["losses"]]
            sweep = cls(**{**found, "losses": torch.tensor(curves), "lrs": _checked_rates(found["lrs"])})
            if sweep.losses.ndim != 2 or len(sweep.losses) != len(sweep.lrs):
                raise ValueError(f"{len(sweep.lrs)} rates but losses of shape {tuple(sweep.losses.shape)}")
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{str(path)!r} holds no sweep, or a damaged one ({error}): delete it") from error
        return sweep


def _checked_rates(lrs: Iterable[float]) -> list[float]:
    numbers = lrs.tolist() if hasattr(lrs, "tolist") else lrs  # an array's numbers become Python's own
    if isinstance(numbers, str | dict) or not isinstance(numbers, Iterable):
        raise ValueError(f"lrs must be a list of learning rates, got {lrs!r}")
    numbers = list(numbers)
    if not numbers:
        raise ValueError(f"lrs must hold at least one learning rate, got {lrs!r}")
    rates = [positive_number(f"lrs[{index}]", number) for index, number in enumerate(numbers)]
    for index, (before, rate) in enumerate(pairwise(rates), start=1):
        if rate == before:
            raise ValueError(f"lrs[{index}] repeats {rate!r}: give each learning rate once")
        if rate < before:
            raise ValueError(f"lrs[{index}] is {rate!r}, after {before!r}: give rising learning rates, as sorted(lrs)")
    return rates


def _made(make_model: Callable[[], nn.Module], device: torch.device) -> nn.Module:
    if isinstance(make_model, nn.Module) or not callable(make_model):
        raise TypeError(f"make_model must be a function that makes a fresh model, got {type(make_model).__name__}")
    model = make_model()
    if not isinstance(model, nn.Module):
        raise TypeError(f"make_model must return a torch.nn.Module, got {model!r}")
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no weights that require a gradient: there is nothing to train")
    return copy.deepcopy(model).to(device)  # the caller may keep the one that was made


def _check_logits(model: nn.Module, x: Tensor, y: Tensor) -> None:
    name, top = type(model).__name__, int(y.max())
    try:
        logits = copy.deepcopy(model)(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{name} cannot take x of shape {tuple(x.shape)}, {x.dtype}: {error}") from error
    shape = tuple(getattr(logits, "shape", ()))
    if len(shape) != 2 or shape[0] != len(x) or shape[1] <= top:
        raise ValueError(
            f"{name} must give logits of shape (batch, classes), here ({len(x)}, {top + 1} or more) "
            f"as the labels go up to {top}, but gives {shape or type(logits).__name__}"
        )


@contextmanager
def _lent(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """Lend PyTorch's random numbers to the sweep: inside they go on from `states`, afterwards from where they were."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, device)
        yield
        states[:] = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in cuda)]


def _seeded(seed: int, device: torch.device) -> list[Tensor]:
    """The states of PyTorch's generators after `torch.manual_seed(seed)`."""
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
    **optimizer_options,
) -> Iterator[Sweep]:
    """Train as `sweep_lr` does, and give the same `Sweep` again after every step, a column further filled in.

    The arguments are checked at once, before the first step. Closing the generator ends the training.
    """
    rates = _checked_rates(lrs)
    example = make_optimizer(optimizer, [torch.zeros(1)], 1.0, **optimizer_options)
    positive_integer("num_epochs", num_epochs)
    batches = Batches(x, y, batch_size=batch_size, seed=seed)
    random_numbers = _seeded(seed, x.device)
    with _lent(random_numbers, x.device):
        model = _made(make_model, x.device)
    with _lent(list(random_numbers), x.device):  # what the checks draw is drawn again in training
        _check_logits(model, x[:batch_size], y)
        method, forward = choose_forward(model, x[:batch_size])
    stack = Stack(model, forward, example, rates)
    losses = torch.full((len(rates), num_epochs * len(batches)), math.nan, dtype=stack.lr.dtype)
    sweep = Sweep(rates, losses, optimizer, num_epochs, batch_size, seed, optimizer_options, method)
    return _steps(sweep, stack, batches, random_numbers)


def _steps(sweep: Sweep, stack: Stack, batches: Batches, random_numbers: list[Tensor]) -> Iterator[Sweep]:
    if stack.lr.device.type == "cpu":
        # The large tensors of a step are freed at its end. glibc would give them back to the system and fetch them
        # again, page by page, in the next step (a third of the time); having freed one block of this size, it keeps
        # them. No page of the block itself is ever touched.
        torch.empty(30 << 20, dtype=torch.uint8)
    for x, y in (batch for _ in range(sweep.num_epochs) for batch in batches):
        # Only other models than those of known layers can draw random numbers, for dropout.
        with _lent(random_numbers, x.device) if sweep.method == "vmap" else nullcontext():
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
        if not finite.any():  # nobody is left: the rest of the curves is known
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
    **optimizer_options,
) -> Sweep:
    """Train one model at many learning rates at once, each from the same weights and with the same batches.

    A run's curve is the one that `torch.manual_seed(seed)`, `make_model()`, `Batches(x, y, batch_size=batch_size,
    seed=seed)`, cross-entropy and `make_optimizer` give, up to rounding. A run whose loss is infinite or NaN leaves;
    the others go on. Runs share their dropout masks; each run has running means of its own in batch normalization.

    Args:
        make_model: a function that makes a fresh model; its `forward` gives logits (batch, classes).
        x: inputs, shape (rows, …), on the device to train on.
        y: labels, shape (rows,), int64.
        lrs: rising learning rates.
        optimizer: a name in `OPTIMIZERS`; `optimizer_options` as in `make_optimizer`, the same for every rate.

    Raises:
        ValueError: a rate, number, name or option that makes no sense, data that do not fit, a model whose logits do
            not fit the labels, or one that `torch.func.vmap` cannot run.
        TypeError: x or y are no tensors, labels that are not int64, or `make_model` that makes no model.

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
    """Take `num_steps` steps of `torch.optim.SGD` on f(w) = ½ · curvature · w² and return the start and every w after.

    Each step multiplies w by 1 − lr · curvature: it converges for lr below 2 / curvature, and no further.

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
