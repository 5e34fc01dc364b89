"""A watch: all watchers over one block, from its beginning to its end.

A user's loop is watched from outside: PyTorch's global hooks for optimizers, wrappers around a few functions, hooks on
nodes of the autograd graph. All of them are removed at the end.
"""

import sys

from loop_doctor.call_sites import CallSites
from loop_doctor.parameters import ParameterRegistry
from loop_doctor.records import Record
from loop_doctor.watchers.backward import BackwardWatcher
from loop_doctor.watchers.device_reads import DeviceReadWatcher
from loop_doctor.watchers.epochs import EpochWatcher
from loop_doctor.watchers.inputs import InputWatcher
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
        self._inputs = InputWatcher(*shared)
        losses = LossWatcher(*shared, self._models, self._epochs, self._inputs)
        self._backward = BackwardWatcher(
            *shared, self._parameters, self._models, self._epochs, losses, self._optimizers, self._inputs
        )
        reads = DeviceReadWatcher(*shared)
        self._watchers = (
            self._optimizers,
            self._models,
            self._backward,
            losses,
            self._inputs,
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

    def end(self, *, interrupted: bool) -> None:
        """Remove everything again, and complete the record."""
        self.scope.end()
        self._patches.remove()
        record = self.record
        self._models.finish()
        record.losses_kept.forget()
        record.outputs_kept.forget()
        record.interrupted = interrupted
        record.tensorboardx = "tensorboardX" in sys.modules
        record.ledger.fold()
        self._backward.finish()
        self._optimizers.finish()
        self._inputs.finish()
        self._parameters.release()
        self._epochs.finish()
