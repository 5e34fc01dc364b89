"""Read from a loss's graph what goes into its loss functions: logits, probabilities or log-probabilities."""

from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor

from loop_doctor.graph import MAX_NODES, saved, top_nodes

MAX_DEPTH = 12  # from a loss function down to the activation that made its input

_SOFTMAX, _SIGMOID = "SoftmaxBackward0", "SigmoidBackward0"
# Nodes that pass on what their one input is: they reshape it, take a part of it, or keep it inside of bounds.
_KINDS = (
    *("ToCopy", "View", "Squeeze", "Unsqueeze", "ReshapeAlias", "Clone", "UnsafeView", "Transpose", "T", "Permute"),
    *("Expand", "Repeat", "Slice", "Select", "Index", "IndexSelect", "Gather", "MaskedSelect", "Split", "Alias"),
    *("SplitWithSizes", "Unbind", "Clamp", "ClampMin", "ClampMax"),
)
_PASS = frozenset(f"{kind}Backward{number}" for kind in _KINDS for number in range(3))
_JOIN = ("CatBackward0", "StackBackward0")
_COMBINE = ("AddBackward0", "MaximumBackward0", "MinimumBackward0", "MulBackward0", "WhereBackward0")
_PRODUCTS = ("BmmBackward0", "MmBackward0")
_LAYERS = ("AddmmBackward0", "BaddbmmBackward0", "MmBackward0", "ConvolutionBackward0", "ReluBackward0")
_NLL = ("NllLossBackward0", "NllLoss2DBackward0")


def wrong_inputs(loss: Any, *, may_wait: bool) -> set[str]:
    """Return what is wrong with the inputs of the loss functions in a graph.

    Args:
        loss: the top node.
        may_wait: whether numbers may be read from an accelerator.

    Returns:
        Any of "softmax" (before cross-entropy), "sigmoid" (before the one in binary cross-entropy), "probabilities"
        and "logits" (into the negative log-likelihood).
    """
    found = set()
    for node in top_nodes(loss):
        name = node.name()
        if name == "LogSoftmaxBackward0":
            result = saved(node, "_saved_result")
            # Logits that are probabilities differ by 1 at most, and so do their log-softmaxes.
            if _activation(node.next_functions[0][0]) == _SOFTMAX and _spread(result, node._saved_dim, may_wait) <= 1:
                found.add("softmax")
        elif name == "BinaryCrossEntropyWithLogitsBackward0":
            if _activation(node.next_functions[0][0]) in (_SIGMOID, _SOFTMAX) and _inside(
                saved(node, "_saved_self"), may_wait
            ):
                found.add("sigmoid")
        elif name in _NLL and (kind := _nll_input(node, may_wait)):
            found.add(kind)
    return found


def is_probability(tensor: Tensor) -> bool:
    """Return whether a tensor is what a softmax returned, or a part of it."""
    return tensor.grad_fn is not None and _activation(tensor.grad_fn) == _SOFTMAX


def open_sums(node: Any) -> Iterator[Any]:
    """Yield the sums at the top of a graph in which one term has no gradient."""
    waiting, seen = [node], 0
    while waiting and seen < MAX_NODES:
        node = waiting.pop()
        if node is None:
            continue
        seen += 1
        name = node.name()
        below = [each for each, _ in node.next_functions]
        if name in ("AddBackward0", "SubBackward0", "RsubBackward1", "StackBackward0", "CatBackward0"):
            if None in below:
                yield node
            waiting += below
        elif name in ("MulBackward0", "DivBackward0", "NegBackward0", "SumBackward0", "MeanBackward0") or name in _PASS:
            waiting += below[:1]


def crossed_differences(loss: Any) -> bool:
    """Return whether a column of predictions minus a row of targets seems to have made a square of differences."""
    for node in top_nodes(loss):
        if node.name() != "SubBackward0":
            continue
        shape = tuple(node._input_metadata[0].shape)
        sides = [(below, number) for below, number in node.next_functions if below is not None]
        if len(sides) != 1 or len(shape) < 2 or shape[-1] < 2:
            continue
        side = _shape_of(*sides[0])
        if side is not None and len(side) <= 2 and 1 < side.numel() < torch.Size(shape).numel():
            return True
    return False


def _shape_of(node: Any, number: int) -> torch.Size | None:
    variable = getattr(node, "variable", None)
    if variable is not None:
        return torch.Size(variable.shape)
    made = node._input_metadata
    return torch.Size(made[number].shape) if number < len(made) else None


def _activation(node: Any, depth: int = 0) -> str | None:
    """Return the name of the activation that made a tensor, or None if that is not certain."""
    if node is None or depth > MAX_DEPTH:
        return None
    name = node.name()
    below = [each for each, _ in node.next_functions]
    if name in (_SOFTMAX, _SIGMOID):
        return str(name)
    if name in _PASS or name == "MeanBackward1":
        return _activation(below[0], depth + 1)
    if name in _JOIN or (name in _COMBINE and any(below)):
        kinds = {_activation(each, depth + 1) for each in below if each is not None or name in _JOIN}
        return kinds.pop() if len(kinds) == 1 else None
    if name == "DivBackward0":
        return _activation(below[0], depth + 1)
    if name in _PRODUCTS and None in below:
        # Attention over one-hot labels gives the probability of each label.
        other = saved(node, "_saved_mat2" if below[1] is None else "_saved_self")
        mine = below[0] if below[1] is None else below[1]
        return _activation(mine, depth + 1) if other is not None and _one_hot(other) else None
    return None


def _one_hot(tensor: Tensor) -> bool:
    if not tensor.is_cpu or tensor.is_meta or not tensor.numel():
        return False
    with torch.no_grad():
        return bool(((tensor == 0) | (tensor == 1)).all() and (tensor.sum(-1) == 1).all())


def _readable(tensor: Tensor | None, may_wait: bool) -> TypeGuard[Tensor]:
    return tensor is not None and not tensor.is_meta and tensor.numel() > 0 and (tensor.is_cpu or may_wait)


def _spread(tensor: Tensor | None, dim: int, may_wait: bool) -> float:
    """Return the largest difference along a dimension, or 0 if it is not read."""
    if not _readable(tensor, may_wait):
        return 0.0
    dim = dim - 2**64 if dim >= 2**63 else dim  # a negative dimension is saved as an unsigned number
    with torch.no_grad():
        return float((tensor.amax(dim) - tensor.amin(dim)).max()) - 1e-3


def _inside(tensor: Tensor | None, may_wait: bool) -> bool:
    if not _readable(tensor, may_wait):
        return True
    with torch.no_grad():
        return bool(tensor.min() >= -1e-3 and tensor.max() <= 1 + 1e-3)


def _nll_input(node: Any, may_wait: bool) -> str | None:
    below = node.next_functions[0][0]
    values = saved(node, "_saved_self")
    if _activation(below) in (_SOFTMAX, _SIGMOID):
        return "probabilities" if _inside(values, may_wait) else None
    while below is not None and below.name() in _PASS:
        below = below.next_functions[0][0]
    if below is None or below.name() not in _LAYERS or not _readable(values, may_wait):
        return None
    with torch.no_grad():
        return "logits" if values.max() > 0 else None  # no logarithm of a probability is positive
