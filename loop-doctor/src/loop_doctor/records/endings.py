"""How a block ended."""

from dataclasses import dataclass

from loop_doctor.call_sites import Location


@dataclass(frozen=True)
class Ending:
    """The error with which a block ended.

    Attributes:
        kind: the error's type, such as "RuntimeError".
        message: the beginning of its message.
        location: the line of the user's code that raised it, or that called what raised it.
        explanation: what the error means, in plain words; empty if the doctor does not know it.
        fix: the fix as code, if there is an explanation.
        explained_by: the codes whose findings explain the error better.
    """

    kind: str
    message: str
    location: Location | None
    explanation: str = ""
    fix: str = ""
    explained_by: tuple[str, ...] = ()
