"""What is replaced in PyTorch while a block is watched, and how it is given back."""

import functools
from collections.abc import Callable
from typing import Any

AnyFunction = Callable[..., Any]


class Patches:
    """Functions and hooks that are put in place, and removed again in reverse order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def on_removal(self, undo: Callable[[], None]) -> None:
        """Call `undo` when everything is removed."""
        self._undo.append(undo)

    def wrap(self, owner: Any, name: str, make: Callable[[AnyFunction], AnyFunction]) -> None:
        """Replace an attribute by what `make` returns for the original."""
        own = vars(owner).get(name)
        original = getattr(owner, name)
        wrapper = functools.wraps(original)(make(original))
        setattr(owner, name, wrapper)

        def undo() -> None:
            if vars(owner).get(name) is not wrapper:  # the user has replaced it since then, and keeps that
                return
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

        self._undo.append(undo)

    def wrap_inside(self, function: AnyFunction, make: Callable[[AnyFunction], AnyFunction]) -> bool:
        """Replace the function that another one only passes its arguments on to, and return whether it does.

        A name that a program imported before stays the same object, and still reaches the replacement.
        """
        cells = function.__closure__ or ()
        if len(cells) != 1 or not callable(cells[0].cell_contents):
            return False
        (cell,), original = cells, cells[0].cell_contents
        cell.cell_contents = functools.wraps(original)(make(original))
        self._undo.append(lambda: setattr(cell, "cell_contents", original))
        return True

    def remove(self) -> None:
        """Remove everything."""
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()
