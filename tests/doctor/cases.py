"""All cases: small training loops, sick and healthy, in many styles. A benchmark counts over `SICK` and `HEALTHY`."""

import healthy_loops  # noqa: F401
import sick_loops  # noqa: F401
from case_parts import HEALTHY, SICK, Case

__all__ = ["HEALTHY", "SICK", "Case"]
