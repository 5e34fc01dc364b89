"""Which findings a test or a callback reports, and which of them make it fail."""

from collections.abc import Iterable

from loop_doctor.card import as_text
from loop_doctor.doctor import LoopDoctor
from loop_doctor.explain import Finding
from loop_doctor.messages import HINT, MESSAGES, PROBLEM

LEVELS = {PROBLEM: {PROBLEM}, HINT: {PROBLEM, HINT}, "never": set[str]()}


class Terms:
    """What counts as a failure.

    Args:
        fail_on: `"problem"`, `"hint"` (which includes problems), `"never"`, or the codes that count.
        ignore: the codes that are not reported.

    Raises:
        ValueError: a code does not exist.
    """

    def __init__(self, fail_on: str | Iterable[str] = PROBLEM, ignore: str | Iterable[str] = ()):
        known = LEVELS.get(fail_on) if isinstance(fail_on, str) else None
        self._failing = _codes(fail_on) if known is None else known
        self._ignored = _codes(ignore)

    def findings(self, doctor: LoopDoctor) -> list[Finding]:
        """Return the findings that are not ignored."""
        return [finding for finding in doctor.findings if finding.code not in self._ignored]

    def failures(self, doctor: LoopDoctor) -> list[Finding]:
        """Return the findings that count as a failure."""
        return [each for each in self.findings(doctor) if each.code in self._failing or each.level in self._failing]

    def card(self, doctor: LoopDoctor) -> str:
        """Return the doctor's card, with the findings that are not ignored."""
        return as_text(self.findings(doctor), doctor.curves, doctor._seen())


def _codes(given: str | Iterable[str]) -> set[str]:
    """Return the codes, or raise an error if one of them does not exist."""
    codes = {given} if isinstance(given, str) else set(given)
    if unknown := sorted(codes - MESSAGES.keys()):
        raise ValueError(f"unknown code {unknown[0]!r}: the codes are {', '.join(sorted(MESSAGES))}")
    return codes
