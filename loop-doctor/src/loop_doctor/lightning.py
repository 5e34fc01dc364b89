"""A callback for Lightning: `Trainer(callbacks=[DoctorCallback()])` watches each call of `fit`."""

import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from loop_doctor.bridges import Bridge
from loop_doctor.doctor import LoopDoctor

NAMES = ("lightning.pytorch", "pytorch_lightning")
MISSING = "loop_doctor.lightning needs Lightning: install it with `pip install lightning`"


def _library() -> Any:
    """Return Lightning under the name by which the user has imported it, or else the one that is installed."""
    for name in NAMES:
        if name in sys.modules:
            return sys.modules[name]
    for name in NAMES:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
    raise ImportError(MISSING)


Callback: Any = _library().Callback


class DoctorCallback(Callback):
    """Watches `fit`, and prints the doctor's card at its end, also after an error.

    Args:
        fail_on: raise a RuntimeError after a run with such findings: `"problem"`, `"hint"`, or a list of codes.
            `"never"` only reports them.
        ignore: codes that are not reported.
    """

    def __init__(self, *, fail_on: str | Iterable[str] = "never", ignore: str | Iterable[str] = ()):
        super().__init__()
        self._bridge = Bridge(fail_on, ignore)

    @property
    def doctor(self) -> LoopDoctor | None:
        """The doctor of the latest run, or None before the first."""
        return self._bridge.doctor

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Begin to watch when `fit` begins."""
        if stage == "fit":
            self._bridge.enter()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Stop watching when `fit` ends."""
        self._bridge.leave(show=trainer.is_global_zero)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Stop watching after an error or Ctrl-C."""
        self._bridge.leave(exception, show=trainer.is_global_zero)
