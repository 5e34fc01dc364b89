"""Rules for what goes into a loss: its inputs, their shapes, and terms and weights that the gradient does not reach."""

from loop_doctor.records import Record
from loop_doctor.rules.base import FEW, Diagnosis, rule


@rule("wrong-loss-input")
def wrong_loss_input(record: Record) -> Diagnosis | None:
    """A loss function was given probabilities instead of logits, or something other than log-probabilities."""
    for variant, tally in record.inputs.wrong.items():
        if tally.count >= FEW:
            return Diagnosis.of("wrong-loss-input", tally, variant)
    return None


@rule("loss-shapes-broadcast")
def loss_shapes_broadcast(record: Record) -> Diagnosis | None:
    """Predictions and targets have different shapes, so that each prediction is compared with every target."""
    if record.inputs.broadcasts.count < FEW:
        return None
    return Diagnosis.of("loss-shapes-broadcast", record.inputs.broadcasts)


@rule("loss-term-without-gradient")
def loss_term_without_gradient(record: Record) -> Diagnosis | None:
    """A term of the loss is computed from the model's outputs, and no gradient goes through it."""
    found = record.inputs
    for place, term in found.terms.items():
        varies = len(set(term.values)) > 1
        # A term that has a gradient at other times is held back on purpose, as during a warm-up.
        if term.count >= FEW and varies and found.term_paths.get(place) not in found.whole_sums:
            facts = {"by": term.by, "one": min(term.values), "other": max(term.values)}
            return Diagnosis("loss-term-without-gradient", term.count, term.location, facts, term.kind)
    return None


@rule("graph-cut")
def graph_cut(record: Record) -> Diagnosis | None:
    """A part of the model is used at each step, and no gradient ever comes back to it."""
    if not record.num_parameters_reached:
        return None  # nothing learns at all: that is a missing backward call
    for cut in record.inputs.cuts.values():
        names = [name for key, name in record.inputs.never_reached.items() if key in cut.weights]
        if names and cut.count >= FEW:
            return Diagnosis("graph-cut", cut.count, cut.location, {"names": names, "by": cut.by}, cut.kind)
    return None
