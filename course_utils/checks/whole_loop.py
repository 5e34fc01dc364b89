"""Lesson 08's checks: two curves from one loop, a curve foretold, a run taken down, a test for any training step."""

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.checks.runner import Answer, exercise
from course_utils.checks.values import Wrong, same, short

Batch = tuple[float, int]
Points = list[tuple[float, float]]


# Exercise 1: the bookkeeping of the notes' last loop, as it is given to be cured.


def _as_given(epochs, every, add_scalar):
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
    """The points of step_loss; the options bend it into what typical mistakes draw."""
    points, steps, total, count = [], 0, 0.0, 0
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
    means = []
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
    praise="One point a window and one an epoch, and each is the mean per sample of what it covers.",
    returns_nothing=True,
    given=_as_given,
)
def two_curves(answer: Answer) -> None:
    """Check exercise 1 of lesson 08: the cured bookkeeping of the notes' last loop, over random losses and sizes."""
    source = random.Random(0)
    for num_epochs, num_batches, every in ((8, 6, 4), (4, 7, 5), (3, 23, 10)):
        epochs = _epochs_of(source, num_epochs, num_batches, 64, 9)
        curves: dict[str, Points] = {}

        def add_scalar(tag: str, value: Any, step: Any, curves: dict[str, Points] = curves) -> None:
            curves.setdefault(tag, []).append((float(step), float(value)))

        answer(epochs, every, add_scalar)
        unknown = curves.keys() - {"step_loss", "epoch_loss"}
        if unknown:
            raise Wrong(f"You wrote the tag {sorted(unknown)[0]!r}. Keep to 'step_loss' and 'epoch_loss'.")
        for tag in ("step_loss", "epoch_loss"):
            if tag not in curves:
                raise Wrong(f"Nothing was written under {tag!r} in {num_epochs} epochs of {num_batches} batches.")
        _judge_steps(curves["step_loss"], epochs, every)
        _judge_epochs(curves["epoch_loss"], epochs, every)


def _judge_steps(given: Points, epochs: list[list[Batch]], every: int) -> None:
    right, batches = _step_curve(epochs, every), sum(map(len, epochs))
    if len(given) != len(right):
        if len(given) == len(epochs) // every:
            raise Wrong(
                f"step_loss has {len(given)} points: your steps still count epochs. Put `steps += 1` into the loop "
                "over the batches."
            )
        if len(given) == sum((number + 1) * len(epochs[0]) % every == 0 for number in range(len(epochs))):
            raise Wrong(
                f"step_loss has {len(given)} points: you ask `steps % every` only when an epoch ends. The question "
                "belongs into the loop over the batches, like the counting."
            )
        if len(given) == batches:
            raise Wrong("step_loss has one point for each batch. Write only when `steps % every == 0`.")
        if len(given) == sum(len(each) // every for each in epochs):
            raise Wrong(
                f"step_loss has {len(given)} points where {len(right)} windows end: your steps begin anew in each "
                "epoch. Let them count on from epoch to epoch."
            )
        raise Wrong(
            f"{batches} batches hold {len(right)} full windows of {every}; your step_loss has {len(given)} points."
        )
    if [x for x, _ in given] != [x for x, _ in right]:
        raise Wrong(
            f"Your step_loss stands at {short([x for x, _ in given][:4])}. Write it at the number of the step, "
            f"{short([x for x, _ in right][:4])}, so that no two points share a place."
        )
    typical = [
        (
            _step_curve(epochs, every, weighted=False, divisor=100.0),
            f"Your windows are divided by 100, but hold {every} batches. Divide by what was added.",
        ),
        (
            _step_curve(epochs, every, divisor=100.0),
            "Your windows are divided by 100. Divide by the number of samples that were added.",
        ),
        (
            _step_curve(epochs, every, weighted=False, reset="never", divisor=100.0),
            "Your windows only grow: after a point was written, the window begins at 0 again. And 100 is not `every`.",
        ),
        (
            _step_curve(epochs, every, weighted=False, reset="never", divisor=every),
            "Your windows only grow: after a point was written, the window begins at 0 again.",
        ),
        (
            _step_curve(epochs, every, weighted=False, reset="never"),
            "Your step_loss is the mean since training began. Set the sum and the count back after each point.",
        ),
        (
            _step_curve(epochs, every, reset="never"),
            "Your step_loss is the mean since training began. Set the sum and the count back after each point.",
        ),
        (
            _step_curve(epochs, every, reset="sum"),
            "You set the sum back after each point, but not the count: the first window is right, the others too low.",
        ),
        (
            _step_curve(epochs, every, weighted=False, reset="epoch too", divisor=every),
            "Your window is set back at each epoch, too, but still divided by `every`: it runs on over the epoch's "
            "end.",
        ),
        (
            _step_curve(epochs, every, weighted=False, reset="epoch too"),
            "Your window begins anew at each epoch. Set it back only after a point was written.",
        ),
        (
            _step_curve(epochs, every, reset="epoch too"),
            "Your window begins anew at each epoch. Set it back only after a point was written.",
        ),
        (
            _step_curve(epochs, every, weighted=False),
            "Your step_loss is a mean of batch means: the short last batch counts as much as a full one. Add `loss * "
            "num_samples` and divide by the samples.",
        ),
        (
            _step_curve(epochs, every, divisor=every),
            "You add loss × samples but divide by the number of batches. Divide by the number of samples.",
        ),
    ]
    _tell("step_loss", given, right, typical)


def _judge_epochs(given: Points, epochs: list[list[Batch]], every: int) -> None:
    right = _epoch_curve(epochs)
    if len(given) != len(right):
        if len(given) == len(_step_curve(epochs, every)):
            raise Wrong(
                f"epoch_loss has {len(given)} points for {len(epochs)} epochs: it is still written where a window "
                "ends. Write it after the loop over the batches, once an epoch."
            )
        if len(given) == sum(map(len, epochs)):
            raise Wrong("epoch_loss has one point for each batch. Write it after the loop over the batches.")
        raise Wrong(f"There are {len(epochs)} epochs; your epoch_loss has {len(given)} points.")
    if [x for x, _ in given] != [x for x, _ in right]:
        raise Wrong(
            f"Your epoch_loss stands at {short([x for x, _ in given])}. Write it at the number of the epoch, from 0."
        )
    sums = [(epoch, mean * sum(n for _, n in batches)) for (epoch, mean), batches in zip(right, epochs, strict=True)]
    typical = [
        (
            _epoch_curve(epochs, weighted=False),
            "Your epoch_loss is a mean of batch means: the short last batch counts as much as a full one. Add `loss * "
            "num_samples` and divide by the samples.",
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
    _tell("epoch_loss", given, right, typical)


def _tell(tag: str, given: Points, right: Points, typical: list[tuple[Points, str]]) -> None:
    """Be content with the right points; else raise `Wrong` with the misconception that draws the given ones."""
    if same(_ys(given), _ys(right)):
        return
    for points, why in typical:
        if same(_ys(given), _ys(points)):
            raise Wrong(why)
    place = next(place for place in range(len(right)) if not same(given[place][1], right[place][1]))
    raise Wrong(f"Point {place} of your {tag} is {given[place][1]:.4f}; the mean per sample is {right[place][1]:.4f}.")


# Exercise 2: what the notes' loop draws, foretold.


@exercise(
    "08-drawn-points",
    "Predict this curve",
    praise="One point for each `every` epochs, as many times too high as an epoch has batches.",
)
def drawn_points(answer: Answer) -> None:
    """Check exercise 2 of lesson 08: the points that the notes' loop draws when each batch has the same loss."""
    for num_batches, num_epochs, every, loss in (
        (23, 100, 100, 0.5),
        (10, 12, 4, 1.5),
        (7, 9, 2, 0.25),
        (5, 3, 4, 2.0),
    ):
        curves: Points = []
        window = 0.0
        for steps in range(1, num_epochs + 1):
            for _ in range(num_batches):
                window += loss
            if steps % every == 0:
                curves.append((steps, window / every))
                window = 0.0
        given = _points(answer(num_batches, num_epochs, every, loss))
        xs = [x for x, _ in curves]
        case = f"{num_epochs} epochs of {num_batches} batches, every = {every}, each loss {loss}"
        meant = [(step, loss) for step in range(every, num_batches * num_epochs + 1, every)]
        typical = [
            (
                meant,
                "That is what the loop was meant to draw. Its `steps` stands in the loop over the epochs: count what "
                "it counts.",
            ),
            (
                [(x, loss) for x in xs],
                f"The places are right, the height is not: until a point is written, {num_batches} losses an epoch are "
                "added over `every` epochs, and the sum is divided by `every`.",
            ),
            (
                [(x, loss * num_batches * every) for x in xs],
                "That is the sum. It is divided by `every` before it is written.",
            ),
            (
                [(x, loss / every) for x in xs],
                "You divided one batch's loss by `every`. Count first how many losses are added until a point is "
                "drawn.",
            ),
            (
                [(x - 1, loss * num_batches) for x in xs],
                "The heights are right. The places are the values of `steps`, which has been raised before it is "
                "asked.",
            ),
            (
                [(x * num_batches, loss * num_batches) for x in xs],
                "The heights are right. The places are in epochs, since `steps` counts epochs.",
            ),
            (
                [(x, loss * num_batches * (place + 1)) for place, x in enumerate(xs)],
                "Your points climb: you did not see that the sum is set back after each.",
            ),
            (
                [(epoch + 1, loss * num_batches) for epoch in range(num_epochs)],
                "You draw a point an epoch. It is drawn only when `steps % every == 0`.",
            ),
        ]
        if _alike(given, curves):
            continue
        for points, why in typical:
            if points and _alike(given, points):
                raise Wrong(why)
        if not curves:
            raise Wrong(f"With {case}, `steps` never reaches {every}: no point is drawn, the list is empty.")
        if len(given) != len(curves):
            raise Wrong(f"With {case}, the loop draws {len(curves)} points; you foretell {len(given)}.")
        raise Wrong(f"With {case}, the first point stands at {curves[0]}; yours stands at {given[0]}.")


def _points(value: Any) -> Points:
    """The learner's value as a list of pairs of numbers."""
    if isinstance(value, str | dict | Tensor) or not hasattr(value, "__iter__"):
        raise Wrong(
            f"Your function gave a {type(value).__name__}, {short(value)}. It should give a list of pairs (x, y)."
        )
    points = []
    for place, item in enumerate(value):
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise Wrong(f"Item {place} of your list is {short(item)}. It should be a pair (x, y).")
        points.append((float(item[0]), float(item[1])))
    return points


def _alike(first: Points, second: Points) -> bool:
    return len(first) == len(second) and same([[x, y] for x, y in first], [[x, y] for x, y in second])


# Exercise 3: all that an exact resume needs.

PARTS = {
    "model": "the weights",
    "optimizer": "Adam's running means and its count of steps: without them it begins as if it had never trained",
    "scheduler": "how far the learning rate has come down",
    "step": "how many steps are done",
    "random": "the state of PyTorch's random numbers: dropout draws from them",
}


class _Run:
    """A small run in which everything matters: Adam, dropout, batch norm, a falling rate."""

    def __init__(self, seed: int):
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.05)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=2, gamma=0.5)
        self.step = 0

    def go_on(self, num_steps: int) -> None:
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
    "Take down a run",
    praise="A run put together from your dict ends with the same weights, bit for bit, as one that was never stopped.",
)
def take_down(answer: Answer) -> None:
    """Check exercise 3 of lesson 08: a run resumed from the learner's dict ends bit for bit as one never stopped."""
    for seed, before, after in ((0, 3, 4), (1, 1, 3)):
        run = _Run(seed)
        run.go_on(before)
        at_break, drawn = run.weights(), torch.get_rng_state()
        state = answer(run.model, run.optimizer, run.scheduler, run.step)
        if not torch.equal(torch.get_rng_state(), drawn):
            raise Wrong(
                "Taking the run down drew or set random numbers, so that the run itself goes on otherwise. "
                "torch.get_rng_state() only reads."
            )
        if not isinstance(state, Mapping):
            raise Wrong(f"Your function gave a {type(state).__name__}, {short(state)}. It should give a dict.")
        missing = [name for name in PARTS if name not in state]
        if missing:
            raise Wrong(f"Your dict has no {missing[0]!r}: {PARTS[missing[0]]}.")
        for name, part in (("model", run.model), ("optimizer", run.optimizer), ("scheduler", run.scheduler)):
            if isinstance(state[name], type(part)):
                raise Wrong(f"You kept the {name} itself, or a copy of it. Keep its state_dict(), copied.")
        step = state["step"]
        run.go_on(after)
        _judge_state(state, step, at_break, before, _resumed(state, drawn, after), run)


def _resumed(state: Mapping[str, Any], drawn: Tensor, after: int) -> Callable[..., dict[str, Tensor]]:
    """Make a function that puts a fresh run together from a state, goes on, and gives its weights."""

    def resume(**instead: Any) -> dict[str, Tensor]:
        fresh, parts = _Run(seed=99), {**state, **instead}
        fresh.model.load_state_dict(parts["model"])
        fresh.optimizer.load_state_dict(copy.deepcopy(parts["optimizer"]))
        fresh.scheduler.load_state_dict(parts["scheduler"])
        fresh.step = parts["step"]
        torch.set_rng_state(parts["random"])
        fresh.go_on(after)
        return fresh.weights()

    return resume


def _judge_state(
    state: Mapping[str, Any],
    step: Any,
    at_break: dict[str, Tensor],
    before: int,
    resume: Callable[..., dict[str, Tensor]],
    run: _Run,
) -> None:
    if step != before:
        raise Wrong(f"'step' is {short(step)} after {before} steps.")
    if not isinstance(state["random"], Tensor):
        raise Wrong(
            f"'random' is {short(state['random'])}. A seed says where the random numbers began, not where they are "
            "now: keep torch.get_rng_state()."
        )
    weights = state["model"]
    if not isinstance(weights, Mapping) or weights.keys() != at_break.keys():
        raise Wrong(
            f"'model' is {short(weights)}. Keep model.state_dict(): it holds the batch norm's running means, too, "
            "which are no parameters."
        )
    if not all(torch.equal(weights[name], value) for name, value in at_break.items()):
        raise Wrong(
            "Your dict changed while the run went on. state_dict() hands out the live tensors, and the optimizer "
            "changes them in place: keep copy.deepcopy(model.state_dict())."
        )
    now = run.optimizer.state_dict()
    moved = state["optimizer"]["state"] if isinstance(state["optimizer"], Mapping) else {}
    if any(entry.get("step") is now["state"][name]["step"] for name, entry in moved.items()):
        raise Wrong(
            "Your copy of the optimizer changed while the run went on: its state_dict() hands out the live running "
            "means. Keep copy.deepcopy(optimizer.state_dict())."
        )
    if all(torch.equal(value, run.model.state_dict()[name]) for name, value in resume().items()):
        return
    raise Wrong("A run put together from your dict ends with other weights than one that was never stopped.")


# Exercise 4: a test that any training step can be put to.

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
    """It says `zero_grad` and clears nothing of this model."""
    torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1).zero_grad()
    _loss(model, x, y).backward()
    optimizer.step()


# Each step, whether gradients leak from one step into the next, and how it is described.
STEPS: list[tuple[Step, bool, str]] = [
    (_clears_first, False, "a step that clears at its beginning"),
    (_never_clears, True, "a step that never clears"),
    (_clears_before_backward, False, "a step that calls model.zero_grad() just before backward()"),
    (_clears_last, False, "a step that clears at its end"),
    (_sets_none, False, "a step that sets each .grad to None by hand"),
    (_clears_one_layer, True, "a step that clears the first layer's weights alone"),
    (_clears_another, True, "a step that calls zero_grad() on another optimizer"),
]


@exercise(
    "08-remembers-gradients",
    "Write a test for any loop",
    praise="Your test told seven steps apart by what they do, without reading a line of them.",
)
def remembers_gradients(answer: Answer) -> None:
    """Check exercise 4 of lesson 08: the learner's test tells seven training steps apart, right ones and wrong ones."""
    given = []
    for step, _, _ in STEPS:
        said = answer(step)
        if not isinstance(said, bool):
            raise Wrong(f"Your test answered {short(said)}. It should answer True or False.")
        given.append(said)
    right = [leaks for _, leaks, _ in STEPS]
    if given == right:
        return
    if len(set(given)) == 1:
        raise Wrong(
            f"Your test answers {given[0]} to every step. Call the step twice: only the second call can show what is "
            "left from the first. Then do that second step once more from the same weights, with no gradients left."
        )
    if given == [not leaks for leaks in right]:
        raise Wrong("Your test answers the opposite each time: True means that gradients leak into the next step.")
    left_after = [step is not _clears_last for step, _, _ in STEPS]
    if given == left_after:
        raise Wrong(
            "Your test looks whether a gradient is left after the step. A step that clears at its beginning leaves "
            "one, and does no harm with it. Look at the weights: does the next step go another way than it would "
            "without?"
        )
    named = [
        step not in (_clears_first, _clears_before_backward, _clears_last, _clears_another) for step, _, _ in STEPS
    ]
    if given == named:
        raise Wrong(
            "Your test looks for the words zero_grad in the step's lines. One step clears without the words, another "
            "has the words and clears nothing of this model. Look at what the step does to the weights."
        )
    poisoned = [leaks or step is _clears_last for step, leaks, _ in STEPS]
    if given == poisoned:
        raise Wrong(
            "Your test puts a gradient in before the first call. A step that clears at its end never has one there by "
            "itself: let a first call of the step leave what it leaves, and judge the second."
        )
    first_only = [leaks and step is not _clears_one_layer for step, leaks, _ in STEPS]
    if given == first_only:
        raise Wrong("Your test looks at the first parameter only. One step clears that one and forgets the others.")
    place = next(place for place, said in enumerate(given) if said != right[place])
    raise Wrong(f"To {STEPS[place][2]} your test answers {given[place]}; gradients leak: {right[place]}.")
