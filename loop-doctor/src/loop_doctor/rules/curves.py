"""Rules for logged values: sums that should be means, and means with a wrong divisor."""

from collections.abc import Iterator

from loop_doctor.ledger import BATCHES, FIXED, SAMPLES, Reading, Tag
from loop_doctor.records import Record
from loop_doctor.rules.base import Diagnosis, num_micro_batches, rule


@rule("loss-never-reset")
def loss_never_reset(record: Record) -> Diagnosis | None:
    """The logged values are a sum since the run began."""
    return _check_tags(record, "loss-never-reset")


@rule("loss-not-averaged")
def loss_not_averaged(record: Record) -> Diagnosis | None:
    """The logged values are a sum over an epoch or a window."""
    return _check_tags(record, "loss-not-averaged")


@rule("wrong-divisor")
def wrong_divisor(record: Record) -> Diagnosis | None:
    """The logged values are a sum divided by something other than the number of terms."""
    return _check_tags(record, "wrong-divisor")


def _check_tags(record: Record, code: str) -> Diagnosis | None:
    ledger = record.ledger
    found = list(_tags_with(record, code, ledger.tags)) or list(_tags_with(record, code, ledger.shown))
    if not found:
        return None
    tag, reading = found[0]
    facts = {"tag": tag.name, "reading": reading, "others": len(found) - 1, "logs": tag.num_logs}
    variant = "samples" if reading.weighted or reading.series.reduction == "sum" else "batches"
    if tag.name not in record.ledger.tags:
        variant += ", printed"
    return Diagnosis(code, tag.num_logs, tag.location, facts, variant)


def _tags_with(record: Record, code: str, tags: dict[str, Tag]) -> Iterator[tuple[Tag, Reading]]:
    for tag in tags.values():
        reading = tag.meaning()
        if reading is not None and _mistake(reading) == code and not _is_one_step(record, reading):
            yield tag, reading


def _mistake(reading: Reading) -> str | None:
    """Return the code for what a tag's values are, or None if they are a mean or the loss of one batch."""
    if reading.origin == "batch" or reading.counts[1] <= 1:
        return None
    summed = reading.divisor == FIXED
    if reading.origin == "start":
        return "loss-never-reset" if summed else _mistaken_divisor(reading)
    if summed and reading.fixed == 1:
        return "loss-not-averaged"
    return _mistaken_divisor(reading)


def _mistaken_divisor(reading: Reading) -> str | None:
    if reading.divisor == FIXED:
        # At the end of an epoch, a window of fixed length is sometimes cut short, or runs on into the next one.
        return "wrong-divisor" if reading.num_off > reading.agreed / 2 else None
    if reading.weighted:
        return None if reading.divisor == SAMPLES else "wrong-divisor"
    right = SAMPLES if reading.series.reduction == "sum" else BATCHES
    if reading.divisor == right or reading.series.reduction is None:
        return None
    return "wrong-divisor" if reading.divisor == SAMPLES else None


def _is_one_step(record: Record, reading: Reading) -> bool:
    """Return whether the values are sums of scaled losses over one step: such a sum is the step's mean."""
    whole = reading.divisor == FIXED and reading.fixed == 1 and reading.counts[1] * reading.series.scale <= 1 + 1e-6
    return whole and any(num_micro_batches(optimizer) > 1 for optimizer in record.optimizers)
