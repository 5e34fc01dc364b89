"""Windows of a fixed length that the user's variables hold: until one is full, its mean is the mean of everything."""

from collections import deque
from types import FrameType
from typing import Any

DEPTH = 4  # a meter in a dictionary of a logger in a variable
MAX_OBJECTS = 2000
MAX_PARTS = 64


def holds_window(frames: list[FrameType], lengths: set[int]) -> bool:
    """Return whether a variable, or an object or a container in one, holds a limited `deque` that is so long."""
    level, count = [value for frame in frames for value in frame.f_locals.values()], 0
    for _ in range(DEPTH):
        if any(_is_window(value, lengths) for value in level):
            return True
        count += len(level)
        level = [part for value in level for part in _parts(value)][: MAX_OBJECTS - count]
    return False


def _is_window(value: Any, lengths: set[int]) -> bool:
    return issubclass(type(value), deque) and value.maxlen is not None and len(value) in lengths


def _parts(value: Any) -> list[Any]:
    """Return what an object of the user's holds, without calling any of its methods; a dead proxy would raise."""
    kind = type(value)
    if kind in (list, tuple):
        return list(value[:MAX_PARTS])
    if issubclass(kind, dict):
        return list(dict.values(value))[:MAX_PARTS]
    if issubclass(kind, type) or kind.__module__ == "builtins" or not kind.__dictoffset__:
        return []
    return list(object.__getattribute__(value, "__dict__").values())[:MAX_PARTS]
