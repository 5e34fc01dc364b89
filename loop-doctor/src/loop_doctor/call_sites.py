"""Where in the learner's code the program is, and what the loop's own counters say."""

import inspect
import os
import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

import torch
from torch.optim import Optimizer

from loop_doctor.record import Place

SURE = 8  # looks after which only the names that held whole numbers are looked at
DEPTH = 6  # frames of the learner's that are looked at

# PyTorch's files and these are passed over; at the frames of whoever runs a cell, a test or a script the search ends.
_PASSED = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.abspath(__file__)) + os.sep)
_READERS = (f"torch{os.sep}_tensor.py", f"torch{os.sep}_tensor_str.py")  # print(loss) and f"{loss:.3f}"
_TRANSPARENT = ("contextlib.py", "functools.py")
_OUTER = tuple(f"{os.sep}{name}{os.sep}" for name in ("IPython", "ipykernel", "_pytest", "pluggy"))


class Frames:
    """Finds the learner's frames among those of PyTorch and of the doctor."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._places: dict[tuple[str, int, int], tuple[CodeType, Place]] = {}
        self._ways: dict[tuple[tuple[str, int, int], ...], tuple[int, CodeType | None, Place | None]] = {
            (): (0, None, None)
        }

    def learner(self, most: int = DEPTH) -> list[FrameType]:
        """The learner's frames, the innermost first, at most so many of them."""
        frame: FrameType | None = sys._getframe(1)
        found: list[FrameType] = []
        known = self._known
        while frame is not None and len(found) < most:
            file = frame.f_code.co_filename
            kind = known.get(file)
            if kind is None:
                kind = known[file] = _kind(file)
            if kind == "outer":
                break
            if kind == "learner":
                found.append(frame)
            frame = frame.f_back
        return found

    def reads(self) -> bool:
        """Whether a reading of a number was asked for by the learner, and not by an optimizer or by the doctor."""
        frame = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename.endswith(_READERS):
            frame = frame.f_back
        return frame is not None and not frame.f_code.co_filename.startswith(_PASSED)

    def place(self) -> Place | None:
        """The line of the learner's that runs now, or None where there is none."""
        frames = self.learner(1)
        return self.place_of(frames[0]) if frames else None

    def place_of(self, frame: FrameType) -> Place:
        """The line at which a frame stands. Python counts the lines anew each time, so what was found is kept."""
        spot, code = spot_of(frame), frame.f_code
        known, place = self._places.get(spot, (None, None))
        if known is not code:  # two texts that were both compiled as "<string>" have the same spots
            place = Place(code.co_filename, frame.f_lineno, code.co_name)
            if len(self._places) < 1024:
                self._places[spot] = code, place
        return place

    def way(self, frames: list[FrameType]) -> tuple[int, Place | None]:
        """The way that the program has come through these frames, as a number, and the line at which it stands.

        A number, because a way is a key again and again, and all of its spots are slow to hash.
        """
        spots, code = tuple(map(spot_of, frames)), frames[0].f_code if frames else None
        number, known, place = self._ways.get(spots, (len(self._ways), None, None))
        if known is not code:
            place = self.place_of(frames[0])
            self._ways[spots] = number, code, place
        return number, place


def spot_of(frame: FrameType) -> tuple[str, int, int]:
    """The instruction at which a frame stands, as a key. Code objects would do, but to hash one costs microseconds."""
    code = frame.f_code
    return code.co_filename, code.co_firstlineno, frame.f_lasti


def _kind(file: str) -> str:
    if file.startswith(_PASSED) or file.endswith(_TRANSPARENT):
        return "passed"
    if file.startswith("<frozen") or any(part in file for part in _OUTER):
        return "outer"
    return "learner"


class LoopVariables:
    """Where no DataLoader says when an epoch begins, the whole numbers in the learner's own loop often do.

    A counter that falls back (`for i, batch in enumerate(...)`) begins anew; one that changes seldom and by one
    (`for epoch in range(...)`) has gone on.
    """

    def __init__(self) -> None:
        self.epoch: object = None
        self._last: dict[tuple[str, int, str], int] = {}
        self._still: dict[tuple[str, int, str], int] = {}
        self._names: dict[tuple[str, int], tuple[str, ...]] = {}
        self._looks = 0
        self._falls = False

    def _variables(self, frame: FrameType) -> Iterator[tuple[str, Any]]:
        code = frame.f_code
        function = code.co_filename, code.co_firstlineno
        names = self._names.get(function)
        if names is None:
            inside = code.co_flags & inspect.CO_OPTIMIZED
            names = code.co_varnames + code.co_cellvars + code.co_freevars if inside else code.co_names
            self._names[function] = names
        if not names:
            return
        values = frame.f_locals
        for name in names:
            if name in values:
                yield name, values[name]

    def look(self, frames: list[FrameType]) -> None:
        """Compare the whole numbers in these frames with those at the last look."""
        self._looks += 1
        fell = grew = False
        if self._looks == SURE:  # by now every counter of the loop has been seen
            self._names = {
                function: tuple(name for name in names if (*function, name) in self._last)
                for function, names in self._names.items()
            }
        for frame in frames:
            for name, value in self._variables(frame):
                if type(value) is not int:
                    continue
                key = (frame.f_code.co_filename, frame.f_code.co_firstlineno, name)
                last = self._last.get(key)
                self._last[key] = value
                if last is None or value == last:
                    self._still[key] = self._still.get(key, 0) + 1
                    continue
                still, self._still[key] = self._still.get(key, 0), 0
                if value < last and still == 0 and self._looks > 2:
                    fell = True
                elif value == last + 1 and still >= 2:
                    grew = True
        self._falls = self._falls or fell
        if self.epoch is None or fell or (grew and not self._falls):
            self.epoch = object()

    def optimizers(self, frames: list[FrameType]) -> list[Optimizer]:
        """The optimizers that the learner's own variables name."""
        return [value for frame in frames for _, value in self._variables(frame) if isinstance(value, Optimizer)]
