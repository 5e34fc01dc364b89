"""Check the codes that a user writes down, and suggest the nearest to an unknown one."""

import difflib
from collections.abc import Iterable

from loop_doctor.rules import RULES


def check_codes(codes: Iterable[str]) -> frozenset[str]:
    """Return the codes as a set.

    Raises:
        ValueError: a code is unknown.
    """
    found = frozenset(codes)
    for code in sorted(found - RULES.keys()):
        raise ValueError(f"unknown code {code!r}{nearest(code)}")
    return found


def nearest(code: str) -> str:
    """Return the end of an error message: the known code that is most like this one, or how to list all."""
    close = difflib.get_close_matches(code, RULES, n=1)
    return f": did you mean {close[0]!r}?" if close else ": `loop-doctor explain` lists all codes"
