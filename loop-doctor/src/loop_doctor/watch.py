"""A watch: all watchers over one block, from its beginning to its end.

A user's loop is watched from outside: PyTorch's global hooks for optimizers, wrappers around a few functions, hooks on
nodes of the autograd graph. All of them are removed at the end.
"""

import sys
from types import TracebackType

from loop_doctor.call_sites import CallSites
from loop_doctor.endings import ending_of
from loop_doctor.parameters import ParameterRegistry
from loop_doctor.records import Record
from loop_doctor.watchers.backward import BackwardWatcher
from loop_doctor.watchers.device_reads import DeviceReadWatcher
from loop_doctor.watchers.epochs import EpochWatcher
from loop_doctor.watchers.losses import LossWatcher
from loop_doctor.watchers.models import ModelWatcher
from loop_doctor.watchers.optimizers import OptimizerWatcher
from loop_doctor.watchers.patches import Patches
from loop_doctor.watchers.schedulers import SchedulerWatcher
from loop_doctor.watchers.scope import Scope
from loop_doctor.watchers.writers import WriterWatcher


class Watch:
    """Watches the thread that began it, from `begin` to `end`, and fills in `record`."""

    def __init__(self) -> None:
        self.record, self.scope = Record(), Scope()
        shared = self.record, self.scope, CallSites()
        self._patches, self._parameters = Patches(), ParameterRegistry()
        self._models = ModelWatcher(*shared, self._parameters)
        self._optimizers = OptimizerWatcher(*shared, self._parameters, self._models)
        self._epochs = EpochWatcher(self.scope)
        losses = LossWatcher(*shared, self._models, self._epochs)
        self._backward = BackwardWatcher(
            *shared, self._parameters, self._models, self._epochs, losses, self._optimizers
        )
        reads = DeviceReadWatcher(*shared)
        self._watchers = (
            self._optimizers,
            self._models,
            self._backward,
            losses,
            SchedulerWatcher(*shared, self._optimizers),
            self._epochs,
            WriterWatcher(*shared, reads),
            reads,
        )

    def begin(self) -> None:
        """Put all hooks and wrappers in place."""
        self.scope.begin()
        for watcher in self._watchers:
            watcher.install(self._patches)

    def end(self, error: BaseException | None, trace: TracebackType | None = None) -> None:
        """Remove everything again, and complete the record, also with the error that ended the block."""
        self.scope.end()
        self._patches.remove()
        record = self.record
        self._models.finish()
        record.losses_kept.forget()
        record.outputs_kept.forget()
        record.interrupted = error is not None and not isinstance(error, SystemExit)
        record.tensorboardx = "tensorboardX" in sys.modules
        record.ledger.fold()
        self._backward.finish()
        self._optimizers.finish()
        if isinstance(error, Exception):  # the user's own wish to stop is no error
            record.ending = ending_of(error, trace, record, list(self._parameters.alive.values()))
        self._parameters.release()
        self._epochs.finish()
