"""Rules for train and eval mode, and for gradients during validation."""

from loop_doctor.records import Record
from loop_doctor.rules.base import FEW, Diagnosis, is_trained, rule


@rule("eval-mode-while-training")
def eval_mode_while_training(record: Record) -> Diagnosis | None:
    """Steps learned from outputs in eval mode, of a model with layers that behave differently there."""
    for model in record.models:
        every = model.steps_in_eval.count + model.num_steps_in_train
        if model.steps_in_eval.count >= max(FEW, 0.1 * every):
            names = model.sensitive or [model.dropped]
            return Diagnosis.of("eval-mode-while-training", model.steps_in_eval, steps=every, names=names)
    return None


@rule("validation-builds-graph")
def validation_builds_graph(record: Record) -> Diagnosis | None:
    """A model that is trained is called in eval mode with gradients on, and no backward call follows."""
    for model in record.models:
        calls = model.calls_without_backward
        if calls.count >= FEW and is_trained(model):
            return Diagnosis.of("validation-builds-graph", calls)
    return None
