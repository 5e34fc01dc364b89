"""Rules for the order and the effect of zero_grad(), backward() and step()."""

import math

from loop_doctor.records import OptimizerRecord, Record
from loop_doctor.rules.base import FEW, Diagnosis, most_often, num_micro_batches, rule


@rule("missing-zero-grad")
def missing_zero_grad(record: Record) -> Diagnosis | None:
    """A step used a gradient that still contained one an earlier step had used."""
    found = most_often(record.optimizers, lambda optimizer: optimizer.stale)
    if found is not None and found[1].count >= FEW:
        optimizer, stale = found
        k = _cleared_every(optimizer)
        # The losses of an accumulation are scaled, and it clears the gradients at a regular distance.
        variant = "accumulation" if k and optimizer.num_scaled_runs >= 0.9 * stale.count else ""
        return Diagnosis.of("missing-zero-grad", stale, variant, steps=optimizer.num_steps, k=k)
    if record.manual_stale.count >= FEW:
        return Diagnosis.of("missing-zero-grad", record.manual_stale, steps=record.num_manual_updates)
    return None


@rule("zero-grad-before-step")
def zero_grad_before_step(record: Record) -> Diagnosis | None:
    """Gradients were computed, and were gone when the step was taken."""
    found = most_often(record.optimizers, lambda optimizer: optimizer.cleared)
    if found is not None and found[1].count >= max(FEW, found[0].num_steps / 2):
        return Diagnosis.of("zero-grad-before-step", found[1], "all")
    for optimizer in record.optimizers:
        # Before each step others came by the same path and were cleared: whole micro-batches are lost. Code that works
        # on gradients one by one (projecting, collecting) writes what the step is meant to use.
        lost, steps = optimizer.lost, optimizer.num_steps
        alone = num_micro_batches(optimizer) == 1 and optimizer.num_rewritten < steps / 2
        if alone and lost.count >= max(FEW, steps - 1):
            k = round(lost.count / steps) + 1
            return Diagnosis.of("zero-grad-before-step", lost, "some", steps=steps, k=k)
    return None


@rule("gradients-leak-in")
def gradients_leak_in(record: Record) -> Diagnosis | None:
    """A step used gradients that another optimizer's loss had left in its weights."""
    found = most_often(record.optimizers, lambda optimizer: optimizer.leaked)
    if found is None or found[1].count < FEW:
        return None
    return Diagnosis.of("gradients-leak-in", found[1], steps=found[0].num_steps)


@rule("missing-step")
def missing_step(record: Record) -> Diagnosis | None:
    """Weights received gradients, and nothing ever changed them."""
    if record.num_scaler_steps or record.num_backwards < FEW:
        return None
    idle = [
        o
        for o in record.optimizers
        if not o.num_steps
        and o.parameters
        and o.received
        # Another optimizer steps for it when it only wraps that one, as in Accelerate.
        and not any(p.changed or any(other.num_steps for other in p.optimizers) for p in o.parameters)
    ]
    if idle:
        first = idle[0]
        backwards = max(parameter.received for parameter in first.parameters)
        if backwards < FEW:
            return None
        facts = {"optimizer": first.name}
        return Diagnosis("missing-step", backwards, first.backward_location, facts, "optimizer")
    if record.optimizers or record.num_manual_updates:
        return None
    trained = any(model.num_calls >= 10 and model.calls_in_eval == 0 for model in record.models)
    stuck = [name for name, received in record.unchanged if received >= 10]
    if trained and stuck and len(stuck) == record.num_parameters_reached:
        return Diagnosis("missing-step", record.num_backwards, record.backward_location, variant="model")
    return None


@rule("missing-backward")
def missing_backward(record: Record) -> Diagnosis | None:
    """Steps were taken, and no weight ever received a gradient."""
    if record.num_parameters_reached or record.num_gradients:
        return None
    found = most_often(record.optimizers, lambda optimizer: optimizer.empty)
    if found is None or found[1].count < max(FEW, found[0].num_steps):
        return None
    facts = {"backwards": record.num_backwards}
    for cut in record.inputs.cuts.values():
        names = [name for key, name in record.inputs.never_reached.items() if key in cut.weights]
        if names and cut.count >= FEW:
            line = cut.location.line if cut.location else 0
            return Diagnosis.of("missing-backward", found[1], "cut", **facts, names=names, by=cut.by, line=line)
    return Diagnosis.of("missing-backward", found[1], "useless" if record.num_backwards else "none", **facts)


@rule("repeated-step")
def repeated_step(record: Record) -> Diagnosis | None:
    """An optimizer used the same gradients twice."""
    found = most_often(record.optimizers, lambda optimizer: optimizer.repeated)
    if found is None or found[1].count < FEW:
        return None
    return Diagnosis.of("repeated-step", found[1])


@rule("optimizer-of-another-model")
def optimizer_of_another_model(record: Record) -> Diagnosis | None:
    """An optimizer steps, none of its weights ever receives a gradient, and other weights do."""
    for optimizer in record.optimizers:
        if (
            optimizer.num_steps >= FEW
            and optimizer.empty.count == optimizer.num_steps
            and not any(parameter.received for parameter in optimizer.parameters)
            and record.unchanged
            and optimizer.num_frozen < optimizer.num_steps
        ):
            names = [name for name, _ in record.unchanged]
            return Diagnosis.of("optimizer-of-another-model", optimizer.empty, steps=optimizer.num_steps, names=names)
    return None


@rule("parameters-not-optimized")
def parameters_not_optimized(record: Record) -> Diagnosis | None:
    """Weights of a model that is trained receive gradients, and no optimizer holds them."""
    return _frozen_optimized(record) or _part_left_out(record) or _module_left_out(record)


def _frozen_optimized(record: Record) -> Diagnosis | None:
    """An optimizer holds only frozen weights, and the weights that are not frozen never change."""
    for optimizer in record.optimizers:
        if optimizer.num_steps >= FEW and optimizer.num_frozen == optimizer.num_steps and record.unchanged:
            facts = {"names": [name for name, _ in record.unchanged], "steps": optimizer.num_steps}
            location = optimizer.made_at or optimizer.location
            return Diagnosis("parameters-not-optimized", len(record.unchanged), location, facts, "frozen")
    return None


def _part_left_out(record: Record) -> Diagnosis | None:
    """A model is trained, and a part of it is not."""
    for model in record.models:
        trained = [p for p in model.parameters.values() if p.received and (p.optimizers or p.changed)]
        left = {name: p for name, p in model.parameters.items() if p.received and not p.optimizers and not p.changed}
        stepped = any(o.num_steps >= FEW for p in trained for o in p.optimizers)
        # Layers that a model keeps in a plain list are not registered: they have no names.
        left |= {p.name: p for p in record.strays if p.received >= max((t.received for t in trained), default=0)}
        if stepped and left:
            numbers = sum(math.prod(p.shape) for p in left.values())
            every = sum(math.prod(p.shape) for p in {**model.parameters, **left}.values())
            location = next((o.made_at or o.location for p in trained for o in p.optimizers), None)
            facts = {"names": list(left), "numbers": numbers, "all_numbers": every, "model": model.name}
            lists = sorted({p.kept_in for p in left.values()})
            variant = "list" if all(lists) else ""
            facts["lists"] = "\n".join(f"self.{name} = nn.{kind}(self.{name})" for name, kind in filter(None, lists))
            return Diagnosis("parameters-not-optimized", len(left), location, facts, variant)
    return None


def _module_left_out(record: Record) -> Diagnosis | None:
    """A model of its own is trained by the same losses as others, and no optimizer holds any of its weights."""
    for model in record.models:
        weights = list(model.parameters.values())
        received = [p for p in weights if p.received]
        # A network that only measures, such as one for a perceptual loss, is in eval mode, called without gradients
        # too, or has learned before.
        only_measures = model.calls_in_eval == model.num_calls or model.evaluated_in_train.count or not model.fresh
        if model.left_out.count < FEW or only_measures or not received:
            continue
        # For a loss that compares features, it is called twice: for the output and for the target. What is computed
        # once and used at every step is called less often.
        calls, most = model.num_calls - model.calls_in_eval, max(p.received for p in received)
        if not 0.5 * most <= calls <= 1.2 * most:
            continue
        optimizer = model.left_out.facts["optimizer"]
        together = min(p.received for p in received) >= max(FEW, 0.9 * max(p.received for p in optimizer.parameters))
        if optimizer.num_steps >= FEW and together and not any(p.optimizers or p.changed for p in weights):
            numbers = sum(math.prod(p.shape) for p in weights)
            facts = {"names": list(model.parameters), "numbers": numbers, "model": model.name}
            location = optimizer.made_at or optimizer.location
            return Diagnosis("parameters-not-optimized", len(received), location, facts, "module")
    return None


def _cleared_every(optimizer: OptimizerRecord) -> int:
    """Return after how many steps the gradients were cleared, if it was regularly; else 0."""
    (run, count) = optimizer.rests.most_common(1)[0] if optimizer.rests else (0, 0)
    regular = run > 0 and count >= FEW and count >= 0.8 * optimizer.rests.total()
    return run + 1 if regular else 0


@rule("optimizer-recreated")
def optimizer_recreated(record: Record) -> Diagnosis | None:
    """One line made an optimizer again and again for the same weights, and its state was lost each time."""
    if not record.recreated.count:
        return None
    return Diagnosis.of("optimizer-recreated", record.recreated)


@rule("scheduler-before-optimizer")
def scheduler_before_optimizer(record: Record) -> Diagnosis | None:
    """A scheduler stepped before its optimizer ever did."""
    if not record.early_schedulers.count:
        return None
    return Diagnosis.of("scheduler-before-optimizer", record.early_schedulers)
