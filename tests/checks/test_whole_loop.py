"""Lesson 08's checks: the right answer passes, and each typical wrong one is explained by its misconception."""

import copy
import inspect

import pytest
import torch
from torch import nn

from course_utils import checks
from course_utils.checks.whole_loop import _starter_loop

from . import message_for


def curves(
    *,
    step=lambda steps, epoch: steps,
    count="batch",
    ask="batch",
    weighted=True,
    reset="window",
    divide="count",
    epoch_point="epoch",
    epoch_weighted=True,
    epoch_divide="count",
    tags=("step_loss", "epoch_loss"),
    restart=False,
):
    """A bookkeeping with one choice changed."""

    def answer(epochs, every, add_scalar):
        steps, window, window_count = 0, 0.0, 0

        def ask_window(epoch):
            nonlocal window, window_count
            if steps % every == 0:
                divisor = {"count": window_count, "every": every, "hundred": 100}[divide]
                add_scalar(tags[0], window / divisor, step(steps, epoch))
                if reset == "sum":
                    window = 0.0
                elif reset != "never":
                    window, window_count = 0.0, 0
                if epoch_point == "window":
                    add_scalar(tags[1], total / total_count, epoch)

        for epoch, batches in enumerate(epochs):
            total, total_count = 0.0, 0
            if reset == "epoch too":
                window, window_count = 0.0, 0
            if restart:
                steps = 0
            for loss, num_samples in batches:
                weight, epoch_weight = (num_samples if chosen else 1 for chosen in (weighted, epoch_weighted))
                window, window_count = window + loss * weight, window_count + weight
                total, total_count = total + loss * epoch_weight, total_count + epoch_weight
                if count == "batch":
                    steps += 1
                if ask == "batch":
                    ask_window(epoch)
                if epoch_point == "batch":
                    add_scalar(tags[1], total / total_count, epoch)
            if count == "epoch":
                steps += 1
            if ask == "epoch":
                ask_window(epoch)
            if epoch_point == "epoch":
                divisor = {"count": total_count, "batches": len(batches), "nothing": 1}[epoch_divide]
                add_scalar(tags[1], total / divisor, epoch)

    return answer


WRONG_CURVES = {
    "your steps still count epochs": curves(count="epoch", ask="epoch", reset="never"),
    "only when an epoch ends": curves(ask="epoch"),
    "start again in each epoch": curves(restart=True),
    "one point per batch. Write only": lambda epochs, every, add: curves()(epochs, 1, add),
    "no two points are at the same step": curves(step=lambda steps, epoch: epoch),
    "by 100, but they hold": curves(weighted=False, divide="hundred"),
    "by 100. Divide by the number of samples": curves(divide="hundred"),
    "And 100 is not `every`": curves(weighted=False, divide="hundred", reset="never"),
    "set the window to 0 again.": curves(weighted=False, divide="every", reset="never"),
    "mean since training began": curves(reset="never"),
    "You reset the sum after each point, but not the count": curves(reset="sum"),
    "but still divide by `every`": curves(weighted=False, divide="every", reset="epoch too"),
    "Your window starts again at each epoch": curves(reset="epoch too"),
    "step_loss is a mean of batch means": curves(weighted=False),
    "You add loss × samples but divide by the number of batches": curves(divide="every"),
    "still written when a window ends": curves(epoch_point="window"),
    "epoch_loss has one point per batch": curves(epoch_point="batch"),
    "epoch_loss is a mean of batch means": curves(epoch_weighted=False),
    "divide by the number of batches. Divide by the number of samples": curves(epoch_divide="batches"),
    "Your epoch_loss is a sum. Divide it by the number of samples": curves(epoch_divide="nothing"),
    "Divide it by what was added": curves(epoch_divide="nothing", epoch_weighted=False),
    "You wrote the tag 'loss'": curves(tags=("loss", "epoch_loss")),
    "Nothing was written under 'epoch_loss'": curves(epoch_point="nowhere"),
    "48 batches have 12 full windows of 4; your step_loss has 24": lambda epochs, every, add: curves()(
        epochs, every, lambda tag, value, x: [add(tag, value, x) for _ in range(1 + (tag == "step_loss"))]
    ),
    "Point 0 of your step_loss is 7.0000": lambda epochs, every, add: curves()(
        epochs, every, lambda tag, value, x: add(tag, 7.0, x)
    ),
    "Write it at the number of the epoch, from 0": lambda epochs, every, add: curves()(
        epochs, every, lambda tag, value, x: add(tag, value, x + (tag == "epoch_loss"))
    ),
    "There are 8 epochs; your epoch_loss has 7": lambda epochs, every, add: curves()(
        epochs, every, lambda tag, value, x: (tag == "epoch_loss" and x == 0) or add(tag, value, x)
    ),
    "Your function changed `epochs`": lambda epochs, every, add_scalar: epochs[0].pop(),
    "leave the first line of the stub": lambda epochs: print(end=""),
    "ZeroDivisionError": lambda epochs, every, add_scalar: 1 / 0,
}


def test_the_fixed_loop_passes():
    assert checks.two_curves(curves()).passed


def test_the_loop_as_given_is_not_attempted_and_is_wrong_under_another_name():
    assert "as they were given" in repr(checks.two_curves(_starter_loop))
    other = lambda epochs, every, add_scalar: _starter_loop(epochs, every, add_scalar)  # noqa: E731
    assert "your steps still count epochs" in repr(checks.two_curves(other))


@pytest.mark.parametrize("words", WRONG_CURVES)
def test_wrong_curves_are_explained(words):
    assert words in message_for(checks.two_curves, WRONG_CURVES[words])


def drawn(num_batches, num_epochs, every, loss):
    return [(steps, num_batches * loss) for steps in range(every, num_epochs + 1, every)]


def scaled(x=lambda x, i, b, e: x, y=lambda y, i, b, e: y):
    def answer(num_batches, num_epochs, every, loss):
        return [
            (x(steps, place, num_batches, every), y(height, place, num_batches, every))
            for place, (steps, height) in enumerate(drawn(num_batches, num_epochs, every, loss))
        ]

    return answer


WRONG_POINTS = {
    "what the loop was meant to draw": lambda b, n, e, loss: [(step, loss) for step in range(e, b * n + 1, e)],
    "the y are not": scaled(y=lambda y, i, b, e: y / b),
    "That is the sum": scaled(y=lambda y, i, b, e: y * e),
    "You divided one batch's loss": scaled(y=lambda y, i, b, e: y / b / e),
    "is raised before it is checked": scaled(x=lambda x, i, b, e: x - 1),
    "since `steps` counts epochs": scaled(x=lambda x, i, b, e: x * b),
    "Your points climb": scaled(y=lambda y, i, b, e: y * (i + 1)),
    "You draw a point every epoch": lambda b, n, e, loss: [(epoch + 1, b * loss) for epoch in range(n)],
    "the list is empty": lambda b, n, e, loss: drawn(b, n, e, loss) or [(n, b * loss)],
    "the number of points drawn is 1; your list has length 2": lambda b, n, e, loss: [*drawn(b, n, e, loss), (n, 0.0)],
    "the first point is (100, 11.5); yours is (1.0, 2.0)": lambda b, n, e, loss: [(1, 2)],
    "It should return a list of pairs": lambda b, n, e, loss: 23.0,
    "It should be a pair (x, y)": lambda b, n, e, loss: [1, 2, 3],
    "returned None": lambda b, n, e, loss: print(end=""),
}


def test_the_right_points_pass():
    assert checks.drawn_points(drawn).passed


@pytest.mark.parametrize("words", WRONG_POINTS)
def test_wrong_points_are_explained(words):
    assert words in message_for(checks.drawn_points, WRONG_POINTS[words])


def saved(model, optimizer, scheduler, step):
    return {
        "model": copy.deepcopy(model.state_dict()),
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "scheduler": copy.deepcopy(scheduler.state_dict()),
        "step": step,
        "random": torch.get_rng_state(),
    }


def but(**changes):
    """The right answer with some of its parts changed; None leaves one out."""

    def answer(model, optimizer, scheduler, step):
        state = saved(model, optimizer, scheduler, step)
        state |= {name: change and change(model, optimizer, scheduler, step) for name, change in changes.items()}
        return {name: value for name, value in state.items() if value is not None}

    return answer


WRONG_STATES = {
    "has no 'model'": but(model=None),
    "has no 'optimizer': Adam's running means": but(optimizer=None),
    "has no 'scheduler'": but(scheduler=None),
    "has no 'step'": but(step=None),
    "has no 'random'": but(random=None),
    "You kept the model itself": but(model=lambda model, *_: model),
    "You kept the scheduler itself": but(scheduler=lambda model, optimizer, scheduler, *_: scheduler),
    "You kept the optimizer itself": but(optimizer=lambda model, optimizer, *_: optimizer),
    "copy.deepcopy(model.state_dict())": but(model=lambda model, *_: model.state_dict()),
    "copy.deepcopy(optimizer.state_dict())": but(optimizer=lambda model, optimizer, *_: optimizer.state_dict()),
    "A seed says where the random numbers began": but(random=lambda *_: 0),
    "'step' is 0; it should be 3": but(step=lambda *_: 0),
    "which are not parameters": but(
        model=lambda model, *_: {n: p.detach().clone() for n, p in model.named_parameters()}
    ),
    "drew random numbers or set their state": but(random=lambda *_: (torch.rand(1), torch.get_rng_state())[1]),
    "ends with different weights": but(random=lambda *_: torch.Generator().manual_seed(5).get_state()),
    "It should return a dict": lambda *run: list(saved(*run).values()),
    "returned None": lambda model, optimizer, scheduler, step: print(end=""),
    "Your function changed": lambda model, *run: (nn.init.zeros_(model[0].weight), saved(model, *run))[1],
}


def test_a_whole_state_passes():
    assert checks.save_state(saved).passed


@pytest.mark.parametrize("words", WRONG_STATES)
def test_a_state_that_lacks_something_is_explained(words):
    assert words in message_for(checks.save_state, WRONG_STATES[words])


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def remembers(step):
    (model, optimizer), x, y = small(), torch.randn(8, 4), torch.randint(3, (8,))
    step(model, optimizer, x, y)
    twin = copy.deepcopy(model)
    twin.zero_grad()
    step(model, optimizer, x, y)
    step(twin, torch.optim.SGD(twin.parameters(), lr=0.1), x, y)
    return not all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def one_parameter_only(step):
    (model, optimizer), x, y = small(), torch.randn(8, 4), torch.randint(3, (8,))
    step(model, optimizer, x, y)
    twin = copy.deepcopy(model)
    twin.zero_grad()
    weight = model[0].weight
    before, after = weight.grad, None
    step(twin, torch.optim.SGD(twin.parameters(), lr=0.1), x, y)
    after = twin[0].weight.grad
    step(model, optimizer, x, y)
    return before is not None and not torch.allclose(weight.grad, after)


def with_poison(step):
    (model, optimizer), x, y = small(), torch.randn(8, 4), torch.randint(3, (8,))
    twin = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    step(model, optimizer, x, y)
    step(twin, torch.optim.SGD(twin.parameters(), lr=0.1), x, y)
    return not all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def gradient_left(step):
    model, optimizer = small()
    step(model, optimizer, torch.randn(8, 4), torch.randint(3, (8,)))
    return any(parameter.grad is not None for parameter in model.parameters())


WRONG_TESTS = {
    "returns False for every step": lambda step: False,
    "returns True for every step": lambda step: True,
    "the opposite each time": lambda step: not remembers(step),
    "whether a gradient is left after the step": gradient_left,
    "looks for the word zero_grad": lambda step: (
        "zero_grad" not in inspect.getsource(step).partition('"""')[0]
        and "zero_grad" not in inspect.getsource(step).rpartition('"""')[2]
    ),
    "puts a gradient in before the first call": with_poison,
    "looks only at the first parameter": one_parameter_only,
    "For a step that calls zero_grad() on another optimizer": lambda step: (
        "another" not in step.__name__ and remembers(step)
    ),
    "It should return True or False": lambda step: 1,
    "returned None": lambda step: print(end=""),
}


def test_a_good_test_passes():
    assert checks.remembers_gradients(remembers).passed


@pytest.mark.parametrize("words", WRONG_TESTS)
def test_a_poor_test_is_explained(words):
    assert words in message_for(checks.remembers_gradients, WRONG_TESTS[words])
