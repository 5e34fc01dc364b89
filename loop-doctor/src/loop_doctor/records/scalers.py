"""What was seen of the GradScalers."""

from dataclasses import dataclass, field

from loop_doctor.call_sites import Location
from loop_doctor.records.parts import Tally


@dataclass(eq=False)
class ScalerRecord:
    """One GradScaler that is enabled.

    Attributes:
        made_at: the line that made it.
        loaded: whether its state came from another one.
        updated_at: where update() was called last.
        unscaled: the optimizers whose gradients were unscaled since the last update().
        stepped: the optimizers that it stepped since then, and where.
    """

    number: int
    made_at: Location | None = None
    loaded: bool = False
    num_scales: int = 0
    num_updates: int = 0
    updated_at: Location | None = None
    unscaled: set[int] = field(default_factory=set)
    stepped: dict[int, Location | None] = field(default_factory=dict)


@dataclass(eq=False)
class ScalingRecord:
    """What was wrong with the use of GradScalers.

    Attributes:
        not_updated: a step, and no update() since the last one.
        twice: unscale_() once more for the same step.
        direct: the optimizer stepped by itself, with gradients that still carried the factor.
        not_scaled: scaler.step(), with gradients that never carried the factor.
        alone: update() without a step before it.
        early: update() between backward() and the step that uses its gradients.
    """

    factor_read: bool = False  # the user's own lines asked for the factor since the last backward call
    not_updated: Tally = field(default_factory=Tally)
    twice: Tally = field(default_factory=Tally)
    direct: Tally = field(default_factory=Tally)
    not_scaled: Tally = field(default_factory=Tally)
    alone: Tally = field(default_factory=Tally)
    early: Tally = field(default_factory=Tally)
