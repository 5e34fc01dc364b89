"""The report at the end of a lesson: which exercises are solved, and how many predictions came true."""

import html

from course_utils.checks.runner import EXERCISES, Exercise
from course_utils.errors import unknown_name
from course_utils.learner.record import progress


class Report:
    """The state of one lesson at the time of the call, as text and as HTML.

    Attributes:
        lesson: the lesson's number.
        exercises: each exercise of the lesson with its state: "solved", "tried" or "not attempted".
        guesses: the number of predictions of the lesson whose outcome was seen after a guess.
        right: how many of those guesses were right.
        news: what the learner should know about the record, or "".
    """

    def __init__(self, lesson: str):
        record = progress()
        tried, predictions = record.exercises(), record.predictions()
        self.lesson = lesson
        self.exercises = [(exercise, _state(tried.get(exercise.name))) for exercise in _exercises(lesson)]
        seen = [
            entry
            for name, entry in predictions.items()
            if _lesson(name) == lesson and entry["guess"] is not None and "outcome" in entry
        ]
        self.guesses, self.right = len(seen), sum(entry["guess"] == entry["outcome"] for entry in seen)
        self.news = record.news()

    def _head(self) -> str:
        solved = sum(state == "solved" for _, state in self.exercises)
        return f"Lesson {self.lesson}: {solved} of {len(self.exercises)} exercises solved."

    def _predicted(self) -> str:
        if not self.guesses:
            return "You made no predictions."
        if self.guesses > 1:
            return f"You made {self.guesses} predictions; {self.right} of them came out as you guessed."
        if self.right:
            return "You made one prediction; it came out as you guessed."
        return "You made one prediction; it did not come out as you guessed."

    def __repr__(self) -> str:
        width = max(len(exercise.title) for exercise, _ in self.exercises)
        rows = [
            f"  {place}. {exercise.title:<{width}}  {state}"
            for place, (exercise, state) in enumerate(self.exercises, start=1)
        ]
        return "\n".join([self._head(), *rows, self._predicted(), *filter(None, [self.news])])

    def _repr_html_(self) -> str:
        marks = {"solved": "✓", "tried": "…", "not attempted": "–"}
        cell = 'style="text-align: left; padding: 2px 12px 2px 0"'
        rows = "".join(
            f"<tr><td {cell}>{marks[state]}</td><td {cell}>{place}. {html.escape(exercise.title)}</td><td "
            f"{cell}>{state}</td></tr>"
            for place, (exercise, state) in enumerate(self.exercises, start=1)
        )
        below = "<br>".join(html.escape(words) for words in (self._predicted(), self.news) if words)
        return f"<p><b>{self._head()}</b></p><table>{rows}</table><p>{below}</p>"


def _lesson(name: str) -> str:
    return name.partition("-")[0]


def _exercises(lesson: str) -> list[Exercise]:
    return [exercise for exercise in EXERCISES.values() if _lesson(exercise.name) == lesson]


def _state(entry: dict[str, object] | None) -> str:
    if entry is None:
        return "not attempted"
    return "solved" if entry["solved"] else "tried"


def report(lesson: str) -> Report:
    """Return the report of one lesson, "02" for example: which exercises are solved, and how the guesses came out.

    Raises:
        ValueError: no lesson of that number has exercises.
    """
    if not _exercises(lesson):
        raise unknown_name("lesson", lesson, sorted({_lesson(name) for name in EXERCISES}))
    return Report(lesson)
