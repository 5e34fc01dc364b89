"""What was seen of the inputs and the terms of losses."""

from dataclasses import dataclass, field

from loop_doctor.call_sites import Location
from loop_doctor.records.parts import Tally

# What takes a number out of the graph: detach(), a Python number, no_grad(), or a function that has no gradient.
DETACHED, NUMBER, NO_GRAD, CHOICE = "detached", "number", "no_grad", "choice"


@dataclass
class Term:
    """One term of a loss that was added without a gradient.

    Attributes:
        location: the line that added it.
        by: the function that left the gradient behind.
        kind: how it did: DETACHED, NUMBER, NO_GRAD or CHOICE.
        values: its first values.
        count: how often it was seen.
    """

    location: Location | None
    by: str
    kind: str
    values: list[float] = field(default_factory=list)
    count: int = 0


@dataclass
class Cut:
    """A line that took numbers out of the graph and gave them back to the model.

    Attributes:
        location: that line.
        by: the function that took them out.
        kind: how it did, as for a term.
        weights: the ids of the weights that are behind it and had received no gradient by then.
        count: how often it was seen.
    """

    location: Location | None
    by: str
    kind: str
    weights: set[int] = field(default_factory=set)
    count: int = 0


@dataclass
class InputRecord:
    """What was seen of the inputs and the terms of losses.

    Attributes:
        wrong: for "sigmoid", "probabilities", "logits" and "divergence", the losses that were given them.
        broadcasts: losses between shapes such as (16,) and (16, 1).
        terms: terms without a gradient, by the line that added them.
        whole_sums: the backward calls, by path, that once began from a sum without such a term.
        cuts: by their line.
        never_reached: names of weights that an optimizer holds and that never received a gradient, by id.
    """

    wrong: dict[str, Tally] = field(default_factory=dict)
    broadcasts: Tally = field(default_factory=Tally)
    terms: dict[Location | None, Term] = field(default_factory=dict)
    term_paths: dict[Location | None, int] = field(default_factory=dict)
    whole_sums: set[int] = field(default_factory=set)
    cuts: dict[Location | None, Cut] = field(default_factory=dict)
    never_reached: dict[int, str] = field(default_factory=dict)
