"""What was seen of checkpoints: weights that are kept, saved and loaded, and runs that are resumed."""

from dataclasses import dataclass, field

from loop_doctor.records.parts import Tally


@dataclass(eq=False)
class CheckpointRecord:
    """Checkpoints that do not hold what they should."""

    loaded_uncopied: Tally = field(default_factory=Tally)  # kept weights that had followed the training, loaded again
    saved_uncopied: Tally = field(default_factory=Tally)  # the same, saved to a file
    resumed: Tally = field(default_factory=Tally)  # a saved optimizer state that was left behind
