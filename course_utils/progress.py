"""The learner's own folder: predictions, exercises and cached sweeps, in plain files that anyone can read."""

import json
import os
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

VERSION = 1


def learner_folder() -> Path:
    """Where the learner's own files go: $COURSE_LEARNER_DIR, or `learner` beside the notebooks' folder.

    Without a checkout around it (the package was installed from a wheel) it is `training-loop-learner` in the
    home folder. The folder is not made here.
    """
    chosen = os.environ.get("COURSE_LEARNER_DIR")
    if chosen:
        return Path(chosen).expanduser()
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "notebooks").is_dir():
        return checkout / "learner"
    return Path.home() / "training-loop-learner"


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old text or the new one, never a part.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class Progress:
    """What the learner guessed and solved, kept in `progress.json` in the learner's folder.

    Where that file cannot be written, the record stays in memory and `trouble` says so in one sentence.

    Args:
        folder: the folder of the file; by default `learner_folder()`.

    Attributes:
        trouble: why nothing could be kept on disk, or "".
    """

    def __init__(self, folder: Path | None = None):
        self.path = (folder or learner_folder()) / "progress.json"
        self.trouble = ""
        self._lock = threading.Lock()
        self._record: dict[str, Any] = {"version": VERSION, "predictions": {}, "exercises": {}}
        self._read()

    def _read(self) -> None:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or found.get("version") != VERSION:
                raise ValueError(f"it is not a record of version {VERSION}")
            if not all(isinstance(found.get(part), dict) for part in ("predictions", "exercises")):
                raise ValueError("a part of it is missing")
        except FileNotFoundError:
            return
        except OSError as error:
            self.trouble = f"{str(self.path)!r} cannot be read ({error}); what you do now is kept in memory only"
            return
        except ValueError as error:
            # A damaged or foreign record is set aside, never overwritten.
            aside = self.path.with_name("progress.unreadable.json")
            self.trouble = f"{str(self.path)!r} could not be used ({error}); it was moved to {aside.name!r}"
            try:
                os.replace(self.path, aside)
            except OSError as failed:
                self.trouble = f"{str(self.path)!r} could not be used ({error}) nor moved aside ({failed})"
            return
        self._record = found

    def _keep(self) -> None:
        try:
            write_atomically(self.path, json.dumps(self._record, ensure_ascii=False, indent=1) + "\n")
        except OSError as error:
            self.trouble = f"{str(self.path)!r} cannot be written ({error}); your answers are kept in memory only"

    def predict(self, name: str, question: str, guess: str) -> None:
        """Record a guess. A guess that changes after its outcome was seen does not count: the first one stays."""
        with self._lock:
            entry = self._record["predictions"].get(name, {})
            if "outcome" not in entry:
                self._record["predictions"][name] = {"question": question, "guess": guess}
                self._keep()

    def reveal(self, name: str, question: str, outcome: str) -> str | None:
        """Record the outcome beside the guess and return the guess, or None where there was none."""
        with self._lock:
            entry = self._record["predictions"].setdefault(name, {"question": question, "guess": None})
            if entry.get("outcome") != outcome:
                entry["outcome"] = outcome
                self._keep()
            return entry["guess"]

    def guess(self, name: str) -> str | None:
        """The recorded guess of a prediction, or None."""
        return self._record["predictions"].get(name, {}).get("guess")

    def solve(self, name: str, passed: bool) -> None:
        """Record an attempt at an exercise; a solved exercise stays solved."""
        with self._lock:
            entry = self._record["exercises"].setdefault(name, {"tries": 0, "solved": False})
            entry["tries"] += 1
            entry["solved"] = entry["solved"] or passed
            self._keep()

    def predictions(self) -> dict[str, dict[str, Any]]:
        """Every prediction by name: its question, guess and, once seen, its outcome."""
        return json.loads(json.dumps(self._record["predictions"]))

    def exercises(self) -> dict[str, dict[str, Any]]:
        """Every exercise tried, by name: the number of tries and whether it is solved."""
        return json.loads(json.dumps(self._record["exercises"]))


@cache
def _progress_in(folder: Path) -> Progress:
    return Progress(folder)


def progress() -> Progress:
    """The learner's record: one for each learner's folder in a process, read from disk once."""
    return _progress_in(learner_folder())
