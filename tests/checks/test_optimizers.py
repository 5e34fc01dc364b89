"""Lesson 01's checks: the solutions pass, and each typical wrong answer is explained by its misconception."""

import copy

import pytest
import torch
from torch import nn

from course_utils import checks
from course_utils.checks.optimizers import _starter_loop

from . import message_for

# Exercise 1.


def sgd_right(parameters, lr):
    with torch.no_grad():
        for p in parameters:
            if p.grad is not None:
                p -= lr * p.grad


def in_place(change):
    """A step that gives each parameter the value `change(p, g, lr)`."""

    @torch.no_grad()
    def answer(parameters, lr):
        for p in parameters:
            if p.grad is not None:
                p.copy_(change(p, p.grad, lr))

    return answer


def sgd_rebinds(parameters, lr):
    for p in parameters:
        p = p - lr * p.grad


def sgd_without_no_grad(parameters, lr):
    for p in parameters:
        p -= lr * p.grad


@torch.no_grad()
def sgd_stops_at_none(parameters, lr):
    for p in parameters:
        p.sub_(lr * p.grad)


@torch.no_grad()
def sgd_clears(parameters, lr):
    for p in parameters:
        p -= lr * p.grad
        p.grad = None


@torch.no_grad()
def sgd_zeroes(parameters, lr):
    for p in parameters:
        p -= lr * p.grad
        p.grad.zero_()


@torch.no_grad()
def sgd_returns_inside(parameters, lr):
    for p in parameters:
        p -= lr * p.grad
        return


WRONG_SGD = {
    "No parameter has changed": sgd_rebinds,
    "Autograd records": sgd_without_no_grad,
    "one parameter's grad is None": sgd_stops_at_none,
    "changed the gradients": sgd_clears,
    "step() only reads them": sgd_zeroes,
    "returned new tensors": lambda parameters, lr: [p - lr * p.grad for p in parameters],
    "Only the first parameter": sgd_returns_inside,
    "climbs": in_place(lambda p, g, lr: p + lr * g),
    "the whole gradient": in_place(lambda p, g, lr: p - g),
    "only the gradient's sign": in_place(lambda p, g, lr: p - lr * g.sign()),
    "lr × the parameter itself": in_place(lambda p, g, lr: p - lr * p),
    "new value is lr × gradient alone": in_place(lambda p, g, lr: lr * g),
    "new value is −lr × gradient alone": in_place(lambda p, g, lr: -lr * g),
    "twice as long": in_place(lambda p, g, lr: p - 2 * lr * g),
    "the first weight should go from": in_place(lambda p, g, lr: p - 0.5),
    "Not attempted yet": lambda parameters, lr: None,
    "ZeroDivisionError": lambda parameters, lr: 1 / 0,
}

# Exercise 2.


def momentum_right(w, gradient, velocity, lr, momentum):
    velocity = momentum * velocity + gradient
    return w - lr * velocity, velocity


WRONG_MOMENTUM = {
    "steps of plain SGD": lambda w, g, v, lr, m: (w - lr * g, v),
    "climbs": lambda w, g, v, lr, m: (w + lr * (m * v + g), m * v + g),
    "(1 − momentum) of the new gradient": lambda w, g, v, lr, m: (w - lr * (m * v + (1 - m) * g), m * v + (1 - m) * g),
    "put lr into the velocity": lambda w, g, v, lr, m: (w - (m * v + lr * g), m * v + lr * g),
    "Nesterov": lambda w, g, v, lr, m: (w - lr * (g + m * (m * v + g)), m * v + g),
    "with the old velocity": lambda w, g, v, lr, m: (w - lr * v, m * v + g),
    "the other way round.": lambda w, g, v, lr, m: (w - lr * (v + m * g), v + m * g),
    "momentum 1": lambda w, g, v, lr, m: (w - lr * (v + g), v + g),
    "return the old velocity": lambda w, g, v, lr, m: (w - lr * (m * v + g), v),
    "gradient instead of the velocity": lambda w, g, v, lr, m: (w - lr * (m * v + g), g),
    "by the momentum too": lambda w, g, v, lr, m: (w - lr * m * (v + g), m * (v + g)),
    "return w first": lambda w, g, v, lr, m: momentum_right(w, g, v, lr, m)[::-1],
    "It should return 2 tensors": lambda w, g, v, lr, m: momentum_right(w, g, v, lr, m)[0],
    "It should return 2 tensors: `return w, velocity`": lambda w, g, v, lr, m: (w, v, g),
    "should lead to": lambda w, g, v, lr, m: (w - 0.1, v),
    "changed `v`": lambda w, g, v, lr, m: momentum_right(w, g, v.mul_(2), lr, m),
    "returned None": lambda w, g, v, lr, m: print(end=""),
    "It should return a tensor": lambda w, g, v, lr, m: (0.0, v),
}

# Exercise 3.


def adam_right(w, gradient, m, v, step, lr, beta1, beta2, eps):
    m = beta1 * m + (1 - beta1) * gradient
    v = beta2 * v + (1 - beta2) * gradient**2
    mean, square = m / (1 - beta1**step), v / (1 - beta2**step)
    return w - lr * mean / (square.sqrt() + eps), m, v


def adam_from_lines(**lines):
    """The solution with one or more of its lines replaced."""
    text = {
        "m": "beta1 * m + (1 - beta1) * g",
        "v": "beta2 * v + (1 - beta2) * g**2",
        "mean": "m / (1 - beta1**step)",
        "square": "v / (1 - beta2**step)",
        "new": "w - lr * mean / (square.sqrt() + eps)",
        "back": "new, m, v",
        **lines,
    }
    body = "".join(f"    {name} = {text[name]}\n" for name in ("m", "v", "mean", "square", "new"))
    names = {}
    exec(f"def answer(w, g, m, v, step, lr, beta1, beta2, eps):\n{body}    return {text['back']}\n", names)
    return names["answer"]


WRONG_ADAM = {
    "The bias correction is missing": adam_from_lines(mean="m", square="v"),
    "correct m but not v": adam_from_lines(square="v"),
    "correct v but not m": adam_from_lines(mean="m"),
    "divide by v itself": adam_from_lines(new="w - lr * mean / (square + eps)"),
    "under the root": adam_from_lines(new="w - lr * mean / (square + eps).sqrt()"),
    "climbs": adam_from_lines(new="w + lr * mean / (square.sqrt() + eps)"),
    "swapped": lambda w, g, m, v, step, lr, beta1, beta2, eps: adam_right(w, g, m, v, step, lr, beta2, beta1, eps),
    "one step ahead": adam_from_lines(mean="m / (1 - beta1**(step + 1))", square="v / (1 - beta2**(step + 1))"),
    "`step` as it is": adam_from_lines(mean="m / (1 - beta1**(step - 1))", square="v / (1 - beta2**(step - 1))"),
    "averages the gradient itself": adam_from_lines(
        v="beta2 * v + (1 - beta2) * g", new="w - lr * mean / (square.sqrt() + eps)"
    ),
    "averages the gradient's absolute value": adam_from_lines(v="beta2 * v + (1 - beta2) * g.abs()"),
    "add the whole gradient": adam_from_lines(m="beta1 * m + g", v="beta2 * v + g**2"),
    "return the corrected": adam_from_lines(back="new, mean, square"),
    "the correction of step 1 at every step": adam_from_lines(mean="m / (1 - beta1)", square="v / (1 - beta2)"),
    "It should return 3 tensors": adam_from_lines(back="new, m"),
    "should lead to": adam_from_lines(new="w - lr * m"),
    "shape": adam_from_lines(back="new.sum(), m, v"),
}

# Exercise 4.


def groups_right(model, lr):
    base = {id(p) for p in model.base.parameters()}
    rest = [p for p in model.parameters() if id(p) not in base]
    return [{"params": model.base.parameters(), "lr": lr / 10}, {"params": rest, "lr": lr}]


def with_rates(base, rest):
    def answer(model, lr):
        slow, fast = groups_right(model, lr)
        return [{**slow, "lr": base(lr)}, {**fast, "lr": rest(lr)}]

    return answer


def renamed(old, new):
    return lambda model, lr: [
        {(new if key == old else key): value for key, value in group.items()} for group in groups_right(model, lr)
    ]


WRONG_GROUPS = {
    "No group holds": lambda model, lr: [
        {"params": model.base.parameters(), "lr": lr / 10},
        {"params": model.classifier.parameters(), "lr": lr},
    ],
    "is in two groups": lambda model, lr: [
        {"params": model.base.parameters(), "lr": lr / 10},
        {"params": model.parameters(), "lr": lr},
    ],
    "swapped": with_rates(lambda lr: lr, lambda lr: lr / 10),
    "All parameters have the rate lr. ": with_rates(lambda lr: lr, lambda lr: lr),
    "All parameters have the rate lr / 10": with_rates(lambda lr: lr / 10, lambda lr: lr / 10),
    "has the rate 10 × lr": with_rates(lambda lr: lr * 10, lambda lr: lr),
    "the rate of `base.0.weight` should be": with_rates(lambda lr: lr / 100, lambda lr: lr),
    "'Lr' is not an option": renamed("lr", "Lr"),
    "under 'params'": renamed("params", "parameters"),
    "A group has no 'lr'": lambda model, lr: [
        {key: value for key, value in group.items() if key == "params"} for group in groups_right(model, lr)
    ],
    "returned an optimizer": lambda model, lr: torch.optim.SGD(groups_right(model, lr), lr=lr),
    "return a list of dictionaries, each": lambda model, lr: list(model.parameters()),
    "return a list of dictionaries": lambda model, lr: groups_right(model, lr)[0],
    "not one of the model's parameters": lambda model, lr: groups_right(copy.deepcopy(model), lr),
    "returned None": lambda model, lr: print(end=""),
    "should return one number": with_rates(lambda lr: "slow", lambda lr: lr),
}

# Exercise 5.


def held_by(optimizer):
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def forgotten_right(model, optimizer):
    held = held_by(optimizer)
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]


def all_held(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


WRONG_FORGOTTEN = {
    "that the optimizer holds": lambda model, optimizer: [
        name for name, p in model.named_parameters() if id(p) in held_by(optimizer)
    ],
    "frozen parameters too": lambda model, optimizer: [
        name for name, p in model.named_parameters() if id(p) not in held_by(optimizer)
    ],
    "only at the first group": lambda model, optimizer: [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and id(p) not in {id(q) for q in optimizer.param_groups[0]["params"]}
    ],
    "compare values": lambda model, optimizer: [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and not any(torch.equal(p, q) for q in all_held(optimizer))
    ],
    "use `is`, or id(p) in a set": lambda model, optimizer: [
        name for name, p in model.named_parameters() if p.requires_grad and p not in all_held(optimizer)
    ],
    "compare shapes": lambda model, optimizer: [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and p.shape not in {q.shape for q in all_held(optimizer)}
    ],
    "every trainable parameter": lambda model, optimizer: [
        name for name, p in model.named_parameters() if p.requires_grad
    ],
    "pairs of name and parameter": lambda model, optimizer: [
        (name, p) for name, p in model.named_parameters() if id(p) not in held_by(optimizer)
    ],
    "It should hold names": lambda model, optimizer: [p for p in model.parameters() if id(p) not in held_by(optimizer)],
    "a list of names": lambda model, optimizer: len(forgotten_right(model, optimizer)),
    "only the base the answer is": lambda model, optimizer: [],
    "returned None": lambda model, optimizer: print(end=""),
    "RuntimeError: no such": lambda model, optimizer: torch.device("no such"),
}

# Exercise 6.


def head_added(model, num_classes, batches, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.classifier = torch.nn.Linear(model.classifier.in_features, num_classes)
    optimizer.add_param_group({"params": model.classifier.parameters()})
    for x, y in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def head_fixed(select=lambda model: model.parameters(), momentum=0.9, new_each_batch=False, clear=True, steps=True):
    def answer(model, num_classes, batches, lr):
        model.classifier = nn.Linear(model.classifier.in_features, num_classes)
        optimizer = torch.optim.SGD(select(model), lr=lr, momentum=momentum)
        for x, y in batches:
            if new_each_batch:
                optimizer = torch.optim.SGD(select(model), lr=lr, momentum=momentum)
            if clear:
                optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            if steps:
                optimizer.step()
        return model

    return answer


def head_kept(model, num_classes, batches, lr):
    return model


WRONG_HEAD = {
    "after the model is complete": lambda *case: _starter_loop(*case),
    "no group of your optimizer holds it": head_fixed(lambda model: model.base.parameters()),
    "Only the new head has learned": head_fixed(lambda model: model.classifier.parameters()),
    "make a new optimizer for every batch": head_fixed(new_each_batch=True),
    "Did you drop momentum=0.9": head_fixed(momentum=0.0),
    "pile up": head_fixed(clear=False),
    "Neither the head nor the base": head_fixed(steps=False),
    "3 outputs; it should have 2": head_kept,
    "Your weights differ from those": head_fixed(momentum=0.5),
    "It should return the model": lambda *case: head_fixed()(*case).classifier.weight,
    "returned None": lambda *case: print(end=""),
    "AttributeError": lambda model, num_classes, batches, lr: model.head,
}

RIGHT = {
    "sgd_step": [sgd_right, in_place(lambda p, g, lr: p - lr * g)],
    "momentum_step": [momentum_right],
    "adam_step": [adam_right],
    "make_groups": [
        groups_right,
        lambda model, lr: [
            {"params": [p for name, p in model.named_parameters() if name.startswith("base.")], "lr": lr / 10},
            {"params": [pair for pair in model.named_parameters() if not pair[0].startswith("base.")], "lr": lr},
        ],
    ],
    "forgotten": [forgotten_right, lambda model, optimizer: set(forgotten_right(model, optimizer))],
    "new_head": [head_fixed(), head_added],
}
WRONG = {
    "sgd_step": WRONG_SGD,
    "momentum_step": WRONG_MOMENTUM,
    "adam_step": WRONG_ADAM,
    "make_groups": WRONG_GROUPS,
    "forgotten": WRONG_FORGOTTEN,
    "new_head": WRONG_HEAD,
}


@pytest.mark.parametrize(("name", "place"), [(name, place) for name in RIGHT for place in range(len(RIGHT[name]))])
def test_a_right_answer_passes(name, place):
    result = getattr(checks, name)(RIGHT[name][place])
    assert result.passed, result.message


@pytest.mark.parametrize(("name", "words"), [(name, words) for name in WRONG for words in WRONG[name]])
def test_a_wrong_answer_is_explained(name, words):
    assert words in message_for(getattr(checks, name), WRONG[name][words])


@pytest.mark.parametrize("name", RIGHT)
def test_three_dots_are_not_attempted(name):
    def stub(*arguments): ...

    assert "Not attempted yet" in repr(getattr(checks, name)(stub))


def test_the_starter_loop_is_not_attempted():
    assert "these are the lines as they were given" in repr(checks.new_head(_starter_loop))
