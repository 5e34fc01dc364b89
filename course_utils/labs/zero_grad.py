"""Lesson 04's lab: when gradients are cleared, scaled and used, in real training runs."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import torch
from torch import Tensor

from course_utils import data, models, plots
from course_utils.experiments.accumulation import AccumulationConfig, AccumulationRuns, iter_runs, window_means
from course_utils.experiments.digits import seeded_model
from course_utils.labs import svg
from course_utils.labs.base import (
    FIT,
    GOAL_REACHED,
    Lab,
    Throttle,
    html_box,
    layers,
    log_slider,
    sentences,
    slider_options,
    still_picture,
)

NEVER = "never"
CLEAR_EVERY: list[int | str] = [1, 2, 4, 8, 16, 32, 64, NEVER]
EXPONENTS = (-8, 0)
RATES = [2.0**power for power in range(EXPONENTS[0], EXPONENTS[1] + 1)]
START = 2.0**-6
STEPS = {"after every backward()": "every", "once, just before clearing": "once"}
# The size of the runs' micro-batches, and that of the large batch of the goal. With this number of images no batch of
# an epoch is short, so a large batch is always four micro-batches.
MICRO_BATCH, LARGE_BATCH, NUM_IMAGES = 16, 64, 1408
MICRO_BATCHES = LARGE_BATCH // MICRO_BATCH
GOAL = AccumulationConfig(lr=0.25)
# Two curves closer than this coincide in the picture; rounding alone moves them by a millionth.
TOLERANCE = 0.02
HEIGHT = 340
TOP = 4.0
NORM_RANGE = (0.01, 1000.0)
# The other rows wait until no control has moved for so long, in seconds: training takes time from the drawing.
QUIET_TIME = 0.3
LABEL_WIDTH = "130px"


class ZeroGradLab(Lab):
    """Clear the gradients every k micro-batches, scale the losses or not, and see at once how the loop behaves.

    The left panel shows the loss, the right panel the norm of the gradient that each step uses. The dashed line is the
    loop to match: batches of 64 images, cleared before each. A row of runs, all k and both kinds of step at one
    learning rate, trains together: first the row at the slider, then the others.

    Args:
        num_epochs: passes over the 1,408 training images in each run.
        seed: fixes the first weights and the order of the images, which all runs share.

    Attributes:
        clear_every: 1, 2, 4 … 64 micro-batches of 16 images, or "never".
        lr: the learning rate, powers of two.
        step: "every", a step after each backward(), or "once", a step just before each clearing.
        scale: whether each loss is divided by k.
        rows: the runs by learning rate, as far as they are trained.
        goal: the run to match.
    """

    def __init__(self, *, num_epochs: int = 5, seed: int = 0):
        self.num_epochs = num_epochs
        self.clear_every = widgets.SelectionSlider(
            options=CLEAR_EVERY,
            value=NEVER,
            description="clear every k =",
            tooltip="clear the gradients after this many micro-batches of 16 images",
            **slider_options(LABEL_WIDTH),
        )
        self.lr = log_slider(
            "learning rate",
            value=START,
            exponents=EXPONENTS,
            step=1,
            tooltip="learning rate, powers of two from 1/256 to 1",
            base=2,
            description_width=LABEL_WIDTH,
        )
        self.step = widgets.ToggleButtons(
            options=STEPS,
            value="every",
            layout=FIT,
            style={"button_width": "auto"},
            tooltips=["a step after each micro-batch", "a step only when the gradients are about to be cleared"],
        )
        self.scale = widgets.Checkbox(
            value=False,
            disabled=True,
            description="divide each loss by k",
            indent=False,
            layout=FIT,
            tooltip="(loss / k).backward() instead of loss.backward()",
        )
        self._back, self._front, self._words = html_box("lab-back"), html_box("lab-front"), html_box()
        # The buttons' own description would be above them.
        label = widgets.Label("step()", layout=widgets.Layout(width=LABEL_WIDTH, justify_content="flex-end"))
        centered = widgets.Layout(flex_flow="row wrap", align_items="center")
        choosers = widgets.HBox([label, self.step, self.scale], layout=centered)
        super().__init__(
            [self.clear_every, self.lr, choosers, layers(self._back, self._front), self._words],
            controls={"clear_every": self.clear_every, "lr": self.lr, "step": self.step, "scale": self.scale},
            css_class="zero-grad-lab",
        )
        images, labels = (tensor[:NUM_IMAGES] for tensor in data.load("digits").train.dataset.tensors)
        self._batches = data.Batches(images, labels, batch_size=MICRO_BATCH, seed=seed)
        self._model = seeded_model(models.MLP, seed)
        self.rows: dict[float, AccumulationRuns] = {}
        self._moved = -QUIET_TIME
        large = data.Batches(images, labels, batch_size=LARGE_BATCH, seed=seed)
        *_, self.goal = iter_runs(self._model, large, [GOAL], num_epochs=num_epochs)
        self._draw_back()
        for control in (self.clear_every, self.lr, self.step, self.scale):
            self.on_change(control, self._change)
        # The row at the slider is trained before the lab is shown: it is useful before any click.
        self._train_row(self._rate(), lambda: False)
        self._draw_front()
        self.computing.submit(self._train_rows)

    def _change(self) -> None:
        self._moved = time.monotonic()
        self.scale.disabled = self.clear_every.value == NEVER
        self.follow()
        if not self._finished(self._rate()):
            self.computing.submit(self._train_rows)

    # The runs.

    def _rate(self) -> float:
        """Return the rate of the row nearest to the slider."""
        return min(RATES, key=lambda rate: abs(math.log(rate / self.lr.value)))

    def _chosen(self) -> AccumulationConfig:
        """Return the setting of the controls. If nothing is ever cleared, there is no k to divide by."""
        return _config(self._rate(), self.clear_every.value, self.step.value == "once", self.scale.value)

    def _finished(self, rate: float) -> bool:
        return rate in self.rows and self.rows[rate].finished

    def _train_rows(self, cancelled: Callable[[], bool]) -> None:
        """Train the missing rows, the nearest to the slider first."""
        for rate in sorted(RATES, key=lambda rate: abs(math.log(rate / self._rate()))):
            if not self._finished(rate):
                self._train_row(rate, cancelled)
            if cancelled():
                return

    def _train_row(self, rate: float, cancelled: Callable[[], bool]) -> None:
        configs = [
            _config(rate, every, once, scaled)
            for every in CLEAR_EVERY
            for once in (False, True)
            for scaled in ((False,) if every == NEVER else (False, True))
        ]
        redraw = Throttle()
        for runs in iter_runs(self._model, self._batches, configs, num_epochs=self.num_epochs):
            self.rows[rate] = runs
            if cancelled():
                return
            while self._finished(self._rate()) and time.monotonic() - self._moved < QUIET_TIME and not cancelled():
                time.sleep(QUIET_TIME / 10)
            if rate == self._rate() and (runs.finished or redraw.due()):
                self.draw()

    def _shown(self) -> tuple[AccumulationConfig, Tensor, Tensor]:
        """Return the chosen config, and its losses and gradient norms as far as they are trained."""
        config = self._chosen()
        runs = self.rows.get(config.lr)
        if runs is None:
            return config, torch.empty(0), torch.empty(0)
        row, done = runs.configs.index(config), runs.done
        return config, runs.losses[row, :done], runs.norms[row, :done]

    def reached(self) -> bool:
        """Return whether the chosen run's curve coincides with the dashed one, from the first image to the last."""
        means, goal = window_means(self._shown()[1], MICRO_BATCHES), self.goal.losses[0].tolist()
        return len(means) == len(goal) and all(abs(a - b) < TOLERANCE for a, b in zip(means, goal, strict=True))

    # Drawing: the back never changes.

    def _panels(self) -> tuple[svg.Panel, svg.Panel]:
        count = self.goal.losses.shape[1] * MICRO_BATCHES
        left = svg.Panel(52, 34, 370, 252, (0, count), (0, TOP))
        right = svg.Panel(498, 34, 370, 252, (0, count), NORM_RANGE, log_y=True)
        return left, right

    def _draw_back(self) -> None:
        left, right = self._panels()
        epoch = len(self._batches)
        counts = range(MICRO_BATCHES, (len(self.goal.losses[0]) + 1) * MICRO_BATCHES, MICRO_BATCHES)
        ticks = [(number * epoch, str(number * epoch)) for number in range(self.num_epochs + 1)]
        x_label = "micro-batches of 16 images (one tick an epoch)"
        losses = [(value, str(value)) for value in range(int(TOP) + 1)]
        legend = f"dashed: batches of {LARGE_BATCH}, lr {GOAL.lr:g}"
        body = [
            left.axes("Loss", x_label, f"mean loss of {LARGE_BATCH} images", ticks, losses),
            right.axes(
                "The gradient that each step uses", x_label, "its length (log scale)", ticks, svg.decades(-2, 3)
            ),
            svg.line(left.path(counts, self.goal.losses[0].tolist()), color="ink", width=1.2, dash="4 3"),
            svg.line(right.path(counts, self.goal.norms[0].tolist()), color="ink", width=1.2, dash="4 3"),
            svg.text(left.left + 10, left.top + 38, legend, size=12),
        ]
        self._back.value = svg.picture(HEIGHT, "".join(body), alt=self._alt())

    def _draw_front(self) -> None:
        left, right = self._panels()
        config, losses, norms = self._shown()
        means = window_means(losses, MICRO_BATCHES)
        # Only what a step uses is drawn: with one step per k micro-batches, that is every k-th norm.
        used = [count for count in range(1, len(norms) + 1) if config.steps(count)]
        lengths = norms[[count - 1 for count in used]].tolist()
        counts = range(MICRO_BATCHES, (len(means) + 1) * MICRO_BATCHES, MICRO_BATCHES)
        body = [
            svg.line(left.path(counts, means), color="accent", width=2.2),
            svg.line(right.path(used, lengths), color="accent", width=1.6),
            svg.text(left.left + 10, left.top + 20, _name(config), weight="600", color="accent"),
        ]
        if len(norms) and not used:
            middle = right.left + right.width / 2
            body.append(svg.text(middle, right.top + 40, "no step is ever taken", anchor="middle", color="accent"))
        scaling = "scaled" if config.scaled else "unscaled"
        shown = f"{self.clear_every.value} {self.step.value} {scaling} {config.lr:g}"
        sentence = self._sentence(config, means, lengths)
        alt = svg.plain(sentence.partition("<br>")[0])
        self._front.value = svg.picture(HEIGHT, "".join(body), alt=alt, data_shown=shown)
        # Always room for three lines, so that nothing below moves when the text gets longer.
        self._words.value = sentences(sentence, min_height="4.4em")

    # Sentences.

    def _sentence(self, config: AccumulationConfig, means: Sequence[float], lengths: Sequence[float]) -> str:
        """Describe the loop that the controls choose, its numbers, and whether the goal is reached."""
        words = f"<b>{_what(config)}</b> "
        total = self.goal.losses.shape[1]
        if len(means) < total:
            return words + f"Training: {len(means) * LARGE_BATCH:,} of {total * LARGE_BATCH:,} images …"
        words += f"The loss goes from {means[0]:.2f} to {_number(means[-1])}"
        lowest = min(range(total), key=lambda index: means[index] if math.isfinite(means[index]) else math.inf)
        if not means[-1] < means[lowest] + 0.5:
            words += f", after {means[lowest]:.2f} on the way"
        words += f"; the longest gradient used is {_number(max(lengths))}." if lengths else "."
        left_over = total * MICRO_BATCHES % config.clear_every if config.clear_every else 0
        if config.step_once and left_over:
            words += f" The last {left_over} micro-batches never reach a step."
        goal = f"Goal: lay your curve on the dashed one, the loop with batches of {LARGE_BATCH} at lr {GOAL.lr:g}."
        if self.reached():
            other = "without the division" if config.scaled else "with the division by k"
            goal = (
                f"{GOAL_REACHED} four micro-batches of {MICRO_BATCH} make one batch of {LARGE_BATCH}. "
                f"There is a second way, {other}: which rate does it need?"
            )
        return f"{words}<br>{goal}"

    def _alt(self) -> str:
        goal = self.goal.losses[0]
        return (
            f"Left: the loss against the micro-batches seen. Right: the length of the gradient that each step uses, on "
            f"a log scale. The dashed line is the loop with batches of {LARGE_BATCH} images, whose loss falls from "
            f"{goal[0]:.2f} to {goal[-1]:.2f}; the run that the controls choose is drawn over it."
        )

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        runs = self.rows[START]
        chosen = [AccumulationConfig(START, every) for every in (1, 16, None)]
        names = [_name(config) for config in chosen]
        rows = [runs.configs.index(config) for config in chosen]
        left, right = plots.new_axes(2)
        means = {name: window_means(runs.losses[row], MICRO_BATCHES) for name, row in zip(names, rows, strict=True)}
        x_label = "micro-batches of 16 images"
        xs, title = [MICRO_BATCHES] * len(rows), f"Loss at lr {START:.3g}"
        plots.plot_runs(means, left, xs=xs, top=TOP, title=title, x_label=x_label)
        left.set_ylabel(f"mean loss of {LARGE_BATCH} images")
        lengths = {name: runs.norms[row].tolist() for name, row in zip(names, rows, strict=True)}
        plots.plot_runs(lengths, right, title="The gradient that each step uses", x_label=x_label)
        right.set(yscale="log", ylim=(0.1, NORM_RANGE[1]), ylabel="its length (log scale)")
        text = "ZeroGradLab: run the cell, then choose how often the gradients are cleared"
        first, some, never = means.values()
        alt = (
            f"Left: the loss at learning rate {START:.3g}, with a step after every micro-batch. Cleared every time it "
            f"falls slowly, to {first[-1]:.1f}; cleared every 16 it falls to {some[-1]:.1f}; never cleared it falls "
            f"fastest, to {min(never):.1f}, and then rises to {never[-1]:.1f}. Right: the length of the gradient "
            "that each step uses. Only without clearing it grows and grows."
        )
        return still_picture(left, text=text, alt=alt)


def _config(rate: float, clear_every: int | str, step_once: bool, scaled: bool) -> AccumulationConfig:
    if isinstance(clear_every, str):  # "never": there is nothing to divide by
        return AccumulationConfig(rate, None, step_once=step_once)
    return AccumulationConfig(rate, clear_every, step_once=step_once, scaled=scaled)


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not a finite number anymore"


def _name(config: AccumulationConfig) -> str:
    """Return the run's name in the picture."""
    if config.clear_every is None:
        return "never cleared"
    return "cleared every time" if config.clear_every == 1 else f"cleared every {config.clear_every}"


def _what(config: AccumulationConfig) -> str:
    """Describe the loop in a sentence."""
    every = config.clear_every
    if every is None and config.step_once:
        return "Never cleared, and the step waits for the clearing: nothing moves."
    if every is None:
        return "Never cleared: step t uses the gradients of all t micro-batches, which is SGD with momentum 1."
    if every == 1:
        return f"Cleared every time: the ordinary loop with batches of {MICRO_BATCH}."
    if not config.step_once and config.scaled:
        return (
            f"Cleared every {every}, a step after each: "
            f"a step uses the last 1 to {every} gradients, divided by {every}."
        )
    if not config.step_once:
        return f"Cleared every {every}, a step after each: a step uses the last 1 to {every} gradients."
    if config.scaled:
        return f"Accumulation: {every} micro-batches, one step, as with batches of {every * MICRO_BATCH}."
    return (
        f"Accumulation without scaling: the gradient is {every} times too long, as if lr were {every * config.lr:.3g}."
    )
