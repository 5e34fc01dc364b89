"""Rules for the clipping of gradients."""

from loop_doctor.records import Record
from loop_doctor.rules.base import FEW, Diagnosis, most_often, rule


@rule("clipping-misplaced")
def clipping_misplaced(record: Record) -> Diagnosis | None:
    """Gradients were clipped after their step, before backward(), while scaled, or once for each micro-batch."""
    scaled = most_often(record.optimizers, lambda optimizer: optimizer.clips.scaled)
    if scaled is not None and scaled[1].count >= FEW:
        return Diagnosis.of("clipping-misplaced", scaled[1], "scaled")
    for optimizer in record.optimizers:
        clips = optimizer.clips
        for variant, tally in (("late", clips.late), ("early", clips.early)):
            if tally.count >= FEW and tally.count > 2 * clips.num_in_place:
                return Diagnosis.of("clipping-misplaced", tally, variant)
        if clips.micro.count >= max(FEW, optimizer.num_steps / 2):
            return Diagnosis.of("clipping-misplaced", clips.micro, "micro")
    return None
