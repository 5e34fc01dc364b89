"""Lesson 04's checks: what is in .grad, a ball that keeps its gradients, a loop to fix, an epoch with accumulation."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.checks.runner import Answer, exercise
from course_utils.checks.start import reference_epoch
from course_utils.checks.values import Wrong, first_difference, number, numbers, same, short

Batch = tuple[Tensor, Tensor]


def _find_faults(
    given: Sequence[Any], simulate: Callable[..., Iterable[Any]], variants: Sequence[Sequence[tuple[Any, str]]]
) -> str | None:
    """Return the fewest misconceptions that together explain all of the learner's results, or None.

    Args:
        given: the learner's result of each case.
        simulate: computes the result of each case, one after the other, for one variant of each kind.
        variants: for each kind the variants, each with its misconception; the first of each kind is right.
    """
    combined = sorted(itertools.product(*variants), key=lambda chosen: sum(bool(why) for _, why in chosen))
    for chosen in combined:
        results = simulate(*(variant for variant, _ in chosen))
        if all(same(value, result) for value, result in zip(given, results, strict=True)):
            return " ".join(why for _, why in chosen if why)
    return None


@exercise(
    "04-grad-after", "What is in .grad?", praise="You know what .grad holds at every moment.", returns_nothing=True
)
def grad_after(answer: Answer) -> None:
    """Check exercise 1 of lesson 04: what `.grad` holds after a list of events, compared with PyTorch's own."""
    generator = torch.Generator().manual_seed(0)
    lists: list[list[Any]] = [[3.0], [2.0, -1.0, 4.5], [1.0, "step", 2.5], [2.0, "zero_grad", 3.0, 0.5]]
    for _ in range(3):
        slopes = torch.randn(4, generator=generator, dtype=torch.float64).tolist()
        lists.append([*slopes[:2], "step", "zero_grad", slopes[2], "step", slopes[3]])
    lists += [[1.5, "step", "zero_grad"], [], ["zero_grad", "step"]]
    given = [answer(events) for events in lists]
    given = [None if value is None else number(value) for value in given]
    right = [_held_by_torch(events) for events in lists]
    if given == [None] * len(lists):
        raise Wrong("Your function returned None for every list: end it by returning what .grad holds.")
    mistakes: list[tuple[Callable[[list[Any]], float | None], str]] = [
        (
            lambda events: _simulate_grad(events, overwrite=True),
            "In your function, backward() overwrites what was there. It adds: after slopes 2, "
            "−1 and 4.5, .grad is 5.5.",
        ),
        (
            lambda events: _simulate_grad(events, step_clears=True),
            "In your function, step() clears the gradient. step() only reads .grad; zero_grad() clears it.",
        ),
        (
            lambda events: _simulate_grad(events, zero_clears=False),
            'Your function ignores "zero_grad". After it, nothing is left of the earlier slopes.',
        ),
        (
            lambda events: _simulate_grad(events) or 0.0,
            "Your function returns 0 if there is no gradient. Before the first backward() and after zero_grad(), "
            ".grad is None, not a zero.",
        ),
        (
            lambda events: None if "zero_grad" in events else _simulate_grad(events),
            'After "zero_grad", your function returns None for ever. The next backward() starts a new sum.',
        ),
        (
            lambda events: (_simulate_grad(events) or 0.0) / max(1, sum(isinstance(event, float) for event in events)),
            "Your function returns a mean. backward() adds; it does not divide.",
        ),
    ]
    if given == right:
        return
    for simulate, why in mistakes:
        if all(map(_equal_or_none, given, map(simulate, lists))):
            raise Wrong(why)
    for events, value, true in zip(lists, given, right, strict=True):
        if not _equal_or_none(value, true):
            raise Wrong(f"After {events!r}, .grad holds {short(true)}; your function returns {short(value)}.")


def _held_by_torch(events: Sequence[Any]) -> float | None:
    w = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = torch.optim.SGD([w], lr=0.1)
    for event in events:
        if isinstance(event, str):
            getattr(optimizer, event)()
        else:
            (event * w).backward()
    return None if w.grad is None else w.grad.item()


def _simulate_grad(
    events: Sequence[Any], *, overwrite: bool = False, step_clears: bool = False, zero_clears: bool = True
) -> float | None:
    """Return what .grad holds after the events, with the chosen misconceptions."""
    held = None
    for event in events:
        if isinstance(event, float):
            held = event if held is None or overwrite else held + event
        elif step_clears if event == "step" else zero_clears:
            held = None
    return held


def _equal_or_none(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return same(first, second)


# The balls of exercise 2: start, lr, curvature, num_steps and clear_every.
_BALLS = (
    (0.9, 0.5, 0.8, 6, None),
    (1.2, 0.4, 0.6, 7, 3),
    (0.7, 0.6, 1.1, 3, 1),
    (1.1, 0.3, 0.9, 8, 2),
    (1, 0.5, 1.3, 0, 2),
)


def _simulate_balls(variant: str) -> Iterator[Tensor]:
    """Yield the path of each ball in one variant."""
    for start, lr, curvature, num_steps, clear_every in _BALLS:
        path, gradients, held, k = [start], [], 0.0, clear_every or num_steps + 1
        for step in range(1, num_steps + 1):
            if variant == "clear early" and step % k == 0:
                held = 0.0
            gradients.append(path[-1] if variant == "no curvature" else curvature * path[-1])
            held += gradients[-1]
            if variant == "clear between" and step % k == 0:
                held = 0.0
            used = {
                "newest": gradients[-1],
                "last two": sum(gradients[-2:]),
                "mean": held / ((step - 1) % k + 1),
                "climb": -held,
            }.get(variant, held)
            path.append(path[-1] - lr * used)
            if variant not in ("never clear", "clear early") and step % k == 0:
                held = 0.0
        yield torch.tensor(path, dtype=torch.float64)


_BALL_VARIANTS = [
    ("right", ""),
    (
        "newest",
        "Each of your steps uses only the newest gradient: that is the loop that clears every time. Keep "
        "the old sum and add to it.",
    ),
    ("never clear", "You never clear. When the step's number is a multiple of clear_every, set the sum to 0."),
    ("last two", "You add the last two gradients. Without clearing, nothing is lost: step t uses all t of them."),
    (
        "clear between",
        "You clear between adding the gradient and using it, so that step does not move. Clear after the step.",
    ),
    (
        "clear early",
        "You clear one step too early: before the gradient of step clear_every is added. Clear after that step.",
    ),
    ("mean", "Your steps use the mean of the gradients. backward() adds; it does not divide."),
    ("climb", "Your ball climbs. The step goes against the gradients: new = old − lr × their sum."),
    ("no curvature", "Your gradient is w, but the gradient of ½ · curvature · w² is curvature · w."),
]


@exercise(
    "04-ball-without-clearing",
    "Predict this curve",
    praise="Your curve is the one that torch.optim.SGD takes when zero_grad() is called only every clear_every steps.",
)
def ball_without_clearing(answer: Answer) -> None:
    """Check exercise 2 of lesson 04: gradient descent that rarely clears, compared with `torch.optim.SGD`."""
    given, right = [], []
    for start, lr, curvature, num_steps, clear_every in _BALLS:
        w = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        optimizer = torch.optim.SGD([w], lr=lr)
        path = [start]
        for step in range(1, num_steps + 1):
            (0.5 * curvature * w**2).backward()
            optimizer.step()
            path.append(w.item())
            if clear_every is not None and step % clear_every == 0:
                optimizer.zero_grad()
        right.append(torch.tensor(path, dtype=torch.float64))
        path = numbers(answer(start, lr, curvature, num_steps, clear_every), num_steps + 1)
        given.append(torch.tensor(path, dtype=torch.float64))
    if all(map(same, given, right)):
        return
    fault = _find_faults(given, _simulate_balls, [_BALL_VARIANTS])
    if fault is not None:
        raise Wrong(fault)
    ball = first_difference(given, right)
    start, lr, curvature, _, clear_every = _BALLS[ball]
    step = first_difference(given[ball], right[ball])
    raise Wrong(
        f"From {start} with lr {lr}, curvature {curvature} and clear_every={clear_every}, step {step} should lead to "
        f"{right[ball][step]:.4f}; yours leads to {given[ball][step]:.4f}."
    )


class _TwoParts(nn.Module):
    """A small model with a `base` and a `classifier`, in double precision, so that rounding does not matter."""

    def __init__(self):
        super().__init__()
        self.base = nn.Sequential(nn.Linear(3, 5, dtype=torch.float64), nn.Tanh())
        self.classifier = nn.Linear(5, 4, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.base(x))


def _make_model(seed: int) -> _TwoParts:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _TwoParts()


def _make_batches(seed: int, sizes: Sequence[int]) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 3, generator=generator, dtype=torch.float64), torch.randint(4, (size,), generator=generator))
        for size in sizes
    ]


def _weights(model: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def _starter_loop(
    model: nn.Module, base_optimizer: Any, classifier_optimizer: Any, loss_fn: Callable, batches: list[Batch]
) -> list[float]:
    """Train as the starter code of exercise 3 does."""
    losses = []
    for x, y in batches:
        loss = loss_fn(model(x), y)
        loss.backward()
        base_optimizer.zero_grad()
        base_optimizer.step()
        classifier_optimizer.step()
        losses.append(loss.item())
    return losses


_LOOPS = ((0, (4, 4, 4, 4, 4)), (1, (6, 6, 6)), (2, (3, 3, 3, 3)))


def _loop_cases() -> Iterator[tuple[_TwoParts, Any, Any, list[Batch]]]:
    for seed, sizes in _LOOPS:
        model = _make_model(seed)
        base_optimizer, classifier_optimizer = (
            torch.optim.SGD(part.parameters(), lr=0.4) for part in (model.base, model.classifier)
        )
        yield model, base_optimizer, classifier_optimizer, _make_batches(seed, sizes)


def _simulate_loops(base: str, classifier: str) -> Iterator[Tensor]:
    """Yield the losses of each case if each optimizer clears "first", "never", or "between" backward and step."""
    for model, base_optimizer, classifier_optimizer, batches in _loop_cases():
        parts = [(base_optimizer, base), (classifier_optimizer, classifier)]
        losses = []
        for x, y in batches:
            for optimizer, variant in parts:
                if variant == "first":
                    optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            for optimizer, variant in parts:
                if variant == "between":
                    optimizer.zero_grad()
                optimizer.step()
            losses.append(loss.item())
        yield torch.tensor(losses, dtype=torch.float64)


def _variants_of(part: str) -> list[tuple[str, str]]:
    name = f"{part}_optimizer"
    return [
        ("first", ""),
        (
            "never",
            f"The gradients of the {part} pile up: every step uses all batches so far. Call {name}.zero_grad() once "
            "per batch, before backward() or after step().",
        ),
        (
            "between",
            f"The {part} does not move: either .grad is empty when {name}.step() is called, or it is never called. "
            "Clear before backward(), and step after it.",
        ),
    ]


@exercise(
    "04-cured-loop",
    "Cure this loop",
    praise="Each optimizer clears its own part, once per batch.",
    may_change=(0, 1, 2),
    starter=_starter_loop,
)
def cured_loop(answer: Answer) -> None:
    """Check exercise 3 of lesson 04: a loop with two optimizers, compared with one optimizer for the whole model."""
    given, right, moved = [], [], True
    for (model, base_optimizer, classifier_optimizer, batches), (seed, _) in zip(_loop_cases(), _LOOPS, strict=True):
        loss_fn = nn.CrossEntropyLoss()
        losses = numbers(answer(model, base_optimizer, classifier_optimizer, loss_fn, batches), len(batches))
        oracle = _make_model(seed)
        true = reference_epoch(oracle, torch.optim.SGD(oracle.parameters(), lr=0.4), loss_fn, batches)
        given.append(torch.tensor(losses, dtype=torch.float64))
        right.append(torch.tensor(true, dtype=torch.float64))
        moved = moved and same(_weights(model), _weights(oracle))
    if all(map(same, given, right)):
        if not moved:
            raise Wrong(
                "Your losses are right, but the weights after the last batch are not: each batch needs its step."
            )
        return
    faults = _find_faults(given, _simulate_loops, [_variants_of("base"), _variants_of("classifier")])
    if faults is not None:
        raise Wrong(faults)
    if all(map(same, (losses.cumsum(0) for losses in right), given)):
        raise Wrong("Your list holds the sum of the losses so far. It should hold each batch's own loss.")
    step = first_difference(given[0], right[0])
    raise Wrong(
        f"The loss of batch {step + 1} should be {right[0][step]:.4f}; yours is {given[0][step]:.4f}. Keep the five "
        "verbs in their order: clear, forward, loss, backward, step."
    )


# Seed, sizes of the micro-batches, k: equal sizes, one short, a short last group, one short in it, k = 1.
_EPOCHS = (
    (3, (4, 4, 4, 4), 2),
    (4, (4, 4, 4, 1), 2),
    (5, (4, 4, 4, 4, 4), 2),
    (6, (4, 4, 4, 4, 3), 3),
    (7, (4, 4, 2), 1),
)


def _simulate_epochs(scale: str, clear: str, step: str) -> Iterator[Tensor]:
    """Yield the weights after each epoch of accumulation, with one variant of each kind."""
    for seed, sizes, k in _EPOCHS:
        model = _make_model(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        batches = _make_batches(seed, sizes)
        for start in range(0, len(batches), k):
            group = batches[start : start + k]
            if clear == "group":
                optimizer.zero_grad()
            for x, y in group:
                if clear == "each":
                    optimizer.zero_grad()
                factor = {
                    "share": len(x) / sum(len(inputs) for inputs, _ in group),
                    "sum": 1.0,
                    "k": 1 / k,
                    "count": 1 / len(group),
                    "full": len(x) / (k * len(batches[0][0])),
                    "images": 1 / sum(len(inputs) for inputs, _ in group),
                }[scale]
                (nn.functional.cross_entropy(model(x), y) * factor).backward()
                if step == "each":
                    optimizer.step()
            if step == "group" or (step == "full" and len(group) == k):
                optimizer.step()
        yield _weights(model)


_ACCUMULATION_VARIANTS = [
    [
        ("share", ""),
        (
            "sum",
            "Your gradients are k times too large: backward() adds k means. Divide each micro-batch's loss by the "
            "number of micro-batches or, better, weight it by its share of the group's images.",
        ),
        (
            "count",
            "A short micro-batch has the same weight as a full one. Weight each loss by its images: "
            "len(x) / images of the group.",
        ),
        (
            "k",
            "You divide by k, which is right only for full groups of equal micro-batches. Weight each loss by its "
            "images: len(x) / images of the group, in the last group too.",
        ),
        (
            "full",
            "You divide by the images of a full group. The last group has fewer: count the images that are in it.",
        ),
        (
            "images",
            "You divide by the number of images, but loss_fn has already done that: its loss is a mean. "
            "Multiply by len(x) first.",
        ),
    ],
    [
        ("group", ""),
        (
            "never",
            "The gradients of one group are still there in the next. Call optimizer.zero_grad() once per group.",
        ),
        (
            "each",
            "You clear before every backward(), so only the last micro-batch of a group counts. Clear once per group.",
        ),
    ],
    [
        ("group", ""),
        ("each", "You step after every micro-batch. Step once per group, after its last backward()."),
        (
            "full",
            "The micro-batches left over at the end are never used in a step. That shorter group needs its own step.",
        ),
        ("none", "No weight has moved: optimizer.step() is missing."),
    ],
]


@exercise(
    "04-accumulate",
    "Write this step",
    praise="Your epoch equals one with large batches, leftovers included.",
    may_change=(0, 1),
    returns_nothing=True,
)
def accumulate(answer: Answer) -> None:
    """Check exercise 4 of lesson 04: an epoch of accumulation, compared with PyTorch on each group as one batch."""
    given, right = [], []
    for seed, sizes, k in _EPOCHS:
        model, oracle, batches = _make_model(seed), _make_model(seed), _make_batches(seed, sizes)
        loss_fn = nn.CrossEntropyLoss()
        answer(model, torch.optim.SGD(model.parameters(), lr=0.3), loss_fn, batches, k)
        optimizer = torch.optim.SGD(oracle.parameters(), lr=0.3)
        for start in range(0, len(batches), k):
            x, y = (torch.cat(parts) for parts in zip(*batches[start : start + k], strict=True))
            optimizer.zero_grad()
            loss_fn(oracle(x), y).backward()
            optimizer.step()
        given.append(_weights(model))
        right.append(_weights(oracle))
    if all(map(same, given, right)):
        return
    faults = _find_faults(given, _simulate_epochs, _ACCUMULATION_VARIANTS)
    if faults is not None:
        raise Wrong(faults)
    case = first_difference(given, right)
    _, sizes, k = _EPOCHS[case]
    off = (given[case] - right[case]).abs().max().item()
    raise Wrong(
        f"With micro-batches of {', '.join(map(str, sizes))} images and k = {k}, a weight differs by {off:.2g} from "
        "that of one large batch per group. Print len(x) and the factor of each loss for these sizes."
    )
