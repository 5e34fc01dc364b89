"""How a check reads what the learner's function gave back: a helper raises `Wrong` with what it got instead."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Wrong(Exception):
    """An answer that is not right; its text names the misconception and the next step."""


def short(value: Any) -> str:
    """A value in one line of at most 80 characters; a tensor by its shape."""
    if isinstance(value, Tensor) and value.numel() > 8:
        return f"a tensor of shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:79]}…"


def not_nan(value: float) -> float:
    """The value, if it is not NaN."""
    if math.isnan(value):
        raise Wrong(
            "Your answer holds NaN, which is not a number. Look for 0 divided by 0, ∞ − ∞, the mean of an empty tensor "
            "or the logarithm of a negative number."
        )
    return value


def _float(value: Any) -> float:
    # float() of a tensor that needs gradients warns; item() reads it all the same.
    return float(value.item() if hasattr(value, "item") else value)


def number(value: Any) -> float:
    """The learner's value as a float: a Python number, or a tensor or array of no dimension."""
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0) or isinstance(value, str | dict | bool):
        size = f" of shape {tuple(value.shape)}" if getattr(value, "ndim", 0) else ""
        raise Wrong(f"Your function gave a {type(value).__name__}{size}, {short(value)}. It should give one number.")
    try:
        return not_nan(_float(value))
    except TypeError:
        raise Wrong(
            f"Your function gave a {type(value).__name__}, {short(value)}. It should give one number."
        ) from None


def numbers(value: Any, length: int | None = None) -> list[float]:
    """The learner's value as a list of floats, `length` of them if that is given: a list, tuple or 1-D tensor."""
    if isinstance(value, str | dict) or not hasattr(value, "__len__") or getattr(value, "ndim", 1) != 1:
        raise Wrong(f"Your function gave a {type(value).__name__}, {short(value)}. It should give a list of numbers.")
    items = []
    for place, item in enumerate(value):
        if isinstance(item, str | list | tuple | dict | bool) or item is None or getattr(item, "ndim", 0):
            raise Wrong(f"Item {place} of your list is {short(item)}. It should be a number.")
        items.append(not_nan(_float(item)))
    if length is not None and len(items) != length:
        raise Wrong(f"Your list has {len(items)} numbers. It should have {length}.")
    return items


def tensor(value: Any, shape: Sequence[int]) -> Tensor:
    """The learner's value as a tensor of that shape, detached, in float64."""
    if not isinstance(value, Tensor):
        raise Wrong(f"Your function gave a {type(value).__name__}, {short(value)}. It should give a tensor.")
    given, shape = tuple(value.shape), tuple(shape)
    if given != shape:
        turned = (
            " It lies the other way round: transpose it with .T." if len(given) == 2 and given == shape[::-1] else ""
        )
        raise Wrong(f"Your tensor has the shape {given}. It should have the shape {shape}.{turned}")
    if value.isnan().any():
        not_nan(math.nan)
    return value.detach().to("cpu", torch.float64)


def choice(value: Any, options: Sequence[str]) -> str:
    """The learner's value as one of the words it may be."""
    if not isinstance(value, str) or value not in options:
        *first, last = map(repr, options)
        raise Wrong(f"Your function answered {short(value)}. It should answer {', '.join(first)} or {last}.")
    return value


def same(first: Any, second: Any, *, rel_tol: float = 1e-6, abs_tol: float = 1e-9) -> bool:
    """Whether two numbers, lists or tensors have the same shape and, within rounding, the same values."""
    a, b = (torch.as_tensor(value, dtype=torch.float64).detach().cpu() for value in (first, second))
    return a.shape == b.shape and torch.allclose(a, b, rtol=rel_tol, atol=abs_tol, equal_nan=True)


def tell(given: Any, right: Any, typical: Sequence[tuple[Any, str]], otherwise: str, *, rel_tol: float = 1e-6) -> None:
    """Be content with the right value; else raise `Wrong` with the words beside the typical wrong value that it is.

    Args:
        given: the learner's value, a number, list or tensor.
        right: the oracle's value.
        typical: typical wrong values, each with the misconception behind it; the first one that fits is told.
        otherwise: what is told where none fits: the case, the right value and the learner's.
        rel_tol: how far two values may differ and still count as the same, as a share.
    """
    if same(given, right, rel_tol=rel_tol):
        return
    for value, why in typical:
        if same(given, value, rel_tol=rel_tol):
            raise Wrong(why)
    raise Wrong(otherwise)
