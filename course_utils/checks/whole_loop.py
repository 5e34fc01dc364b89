"""Lesson 08's checks: two curves from one loop, a curve predicted, the state of a run, a test for any training step."""

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.checks.runner import Answer, exercise
from course_utils.checks.values import Points, Wrong, first_difference, name_mistake, same, same_points, short

Batch = tuple[float, int]


# Exercise 1: the bookkeeping of the notes' last loop.


def _starter_loop(epochs, every, add_scalar):
    window = 0.0
    steps = 0
    for epoch, batches in enumerate(epochs):
        total = 0.0
        for loss, _ in batches:
            total += loss
            window += loss
        steps = steps + 1
        if steps % every == 0:
            add_scalar("step_loss", window / 100, steps)
            add_scalar("epoch_loss", total / len(batches), epoch)


def _step_curve(
    epochs: list[list[Batch]], every: int, *, weighted: bool = True, reset: str = "window", divisor: float = 0.0
) -> Points:
    """Return the points of step_loss; the options turn it into what typical mistakes draw."""
    points: list[tuple[float, float]] = []
    steps, total, count = 0, 0.0, 0
    for batches in epochs:
        if reset == "epoch too":
            total, count = 0.0, 0
        for loss, num_samples in batches:
            weight = num_samples if weighted else 1
            total, count, steps = total + loss * weight, count + weight, steps + 1
            if steps % every == 0:
                points.append((steps, total / (divisor or count)))
                if reset == "sum":
                    total = 0.0
                elif reset != "never":
                    total, count = 0.0, 0
    return points


def _epoch_curve(epochs: list[list[Batch]], *, weighted: bool = True) -> Points:
    means: list[tuple[float, float]] = []
    for epoch, batches in enumerate(epochs):
        weights = [num_samples if weighted else 1 for _, num_samples in batches]
        total = sum(loss * weight for (loss, _), weight in zip(batches, weights, strict=True))
        means.append((epoch, total / sum(weights)))
    return means


def _ys(points: Points) -> list[float]:
    return [y for _, y in points]


def _epochs_of(source: random.Random, num_epochs: int, num_batches: int, size: int, last: int) -> list[list[Batch]]:
    sizes = [size] * (num_batches - 1) + [last]
    return [[(source.uniform(0.2, 2.5), num_samples) for num_samples in sizes] for _ in range(num_epochs)]


@exercise(
    "08-two-curves",
    "Cure this loop",
    praise="One point per window and one per epoch, each the mean per sample of what it covers.",
    returns_nothing=True,
    starter=_starter_loop,
)
def two_curves(answer: Answer) -> None:
    """Check exercise 1 of lesson 08: the fixed bookkeeping of the notes' last loop, on random losses and sizes."""
    source = random.Random(0)
    for num_epochs, num_batches, every in ((8, 6, 4), (4, 7, 5), (3, 23, 10)):
        epochs = _epochs_of(source, num_epochs, num_batches, 64, 9)
        curves: dict[str, list[tuple[float, float]]] = {}

        def add_scalar(tag: str, value: Any, step: Any, curves: dict[str, list[tuple[float, float]]] = curves) -> None:
            curves.setdefault(tag, []).append((float(step), float(value)))

        answer(epochs, every, add_scalar)
        unknown = curves.keys() - {"step_loss", "epoch_loss"}
        if unknown:
            raise Wrong(f"You wrote the tag {sorted(unknown)[0]!r}. The tags are 'step_loss' and 'epoch_loss'.")
        for tag in ("step_loss", "epoch_loss"):
            if tag not in curves:
                raise Wrong(f"Nothing was written under {tag!r} in {num_epochs} epochs of {num_batches} batches.")
        _check_step_loss(curves["step_loss"], epochs, every)
        _check_epoch_loss(curves["epoch_loss"], epochs, every)


def _check_step_loss(given: Points, epochs: list[list[Batch]], every: int) -> None:
    right, batches = _step_curve(epochs, every), sum(map(len, epochs))
    if len(given) != len(right):
        if len(given) == len(epochs) // every:
            raise Wrong(
                f"step_loss has {len(given)} points: your steps still count epochs. Move `steps += 1` into "
                "the loop over the batches."
            )
        if len(given) == sum((number + 1) * len(epochs[0]) % every == 0 for number in range(len(epochs))):
            raise Wrong(
                f"step_loss has {len(given)} points: you check `steps % every` only when an epoch ends. The check "
                "belongs in the loop over the batches, like the counting."
            )
        if len(given) == batches:
            raise Wrong("step_loss has one point per batch. Write only when `steps % every == 0`.")
        if len(given) == sum(len(each) // every for each in epochs):
            raise Wrong(
                f"step_loss has {len(given)} points, but {len(right)} windows end: your steps start again in each "
                "epoch. Let them count on from epoch to epoch."
            )
        raise Wrong(
            f"{batches} batches have {len(right)} full windows of {every}; your step_loss has {len(given)} points."
        )
    if [x for x, _ in given] != [x for x, _ in right]:
        raise Wrong(
            f"Your step_loss is at {short([x for x, _ in given][:4])}. Write it at the number of the step, "
            f"{short([x for x, _ in right][:4])}, so that no two points are at the same step."
        )
    mistakes: list[tuple[Points, str]] = [
        (
            _step_curve(epochs, every, weighted=False, divisor=100.0),
            f"You divide your windows by 100, but they hold {every} batches. Divide by what was added.",
        ),
        (
            _step_curve(epochs, every, divisor=100.0),
            "You divide your windows by 100. Divide by the number of samples that were added.",
        ),
        (
            _step_curve(epochs, every, weighted=False, reset="never", divisor=100.0),
            "Your windows only grow: after each point, set the window to 0 again. And 100 is not `every`.",
        ),
        (
            _step_curve(epochs, every, weighted=False, reset="never", divisor=every),
            "Your windows only grow: after each point, set the window to 0 again.",
        ),
        (
            _step_curve(epochs, every, weighted=False, reset="never"),
            "Your step_loss is the mean since training began. Reset the sum and the count after each point.",
        ),
        (
            _step_curve(epochs, every, reset="never"),
            "Your step_loss is the mean since training began. Reset the sum and the count after each point.",
        ),
        (
            _step_curve(epochs, every, reset="sum"),
            "You reset the sum after each point, but not the count: the first window is right, the others are too low.",
        ),
        (
            _step_curve(epochs, every, weighted=False, reset="epoch too", divisor=every),
            "You reset your window at each epoch, too, but still divide by `every`: a window continues "
            "across the end of an epoch.",
        ),
        (
            _step_curve(epochs, every, weighted=False, reset="epoch too"),
            "Your window starts again at each epoch. Reset it only after each point.",
        ),
        (
            _step_curve(epochs, every, reset="epoch too"),
            "Your window starts again at each epoch. Reset it only after each point.",
        ),
        (
            _step_curve(epochs, every, weighted=False),
            "Your step_loss is a mean of batch means: the short last batch counts as much as a full one. Add `loss * "
            "num_samples` and divide by the number of samples.",
        ),
        (
            _step_curve(epochs, every, divisor=every),
            "You add loss × samples but divide by the number of batches. Divide by the number of samples.",
        ),
    ]
    _compare_curve("step_loss", given, right, mistakes)


def _check_epoch_loss(given: Points, epochs: list[list[Batch]], every: int) -> None:
    right = _epoch_curve(epochs)
    if len(given) != len(right):
        if len(given) == len(_step_curve(epochs, every)):
            raise Wrong(
                f"epoch_loss has {len(given)} points for {len(epochs)} epochs: it is still written when a window ends. "
                "Write it after the loop over the batches, once per epoch."
            )
        if len(given) == sum(map(len, epochs)):
            raise Wrong("epoch_loss has one point per batch. Write it after the loop over the batches.")
        raise Wrong(f"There are {len(epochs)} epochs; your epoch_loss has {len(given)} points.")
    if [x for x, _ in given] != [x for x, _ in right]:
        raise Wrong(
            f"Your epoch_loss is at {short([x for x, _ in given])}. Write it at the number of the epoch, from 0."
        )
    sums = [(epoch, mean * sum(n for _, n in batches)) for (epoch, mean), batches in zip(right, epochs, strict=True)]
    mistakes: list[tuple[Points, str]] = [
        (
            _epoch_curve(epochs, weighted=False),
            "Your epoch_loss is a mean of batch means: the short last batch counts as much as a full one. Add `loss * "
            "num_samples` and divide by the number of samples.",
        ),
        (
            [(epoch, total / len(batches)) for (epoch, total), batches in zip(sums, epochs, strict=True)],
            "You add loss × samples but divide by the number of batches. Divide by the number of samples.",
        ),
        (sums, "Your epoch_loss is a sum. Divide it by the number of samples."),
        (
            [(epoch, sum(loss for loss, _ in batches)) for epoch, batches in enumerate(epochs)],
            "Your epoch_loss is a sum. Divide it by what was added.",
        ),
    ]
    _compare_curve("epoch_loss", given, right, mistakes)


def _compare_curve(tag: str, given: Points, right: Points, mistakes: Sequence[tuple[Points, str]]) -> None:
    """Raise `Wrong` if a curve has the wrong values at the right steps, with the misconception that leads to them."""
    if same(_ys(given), _ys(right)):
        return
    name_mistake(_ys(given), [(_ys(points), why) for points, why in mistakes])
    place = first_difference(_ys(given), _ys(right))
    raise Wrong(f"Point {place} of your {tag} is {given[place][1]:.4f}; the mean per sample is {right[place][1]:.4f}.")


# Exercise 2: what the notes' loop draws, predicted.


@exercise(
    "08-drawn-points",
    "Predict this curve",
    praise="One point every `every` epochs, too high by a factor equal to the number of batches in an epoch.",
)
def drawn_points(answer: Answer) -> None:
    """Check exercise 2 of lesson 08: the points that the notes' loop draws when each batch has the same loss."""
    for num_batches, num_epochs, every, loss in (
        (23, 100, 100, 0.5),
        (10, 12, 4, 1.5),
        (7, 9, 2, 0.25),
        (5, 3, 4, 2.0),
    ):
        curve: list[tuple[float, float]] = []
        window = 0.0
        for steps in range(1, num_epochs + 1):
            for _ in range(num_batches):
                window += loss
            if steps % every == 0:
                curve.append((steps, window / every))
                window = 0.0
        given = _points(answer(num_batches, num_epochs, every, loss))
        xs = [x for x, _ in curve]
        case = f"{num_epochs} epochs of {num_batches} batches, every = {every}, each loss {loss}"
        mistakes: list[tuple[Points, str]] = [
            (
                [(step, loss) for step in range(every, num_batches * num_epochs + 1, every)],
                "That is what the loop was meant to draw. But `steps` is raised in the loop over the "
                "epochs: count what it counts.",
            ),
            (
                [(x, loss) for x in xs],
                f"The x are right, the y are not: before each point, {num_batches} losses per epoch are added over "
                "`every` epochs, and the sum is divided by `every`.",
            ),
            (
                [(x, loss * num_batches * every) for x in xs],
                "That is the sum. It is divided by `every` before it is written.",
            ),
            (
                [(x, loss / every) for x in xs],
                "You divided one batch's loss by `every`. First count how many losses are added "
                "before a point is drawn.",
            ),
            (
                [(x - 1, loss * num_batches) for x in xs],
                "The y are right. The x are the values of `steps`, which is raised before it is checked.",
            ),
            (
                [(x * num_batches, loss * num_batches) for x in xs],
                "The y are right. The x are in epochs, since `steps` counts epochs.",
            ),
            (
                [(x, loss * num_batches * (place + 1)) for place, x in enumerate(xs)],
                "Your points climb, but the sum is reset after each one.",
            ),
            (
                [(epoch + 1, loss * num_batches) for epoch in range(num_epochs)],
                "You draw a point every epoch. One is drawn only when `steps % every == 0`.",
            ),
        ]
        if same_points(given, curve):
            continue
        name_mistake(given, [(points, why) for points, why in mistakes if points], same_points)
        if not curve:
            raise Wrong(f"With {case}, `steps` never reaches {every}: no point is drawn, so the list is empty.")
        if len(given) != len(curve):
            raise Wrong(f"With {case}, the number of points drawn is {len(curve)}; your list has length {len(given)}.")
        raise Wrong(f"With {case}, the first point is {curve[0]}; yours is {given[0]}.")


def _points(value: Any) -> Points:
    """Return the learner's value as a list of pairs of numbers."""
    if isinstance(value, str | dict | Tensor) or not hasattr(value, "__iter__"):
        raise Wrong(
            f"Your function returned a {type(value).__name__}, {short(value)}. It should return a list of pairs (x, y)."
        )
    points = []
    for place, item in enumerate(value):
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise Wrong(f"Item {place} of your list is {short(item)}. It should be a pair (x, y).")
        points.append((float(item[0]), float(item[1])))
    return points


# Exercise 3: everything that an exact resume needs.

PARTS = {
    "model": "the weights",
    "optimizer": "Adam's running means and step count, without which it starts as if it had never trained",
    "scheduler": "how far the learning rate has fallen",
    "step": "the number of steps taken",
    "random": "the state of PyTorch's random numbers, which dropout uses",
}


class _DropoutRun:
    """A small run in which everything matters: Adam, dropout, batch norm, a falling rate."""

    def __init__(self, seed: int):
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.05)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=2, gamma=0.5)
        self.step = 0

    def train(self, num_steps: int) -> None:
        for _ in range(num_steps):
            generator = torch.Generator().manual_seed(self.step)
            x, y = torch.randn(16, 5, generator=generator), torch.randint(3, (16,), generator=generator)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()
            self.scheduler.step()
            self.step += 1

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}


@exercise(
    "08-take-down",
    "Save the state of a run",
    praise="A run restored from your dict ends with the same weights, bit for bit, as one that was never stopped.",
)
def save_state(answer: Answer) -> None:
    """Check exercise 3 of lesson 08: a run resumed from the learner's dict equals one that never stopped."""
    for seed, before, after in ((0, 3, 4), (1, 1, 3)):
        run = _DropoutRun(seed)
        run.train(before)
        weights, random_state = run.weights(), torch.get_rng_state()
        state = answer(run.model, run.optimizer, run.scheduler, run.step)
        if not torch.equal(torch.get_rng_state(), random_state):
            raise Wrong(
                "Your function drew random numbers or set their state, so the run itself continues differently. "
                "torch.get_rng_state() only reads the state."
            )
        if not isinstance(state, Mapping):
            raise Wrong(f"Your function returned a {type(state).__name__}, {short(state)}. It should return a dict.")
        missing = [name for name in PARTS if name not in state]
        if missing:
            raise Wrong(f"Your dict has no {missing[0]!r}: {PARTS[missing[0]]}.")
        for name, part in (("model", run.model), ("optimizer", run.optimizer), ("scheduler", run.scheduler)):
            if isinstance(state[name], type(part)):
                raise Wrong(f"You kept the {name} itself, or a copy of it. Keep a copy of its state_dict().")
        step = state["step"]
        run.train(after)
        _check_state(state, step, weights, before, after, run)


def _resume(state: Mapping[str, Any], num_steps: int) -> dict[str, Tensor]:
    """Restore a fresh run from a state, train it, and return its weights."""
    fresh = _DropoutRun(seed=99)
    fresh.model.load_state_dict(state["model"])
    fresh.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    fresh.scheduler.load_state_dict(state["scheduler"])
    fresh.step = state["step"]
    torch.set_rng_state(state["random"])
    fresh.train(num_steps)
    return fresh.weights()


def _check_state(
    state: Mapping[str, Any],
    step: Any,
    saved_weights: dict[str, Tensor],
    before: int,
    after: int,
    run: _DropoutRun,
) -> None:
    if step != before:
        raise Wrong(f"'step' is {short(step)}; it should be {before}, the number of steps taken.")
    if not isinstance(state["random"], Tensor):
        raise Wrong(
            f"'random' is {short(state['random'])}. A seed says where the random numbers began, not where they are "
            "now: keep torch.get_rng_state()."
        )
    weights = state["model"]
    if not isinstance(weights, Mapping) or weights.keys() != saved_weights.keys():
        raise Wrong(
            f"'model' is {short(weights)}. Keep model.state_dict(): it also holds the running means of batch norm, "
            "which are not parameters."
        )
    if not all(torch.equal(weights[name], value) for name, value in saved_weights.items()):
        raise Wrong(
            "Your dict changed while the run went on. state_dict() returns the live tensors, and the optimizer changes "
            "them in place: keep copy.deepcopy(model.state_dict())."
        )
    now = run.optimizer.state_dict()
    moved = state["optimizer"]["state"] if isinstance(state["optimizer"], Mapping) else {}
    if any(entry.get("step") is now["state"][name]["step"] for name, entry in moved.items()):
        raise Wrong(
            "Your copy of the optimizer changed while the run went on: its state_dict() returns the live running "
            "means. Keep copy.deepcopy(optimizer.state_dict())."
        )
    if all(torch.equal(value, run.model.state_dict()[name]) for name, value in _resume(state, after).items()):
        return
    raise Wrong("A run restored from your dict ends with different weights than one that was never stopped.")


# Exercise 4: a test for any training step.

Step = Callable[[nn.Module, torch.optim.Optimizer, Tensor, Tensor], None]


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y)


def _clears_first(model, optimizer, x, y):
    optimizer.zero_grad()
    _loss(model, x, y).backward()
    optimizer.step()


def _clears_before_backward(model, optimizer, x, y):
    loss = _loss(model, x, y)
    model.zero_grad()
    loss.backward()
    optimizer.step()


def _clears_last(model, optimizer, x, y):
    _loss(model, x, y).backward()
    optimizer.step()
    optimizer.zero_grad()


def _sets_none(model, optimizer, x, y):
    for parameter in model.parameters():
        parameter.grad = None
    _loss(model, x, y).backward()
    optimizer.step()


def _never_clears(model, optimizer, x, y):
    _loss(model, x, y).backward()
    optimizer.step()


def _clears_one_layer(model, optimizer, x, y):
    next(model.parameters()).grad = None
    _loss(model, x, y).backward()
    optimizer.step()


def _clears_another(model, optimizer, x, y):
    """Call `zero_grad`, but clear nothing of this model."""
    torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1).zero_grad()
    _loss(model, x, y).backward()
    optimizer.step()


# Each step, whether gradients leak from one step into the next, and its description.
STEPS: list[tuple[Step, bool, str]] = [
    (_clears_first, False, "a step that clears at its beginning"),
    (_never_clears, True, "a step that never clears"),
    (_clears_before_backward, False, "a step that calls model.zero_grad() just before backward()"),
    (_clears_last, False, "a step that clears at its end"),
    (_sets_none, False, "a step that sets each .grad to None by hand"),
    (_clears_one_layer, True, "a step that clears only the first layer's weights"),
    (_clears_another, True, "a step that calls zero_grad() on another optimizer"),
]


@exercise(
    "08-remembers-gradients",
    "Write a test for any loop",
    praise="Your test tells seven steps apart by what they do, without reading a line of them.",
)
def remembers_gradients(answer: Answer) -> None:
    """Check exercise 4 of lesson 08: the learner's test tells seven training steps apart, right ones and wrong ones."""
    given = []
    for step, _, _ in STEPS:
        result = answer(step)
        if not isinstance(result, bool):
            raise Wrong(f"Your test returned {short(result)}. It should return True or False.")
        given.append(result)
    right = [leaks for _, leaks, _ in STEPS]
    if given == right:
        return
    if len(set(given)) == 1:
        raise Wrong(
            f"Your test returns {given[0]} for every step. Call the step twice: only the second call can show what is "
            "left from the first. Then repeat that second step from the same weights, with no gradients left."
        )
    if given == [not leaks for leaks in right]:
        raise Wrong("Your test returns the opposite each time: True means that gradients leak into the next step.")
    left_after = [step is not _clears_last for step, _, _ in STEPS]
    if given == left_after:
        raise Wrong(
            "Your test checks whether a gradient is left after the step. A step that clears at its beginning leaves "
            "one, which does no harm. Look at the weights: does the next step differ from one without that gradient?"
        )
    named = [
        step not in (_clears_first, _clears_before_backward, _clears_last, _clears_another) for step, _, _ in STEPS
    ]
    if given == named:
        raise Wrong(
            "Your test looks for the word zero_grad in the step's lines. One step clears without the word; another has "
            "the word but clears nothing of this model. Look at what the step does to the weights."
        )
    poisoned = [leaks or step is _clears_last for step, leaks, _ in STEPS]
    if given == poisoned:
        raise Wrong(
            "Your test puts a gradient in before the first call. A step that clears at its end never starts with one: "
            "let a first call of the step leave what it leaves, and judge the second."
        )
    first_only = [leaks and step is not _clears_one_layer for step, leaks, _ in STEPS]
    if given == first_only:
        raise Wrong("Your test looks only at the first parameter. One step clears that one and forgets the others.")
    place = next(place for place, result in enumerate(given) if result != right[place])
    raise Wrong(f"For {STEPS[place][2]}, your test returns {given[place]}; it should return {right[place]}.")
