"""How the learner's guesses over the course came out, from the record of predictions."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

Predictions = Mapping[str, Mapping[str, Any]]

# What a learner may say of all guesses together: the words, and the shares that they mean.
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
        right: guesses that came out as made.
        wrong: guesses that did not.
        unguessed: predictions whose outcome was seen without a guess.
    """

    lesson: str
    right: int
    wrong: int
    unguessed: int

    @property
    def guessed(self) -> int:
        """How many guesses were made."""
        return self.right + self.wrong

    @property
    def share(self) -> float | None:
        """The share of guesses that came out as made, 0 to 1; None without a guess."""
        return self.right / self.guessed if self.guessed else None


def _lesson(name: str) -> str:
    """A prediction's lesson: its name begins with the lesson's number."""
    return name.partition("-")[0]


def _seen(predictions: Predictions, leave_out: Collection[str]) -> dict[str, Mapping[str, Any]]:
    return {name: entry for name, entry in predictions.items() if "outcome" in entry and name not in leave_out}


def tally(predictions: Predictions, *, leave_out: Collection[str] = ()) -> list[Calibration]:
    """Count how the predictions of each lesson came out, in the order of the lessons.

    Args:
        predictions: the learner's record, `progress().predictions()`: by name, `guess` and, once seen, `outcome`.
        leave_out: the names of predictions that do not count.

    >>> tally({"02-a": {"guess": "one", "outcome": "one"}, "02-b": {"guess": "one", "outcome": "two"}})
    [Calibration(lesson='02', right=1, wrong=1, unguessed=0)]
    """
    lessons: dict[str, list[Mapping[str, Any]]] = {}
    for name, entry in _seen(predictions, leave_out).items():
        lessons.setdefault(_lesson(name), []).append(entry)
    return [_count(lesson, lessons[lesson]) for lesson in sorted(lessons)]


def total(tallies: list[Calibration]) -> Calibration:
    """Add the lessons up."""
    right, wrong, unguessed = (sum(getattr(each, name) for each in tallies) for name in ("right", "wrong", "unguessed"))
    return Calibration("all", right, wrong, unguessed)


def _count(lesson: str, entries: list[Mapping[str, Any]]) -> Calibration:
    guesses = [entry for entry in entries if entry["guess"] is not None]
    right = sum(entry["guess"] == entry["outcome"] for entry in guesses)
    return Calibration(lesson, right, len(guesses) - right, len(entries) - len(guesses))


def surprises(predictions: Predictions, *, leave_out: Collection[str] = ()) -> list[tuple[str, str, str, str]]:
    """List the guesses that came out otherwise, as (lesson, question, guess, outcome), in the order of the lessons."""
    found = [
        (_lesson(name), entry["question"], entry["guess"], entry["outcome"])
        for name, entry in _seen(predictions, leave_out).items()
        if entry["guess"] not in (None, entry["outcome"])
    ]
    return sorted(found, key=lambda each: each[0])


def bracket(share: float) -> str:
    """The words of `BRACKETS` for a share of 0 to 1; a share on a border belongs to the higher one.

    Raises:
        ValueError: the share is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, got {share!r}")
    return [words for words, (low, _) in BRACKETS.items() if share >= low][-1]
