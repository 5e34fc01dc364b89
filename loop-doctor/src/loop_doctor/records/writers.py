"""What was seen of one TensorBoard writer."""

import weakref
from dataclasses import dataclass, field
from typing import Any

from loop_doctor.call_sites import Location
from loop_doctor.records.parts import Tally


@dataclass(eq=False)
class WriterRecord:
    """One TensorBoard writer."""

    ref: "weakref.ref[Any]"
    folder: str
    made_inside: bool
    location: Location | None
    num_written: int = 0
    closed_at: Location | None = None
    num_closes: int = 0
    written_after_close: Tally = field(default_factory=Tally)
    closed_again: Tally = field(default_factory=Tally)
    num_since_close: int = 0

    def open(self) -> bool:
        """Return whether it is open now, or was when it was last seen."""
        writer = self.ref()
        if writer is None:
            return self.closed_at is None or self.num_since_close > 0
        return writer.all_writers is not None
