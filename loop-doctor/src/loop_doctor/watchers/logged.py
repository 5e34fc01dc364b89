"""Values that are logged, wherever they go: what they are, and at which step."""

import math
from collections.abc import Iterator
from numbers import Real
from typing import Any

from torch import Tensor

from loop_doctor.call_sites import CallSites
from loop_doctor.graph import is_number, wrapped
from loop_doctor.records import Record, StepLog
from loop_doctor.watchers.device_reads import DeviceReadWatcher
from loop_doctor.watchers.scope import Scope
from loop_doctor.watchers.windows import holds_window

MAX_STEP_LOGS = 128

StepLogs = dict[str, StepLog]


class LoggedValues:
    """Compares each logged value with the losses, and each step with the earlier ones."""

    def __init__(self, record: Record, scope: Scope, sites: CallSites, reads: DeviceReadWatcher):
        self._record, self._scope, self._sites, self._reads = record, scope, sites, reads

    def log(self, library: str, logs: StepLogs, tag: str, value: Any, step: Any, *, counts: bool = True) -> None:
        """Note one logged value.

        Args:
            library: "tensorboard", "wandb" or "mlflow".
            logs: the step logs of the writer or run that received it, by tag.
            tag: its name.
            value: a number, or a tensor with one number; anything else is not a scalar.
            step: the step, or None if none was given.
            counts: whether the library uses the step as it is.
        """
        if not is_scalar(value):
            return
        self._reads.read_by_writer(value)
        number = self._scope.unseen(float, value.detach() if isinstance(value, Tensor) else value)
        location = self._sites.current()
        ledger = self._record.ledger
        ledger.log(tag, number, location)
        logged = ledger.tags.get(tag)
        if logged is not None and logged.num_logs == 2 and (lengths := logged.possible_windows()):
            logged.has_window = holds_window(self._sites.user_frames(), lengths)
        whole = whole_step(step)
        if counts and (step is None or whole is not None):
            log = self._step_log(library, logs, tag)
            if log is not None:
                log.log(whole, number, self._progress(), location)

    def _step_log(self, library: str, logs: StepLogs, tag: str) -> StepLog | None:
        found = logs.get(tag)
        if found is None and len(self._record.step_logs) < MAX_STEP_LOGS:
            found = logs[tag] = StepLog(library, tag)
            self._record.step_logs.append(found)
        return found

    def _progress(self) -> tuple[int, int, int]:
        record = self._record
        return record.num_backwards, record.num_steps, sum(model.num_calls for model in record.models)


def is_scalar(value: Any) -> bool:
    """Return whether a value is one real number whose value can be read."""
    if isinstance(value, Tensor):
        return is_number(value) and not value.is_meta and not value.is_complex() and not wrapped(value)
    if isinstance(value, Real):
        return True
    return is_number(value) and getattr(getattr(value, "dtype", None), "kind", "") in tuple("fiub")


def whole_step(step: Any) -> int | None:
    """Return a step as the libraries store it, which is without its fraction; None if it is not a number on the CPU."""
    if isinstance(step, Tensor):
        return int(step.detach()) if step.is_cpu and step.numel() == 1 else None
    return int(float(step)) if isinstance(step, Real) and math.isfinite(step) else None


def flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the names and values of a dictionary, with those of the dictionaries in it."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
