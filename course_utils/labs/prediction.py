"""A guess before the cell that answers it: one click, recorded, and later shown beside the outcome."""

import html
from typing import Any

import ipywidgets as widgets

from course_utils.labs.base import Lab
from course_utils.learner.record import progress


class Revealed:
    """The outcome of a prediction beside the learner's guess."""

    def __init__(self, question: str, guess: str | None, outcome: str):
        self.question, self.guess, self.outcome = question, guess, outcome

    def __repr__(self) -> str:
        if self.guess is None:
            return f"It turned out: {self.outcome}. (You made no guess.)"
        if self.guess == self.outcome:
            return f"It turned out: {self.outcome} (as you predicted)."
        return f"It turned out: {self.outcome} (you predicted: {self.guess})."


class Prediction(Lab):
    """A question with a few answers to choose from before the next cell runs; answering is optional.

    Args:
        name: the prediction's key in the learner's record, beginning with the lesson's number.
        question: one sentence.
        options: the answers to choose from.

    Attributes:
        choice: the buttons.

    Raises:
        ValueError: there are fewer than two options, or one of them twice.
    """

    def __init__(self, name: str, question: str, options: list[str]):
        if len(options) < 2 or len(set(options)) < len(options):
            raise ValueError(f"options must be at least two different answers, got {options!r}")
        self.name, self.question, self.options = name, question, list(options)
        self.choice = widgets.ToggleButtons(
            options=options,
            value=progress().guess(name) if progress().guess(name) in options else None,
            style={"button_width": "auto"},
            tooltips=[f"my guess: {option}" for option in options],
        )
        self._kept, self._news = widgets.HTML(), progress().news()
        asked = widgets.HTML(f"<b>Predict.</b> {html.escape(question)}")
        super().__init__([asked, self.choice, self._kept], controls={"choice": self.choice}, css_class="prediction-lab")
        self.on_change(self.choice, self._record)
        self._say()

    def _record(self) -> None:
        if self.choice.value is not None:
            progress().predict(self.name, self.question, self.choice.value)
            self._say()

    def _say(self) -> None:
        entry = progress().predictions().get(self.name, {})
        guess = entry.get("guess")
        self._news = self._news or progress().news()
        words = f"Your guess is kept: {guess}." if guess else "Choose one, or just go on."
        if "outcome" in entry and self.choice.value not in (None, guess):
            words = "The outcome has been shown, so this one is not counted; you made no guess before."
            if guess:
                words = f"The outcome has been shown, so this one is not counted; your first guess stays: {guess}."
        said = html.escape(f"{words} {self._news}".strip())
        self._kept.value = f'<span aria-live="polite">{said}</span>'

    def reveal(self, outcome: str) -> Revealed:
        """Record the outcome, and return it beside the guess.

        Raises:
            ValueError: the outcome is not one of the options.
        """
        if outcome not in self.options:
            raise ValueError(f"outcome must be one of the options {self.options!r}, got {outcome!r}")
        return Revealed(self.question, progress().reveal(self.name, self.question, outcome), outcome)

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"text/plain": f"Predict. {self.question}  [{' | '.join(self.options)}]"}, {}
