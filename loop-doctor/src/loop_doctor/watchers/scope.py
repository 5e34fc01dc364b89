"""Which events belong to a watch."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

is_compiling, get_ident = torch.compiler.is_compiling, threading.get_ident  # asked at every layer


class Scope:
    """The thread that opened the block, for as long as the block is open."""

    def __init__(self) -> None:
        self.active = False
        self.muted = False
        self.has_cuda = False
        self._thread = 0

    def begin(self) -> None:
        """Open the scope for this thread."""
        self._thread = get_ident()
        self.has_cuda = torch.cuda.is_available()
        self.active = True

    def end(self) -> None:
        """Close the scope."""
        self.active = False

    def in_other_thread(self) -> bool:
        """Return whether the block is open, but in another thread."""
        return self.active and get_ident() != self._thread

    def sees(self) -> bool:
        """Return whether an event belongs to this watch.

        It does not if a compiler only traces, if a CUDA graph is being captured, or in another thread. The compiler
        reads this too: it takes the first answer as a constant and leaves out the rest of a hook.
        """
        return (
            not is_compiling()
            and self.active
            and not self.muted
            and get_ident() == self._thread
            and not (self.has_cuda and capturing())
        )

    def unseen(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Call a function whose own events are not the user's."""
        self.muted = True
        try:
            return function(*args, **kwargs)
        finally:
            self.muted = False


def capturing() -> bool:
    """Return whether the card's work is only captured into a CUDA graph: no number exists yet, so none may be read."""
    if not torch.cuda.is_initialized():
        return False
    return torch.cuda.is_current_stream_capturing()
