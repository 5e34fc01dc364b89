"""Read what PyTorch keeps: tensors in arguments, the top of a loss's graph, the leaves below it."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

MAX_NODES = 24  # from a loss down to its loss functions
_PLAIN = (Tensor, torch.nn.Parameter)
# Whether a tensor exists only inside a function transform such as vmap; asked several times at each step.
wrapped: Callable[[Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor


def address(tensor: Tensor) -> int:
    """Return the address of a tensor's numbers, or 0 if it has no memory of its own."""
    plain = type(tensor) in _PLAIN and tensor.layout is torch.strided and not wrapped(tensor)
    return tensor.data_ptr() if plain else 0


def is_number(value: Any) -> bool:
    """Return whether a value is a Python number, or a tensor or array of one element and at most one dimension."""
    if isinstance(value, Tensor):
        return value.ndim == 0 or (value.ndim == 1 and value.numel() == 1)
    return isinstance(value, int | float) or getattr(value, "shape", None) in ((), (1,))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in an argument or a result: itself, or those of its parts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(getattr(value, "logits", None), Tensor):
        yield value.logits


# Nodes that change neither a loss's value nor what it means.
_THROUGH = ("ToCopyBackward0", "ViewBackward0", "SqueezeBackward0", "ReshapeAliasBackward0", "CloneBackward0")
_SHAPES = (*_THROUGH, "UnsafeViewBackward0", "TransposeBackward0", "PermuteBackward0", "UnsqueezeBackward0")


def saved(node: Any, name: str) -> Any:
    """Return a tensor that a node keeps for its backward call, or None if a call before this one has freed it."""
    try:
        return getattr(node, name)
    except RuntimeError:
        return None


def read_factors(node: Any) -> tuple[list[float], Any]:
    """Return the factors by which a loss was multiplied, last one first, and the node of the loss before that."""
    factors = []
    while node is not None:
        name = node.name()
        if name in ("MulBackward0", "DivBackward0"):
            other = saved(node, "_saved_other")
            if other is None or other.numel() != 1 or other.is_meta or other.requires_grad:
                break
            # A factor on an accelerator is a GradScaler's: reading it would wait, and it is not about micro-batches.
            number = float(other) if other.device.type == "cpu" else 1.0
            factors.append(number if name == "MulBackward0" else 1 / number if number else math.inf)
        elif name not in _THROUGH:
            break
        node = node.next_functions[0][0] if node.next_functions else None
    return factors, node


def top_nodes(node: Any) -> Iterator[Any]:
    """Yield the first nodes of a loss's graph, breadth first; what is below a softmax is the model."""
    waiting, seen = [node], 0
    while waiting and seen < MAX_NODES:
        node = waiting.pop(0)
        if node is None:
            continue
        seen += 1
        yield node
        if node.name() != "LogSoftmaxBackward0":
            waiting += [below for below, _ in node.next_functions]


def read_reduction(node: Any) -> str | None:
    """Return a loss's reduction: "mean", "sum", or None if the graph does not show it."""
    for each in top_nodes(node):
        name = each.name()
        if name.startswith("MeanBackward"):
            return "mean"
        if name.startswith("SumBackward"):
            return "sum"
        if hasattr(each, "_saved_reduction") and each._saved_reduction in (1, 2):
            return "mean" if each._saved_reduction == 1 else "sum"
    return None


# Nodes that put the terms of a loss together.
_TOTALS = ("SumBackward0", "SumBackward1")
_SUMS = ("AddBackward0", "SubBackward0", "NegBackward0", "StackBackward0", "CatBackward0", *_TOTALS)
MAX_TERMS = 16  # a loss is put together from at most so many terms
MAX_CONSTANTS = 64


def read_weights(node: Any) -> set[float]:
    """Return the constants by which the terms of a loss were multiplied, alone and one after the other."""
    weights: set[float] = set()
    waiting, seen = [(node, 1.0)], 0
    while waiting and seen < MAX_CONSTANTS:
        node, product = waiting.pop(0)
        if node is None:
            continue
        seen += 1
        name = node.name()
        # Below a sum over many numbers is the loss itself, maybe in a part that is computed again when it is read.
        if name in _TOTALS and math.prod(node._saved_self_sym_sizes) > MAX_TERMS:
            continue
        constants = _constants(node, name)
        if constants:
            weights.update(constants, (product * constant for constant in constants))
            product *= constants[0]
        elif name not in _SUMS and name not in _SHAPES:
            continue
        waiting += [(below, product) for below, _ in node.next_functions]
    return weights


def _constants(node: Any, name: str) -> list[float]:
    """Return the constants in a node: a factor, a few of them, or how much of a second term is added."""
    if name in ("AddBackward0", "SubBackward0"):
        alpha = node._saved_alpha
        return [abs(float(alpha))] if isinstance(alpha, int | float) and alpha != 1 else []
    if name not in ("MulBackward0", "DivBackward0"):
        return []
    other = saved(node, "_saved_other")
    # A constant on an accelerator is not read: that would wait.
    if type(other) is not Tensor or not other.is_cpu or other.is_complex() or other.requires_grad:
        return []
    if not 0 < other.numel() <= MAX_TERMS or other.layout is not torch.strided:
        return []
    numbers = other.detach().flatten().tolist()
    if name == "MulBackward0":
        return [abs(number) for number in numbers]
    return [1 / abs(number) for number in numbers if number]


def read_mean(node: Any) -> tuple[float, tuple[int, ...]] | None:
    """Return the factor before a loss that is the mean of a whole tensor, and that tensor's shape but for its rows."""
    factor = 1.0
    while node is not None:
        name = node.name()
        if name == "MeanBackward0":
            return factor, tuple(node._saved_self_sym_sizes[1:])
        if name == "NegBackward0":
            factor = -factor
        elif name in ("MulBackward0", "DivBackward0"):
            constants = _constants(node, name)
            if len(constants) != 1:
                return None
            factor *= math.copysign(constants[0], float(node._saved_other))
        elif name not in _THROUGH:
            return None
        node = node.next_functions[0][0] if node.next_functions else None
    return None


def leaves(node: Any) -> Iterable[Tensor]:
    """Yield the leaf tensors that a graph leads to."""
    waiting, seen = [node], {node}
    while waiting:
        node = waiting.pop()
        variable = getattr(node, "variable", None)
        if variable is not None:
            yield variable
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                waiting.append(below)
