"""Rules for train and eval mode, and for gradients during validation."""

from loop_doctor.records import Record
from loop_doctor.rules.base import FEW, Diagnosis, is_trained, rule


@rule("eval-mode-while-training")
def eval_mode_while_training(record: Record) -> Diagnosis | None:
    """Steps learned from outputs in eval mode, of a model with layers that behave differently there."""
    for model in record.models:
        every = model.steps_in_eval.count + model.num_steps_in_train
        if model.steps_in_eval.count >= max(FEW, 0.1 * every):
            names = model.off or [model.dropped]
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


@rule("train-mode-while-evaluating")
def train_mode_while_evaluating(record: Record) -> Diagnosis | None:
    """A model that is trained is evaluated without gradients in train mode, and a layer of it behaves differently."""
    # With several optimizers, as in a GAN, a call without gradients is often a part of the training.
    if sum(optimizer.num_steps > 0 for optimizer in record.optimizers) > 1:
        return None
    for model in record.models:
        runs = model.evaluations
        if (runs.over_loaders >= FEW or runs.with_losses >= FEW or runs.most_calls >= FEW) and is_trained(model):
            names = runs.names or ["F.dropout"]
            return Diagnosis(
                "train-mode-while-evaluating",
                max(runs.over_loaders, runs.with_losses),
                runs.location,
                {"calls": runs.calls, "names": names},
            )
    return None


@rule("frozen-norm-still-learns")
def frozen_norm_still_learns(record: Record) -> Diagnosis | None:
    """Batch norm layers with frozen weights are in train mode while the rest is trained, so their averages change."""
    for model in record.models:
        norms = model.norms
        if not norms.names or not norms.in_train or any(weight.received for weight in norms.weights):
            continue
        if (model.num_steps_in_train >= FEW and is_trained(model)) or norms.num_fed >= FEW:
            return Diagnosis(
                "frozen-norm-still-learns",
                len(norms.names),
                norms.location,
                {"names": list(norms.names), "part": _as_code(norms.part)},
                "part" if norms.part or norms.num_fed else "several",
            )
    return None


def _as_code(part: str) -> str:
    """Return a part of a model as the code that names it."""
    return "model" + "".join(f"[{name}]" if name.isdigit() else f".{name}" for name in part.split(".") if name)
