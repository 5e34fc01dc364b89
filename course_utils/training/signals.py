"""Signals: Ctrl-C, a notebook's stop button, and preemption end a run after its step instead of inside it."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

# Ctrl-C, and what schedulers send before they take a machine back. Windows has no SIGUSR1.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class Received:
    """The signal that ended a run.

    Attributes:
        signum: the first signal, or a SIGTERM or SIGUSR1 that followed Ctrl-C; None while there was none.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    def exit(self) -> None:
        """Do what SIGTERM or SIGUSR1 asked for; return if there was no signal, or only Ctrl-C.

        Call this when the run is saved and the handlers are restored. A handler of the program's own gets the signal
        now. Without one, the process exits.

        Raises:
            SystemExit: with the code 128 + the signal, as a shell reports it.
        """
        if self.signum is None or self.signum == signal.SIGINT:
            return
        if signal.getsignal(self.signum) == signal.SIG_DFL:
            raise SystemExit(128 + self.signum)
        signal.raise_signal(self.signum)


@contextlib.contextmanager
def finish_step_on_signal(stop: Callable[[], None]) -> Iterator[Received]:
    """Call `stop` at the first Ctrl-C, SIGTERM or SIGUSR1, and restore the handlers at the end.

    After a first signal of any kind, Ctrl-C raises KeyboardInterrupt at once. Further SIGTERMs and SIGUSR1s do not
    disturb a run that is being saved. Signals that are ignored, as under `nohup`, or handled in C, as by
    `faulthandler.register`, stay as they are. Outside the main thread nothing is handled.
    """
    received, process, before = Received(), os.getpid(), _handlers()

    def on_signal(signum: int, frame: object) -> None:
        if os.getpid() != process:
            # A process that was forked during the run. Ctrl-C and SIGUSR1 are its parent's business, but a request to
            # terminate is for this one.
            if signum == signal.SIGTERM:
                signal.signal(signum, before[signum])
                signal.raise_signal(signum)
            return
        first = received.signum is None
        if first or received.signum == signal.SIGINT:
            received.signum = signum
        if first:
            handlers.enter_context(_workers_may_end())
            if signal.SIGINT in before:
                signal.signal(signal.SIGINT, before[signal.SIGINT])
            stop()

    with contextlib.ExitStack() as handlers:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in before.items():
                handlers.callback(signal.signal, signum, handler)
                signal.signal(signum, on_signal)
        yield received


@contextlib.contextmanager
def _workers_may_end() -> Iterator[None]:
    """Ignore that the workers of a DataLoader end: whoever signals a whole process group ends them too.

    PyTorch raises that as a RuntimeError wherever the main process is just then.
    """
    child_ended = getattr(signal, "SIGCHLD", None)  # Windows has none
    before = None if child_ended is None else signal.getsignal(child_ended)
    if child_ended is None or not callable(before):
        yield
        return

    def on_child_ended(signum: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):
            before(signum, frame)

    signal.signal(child_ended, on_child_ended)
    try:
        yield
    finally:
        signal.signal(child_ended, before)


def _handlers() -> dict[int, Any]:
    """Return the handlers of SIGNALS, but not of those that are ignored or handled in C."""
    in_c = _with_handlers()
    handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
    return {
        signum: handler
        for signum, handler in handlers.items()
        if callable(handler) or (handler == signal.SIG_DFL and not in_c >> (signum - 1) & 1)
    }


def _with_handlers() -> int:
    """Return the signals for which this process has a handler, one bit each; 0 where the system does not report them.

    Linux does. A handler in C is not known to Python, which still reports the default.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")), 0)
