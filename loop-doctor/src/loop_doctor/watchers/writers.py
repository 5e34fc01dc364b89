"""TensorBoard writers: when they are closed, and what is logged."""

import functools
import inspect
import weakref
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from loop_doctor.call_sites import CallSites, Location
from loop_doctor.graph import is_number
from loop_doctor.identity_map import IdentityMap
from loop_doctor.records import Record, WriterRecord
from loop_doctor.watchers.device_reads import DeviceReadWatcher
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope
from loop_doctor.watchers.windows import holds_window

WRITES = ("add_scalar", "add_scalars", "add_image", "add_images", "add_histogram", "add_figure", "add_text")
MAX_WRITERS = 256


class WriterWatcher:
    """Watches `torch.utils.tensorboard.SummaryWriter`, if TensorBoard is installed."""

    def __init__(self, record: Record, scope: Scope, sites: CallSites, reads: DeviceReadWatcher):
        self._record, self._scope, self._sites, self._reads = record, scope, sites, reads
        self._writers: IdentityMap[WriterRecord] = IdentityMap()

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place."""
        if find_spec("tensorboard") is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        patches.wrap(SummaryWriter, "__init__", self._init)
        patches.wrap(SummaryWriter, "close", self._close)
        for name in WRITES:
            patches.wrap(SummaryWriter, name, functools.partial(self._write, name))

    def _init(self, original: AnyFunction) -> AnyFunction:
        signature = inspect.signature(original)

        def init(writer: Any, *args: Any, **kwargs: Any) -> None:
            original(writer, *args, **kwargs)
            if self._scope.sees():
                given = signature.bind(writer, *args, **kwargs).arguments
                folder = str(given.get("log_dir") or getattr(writer, "log_dir", ""))
                self._know(writer, WriterRecord(weakref.ref(writer), folder, True, self._sites.current()))

        return init

    def _know(self, writer: Any, record: WriterRecord) -> WriterRecord:
        self._writers.put(writer, record)
        if len(self._record.writers) < MAX_WRITERS:
            self._record.writers.append(record)
        return record

    def _known(self, writer: Any) -> WriterRecord:
        known = self._writers.get(writer)
        if known is None:
            known = self._know(writer, WriterRecord(weakref.ref(writer), str(writer.log_dir), False, None))
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
                self._log(str(given.get("tag")), given.get("scalar_value"))
            elif name == "add_scalars":
                for tag, value in dict(given.get("tag_scalar_dict") or {}).items():
                    self._log(f"{given.get('main_tag')}/{tag}", value)
            return result

        return write

    def _log(self, tag: str, value: Any) -> None:
        self._reads.read_by_writer(value)
        number = self._scope.unseen(float, value.detach() if isinstance(value, Tensor) else value)
        ledger = self._record.ledger
        ledger.log(tag, number, self._sites.current())
        logged = ledger.tags.get(tag)
        if logged is not None and logged.num_logs == 2 and (lengths := logged.possible_windows()):
            logged.has_window = holds_window(self._sites.user_frames(), lengths)

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
