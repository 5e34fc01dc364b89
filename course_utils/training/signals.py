"""Ctrl-C, and a notebook's stop button, without a half-finished step."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def finish_step_on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C, or a notebook's stop button, end the run after its step, and a second one at once.

    Outside the main thread, or without a handler for Ctrl-C, nothing changes.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def on_interrupt(signum: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
