"""A callback for Transformers: `Trainer(callbacks=[DoctorCallback()])` watches each call of `train`."""

import sys
import weakref
from collections.abc import Iterable
from functools import wraps
from typing import Any

from loop_doctor.bridges import Bridge
from loop_doctor.doctor import LoopDoctor

MISSING = "loop_doctor.transformers needs Transformers: install it with `pip install transformers[torch]`"
TOO_LATE = (
    "DoctorCallback was added after the trainer was made, so it could not see an error that ends the training: "
    "pass it to the constructor, Trainer(..., callbacks=[DoctorCallback()])"
)

try:
    import transformers
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise ImportError(MISSING) from error

TrainerCallback: Any = transformers.TrainerCallback


class DoctorCallback(TrainerCallback):
    """Watches `train`, and prints the doctor's card at its end, also after an error.

    Transformers calls its callbacks when training begins and ends, but not when it ends with an error. For this reason
    the callback wraps the `train` method of the trainer that it is passed to.

    Args:
        fail_on: raise a RuntimeError after a run with such findings: `"problem"`, `"hint"`, or a list of codes.
            `"never"` only reports them.
        ignore: codes that are not reported.
    """

    def __init__(self, *, fail_on: str | Iterable[str] = "never", ignore: str | Iterable[str] = ()):
        self._bridge = Bridge(fail_on, ignore)

    @property
    def doctor(self) -> LoopDoctor | None:
        """The doctor of the latest run, or None before the first."""
        return self._bridge.doctor

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wrap the trainer's `train`."""
        trainer = _trainer_that_calls()
        if trainer is not None:
            trainer.train = self._watched(weakref.ref(trainer), type(trainer).train)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a trainer whose `train` is not wrapped."""
        if not self._bridge.watching:
            raise RuntimeError(TOO_LATE)

    def _watched(self, trainer: "weakref.ref[Any]", train: Any) -> Any:
        """Return `train` with a doctor around it, without a reference that keeps the trainer alive."""

        @wraps(train)
        def watched(*args: Any, **kwargs: Any) -> Any:
            owner: Any = trainer()
            if self not in owner.callback_handler.callbacks:  # it was removed from the trainer
                return train(owner, *args, **kwargs)
            show = owner.is_world_process_zero()
            self._bridge.enter()
            try:
                result = train(owner, *args, **kwargs)
            except BaseException as error:
                self._bridge.leave(error, show=show)
                raise
            self._bridge.leave(show=show)
            return result

        return watched


def _trainer_that_calls() -> Any:
    """Return the trainer whose constructor runs now, or None."""
    frame = sys._getframe(1)
    while (frame := frame.f_back) is not None:  # type: ignore[assignment]
        owner = frame.f_locals.get("self") if frame.f_code.co_name == "__init__" else None
        if isinstance(owner, transformers.Trainer):
            return owner
    return None
