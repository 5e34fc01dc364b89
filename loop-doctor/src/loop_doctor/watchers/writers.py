"""TensorBoard writers, of PyTorch and of tensorboardX: when they are closed, and what is logged."""

import functools
import inspect
import weakref
from types import ModuleType
from typing import Any

from loop_doctor.call_sites import CallSites, Location
from loop_doctor.graph import is_number
from loop_doctor.identity_map import IdentityMap
from loop_doctor.records import Record, WriterRecord
from loop_doctor.watchers.imports import Imports
from loop_doctor.watchers.logged import LoggedValues, StepLogs
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope

WRITERS = ("torch.utils.tensorboard", "tensorboardX")
WRITES = ("add_scalar", "add_scalars", "add_image", "add_images", "add_histogram", "add_figure", "add_text")
MAX_WRITERS = 256


class WriterWatcher:
    """Watches each `SummaryWriter`."""

    def __init__(self, record: Record, scope: Scope, sites: CallSites, values: LoggedValues, imports: Imports):
        self._record, self._scope, self._sites = record, scope, sites
        self._values, self._imports = values, imports
        self._writers: IdentityMap[WriterRecord] = IdentityMap()
        self._logs: IdentityMap[StepLogs] = IdentityMap()

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place."""
        for name in WRITERS:
            self._imports.when_imported(name, functools.partial(self._watch, patches))

    def _watch(self, patches: Patches, module: ModuleType) -> None:
        kind = getattr(module, "SummaryWriter", None)
        if kind is None:  # another module of that name, or half of it
            return
        patches.wrap(kind, "__init__", self._init)
        patches.wrap(kind, "close", self._close)
        for name in WRITES:
            patches.wrap(kind, name, functools.partial(self._write, name))

    def _init(self, original: AnyFunction) -> AnyFunction:
        def init(writer: Any, *args: Any, **kwargs: Any) -> None:
            original(writer, *args, **kwargs)
            if self._scope.sees():
                self._know(writer, WriterRecord(weakref.ref(writer), folder_of(writer), True, self._sites.current()))

        return init

    def _know(self, writer: Any, record: WriterRecord) -> WriterRecord:
        self._writers.put(writer, record)
        if len(self._record.writers) < MAX_WRITERS:
            self._record.writers.append(record)
        return record

    def _known(self, writer: Any) -> WriterRecord:
        known = self._writers.get(writer)
        if known is None:
            known = self._know(writer, WriterRecord(weakref.ref(writer), folder_of(writer), False, None))
            known.closed_at = Location("", 0, "") if writer.all_writers is None else None
        return known

    def _write(self, name: str, original: AnyFunction) -> AnyFunction:
        signature = inspect.signature(original)

        def write(writer: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._scope.sees():
                return original(writer, *args, **kwargs)
            record = self._known(writer)
            given = signature.bind_partial(writer, *args, **kwargs).arguments
            if writer.all_writers is None:
                record.written_after_close.note(self._sites.current(), closed_at=record.closed_at)
            if name == "add_image" and is_number(given.get("img_tensor")):
                self._record.scalar_images.note(self._sites.current(), tag=given.get("tag"))
            result = self._scope.unseen(original, writer, *args, **kwargs)
            record.num_written += 1
            record.num_since_close += 1
            if name == "add_scalar":
                self._log(writer, str(given.get("tag")), given.get("scalar_value"), given.get("global_step"))
            elif name == "add_scalars":
                for tag, value in dict(given.get("tag_scalar_dict") or {}).items():
                    self._log(writer, f"{given.get('main_tag')}/{tag}", value, given.get("global_step"))
            return result

        return write

    def _log(self, writer: Any, tag: str, value: Any, step: Any) -> None:
        logs = self._logs.get(writer)
        if logs is None:
            logs = self._logs.put(writer, {})
        self._values.log("tensorboard", logs, tag, value, step)

    def _close(self, original: AnyFunction) -> AnyFunction:
        def close(writer: Any) -> None:
            if self._scope.sees():
                record = self._known(writer)
                if writer.all_writers is None:
                    record.closed_again.note(self._sites.current())
                else:
                    record.num_closes += 1
                    record.closed_at, record.num_since_close = self._sites.current(), 0
            original(writer)

        return close


def folder_of(writer: Any) -> str:
    """Return the folder a writer writes to; the two classes name it differently."""
    return str(getattr(writer, "log_dir", None) or getattr(writer, "logdir", ""))
