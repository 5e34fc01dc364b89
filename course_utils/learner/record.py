"""The learner's own folder: predictions, exercises and cached sweeps, in plain files that anyone can read."""

import json
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from course_utils.errors import quoted
from course_utils.files import exclusive_lock, open_regular, write_atomically

VERSION = 1
# In bytes. The record of a learner who has done everything has some tens of thousands.
LARGEST = 2**24
MOST_TRIES = 10**9
# The fields of an entry in each part, and what each may be. The type is compared as it is: True is not a number.
FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "predictions": {"question": (str,), "guess": (str, type(None)), "outcome": (str,)},
    "exercises": {"tries": (int,), "solved": (bool,)},
}
MAY_BE_MISSING = {"outcome"}

RecordData = dict[str, Any]


def learner_folder() -> Path:
    """Return the folder of the learner's own files: $COURSE_LEARNER_DIR, or `learner` beside the notebooks' folder.

    If the package is not in a checkout but was installed from a wheel, it is `training-loop-learner` in the home
    folder. The folder is not created here.
    """
    chosen = os.environ.get("COURSE_LEARNER_DIR")
    if chosen:
        return Path(os.path.expanduser(chosen))  # as a shell does, it leaves the name of an unknown user as it is
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "notebooks").is_dir():
        return checkout / "learner"
    return Path.home() / "training-loop-learner"


def _empty_record() -> RecordData:
    return {"version": VERSION} | {part: {} for part in FIELDS}


def _check_entry(part: str, name: str, entry: object) -> None:
    kinds = FIELDS[part]
    if (
        not isinstance(entry, dict)
        or not kinds.keys() - MAY_BE_MISSING <= entry.keys() <= kinds.keys()
        or any(type(value) not in kinds[field] for field, value in entry.items())
        or not 0 <= entry.get("tries", 0) <= MOST_TRIES
    ):
        raise ValueError(f"its entry {quoted(name)} is damaged")


def _read(path: Path) -> RecordData:
    """Return the record in a file.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
        ValueError: it is damaged, or not a record of this version.
    """
    with open_regular(path) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    try:
        found = json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict) or type(found.get("version")) is not int or found["version"] != VERSION:
        raise ValueError(f"it is not a record of version {VERSION}")
    if unknown := found.keys() - {"version", *FIELDS}:
        raise ValueError(f"its part {quoted(min(unknown))} is unknown")
    for part in FIELDS:
        if not isinstance(found.get(part), dict):
            raise ValueError(f"its part {part!r} is missing")
        for name, entry in found[part].items():
            _check_entry(part, name, entry)
    # JSON can hold half of a surrogate pair, "\ud800", which no file can: this raises UnicodeEncodeError, a ValueError.
    json.dumps(found, ensure_ascii=False).encode("utf-8")
    return found


class LearnerRecord:
    """What the learner has guessed and solved, in `progress.json` in the learner's folder.

    Several lessons may be open at once. So each change is applied to what the file holds at that moment, by one
    process at a time, and every query reads the file. If the file cannot be written, changes wait in memory, and the
    next successful write saves all of them.

    Args:
        folder: the folder of the file; by default `learner_folder()`.
    """

    def __init__(self, folder: Path | None = None):
        self.path = (folder or learner_folder()) / "progress.json"
        self._thread_lock = threading.RLock()
        self._waiting: list[Callable[[RecordData], None]] = []
        self._warned: list[str] = []
        self._pending: list[str] = []
        with self._thread_lock:
            self._load()

    def news(self) -> str:
        """Return what the learner should know about the record, in sentences, once: the next call returns ""."""
        with self._thread_lock:
            news, self._pending = " ".join(self._pending), []
            return news

    def _warn(self, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.append(sentence)
            self._pending.append(sentence)

    def _load(self) -> RecordData:
        """Return the current record: what is on disk, with the changes that wait in memory."""
        try:
            record = _read(self.path)
        except FileNotFoundError:
            record = _empty_record()
        except OSError as error:
            record = _empty_record()
            # If a file is where the folder should be, there is no record yet; the first write warns of it.
            if not isinstance(error, NotADirectoryError):
                self._warn(
                    f"{str(self.path)!r} cannot be read ({error.strerror}); your answers are kept only in memory."
                )
        except ValueError:
            record = _empty_record()
            try:
                with exclusive_lock(self._lock_path):
                    record = self._read_or_set_aside()
            except OSError as error:
                self._warn(
                    f"{str(self.path)!r} can neither be used nor moved aside ({error.strerror}); your answers "
                    "are kept only in memory."
                )
        for change in self._waiting:
            change(record)
        return record

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(".progress.lock")

    def _read_or_set_aside(self) -> RecordData:
        """Read the file; move a damaged or foreign one to another name, so that it is never overwritten."""
        try:
            return _read(self.path)
        except FileNotFoundError:
            return _empty_record()
        except ValueError as error:
            aside, number = self.path.with_name("progress.unreadable.json"), 2
            while aside.exists():
                aside, number = self.path.with_name(f"progress.unreadable-{number}.json"), number + 1
            os.replace(self.path, aside)
            self._warn(
                f"{str(self.path)!r} could not be used ({error}); it was moved to {aside.name!r}, and "
                "a new record was started."
            )
            return _empty_record()

    def _change(self, change: Callable[[RecordData], None]) -> None:
        self._waiting.append(change)
        try:
            with exclusive_lock(self._lock_path):
                record = self._read_or_set_aside()
                for waiting in self._waiting:
                    waiting(record)
                write_atomically(self.path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
            self._waiting.clear()
        except OSError as error:
            # The error's own text names a temporary file, a different one each time; its reason is the same.
            self._warn(
                f"{str(self.path)!r} cannot be written ({error.strerror}); your answers are kept only in memory."
            )

    def predict(self, name: str, question: str, guess: str) -> None:
        """Record a guess; after the outcome was seen, the guess no longer changes."""

        def change(record: RecordData) -> None:
            if "outcome" not in record["predictions"].get(name, {}):
                record["predictions"][name] = {"question": question, "guess": guess}

        with self._thread_lock:
            self._change(change)

    def reveal(self, name: str, question: str, outcome: str) -> str | None:
        """Record the outcome beside the guess and return the guess, or None if there was none."""

        def change(record: RecordData) -> None:
            record["predictions"].setdefault(name, {"question": question, "guess": None})["outcome"] = outcome

        with self._thread_lock:
            if self.predictions().get(name, {}).get("outcome") != outcome:
                self._change(change)
            return self.guess(name)

    def guess(self, name: str) -> str | None:
        """Return the recorded guess of a prediction, or None."""
        return self.predictions().get(name, {}).get("guess")

    def solve(self, name: str, passed: bool) -> None:
        """Record an attempt at an exercise; a solved exercise stays solved."""

        def change(record: RecordData) -> None:
            entry = record["exercises"].setdefault(name, {"tries": 0, "solved": False})
            entry["tries"] += 1
            entry["solved"] = entry["solved"] or passed

        with self._thread_lock:
            self._change(change)

    def predictions(self) -> dict[str, dict[str, Any]]:
        """Return every prediction by name: its question, its guess and, once seen, its outcome."""
        with self._thread_lock:
            return self._load()["predictions"]

    def exercises(self) -> dict[str, dict[str, Any]]:
        """Return every attempted exercise by name: the number of tries and whether it is solved."""
        with self._thread_lock:
            return self._load()["exercises"]


@cache
def _progress_in(folder: Path) -> LearnerRecord:
    return LearnerRecord(folder)


def progress() -> LearnerRecord:
    """Return the learner's record: one per learner's folder in a process."""
    return _progress_in(learner_folder())
