"""Lesson 02's second lab: gradient descent in a bowl whose largest stable learning rate, 2/λ, is known exactly."""

from typing import Any

import ipywidgets as widgets

from course_utils import plots
from course_utils.labs import svg
from course_utils.labs.base import GOAL_REACHED, Lab, html_box, sentences, slider_options, still_picture
from course_utils.lr import descend

HEIGHT = 320
NUM_STEPS = 30
START = 1.0


class QuadraticLab(Lab):
    """Drag the learning rate and the curvature λ of f(w) = ½ λ w² and watch `torch.optim.SGD` take 30 steps.

    Attributes:
        lr, curvature: the sliders.
        path: the 31 values of w at the present settings.
    """

    def __init__(self):
        self.lr = widgets.FloatSlider(
            value=0.1,
            min=0.01,
            max=1.2,
            step=0.01,
            description="learning rate",
            tooltip="learning rate, from 0.01 to 1.2",
            **slider_options(),
        )
        self.curvature = widgets.FloatSlider(
            value=4.0,
            min=1.0,
            max=10.0,
            step=0.5,
            description="curvature λ",
            tooltip="curvature of the bowl, from 1 to 10",
            **slider_options(),
        )
        self._drawn, self._words = html_box("lab-front"), html_box()
        super().__init__(
            [self.lr, self.curvature, self._drawn, self._words],
            controls={"lr": self.lr, "curvature": self.curvature},
            css_class="quadratic-lab",
        )
        self.path: list[float] = []
        for control in (self.lr, self.curvature):
            self.on_change(control, self.follow)
        self._draw_front()

    def _draw_front(self) -> None:
        lr, curvature = self.lr.value, self.curvature.value
        self.path = descend(START, lr, curvature, NUM_STEPS)
        top = 0.5 * curvature * 1.6**2
        bowl = svg.Panel(52, 34, 370, 236, (-1.6, 1.6), (0, top))
        fall = svg.Panel(498, 34, 370, 236, (0, NUM_STEPS), (1e-6, 1e3), log_y=True)
        ws = [-1.6 + 0.04 * index for index in range(81)]
        losses = [0.5 * curvature * w * w for w in self.path]
        inside = [w for w in self.path if abs(w) <= 1.6]
        # A ball that leaves the bowl is drawn up to its first step outside, which the panel clamps to its edge.
        seen = self.path[: len(inside) + 1]
        w_ticks, half = [(w, f"{w}") for w in (-1, 0, 1)], top / 2
        step_ticks = [(step, f"{step}") for step in (0, 10, 20, 30)]
        body = [
            bowl.axes("The ball in the bowl", "weight w", "loss ½ λ w²", w_ticks, [(0, "0"), (half, f"{half:.3g}")]),
            svg.line(bowl.path(ws, [0.5 * curvature * w * w for w in ws]), color="faint", width=1.2),
            svg.line(bowl.path(seen, losses[: len(seen)]), color="accent", width=1.6),
            *(svg.dot(bowl.x(w), bowl.y(loss), 3.5) for w, loss in zip(seen, losses, strict=False)),
            fall.axes("Loss after each step", "step", "loss (log scale)", step_ticks, svg.decades(-6, 3, 3)),
            svg.line(fall.path(range(NUM_STEPS + 1), losses), color="accent", width=2.2),
        ]
        sentence, reached = self._sentence()
        goal = GOAL_REACHED if reached else "Goal: make the ball land on the bottom in one single step."
        self._drawn.value = svg.picture(HEIGHT, "".join(body), alt=sentence, data_shown=f"{lr:.4g}")
        self._words.value = sentences(f"{sentence}<br>{goal}")

    def _sentence(self) -> tuple[str, bool]:
        lr, curvature = self.lr.value, self.curvature.value
        factor = 1 - lr * curvature
        if abs(factor) < 1e-9:
            what = "the ball lands on the bottom in one step"
        elif abs(abs(factor) - 1) < 1e-9:
            what = "the ball jumps from side to side for ever: this is the limit itself"
        elif abs(factor) > 1:
            what = "each jump ends higher than the one before: it diverges"
        elif factor < 0:
            what = "the ball jumps across the valley at each step and still comes down"
        else:
            what = "the ball rolls down on its side of the valley"
        numbers = f"Each step multiplies w by 1 − lr·λ = {factor:.2f}: {what}. The limit 2/λ is {2 / curvature:.3g}."
        return numbers, abs(factor) < 1e-9

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        bowl, fall = plots.new_axes(2)
        rates = [share / self.curvature.value for share in (0.4, 1.0, 1.8, 2.2)]
        paths = {lr: descend(START, lr, self.curvature.value, NUM_STEPS) for lr in rates}
        plots.plot_bowl(self.curvature.value, paths, ax=bowl)
        plots.plot_descent(paths, ax=fall)
        text = "QuadraticLab: run the cell, then drag the learning rate and the curvature"
        rolls, lands, jumps, flies = (f"{lr:.3g}" for lr in rates)
        alt = (
            f"Left: a ball in a bowl of curvature {self.curvature.value:g} at four learning rates. Right: its distance "
            f"from the bottom. At {rolls} it rolls down, at {lands} it lands on the bottom in one step, at {jumps} it "
            f"jumps from side to side and comes down, at {flies} each jump is longer."
        )
        return still_picture(bowl, text=text, alt=alt)
