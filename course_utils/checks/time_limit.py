"""A limit of time for somebody else's function, on any thread and any system."""

import ctypes
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

# So many times `TimeLimitExceeded` is tried without a trace.
PLAIN = 5
# How often the clock looks, and how long the imports of one call may take besides, in seconds.
TICK, IMPORTS = 0.05, 120.0


class TimeLimitExceeded(BaseException):
    """The time is over. It is no Exception, so that a learner's `except Exception` lets it through."""


class _RaisedTwice(TimeLimitExceeded):
    """Raised where the first ones were hidden: one that is hidden is raised once more at the handler's next line.

    Almost all of a loop's time may be spent in one call inside a `try`. Each `TimeLimitExceeded` then comes there, and
    a bare `except:` hides each. Python makes the exception in the learner's own thread, and there a trace can be set.
    """

    def __init__(self) -> None:
        # From Python 3.12 on the trace may begin as late as the loop's next turn, back inside the `try`. So it waits
        # until it has seen a `TimeLimitExceeded` itself: the line after that is the handler's.
        seen = False

        def raise_again(frame: types.FrameType, event: str, argument: Any) -> Callable | None:
            nonlocal seen
            if _is_ours(frame):
                return None
            if event == "exception":
                seen = seen or issubclass(argument[0], TimeLimitExceeded)
            elif event == "line" and seen:
                raise TimeLimitExceeded  # and Python takes the trace away
            return raise_again

        frame = sys._getframe(1)
        while frame is not None and not _is_ours(frame):
            frame.f_trace = raise_again
            frame = frame.f_back
        sys.settrace(raise_again)


def _is_ours(frame: types.FrameType) -> bool:
    return frame.f_globals.get("__name__", "").startswith("course_utils.checks.")


class TimeLimit:
    """Call a function, and raise `TimeLimitExceeded` in it, again and again, from the moment the time is over.

    Time spent in imports does not count, and nothing is raised there: PyTorch loads seconds' worth of itself when the
    first optimizer is made, and an import that is broken off leaves half a module behind, which fails ever after.

    A second thread watches the clock and asks Python to raise. A signal would end a waiting call too, but works on
    the main thread alone and not on Windows, and a timer may already be used by somebody else. So Ctrl-C stays as it
    is, and a call that waits outside Python ends at its own pace or by Ctrl-C. Again and again, because a bare
    `except:` in an endless loop hides it.

    Attributes:
        seconds: the time, in seconds.
        fired: whether it was over before the function ended, also where the function hid it.
    """

    def __init__(self, seconds: float):
        self.seconds, self.fired = seconds, False

    def call(self, function: Callable[[], None]) -> None:
        """Call `function()`; when this returns or raises, no `TimeLimitExceeded` is left that could strike later.

        Raises:
            TimeLimitExceeded: the time was over.
        """
        gate, ended = threading.Lock(), threading.Lock()
        gate.acquire()
        ended.acquire()
        thread, trace = ctypes.c_ulong(threading.get_ident()), sys.gettrace()
        watcher = threading.Thread(target=self._watch, args=(gate, ended, thread), name="check-clock", daemon=True)
        strikes: list[BaseException] = []
        try:
            watcher.start()
            function()
        finally:
            # Python raises what another thread asked for at a call or at a turn of a loop. So this one call into C
            # comes first, not in an __exit__ of ours, which could be struck before its first line, and no loop goes
            # round the rest. From here on at most two are left, the one that was asked for and the one that the
            # watcher is about to ask for, and perhaps a Ctrl-C: after three tries the fourth is left in peace.
            try:
                gate.release()
            except (TimeLimitExceeded, KeyboardInterrupt) as error:
                strikes.append(error)
            try:
                _clear(watcher, ended, thread, trace)
            except (TimeLimitExceeded, KeyboardInterrupt) as error:
                strikes.append(error)
            try:
                _clear(watcher, ended, thread, trace)
            except (TimeLimitExceeded, KeyboardInterrupt) as error:
                strikes.append(error)
            _clear(watcher, ended, thread, trace)
            for strike in strikes:
                if isinstance(strike, KeyboardInterrupt):
                    raise strike

    def _watch(self, gate: threading.Lock, ended: threading.Lock, thread: ctypes.c_ulong) -> None:
        left, imports, times = self.seconds, IMPORTS, 0
        before = time.monotonic()
        while not gate.acquire(timeout=min(TICK, left if left > 0 else 0.02)):
            now = time.monotonic()
            passed, before = now - before, now
            if imports > 0 and _imports(thread.value):
                imports -= passed
                continue
            left -= passed
            if left > 0:
                continue
            self.fired, times = True, times + 1
            error = TimeLimitExceeded if times < PLAIN else _RaisedTwice
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(error))
        ended.release()


def _imports(thread: int) -> bool:
    """Whether a thread is about to load a module."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_name == "_find_and_load" and frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _clear(watcher: threading.Thread, ended: threading.Lock, thread: ctypes.c_ulong, trace: object) -> None:
    """Wait for the watcher's end and take back what it asked for; it may be done several times."""
    sys.settrace(trace)
    while watcher.ident is not None and ended.locked():
        time.sleep(0.0005)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)
    watcher.join()
