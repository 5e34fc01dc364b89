"""Lesson 03's lab: draw a schedule with sliders and see what a real training makes of it."""

import math
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from course_utils import plots
from course_utils.experiments.scheduled_training import (
    CONSTANT_RATES,
    EXPONENTS,
    RATES_PER_DECADE,
    SHAPES,
    ConstantRun,
    ScheduleConfig,
    ScheduledRun,
    ScheduledTraining,
)
from course_utils.labs import svg
from course_utils.labs.base import (
    FIT,
    GOAL_REACHED,
    WRAP,
    Lab,
    Throttle,
    html_box,
    layers,
    log_slider,
    sentences,
    slider_options,
    still_picture,
)

OPTIMIZERS = {"SGD with momentum": "momentum", "Adam": "adam", "SGD": "sgd"}
LOSS_RANGE = (1e-3, 10.0)
# A schedule counts as better than the best constant rate below this share of its final loss: less can be luck.
BETTER = 0.8
HEIGHT = 330
# A run is redrawn at the end of an epoch, but at most this often, in seconds.
REDRAW_INTERVAL = 0.25


class ScheduleLab(Lab):
    """Draw a schedule with four controls; see the rate of each step at once, and the loss a moment later.

    Every position of the controls is trained for real: the MLP on the handwritten digits, `torch.optim`, and
    `LambdaLR` with the curve that is drawn on the left. The dashed line is the best of 25 constant rates.

    Args:
        num_epochs: passes over the 1,437 training images in each run.
        seed: fixes the first weights and the order of the batches, which all runs share.

    Attributes:
        lr, warmup, shape, final, optimizer: the controls; `lab.lr.value = 0.1` moves the slider.
        rates: the rate of each step as drawn.
        run: the run that is shown, as far as it is trained.
        best: the best run with a constant rate.
        reached: whether the run has ended a fifth or more below the best constant one.
    """

    best: ConstantRun

    def __init__(self, *, num_epochs: int = 10, seed: int = 0):
        self.lr = log_slider(
            "base rate",
            value=0.1,
            exponents=EXPONENTS,
            step=1 / RATES_PER_DECADE,
            tooltip="base learning rate, from 0.001 to 1, log scale",
        )
        self.warmup = widgets.FloatSlider(
            value=0.0,
            min=0.0,
            max=0.5,
            step=0.05,
            description="warm-up",
            readout_format=".0%",
            tooltip="share of the steps in which the rate rises from a tenth to the base rate",
            **slider_options(),
        )
        self.final = log_slider(
            "final share",
            value=0.01,
            exponents=(-3, 0),
            step=0.25,
            tooltip='share of the base rate at the end, from 0.001 to 1; none for "constant"',
        )
        self.shape = widgets.Dropdown(options=SHAPES, value="constant", description="shape", layout=FIT)
        self.optimizer = widgets.Dropdown(options=OPTIMIZERS, value="momentum", description="optimizer", layout=FIT)
        self._axes, self._curve, self._loss = html_box("lab-back"), html_box("lab-front"), html_box("lab-loss")
        self._words = html_box()
        self._loss.layout.overflow = "visible"
        controls = {
            "lr": self.lr,
            "warmup": self.warmup,
            "final": self.final,
            "shape": self.shape,
            "optimizer": self.optimizer,
        }
        choosers = widgets.HBox([self.shape, self.optimizer], layout=WRAP)
        super().__init__(
            [self.lr, choosers, self.warmup, self.final, layers(self._axes, self._loss, self._curve), self._words],
            controls=controls,
            css_class="schedule-lab",
        )
        self._training = ScheduledTraining(num_epochs=num_epochs, seed=seed)
        self.num_epochs, self.num_steps = num_epochs, self._training.num_steps
        self._bests: dict[str, ConstantRun] = {}
        self.run = ScheduledRun()
        self._drawn: ScheduledRun | None = None
        self._trained_with: ScheduleConfig | None = None
        for control in controls.values():
            self.on_change(control, self._change)
        # The first run is made before the lab is shown: it is useful before any click, and it is the still picture.
        self._train(lambda: False)
        self.settle(60)

    # A callback notes the new setting and leaves the work to the workers.

    def _change(self) -> None:
        self.follow()
        self.computing.submit(self._train)

    # The job of the computing worker.

    def _config(self) -> ScheduleConfig:
        """Return the setting of the controls, with rates and shares rounded to twelve digits.

        A slider that is moved back to its place by keys may be off by a rounding error, which a run at a high rate
        amplifies.
        """
        lr, warmup, final = (float(f"{slider.value:.12g}") for slider in (self.lr, self.warmup, self.final))
        return ScheduleConfig(self.optimizer.value, lr, self.shape.value, warmup, final)

    @property
    def rates(self) -> list[float]:
        return self._config().rates(self.num_steps)

    @property
    def reached(self) -> bool:
        losses = self.run.losses
        return len(losses) == self.num_steps and self._training.final_loss(losses) < BETTER * self.best.final_loss

    def _train(self, cancelled: Callable[[], bool]) -> None:
        """Train for real under the schedule that is drawn; stop if cancelled."""
        config, redraw = self._config(), Throttle(REDRAW_INTERVAL)
        if config.optimizer not in self._bests:
            self._bests[config.optimizer] = self._training.best_constant(config.optimizer)
        for run in self._training.iter_run(config):
            if cancelled():
                return
            end_of_epoch = len(run.losses) % self._training.steps_per_epoch == 0
            if len(run.losses) == self.num_steps or (end_of_epoch and redraw.due()):
                self._trained_with, self.best = config, self._bests[config.optimizer]
                self.run = ScheduledRun(list(run.rates), list(run.losses), run.accuracy)
                self.draw()

    # Drawing: axes that stay, the curve that follows the controls, and the loss that follows the training.

    def _panels(self) -> tuple[svg.Panel, svg.Panel]:
        top = 10 ** math.ceil(math.log10(self.lr.value) - 1e-9)
        top *= next(share for share in (0.2, 0.5, 1.0) if self.lr.value <= share * top * 1.001)
        left = svg.Panel(62, 34, 360, 242, (0, self.num_steps), (0, 1.08 * top))
        right = svg.Panel(508, 34, 360, 242, (0, self.num_steps), LOSS_RANGE, log_y=True)
        return left, right

    def _draw_front(self) -> None:
        # A newer drawing replaces a waiting one, so each checks what there is to draw.
        self._draw_curve()
        run = self.run
        if run is not self._drawn:
            self._draw_loss(run)
            self._drawn = run
        self._words.value = sentences(self._sentence())

    def _draw_curve(self) -> None:
        left, _ = self._panels()
        top = left.y_range[1] / 1.08
        step_ticks = [
            (epoch * self._training.steps_per_epoch, str(epoch)) for epoch in range(0, self.num_epochs + 1, 2)
        ]
        rate_ticks = [(share * top, plots.rate_text(share * top)) for share in (0, 0.5, 1)]
        body = [
            left.axes("The learning rate of each step", "epoch", "", step_ticks, rate_ticks),
            svg.line(left.path(range(self.num_steps), self.rates), color="accent", width=2.4),
        ]
        rates, shown = self.rates, f"{self.lr.value:.4g}"
        alt = (
            f"The learning rate of each step as the sliders draw it, {self.shape.value}: {plots.rate_text(rates[0])} "
            f"at the start, {plots.rate_text(max(rates))} at most, {plots.rate_text(rates[-1])} in the last step."
        )
        self._curve.value = svg.picture(HEIGHT, "".join(body), alt=alt, data_shown=shown)

    def _draw_loss(self, run: ScheduledRun) -> None:
        _, right = self._panels()
        steps = range(1, self.num_steps + 1)
        step_ticks = [
            (epoch * self._training.steps_per_epoch, str(epoch)) for epoch in range(0, self.num_epochs + 1, 2)
        ]
        loss_ticks = svg.decades(-3, 1)
        note = f"dashed: the best constant rate, {plots.rate_text(self.best.lr)}"
        back = [
            right.axes("The loss of each step", "epoch", "loss of the batch (log scale)", step_ticks, loss_ticks),
            svg.line(right.path(steps, self.best.losses), color="second", width=1.2, dash="4 3"),
            svg.text(right.left + right.width - 8, right.top + 18, note, anchor="end", size=12, color="second"),
        ]
        self._axes.value = svg.picture(HEIGHT, "".join(back), alt=self._alt())
        line = svg.line(right.path(steps[: len(run.losses)], run.losses), color="accent", width=1.8)
        self._loss.value = svg.picture(HEIGHT, line, alt="", data_shown=f"{run.rates[-1]:.4g}")

    # Sentences.

    def _sentence(self) -> str:
        rates, losses, best = self.run.rates, self.run.losses, self.best.final_loss
        if len(losses) < self.num_steps or self._config() != self._trained_with:
            return f"Training for real, {self.num_steps} steps …<br>&nbsp;"
        start, highest, last = (plots.rate_text(rate) for rate in (rates[0], max(rates), rates[-1]))
        end = self._training.final_loss(losses)
        outcome = (
            f"<b>{start} at the start, {highest} at most, {last} in the last step:</b> the mean loss of the last epoch "
            f"is {end:.3g}, and {self.run.accuracy:.1%} of the test images are right."
        )
        if not math.isfinite(end):
            outcome = (
                f"<b>{start} at the start, {highest} at most, {last} in the last step:</b> the loss stopped being a "
                "number."
            )
        rate = plots.rate_text(self.best.lr)
        goal = (
            f"Goal: end below {BETTER * best:.3g}, a fifth below the best of {len(CONSTANT_RATES)} constant rates "
            f"({rate} ends at {best:.3g})."
        )
        if self.reached:
            goal = f"{GOAL_REACHED} The best of {len(CONSTANT_RATES)} constant rates, {rate}, ends at {best:.3g}."
        return f"{outcome}<br>{goal}"

    def _alt(self) -> str:
        rates, losses = self.run.rates, self.run.losses
        return (
            f"Left: the learning rate of each of {self.num_steps} steps, {self.shape.value}, from {rates[0]:.3g} to "
            f"{rates[-1]:.3g}. Right: the loss of each step on a log scale; the last epoch's mean is "
            f"{self._training.final_loss(losses):.3g}, with the best constant rate {self.best.final_loss:.3g}."
        )

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        left, right = plots.new_axes(2)
        rates, losses = self.run.rates, self.run.losses
        steps = range(1, len(losses) + 1)
        left.plot(steps, rates, color=plots.BLUE, linewidth=2)
        left.set(title="The rate of each step", xlabel="step", ylabel="learning rate")
        left.set_ylim(bottom=0)
        right.plot(steps, losses, color=plots.BLUE, linewidth=1.2, label="this schedule")
        label = f"the best constant rate, {plots.rate_text(self.best.lr)}"
        right.plot(
            range(1, self.num_steps + 1), self.best.losses, color=plots.ORANGE, linestyle="--", linewidth=1, label=label
        )
        right.set_yscale("log")
        right.set(title="The loss of each step", xlabel="step", ylabel="loss of the batch (log scale)", ylim=LOSS_RANGE)
        right.legend(frameon=False, fontsize=9)
        text = "ScheduleLab: run the cell, then draw a schedule with the sliders"
        return still_picture(left, text=text, alt=self._alt())
