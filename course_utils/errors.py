"""Checks of arguments that several modules share: each error quotes the bad value and names the way out."""

import difflib
import math
import numbers
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

# The largest count: PyTorch and itertools count with 64 bits.
LARGEST = 2**63 - 1
# Messages quote at most this many characters of a value.
QUOTED = 100


def quoted(value: object) -> str:
    """Return `repr(value)` for an error message, in one line of `QUOTED` characters; if it has none, its type.

    >>> quoted("adamm")
    "'adamm'"
    """
    try:
        text = re.sub(r"\n\s*", " ", repr(value))  # a tensor takes several lines
    except Exception:  # whatever a __repr__ raises; Python itself refuses to print an int of more than 4,300 digits
        return f"a value of type {type(value).__name__} that cannot be printed"
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}…"


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """Return the error for a name that is not in a list of names; it suggests the nearest one.

    >>> unknown_name("optimizer", "adamm", ["sgd", "adam"])
    ValueError("unknown optimizer 'adamm': did you mean 'adam'? known: sgd, adam")
    """
    names = list(known)
    listed = ", ".join(names)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.4) if isinstance(name, str) else []
    if near:
        return ValueError(f"unknown {kind} {quoted(name)}: did you mean {near[0]!r}? known: {listed}")
    return ValueError(f"unknown {kind} {quoted(name)}: known: {listed}")


def check_name(kind: str, name: object, known: Iterable[str]) -> None:
    """Check that `name` is one of the known names.

    Raises:
        ValueError: it is not, or it is not a string; the message suggests the nearest name.
    """
    names = list(known)
    # An array compares element by element, so it must not reach `in`.
    if not isinstance(name, str) or name not in names:
        raise unknown_name(kind, name, names)


def is_file_name(name: str) -> bool:
    """Return whether the system can have a file of this name, with or without folders before it."""
    try:
        return bool(name.strip()) and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def folder_path(name: str, value: object) -> Path:
    """Return the path of a folder, with `~` as the user's home folder.

    Raises:
        TypeError: it is neither text nor a Path.
        ValueError: it names no folder.
    """
    if not isinstance(value, str | Path):
        raise TypeError(f"{name} must be the path of a folder, got {quoted(value)}")
    if not is_file_name(str(value)):
        raise ValueError(f"{name} must be the path of a folder, got {quoted(value)}: '.' is the current one")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # the home folder of a user whom this machine does not know
        raise ValueError(f"{name}={quoted(value)} cannot be used: {error}") from error


def _whole(value: object) -> int | None:
    """Return a whole number, Python's or NumPy's, as an int; None for anything else, a bool too."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return None


def whole_number(name: str, value: object, *, least: int) -> int:
    """Return `value` as an int if it is a whole number, Python's or NumPy's, from `least` to 2**63 - 1.

    Raises:
        ValueError: it is not; the message quotes the value.
    """
    number = value if type(value) is int else _whole(value)  # asking for the type first takes a fifth of the time
    if number is None or number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {quoted(value)}")
    if number > LARGEST:
        raise ValueError(f"{name} must be a whole number below 2**63, got {quoted(value)}")
    return number


def positive_integer(name: str, value: object) -> int:
    """Return `value` as an int if it is a whole number of at least 1.

    Raises:
        ValueError: it is not; the message quotes the value.
    """
    return whole_number(name, value, least=1)


def non_negative_integer(name: str, value: object) -> int:
    """Return `value` as an int if it is a whole number of at least 0.

    Raises:
        ValueError: it is not; the message quotes the value.
    """
    return whole_number(name, value, least=0)


def valid_seed(name: str, value: object) -> int:
    """Return `value` as an int if it is a whole number from 0 to 2**63 - 1.

    PyTorch takes seeds below 2**64, so the sum of a seed and a count, such as the number of an epoch, is also one.

    Raises:
        ValueError: it is not; the message quotes the value.
    """
    number = _whole(value)
    if number is None or not 0 <= number <= LARGEST:
        raise ValueError(f"{name} must be a whole number from 0 to 2**63 - 1, got {quoted(value)}")
    return number


def _real(value: object) -> float:
    """Return a real number, Python's or NumPy's, as a float; NaN for anything else, a bool too."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an int or a fraction beyond the largest float
        return math.inf


def finite_number(name: str, value: object, rule: str, fits: Callable[[float], bool]) -> float:
    """Return `value` as a float if it is a finite number, Python's or NumPy's, that fits.

    Args:
        rule: what the number must be, as it completes the sentence "must be …".
        fits: whether a finite number is allowed.

    Raises:
        ValueError: it is not; the message quotes the rule and the value.

    >>> finite_number("share", 1, "a number from 0 to 1", lambda number: 0 <= number <= 1)
    1.0
    """
    number = value if type(value) is float else _real(value)
    if not (math.isfinite(number) and fits(number)):
        raise ValueError(f"{name} must be {rule}, got {quoted(value)}")
    return number


def positive_number(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite number above 0.

    Raises:
        ValueError: it is not; the message quotes the value.
    """
    return finite_number(name, value, "a finite number above 0", lambda number: number > 0)


def non_negative_number(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite number of at least 0.

    Raises:
        ValueError: it is not; the message quotes the value.
    """
    return finite_number(name, value, "a finite number of at least 0", lambda number: number >= 0)


def decay_rate(name: str, value: object) -> float:
    """Return `value` as a float if it is at least 0 and below 1: the share of a running mean that each step keeps.

    Raises:
        ValueError: it is not; the message quotes the value.
    """
    return finite_number(name, value, "at least 0 and below 1", lambda number: 0 <= number < 1)
