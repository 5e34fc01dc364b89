"""What a rule is: a function that reads the record, and returns a diagnosis or None."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from loop_doctor.call_sites import Location
from loop_doctor.records import ModelRecord, OptimizerRecord, Record, Tally

FEW = 2  # something that is seen once may be an accident of the first turn


@dataclass(frozen=True)
class Diagnosis:
    """One code that holds.

    Attributes:
        code: the rule's code.
        count: how often it was seen.
        location: where it was seen first.
        facts: the numbers and names that show it; they fill in the messages.
        variant: which of the code's messages fits, if it has several.
    """

    code: str
    count: int
    location: Location | None
    facts: dict[str, Any] = field(default_factory=dict)
    variant: str = ""

    @classmethod
    def of(cls, code: str, tally: Tally, variant: str = "", **facts: Any) -> "Diagnosis":
        """Make a diagnosis of what was counted."""
        return cls(code, tally.count, tally.location, {**tally.facts, **facts}, variant)


@dataclass(frozen=True)
class Rule:
    """One rule: it reads the record and knows nothing of words.

    Attributes:
        code: the code of the mistake.
        summary: what holds when the rule applies, in one sentence.
        check: returns the diagnosis, or None.
    """

    code: str
    summary: str
    check: Callable[[Record], Diagnosis | None]


def rule(code: str) -> Callable[[Callable[[Record], Diagnosis | None]], Rule]:
    """Turn a function into the rule of a code; its docstring is the summary."""

    def make(check: Callable[[Record], Diagnosis | None]) -> Rule:
        return Rule(code, check.__doc__ or "", check)

    return make


def most_often(
    optimizers: Iterable[OptimizerRecord], tally_of: Callable[[OptimizerRecord], Tally]
) -> tuple[OptimizerRecord, Tally] | None:
    """Return the optimizer at which something was seen most often, with its tally; None if it was never seen."""
    found = [(optimizer, tally_of(optimizer)) for optimizer in optimizers if tally_of(optimizer).count]
    return max(found, key=lambda pair: pair[1].count, default=None)


def num_micro_batches(optimizer: OptimizerRecord) -> int:
    """Return how many backward calls of the same line make up a step, if it is usually the same number; else 1."""
    steps = sum(optimizer.groups.values())
    if steps < FEW:
        return 1
    size, count = optimizer.groups.most_common(1)[0]
    return size if count >= 0.5 * steps else 1


def is_trained(model: ModelRecord) -> bool:
    """Return whether any of a model's weights receives gradients and is updated."""
    return any(
        parameter.received and (parameter.optimizers or parameter.changed) for parameter in model.parameters.values()
    )
