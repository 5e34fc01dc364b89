"""A watch: all watchers over one block, from its beginning to its end.

A user's loop is watched from outside: PyTorch's global hooks for optimizers, wrappers around a few functions, hooks on
nodes of the autograd graph. All of them are removed at the end.
"""

from types import TracebackType

from loop_doctor.call_sites import CallSites
from loop_doctor.endings import ending_of
from loop_doctor.parameters import ParameterRegistry
from loop_doctor.records import Record
from loop_doctor.watchers.backward import BackwardWatcher
from loop_doctor.watchers.checkpoints import CheckpointWatcher
from loop_doctor.watchers.clipping import ClipWatcher
from loop_doctor.watchers.data import DataWatcher
from loop_doctor.watchers.device_reads import DeviceReadWatcher
from loop_doctor.watchers.epochs import EpochWatcher
from loop_doctor.watchers.imports import Imports
from loop_doctor.watchers.inputs import InputWatcher
from loop_doctor.watchers.logged import LoggedValues
from loop_doctor.watchers.losses import LossWatcher
from loop_doctor.watchers.models import ModelWatcher
from loop_doctor.watchers.modes import ModeWatcher
from loop_doctor.watchers.optimizers import OptimizerWatcher
from loop_doctor.watchers.patches import Patches
from loop_doctor.watchers.printed import PrintWatcher
from loop_doctor.watchers.runs import RunWatcher
from loop_doctor.watchers.scalers import ScalerWatcher
from loop_doctor.watchers.schedulers import SchedulerWatcher
from loop_doctor.watchers.scope import Scope
from loop_doctor.watchers.writers import WriterWatcher


class Watch:
    """Watches the thread that began it, from `begin` to `end`, and fills in `record`."""

    def __init__(self) -> None:
        self.record, self.scope = Record(), Scope()
        shared = self.record, self.scope, CallSites()
        self._patches, self._parameters = Patches(), ParameterRegistry()
        self._epochs = EpochWatcher()
        self._modes = ModeWatcher(*shared, self._parameters, self._epochs)
        self._models = ModelWatcher(*shared, self._parameters, self._modes)
        self._data = DataWatcher(*shared, self._epochs, self._models.accuracies)
        self._clips = ClipWatcher(*shared, self._parameters)
        self._optimizers = OptimizerWatcher(*shared, self._parameters, self._models, self._clips, self._epochs)
        scalers = ScalerWatcher(*shared, self._parameters, self._optimizers, self._clips)
        self._inputs = InputWatcher(*shared)
        losses = LossWatcher(*shared, self._models, self._epochs, self._modes, self._inputs)
        self._backward = BackwardWatcher(
            *shared, self._parameters, self._models, self._epochs, losses, self._optimizers, scalers, self._inputs
        )
        self._schedulers = SchedulerWatcher(*shared, self._optimizers, self._epochs, self._models.accuracies)
        reads, imports = DeviceReadWatcher(*shared), Imports(shared[2])
        values = LoggedValues(*shared, reads)
        self._watchers = (
            self._optimizers,
            self._modes,
            self._clips,
            scalers,
            self._models,
            self._backward,
            losses,
            self._inputs,
            self._schedulers,
            self._data,
            CheckpointWatcher(*shared),
            reads,
            imports,
            WriterWatcher(*shared, values, imports),
            RunWatcher(self.scope, values, imports),
            PrintWatcher(*shared, imports),
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
        self._modes.finish()
        self._models.finish()
        record.losses_kept.forget()
        record.outputs_kept.forget()
        record.interrupted = error is not None and not isinstance(error, SystemExit)
        record.ledger.fold()
        self._backward.finish()
        self._optimizers.finish()
        self._schedulers.finish()
        self._clips.finish()
        if isinstance(error, Exception):  # Ctrl-C and sys.exit() are not errors
            record.ending = ending_of(error, trace, record, list(self._parameters.alive.values()))
        self._inputs.finish()
        self._parameters.release()
        self._epochs.finish()
        self._data.finish()
