"""Rules for the TensorBoard writer, and for readings that wait for the accelerator."""

from loop_doctor.records import Record, StepLog
from loop_doctor.rules.base import Diagnosis, rule


@rule("writer-closed-early")
def writer_closed_early(record: Record) -> Diagnosis | None:
    """Something was written after close(): each time costs a new event file."""
    for writer in record.writers:
        if writer.written_after_close.count:
            written = writer.written_after_close
            location = written.facts.get("closed_at") or written.location
            variant = "inside" if writer.num_closes else "before"
            return Diagnosis("writer-closed-early", written.count, location, {"closes": writer.num_closes}, variant)
    return None


@rule("writer-left-open")
def writer_left_open(record: Record) -> Diagnosis | None:
    """A writer that was created in the block has not been closed yet."""
    for writer in record.writers:
        if writer.made_inside and writer.num_written and writer.open():
            facts = {"folder": writer.folder, "written": writer.num_written}
            return Diagnosis("writer-left-open", 1, writer.location, facts)
    return None


@rule("scalar-as-image")
def scalar_as_image(record: Record) -> Diagnosis | None:
    """add_image was given a single number."""
    return Diagnosis.of("scalar-as-image", record.scalar_images) if record.scalar_images.count else None


@rule("repeated-global-step")
def repeated_global_step(record: Record) -> Diagnosis | None:
    """Most values of a tag came at a step that already had another value."""
    found = [log for log in record.step_logs if _repeats_its_steps(log)]
    if not found:
        return None
    log = found[0]
    most, step = log.most
    without = log.library == "tensorboard" and log.num_without_step == log.num_compared
    others = len({other.tag for other in found} - {log.tag})
    facts = {"tag": log.tag, "most": most, "step": step, "logs": log.num_compared, "others": others}
    return Diagnosis.of("repeated-global-step", log.repeats, "without" if without else log.library, **facts)


def _repeats_its_steps(log: StepLog) -> bool:
    # Two values at one step are often two things under one name, and a run that is resumed repeats the lesser part of
    # its steps.
    return log.most[0] >= 3 and log.repeats.count > log.num_compared / 2


@rule("waits-every-step")
def waits_every_step(record: Record) -> Diagnosis | None:
    """The program reads a number from the accelerator at nearly every step."""
    if record.num_steps < 10 or record.num_waits < 0.9 * record.num_steps:
        return None
    location, count = record.waits.most_common(1)[0]
    return Diagnosis("waits-every-step", count, location, {"steps": record.num_steps, "waits": record.num_waits})
