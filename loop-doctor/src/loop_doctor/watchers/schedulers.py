"""Learning-rate schedulers: whether they step before their optimizer."""

from typing import Any

from torch.optim import lr_scheduler

from loop_doctor.call_sites import CallSites
from loop_doctor.records import Record
from loop_doctor.watchers.optimizers import OptimizerWatcher
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope


class SchedulerWatcher:
    """Watches the steps of schedulers."""

    def __init__(self, record: Record, scope: Scope, sites: CallSites, optimizers: OptimizerWatcher):
        self._record, self._scope, self._sites, self._optimizers = record, scope, sites, optimizers

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place."""
        patches.wrap(lr_scheduler.LRScheduler, "_initial_step", self._silently)
        for kind in _subclasses(lr_scheduler.LRScheduler):
            if "step" in vars(kind):
                patches.wrap(kind, "step", self._step)

    def _step(self, original: AnyFunction) -> AnyFunction:
        silent = self._silently(original)

        def step(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            if self._scope.sees():
                self._record.num_scheduler_steps += 1
                optimizer = scheduler.optimizer
                record = self._optimizers.know(optimizer)
                first = self._record.num_scheduler_steps == 1 and not self._record.num_scaler_steps
                if first and not record.num_steps and not getattr(optimizer, "_opt_called", False):
                    self._record.early_schedulers.note(self._sites.current(), name=type(scheduler).__name__)
            return silent(scheduler, *args, **kwargs)

        return step

    def _silently(self, original: AnyFunction) -> AnyFunction:
        """A scheduler's constructor calls step(), and one step() may call another: those are not the user's."""

        def silent(*args: Any, **kwargs: Any) -> Any:
            if not self._scope.sees():
                return original(*args, **kwargs)
            return self._scope.unseen(original, *args, **kwargs)

        return silent


def _subclasses(kind: type) -> set[type]:
    """Return a class and everything derived from it."""
    return {kind}.union(*map(_subclasses, kind.__subclasses__()))
