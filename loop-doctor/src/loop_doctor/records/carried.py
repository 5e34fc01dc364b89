"""What was seen of graphs that a later backward call goes through again."""

from dataclasses import dataclass, field

from loop_doctor.call_sites import Location
from loop_doctor.records.parts import Tally


@dataclass(eq=False)
class CarriedRecord:
    """Forward passes that a later backward call went through again.

    Attributes:
        num_links: how many backward calls went through an earlier pass that theirs was built on, in the same step too.
        length: through how many forward passes, with updates of the weights between them, one backward call has gone,
            each pass built on the one before.
        location: the backward call that did so first.
        last: the number of the last backward call that did so.
        num_failures: how many of these calls failed because of it.
        num_cuts: how often a pass was built on no earlier one after some that were.
        stale: backward calls in an optimizer's closure that went only through passes with weights that have changed.
        stored: closures that returned the same loss again, without a backward call, after the weights had changed.
    """

    num_links: int = 0
    length: int = 0
    location: Location | None = None
    last: int = 0
    num_failures: int = 0
    num_cuts: int = 0
    stale: Tally = field(default_factory=Tally)
    stored: Tally = field(default_factory=Tally)
