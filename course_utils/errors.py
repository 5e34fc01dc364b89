"""The errors that several modules share: each quotes the bad value and names the way out."""

import difflib
import math
from collections.abc import Iterable


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """Return the error for a name that is not in a list of names; it suggests the nearest one.

    >>> unknown_name("optimizer", "adamm", ["sgd", "adam"])
    ValueError("unknown optimizer 'adamm': did you mean 'adam'? known: sgd, adam")
    """
    names = list(known)
    listed = ", ".join(names)
    near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.4)
    if near:
        return ValueError(f"unknown {kind} {name!r}: did you mean {near[0]!r}? known: {listed}")
    return ValueError(f"unknown {kind} {name!r}: known: {listed}")


def positive_integer(name: str, value: object) -> int:
    """Return `value` if it is an integer of at least 1.

    Raises:
        ValueError: it is not; the message quotes the value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def positive_number(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite number above 0.

    Raises:
        ValueError: it is not; the message quotes the value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return float(value)
