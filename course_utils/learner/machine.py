"""What the course needs from a machine, whether it has it, and what to do if it does not."""

import importlib.metadata
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from course_utils.learner.record import learner_folder

DISTRIBUTION = "training-loop-course"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)[^;]*?>=\s*(?P<least>[\d.]+)")
INSTALL = "Run `make lab` in the course's folder, or `pip install -e '.[lab]'`; then restart the kernel."


@dataclass(frozen=True)
class MachineCheck:
    """One thing that was checked.

    Attributes:
        name: what was checked.
        ok: whether the course works with it.
        found: what was found, in a few words: a version, a device, a folder.
        advice: what to do if it is not ok, in whole sentences, or "".
    """

    name: str
    ok: bool
    found: str
    advice: str = ""


def look() -> list[MachineCheck]:
    """Check Python, the packages, the device and the folders; nothing is installed or left behind."""
    return [_python(), *_packages(), _device(), *_folders()]


def _python() -> MachineCheck:
    found = platform.python_version()
    try:
        least = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"].removeprefix(">=")
    except importlib.metadata.PackageNotFoundError:
        return MachineCheck("the course's package", False, "not installed", INSTALL)
    ok = sys.version_info[:2] >= _version(least)
    return MachineCheck("Python", ok, found, "" if ok else f"Install Python {least} or newer. {INSTALL}")


def _packages() -> Iterator[MachineCheck]:
    """Compare what is installed with what the course's package and its labs require."""
    try:
        required = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return  # `_python` has reported it
    for line in required:
        words = REQUIREMENT.match(line)
        if words is None or ("extra ==" in line and not re.search(r"extra == ['\"]lab['\"]", line)):
            continue
        name, least = words["name"], words["least"]
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield MachineCheck(name, False, "not installed", INSTALL)
            continue
        ok = _version(found) >= _version(least)
        yield MachineCheck(name, ok, found, "" if ok else f"Version {least} or newer is needed. {INSTALL}")


def _version(text: str) -> tuple[int, ...]:
    """Return the first two numbers of a version, which are all that the course's requirements use."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _device() -> MachineCheck:
    if torch.cuda.is_available():
        return MachineCheck("device", True, f"CUDA, {torch.cuda.get_device_name()}")
    if torch.backends.mps.is_available():
        return MachineCheck("device", True, "MPS, Apple's graphics processor")
    return MachineCheck("device", True, "CPU, which is all that this course needs")


def _folders() -> Iterator[MachineCheck]:
    places = {
        "your own folder": (
            learner_folder(),
            "Set COURSE_LEARNER_DIR to a folder of yours; until then, your answers are kept only in memory.",
        ),
        "the folder for temporary files": (
            Path(tempfile.gettempdir()),
            "Set TMPDIR to a folder that you can write to.",
        ),
    }
    for name, (folder, advice) in places.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            yield MachineCheck(name, False, f"{str(folder)!r} cannot be written ({error.strerror})", advice)
        else:
            yield MachineCheck(name, True, str(folder))
