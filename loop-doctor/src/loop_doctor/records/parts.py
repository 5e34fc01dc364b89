"""What every record counts with."""

from dataclasses import dataclass, field
from typing import Any

from loop_doctor.call_sites import Location


@dataclass
class Tally:
    """How often something was seen, where first, and the facts of that first time."""

    count: int = 0
    location: Location | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def note(self, location: Location | None, **facts: Any) -> None:
        """Count once more; the first location and facts are kept."""
        if self.count == 0:
            self.location, self.facts = location, facts
        self.count += 1
