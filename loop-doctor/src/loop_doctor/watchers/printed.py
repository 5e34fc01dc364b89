"""Numbers that are only shown: by print(), by tqdm, and by the module `logging`.

A number is looked at if it is handed over as a number. A text such as f"{loss:.4f}" is rounded, and shows nothing.
"""

import builtins
import functools
import logging
import os
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import Tensor

from loop_doctor.call_sites import CallSites
from loop_doctor.records import Record
from loop_doctor.watchers.imports import Imports
from loop_doctor.watchers.logged import flat, is_scalar
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope

MAX_NUMBERS = 8  # of one call
_PLAIN = (str, int, type(None))  # whole numbers are counters
_PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[-#0 +]*(?:\d+|\*)?(?:\.\d+)?([a-zA-Z%])")
_AROUND = " \t\r\n:=,;|[](){}<>-%"
_BETWEEN = re.compile(r"[,;|%\n]")


class PrintWatcher:
    """Watches what is shown to the user, and compares it with the losses."""

    def __init__(self, record: Record, scope: Scope, sites: CallSites, imports: Imports):
        self._record, self._scope, self._sites, self._imports = record, scope, sites, imports

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place."""
        self._sites.skip(os.path.dirname(logging.__file__) + os.sep)
        patches.wrap(builtins, "print", self._print)
        # Here, and not in info(): that one looks at its caller's frame, which has to stay the user's.
        patches.wrap(logging.Logger, "handle", self._handle)
        self._imports.when_imported("tqdm.std", functools.partial(self._watch_tqdm, patches))

    def _watch_tqdm(self, patches: Patches, module: ModuleType) -> None:
        bar = getattr(module, "tqdm", None)
        if bar is not None:
            patches.wrap(bar, "set_postfix", self._set_postfix)

    def _print(self, original: AnyFunction) -> AnyFunction:
        def print(*args: Any, **kwargs: Any) -> None:
            original(*args, **kwargs)
            for each in args:
                if type(each) not in _PLAIN:
                    if self._scope.sees():
                        self._show("printed", labelled(args))
                    return

        return print

    def _handle(self, original: AnyFunction) -> AnyFunction:
        def handle(logger: logging.Logger, record: logging.LogRecord) -> Any:
            if record.args and self._scope.sees():
                self._show("logged", formatted(record.msg, record.args))
            return original(logger, record)

        return handle

    def _set_postfix(self, original: AnyFunction) -> AnyFunction:
        def set_postfix(bar: Any, ordered_dict: Any = None, refresh: bool = True, **kwargs: Any) -> Any:
            if self._scope.sees():
                given = ordered_dict if isinstance(ordered_dict, dict) else {}
                self._show("in a progress bar", flat({**given, **kwargs}))
            return original(bar, ordered_dict, refresh, **kwargs)

        return set_postfix

    def _show(self, how: str, numbers: Iterator[tuple[str, Any]]) -> None:
        location = None
        for count, (label, value) in enumerate(numbers):
            if count == MAX_NUMBERS:
                return
            if type(value) is not float and not may_read(value):
                continue
            location = location or self._sites.current()
            if location is None:
                return
            place = f"{how} at {location.file.rpartition(os.sep)[2]}:{location.line}"
            number = self._scope.unseen(float, value.detach() if isinstance(value, Tensor) else value)
            self._record.ledger.show(f"{label}, {place}" if label else f"{place}, number {count + 1}", number, location)


def may_read(value: Any) -> bool:
    """Return whether a value is a number that can be read at no cost.

    A number on an accelerator is read by the user's own call, if at all, and never a second time.
    """
    on_device = isinstance(value, Tensor) and not value.is_cpu
    return not on_device and not isinstance(value, _PLAIN) and is_scalar(value)


def label_in(text: str) -> str:
    """Return the last name in a text that comes before a number."""
    return _BETWEEN.split(text.strip(_AROUND))[-1].strip()


def labelled(args: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the values that print() received, each with the text before it, or with its name in a dictionary."""
    label = ""
    for each in args:
        if isinstance(each, str):
            label = label_in(each)
        elif isinstance(each, dict):
            yield from ((str(name), value) for name, value in flat(each))
            label = ""
        else:
            yield label, each
            label = ""


def formatted(message: Any, args: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values that a log message received, each with the text before its placeholder."""
    if isinstance(args, dict):
        yield from ((str(name), value) for name, value in flat(args))
        return
    start, labels = 0, []
    for found in _PLACEHOLDER.finditer(message if isinstance(message, str) else ""):
        if found[1] != "%":
            labels.append(label_in(message[start : found.start()]))
            start = found.end()
    for number, value in enumerate(args):
        yield labels[number] if number < len(labels) else "", value
