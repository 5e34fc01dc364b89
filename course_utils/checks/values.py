"""Read what the learner's function returned: each helper raises `Wrong` with what it got instead."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Points = Sequence[tuple[float, float]]
T = TypeVar("T")


class Wrong(Exception):
    """A wrong answer; the text names the misconception and the next step."""


def short(value: Any) -> str:
    """Return a value as one line of at most 80 characters; a large tensor by its shape."""
    if isinstance(value, Tensor) and value.numel() > 8:
        return f"a tensor of shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:79]}…"


def not_nan(value: float) -> float:
    """Return the value if it is not NaN."""
    if math.isnan(value):
        raise Wrong(
            "Your answer holds NaN, which is not a number. Look for 0 divided by 0, ∞ − ∞, the mean of an empty tensor "
            "or the logarithm of a negative number."
        )
    return value


def _float(value: Any) -> float:
    # float() of a tensor that needs gradients warns; item() does not.
    return float(value.item() if hasattr(value, "item") else value)


def _ndim(value: Any, default: int) -> int:
    """Return the number of dimensions of a tensor or array, and the default for anything else."""
    return getattr(value, "ndim", default)


def number(value: Any) -> float:
    """Return the learner's value as a float: a Python number, or a tensor or array without dimensions."""
    if _ndim(value, 0):
        raise Wrong(
            f"Your function returned a {type(value).__name__} of shape {tuple(value.shape)}, {short(value)}. It "
            "should return one number."
        )
    wrong = Wrong(f"Your function returned a {type(value).__name__}, {short(value)}. It should return one number.")
    if isinstance(value, list | tuple | str | dict | bool):
        raise wrong
    try:
        return not_nan(_float(value))
    except TypeError:
        raise wrong from None


def numbers(value: Any, length: int | None = None) -> list[float]:
    """Return the learner's list, tuple or 1-D tensor as a list of floats, of the given length if there is one."""
    if isinstance(value, str | dict) or not hasattr(value, "__len__") or _ndim(value, 1) != 1:
        raise Wrong(
            f"Your function returned a {type(value).__name__}, {short(value)}. It should return a list of numbers."
        )
    items = []
    for place, item in enumerate(value):
        if isinstance(item, str | list | tuple | dict | bool) or item is None or _ndim(item, 0):
            raise Wrong(f"Item {place} of your list is {short(item)}. It should be a number.")
        items.append(not_nan(_float(item)))
    if length is not None and len(items) != length:
        raise Wrong(f"Your list has length {len(items)}. It should have length {length}.")
    return items


def tensor(value: Any, shape: Sequence[int]) -> Tensor:
    """Return the learner's value as a tensor of that shape, detached, in float64."""
    if not isinstance(value, Tensor):
        raise Wrong(f"Your function returned a {type(value).__name__}, {short(value)}. It should return a tensor.")
    given, expected = tuple(value.shape), tuple(shape)
    if given != expected and len(given) == 2 and given == expected[::-1]:
        raise Wrong(f"Your tensor has shape {given}. It should have shape {expected}: transpose it with .T.")
    if given != expected:
        raise Wrong(f"Your tensor has shape {given}. It should have shape {expected}.")
    if value.isnan().any():
        not_nan(math.nan)
    return value.detach().to("cpu", torch.float64)


def choice(value: Any, options: Sequence[str]) -> str:
    """Return the learner's value if it is one of the words."""
    if not isinstance(value, str) or value not in options:
        *first, last = map(repr, options)
        raise Wrong(f"Your function returned {short(value)}. It should return {', '.join(first)} or {last}.")
    return value


def mean(values: Sequence[float]) -> float:
    """Return the mean of some numbers."""
    return math.fsum(values) / len(values)


def same(first: Any, second: Any, *, rel_tol: float = 1e-6, abs_tol: float = 1e-9) -> bool:
    """Return whether two numbers, lists or tensors have the same shape and, within rounding, the same values."""
    a, b = (torch.as_tensor(value, dtype=torch.float64).detach().cpu() for value in (first, second))
    return a.shape == b.shape and torch.allclose(a, b, rtol=rel_tol, atol=abs_tol, equal_nan=True)


def same_points(first: Points, second: Points, *, rel_tol: float = 1e-6) -> bool:
    """Return whether two curves have the same points, (x, y) each; `rel_tol` is the tolerance of y."""
    (first_xs, first_ys), (second_xs, second_ys) = (
        list(zip(*curve, strict=True)) or ((), ()) for curve in (first, second)
    )
    return same(first_xs, second_xs) and same(first_ys, second_ys, rel_tol=rel_tol)


def first_difference(given: Iterable[Any], right: Iterable[Any], equal: Callable[[Any, Any], bool] = same) -> int:
    """Return the first position at which two sequences differ, or 0."""
    return next((place for place, pair in enumerate(zip(given, right, strict=False)) if not equal(*pair)), 0)


def name_mistake(given: T, mistakes: Iterable[tuple[T, str]], equal: Callable[[T, T], bool] = same) -> None:
    """Raise `Wrong` with the misconception of the first typical wrong value that equals the learner's, if one does."""
    for value, why in mistakes:
        if equal(given, value):
            raise Wrong(why)


def compare(
    given: Any, right: Any, mistakes: Sequence[tuple[Any, str]], otherwise: str, *, rel_tol: float = 1e-6
) -> None:
    """Raise `Wrong` if the learner's value is not the right one, with the misconception that leads to this value.

    Args:
        given: the learner's value, a number, list or tensor.
        right: the oracle's value.
        mistakes: typical wrong values, each with the misconception behind it; the first one that fits is named.
        otherwise: the message if none fits: the case, the right value and the learner's.
        rel_tol: how far two values may differ and still count as the same, as a share.
    """
    if same(given, right, rel_tol=rel_tol):
        return
    name_mistake(given, mistakes, lambda first, second: same(first, second, rel_tol=rel_tol))
    raise Wrong(otherwise)
