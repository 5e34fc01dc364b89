"""What a message is made of."""

from dataclasses import dataclass

PROBLEM, HINT = "problem", "hint"
COURSE = "The Training Loop, Line by Line"


@dataclass(frozen=True)
class Plural:
    """One sentence in two forms; the field named `by` decides between them."""

    by: str
    one: str
    many: str


Sentence = str | Plural


@dataclass(frozen=True)
class Message:
    """What is said about one code.

    Attributes:
        message: what is wrong and why it matters.
        evidence: for each variant of the diagnosis, the sentences that show what was seen; "" is any other variant.
        fix: for each variant, the fix as code.
        lesson: the lesson of the course that explains it, by the name of its notebook.
        level: PROBLEM or HINT.
    """

    message: str
    evidence: dict[str, tuple[Sentence, ...]]
    fix: dict[str, str]
    lesson: str
    level: str = PROBLEM
