"""What is often reported as a mistake, and does no harm in this loop."""

from loop_doctor.records import Record
from loop_doctor.rules.base import FEW, Diagnosis, is_trained, rule


@rule("harmless-here")
def harmless_here(record: Record) -> Diagnosis | None:
    """A habit looks like a mistake and changes nothing in this loop."""
    habits = []
    for optimizer in record.optimizers:
        if optimizer.zeroed_after_step.count >= FEW:
            habits.append(("zero-grad-after-step", optimizer.zeroed_after_step))
            break
    for model in record.models:
        indifferent = not model.sensitive and not model.calls_dropout
        if indifferent and model.evaluated_in_train.count >= FEW and is_trained(model):
            habits.append(("no-eval-mode", model.evaluated_in_train))
            break
    for writer in record.writers:
        if writer.closed_again.count:
            habits.append(("closed-twice", writer.closed_again))
            break
    if not habits:
        return None
    location = habits[0][1].location
    return Diagnosis("harmless-here", len(habits), location, {"habits": [name for name, _ in habits]})
