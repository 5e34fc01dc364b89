"""Rules for checkpoints: whether they hold what they should, and whether a run goes on as it was."""

from loop_doctor.records import Record
from loop_doctor.rules.base import Diagnosis, rule


@rule("best-weights-not-copied")
def best_weights_not_copied(record: Record) -> Diagnosis | None:
    """Weights were kept as references, changed with each step, and were used later as if they had been kept."""
    checkpoints = record.checkpoints
    if checkpoints.loaded_uncopied.count:
        return Diagnosis.of("best-weights-not-copied", checkpoints.loaded_uncopied, "loaded")
    if checkpoints.saved_uncopied.count:
        return Diagnosis.of("best-weights-not-copied", checkpoints.saved_uncopied, "saved")
    return None


@rule("resumed-without-optimizer-state")
def resumed_without_optimizer_state(record: Record) -> Diagnosis | None:
    """A run goes on from a checkpoint, and the optimizer's state in it is not loaded."""
    if not record.checkpoints.resumed.count:
        return None
    return Diagnosis.of("resumed-without-optimizer-state", record.checkpoints.resumed)
