"""A time limit for a function that somebody else wrote, on any thread and any system."""

import ctypes
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

# How many times `TimeLimitExceeded` is raised before a trace function is tried.
PLAIN = 5
# How often the watcher looks, and how long the imports of one call may take in addition, in seconds.
TICK, IMPORTS = 0.05, 120.0


class TimeLimitExceeded(BaseException):
    """The time is over. This is not an `Exception`, so that a learner's `except Exception` does not catch it."""


class _RaisedTwice(TimeLimitExceeded):
    """Raised after the first ones were caught: if it is caught too, it is raised again on the handler's next line.

    A loop may spend almost all its time in one call inside a `try`. Then each `TimeLimitExceeded` arrives there, and a
    bare `except:` catches each one. Python creates the exception in the learner's own thread, where a trace function
    can be set.
    """

    def __init__(self) -> None:
        # From Python 3.12 on, the trace may begin as late as the loop's next turn, back inside the `try`. So it waits
        # until it has seen a `TimeLimitExceeded` itself: the line after that is the handler's.
        seen = False

        def raise_again(frame: types.FrameType, event: str, argument: Any) -> Callable | None:
            nonlocal seen
            if _is_ours(frame):
                return None
            if event == "exception":
                seen = seen or issubclass(argument[0], TimeLimitExceeded)
            elif event == "line" and seen:
                raise TimeLimitExceeded  # and Python removes the trace function
            return raise_again

        frame: types.FrameType | None = sys._getframe(1)
        while frame is not None and not _is_ours(frame):
            frame.f_trace = raise_again
            frame = frame.f_back
        sys.settrace(raise_again)


def _is_ours(frame: types.FrameType) -> bool:
    return frame.f_globals.get("__name__", "").startswith("course_utils.checks.")


class TimeLimit:
    """Call a function once, and raise `TimeLimitExceeded` in it, repeatedly, from the moment its time is over.

    The time of imports does not count, and nothing is raised during one: PyTorch imports much of itself when the
    first optimizer is made, and an interrupted import leaves half a module behind, which fails ever after.

    A second thread watches the clock and asks Python to raise. A signal could also end a call that waits, but it works
    on the main thread only and not on Windows, and somebody else may be using the timer. So Ctrl-C stays as it is, and
    a call that waits outside Python ends by itself or by Ctrl-C. The exception is raised repeatedly because a bare
    `except:` in an endless loop catches it.

    Attributes:
        seconds: the time, in seconds.
        fired: whether the time was over before the function ended, even if the function caught the exception.
    """

    def __init__(self, seconds: float):
        self.seconds, self.fired = seconds, False
        self._begun = False

    def call(self, function: Callable[[], None]) -> None:
        """Call `function()`; once this returns or raises, no `TimeLimitExceeded` can be raised any more.

        Raises:
            TimeLimitExceeded: the time was over.
        """
        gate, ended = threading.Lock(), threading.Lock()
        gate.acquire()
        ended.acquire()
        thread, trace = ctypes.c_ulong(threading.get_ident()), sys.gettrace()
        watcher = threading.Thread(target=self._watch, args=(gate, ended, thread), name="check-clock", daemon=True)
        interrupt: KeyboardInterrupt | None = None
        try:
            # The clock starts only now: an exception raised inside `Thread.start` would break the locks in there.
            watcher.start()
            self._begun = True
            function()
        finally:
            # Python raises what another thread asked for after a call or at a turn of a loop. So this one call into C
            # comes first: an __exit__ of ours could be interrupted before its first line. From here on at most two
            # exceptions are left, the one already asked for and the one that the watcher is about to ask for, and
            # perhaps a Ctrl-C: after three attempts nothing can interrupt the fourth. The handlers call nothing.
            try:
                gate.release()
            except TimeLimitExceeded:
                pass
            except KeyboardInterrupt as error:
                interrupt = error
            try:
                _clear(watcher, ended, thread, trace)
            except TimeLimitExceeded:
                pass
            except KeyboardInterrupt as error:
                interrupt = error
            try:
                _clear(watcher, ended, thread, trace)
            except TimeLimitExceeded:
                pass
            except KeyboardInterrupt as error:
                interrupt = error
            _clear(watcher, ended, thread, trace)
            if interrupt is not None:
                raise interrupt

    def _watch(self, gate: threading.Lock, ended: threading.Lock, thread: ctypes.c_ulong) -> None:
        left, imports, times = self.seconds, IMPORTS, 0
        before = time.monotonic()
        while not gate.acquire(timeout=min(TICK, left if left > 0 else 0.02)):
            now = time.monotonic()
            passed, before = now - before, now
            if not self._begun:
                continue
            if imports > 0 and _imports(thread.value):
                imports -= passed
                continue
            left -= passed
            if left > 0:
                continue
            self.fired, times = True, times + 1
            _ask(thread, TimeLimitExceeded if times < PLAIN else _RaisedTwice)
        ended.release()


def _imports(thread: int) -> bool:
    """Return whether a thread is importing a module."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_name == "_find_and_load" and frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _clear(watcher: threading.Thread, ended: threading.Lock, thread: ctypes.c_ulong, trace: Any) -> None:
    """Wait until the watcher has ended and use up the exception that it may have asked for; safe to repeat."""
    sys.settrace(trace)
    while watcher.ident is not None and ended.locked():
        time.sleep(0.0005)
    watcher.join()
    # Cancelling with PyThreadState_SetAsyncExc(thread, None) would leave Python 3.11 and 3.12 looking for an exception
    # for ever: loops get slower, and 3.11 hangs in the first function that a debugger traces.
    try:
        _ask(thread, TimeLimitExceeded)
        while True:  # until it is raised here
            pass
    except TimeLimitExceeded:
        pass


def _ask(thread: ctypes.c_ulong, error: type[TimeLimitExceeded]) -> None:
    """Ask Python to raise an exception in a thread, in place of one that it was asked for and has not raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(error))
