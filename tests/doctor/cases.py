"""All cases: small training loops, faulty and correct, in many styles; the benchmark counts over them too."""

import correct_loops  # noqa: F401
import faulty_loops  # noqa: F401
import loops_checkpoints  # noqa: F401
import loops_curves  # noqa: F401
import loops_data  # noqa: F401
import loops_endings  # noqa: F401
import loops_inputs  # noqa: F401
import loops_logging  # noqa: F401
import loops_modes  # noqa: F401
import loops_schedules  # noqa: F401
import loops_steps  # noqa: F401
from case_parts import CORRECT, FAULTY, Case

__all__ = ["CORRECT", "FAULTY", "Case"]
