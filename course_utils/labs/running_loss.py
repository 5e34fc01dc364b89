"""Lesson 05's lab: one recorded training run, and every curve that a loop could plot of it."""

import math
from typing import Any

import ipywidgets as widgets

from course_utils import plots
from course_utils.experiments.bookkeeping import DIVISORS, LOGS, RESETS, Recording, meaning, plotted, record
from course_utils.labs import svg
from course_utils.labs.base import Lab
from course_utils.training.history import Point

WIDTH, HEIGHT = 880, 340
LONGEST_WINDOW = 30
# The right panel shows a thousandth of the true mean to a thousand times it.
FACTORS = (0.001, 1000.0)
FACTOR_TICKS = [(10.0**power, f"{10.0**power:g}") for power in range(-2, 4)]
# Up to this many points each gets a dot.
FEW = 60
WIDE = widgets.Layout(width="98%")
CHOOSER = widgets.Layout(width="285px")
STYLE = {"description_width": "90px"}


class RunningLossLab(Lab):
    """Choose when the sum is reset, what it is divided by and when it is logged, and see which number that is.

    On the left the curve, as TensorBoard would show it, beside the true mean loss of each epoch (dashed). On the right
    how many times too large or too small each point is.

    Args:
        recording: the run; by default ten epochs of the small MLP on the digits, recorded now.

    Attributes:
        reset, divisor, logged, window: the controls.
        points: the curve shown, as (step, value).

    Raises:
        ValueError: an epoch's mean loss is not a finite number above 0.
    """

    def __init__(self, recording: Recording | None = None):
        self.recording = record() if recording is None else recording
        self._truth = self.recording.epoch_means()
        for epoch, mean in enumerate(self._truth, start=1):
            if not (math.isfinite(mean) and mean > 0):
                raise ValueError(
                    f"the mean loss of epoch {epoch} is {mean!r}: points are compared with it, so it must be a finite "
                    "number above 0"
                )
        self.window = widgets.IntSlider(
            value=10,
            min=1,
            max=LONGEST_WINDOW,
            description="window",
            layout=WIDE,
            style=STYLE,
            tooltip=f"batches in a window, from 1 to {LONGEST_WINDOW}",
        )
        self.reset = widgets.Dropdown(
            options=list(RESETS), value="each epoch", description="reset", layout=CHOOSER, style=STYLE
        )
        self.divisor = widgets.Dropdown(
            options=DIVISORS, value="window length", description="divide by", layout=CHOOSER, style=STYLE
        )
        self.logged = widgets.Dropdown(
            options=LOGS, value="each window", description="log", layout=CHOOSER, style=STYLE
        )
        self._drawn, self._words = widgets.HTML(), widgets.HTML()
        self._drawn.add_class("lab-front")
        choosers = widgets.HBox([self.reset, self.divisor, self.logged], layout=widgets.Layout(flex_flow="row wrap"))
        controls = {"window": self.window, "reset": self.reset, "divisor": self.divisor, "logged": self.logged}
        super().__init__(
            [self.window, choosers, self._drawn, self._words], controls=controls, css_class="running-loss-lab"
        )
        self.points: list[Point] = []
        for control in controls.values():
            self.when(control, self._follow)
        self._draw()

    def _follow(self) -> None:
        self.clear_error()
        self.drawing.submit(lambda stale: self._draw())

    def _epoch_of(self, step: int) -> int:
        return (step - 1) // self.recording.epoch_length

    def _factors(self) -> list[float]:
        """Each point as a multiple of the true mean of its epoch."""
        return [value / self._truth[self._epoch_of(step)] for step, value in self.points]

    def _draw(self) -> None:
        recording, window = self.recording, self.window.value
        habits = {"reset": self.reset.value, "divisor": self.divisor.value}
        self.points = plotted(recording, **habits, log=self.logged.value, window=window)
        sentence = self._sentence(meaning(recording, **habits, window=window))
        self._drawn.value = svg.picture(WIDTH, HEIGHT, self._panels(), alt=sentence, data_shown=str(window))
        goal = (
            "<b>Goal reached ✓</b> each point is the mean over all samples of its epoch."
            if self._reached()
            else "Goal: make each point the true mean of its epoch, to the last digit."
        )
        # As high as the longest sentence, so that nothing below moves.
        style = 'style="min-height: 5.9em"'
        self._words.value = f'<div class="lab-words" {style} aria-live="polite">{sentence}<br>{goal}</div>'

    def _panels(self) -> str:
        """Both panels as SVG: the curve, and the same points as multiples of the true means."""
        steps, values = [step for step, _ in self.points], [value for _, value in self.points]
        last, length = len(self.recording.losses), self.recording.epoch_length
        top = 1.15 * max([*values, *self._truth])
        left = svg.Panel(62, 34, 360, 252, (0, last), (0, top))
        right = svg.Panel(508, 34, 360, 252, (0, last), FACTORS, log_y=True)
        tick = length * max(1, round(last / length / 5))
        step_ticks, label = [(step, f"{step:,}") for step in range(0, last + 1, tick)], f"step ({length} to an epoch)"
        body = [
            left.axes("The curve you plot", label, "logged number", step_ticks, _ticks(top)),
            right.axes("Compared with the true mean", label, "times the epoch's mean", step_ticks, FACTOR_TICKS),
            svg.text(
                left.left + left.width - 8,
                left.top + 18,
                "dashed: true mean of each epoch",
                anchor="end",
                size=12,
                colour="second",
            ),
        ]
        truth = left.path(range(length, last + 1, length), self._truth)
        one = f"M{right.left} {right.y(1):.1f}H{right.left + right.width}"
        for panel, heights, dashed in ((left, values, truth), (right, self._factors(), one)):
            body.append(svg.line(panel.path(steps, heights), colour="accent", width=2))
            # On top, so that a curve that lies on the true one does not hide it.
            body.append(svg.line(dashed, colour="second", width=1.8, dash="5 3"))
            if len(steps) <= FEW:
                body += [
                    f'<circle cx="{panel.x(x):.1f}" cy="{panel.y(y):.1f}" r="3" fill="var(--lab-accent)"/>'
                    for x, y in zip(steps, heights, strict=True)
                ]
        return "".join(body)

    def _reached(self) -> bool:
        right = [math.isclose(factor, 1.0, rel_tol=1e-9) for factor in self._factors()]
        return len(right) == len(self._truth) and all(right)

    def _sentence(self, what: str) -> str:
        length = self.recording.epoch_length
        if not self.points:
            return (
                f"No point at all: a window is counted from the epoch's beginning, and an epoch has only {length} "
                f"batches, so batch {self.window.value} of an epoch never comes."
            )
        window = f"after every {self.window.value} batches of an epoch"
        when = window if self.logged.value == "each window" else f"after {self.logged.value}"
        (step, value), factor = self.points[-1], self._factors()[-1]
        epoch = self._epoch_of(step)
        return (
            f"Logged {when}: {what}. The last point, at step {step:,}, says {_digits(value)}; the true mean "
            f"of that epoch is {_digits(self._truth[epoch])}. {_compared(factor)}{self._trend()}"
        )

    def _trend(self) -> str:
        """Whether the curve falls as the true mean does: the first point against the last one."""
        if len(self.points) < 2:
            return ""
        first, last = self.points[0][1], self.points[-1][1]
        if self._truth[-1] < self._truth[0] and last > first:
            return " <b>The curve ends higher than it began, and the loss fell.</b>"
        return ""

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        shown = {
            "sum since the start": ("never", "nothing", "each epoch"),
            "sum of the epoch": ("each epoch", "nothing", "each batch"),
            "mean since the start": ("never", "batches added", "each epoch"),
            "mean of the epoch": ("each epoch", "samples added", "each epoch"),
        }
        curves = {
            name: plotted(self.recording, reset=reset, divisor=divisor, log=log)
            for name, (reset, divisor, log) in shown.items()
        }
        sums, means = plots.new_axes(2)
        names = list(curves)
        plots.plot_curves({name: curves[name] for name in names[:2]}, sums, title="Sums")
        plots.plot_curves({name: curves[name] for name in names[2:]}, means, title="Means")
        alt = (
            "Four curves of one recorded run. Left: the sum since the start rises for ever, the sum of the epoch is a "
            "sawtooth. Right: the mean of the epoch falls, and the mean since the start falls behind it."
        )
        words = "RunningLossLab: run the cell, then choose when to reset, what to divide by and when to log"
        return {"image/png": plots.png(sums), "text/plain": words}, {"image/png": {"alt": alt}}


def _ticks(top: float) -> list[tuple[float, str]]:
    """Two to five round values from 0 up to the top of an axis."""
    unit = 10 ** math.floor(math.log10(top))
    step = unit if top / unit < 5 else 2 * unit
    return [(mark * step, f"{mark * step:.4g}") for mark in range(math.floor(top / step) + 1)]


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _compared(factor: float) -> str:
    """How far a number is from the true one, in words."""
    if math.isclose(factor, 1.0, rel_tol=1e-9):
        return "They are the same."
    if abs(factor - 1) < 0.1:
        return f"It is off by {abs(factor - 1):.1%}."
    if factor > 1:
        return f"It is {_digits(factor)} times too large."
    return f"It is {_digits(1 / factor)} times too small."
