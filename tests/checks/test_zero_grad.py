"""Lesson 04's checks: the right answer passes, and each typical wrong one is explained by its misconception."""

import pytest
import torch
from torch import nn

from course_utils import checks
from course_utils.checks.zero_grad import _find_faults, _starter_loop

from . import message_for


def grad_after(events):
    held = None
    for event in events:
        if event == "zero_grad":
            held = None
        elif event != "step":
            held = event if held is None else held + event
    return held


def slopes(events):
    return [event for event in events if not isinstance(event, str)]


def since_zero(events):
    last = max((place for place, event in enumerate(events) if event == "zero_grad"), default=-1)
    return events[last + 1 :]


WRONG_GRADS = {
    "overwrites": lambda events: (slopes(since_zero(events)) or [None])[-1],
    "In your function, step() clears": lambda events: grad_after(["zero_grad" if e == "step" else e for e in events]),
    'ignores "zero_grad"': lambda events: grad_after([e for e in events if e != "zero_grad"]),
    "Your function returns 0": lambda events: grad_after(events) or 0.0,
    "None for ever": lambda events: None if "zero_grad" in events else grad_after(events),
    "returns a mean": lambda events: (grad_after(events) or 0) / max(1, len(slopes(events))),
    "None for every list": lambda events: [].clear(),
    "After [3.0], .grad holds 3.0; your function returns 7.0": lambda events: 7.0,
    "It should return one number": lambda events: [grad_after(events)],
    "AttributeError": lambda events: events.grad,
}


def ball(start, lr, curvature, num_steps, clear_every, *, use=lambda held, gradients: held, before=0, slope=None):
    path, held, gradients = [start], 0.0, []
    for step in range(1, num_steps + 1):
        clear = clear_every is not None and step % clear_every == 0
        if clear and before == 2:
            held = 0.0
        gradients.append((curvature if slope is None else slope) * path[-1])
        held += gradients[-1]
        if clear and before == 1:
            held = 0.0
        path.append(path[-1] - lr * use(held, gradients))
        if clear and before == 0:
            held, gradients = 0.0, []
    return path


WRONG_BALLS = {
    "only the newest gradient": lambda *case: ball(*case, use=lambda held, gradients: gradients[-1]),
    "You never clear": lambda *case: ball(*case[:4], None),
    "the last two gradients": lambda s, lr, c, n, k: ball(s, lr, c, n, None, use=lambda held, gs: sum(gs[-2:])),
    "so that step does not move": lambda *case: ball(*case, before=1),
    "one step too early": lambda *case: ball(*case, before=2),
    "the mean of the gradients": lambda *case: ball(*case, use=lambda held, gradients: held / len(gradients)),
    "Your ball climbs": lambda *case: ball(*case, use=lambda held, gradients: -held),
    "Your gradient is w,": lambda *case: ball(*case, slope=1.0),
    "step 1 should lead to": lambda s, lr, c, n, k: [s, *[5.0] * n],
    "Your list has length 6. It should have length 7.": lambda *case: ball(*case)[1:],
    "It should return a list of numbers": lambda *case: ball(*case)[-1],
    "returned None": lambda *case: [].clear(),
    "ZeroDivisionError": lambda *case: 1 / 0,
}


def loop(base="first", classifier="first", step_first=False, log=lambda losses, loss: loss, base_step=True):
    """A way to write exercise 3: when each part clears its gradients, and what is taken down."""

    def answer(model, base_optimizer, classifier_optimizer, loss_fn, batches):
        parts = [(base_optimizer, base), (classifier_optimizer, classifier)]
        losses = []
        for optimizer, when in parts:
            if when == "once":
                optimizer.zero_grad()
        for x, y in batches:
            for optimizer, when in parts:
                if when == "first":
                    optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            if step_first:
                base_optimizer.step()
                classifier_optimizer.step()
            loss.backward()
            for optimizer, when in parts:
                if when == "between":
                    optimizer.zero_grad()
            if not step_first:
                if base_step:
                    base_optimizer.step()
                classifier_optimizer.step()
            for optimizer, when in parts:
                if when == "after":
                    optimizer.zero_grad()
            losses.append(log(losses, loss.item()))
        return losses

    return answer


def fixed_except_for_the_last_step(model, base_optimizer, classifier_optimizer, loss_fn, batches):
    losses = loop()(model, base_optimizer, classifier_optimizer, loss_fn, batches[:-1])
    return [*losses, loss_fn(model(batches[-1][0]), batches[-1][1]).item()]


WRONG_LOOPS = {
    "The base does not move": loop(base="between"),
    "The gradients of the classifier pile up": loop(classifier="never"),
    "The gradients of the base pile up": loop(base="once"),
    "The classifier does not move": loop(classifier="between"),
    "when base_optimizer.step() is called, or it is never called": loop(base_step=False),
    ".grad is empty when classifier_optimizer.step() is called": loop(step_first=True),
    "the weights after the last batch are not": fixed_except_for_the_last_step,
    "the sum of the losses so far": loop(log=lambda losses, loss: (losses[-1] if losses else 0.0) + loss),
    "The loss of batch 2 should be": lambda model, *rest: loop()(model, rest[0], rest[0], *rest[2:]),
    "Your list has length 1": lambda *case: loop()(*case)[-1:],
    "returned None": lambda *case: [].clear(),
    "It should be a number": lambda *case: [[loss] for loss in loop()(*case)],
}


def epoch(scale="share", clear="group", step="group"):
    """A way to write exercise 4, counted along the micro-batches and not cut into groups."""

    def answer(model, optimizer, loss_fn, batches, k):
        for i, (x, y) in enumerate(batches):
            first, last = i % k == 0, (i + 1) % k == 0 or i + 1 == len(batches)
            if clear == "each" or (clear == "group" and first):
                optimizer.zero_grad()
            images = [len(inputs) for inputs, _ in batches[i - i % k : i - i % k + k]]
            loss = loss_fn(model(x), y)
            if scale == "share":
                loss = loss * len(x) / sum(images)
            elif scale == "k":
                loss = loss / k
            elif scale == "count":
                loss = loss / len(images)
            elif scale == "full":
                loss = loss * len(x) / (k * len(batches[0][0]))
            elif scale == "images":
                loss = loss / sum(images)
            loss.backward()
            if step == "each" or (step == "group" and last) or (step == "full" and (i + 1) % k == 0):
                optimizer.step()

    return answer


def one_large_batch(model, optimizer, loss_fn, batches, k):
    """Right by another way: the group in one piece."""
    for start in range(0, len(batches), k):
        x, y = (torch.cat(parts) for parts in zip(*batches[start : start + k], strict=True))
        model.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()


def empties_the_list(model, optimizer, loss_fn, batches, k):
    while batches:
        batches.pop()


WRONG_EPOCHS = {
    "Your gradients are k times too large": epoch(scale="sum"),
    "A short micro-batch has the same weight": epoch(scale="count"),
    "You divide by k, which is right only for full groups": epoch(scale="k"),
    "You divide by the images of a full group": epoch(scale="full"),
    "loss_fn has already done that": epoch(scale="images"),
    "still there in the next": epoch(clear="never"),
    "You clear before every backward()": epoch(clear="each"),
    "You step after every micro-batch": epoch(step="each"),
    "never used in a step": epoch(step="full"),
    "No weight has moved": epoch(step="none"),
    "Your function changed `batches`": empties_the_list,
    "a weight differs by": lambda model, optimizer, loss_fn, batches, k: (
        epoch()(model, optimizer, loss_fn, batches, k) or [w.data.add_(1e-3) for w in model.parameters()]
    ),
    "TypeError": lambda model, optimizer, loss_fn, batches, k: batches / k,
}

WRONG = [
    *((checks.grad_after, words, answer) for words, answer in WRONG_GRADS.items()),
    *((checks.ball_without_clearing, words, answer) for words, answer in WRONG_BALLS.items()),
    *((checks.cured_loop, words, answer) for words, answer in WRONG_LOOPS.items()),
    *((checks.accumulate, words, answer) for words, answer in WRONG_EPOCHS.items()),
]


@pytest.mark.parametrize(("check", "words", "answer"), WRONG, ids=[f"{c.__name__}: {words}" for c, words, _ in WRONG])
def test_a_wrong_answer_is_explained_by_its_misconception(check, words, answer):
    assert words in message_for(check, answer)


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (checks.grad_after, grad_after),
        (checks.grad_after, lambda events: None if (held := grad_after(events)) is None else torch.tensor(held)),
        (checks.ball_without_clearing, ball),
        (checks.cured_loop, loop()),
        (checks.cured_loop, loop(base="after", classifier="after")),
        (checks.accumulate, epoch()),
        (checks.accumulate, one_large_batch),
    ],
)
def test_a_right_answer_passes(check, answer):
    result = check(answer)
    assert result.passed, result
    assert repr(result).startswith("Right.")


@pytest.mark.parametrize(("first", "second"), [("base", "classifier"), ("classifier", "base")])
def test_two_faults_are_explained_together(first, second):
    message = repr(checks.cured_loop(loop(**{first: "never", second: "between"})))
    assert f"The gradients of the {first} pile up" in message
    assert f"The {second} does not move" in message
    message = repr(checks.accumulate(epoch(scale="sum", step="full")))
    assert "k times too large" in message
    assert "never used in a step" in message


@pytest.mark.parametrize(
    "check", [checks.grad_after, checks.ball_without_clearing, checks.cured_loop, checks.accumulate]
)
def test_a_stub_is_not_attempted(check):
    assert "Not attempted yet" in repr(check(stub))


def stub(): ...


def test_the_starter_loop_is_not_attempted():
    assert "Not attempted yet: these are the lines as they were given" in message_for(checks.cured_loop, _starter_loop)


def test_the_starter_loop_has_the_two_faults_that_the_lesson_names():
    message = repr(checks.cured_loop(lambda *case: _starter_loop(*case)))
    assert "The base does not move" in message
    assert "The gradients of the classifier pile up" in message


def test_the_fewest_faults_that_explain_the_results_are_named():
    def behaves(first, second):
        return [torch.tensor(float(first or second))]

    habits = [[(0, ""), (1, "first.")], [(0, ""), (1, "second.")]]
    assert _find_faults([torch.tensor(1.0)], behaves, habits) == "second."
    assert _find_faults([torch.tensor(0.0)], behaves, habits) == ""
    assert _find_faults([torch.tensor(2.0)], behaves, habits) is None


def test_the_oracle_is_torchs_own_zero_grad():
    """The check believes PyTorch: after zero_grad() a gradient is None, and step() leaves it."""
    w = nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.SGD([w], lr=0.1)
    (2 * w).backward()
    optimizer.step()
    assert w.grad.item() == grad_after([2.0, "step"]) == 2.0
    optimizer.zero_grad()
    assert w.grad is grad_after([2.0, "step", "zero_grad"]) is None
