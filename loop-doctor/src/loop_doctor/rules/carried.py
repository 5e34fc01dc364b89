"""Rules for forward passes that a later backward call goes through again."""

from loop_doctor.records import Record
from loop_doctor.rules.base import Diagnosis, rule

LONG = 10  # batches in a row that no one means to go through again and again


@rule("hidden-state-not-detached")
def hidden_state_not_detached(record: Record) -> Diagnosis | None:
    """A state is carried from batch to batch together with its graph, and backward calls go through past batches."""
    carried = record.carried
    # A window of a few batches may be meant; a chain that only grows is not.
    if carried.length >= LONG and not carried.num_cuts:
        return Diagnosis("hidden-state-not-detached", carried.length, carried.location, variant="grows")
    if carried.num_failures:
        return Diagnosis("hidden-state-not-detached", carried.length, carried.location, variant="fails")
    return None


@rule("closure-does-not-recompute")
def closure_does_not_recompute(record: Record) -> Diagnosis | None:
    """An optimizer's closure uses a prediction or a loss that was computed with other weights."""
    if record.carried.stale.count:
        return Diagnosis.of("closure-does-not-recompute", record.carried.stale)
    if record.carried.stored.count:
        return Diagnosis.of("closure-does-not-recompute", record.carried.stored, "stored")
    return None
