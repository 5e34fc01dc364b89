"""Rules for learning-rate schedules: their rhythm and length, and the metric that a plateau scheduler is given."""

import math
import re
from itertools import pairwise

from loop_doctor.records import PlateauRecord, Record, ScheduleRecord
from loop_doctor.rules.base import FEW, Diagnosis, num_micro_batches, rule

MULTIPLIERS = ("StepLR", "MultiStepLR", "ExponentialLR", "MultiplicativeLR")
RESTARTS = ("CosineAnnealingWarmRestarts", "CyclicLR")
MANY = 8  # optimizer steps at a rate of almost nothing that are more than a last batch or two
COUNTS_BATCHES = re.compile(r"len\(|steps|iter|batch", re.IGNORECASE)
END = 0.01  # the share of the rate that a proposed decay leaves at the end


@rule("schedule-out-of-step")
def schedule_out_of_step(record: Record) -> Diagnosis | None:
    """A schedule is stepped in another rhythm than its length is given in, or its length does not fit the run."""
    for schedule in record.schedules.schedules:
        if schedule.num_steps and (variant := _misfit(schedule, record)):
            return Diagnosis("schedule-out-of-step", schedule.num_steps, schedule.location, _facts(schedule), variant)
    return None


def _misfit(schedule: ScheduleRecord, record: Record) -> str | None:
    """Return in which way a schedule does not fit the run, or None."""
    if schedule.ended:
        return "ended"
    if schedule.name in RESTARTS or schedule.given_epoch:
        return None
    gap, size = schedule.usual_gap(), num_micro_batches(schedule.optimizer)
    if size > 1 and _is_per_micro_batch(schedule, size) and _micro_batches_are_too_many(schedule, record, size):
        return "micro"
    passes = schedule.passes
    if gap == 1 and passes.num >= 2 and passes.per_pass >= 2 and _counts_epochs(schedule):
        return "waves" if schedule.argument == "T_max" else "batch"
    if gap >= 2 and schedule.num_steps >= FEW and _counts_batches(schedule, record, gap):
        is_pass = schedule.argument and schedule.numbers[0] in (passes.batches, passes.per_pass)
        return "pass" if is_pass else "epoch" if schedule.argument else "function"
    if _rises_again(schedule):
        return "past"
    if _is_gone(schedule):
        return "decay" if schedule.name in MULTIPLIERS else "early"
    return None


def _is_gone(schedule: ScheduleRecord, share: float = 0.5) -> bool:
    """Return whether a large part of the steps was made at a rate of almost nothing, after a higher one."""
    if schedule.rate > 1e-3 * schedule.highest or schedule.num_low < MANY:
        return False
    return schedule.num_low >= share * schedule.num_seen or schedule.num_zero >= 0.25 * schedule.num_seen


def _rises_again(schedule: ScheduleRecord) -> bool:
    """Return whether a cosine was stepped past its end, and ended on its way up."""
    if schedule.argument != "T_max" or not schedule.numbers or schedule.numbers[0] < 2:
        return False
    risen = schedule.rate - schedule.lowest > 0.1 * (schedule.highest - schedule.lowest)
    return schedule.numbers[0] < schedule.num_steps < 2 * schedule.numbers[0] and risen


def _is_per_micro_batch(schedule: ScheduleRecord, size: int) -> bool:
    """Return whether most steps of the schedule have no optimizer step before them, as many as micro-batches do."""
    idle = schedule.gaps[0]
    return idle >= 0.8 * (size - 1) / size * schedule.num_steps and schedule.gaps[1] >= FEW


def _micro_batches_are_too_many(schedule: ScheduleRecord, record: Record, size: int) -> bool:
    """Return whether the schedule is over long before the run because it counts micro-batches."""
    if _is_gone(schedule) or _rises_again(schedule):
        return True
    steps = schedule.optimizer.num_steps
    return not record.interrupted and any(abs(number - steps) < size for number in schedule.numbers)


def _counts_epochs(schedule: ScheduleRecord) -> bool:
    """Return whether a schedule that is stepped after each batch has a length or a decay meant for epochs."""
    passes = schedule.passes
    if _is_gone(schedule, 0.3) and schedule.name in MULTIPLIERS:
        return True
    if _is_gone(schedule) and schedule.name == "LambdaLR":
        return True
    number = schedule.numbers[0] if schedule.numbers else 0
    if schedule.argument == "T_max" and schedule.num_steps > 2 * number:
        return number == passes.num or 6 * number <= passes.per_pass
    if schedule.argument == "total_iters" and _is_gone(schedule):
        return number == passes.num
    # All drops fall into the first of several epochs.
    early = 0 < number <= passes.num and schedule.lowered <= 0.1
    return schedule.argument in ("milestones", "step_size") and early and passes.num > FEW


def _counts_batches(schedule: ScheduleRecord, record: Record, gap: int) -> bool:
    """Return whether a schedule that is stepped once in many steps has a length in batches."""
    passes, steps = schedule.passes, schedule.optimizer.num_steps
    for number in schedule.numbers:
        if number <= max(schedule.num_steps, gap - 1) or _is_written_out(schedule.source, number):
            continue
        said = COUNTS_BATCHES.search(schedule.source) is not None
        multiple = any(batches and number % batches == 0 for batches in (passes.batches, passes.per_pass))
        if said and multiple and not schedule.function:
            return True
        whole = {steps, passes.batches * passes.num}
        if number in whole and not record.interrupted and (said or not schedule.source):
            return True
    return False


def _is_written_out(source: str, number: int) -> bool:
    """Return whether the source contains the number literally: then it may count epochs just as well."""
    return re.search(rf"(?<![\w.]){number}(?![\w.])", source) is not None


def _facts(schedule: ScheduleRecord) -> dict[str, object]:
    passes, steps = schedule.passes, schedule.num_steps
    number = schedule.numbers[0] if schedule.numbers else 0
    argument = schedule.argument
    decays = steps / number if argument == "step_size" and number else steps
    return {
        "name": schedule.name,
        "argument": argument or "num_training_steps",
        "number": number,
        "waves": steps / (2 * number) if number else 0.0,
        "steps": steps,
        "optimizer_steps": schedule.optimizer.num_steps,
        "epochs": max(passes.num, 1),
        "batches": passes.batches or passes.per_pass or passes.steps,
        "highest": schedule.highest,
        "last": schedule.rate,
        "low": schedule.num_low,
        "gamma": END ** (1 / max(decays, 1)),
        "k": num_micro_batches(schedule.optimizer),
    }


@rule("plateau-metric-reversed")
def plateau_metric_reversed(record: Record) -> Diagnosis | None:
    """A plateau scheduler is given a metric that should grow and waits for it to fall, or the other way round."""
    for plateau in record.schedules.plateaus:
        variant = _reversal(plateau)
        if variant is not None:
            facts = {
                "first": plateau.metrics[0],
                "last": plateau.metrics[-1],
                "mode": plateau.mode,
                "lowered": plateau.num_lowered,
                "rate": plateau.rates[-1] if plateau.rates else math.nan,
            }
            return Diagnosis("plateau-metric-reversed", plateau.num_steps, plateau.location, facts, variant)
    return None


def _reversal(plateau: PlateauRecord) -> str | None:
    """Return what is wrong with the metrics of a plateau scheduler, or None."""
    metrics = plateau.metrics
    meaning = plateau.tag.meaning()
    if plateau.mode == "max":
        return "loss" if meaning is not None and len(metrics) >= 3 else None
    if meaning is not None or len(metrics) < 4:
        return None
    if plateau.whole and metrics[0] in (0, 1) and all(after == before + 1 for before, after in pairwise(metrics)):
        return "epoch"
    if plateau.num_right >= len(metrics) - 1 and plateau.num_wrong < len(metrics):
        return "accuracy"
    # An error rate also rises if the model learns its training data by heart, but not by this much.
    against = _correlation(metrics, plateau.losses)
    grows = metrics[-1] == max(metrics) > 0 and all(
        _is_share(*pair) for pair in zip(metrics, plateau.rows, strict=True)
    )
    return "accuracy" if grows and metrics[-1] >= 2 * metrics[0] and against is not None and against <= -0.9 else None


def _is_share(metric: float, rows: tuple[int, ...]) -> bool:
    """Return whether a metric is a share, or a percentage, of the rows of one model."""
    scales = (1.0, 100.0) if metric > 1 else (1.0,)
    return any(
        abs(metric / scale * count - round(metric / scale * count)) <= 1e-6 * count and metric <= scale
        for scale in scales
        for count in rows
    )


def _correlation(metrics: list[float], losses: list[float | None]) -> float | None:
    """Return the correlation of the metrics with the losses, or None if it is not known."""
    pairs = [(metric, loss) for metric, loss in zip(metrics, losses, strict=True) if loss is not None]
    if len(pairs) < 4 or not all(math.isfinite(loss) for _, loss in pairs):
        return None
    means = [sum(column) / len(pairs) for column in zip(*pairs, strict=True)]
    moves = [(metric - means[0], loss - means[1]) for metric, loss in pairs]
    widths = [math.sqrt(sum(move * move for move in column)) for column in zip(*moves, strict=True)]
    return sum(a * b for a, b in moves) / (widths[0] * widths[1]) if min(widths) > 0 else None
