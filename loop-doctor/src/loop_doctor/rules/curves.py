"""Rules for logged values: sums that should be means, and means with a wrong divisor.

A mean times a weight looks like a sum with a wrong divisor, so a rule speaks only where no weight explains the number.
"""

import math
import re
from collections.abc import Iterator

import torch

from loop_doctor.ledger import FIXED, SAMPLES, Reading, Tag
from loop_doctor.records import Record
from loop_doctor.rules.base import Diagnosis, num_micro_batches, rule

# A curve that says in its name that it goes on, such as a cumulative regret.
DELIBERATE = re.compile(r"cum|regret|so.?far|overall", re.IGNORECASE)


@rule("loss-never-reset")
def loss_never_reset(record: Record) -> Diagnosis | None:
    """The logged values are a sum since the run began, or at the end of each epoch the mean since then."""
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
    facts = {
        "tag": tag.name,
        "reading": reading,
        "others": len(found) - 1,
        "logs": tag.num_logs,
        "last": reading.last,
        "alone": reading.alone,
        "used": reading.used,
        "proper": reading.proper,
    }
    printed = "" if tag.name in ledger.tags else ", printed"
    return Diagnosis(code, tag.num_logs, tag.location, facts, _variant(reading) + printed)


def _variant(reading: Reading) -> str:
    """Return what is added up, over what, and for a mean since the start that it is one."""
    terms = "sums" if reading.series.reduction == "sum" else "samples" if reading.weighted else "batches"
    in_epochs = reading.series.knows_epochs and (reading.by_epoch if reading.origin == "start" else _is_epoch(reading))
    mean = reading.origin == "start" and reading.divisor != FIXED and reading.is_whole_mean()
    return f"{'mean ' if mean else ''}{terms} of {'an epoch' if in_epochs else 'a window'}"


def _is_epoch(reading: Reading) -> bool:
    return reading.origin == "epoch" or reading.counts[1] == reading.series.epoch_size.batches


def _tags_with(record: Record, code: str, tags: dict[str, Tag]) -> Iterator[tuple[Tag, Reading]]:
    for tag in tags.values():
        reading = tag.meaning()
        if reading is not None and _mistake(record, tag, reading) == code:
            yield tag, reading


def _mistake(record: Record, tag: Tag, reading: Reading) -> str | None:
    """Return the code for what a tag's values are, or None if they may be a mean or the loss of one batch."""
    if reading.origin == "batch" or reading.counts[1] <= 1:
        return None
    if reading.origin == "start" and reading.divisor == FIXED:
        return None if DELIBERATE.search(tag.name) else "loss-never-reset"
    if reading.origin == "start" and reading.is_whole_mean():
        return "loss-never-reset" if _goes_on_through_epochs(tag, reading) else None
    if reading.series.has_several or _is_weight(record, reading, reading.farthest):
        return None
    if reading.divisor == FIXED and reading.fixed == 1:
        return None if _is_one_step(record, reading) else "loss-not-averaged"
    return "wrong-divisor" if _is_wrong_divisor(record, tag, reading) else None


def _goes_on_through_epochs(tag: Tag, reading: Reading) -> bool:
    """Return whether the mean since the start was logged once for each epoch, at its end, as the epoch's mean is.

    A mean over everything so far that is logged at each step is a curve of its own kind, and a window that is longer
    than the run holds the same numbers.
    """
    series = reading.series
    enough = tag.num_logs >= (2 if tag.exact and not series.rounded else 3)
    known = series.from_loader or series.phase == "valid"
    meant = tag.has_window or DELIBERATE.search(tag.name) is not None
    return enough and known and reading.by_epoch and series.varies() and not meant


def _is_weight(record: Record, reading: Reading, times: float) -> bool:
    """Return whether the values are a mean times a number that the loop is known to multiply losses by."""
    known = {*record.ledger.weights, reading.series.per_row} - {0.0, 1.0}
    return any(_equal(times, number) or _equal(times * number, 1.0) for number in known)


def _is_wrong_divisor(record: Record, tag: Tag, reading: Reading) -> bool:
    """Return whether the divisor is wrong whatever the loss is a mean of."""
    series, times = reading.series, reading.farthest
    if reading.divisor != FIXED:
        if series.reduction is None or reading.is_whole_mean():
            return False
        if reading.weighted:
            return series.reduction == "mean"
        return series.reduction == "mean" and reading.divisor == SAMPLES and not _may_be_a_share(record, times)
    # A sum of a loss's terms may be divided by its rows, its elements, its tokens, or the labels that count. And at the
    # end of an epoch, a window of fixed length is sometimes cut short, or runs on into the next one.
    if series.reduction != "mean" or reading.num_off <= reading.agreed / 2:
        return False
    if reading.weighted and 0.5 < times < 1.0 and not _is_short(times):  # such as the samples that a sampler left out
        return True
    if reading.by_samples:
        return not _may_be_a_share(record, times)
    if reading.by_one or (_is_another_size(record, reading) and not _is_short(times)):
        return True
    if not tag.is_of_whole_loss(reading):
        return False
    size = series.epoch_size.batches  # the divisor may count epochs in the place of batches
    return not _is_unit(times) or (size > 1 and reading.counts[1] > size and _equal(times, size))


def _may_be_a_share(record: Record, times: float) -> bool:
    """Return whether one over the batch size may be a weight, or the share of one process or of one micro-batch."""
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    few = any(_equal(times, 1 / number) for number in (2, 3, 4))
    return shared or few or (record.num_losses_read == 0 and _is_short(times))


def _is_another_size(record: Record, reading: Reading) -> bool:
    """Return whether the divisor is the number of batches or samples of another pass over data."""
    sizes = [other.epoch_size for other in record.ledger.series.values() if other.phase != reading.series.phase]
    return reading.fixed > 1 and any(reading.fixed in (size.batches, size.samples) for size in sizes)


def _is_short(times: float) -> bool:
    """Return whether a factor has at most two digits, as weights that people write have."""
    return _equal(times, float(f"{times:.2g}"))


def _is_unit(times: float) -> bool:
    """Return whether a factor may be a share of a few processes, a double, or another unit, such as percent."""
    power = math.log10(times)
    return _equal(1 / times, round(1 / times)) or _equal(times, 2.0) or abs(power - round(power)) < 1e-9


def _equal(first: float, second: float) -> bool:
    return abs(first - second) <= 1e-6 * abs(second)


def _is_one_step(record: Record, reading: Reading) -> bool:
    """Return whether the values are sums of scaled losses over one step: such a sum is the step's mean."""
    whole = reading.divisor == FIXED and reading.fixed == 1 and reading.counts[1] * reading.series.scale <= 1 + 1e-6
    return whole and any(num_micro_batches(optimizer) > 1 for optimizer in record.optimizers)
