"""Lesson 06's checks: what a tensor keeps alive, and what it costs to read its value."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from course_utils.checks.runner import Answer, exercise
from course_utils.checks.values import Wrong, compare, number, numbers, same, short


@exercise(
    "06-count-nodes",
    "Count the nodes behind a tensor",
    praise="You count each node once, however many paths lead to it, without a stack that could overflow.",
)
def count_nodes(answer: Answer) -> None:
    """Check exercise 1 of lesson 06: the number of graph nodes behind a tensor, compared with a count by hand."""
    v, w = (torch.tensor(value, requires_grad=True) for value in (0.5, 2.0))
    tripled = w * 3
    # exp, plus, v's gradient, times, times 3, w's gradient
    compare(
        number(answer((v + tripled * tripled).exp())),
        6,
        [
            (8, "You count a node once per path that leads to it. Keep the nodes you have seen in a set."),
            (3, "You follow only the first branch. `next_functions` may hold several pairs: follow each of them."),
            (
                4,
                "You leave out the ends of the graph, where the gradients of v and w are "
                "accumulated. They are nodes, too.",
            ),
            (5, "You leave out the first node, `tensor.grad_fn` itself."),
            (7, "You count None. An entry of `next_functions` is None if its input needs no gradient: skip it."),
            (2, "You count only the ends of the graph. The operations in between are nodes, too."),
            (1, "You count only the first node. Continue from it through `next_functions`."),
        ],
        f"For (v + s * s).exp() with s = w * 3 there are 6 nodes; your function returns {short(answer.value)}.",
    )
    try:
        nothing = number(answer(tripled.detach()))
    except (AttributeError, TypeError):
        raise Wrong("Your function fails for a tensor without a graph. Its `grad_fn` is None: return 0.") from None
    compare(nothing, 0, [], f"A detached tensor has no graph, so 0 nodes; your function returns {short(answer.value)}.")
    compare(
        number(answer(w * 3)),
        2,
        [],
        f"There are 2 nodes behind w * 3, whatever was counted before; your function returns {short(answer.value)}. "
        "Start each call with an empty set.",
    )
    running_loss = torch.zeros(())
    for _ in range(3000):
        running_loss = running_loss + w
    try:
        chain = number(answer(running_loss))
    except RecursionError:
        raise Wrong(
            "Your function calls itself for each node, and a chain of 3,000 losses is deeper than Python's stack. Keep "
            "a list of the nodes to visit, and a loop that removes one at a time."
        ) from None
    compare(chain, 3001, [], f"A sum of 3,000 losses has 3,001 nodes here; your function returns {short(chain)}.")


class _GraphRecorder(nn.Module):
    """A linear model that records, for each batch, whether a graph could be built."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.built: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.built.append(torch.is_grad_enabled() and self.layer.weight.requires_grad)
        return self.layer(x)


def _starter_loop(model, loss_fn, batches):
    total = 0.0
    for x, y in batches:
        total += loss_fn(model(x), y)
    return total / len(batches)


@exercise(
    "06-lean-validation",
    "Cure this validation loop",
    praise="The same number, as a plain float, without building a single node.",
    starter=_starter_loop,
)
def lean_validation(answer: Answer) -> None:
    """Check exercise 2 of lesson 06: a validation loop that builds no graph and returns a Python float."""
    loss_fn = nn.CrossEntropyLoss()
    for sizes in ((8, 8, 3), (5,)):
        model = _GraphRecorder()
        batches = [(torch.randn(rows, 4), torch.randint(3, (rows,))) for rows in sizes]
        with torch.no_grad():
            losses = [loss_fn(model(x), y).item() for x, y in batches]
        model.built.clear()
        given = answer(model, loss_fn, batches)
        _check_unchanged(model)
        if isinstance(given, Tensor):
            if given.requires_grad:
                raise Wrong(
                    "Your function returned a tensor, which keeps its graph alive. Read its value with .item()."
                )
            raise Wrong("Your function returned a tensor. Read its value with .item().")
        right, rows = sum(losses) / len(losses), sum(sizes)
        weighted = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / rows
        compare(
            number(given),
            right,
            [
                (sum(losses), "That is the sum of the batch losses. Divide it by the number of batches."),
                (losses[-1], "That is only the loss of the last batch: add them up, and return after the loop."),
                (losses[0], "That is only the loss of the first batch: the return is inside the loop."),
                (
                    sum(losses) / rows,
                    "You divide by the number of images. You added one loss per batch, so divide "
                    "by the number of batches.",
                ),
                (
                    weighted,
                    "That is the mean over the images: a good number, but a different one. Fix the "
                    "loop and keep its result.",
                ),
                (losses[-1] / len(losses), "You divide the last loss. The sum is lost: write +=, not =."),
            ],
            f"For batches of {', '.join(map(str, sizes))} the mean is {right:.4f}; yours is {short(given)}.",
            rel_tol=1e-5,
        )
        if any(model.built):
            raise Wrong(
                "The number is right and nothing piles up, but each batch still builds a graph that is never used. Put "
                "the loop under torch.no_grad()."
            )


def _check_unchanged(model: _GraphRecorder) -> None:
    """Raise `Wrong` if a validation loop changed something other than the weights."""
    if not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        raise Wrong(
            "Your function left gradients turned off for the whole program: training would stop learning. Use `with "
            "torch.no_grad():`, which turns them on again."
        )
    if not all(weight.requires_grad for weight in model.parameters()):
        raise Wrong(
            "Your function turned requires_grad off for the weights: they would never be trained again. Leave the "
            "model as it is and use `with torch.no_grad():`."
        )
    if any(weight.grad is not None for weight in model.parameters()):
        raise Wrong(
            "Your function calls backward(). That frees the graph, but leaves gradients of the validation data in the "
            "model for the next step. Build no graph at all: torch.no_grad()."
        )
    if not model.training:
        raise Wrong("Your function left the model in eval mode: call model.train() before you return.")


class _ReadCounter(TorchFunctionMode):
    """Counts how often a tensor's value is read by Python: each time, Python waits for the GPU."""

    READS = frozenset(
        {
            "item",
            "tolist",
            "numpy",
            "cpu",
            "__float__",
            "__int__",
            "__bool__",
            "__index__",
            "__format__",
            "__repr__",
            "__array__",
            "__complex__",
        }
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(function, "__name__", "") in self.READS
        return function(*args, **(kwargs or {}))


class _GraphMarker:
    """An object that a graph keeps alive."""


class _MarkGraph(torch.autograd.Function):
    """The identity; its node keeps a marker alive."""

    @staticmethod
    def forward(ctx, x, marker):
        ctx.marker = marker
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


@exercise(
    "06-read-once-a-window",
    "An accumulator that is read once a window",
    praise="The means are right, no graph was kept, and a GPU would be read only once per window.",
)
def read_once_a_window(answer: Answer) -> None:
    """Check exercise 3 of lesson 06: means over windows of losses, each window read from the device once."""
    for length, window in ((10, 3), (8, 4), (5, 1)):
        values = (1 + torch.rand(length)).tolist()
        graphs: weakref.WeakSet[_GraphMarker] = weakref.WeakSet()
        most = 0

        def losses(values: list[float] = values, graphs: weakref.WeakSet = graphs) -> Iterator[Tensor]:
            nonlocal most
            weight = torch.ones((), requires_grad=True)
            for value in values:
                marker = _GraphMarker()
                graphs.add(marker)
                loss = _MarkGraph.apply(weight * value, marker)
                del marker
                yield loss
                # The loss that was just used, here and in the learner's loop variable, counts as one.
                del loss
                most = max(most, len(graphs))

        with _ReadCounter() as reads:
            given = answer(losses(), window)
        blocks = [values[start : start + window] for start in range(0, length, window)]
        full = [block for block in blocks if len(block) == window]
        right = [sum(block) / window for block in full]
        if isinstance(given, list | tuple) and any(isinstance(item, Tensor) for item in given):
            raise Wrong("Your list holds tensors. Read each window's mean with .item().")
        given = numbers(given)
        if length % window and same(given, [sum(block) / len(block) for block in blocks], rel_tol=1e-5):
            raise Wrong("The last window is not full, but you returned its mean, too. Return only full windows.")
        if len(given) == length != len(right):
            raise Wrong(f"Your list has a number for each of the {length} losses. It should have one per window.")
        sums = [sum(block) for block in full]
        compare(
            given,
            right,
            [
                (sums, "Those are the sums. Divide each by the number of losses in the window."),
                (
                    [sum(sums[: place + 1]) / window for place in range(len(sums))],
                    "Your accumulator is never reset: start each window at zero.",
                ),
                (
                    [sum(sums[: place + 1]) / (window * (place + 1)) for place in range(len(sums))],
                    "Those are means since the start, not means of a window. Start each window at zero.",
                ),
                ([block[-1] for block in full], "Those are the last losses of the windows, not their means."),
                (
                    [total / length for total in sums],
                    "You divide by the number of all losses. Divide by the number in the window.",
                ),
            ],
            f"{length} losses in windows of {window} have the means {short([round(mean, 4) for mean in right])}; yours "
            f"are {short([round(mean, 4) for mean in given])}.",
            rel_tol=1e-5,
        )
        if reads.count > len(full):
            raise Wrong(
                f"The means are right, but you read {reads.count} times for {len(full)} windows (.item(), float(), a "
                "print, an if on a tensor): on a GPU, each read waits. Add up tensors and read once per window."
            )
        if most > 1:
            raise Wrong(
                f"The means are right, but your accumulator kept the graphs of {most} losses at once. Add up "
                "loss.detach(), which has no graph."
            )


WORDS = ("float", "int", "bool", "list", "tensor", "error")
QUESTIONS: list[tuple[Callable[[], Any], dict[str, str]]] = [
    (lambda: torch.tensor(0.5).item(), {}),
    (
        lambda: torch.tensor(3).item(),
        {"float": ".item() keeps the kind of number: a tensor of integers gives an int."},
    ),
    (
        lambda: torch.tensor([2.5]).item(),
        {
            "list": (
                "One element is one number, whatever the shape: .item() only needs the number of elements to be one."
            ),
            "error": "One element is enough, whatever the shape: .item() only needs the number of elements to be one.",
        },
    ),
    (
        lambda: torch.tensor([1.0, 2.0]).item(),
        {
            "list": "Two elements are not one number: .item() raises. .tolist() gives the list.",
            "float": "Which of the two would it be? .item() raises.",
        },
    ),
    (lambda: torch.tensor([1.0, 2.0]).tolist(), {"tensor": ".tolist() leaves PyTorch: it returns a plain list."}),
    (
        lambda: torch.tensor(2.0).tolist(),
        {"list": "A tensor without dimensions cannot become a list: .tolist() returns the number itself."},
    ),
    (
        lambda: torch.tensor(1.0, requires_grad=True).detach(),
        {"float": ".detach() removes only the graph: the result is still a tensor."},
    ),
    (
        lambda: 0.0 + torch.tensor(1.0),
        {"float": "A float plus a tensor is a tensor. That is how `running_loss = 0.0` becomes one, unnoticed."},
    ),
    (
        lambda: bool(torch.tensor(1.0) > 0),
        {"tensor": "The comparison gives a tensor, and bool() reads its value, as .item() would."},
    ),
]


@exercise(
    "06-what-comes-back",
    "Predict what comes back",
    praise="All nine are right, as PyTorch itself has just confirmed.",
)
def what_comes_back(answer: Answer) -> None:
    """Check exercise 4 of lesson 06: what nine expressions return, compared with running them."""
    given = answer()
    if not isinstance(given, list | tuple) or len(given) != len(QUESTIONS):
        raise Wrong(f"Return a list of {len(QUESTIONS)} words, one for each line; yours is {short(given)}.")
    for place, (word, (ask, misconceptions)) in enumerate(zip(given, QUESTIONS, strict=True), start=1):
        if word not in WORDS:
            raise Wrong(f"Line {place}: you wrote {short(word)}. The words are {', '.join(WORDS)}.")
        right = _kind_of_result(ask)
        if word != right:
            raise Wrong(f"Line {place}: {misconceptions.get(word, f'The result is not {word!r}. Run it and see.')}")


def _kind_of_result(ask: Callable[[], Any]) -> str:
    """Run an expression and return the kind of its result in one word."""
    try:
        value = ask()
    except RuntimeError:
        return "error"
    return "tensor" if isinstance(value, Tensor) else type(value).__name__
