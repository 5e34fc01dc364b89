"""A limit of time for somebody else's function, on any thread and any system."""

import contextlib
import ctypes
import threading


class TimeUp(BaseException):
    """The time is over. It is no Exception, so that a learner's `except Exception` lets it through."""


class Limit:
    """Raise `TimeUp` in the thread that entered this block, again and again from the moment the time is over.

    Attributes:
        seconds: the time, in seconds.
        fired: whether it was over before the block ended, also where a bare `except:` hid it.

    A second thread watches the clock and asks Python to raise. A signal would end a waiting call too, but works on
    the main thread alone and not on Windows, and a timer may already be used by somebody else. So Ctrl-C stays as it
    is, and a call that waits outside Python ends at its own pace or by Ctrl-C. Again and again, because a bare
    `except:` in an endless loop swallows it; between two turns of the loop nothing can.
    """

    def __init__(self, seconds: float):
        self.seconds, self.fired = seconds, False

    def __enter__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()
        self._watched = ctypes.c_ulong(threading.get_ident())
        self._watcher = threading.Thread(target=self._watch, name="check-clock", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        wait = self.seconds
        while not self._gate.acquire(timeout=wait):
            self.fired, wait = True, 0.02
            ctypes.pythonapi.PyThreadState_SetAsyncExc(self._watched, ctypes.py_object(TimeUp))

    def __exit__(self, *_: object) -> None:
        # The time may be over, or Ctrl-C come, at any point of these lines: they are repeated until the watcher is
        # gone and nothing it asked for is left, so that no later cell is struck.
        interrupted = None
        while True:
            try:
                with contextlib.suppress(RuntimeError):  # it was released before
                    self._gate.release()
                self._watcher.join()
                ctypes.pythonapi.PyThreadState_SetAsyncExc(self._watched, None)
                break
            except TimeUp:
                continue
            except KeyboardInterrupt as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted
