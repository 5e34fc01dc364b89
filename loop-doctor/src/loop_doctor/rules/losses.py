"""Rules for the loss: its values, its graph, and what is kept of it."""

import math

from loop_doctor.growth import GrowthDetector
from loop_doctor.records import OptimizerRecord, Record
from loop_doctor.rules.base import FEW, Diagnosis, rule


@rule("graph-kept-alive")
def graph_kept_alive(record: Record) -> Diagnosis | None:
    """Graphs of past batches pile up because something keeps their losses or outputs."""
    kinds: dict[str, GrowthDetector] = {"loss": record.losses_kept}
    if not record.carried.num_links:  # else a recurrent state keeps the outputs, and that has a code of its own
        kinds = {"again": record.passed_again, **kinds, "output": record.outputs_kept}
        # Loops with several models hold many of their outputs in variables: a container must be known that grows.
        if record.outputs_kept.used.holder is not None:
            kinds["used"] = record.outputs_kept.used
    for variant, kept in kinds.items():
        if kept.grows() and not (kept.holder is not None and kept.holder.bounded):
            location = kept.location if kept.holder is None else kept.holder.location or kept.location
            return Diagnosis("graph-kept-alive", kept.peak, location, variant=variant)
    return None


@rule("loss-not-finite")
def loss_not_finite(record: Record) -> Diagnosis | None:
    """A loss was NaN or infinite."""
    for series in record.losses.values():
        if series.num_nonfinite and math.isfinite(series.first[0]) and series.now.batches > 1:
            facts = {"at": series.nonfinite_at, "steps": series.now.batches}
            return Diagnosis("loss-not-finite", series.num_nonfinite, series.location, facts)
        if series.num_nonfinite and series.num_nonfinite == series.now.batches:
            facts = {"at": 1, "steps": series.now.batches}
            return Diagnosis("loss-not-finite", series.num_nonfinite, series.location, facts)
    return None


@rule("learning-rate-too-high")
def learning_rate_too_high(record: Record) -> Diagnosis | None:
    """Steps as long as the weights themselves drove the loss up, and it did not come back down."""
    if len(record.losses) != 1:
        return None
    (series,) = record.losses.values()
    optimizer = max(record.optimizers, key=lambda o: o.num_large_moves, default=None)
    if optimizer is None or series.now.batches < 10 or optimizer.num_large_moves < FEW:
        return None
    start = abs(series.first[0])
    finite = [loss for loss in series.last if math.isfinite(loss)]
    driven_up = series.largest > 1.5 * start or series.num_nonfinite
    back = bool(finite) and len(finite) == len(series.last) and sum(finite) / len(finite) < 0.7 * start
    if not driven_up or back or series.first[0] <= 0:
        return None
    lower = _lower(optimizer)
    facts = {
        "largest": series.largest,
        "first": series.first[0],
        "lr": optimizer.lr,
        "lower_lr": lower,
        "times": optimizer.lr / lower,
        "move": optimizer.largest_move,
        "nonfinite_at": series.nonfinite_at,
    }
    variant = "nonfinite" if series.nonfinite_at else "finite"
    return Diagnosis("learning-rate-too-high", optimizer.num_large_moves, optimizer.location, facts, variant)


def _lower(optimizer: OptimizerRecord) -> float:
    """Return a learning rate at which the first step moves the weights by at most a hundredth of their length."""
    lower = optimizer.lr * min(0.1, 0.01 / optimizer.first_move if optimizer.first_move > 0 else 1.0)
    power = 10.0 ** math.floor(math.log10(lower)) if lower > 0 else 1.0
    return math.floor(lower / power * (1 + 1e-9)) * power if lower > 0 else lower


@rule("softmax-before-cross-entropy")
def softmax_before_cross_entropy(record: Record) -> Diagnosis | None:
    """The graph of the loss has a softmax right before the one in cross-entropy."""
    if record.softmax.count < FEW:
        return None
    return Diagnosis.of("softmax-before-cross-entropy", record.softmax, graphs=record.num_losses_read)
