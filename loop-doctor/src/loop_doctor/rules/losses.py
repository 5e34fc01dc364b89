"""Rules for the loss: its values, its graph, and what is kept of it."""

import math

from loop_doctor.records import Record
from loop_doctor.rules.base import FEW, Diagnosis, rule

MANY = 6  # a loop may well hold a handful of losses in its variables


@rule("graph-kept-alive")
def graph_kept_alive(record: Record) -> Diagnosis | None:
    """Graphs of past batches pile up because something keeps their losses or outputs."""
    kinds = {"again": record.passed_again, "loss": record.losses_kept, "output": record.outputs_kept}
    for variant, kept in kinds.items():
        if kept.num_rising >= 3 and kept.lasting >= MANY:
            return Diagnosis("graph-kept-alive", kept.peak, kept.location, variant=variant)
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
    facts = {
        "largest": series.largest,
        "first": series.first[0],
        "lr": optimizer.lr,
        "lower_lr": optimizer.lr / 10,
        "move": optimizer.largest_move,
        "nonfinite_at": series.nonfinite_at,
    }
    variant = "nonfinite" if series.nonfinite_at else "finite"
    return Diagnosis("learning-rate-too-high", optimizer.num_large_moves, optimizer.location, facts, variant)


@rule("softmax-before-cross-entropy")
def softmax_before_cross_entropy(record: Record) -> Diagnosis | None:
    """The graph of the loss has a softmax right before the one in cross-entropy."""
    if record.softmax.count < FEW:
        return None
    return Diagnosis.of("softmax-before-cross-entropy", record.softmax, graphs=record.num_losses_read)
