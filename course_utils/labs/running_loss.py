"""Lesson 05's lab: one recorded training run, and every curve that a loop could plot from it."""

import math
from typing import Any

import ipywidgets as widgets

from course_utils import plots
from course_utils.experiments.bookkeeping import DIVISORS, LOGS, RESETS, Recording, meaning, plotted, record
from course_utils.labs import svg
from course_utils.labs.base import GOAL_REACHED, WRAP, Lab, html_box, sentences, slider_options, still_picture
from course_utils.training.history import Point

HEIGHT = 340
LONGEST_WINDOW = 30
# The right panel shows a thousandth of the true mean to a thousand times it.
FACTORS = (0.001, 1000.0)
# Up to this many points are drawn as dots.
MAX_DOTS = 60
CHOOSER = {"layout": widgets.Layout(width="285px"), "style": {"description_width": "90px"}}


class RunningLossLab(Lab):
    """Choose when the sum is reset, what it is divided by and when it is logged, and see what the number means.

    The left panel shows the curve as TensorBoard would, with the true mean loss of each epoch (dashed); the right panel
    shows how many times too large or too small each point is.

    Args:
        recording: the run; by default ten epochs of the small MLP on the digits, trained now.

    Attributes:
        reset, divisor, logged, window: the controls.
        points: the points (step, value) of the curve.

    Raises:
        ValueError: an epoch's mean loss is not a finite number above 0.
    """

    def __init__(self, recording: Recording | None = None):
        self.recording = record() if recording is None else recording
        self._truth, self.points = self.recording.epoch_means(), list[Point]()
        self.recording.ratios(self.points)  # raises an error before there is a widget to close
        self.window = widgets.IntSlider(
            value=10,
            min=1,
            max=LONGEST_WINDOW,
            description="window",
            tooltip=f"batches in a window, from 1 to {LONGEST_WINDOW}",
            **slider_options(),
        )
        self.reset = widgets.Dropdown(options=list(RESETS), value="each epoch", description="reset", **CHOOSER)
        self.divisor = widgets.Dropdown(options=DIVISORS, value="window length", description="divide by", **CHOOSER)
        self.logged = widgets.Dropdown(options=LOGS, value="each window", description="log", **CHOOSER)
        self._drawn, self._words = html_box("lab-front"), html_box()
        choosers = widgets.HBox([self.reset, self.divisor, self.logged], layout=WRAP)
        controls = {"window": self.window, "reset": self.reset, "divisor": self.divisor, "logged": self.logged}
        super().__init__(
            [self.window, choosers, self._drawn, self._words], controls=controls, css_class="running-loss-lab"
        )
        for control in controls.values():
            self.on_change(control, self.follow)
        self._draw_front()

    def _draw_front(self) -> None:
        recording, window = self.recording, self.window.value
        reset, divisor = self.reset.value, self.divisor.value
        self.points = plotted(recording, reset=reset, divisor=divisor, log=self.logged.value, window=window)
        self._ratios = recording.ratios(self.points)
        sentence = self._sentence(meaning(recording, reset=reset, divisor=divisor, window=window))
        self._drawn.value = svg.picture(HEIGHT, self._panels(), alt=sentence, data_shown=str(window))
        goal = "Goal: make each point the true mean of its epoch, to the last digit."
        if self._reached():
            goal = f"{GOAL_REACHED} each point is the mean over all samples of its epoch."
        # As high as the longest sentence, so that nothing below moves.
        self._words.value = sentences(f"{sentence}<br>{goal}", min_height="5.9em")

    def _panels(self) -> str:
        """Draw both panels: the curve, and the same points as multiples of the true means."""
        steps, values = [step for step, _ in self.points], [value for _, value in self.points]
        last, length = len(self.recording.losses), self.recording.epoch_length
        top = 1.15 * max([*values, *self._truth])
        left = svg.Panel(62, 34, 360, 252, (0, last), (0, top))
        right = svg.Panel(508, 34, 360, 252, (0, last), FACTORS, log_y=True)
        tick = length * max(1, round(last / length / 5))
        step_ticks, label = [(step, f"{step:,}") for step in range(0, last + 1, tick)], f"step ({length} to an epoch)"
        body = [
            left.axes("The curve you plot", label, "logged number", step_ticks, _ticks(top)),
            right.axes("Compared with the true mean", label, "times the epoch's mean", step_ticks, svg.decades(-2, 3)),
            svg.text(
                left.left + left.width - 8,
                left.top + 18,
                "dashed: true mean of each epoch",
                anchor="end",
                size=12,
                color="second",
            ),
        ]
        truth = left.path(range(length, last + 1, length), self._truth)
        one = f"M{right.left} {right.y(1):.1f}H{right.left + right.width}"
        for panel, heights, dashed in ((left, values, truth), (right, self._ratios, one)):
            body.append(svg.line(panel.path(steps, heights), color="accent", width=2))
            # On top, so that a curve equal to the true one does not hide it.
            body.append(svg.line(dashed, color="second", width=1.8, dash="5 3"))
            if len(steps) <= MAX_DOTS:
                body += [svg.dot(panel.x(x), panel.y(y), 3) for x, y in zip(steps, heights, strict=True)]
        return "".join(body)

    def _reached(self) -> bool:
        right = [math.isclose(ratio, 1.0, rel_tol=1e-9) for ratio in self._ratios]
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
        (step, value), ratio = self.points[-1], self._ratios[-1]
        epoch = self.recording.epoch_of(step)
        return (
            f"Logged {when}: {what}. The last point, at step {step:,}, says {_digits(value)}; the true mean "
            f"of that epoch is {_digits(self._truth[epoch])}. {_compared(ratio)}{self._trend()}"
        )

    def _trend(self) -> str:
        """Return a warning if the curve rises while the true mean falls, from the first point to the last."""
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
        text = "RunningLossLab: run the cell, then choose when to reset, what to divide by and when to log"
        return still_picture(sums, text=text, alt=alt)


def _ticks(top: float) -> list[tuple[float, str]]:
    """Return two to five round values from 0 up to the top of an axis."""
    unit = 10 ** math.floor(math.log10(top))
    step = unit if top / unit < 5 else 2 * unit
    return [(mark * step, f"{mark * step:.4g}") for mark in range(math.floor(top / step) + 1)]


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _compared(ratio: float) -> str:
    """Describe how far a number is from the true one."""
    if math.isclose(ratio, 1.0, rel_tol=1e-9):
        return "They are the same."
    if abs(ratio - 1) < 0.1:
        return f"It is off by {abs(ratio - 1):.1%}."
    if ratio > 1:
        return f"It is {_digits(ratio)} times too large."
    return f"It is {_digits(1 / ratio)} times too small."
