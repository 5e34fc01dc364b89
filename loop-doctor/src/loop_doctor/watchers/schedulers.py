"""Learning-rate schedulers: whether they step before their optimizer, and in which rhythm."""

import math
import weakref
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data.dataloader import _DatasetKind

from loop_doctor.call_sites import CallSites
from loop_doctor.identity_map import IdentityMap
from loop_doctor.ledger import Series, Tag
from loop_doctor.records import PlateauRecord, Record, ScheduleRecord, Tally
from loop_doctor.records.schedules import FIRST, PassCount
from loop_doctor.sources import call_text
from loop_doctor.watchers.accuracies import AccuracyWatcher
from loop_doctor.watchers.epochs import EpochWatcher
from loop_doctor.watchers.optimizers import OptimizerWatcher
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope

MAX_SCHEDULES = 64
MAX_NUMBERS = 16
COUNTERS = ("last_epoch", "_step_count")  # of every scheduler

# The argument that says how long a schedule is.
LENGTHS = {
    "CosineAnnealingLR": "T_max",
    "OneCycleLR": "total_steps",
    "LinearLR": "total_iters",
    "PolynomialLR": "total_iters",
    "StepLR": "step_size",
    "MultiStepLR": "milestones",
}


@dataclass(eq=False, slots=True)
class _Pass:
    """The pass that an optimizer is in, and how many batches had been delivered at its first step."""

    count: PassCount = field(default_factory=PassCount)
    source: object = None
    delivered: int = 0


class PassWatcher:
    """Counts in how many passes over the data each optimizer makes its steps."""

    def __init__(self, scope: Scope, epochs: EpochWatcher):
        self._scope, self._epochs = scope, epochs
        self._passes: IdentityMap[_Pass] = IdentityMap()

    def of(self, optimizer: Optimizer) -> PassCount:
        """Return the passes of one optimizer."""
        return (self._passes.get(optimizer) or self._passes.put(optimizer, _Pass())).count

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count a step of an optimizer."""
        if not self._scope.sees():
            return
        known = self._passes.get(optimizer) or self._passes.put(optimizer, _Pass())
        iterator, count = self._epochs.iterator, known.count
        source = known.source() if isinstance(known.source, weakref.ref) else known.source
        if count.num == 0 or source is not (self._epochs.variables.epoch if iterator is None else iterator):
            count.begin()
            # Keeping an iterator alive would keep its worker processes running.
            known.source = self._epochs.variables.epoch if iterator is None else weakref.ref(iterator)
            known.delivered = getattr(iterator, "_num_yielded", 0)
        elif count.steps == 1 and getattr(iterator, "_num_yielded", 0) > known.delivered:
            count.batches = _num_batches(iterator)
        count.steps += 1


class SchedulerWatcher:
    """Watches the steps of schedulers."""

    def __init__(
        self,
        record: Record,
        scope: Scope,
        sites: CallSites,
        optimizers: OptimizerWatcher,
        epochs: EpochWatcher,
        accuracies: AccuracyWatcher,
    ):
        self._accuracies = accuracies
        self._record, self._scope, self._sites, self._optimizers = record, scope, sites, optimizers
        self._passes = PassWatcher(scope, epochs)
        self._schedules: IdentityMap[ScheduleRecord] = IdentityMap()
        self._plateaus: IdentityMap[PlateauRecord] = IdentityMap()
        self._sums: dict[int, dict[int, tuple[float, int]]] = {}
        self._rows: dict[int, dict[int, tuple[int, int]]] = {}
        self._followed: list[tuple[weakref.ref[Any], ScheduleRecord]] = []

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place."""
        patches.on_removal(register_optimizer_step_pre_hook(self._passes.before_step).remove)
        patches.wrap(lr_scheduler.LRScheduler, "_initial_step", self._initial_step)
        patches.wrap(lr_scheduler.ReduceLROnPlateau, "__init__", self._plateau_init)
        for kind in _subclasses(lr_scheduler.LRScheduler):
            if "step" in vars(kind):
                patches.wrap(kind, "step", self._step)

    def finish(self) -> None:
        """Count the optimizer steps after the last step of each schedule."""
        for reference, schedule in self._followed:
            if reference() is not None:
                schedule.count_steps()
        self._followed.clear()

    def _initial_step(self, original: AnyFunction) -> AnyFunction:
        """A scheduler's constructor calls step() once, which is not the user's step."""
        silent = self._silently(original)

        def initial_step(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            result = silent(scheduler, *args, **kwargs)
            if self._scope.sees():
                # A library's function, or one of the user's, often makes the scheduler and is given the length.
                frames = self._sites.user_frames(2) if len(self._followed) < MAX_SCHEDULES else []
                self._know(scheduler, "".join(map(call_text, frames)))
            return result

        return initial_step

    def _plateau_init(self, original: AnyFunction) -> AnyFunction:
        def init(scheduler: Any, *args: Any, **kwargs: Any) -> None:
            original(scheduler, *args, **kwargs)
            if self._scope.sees():
                self._accuracies.wanted = True

        return init

    def _step(self, original: AnyFunction) -> AnyFunction:
        silent = self._silently(original)

        def step(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._scope.sees():
                return original(scheduler, *args, **kwargs)
            self._record.num_scheduler_steps += 1
            if self._record.num_scheduler_steps == 1:
                self._look_whether_early(scheduler)
            if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                result = silent(scheduler, *args, **kwargs)
                self._note_metric(scheduler, args[0] if args else kwargs.get("metrics"))
                return result
            schedule = self._schedules.get(scheduler) or self._know(scheduler, "")
            gap = schedule.count_steps()
            new = gap not in schedule.gaps
            if schedule.num_steps == 1 and not schedule.optimizer.num_steps:
                # Not in the wrong order: a resumed run catches up, or these are the micro-batches of the first step.
                self._record.early_schedulers = Tally()
            schedule.step(gap, self._sites.current() if new or schedule.location is None else None)
            schedule.given_epoch = schedule.given_epoch or bool(args or kwargs)
            try:
                return silent(scheduler, *args, **kwargs)
            except ValueError:
                total = getattr(scheduler, "total_steps", None)
                if isinstance(scheduler, lr_scheduler.OneCycleLR) and scheduler.last_epoch > (total or 0):
                    schedule.ended, schedule.location = True, self._sites.current()
                raise
            finally:
                _note_rate(schedule, scheduler.optimizer)

        return step

    def _silently(self, original: AnyFunction) -> AnyFunction:
        """One step() may call another, which is not the user's."""

        def silent(*args: Any, **kwargs: Any) -> Any:
            if not self._scope.sees():
                return original(*args, **kwargs)
            return self._scope.unseen(original, *args, **kwargs)

        return silent

    def _look_whether_early(self, scheduler: Any) -> None:
        """Notice a schedule that steps before its optimizer has made a step."""
        optimizer = scheduler.optimizer
        record = self._optimizers.know(optimizer)
        if not self._record.num_scaler_steps and not record.num_steps and not getattr(optimizer, "_opt_called", False):
            self._record.early_schedulers.note(self._sites.current(), name=type(scheduler).__name__)

    def _know(self, scheduler: Any, source: str) -> ScheduleRecord:
        optimizer = self._optimizers.know(scheduler.optimizer)
        kind = next((kind.__name__ for kind in type(scheduler).__mro__ if kind.__name__ in LENGTHS), "")
        schedule = ScheduleRecord(type(scheduler).__name__, optimizer, self._passes.of(scheduler.optimizer))
        schedule.argument, schedule.source = LENGTHS.get(kind, ""), source
        schedule.function = not schedule.argument
        schedule.numbers = _numbers(scheduler, schedule.argument)
        schedule.optimizer_steps = optimizer.num_steps
        _note_rate(schedule, scheduler.optimizer)
        self._schedules.put(scheduler, schedule)
        if len(self._followed) < MAX_SCHEDULES:
            self._record.schedules.schedules.append(schedule)
            gone = weakref.ref(scheduler, lambda _: schedule.count_steps())
            self._followed.append((gone, schedule))
        return schedule

    def _note_metric(self, scheduler: Any, metric: Any) -> None:
        """Note a metric, and what the losses were in the meantime."""
        plateau = self._plateaus.get(scheduler)
        if plateau is None:
            plateau = self._plateaus.put(scheduler, PlateauRecord(scheduler.mode, Tag("", None)))
            plateau.location = self._sites.current()
            self._record.schedules.plateaus.append(plateau)
            self._optimizers.know(scheduler.optimizer)
        plateau.num_steps += 1
        self._accuracies.wanted = plateau.num_steps < FIRST
        if plateau.num_steps > FIRST:
            return
        rate = _rate(scheduler.optimizer)
        value = float(metric.detach() if isinstance(metric, Tensor) else metric)
        self._record.ledger.fold()
        plateau.tag.log(value, list(self._record.ledger.series.values()))
        shares = self._accuracies.shares()
        plateau.num_right += _is_one_of(value, shares)
        plateau.num_wrong += _is_one_of(value, [1 - share for share in shares])
        plateau.whole = plateau.whole and type(metric) is int
        plateau.metrics.append(value)
        plateau.losses.append(self._mean_since(plateau, list(self._record.losses.values())))
        plateau.rows.append(self._rows_since(plateau))
        plateau.note_rate(rate)

    def _mean_since(self, plateau: PlateauRecord, every: list[Series]) -> float | None:
        """Return the mean of the only series that has grown since the last metric, or None."""
        before, grown = self._sums.setdefault(id(plateau), {}), []
        for series in every:
            last, now = before.get(id(series), (0.0, 0)), series.now
            before[id(series)] = now.losses, now.batches
            if now.batches > last[1]:
                grown.append((now.losses - last[0]) / (now.batches - last[1]))
        return grown[0] if len(grown) == 1 else None

    def _rows_since(self, plateau: PlateauRecord) -> tuple[int, ...]:
        """Return on how many rows each model was evaluated or trained since the last metric."""
        before, found = self._rows.setdefault(id(plateau), {}), set()
        for model in self._record.models:
            last, now = before.get(id(model), (0, 0)), (model.rows_evaluated, model.rows_trained)
            before[id(model)] = now
            found |= {now[0] - last[0], now[1] - last[1]}
        return tuple(sorted(found - {0}))


def _note_rate(schedule: ScheduleRecord, optimizer: Optimizer) -> None:
    rate = _rate(optimizer)
    if rate is not None:
        schedule.note_rate(rate)


def _is_one_of(metric: float, shares: list[float]) -> bool:
    """Return whether a metric is one of these shares, or that share in percent."""
    return any(abs(metric - scale * share) <= 1e-5 * scale for share in shares for scale in (1.0, 100.0))


def _rate(optimizer: Optimizer) -> float | None:
    """Return the highest rate of all groups, or None if it has to be fetched from an accelerator."""
    rates = [group["lr"] for group in optimizer.param_groups]
    if any(isinstance(rate, Tensor) and not rate.is_cpu for rate in rates):
        return None
    return float(max(rates))


def _numbers(scheduler: Any, argument: str) -> tuple[int, ...]:
    """Return how long a schedule is: the value of its argument, or the whole numbers that its function uses."""
    if argument == "milestones":
        return tuple(sorted(scheduler.milestones))[-1:]
    if argument:
        length = getattr(scheduler, argument, None)
        return (int(length),) if isinstance(length, int | float) and math.isfinite(length) else ()
    parts = getattr(scheduler, "_schedulers", None)
    if isinstance(scheduler, lr_scheduler.SequentialLR) and parts:
        last = _numbers(parts[-1], LENGTHS.get(type(parts[-1]).__name__, ""))
        return (scheduler._milestones[-1] + last[0],) if len(last) == 1 else ()
    found: list[int] = []
    if type(scheduler).__module__ != lr_scheduler.__name__:
        found += [value for name, value in vars(scheduler).items() if type(value) is int and name not in COUNTERS]
    for function in getattr(scheduler, "lr_lambdas", ()):
        cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _is_full(cell)]
        given = (*getattr(function, "args", ()), *(getattr(function, "keywords", None) or {}).values())
        owner = vars(function.__self__) if hasattr(getattr(function, "__self__", None), "__dict__") else {}
        found += [value for value in (*cells, *given, *owner.values()) if type(value) is int]
    return tuple(dict.fromkeys(found))[:MAX_NUMBERS]


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a variable of the enclosing function that has no value yet
        return False


def _num_batches(iterator: Any) -> int:
    """Return how many batches a DataLoader's iterator delivers in all, or 0 if that is not known."""
    if getattr(iterator, "_dataset_kind", None) != _DatasetKind.Map:
        return 0
    sampler = iterator._index_sampler
    return len(sampler) if hasattr(type(sampler), "__len__") else 0


def _subclasses(kind: type) -> set[type]:
    """Return a class and everything derived from it."""
    return {kind}.union(*map(_subclasses, kind.__subclasses__()))
