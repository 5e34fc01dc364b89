"""Check the codes that a user writes down, suggest the nearest to an unknown one, and decide what is a failure."""

import difflib
from collections.abc import Iterable

from loop_doctor.explain import Finding
from loop_doctor.messages import HINT, PROBLEM
from loop_doctor.rules import RULES

LEVELS = (PROBLEM, HINT, "never")
FailOn = str | frozenset[str]


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


def check_fail_on(given: str | Iterable[str]) -> FailOn:
    """Return what makes a run fail: "problem", "hint" (which includes problems), "never", or a set of codes.

    Raises:
        ValueError: a code is unknown.
    """
    if isinstance(given, str):
        return given if given in LEVELS else check_codes([given])
    return check_codes(given)


def fails(finding: Finding, fail_on: FailOn) -> bool:
    """Return whether a finding makes a run fail."""
    if not isinstance(fail_on, str):
        return finding.code in fail_on
    return fail_on == HINT or (fail_on == PROBLEM and finding.level == PROBLEM)
