"""All proofs of fixes."""

import cures_curves  # noqa: F401
import cures_data  # noqa: F401
import cures_endings  # noqa: F401
import cures_inputs  # noqa: F401
import cures_logging  # noqa: F401
import cures_modes  # noqa: F401
import cures_schedules  # noqa: F401
import cures_steps  # noqa: F401
from cure_parts import CURES, Cure

__all__ = ["CURES", "Cure"]
