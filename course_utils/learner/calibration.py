"""How often the learner's guesses were right, from the record of predictions."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

Predictions = Mapping[str, Mapping[str, Any]]

# The answers a learner may choose for all guesses together, and the shares that they mean.
BRACKETS = {
    "fewer than a quarter": (0.0, 0.25),
    "a quarter to a half": (0.25, 0.5),
    "a half to three quarters": (0.5, 0.75),
    "more than three quarters": (0.75, 1.0),
}


@dataclass(frozen=True)
class Calibration:
    """The predictions of one lesson, or of all, whose outcome was seen.

    Attributes:
        lesson: the lesson's number, as "02", or "all".
        right: the number of guesses that came true.
        wrong: the number of guesses that did not.
        unguessed: the number of predictions whose outcome was seen without a guess.
    """

    lesson: str
    right: int
    wrong: int
    unguessed: int

    @property
    def guessed(self) -> int:
        """The number of guesses."""
        return self.right + self.wrong

    @property
    def share(self) -> float | None:
        """The share of guesses that came true, 0 to 1; None without a guess."""
        return self.right / self.guessed if self.guessed else None


def _lesson(name: str) -> str:
    """Return a prediction's lesson: its name begins with the lesson's number."""
    return name.partition("-")[0]


def _seen(predictions: Predictions, leave_out: Collection[str]) -> dict[str, Mapping[str, Any]]:
    return {name: entry for name, entry in predictions.items() if "outcome" in entry and name not in leave_out}


def tally(predictions: Predictions, *, leave_out: Collection[str] = ()) -> list[Calibration]:
    """Count how the predictions of each lesson came out, in the order of the lessons.

    Args:
        predictions: the learner's record, `progress().predictions()`: by name, `guess` and, once seen, `outcome`.
        leave_out: the names of predictions to exclude.

    >>> tally({"02-a": {"guess": "one", "outcome": "one"}, "02-b": {"guess": "one", "outcome": "two"}})
    [Calibration(lesson='02', right=1, wrong=1, unguessed=0)]
    """
    lessons: dict[str, list[Mapping[str, Any]]] = {}
    for name, entry in _seen(predictions, leave_out).items():
        lessons.setdefault(_lesson(name), []).append(entry)
    return [_count(lesson, lessons[lesson]) for lesson in sorted(lessons)]


def total(tallies: list[Calibration]) -> Calibration:
    """Return the sum of all lessons."""
    right, wrong, unguessed = (sum(getattr(each, name) for each in tallies) for name in ("right", "wrong", "unguessed"))
    return Calibration("all", right, wrong, unguessed)


def _count(lesson: str, entries: list[Mapping[str, Any]]) -> Calibration:
    guesses = [entry for entry in entries if entry["guess"] is not None]
    right = sum(entry["guess"] == entry["outcome"] for entry in guesses)
    return Calibration(lesson, right, len(guesses) - right, len(entries) - len(guesses))


def surprises(predictions: Predictions, *, leave_out: Collection[str] = ()) -> list[tuple[str, str, str, str]]:
    """Return the wrong guesses as (lesson, question, guess, outcome), in the order of the lessons."""
    found = [
        (_lesson(name), entry["question"], entry["guess"], entry["outcome"])
        for name, entry in _seen(predictions, leave_out).items()
        if entry["guess"] not in (None, entry["outcome"])
    ]
    return sorted(found, key=lambda each: each[0])


def bracket(share: float) -> str:
    """Return the words of `BRACKETS` for a share of 0 to 1; a share on a border belongs to the higher bracket.

    Raises:
        ValueError: the share is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(
            f"a share must be between 0 and 1, got {share!r}: divide the number of right guesses "
            "by the number of guesses"
        )
    return [words for words, (low, _) in BRACKETS.items() if share >= low][-1]
