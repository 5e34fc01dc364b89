"""Lesson 03's lab: draw a schedule with sliders and see what a real training makes of it."""

import copy
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets as widgets
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from course_utils import data, models, plots
from course_utils.devices import seed_everything
from course_utils.labs import svg
from course_utils.labs.base import Lab, layers
from course_utils.lr import schedules, sweep_lr
from course_utils.optimizers import make_optimizer

OPTIMIZERS = {"SGD with momentum": "momentum", "Adam": "adam", "SGD": "sgd"}
SHAPES = ("constant", "linear", "cosine", "exponential", "steps")
EXPONENTS = (-3, 0)
RATES_A_DECADE = 8
RATES = [
    float(f"{10 ** (EXPONENTS[0] + index / RATES_A_DECADE):.4g}")
    for index in range((EXPONENTS[1] - EXPONENTS[0]) * RATES_A_DECADE + 1)
]
WARMUP_START = 0.1
LOSSES = (1e-3, 10.0)
# A schedule counts as better than the best constant rate from this share of its final loss on: less can be luck.
BETTER = 0.8
# A run that fills in is drawn again this often, in seconds.
REDRAW = 0.25
WIDTH, HEIGHT = 880, 330
WIDE = widgets.Layout(width="98%")
STYLE = {"description_width": "90px"}


def share_of(step: int, num_steps: int, *, shape: str, warmup: float, final: float) -> float:
    """The share of the base rate at a step: a straight warm-up from a tenth, then one of `SHAPES` down to `final`.

    Args:
        warmup: the share of the steps that warm up.
        final: the share of the base rate that the shape ends at; "constant" takes no notice of it.

    >>> [round(share_of(step, 10, shape="linear", warmup=0.2, final=0.0), 3) for step in (0, 1, 2, 6, 9)]
    [0.1, 0.55, 1.0, 0.5, 0.125]
    """
    num_warmup = int(warmup * num_steps)
    if step < num_warmup:
        return schedules.linear(step, num_warmup, start=WARMUP_START, final=1.0)
    step, rest = step - num_warmup, num_steps - num_warmup
    if shape == "linear":
        return schedules.linear(step, rest, final=final)
    if shape == "cosine":
        return schedules.cosine(step, rest, final=final)
    if shape == "exponential":
        return schedules.exponential(step, factor=final ** (1 / rest))
    if shape == "steps":
        return schedules.multistep(step, milestones=[rest // 2, rest * 3 // 4], factor=math.sqrt(final))
    return schedules.constant(step)


class ScheduleLab(Lab):
    """Draw a schedule with four controls and see at once the rate of each step and, a moment later, the loss.

    Every position of the controls is trained for real: the MLP on the handwritten digits, `torch.optim`, and
    `LambdaLR` with the curve that is drawn on the left. Beside it stands the best of 25 constant rates.

    Args:
        num_epochs: passes over the 1,437 training images in each run.
        seed: the weights and the order of the batches that all runs share.

    Attributes:
        lr, warmup, shape, final, optimizer: the controls; `lab.lr.value = 0.1` moves the handle.
        rates: the rate of each step as drawn.
        trained: the rates and losses of the run that is shown, one of each a step; fewer while it is under way.
        best: the rate, the losses and the mean loss of the last epoch of the best constant run.
        reached: whether the run has ended a fifth or more below the best constant one.
    """

    def __init__(self, *, num_epochs: int = 10, seed: int = 0):
        self.num_epochs, self.seed = num_epochs, seed
        self.lr = widgets.FloatLogSlider(
            value=0.1,
            base=10,
            min=EXPONENTS[0],
            max=EXPONENTS[1],
            step=1 / RATES_A_DECADE,
            readout_format=".3g",
            description="base rate",
            layout=WIDE,
            style=STYLE,
            tooltip="base learning rate, from 0.001 to 1, log scale",
        )
        self.warmup = widgets.FloatSlider(
            value=0.0,
            min=0.0,
            max=0.5,
            step=0.05,
            description="warm-up",
            layout=WIDE,
            style=STYLE,
            readout_format=".0%",
            tooltip="share of the steps in which the rate rises from a tenth to the base rate",
        )
        self.final = widgets.FloatLogSlider(
            value=0.01,
            base=10,
            min=-3,
            max=0,
            step=0.25,
            description="final share",
            layout=WIDE,
            style=STYLE,
            readout_format=".3g",
            tooltip='share of the base rate at the end, from 0.001 to 1; none for "constant"',
        )
        chooser = widgets.Layout(width="auto")
        self.shape = widgets.Dropdown(options=SHAPES, value="constant", description="shape", layout=chooser)
        self.optimizer = widgets.Dropdown(options=OPTIMIZERS, value="momentum", description="optimizer", layout=chooser)
        self._axes, self._curve, self._loss = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._words = widgets.HTML()
        for part, name in ((self._axes, "lab-back"), (self._curve, "lab-front"), (self._loss, "lab-loss")):
            part.add_class(name)
        self._loss.layout.overflow = "visible"
        controls = {
            "lr": self.lr,
            "warmup": self.warmup,
            "final": self.final,
            "shape": self.shape,
            "optimizer": self.optimizer,
        }
        choosers = widgets.HBox([self.shape, self.optimizer], layout=widgets.Layout(flex_flow="row wrap"))
        super().__init__(
            [self.lr, choosers, self.warmup, self.final, layers(self._axes, self._loss, self._curve), self._words],
            controls=controls,
            css_class="schedule-lab",
        )
        self._batches = data.load("digits", batch_size=64, seed=seed)
        self.num_steps = num_epochs * len(self._batches.train)
        with torch.random.fork_rng(devices=[]):
            seed_everything(seed)
            self._fresh = models.make_model("mlp", self._batches.shape)
        self._bests: dict[str, tuple[float, list[float], float]] = {}
        self._right = math.nan
        self.trained: tuple[list[float], list[float]] = ([], [])
        self._drawn: object = None
        self._trained_with: tuple[Any, ...] = ()
        for control in controls.values():
            self.when(control, self._follow)
        # The first run is made before the lab is shown: it is useful before any click, and it is the still picture.
        self._train(lambda: False)
        self.settle(60)

    # What the hand asks for.

    def _follow(self) -> None:
        self.clear_error()
        self.drawing.submit(lambda stale: self._draw())
        self.computing.submit(self._train)

    # What is computed.

    def _setting(self) -> tuple[str, float, str, float, float]:
        """The optimizer, the base rate, the shape, the warm-up and the final share.

        A handle that comes back to its place by keys may stand a rounding error beside it, and a run at a high rate
        makes much of that: twelve digits are the same place.
        """
        lr, warmup, final = (float(f"{slider.value:.12g}") for slider in (self.lr, self.warmup, self.final))
        return self.optimizer.value, lr, self.shape.value, warmup, final

    def _share(self, setting: tuple[str, float, str, float, float]) -> Callable[[int], float]:
        """The share of the base rate at each step, under a setting."""
        _, _, shape, warmup, final = setting
        return partial(share_of, num_steps=self.num_steps, shape=shape, warmup=warmup, final=final)

    @property
    def rates(self) -> list[float]:
        setting = self._setting()
        share = self._share(setting)
        return [setting[1] * share(step) for step in range(self.num_steps)]

    @property
    def reached(self) -> bool:
        losses = self.trained[1]
        return len(losses) == self.num_steps and self._last_epoch(losses) < BETTER * self.best[2]

    def _last_epoch(self, losses: list[float]) -> float:
        last = losses[-len(self._batches.train) :]
        return sum(last) / len(last)

    def _train(self, stale: Callable[[], bool]) -> None:
        """Train for real under the schedule that is drawn; a stale run is left unfinished."""
        setting = self._setting()
        name, lr = setting[:2]
        if name not in self._bests:
            self._find_best_constant(name)
        model = copy.deepcopy(self._fresh)
        optimizer = make_optimizer(name, model.parameters(), lr)
        scheduler = LambdaLR(optimizer, self._share(setting))
        loss_fn, losses, rates = nn.CrossEntropyLoss(), [], []
        drawn = time.monotonic()
        for epoch in range(self.num_epochs):
            self._batches.train.set_epoch(epoch)
            for x, y in self._batches.train:
                if stale():
                    return
                optimizer.zero_grad()
                loss = loss_fn(model(x), y)
                loss.backward()
                rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                scheduler.step()
                losses.append(loss.item())
            if time.monotonic() - drawn > REDRAW:
                self._show(setting, rates, losses)
                drawn = time.monotonic()
        with torch.no_grad():
            x, y = self._batches.valid.dataset.tensors
            self._right = (model(x).argmax(1) == y).float().mean().item()
        self._show(setting, rates, losses)

    def _show(self, setting: tuple[Any, ...], rates: list[float], losses: list[float]) -> None:
        self._trained_with, self.best = setting, self._bests[setting[0]]
        self.trained = list(rates), list(losses)
        self.drawing.submit(lambda stale: self._draw())

    def _find_best_constant(self, name: str) -> None:
        x, y = self._batches.train.dataset.tensors
        sweep = sweep_lr(lambda: self._fresh, x, y, RATES, optimizer=name, num_epochs=self.num_epochs, seed=self.seed)
        finals = sweep.final_losses.nan_to_num(math.inf).tolist()
        index = finals.index(min(finals))
        self._bests[name] = sweep.lrs[index], sweep.losses[index].tolist(), finals[index]

    # What is drawn: axes that stay, the curve that follows the hand, and the loss that follows the training.

    def _panels(self) -> tuple[svg.Panel, svg.Panel]:
        top = 10 ** math.ceil(math.log10(self.lr.value) - 1e-9)
        top *= next(share for share in (0.2, 0.5, 1.0) if self.lr.value <= share * top * 1.001)
        left = svg.Panel(62, 34, 360, 242, (0, self.num_steps), (0, 1.08 * top))
        right = svg.Panel(508, 34, 360, 242, (0, self.num_steps), LOSSES, log_y=True)
        return left, right

    def _draw(self) -> None:
        # A newer drawing takes the place of one that waits, so each looks what there is to draw.
        self._draw_curve()
        trained = self.trained
        if trained is not self._drawn:
            self._draw_loss(*trained)
            self._drawn = trained
        self._words.value = f'<div class="lab-words" aria-live="polite">{self._sentence()}</div>'

    def _draw_curve(self) -> None:
        left, _ = self._panels()
        top = left.y_range[1] / 1.08
        step_ticks = [(epoch * len(self._batches.train), str(epoch)) for epoch in range(0, self.num_epochs + 1, 2)]
        rate_ticks = [(share * top, plots.rate_text(share * top)) for share in (0, 0.5, 1)]
        body = [
            left.axes("The learning rate of each step", "epoch", "", step_ticks, rate_ticks),
            svg.line(left.path(range(self.num_steps), self.rates), colour="accent", width=2.4),
        ]
        rates, shown = self.rates, f"{self.lr.value:.4g}"
        alt = (
            f"The learning rate of each step as the sliders draw it, {self.shape.value}: {plots.rate_text(rates[0])} "
            f"at the start, {plots.rate_text(max(rates))} at most, {plots.rate_text(rates[-1])} in the last step."
        )
        self._curve.value = svg.picture(WIDTH, HEIGHT, "".join(body), alt=alt, data_shown=shown)

    def _draw_loss(self, rates: list[float], losses: list[float]) -> None:
        _, right = self._panels()
        steps = range(1, self.num_steps + 1)
        best_rate, best_losses, _ = self.best
        step_ticks = [(epoch * len(self._batches.train), str(epoch)) for epoch in range(0, self.num_epochs + 1, 2)]
        loss_ticks = [
            (10.0**power, words) for power, words in zip(range(-3, 2), ("0.001", "0.01", "0.1", "1", "10"), strict=True)
        ]
        note = f"dashed: the best constant rate, {plots.rate_text(best_rate)}"
        back = [
            right.axes("The loss of each step", "epoch", "loss of the batch (log scale)", step_ticks, loss_ticks),
            svg.line(right.path(steps, best_losses), colour="second", width=1.2, dash="4 3"),
            svg.text(right.left + right.width - 8, right.top + 18, note, anchor="end", size=12, colour="second"),
        ]
        self._axes.value = svg.picture(WIDTH, HEIGHT, "".join(back), alt=self._alt())
        line = svg.line(right.path(steps[: len(losses)], losses), colour="accent", width=1.8)
        self._loss.value = svg.picture(WIDTH, HEIGHT, line, alt="", data_shown=f"{rates[-1]:.4g}")

    # What is said.

    def _sentence(self) -> str:
        rates, losses = self.trained
        best_rate, _, best = self.best
        if len(losses) < self.num_steps or self._setting() != self._trained_with:
            return f"Training for real, {self.num_steps} steps …<br>&nbsp;"
        end = self._last_epoch(losses)
        ended = (
            f"the mean loss of the last epoch is {end:.3g}, and {self._right:.1%} of the test images are right"
            if math.isfinite(end)
            else "the loss stopped being a number"
        )
        how = (
            f"{plots.rate_text(rates[0])} at the start, {plots.rate_text(max(rates))} at most, "
            f"{plots.rate_text(rates[-1])} in the last step"
        )
        rate = plots.rate_text(best_rate)
        goal = (
            f"Goal: end below {BETTER * best:.3g}, a fifth below the best of {len(RATES)} constant rates "
            f"({rate} ends at {best:.3g})."
        )
        if self.reached:
            goal = f"<b>Goal reached ✓</b> The best of {len(RATES)} constant rates, {rate}, ends at {best:.3g}."
        return f"<b>{how}:</b> {ended}.<br>{goal}"

    def _alt(self) -> str:
        rates, losses = self.trained
        return (
            f"Left: the learning rate of each of {self.num_steps} steps, {self.shape.value}, from {rates[0]:.3g} to "
            f"{rates[-1]:.3g}. Right: the loss of each step on a log scale; the last epoch's mean is "
            f"{self._last_epoch(losses):.3g}, with the best constant rate {self.best[2]:.3g}."
        )

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        left, right = plots.new_axes(2)
        rates, losses = self.trained
        steps = range(1, len(losses) + 1)
        left.plot(steps, rates, color=plots.BLUE, linewidth=2)
        left.set(title="The rate of each step", xlabel="step", ylabel="learning rate")
        left.set_ylim(bottom=0)
        right.plot(steps, losses, color=plots.BLUE, linewidth=1.2, label="this schedule")
        label = f"the best constant rate, {plots.rate_text(self.best[0])}"
        right.plot(
            range(1, self.num_steps + 1), self.best[1], color=plots.ORANGE, linestyle="--", linewidth=1, label=label
        )
        right.set_yscale("log")
        right.set(title="The loss of each step", xlabel="step", ylabel="loss of the batch (log scale)", ylim=LOSSES)
        right.legend(frameon=False, fontsize=9)
        words = "ScheduleLab: run the cell, then draw a schedule with the sliders"
        return {"image/png": plots.png(left), "text/plain": words}, {"image/png": {"alt": self._alt()}}
