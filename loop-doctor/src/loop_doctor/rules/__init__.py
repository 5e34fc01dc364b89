"""The rules: what is wrong, and how sure that is. One small function for each code, over what was seen."""

from loop_doctor.records import Record
from loop_doctor.rules import (
    accumulation,
    carried,
    checkpoints,
    clipping,
    curves,
    data,
    harmless,
    inputs,
    losses,
    modes,
    scalers,
    schedules,
    steps,
    writers,
)
from loop_doctor.rules.base import Diagnosis, Rule

# In the order in which findings are reported.
RULES: dict[str, Rule] = {
    found.code: found
    for module in (
        steps,
        accumulation,
        clipping,
        scalers,
        inputs,
        carried,
        losses,
        schedules,
        modes,
        data,
        checkpoints,
        writers,
        curves,
        harmless,
    )
    for found in vars(module).values()
    if isinstance(found, Rule)
}

# What only follows from a finding, and is reported with it.
CONSEQUENCES = {
    "missing-zero-grad": ("gradients-leak-in", "learning-rate-too-high", "loss-not-finite"),
    "gradients-leak-in": ("learning-rate-too-high", "loss-not-finite"),
    "scaler-misused": (
        "clipping-misplaced",
        "learning-rate-too-high",
        "loss-not-finite",
        "missing-step",
        "accumulation-tail-dropped",
    ),
    "learning-rate-too-high": ("loss-not-finite",),
    "repeated-step": ("learning-rate-too-high", "loss-not-finite"),
    "accumulation-not-scaled": ("learning-rate-too-high", "loss-not-finite"),
    "missing-backward": ("missing-step", "optimizer-of-another-model", "parameters-not-optimized"),
    "optimizer-of-another-model": ("missing-step", "parameters-not-optimized", "missing-zero-grad"),
    "zero-grad-before-step": ("missing-step", "clipping-misplaced", "accumulation-tail-dropped"),
    "schedule-out-of-step": ("scheduler-before-optimizer",),
    "missing-step": ("missing-zero-grad", "parameters-not-optimized", "scheduler-before-optimizer"),
}


def diagnoses(record: Record) -> list[tuple[Diagnosis, list[Diagnosis]]]:
    """Apply all rules to a record, and return each cause with its consequences, in the order of `RULES`."""
    found = {code: diagnosis for code, rule in RULES.items() if (diagnosis := rule.check(record)) is not None}
    consequences = {after for code in found for after in CONSEQUENCES.get(code, ()) if after in found}
    return [
        (diagnosis, [found[after] for after in CONSEQUENCES.get(code, ()) if after in found])
        for code, diagnosis in found.items()
        if code not in consequences
    ]
