"""What is wrong, and how sure that is: one small function a code, over what was seen.

A judge is given the `Record` and gives a `Diagnosis`, or None where all is well. It knows nothing of words.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from loop_doctor.ledger import BATCHES, FIXED, SAMPLES, Reading, Tag
from loop_doctor.record import OptimizerRecord, Place, Record, RootRecord, Tally

MANY = 6  # a loop may well hold on to a handful of losses by their names
FEW = 2  # what is seen once may be an accident of the first turn


@dataclass(frozen=True)
class Diagnosis:
    """One code that holds: how often, where, and the numbers that show it."""

    code: str
    count: int
    place: Place | None
    facts: dict[str, Any] = field(default_factory=dict)


Judge = Callable[[Record], Diagnosis | None]
JUDGES: dict[str, Judge] = {}


def judge(code: str) -> Callable[[Judge], Judge]:
    """Register the function that judges a code."""

    def register(function: Judge) -> Judge:
        JUDGES[code] = function
        return function

    return register


def _of(code: str, tally: Tally, **facts: Any) -> Diagnosis:
    return Diagnosis(code, tally.count, tally.place, {**tally.facts, **facts})


def _worst(optimizers: list[OptimizerRecord], name: str) -> tuple[OptimizerRecord, Tally] | None:
    """The optimizer at which something was seen most often."""
    found = [(optimizer, getattr(optimizer, name)) for optimizer in optimizers if getattr(optimizer, name).count]
    return max(found, key=lambda pair: pair[1].count, default=None)


# The steps.


@judge("missing-zero-grad")
def missing_zero_grad(record: Record) -> Diagnosis | None:
    """A step used a gradient that still held what an earlier step had used."""
    worst = _worst(record.optimizers, "stale")
    if worst is not None and worst[1].count >= FEW:
        return _of("missing-zero-grad", worst[1], steps=worst[0].num_steps, optimizer=worst[0].name)
    if record.manual_stale.count >= FEW:
        return _of("missing-zero-grad", record.manual_stale, steps=record.num_manual_updates, optimizer="")
    return None


@judge("zero-grad-before-step")
def zero_grad_before_step(record: Record) -> Diagnosis | None:
    """Gradients came, and were gone when the step was taken."""
    worst = _worst(record.optimizers, "cleared")
    if worst is not None and worst[1].count >= max(FEW, worst[0].num_steps / 2):
        return _of("zero-grad-before-step", worst[1], steps=worst[0].num_steps, lost="all")
    for optimizer in record.optimizers:
        # Before each step others came by the same way and were cleared: whole micro-batches are lost. Who works on
        # gradients one by one (projecting, collecting) writes what the step shall use.
        lost, steps = optimizer.lost, optimizer.num_steps
        if _micro_batches(optimizer) == 1 and lost.count >= max(FEW, steps - 1) and optimizer.num_rewritten < steps / 2:
            return _of("zero-grad-before-step", lost, steps=steps, lost="some")
    return None


@judge("missing-step")
def missing_step(record: Record) -> Diagnosis | None:
    """Gradients came into weights, and nothing ever changed those weights."""
    if record.num_scaler_steps or record.num_backwards < FEW:
        return None
    idle = [
        o
        for o in record.optimizers
        if not o.num_steps and o.parameters and o.received and not any(p.changed for p in o.parameters)
    ]
    if idle:
        first = idle[0]
        backwards = max(parameter.received for parameter in first.parameters)
        if backwards < FEW:
            return None
        return Diagnosis("missing-step", backwards, first.backward_place, {"optimizer": first.name})
    if record.optimizers or record.num_manual_updates:
        return None
    trained = [root for root in record.roots if root.num_calls >= 10 and root.calls_in_eval == 0]
    stuck = [name for name, received in record.unchanged if received >= 10]
    if trained and stuck and len(stuck) == record.num_parameters_reached:
        return Diagnosis("missing-step", record.num_backwards, record.backward_place, {"optimizer": ""})
    return None


@judge("missing-backward")
def missing_backward(record: Record) -> Diagnosis | None:
    """Steps were taken, and no gradient ever came to a weight."""
    if record.num_parameters_reached or record.num_gradients:
        return None
    worst = _worst(record.optimizers, "empty")
    if worst is None or worst[1].count < max(FEW, worst[0].num_steps):
        return None
    return _of("missing-backward", worst[1], steps=worst[0].num_steps, backwards=record.num_backwards)


@judge("repeated-step")
def repeated_step(record: Record) -> Diagnosis | None:
    """The same optimizer used the same gradients twice."""
    worst = _worst(record.optimizers, "repeated")
    if worst is None or worst[1].count < FEW:
        return None
    return _of("repeated-step", worst[1], steps=worst[0].num_steps)


@judge("optimizer-of-another-model")
def optimizer_of_another_model(record: Record) -> Diagnosis | None:
    """An optimizer steps, none of its weights ever gets a gradient, and other weights do."""
    for optimizer in record.optimizers:
        if (
            optimizer.num_steps >= FEW
            and optimizer.empty.count == optimizer.num_steps
            and not any(parameter.received for parameter in optimizer.parameters)
            and record.unchanged
        ):
            names = [name for name, _ in record.unchanged]
            return _of("optimizer-of-another-model", optimizer.empty, steps=optimizer.num_steps, names=names)
    return None


@judge("parameters-not-optimized")
def parameters_not_optimized(record: Record) -> Diagnosis | None:
    """Weights of a model that is trained get gradients, and no optimizer holds them."""
    for root in record.roots:
        trained = [p for p in root.parameters.values() if p.received and (p.optimizers or p.changed)]
        left = {name: p for name, p in root.parameters.items() if p.received and not p.optimizers and not p.changed}
        stepped = any(o.num_steps >= FEW for p in trained for o in p.optimizers)
        # Layers that a model keeps in a plain list are not its own: they have no names.
        left |= {p.name: p for p in record.strays if p.received >= max((t.received for t in trained), default=0)}
        if stepped and left:
            numbers = sum(math.prod(p.shape) for p in left.values())
            every = sum(math.prod(p.shape) for p in {**root.parameters, **left}.values())
            place = next((o.made_at or o.place for p in trained for o in p.optimizers), None)
            facts = {"names": list(left), "numbers": numbers, "all_numbers": every, "model": root.name}
            return Diagnosis("parameters-not-optimized", len(left), place, facts)
    return None


@judge("scheduler-before-optimizer")
def scheduler_before_optimizer(record: Record) -> Diagnosis | None:
    """A scheduler stepped before its optimizer ever did."""
    if not record.early_schedulers.count:
        return None
    return _of("scheduler-before-optimizer", record.early_schedulers)


# Accumulation.


def _micro_batches(optimizer: OptimizerRecord) -> int:
    """How many backward calls of the same line make a step, where that is nearly always the same number."""
    steps = sum(optimizer.groups.values())
    if steps < FEW:
        return 1
    size, count = optimizer.groups.most_common(1)[0]
    return size if count >= 0.5 * steps else 1


@judge("accumulation-not-scaled")
def accumulation_not_scaled(record: Record) -> Diagnosis | None:
    """Several micro-batches make a step, and their losses are added as they are."""
    for optimizer in record.optimizers:
        size = _micro_batches(optimizer)
        if size > 1 and optimizer.unscaled.count >= max(FEW, 0.5 * optimizer.num_steps):
            return _of("accumulation-not-scaled", optimizer.unscaled, k=size, steps=optimizer.num_steps)
    return None


@judge("accumulation-tail-dropped")
def accumulation_tail_dropped(record: Record) -> Diagnosis | None:
    """Micro-batches at the end of an epoch, or of the run, reach no step of their own."""
    for optimizer in record.optimizers:
        size = _micro_batches(optimizer)
        if size == 1:
            continue
        if optimizer.dropped.count:
            return _of("accumulation-tail-dropped", optimizer.dropped, k=size, how="cleared")
        mixed = {k: n for k, n in optimizer.groups.items() if k > size}
        if mixed:
            facts = {"k": size, "left": max(mixed) - size, "how": "mixed"}
            return Diagnosis("accumulation-tail-dropped", sum(mixed.values()), optimizer.place, facts)
        if optimizer.left_over and not record.interrupted:
            facts = {"k": size, "left": optimizer.left_over, "how": "end"}
            return Diagnosis("accumulation-tail-dropped", 1, optimizer.place, facts)
    return None


# The loss.


@judge("graph-kept-alive")
def graph_kept_alive(record: Record) -> Diagnosis | None:
    """Graphs of past batches pile up because something holds on to their losses."""
    for kept, what in ((record.passed_again, "again"), (record.losses_kept, "loss"), (record.outputs_kept, "output")):
        if kept.num_rising >= 3 and kept.lasting >= MANY:
            return Diagnosis(
                "graph-kept-alive", kept.peak, kept.place, {"what": what, "backwards": record.num_backwards}
            )
    return None


@judge("loss-not-finite")
def loss_not_finite(record: Record) -> Diagnosis | None:
    """A loss was NaN or infinite."""
    for series in record.losses.values():
        if series.num_nonfinite and math.isfinite(series.first[0]) and series.now.count > 1:
            facts = {"at": series.nonfinite_at, "steps": series.now.count}
            return Diagnosis("loss-not-finite", series.num_nonfinite, series.place, facts)
        if series.num_nonfinite and series.num_nonfinite == series.now.count:
            facts = {"at": 1, "steps": series.now.count}
            return Diagnosis("loss-not-finite", series.num_nonfinite, series.place, facts)
    return None


@judge("learning-rate-too-high")
def learning_rate_too_high(record: Record) -> Diagnosis | None:
    """Steps as long as the weights themselves threw the loss up, and it did not come back."""
    if len(record.losses) != 1:
        return None
    (series,) = record.losses.values()
    optimizer = max(record.optimizers, key=lambda o: o.num_large_moves, default=None)
    if optimizer is None or series.now.count < 10 or optimizer.num_large_moves < FEW:
        return None
    start = abs(series.first[0])
    finite = [loss for loss in series.last if math.isfinite(loss)]
    thrown = series.largest > 1.5 * start or series.num_nonfinite
    back = bool(finite) and len(finite) == len(series.last) and sum(finite) / len(finite) < 0.7 * start
    if not thrown or back or series.first[0] <= 0:
        return None
    facts = {
        "largest": series.largest,
        "at": series.largest_at,
        "first": series.first[0],
        "lr": optimizer.lr,
        "move": optimizer.largest_move,
        "nonfinite_at": series.nonfinite_at,
    }
    return Diagnosis("learning-rate-too-high", optimizer.num_large_moves, optimizer.place, facts)


@judge("softmax-before-cross-entropy")
def softmax_before_cross_entropy(record: Record) -> Diagnosis | None:
    """The graph of the loss has a softmax right below the cross-entropy's own."""
    if record.softmax.count < FEW:
        return None
    return _of("softmax-before-cross-entropy", record.softmax, graphs=record.num_graphs_read)


# Modes.


@judge("eval-mode-while-training")
def eval_mode_while_training(record: Record) -> Diagnosis | None:
    """Steps came from outputs of a model in eval mode whose layers care about it."""
    for root in record.roots:
        every = root.steps_in_eval.count + root.num_steps_in_train
        if root.steps_in_eval.count >= max(FEW, 0.1 * every):
            layers = root.sensitive or [root.dropped]
            return _of("eval-mode-while-training", root.steps_in_eval, steps=every, layers=layers)
    return None


@judge("validation-builds-graph")
def validation_builds_graph(record: Record) -> Diagnosis | None:
    """A model that is trained is called in eval mode with gradients on, and no backward call follows."""
    for root in record.roots:
        calls = root.calls_without_backward
        if calls.count >= FEW and _is_trained(root):
            return _of("validation-builds-graph", calls, calls=root.calls_in_eval)
    return None


def _is_trained(root: RootRecord) -> bool:
    return any(
        parameter.received and (parameter.optimizers or parameter.changed) for parameter in root.parameters.values()
    )


# The writer.


@judge("writer-closed-early")
def writer_closed_early(record: Record) -> Diagnosis | None:
    """Something was written after close(): each such close costs a new file."""
    for writer in record.writers:
        if writer.written_after_close.count:
            facts = {"closes": writer.num_closes, "folder": writer.folder}
            place = writer.written_after_close.facts.get("closed_at") or writer.written_after_close.place
            return Diagnosis("writer-closed-early", writer.written_after_close.count, place, facts)
    return None


@judge("writer-left-open")
def writer_left_open(record: Record) -> Diagnosis | None:
    """A writer made inside was not closed, up to the moment of asking."""
    for writer in record.writers:
        if writer.made_inside and writer.num_written and writer.open():
            facts = {"folder": writer.folder, "written": writer.num_written}
            return Diagnosis("writer-left-open", 1, writer.place, facts)
    return None


@judge("scalar-as-image")
def scalar_as_image(record: Record) -> Diagnosis | None:
    """add_image was given a number."""
    return _of("scalar-as-image", record.scalar_images) if record.scalar_images.count else None


@judge("waits-every-step")
def waits_every_step(record: Record) -> Diagnosis | None:
    """The program reads from the accelerator at nearly every step."""
    if record.num_steps < 10 or record.num_waits < 0.9 * record.num_steps:
        return None
    place, count = record.waits.most_common(1)[0]
    return Diagnosis("waits-every-step", count, place, {"steps": record.num_steps, "waits": record.num_waits})


# The logged numbers.


def _wrong(reading: Reading | None) -> str | None:
    """The code for what a tag's numbers are, or None where they are a mean, a batch's loss or no loss."""
    if reading is None or reading.origin == "batch" or reading.counts[1] <= 1:
        return None
    summed = reading.divisor == FIXED
    if reading.origin == "start":
        return "loss-never-reset" if summed else _divided(reading)
    if summed and reading.fixed == 1:
        return "loss-not-averaged"
    return _divided(reading)


def _divided(reading: Reading) -> str | None:
    if reading.divisor == FIXED:
        # Windows of a fixed length are now and then cut short, or run on into the next one, at the end of an epoch.
        return "wrong-divisor" if reading.num_off > reading.agreed / 2 else None
    if reading.weighted:
        return None if reading.divisor == SAMPLES else "wrong-divisor"
    right = SAMPLES if reading.series.reduction == "sum" else BATCHES
    if reading.divisor == right or reading.series.reduction is None:
        return None
    return "wrong-divisor" if reading.divisor == SAMPLES else None


def _tags(record: Record, code: str) -> Iterator[tuple[Tag, Reading]]:
    for tag in record.ledger.tags.values():
        reading = tag.meaning()
        if reading is not None and _wrong(reading) == code and not _is_one_step(record, reading):
            yield tag, reading


def _is_one_step(record: Record, reading: Reading) -> bool:
    """Whether shares of a loss were added up, no more of them than make the whole: a sum over one step is its mean."""
    whole = reading.divisor == FIXED and reading.fixed == 1 and reading.counts[1] * reading.series.scale <= 1 + 1e-6
    return whole and any(_micro_batches(optimizer) > 1 for optimizer in record.optimizers)


def _judge_tags(record: Record, code: str) -> Diagnosis | None:
    found = list(_tags(record, code))
    if not found:
        return None
    tag, reading = found[0]
    facts = {"tag": tag.name, "reading": reading, "tags": [t.name for t, _ in found], "logs": tag.num_logs}
    return Diagnosis(code, tag.num_logs, tag.place, facts)


@judge("loss-never-reset")
def loss_never_reset(record: Record) -> Diagnosis | None:
    """A tag's numbers are a sum since the run began."""
    return _judge_tags(record, "loss-never-reset")


@judge("loss-not-averaged")
def loss_not_averaged(record: Record) -> Diagnosis | None:
    """A tag's numbers are a sum over an epoch or a window."""
    return _judge_tags(record, "loss-not-averaged")


@judge("wrong-divisor")
def wrong_divisor(record: Record) -> Diagnosis | None:
    """A tag's numbers are a sum divided by something else than what was added."""
    return _judge_tags(record, "wrong-divisor")


# What is often reported and does no harm.


@judge("harmless-here")
def harmless_here(record: Record) -> Diagnosis | None:
    """Habits that look like mistakes and change nothing here."""
    habits = []
    for optimizer in record.optimizers:
        if optimizer.zeroed_after_step.count >= FEW:
            habits.append(("zero-grad-after-step", optimizer.zeroed_after_step))
            break
    for root in record.roots:
        if not root.sensitive and not root.calls_dropout and root.evaluated_in_train.count >= FEW and _is_trained(root):
            habits.append(("no-eval-mode", root.evaluated_in_train))
            break
    for writer in record.writers:
        if writer.closed_again.count:
            habits.append(("closed-twice", writer.closed_again))
            break
    if not habits:
        return None
    place = habits[0][1].place
    return Diagnosis("harmless-here", len(habits), place, {"habits": [name for name, _ in habits]})


# Which finding is the story, and which only follows from it.
FOLLOWS = {
    "missing-zero-grad": {"learning-rate-too-high", "loss-not-finite"},
    "learning-rate-too-high": {"loss-not-finite"},
    "repeated-step": {"learning-rate-too-high", "loss-not-finite"},
    "accumulation-not-scaled": {"learning-rate-too-high", "loss-not-finite"},
    "missing-backward": {"missing-step", "optimizer-of-another-model", "parameters-not-optimized"},
    "optimizer-of-another-model": {"missing-step", "parameters-not-optimized", "missing-zero-grad"},
    "zero-grad-before-step": {"missing-step", "accumulation-tail-dropped"},
    "missing-step": {"missing-zero-grad", "parameters-not-optimized", "scheduler-before-optimizer"},
}


def verdicts(record: Record) -> list[tuple[Diagnosis, list[Diagnosis]]]:
    """Judge a record: each cause with what follows from it, causes in the order of `JUDGES`.

    Args:
        record: what was seen.
    """
    found = {code: verdict for code, function in JUDGES.items() if (verdict := function(record)) is not None}
    consequences = {after for code in found for after in FOLLOWS.get(code, ()) if after in found}
    return [
        (verdict, [found[after] for after in FOLLOWS.get(code, ()) if after in found])
        for code, verdict in found.items()
        if code not in consequences
    ]
