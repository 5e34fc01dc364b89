"""A dictionary by identity whose entries disappear together with their keys."""

import weakref
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class IdentityMap(Generic[Value]):
    """Keep a value for an object for as long as the object lives.

    `WeakKeyDictionary` creates a reference at every lookup and asks the object for its hash.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Any], Value]] = {}

    def get(self, key: object) -> Value | None:
        """Return the value of this very object, or None."""
        entry = self._entries.get(id(key))
        return entry[1] if entry is not None and entry[0]() is key else None

    def put(self, key: object, value: Value) -> Value:
        """Keep a value for an object, and return that value."""
        number = id(key)
        self._entries[number] = (weakref.ref(key, lambda _: self._entries.pop(number, None)), value)
        return value
