"""Lesson 03's checks: the finder's rates, its curve, a rate tried without a trace, a schedule, a scheduler's place."""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR, StepLR

from course_utils.checks.runner import Answer, exercise
from course_utils.checks.values import Wrong, compare, first_difference, number, numbers, same


@exercise("03-even-ratios", "Write the finder's rates", praise="Each rate is the previous one times the same factor.")
def even_ratios(answer: Answer) -> None:
    """Check exercise 1 of lesson 03: rates from start to end at equal ratios, compared with `torch.logspace`."""
    for start, end, count in ((0.001, 10.0, 5), (1e-6, 1.0, 13), (0.02, 0.5, 2), (3e-5, 7.0, 40)):
        given = numbers(answer(start, end, count))
        right = torch.logspace(math.log10(start), math.log10(end), count, dtype=torch.float64).tolist()
        wide = torch.logspace(math.log10(start), math.log10(end), count + 1, dtype=torch.float64).tolist()
        wrong = [
            (
                torch.linspace(start, end, count, dtype=torch.float64).tolist(),
                "Your rates have equal distances, so most of them are near the end and none is between 0.001 and 0.1. "
                "They should have equal ratios.",
            ),
            (wide[:-1], "Your last rate is not the end: num_steps rates have num_steps - 1 gaps between them."),
            (
                wide[1:],
                "Your first rate is not the start, and there are num_steps - 1 gaps: start with the exponent 0.",
            ),
            (wide, "You return one rate too many: range(num_steps) has num_steps numbers, 0 to num_steps - 1."),
            ([math.log10(lr) for lr in right], "You return the exponents. Raise 10 to each of them."),
            ([math.log(lr) for lr in right], "You return the logarithms. Take math.exp of each of them."),
            (
                right[::-1],
                "Your rates fall. The finder starts with the smallest, because one step at the "
                "largest ruins the model.",
            ),
            (
                [start * (end / start) ** step for step in range(count)],
                "You multiply by end / start at every step. That is the ratio of all num_steps - 1 steps together.",
            ),
        ]
        place = first_difference(given, right)
        compare(
            given,
            right,
            wrong,
            (
                f"From {start} to {end} in {count} steps, rate {place} should be {right[place]:.4g}; "
                f"yours is {given[place]:.4g}."
                if len(given) == count
                else f"You return {len(given)} rates. num_steps={count} asks for {count}."
            ),
        )


def _centered_mean(losses: Sequence[float], place: int) -> float:
    near = losses[max(0, place - 2) : place + 3]
    return sum(near) / len(near)


def _trailing_mean(losses: Sequence[float], place: int) -> float:
    near = losses[max(0, place - 4) : place + 1]
    return sum(near) / len(near)


def _exponential_mean(losses: Sequence[float], place: int) -> float:
    mean = losses[0]
    for loss in losses[1 : place + 1]:
        mean = 0.8 * mean + 0.2 * loss
    return mean


def _lowest_place(losses: Sequence[float], mean: Callable[[Sequence[float], int], float]) -> int:
    return min(range(len(losses)), key=lambda place: mean(losses, place))


def _rate_at_lowest(
    lrs: Sequence[float], losses: Sequence[float], mean: Callable[[Sequence[float], int], float]
) -> float:
    return lrs[_lowest_place(losses, mean)]


@exercise(
    "03-read-finder",
    "Read the finder's curve",
    praise="No single lucky batch, no lag, and no NaN decides your rate.",
)
def read_finder(answer: Answer) -> None:
    """Check exercise 2 of lesson 03: a third of the rate at the lowest centered mean, up to the first NaN or inf."""
    lrs = [1e-5 * 10 ** (step / 10) for step in range(61)]
    cases: list[list[float]] = []
    for seed, (fall, wall) in enumerate([(25, 45), (18, 38), (30, 50)]):
        noise = (0.04 * torch.randn(61, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).tolist()
        curve = [
            2.3 - 1.5 / (1 + math.exp((fall - step) / 3)) + max(0, step - wall) ** 2 / 5 + chance
            for step, chance in enumerate(noise)
        ]
        curve[fall - 4] = 0.3  # one lucky batch
        cases.append(curve)
    cases.append([*cases[0][:52], math.nan, *cases[0][53:]])
    cases.append([*cases[1][:44], math.inf, *[0.01] * 16])
    given = [number(answer(lrs, losses)) for losses in cases]
    finite = [losses[: next((n for n, loss in enumerate(losses) if not math.isfinite(loss)), 61)] for losses in cases]
    right = [_rate_at_lowest(lrs, losses, _centered_mean) / 3 for losses in finite]
    raw = [_rate_at_lowest(lrs, losses, lambda own, place: own[place]) for losses in finite]
    wrong = [
        (
            [3 * rate for rate in right],
            'You return the rate at the lowest mean itself, the "sweet spot". Training there fails more often than '
            "not: take a third of it.",
        ),
        (
            [rate / 3 for rate in raw],
            "One lucky batch decided: you looked for the lowest single loss. Look for the lowest mean of five.",
        ),
        (
            raw,
            "You return the rate of the lowest single loss. Look for the lowest mean of five; "
            "take a third of its rate.",
        ),
        (
            [_rate_at_lowest(lrs, losses, _trailing_mean) / 3 for losses in finite],
            "Your mean looks back: the loss and the four before it. It lags, so your rate is too "
            "large. Take two on each side.",
        ),
        (
            [_rate_at_lowest(lrs, losses, _exponential_mean) / 3 for losses in finite],
            "Your mean is an exponential one. It lags, so your rate is too large. Take two losses on each side.",
        ),
        (
            [min(_centered_mean(losses, place) for place in range(len(losses))) for losses in finite],
            "You return the lowest mean loss. Return the rate at which it was reached.",
        ),
        (
            [float(_lowest_place(losses, _centered_mean)) for losses in finite],
            "You return the index. Return the rate at that index, lrs[index].",
        ),
        (
            [lrs[-1] / 3] * len(cases),
            "You always return the largest rate. Look where the mean of the losses is lowest.",
        ),
    ]
    place = first_difference(given, right)
    compare(
        given,
        right,
        wrong,
        (
            "A NaN or an infinity gets into your answer. Nothing from the first one on is a measurement: cut the list "
            "there before you take means. A comparison with NaN is always false, so min() does not skip it."
            if same(given[:3], right[:3])
            else f"For curve {place} the rate is {right[place]:.4g}; yours is {given[place]:.4g}."
        ),
    )


class _BatchNormNet(nn.Module):
    """A small network with batch normalization, so that a forward pass alone changes something."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu())


def _trained(kind: type[Optimizer], **options: Any) -> tuple[nn.Module, Optimizer, Tensor, Tensor]:
    """Return a model and an optimizer that have trained for a few steps, and the batch to try a rate on."""
    model = _BatchNormNet()
    optimizer = kind(model.parameters(), **options)
    x, y = torch.randn(20, 4), torch.randint(3, (20,))
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer, x, y


def _try_rate(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor, lr: float) -> tuple[float, float]:
    """Return the loss on the batch before and after one step at the rate `lr`, taken with copies."""
    model, optimizer = copy.deepcopy((model, optimizer))
    optimizer.param_groups[0]["lr"] = lr
    optimizer.zero_grad()
    before = nn.functional.cross_entropy(model(x), y)
    before.backward()
    optimizer.step()
    return before.item(), nn.functional.cross_entropy(model(x), y).item()


@exercise(
    "03-give-back",
    "Give back what you borrow",
    may_change=(0, 1),
    praise="Weights, running means, momentum and rate are all as before, bit for bit.",
)
def try_rate(answer: Answer) -> None:
    """Check exercise 3 of lesson 03: the loss after one step at a rate, with the model and the optimizer unchanged."""
    settings: list[tuple[type[Optimizer], dict[str, Any]]] = [
        (torch.optim.SGD, {"lr": 0.1}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.Adam, {"lr": 0.01}),
    ]
    for (kind, options), lr in zip(settings, (1.5, 0.7, 0.3), strict=True):
        model, optimizer, x, y = _trained(kind, **options)
        before, after = _try_rate(model, optimizer, x, y, lr)
        weights = [weight.detach().clone() for weight in model.parameters()]
        buffers = [buffer.clone() for buffer in model.buffers()]
        rates = [group["lr"] for group in optimizer.param_groups]
        state = copy.deepcopy(optimizer.state_dict()["state"])
        loss = number(answer(model, optimizer, nn.functional.cross_entropy, x, y, lr))
        if not all(map(torch.equal, weights, model.parameters())):
            raise Wrong(
                "The weights have changed. If you kept model.state_dict(): it holds the weights themselves, not "
                "copies, so it changes with them. Keep copy.deepcopy(model.state_dict())."
            )
        if not all(map(torch.equal, buffers, model.buffers())):
            raise Wrong(
                "You restored the weights but not the buffers: in training mode, each forward pass updates the running "
                "means of batch normalization. model.state_dict() holds both."
            )
        if [group["lr"] for group in optimizer.param_groups] != rates:
            raise Wrong(
                f"You restored the model, but the optimizer's rate is {optimizer.param_groups[0]['lr']:g} and was "
                f"{rates[0]:g}: training would go on at the rate that you tried."
            )
        if not _same_state(state, optimizer.state_dict()["state"]):
            raise Wrong(
                f"You restored the model, but {kind.__name__} still remembers your step in its state "
                f"({', '.join(_state_names(optimizer))}). Restore that, too: before the step, keep "
                "copy.deepcopy(optimizer.state_dict()); after it, pass the copy to optimizer.load_state_dict."
            )
        if math.isclose(loss, before, rel_tol=1e-6):
            raise Wrong(
                "You return the loss before the step. If you did a second forward pass: copy.deepcopy(optimizer) also "
                "copies the weights that it holds, so its step moves neither your model nor your copy of it. Copy both "
                "in one call: copy.deepcopy((model, optimizer))."
            )
        if not math.isclose(loss, after, rel_tol=1e-4):
            old = _try_rate(model, optimizer, x, y, rates[0])[1]
            if math.isclose(loss, old, rel_tol=1e-4):
                raise Wrong(
                    f"Your step used the optimizer's own rate, {rates[0]:g}. Set group['lr'] in each group of "
                    "optimizer.param_groups: an attribute optimizer.lr has no effect."
                )
            raise Wrong(f"After one step at the rate {lr:g} the loss is {after:.4f}; yours is {loss:.4f}.")


def _state_names(optimizer: Optimizer) -> list[str]:
    """Return what an optimizer keeps for each parameter, such as a momentum buffer."""
    return sorted({name for entry in optimizer.state_dict()["state"].values() for name in entry})


def _same_state(before: dict, now: dict) -> bool:
    return before.keys() == now.keys() and all(
        before[key].keys() == now[key].keys()
        and all(
            torch.equal(each, now[key][name]) if isinstance(each, Tensor) else each == now[key][name]
            for name, each in before[key].items()
        )
        for key in before
    )


def _schedule_by_torch(num_steps: int, num_warmup: int, final: float) -> list[float]:
    """Return the shares of PyTorch's own schedulers, one per step and one after the last step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR warns of its own call
        down = CosineAnnealingLR(optimizer, num_steps - num_warmup, eta_min=final)
        scheduler: Any = down
        if num_warmup:
            up = LinearLR(optimizer, start_factor=0.1, total_iters=num_warmup)
            scheduler = SequentialLR(optimizer, [up, down], milestones=[num_warmup])
        shares = []
        for _ in range(num_steps + 1):
            shares.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return shares


@exercise(
    "03-warmup-cosine",
    "Write this schedule",
    praise="Your shares are those of PyTorch's LinearLR followed by CosineAnnealingLR.",
)
def warmup_cosine(answer: Answer) -> None:
    """Check exercise 4 of lesson 03: a warm-up and half a cosine, compared with PyTorch's own schedulers."""
    for num_steps, num_warmup, final in ((20, 5, 0.0), (30, 10, 0.2), (12, 1, 0.05), (16, 0, 0.1)):
        given = [number(answer(step, num_steps, num_warmup, final)) for step in range(num_steps + 1)]
        right = _schedule_by_torch(num_steps, num_warmup, final)
        wrong = _mistaken_shares(num_steps, num_warmup, final) if num_warmup else []
        step = first_difference(given, right)
        compare(
            given,
            right,
            wrong,
            f"With num_steps={num_steps}, num_warmup={num_warmup}, final={final}, step {step} should have the share "
            f"{right[step]:.4f}; yours is {given[step]:.4f}.",
        )


def _mistaken_shares(num_steps: int, num_warmup: int, final: float) -> list[tuple[list[float], str]]:
    """Return the shares of typical wrong schedules for the steps 0 to num_steps, each with its misconception."""

    def up(step: int, start: float = 0.1) -> float:
        return start + (1 - start) * step / num_warmup

    def half(done: float, low: float = final, turn: float = math.pi) -> float:
        return low + (1 - low) * (1 + math.cos(turn * done)) / 2

    def done(step: int) -> float:
        return (step - num_warmup) / (num_steps - num_warmup)

    def shares(falling: Callable[[int], float], rising: Callable[[int], float] = up) -> list[float]:
        return [rising(step) if step < num_warmup else falling(step) for step in range(num_steps + 1)]

    cut_off = "Your cosine falls toward 0 and is cut off at final. Scale it instead: final + (1 - final) × …"
    return [
        (
            shares(lambda step: half(done(step)), lambda step: up(step, 0.0)),
            "Your warm-up starts at 0, so the first step does nothing. It should start at 0.1.",
        ),
        (
            shares(lambda step: half(done(step)), lambda step: (step + 1) / num_warmup),
            "Your warm-up is (step + 1) / num_warmup. It should rise linearly from 0.1 at step 0 "
            "to 1 at step num_warmup.",
        ),
        (
            shares(lambda step: half(step / num_steps)),
            "Your cosine counts from step 0, so the rate drops where the warm-up ends. The cosine should start there: "
            "at step num_warmup the share is 1.",
        ),
        (
            shares(lambda step: half((step - num_warmup) / num_steps)),
            "Your cosine never reaches its end: it has num_steps - num_warmup steps, not num_steps.",
        ),
        (shares(lambda step: half(done(step), 0.0)), "Your cosine falls to 0. It should fall to final."),
        (shares(lambda step: max(final, half(done(step), 0.0))), cut_off),
        ([max(final, share) for share in shares(lambda step: half(done(step), 0.0))], cut_off),
        (
            shares(lambda step: final + half(done(step), 0.0)),
            "You add final to the whole cosine, so the rate starts above the base rate. Scale the cosine by 1 - final.",
        ),
        (
            shares(lambda step: half(done(step), turn=2 * math.pi)),
            "Your cosine goes down and up again: half a period is π, not 2π.",
        ),
        (
            shares(lambda step: half(done(step), turn=180.0)),
            "math.cos takes radians: half a period is math.pi, not 180.",
        ),
        (
            shares(lambda step: 1 + (final - 1) * done(step)),
            "Your rate falls linearly. It should follow half a cosine, flat at both ends.",
        ),
        (
            shares(lambda step: half(done(step)), lambda step: half(done(step))),
            "Your schedule has no warm-up: before step num_warmup the share should rise from 0.1 to 1.",
        ),
    ]


def _starter_loop(model, optimizer, scheduler, loss_fn, epochs):
    used = []
    for batches in epochs:
        for x, y in batches:
            scheduler.step()
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
    return used


def _reference_loop(model, optimizer, scheduler, loss_fn, epochs):
    used = []
    for batches in epochs:
        for x, y in batches:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
        scheduler.step()
    return used


def _run_loop(loop: Callable[..., Any], period: int, lengths: Sequence[int]) -> tuple[list[float], list[Tensor]]:
    """Return the rates that a loop reports and its final weights, with StepLR counted in epochs."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    scheduler = StepLR(optimizer, period, gamma=0.5)
    epochs = [
        [(torch.randn(6, 4, generator=generator), torch.randint(3, (6,), generator=generator)) for _ in range(length)]
        for length in lengths
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the order, which the check explains itself
        used = loop(model, optimizer, scheduler, nn.functional.cross_entropy, epochs)
    return numbers(used), [weight.detach().clone() for weight in model.parameters()]


@exercise(
    "03-cure-scheduler",
    "Cure this loop",
    may_change=(0, 1, 2),
    starter=_starter_loop,
    praise="The optimizer takes its steps, and then the scheduler takes one, once per epoch.",
)
def cured_schedule(answer: Answer) -> None:
    """Check exercise 5 of lesson 03: a scheduler that counts epochs, stepped once per epoch after the optimizer."""
    for period, lengths in ((2, (3, 3, 3, 2)), (1, (4, 2, 3)), (3, (2, 2, 2, 2))):
        used, weights = _run_loop(answer, period, lengths)
        right, expected = _run_loop(_reference_loop, period, lengths)
        for rates, why in _rates_of_misplaced_steps(period, lengths):
            if same(used, rates):
                raise Wrong(why)
        if len(used) != len(right):
            raise Wrong(
                f"You recorded {len(used)} rates for {len(right)} steps. Record the rate of each "
                "step, just before the step."
            )
        if not all(map(torch.allclose, weights, expected)):
            if all(map(torch.equal, weights, _fresh_weights())):
                raise Wrong("The weights never change: optimizer.step() belongs in the inner loop, after backward().")
            raise Wrong(
                "Either you record rates that were not used, or a step does something else. The order is zero_grad, "
                "forward, loss, backward, step; record the rate just before the step."
            )
        if not same(used, right):
            place = first_difference(used, right)
            raise Wrong(f"Step {place} should have the rate {right[place]:g}; yours is {used[place]:g}.")


def _rates_of_misplaced_steps(period: int, lengths: Sequence[int]) -> list[tuple[list[float], str]]:
    """Return the rate of each step for schedulers stepped in the wrong place, each with its misconception."""
    epochs = [epoch for epoch, length in enumerate(lengths) for _ in range(length)]

    def rates(counts: Iterable[int]) -> list[float]:
        """Return the rates if the scheduler was stepped this many times before each step."""
        return [0.4 * 0.5 ** (count // period) for count in counts]

    return [
        (
            rates(step + 1 for step in range(len(epochs))),
            "You still step the scheduler at every step, and before the optimizer. StepLR counts its period in epochs "
            "here: move scheduler.step() out of the inner loop.",
        ),
        (
            rates(range(len(epochs))),
            "You still step the scheduler at every step, so the rate falls in one epoch as much as it should in "
            "several. StepLR counts its period in epochs here: move scheduler.step() out of the inner loop.",
        ),
        (
            rates(epoch + 1 for epoch in epochs),
            "You step the scheduler at the start of an epoch, before the optimizer's first step, so the first rate is "
            "used for one epoch too few. Move scheduler.step() after the inner loop.",
        ),
        (rates(0 for _ in epochs), "The rate never changes: call scheduler.step() once per epoch."),
    ]


def _fresh_weights() -> list[Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return list(nn.Linear(4, 3).parameters())
