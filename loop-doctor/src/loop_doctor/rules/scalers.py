"""Rules for the use of a GradScaler."""

from loop_doctor.records import Record
from loop_doctor.rules.base import FEW, Diagnosis, rule


@rule("scaler-misused")
def scaler_misused(record: Record) -> Diagnosis | None:
    """The calls of a GradScaler are not in the order that it needs, or some of them are missing."""
    code, scaling = "scaler-misused", record.scaling
    if scaling.direct.count >= FEW or (scaling.direct.count and scaling.alone.count):
        return Diagnosis.of(code, scaling.direct, "direct")
    if scaling.not_scaled.count >= FEW or scaling.not_scaled.facts.get("never"):
        return Diagnosis.of(code, scaling.not_scaled, "not-scaled")
    # PyTorch raises an error at the first of these.
    for variant, tally in (
        ("not-updated", scaling.not_updated),
        ("twice", scaling.twice),
        ("alone", scaling.alone),
    ):
        if tally.count:
            return Diagnosis.of(code, tally, variant)
    if scaling.early.count >= FEW:
        return Diagnosis.of(code, scaling.early, "early")
    for optimizer in record.optimizers:
        location, count = max(optimizer.num_scalers.items(), key=lambda item: item[1], default=(None, 0))
        if location is not None and count > FEW:
            return Diagnosis(code, count, location, variant="recreated")
    return None
