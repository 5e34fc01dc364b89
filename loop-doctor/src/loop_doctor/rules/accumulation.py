"""Rules for the accumulation of gradients over micro-batches."""

from loop_doctor.records import Record
from loop_doctor.rules.base import FEW, Diagnosis, num_micro_batches, rule


@rule("accumulation-not-scaled")
def accumulation_not_scaled(record: Record) -> Diagnosis | None:
    """Several micro-batches make up a step, and their losses are not divided by their number."""
    for optimizer in record.optimizers:
        size = num_micro_batches(optimizer)
        if size > 1 and optimizer.unscaled.count >= max(FEW, 0.5 * optimizer.num_steps):
            return Diagnosis.of("accumulation-not-scaled", optimizer.unscaled, k=size, steps=optimizer.num_steps)
    return None


@rule("accumulation-tail-dropped")
def accumulation_tail_dropped(record: Record) -> Diagnosis | None:
    """Micro-batches at the end of an epoch, or of the run, never get a step of their own."""
    code = "accumulation-tail-dropped"
    for optimizer in record.optimizers:
        size = num_micro_batches(optimizer)
        if size == 1:
            continue
        if optimizer.dropped.count:
            return Diagnosis.of(code, optimizer.dropped, "cleared", k=size)
        mixed = {k: n for k, n in optimizer.groups.items() if k > size}
        if mixed:
            facts = {"k": size, "left": max(mixed) - size}
            return Diagnosis(code, sum(mixed.values()), optimizer.location, facts, "mixed")
        if optimizer.left_over and not record.interrupted:
            return Diagnosis(code, 1, optimizer.location, {"k": size, "left": optimizer.left_over}, "end")
    return None
