"""Find the user's own frames: where an event came from, and by which path the program reached it."""

import os
import sys
from dataclasses import dataclass
from types import CodeType, FrameType

import torch

MAX_FRAMES = 6  # how many of the user's frames are looked at
MAX_LOCATIONS = 1024

Spot = tuple[str, int, int]

# Frames of PyTorch and of this package are skipped, and those of libraries that train if the user's code called them.
# The search ends at whatever runs a cell, a test or a script.
_SKIPPED = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.abspath(__file__)) + os.sep)
_READERS = (f"torch{os.sep}_tensor.py", f"torch{os.sep}_tensor_str.py")  # print(loss) and f"{loss:.3f}"
_TRANSPARENT = ("contextlib.py", "functools.py")
_TRAINERS = ("lightning", "pytorch_lightning", "lightning_fabric", "accelerate", "transformers", "ignite", "fastai")
_LIBRARIES = tuple(f"-packages{os.sep}{name}{os.sep}" for name in (*_TRAINERS, "fastcore", "skorch", "trl"))
_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "script.py")  # runs a script under the doctor
_RUNNERS = tuple(f"{os.sep}{name}{os.sep}" for name in ("IPython", "ipykernel", "_pytest", "pluggy"))


@dataclass(frozen=True)
class Location:
    """A line of the user's code at which something happened."""

    file: str
    line: int
    function: str


class CallSites:
    """Finds the user's frames among those of PyTorch and of the doctor."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}
        self._skipped: tuple[str, ...] = _SKIPPED
        # Where a loss is computed, the user's outer frames matter only if a library may be between them.
        self.loss_depth = MAX_FRAMES if any(name in sys.modules for name in _TRAINERS) else 1
        self._locations: dict[Spot, tuple[CodeType, Location]] = {}
        self._paths: dict[tuple[Spot, ...], tuple[int, CodeType | None, Location | None]] = {(): (0, None, None)}

    def user_frames(self, limit: int = MAX_FRAMES) -> list[FrameType]:
        """Return the user's frames, innermost first, at most `limit` of them."""
        frame: FrameType | None = sys._getframe(1)
        found: list[FrameType] = []
        library: list[FrameType] = []
        kinds = self._kinds
        while frame is not None and len(found) < limit:
            file = frame.f_code.co_filename
            kind = kinds.get(file)
            if kind is None:
                kind = kinds[file] = _kind(file, self._skipped)
            if kind == "runner":
                break
            if kind == "user":
                found.append(frame)
            elif kind == "library" and len(library) < limit:
                library.append(frame)
            frame = frame.f_back
        return found or library

    def skip(self, folder: str) -> None:
        """Skip the frames of a library too: its files are not the user's."""
        self._skipped = (*self._skipped, folder)
        self._kinds.clear()

    def called_by_user(self) -> bool:
        """Return whether the user's code, and not an optimizer or the doctor, called the function that asks."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename.endswith(_READERS):
            frame = frame.f_back
        return frame is not None and not frame.f_code.co_filename.startswith(_SKIPPED)

    def current(self) -> Location | None:
        """Return the line of the user's code that is running, or None if there is none."""
        frames = self.user_frames(1)
        return self.location_of(frames[0]) if frames else None

    def location_of(self, frame: FrameType) -> Location:
        """Return the line that a frame is running. Python counts lines on every request, so the answer is kept."""
        spot, code = spot_of(frame), frame.f_code
        known = self._locations.get(spot)
        if known is not None and known[0] is code:  # two sources both compiled as "<string>" share their spots
            return known[1]
        location = Location(code.co_filename, frame.f_lineno, code.co_name)
        if len(self._locations) < MAX_LOCATIONS:
            self._locations[spot] = code, location
        return location

    def call_path(self, frames: list[FrameType]) -> tuple[int, Location | None]:
        """Number the path through these frames, and return that number and the line the innermost frame is running.

        A number, because a path is used as a key again and again, and hashing all of its spots is slow.
        """
        spots, code = tuple(map(spot_of, frames)), frames[0].f_code if frames else None
        number, known, location = self._paths.get(spots, (len(self._paths), None, None))
        if known is not code:
            location = self.location_of(frames[0])
            self._paths[spots] = number, code, location
        return number, location


def spot_of(frame: FrameType) -> Spot:
    """Return the instruction a frame is at, as a key. A code object would do, but hashing one costs microseconds."""
    code = frame.f_code
    return code.co_filename, code.co_firstlineno, frame.f_lasti


def _kind(file: str, skipped: tuple[str, ...] = _SKIPPED) -> str:
    if file == _SCRIPT:
        return "runner"
    if file.startswith(skipped) or file.endswith(_TRANSPARENT):
        return "skipped"
    if file.startswith("<frozen") or any(part in file for part in _RUNNERS):
        return "runner"
    return "library" if any(part in file for part in _LIBRARIES) else "user"


def is_user_file(file: str) -> bool:
    """Return whether a file is neither PyTorch's, nor the doctor's, nor what runs a cell, a test or a script."""
    return _kind(file) in ("user", "library")
