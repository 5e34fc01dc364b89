"""The sentences of the errors that several modules share: each quotes the bad value and says what to do."""

import difflib
import math
from collections.abc import Iterable


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """Make the error for a name that is not in a list of names, with the nearest one suggested.

    >>> unknown_name("optimizer", "adamm", ["sgd", "adam"])
    ValueError("unknown optimizer 'adamm': did you mean 'adam'? known: sgd, adam")
    """
    names = list(known)
    near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"unknown {kind} {name!r}: {hint}known: {', '.join(names)}")


def positive_integer(name: str, value: object) -> int:
    """Return `value` if it is an integer of at least 1.

    Raises:
        ValueError: it is not; the message quotes it.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def positive_number(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite number above 0.

    Raises:
        ValueError: it is not; the message quotes it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return float(value)
