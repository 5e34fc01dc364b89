"""What a logged value is, in words: whole phrases for each kind of mean and sum."""

from loop_doctor.ledger import BATCHES, FIXED, SAMPLES, Reading

UNKNOWN = "not a loss that the doctor saw"

# The loss of one batch, by phase.
BATCH = {"train": "this batch's loss", "valid": "the validation loss of the last batch"}
BATCH_BY_SAMPLES = {
    "train": "this batch's loss, divided by its samples",
    "valid": "the validation loss of the last batch, divided by its samples",
}
# The following are by phase and by span: an epoch, a number of batches, the time since the last log, or the whole run.
MEANS = {
    ("train", "epoch"): "the mean batch loss of this epoch",
    ("train", "batches"): "the mean batch loss of the last {batches} batches",
    ("train", "log"): "the mean batch loss since the last logged value",
    ("train", "start"): "the mean batch loss since training began",
    ("valid", "epoch"): "the mean validation loss of this validation",
    ("valid", "batches"): "the mean validation loss of the last {batches} batches",
    ("valid", "log"): "the mean validation loss since the last logged value",
    ("valid", "start"): "the mean validation loss since training began",
}
SUMS = {
    ("train", "epoch"): "the sum of the batch losses of this epoch",
    ("train", "batches"): "the sum of the batch losses of the last {batches} batches",
    ("train", "log"): "the sum of the batch losses since the last logged value",
    ("train", "start"): "the sum of every batch loss since training began",
    ("valid", "epoch"): "the sum of the validation losses of this validation",
    ("valid", "batches"): "the sum of the validation losses of the last {batches} batches",
    ("valid", "log"): "the sum of the validation losses since the last logged value",
    ("valid", "start"): "the sum of every validation loss since training began",
}
WEIGHTED = "{total}, each times its batch size"
MEAN_BY_BATCHES = "{mean} (each batch counts the same)"
MEAN_BY_SAMPLES = "{mean} (each sample counts the same)"
DIVIDED = {
    BATCHES: "{total}, divided by the number of batches",
    SAMPLES: "{total}, divided by the number of samples",
    "batches of one epoch": "{total}, divided by the number of batches in one epoch ({divisor:,})",
    "samples of one epoch": "{total}, divided by the number of samples in one epoch ({divisor:,})",
    FIXED: "{total}, divided by {divisor:,}",
    "part": "{total}, divided by {divisor:.4g}",
    "times": "{total}, times {factor:.4g}",
}
TOO_LARGE = "{quotient}: up to {times:.3g} times too large"
TOO_SMALL = "{quotient}: up to {times:.3g} times too small"


def meaning_of(reading: Reading | None) -> str:
    """Return what a tag's values are, in words.

    Args:
        reading: the simplest reading that fits all of them, or None.
    """
    if reading is None:
        return UNKNOWN
    phase = reading.series.phase
    low, high = reading.counts
    if reading.origin == "batch" or high == 1:
        by_samples = reading.divisor == SAMPLES and not reading.weighted
        return BATCH_BY_SAMPLES[phase] if by_samples else BATCH[phase]
    if reading.origin == "window":
        span, batches = "batches", reading.window
    elif reading.origin == "log" and low == high:
        span, batches = "batches", high
    else:
        span, batches = reading.origin, 0
    if reading.divisor != FIXED:
        mean = MEANS[phase, span].format(batches=batches)
        if reading.divisor == SAMPLES and (reading.weighted or reading.series.reduction == "sum"):
            return MEAN_BY_SAMPLES.format(mean=mean)
        if reading.divisor == BATCHES and not reading.weighted:
            return MEAN_BY_BATCHES.format(mean=mean)
    total = SUMS[phase, span].format(batches=batches)
    if reading.weighted:
        total = WEIGHTED.format(total=total)
    if reading.divisor == FIXED and reading.fixed == 1:
        return total
    kind, divisor = _kind_of_divisor(reading), reading.fixed
    whole = int(divisor) if divisor == int(divisor) else divisor
    quotient = DIVIDED[kind].format(total=total, divisor=whole, factor=1 / divisor if divisor else 0.0)
    factor = reading.farthest
    if abs(factor - 1) < 1e-9:
        return quotient
    if factor > 1:
        return TOO_LARGE.format(quotient=quotient, times=factor)
    return TOO_SMALL.format(quotient=quotient, times=1 / factor)


def _kind_of_divisor(reading: Reading) -> str:
    if reading.divisor != FIXED:
        return reading.divisor
    if reading.fixed != int(reading.fixed):
        return "part" if reading.fixed > 1 else "times"
    epoch, now = reading.series.epoch_size, reading.series.now
    only_epoch = reading.series.num_epochs == 1
    if reading.fixed == epoch.batches or (only_epoch and reading.fixed == now.batches):
        return "batches of one epoch"
    if reading.fixed == epoch.samples or (only_epoch and reading.fixed == now.samples):
        return "samples of one epoch"
    return FIXED
