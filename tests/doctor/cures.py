"""All proofs of fixes."""

import cures_inputs  # noqa: F401
import cures_steps  # noqa: F401
from cure_parts import CURES, Cure

__all__ = ["CURES", "Cure"]
