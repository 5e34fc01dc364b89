"""Lesson 06's checks: the right answer passes, and each typical wrong one is explained by its misconception."""

import itertools

import pytest
import torch

from course_utils import checks
from course_utils.checks.item import _starter_loop

from . import message_for


def after(node):
    return [before for before, _ in node.next_functions]


# Exercise 1.


def count(tensor, *, before=after, seen=None):
    seen, waiting = set() if seen is None else seen, [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += before(node)
    return len(seen)


def paths(node):
    return 0 if node is None else 1 + sum(map(paths, after(node)))


def recursive(tensor):
    seen = set()

    def walk(node):
        if node is not None and node not in seen:
            seen.add(node)
            for other in after(node):
                walk(other)

    walk(tensor.grad_fn)
    return len(seen)


def with_none(tensor):
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [] if node is None else after(node)
    return len(seen)


def ends(tensor):
    return sum(not node.next_functions for node in item_nodes(tensor))


def item_nodes(tensor):
    seen = set()
    count(tensor, seen=seen)
    return seen


def stops_without_graph(tensor):
    tensor.grad_fn.name()
    return count(tensor)


SHARED = set()
WRONG_COUNTS = {
    "once per path": lambda tensor: paths(tensor.grad_fn),
    "only the first branch": lambda tensor: count(tensor, before=lambda node: after(node)[:1]),
    "leave out the ends": lambda tensor: count(tensor) - ends(tensor),
    "leave out the first node": lambda tensor: count(tensor) - 1,
    "You count None": with_none,
    "count only the ends of the graph": ends,
    "count only the first node": lambda tensor: int(tensor.grad_fn is not None),
    "there are 6 nodes; your function returns 9": lambda tensor: 9,
    "fails for a tensor without a graph": stops_without_graph,
    "no graph, so 0 nodes": lambda tensor: max(count(tensor), 1),
    "Start each call with an empty set": lambda tensor: count(tensor, seen=SHARED) if tensor.requires_grad else 0,
    "calls itself for each node": recursive,
    "3,000 losses has 3,001": lambda tensor: min(count(tensor), 1000),
    "It should return one number": lambda tensor: [count(tensor)],
    "returned None": lambda tensor: print(end=""),
}


def test_the_right_count_passes():
    assert checks.count_nodes(count).passed


@pytest.mark.parametrize("words", WRONG_COUNTS)
def test_a_wrong_count_is_explained(words):
    SHARED.clear()
    assert words in message_for(checks.count_nodes, WRONG_COUNTS[words])


# Exercise 2.


def validate(model, loss_fn, batches):
    with torch.no_grad():
        return sum(loss_fn(model(x), y).item() for x, y in batches) / len(batches)


@torch.inference_mode()
def validate_by_inference_mode(model, loss_fn, batches):
    total = torch.zeros(())
    for x, y in batches:
        total += loss_fn(model(x), y)
    return (total / len(batches)).item()


def item_alone(model, loss_fn, batches):
    return sum(loss_fn(model(x), y).item() for x, y in batches) / len(batches)


def turned_off(model, loss_fn, batches):
    torch.set_grad_enabled(False)
    return item_alone(model, loss_fn, batches)


def backward(model, loss_fn, batches):
    for x, y in batches:
        loss_fn(model(x), y).backward()
    return validate(model, loss_fn, batches)


def frozen(model, loss_fn, batches):
    model.requires_grad_(False)
    return item_alone(model, loss_fn, batches)


def left_in_eval(model, loss_fn, batches):
    model.eval()
    return validate(model, loss_fn, batches)


def by(combine):
    def answer(model, loss_fn, batches):
        with torch.no_grad():
            return combine([loss_fn(model(x), y).item() for x, y in batches], [len(y) for _, y in batches])

    return answer


WRONG_VALIDATIONS = {
    "returned a tensor, which keeps its graph alive": lambda m, f, b: sum(f(m(x), y) for x, y in b) / len(b) + 0,
    "returned a tensor. Read": lambda m, f, b: torch.tensor(validate(m, f, b)),
    "each batch still builds a graph": item_alone,
    "left gradients turned off": turned_off,
    "calls backward()": backward,
    "turned requires_grad off": frozen,
    "in eval mode": left_in_eval,
    "sum of the batch losses": by(lambda losses, sizes: sum(losses)),
    "only the loss of the last batch": by(lambda losses, sizes: losses[-1]),
    "the return is inside the loop": by(lambda losses, sizes: losses[0]),
    "You divide by the number of images": by(lambda losses, sizes: sum(losses) / sum(sizes)),
    "mean over the images": by(lambda ls, sizes: sum(a * b for a, b in zip(ls, sizes, strict=True)) / sum(sizes)),
    "write +=, not =": by(lambda losses, sizes: losses[-1] / len(losses)),
    "the mean is": by(lambda losses, sizes: 7.5),
    "returned None": lambda m, f, b: print(end=""),
    "It should return one number": by(lambda losses, sizes: losses),
    "ZeroDivisionError": lambda m, f, b: 1 / 0,
}


@pytest.mark.parametrize("answer", [validate, validate_by_inference_mode])
def test_the_right_validation_passes(answer):
    assert checks.lean_validation(answer).passed


@pytest.mark.parametrize("words", WRONG_VALIDATIONS)
def test_a_wrong_validation_is_explained(words):
    assert words in message_for(checks.lean_validation, WRONG_VALIDATIONS[words])
    assert torch.is_grad_enabled()


def test_the_starter_loop_is_not_attempted():
    assert "these are the lines as they were given" in message_for(checks.lean_validation, _starter_loop)


# Exercise 3.


def once(losses, window):
    means, total, count = [], torch.zeros(()), 0
    for loss in losses:
        total += loss.detach()
        count += 1
        if count == window:
            means.append(total.item() / window)
            total, count = torch.zeros(()), 0
    return means


def by_stack(losses, window):
    means, kept = [], []
    for loss in losses:
        kept.append(loss.detach())
        if len(kept) == window:
            means.append(torch.stack(kept).mean().item())
            kept = []
    return means


def variant(*, reset=True, divide=lambda total, window, done: total / window, detach=True, tail=False, read=None):
    def answer(losses, window):
        means, total, count, done = [], torch.zeros(()), 0, 0
        for loss in losses:
            total = total + (loss.detach() if detach else loss)
            count, done = count + 1, done + 1
            if read:
                read(loss)
            if count == window:
                means.append(divide(total.item(), window, done))
                count = 0
                if reset:
                    total = torch.zeros(())
        if tail and count:
            means.append(total.item() / count)
        return means

    return answer


def every_loss(losses, window):
    return [loss.item() for loss in losses]


def last_of_each(losses, window):
    return [loss.item() for step, loss in enumerate(losses, start=1) if step % window == 0]


def by_blocks(losses, window):
    means = []
    while len(block := list(itertools.islice(losses, window))) == window:
        means.append(torch.stack(block).mean().item())
    return means


WRONG_WINDOWS = {
    "you read 13 times for 3 windows": variant(read=lambda loss: loss.item()),
    "you read 13 times for 3": variant(read=lambda loss: f"{loss.detach():.3f}"),
    "you read 13 times": variant(read=lambda loss: float(loss.detach()) > 2),
    "you read 13": variant(read=lambda loss: bool(loss > 0)),
    "kept the graphs of 2 losses at once": variant(detach=False),
    "kept the graphs of 5 losses at once": by_blocks,
    "never reset": variant(reset=False),
    "means since the start": variant(reset=False, divide=lambda total, window, done: total / done),
    "Those are the sums": variant(divide=lambda total, window, done: total),
    "You divide by the number of all losses": lambda losses, window: [
        mean * window / length for length in [10 if window == 3 else 8] for mean in once(losses, window)
    ],
    "last losses of the windows": last_of_each,
    "you returned its mean, too": variant(tail=True),
    "a number for each of the 10 losses": every_loss,
    "Your list holds tensors": lambda losses, window: [torch.tensor(mean) for mean in once(losses, window)],
    "have the means": variant(divide=lambda total, window, done: total / window + 1),
    "a list of numbers": lambda losses, window: sum(once(losses, window)),
    "returned None": lambda losses, window: print(end=""),
    "has no len()": lambda losses, window: len(losses),
}


@pytest.mark.parametrize("answer", [once, by_stack, lambda *given: tuple(once(*given))])
def test_the_right_accumulator_passes(answer):
    result = checks.read_once_a_window(answer)
    assert result.passed, result.message


@pytest.mark.parametrize("words", WRONG_WINDOWS)
def test_a_wrong_accumulator_is_explained(words):
    assert words in message_for(checks.read_once_a_window, WRONG_WINDOWS[words])


# Exercise 4.

RIGHT = ["float", "int", "float", "error", "list", "float", "tensor", "tensor", "bool"]
WRONG_WORDS = {
    "Line 2: .item() keeps the kind": (1, "float"),
    "Line 3: One element is one number": (2, "list"),
    "Line 3: One element is enough": (2, "error"),
    "Line 4: Two elements are not one number": (3, "list"),
    "Line 4: Which of the two": (3, "float"),
    "Line 5: .tolist() leaves PyTorch": (4, "tensor"),
    "Line 6: A tensor without dimensions": (5, "list"),
    "Line 7: .detach() removes only the graph": (6, "float"),
    "Line 8: A float plus a tensor": (7, "float"),
    "Line 9: The comparison gives a tensor": (8, "tensor"),
    "Line 1: The result is not 'int'. Run it and see": (0, "int"),
    "The words are float, int": (0, "number"),
}


def test_the_right_words_pass():
    assert checks.what_comes_back(lambda: RIGHT).passed
    assert checks.what_comes_back(lambda: tuple(RIGHT)).passed


@pytest.mark.parametrize("words", WRONG_WORDS)
def test_a_wrong_word_is_explained(words):
    place, word = WRONG_WORDS[words]
    answer = [*RIGHT[:place], word, *RIGHT[place + 1 :]]
    assert words in message_for(checks.what_comes_back, lambda: answer)


@pytest.mark.parametrize("answer", [RIGHT[:-1], "float", 3.0])
def test_anything_but_nine_words_is_explained(answer):
    assert "Return a list of 9 words" in message_for(checks.what_comes_back, lambda: answer)


@pytest.mark.parametrize("check", ["count_nodes", "lean_validation", "read_once_a_window", "what_comes_back"])
def test_a_stub_is_not_attempted(check):
    def stub(*given): ...

    assert "Not attempted yet" in message_for(getattr(checks, check), stub)
