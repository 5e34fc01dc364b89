"""Numbers that the program reads from an accelerator, and so waits for."""

from typing import Any

from torch import Tensor

from loop_doctor.call_sites import CallSites
from loop_doctor.records import Record
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope

# Reading a number from these devices makes the program wait until the device has finished.
DEVICES_THAT_WAIT = ("cuda",)
READS = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__")


class DeviceReadWatcher:
    """Watches the readings that wait for an accelerator."""

    def __init__(self, record: Record, scope: Scope, sites: CallSites):
        self._record, self._scope, self._sites = record, scope, sites

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place, if there is a device to wait for."""
        if "cpu" in DEVICES_THAT_WAIT or self._scope.has_cuda:
            for name in READS:
                patches.wrap(Tensor, name, self._read)
            patches.wrap(Tensor, "to", self._to)

    def read_by_writer(self, value: Any) -> None:
        """Note that a writer reads a value; its own reading is not the user's line."""
        if isinstance(value, Tensor) and value.device.type in DEVICES_THAT_WAIT:
            self._note()

    def _note(self) -> None:
        self._record.num_waits += 1
        self._record.waits[self._sites.current()] += 1

    def _read(self, original: AnyFunction) -> AnyFunction:
        def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if tensor.device.type in DEVICES_THAT_WAIT and self._scope.sees() and self._sites.called_by_user():
                self._note()
            return original(tensor, *args, **kwargs)

        return read

    def _to(self, original: AnyFunction) -> AnyFunction:
        def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            moved = original(tensor, *args, **kwargs)
            if (
                moved.device.type == "cpu" != tensor.device.type
                and tensor.device.type in DEVICES_THAT_WAIT
                and not (kwargs.get("non_blocking") or any(each is True for each in args))
                and self._scope.sees()
                and self._sites.called_by_user()
            ):
                self._note()
            return moved

        return to
