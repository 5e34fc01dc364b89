"""Windows of a fixed length that the user's variables hold: until one is full, its mean is the mean of everything."""

from collections import deque
from types import FrameType
from typing import Any

DEPTH = 4  # a meter in a dictionary of a logger in a variable
MAX_OBJECTS = 2000


def holds_window(frames: list[FrameType], lengths: set[int]) -> bool:
    """Return whether a variable, or an object or a container in one, holds a limited `deque` that is so long."""
    level, count = [value for frame in frames for value in frame.f_locals.values()], 0
    for _ in range(DEPTH):
        if any(isinstance(value, deque) and value.maxlen is not None and len(value) in lengths for value in level):
            return True
        count += len(level)
        level = [part for value in level for part in _parts(value)][: MAX_OBJECTS - count]
    return False


def _parts(value: Any) -> list[Any]:
    """Return what an object of the user's holds; modules and classes belong to the whole program."""
    if isinstance(value, list | tuple):
        return list(value[:64])
    if isinstance(value, dict):
        return list(value.values())[:64]
    if isinstance(value, type) or type(value).__module__ == "builtins":
        return []
    return list(getattr(value, "__dict__", {}).values())[:64]
