"""Lesson 04's lab: when gradients are cleared, scaled and used, over real training runs."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import torch
from torch import Tensor

from course_utils import data, models, plots
from course_utils.devices import seed_everything
from course_utils.experiments.accumulation import Plan, Runs, iter_runs
from course_utils.labs import svg
from course_utils.labs.base import Lab, layers

NEVER = "never"
CLEAR_EVERY = [1, 2, 4, 8, 16, 32, 64, NEVER]
EXPONENTS = (-8, 0)
RATES = [2.0**power for power in range(EXPONENTS[0], EXPONENTS[1] + 1)]
START = 2.0**-6
STEPS = {"after every backward()": "every", "once, just before clearing": "once"}
# The micro-batches of the runs, and the large batch that the goal is about. The images are so many that no batch of
# an epoch is short: then a large batch is four micro-batches, always.
MICRO_BATCH, LARGE_BATCH, NUM_IMAGES = 16, 64, 1408
GOAL = Plan(lr=0.25)
# Two curves of this distance lie on one another in the picture; rounding alone moves them by a millionth.
ON_IT = 0.02
WIDTH, HEIGHT = 880, 340
TOP = 4.0
LENGTHS = (0.01, 1000.0)
POWERS = ("0.01", "0.1", "1", "10", "100", "1000")
# A row that fills in is drawn again this often, in seconds.
REDRAW = 0.1
# The other rows wait until the hand has been still for so long, in seconds: training takes time from the drawing.
STILL = 0.3
WIDE = widgets.Layout(width="98%")
STYLE = {"description_width": "130px"}


class ZeroGradLab(Lab):
    """Clear the gradients every k micro-batches, scale the losses or not, and see at once what the loop becomes.

    On the left the loss, on the right the length of the gradient that each step uses. The dashed line is the loop to
    copy: batches of 64 images, cleared before each. A row of runs, all k and both kinds of step at one learning rate,
    trains together; the row at the handle first, the others behind it.

    Args:
        num_epochs: passes over the 1,408 training images in each run.
        seed: the weights and the order of the images that all runs share.

    Attributes:
        clear_every: 1, 2, 4 … 64 micro-batches of 16 images, or "never".
        lr: the learning rate, powers of two.
        step: "every", a step after each backward, or "once", a step just before each clearing.
        scale: whether each loss is divided by k.
        rows: the runs by learning rate, as far as they are trained.
        goal: the run to copy.
    """

    def __init__(self, *, num_epochs: int = 5, seed: int = 0):
        self.num_epochs = num_epochs
        self.clear_every = widgets.SelectionSlider(
            options=CLEAR_EVERY,
            value=NEVER,
            description="clear every k =",
            layout=WIDE,
            style=STYLE,
            tooltip="clear the gradients after this many micro-batches of 16 images",
        )
        self.lr = widgets.FloatLogSlider(
            value=START,
            base=2,
            min=EXPONENTS[0],
            max=EXPONENTS[1],
            step=1,
            description="learning rate",
            readout_format=".3g",
            layout=WIDE,
            style=STYLE,
            tooltip="learning rate, powers of two from 1/256 to 1",
        )
        self.step = widgets.ToggleButtons(
            options=STEPS,
            value="every",
            layout=widgets.Layout(width="auto"),
            style={"button_width": "auto"},
            tooltips=["a step after each micro-batch", "a step only when the gradients are about to be cleared"],
        )
        self.scale = widgets.Checkbox(
            value=False,
            disabled=True,
            description="divide each loss by k",
            indent=False,
            layout=widgets.Layout(width="auto"),
            tooltip="(loss / k).backward() instead of loss.backward()",
        )
        self._back, self._front, self._words = widgets.HTML(), widgets.HTML(), widgets.HTML()
        for part, name in ((self._back, "lab-back"), (self._front, "lab-front")):
            part.add_class(name)
        # The buttons' own description would stand above them.
        place = widgets.Layout(width=STYLE["description_width"], justify_content="flex-end")
        label = widgets.Label("step()", layout=place)
        row = widgets.Layout(flex_flow="row wrap", align_items="center")
        choosers = widgets.HBox([label, self.step, self.scale], layout=row)
        super().__init__(
            [self.clear_every, self.lr, choosers, layers(self._back, self._front), self._words],
            controls={"clear_every": self.clear_every, "lr": self.lr, "step": self.step, "scale": self.scale},
            css_class="zero-grad-lab",
        )
        images, labels = (tensor[:NUM_IMAGES] for tensor in data.load("digits").train.dataset.tensors)
        self._batches = data.Batches(images, labels, batch_size=MICRO_BATCH, seed=seed)
        with torch.random.fork_rng(devices=[]):
            seed_everything(seed)
            self._model = models.make_model("mlp")
        self.rows: dict[float, Runs] = {}
        self._moved = -STILL
        large = data.Batches(images, labels, batch_size=LARGE_BATCH, seed=seed)
        *_, self.goal = iter_runs(self._model, large, [GOAL], num_epochs=num_epochs)
        self._draw_back()
        for control in (self.clear_every, self.lr, self.step, self.scale):
            self.when(control, self._follow)
        # The row at the handle is trained before the lab is shown: it is useful before any click.
        self._train_row(self._rate(), lambda: False)
        self._draw_front()
        self.computing.submit(self._train_rows)

    def _follow(self) -> None:
        self.clear_error()
        self._moved = time.monotonic()
        self.scale.disabled = self.clear_every.value == NEVER
        if not self._finished(self._rate()):
            self.computing.submit(self._train_rows)
        self.draw()

    # The runs.

    def _rate(self) -> float:
        """The rate of the row nearest to the handle."""
        return min(RATES, key=lambda rate: abs(math.log(rate / self.lr.value)))

    def _chosen(self) -> Plan:
        """What the controls ask for. Where nothing is ever cleared there is no k to divide by."""
        every = None if self.clear_every.value == NEVER else self.clear_every.value
        scaled = self.scale.value and every is not None
        return Plan(self._rate(), every, step_once=self.step.value == "once", scaled=scaled)

    def _finished(self, rate: float) -> bool:
        return rate in self.rows and self.rows[rate].done == self.rows[rate].losses.shape[1]

    def _train_rows(self, stale: Callable[[], bool]) -> None:
        """Train the rows that are not there yet, the nearest to the handle first."""
        for rate in sorted(RATES, key=lambda rate: abs(math.log(rate / self._rate()))):
            if not self._finished(rate):
                self._train_row(rate, stale)
            if stale():
                return

    def _train_row(self, rate: float, stale: Callable[[], bool]) -> None:
        plans = [
            Plan(rate, None if every == NEVER else every, step_once=once, scaled=scaled)
            for every in CLEAR_EVERY
            for once in (False, True)
            for scaled in ((False,) if every == NEVER else (False, True))
        ]
        drawn = time.monotonic()
        for runs in iter_runs(self._model, self._batches, plans, num_epochs=self.num_epochs):
            self.rows[rate] = runs
            if stale():
                return
            while self._finished(self._rate()) and time.monotonic() - self._moved < STILL and not stale():
                time.sleep(STILL / 10)
            finished = runs.done == runs.losses.shape[1]
            if rate == self._rate() and (finished or time.monotonic() - drawn > REDRAW):
                self.draw()
                drawn = time.monotonic()

    def _seen(self) -> tuple[Plan, Tensor, Tensor]:
        """The chosen plan, and its losses and lengths as far as they are trained."""
        plan = self._chosen()
        runs = self.rows.get(plan.lr)
        if runs is None:
            return plan, torch.empty(0), torch.empty(0)
        row, done = runs.plans.index(plan), runs.done
        return plan, runs.losses[row, :done], runs.norms[row, :done]

    def _window_means(self, losses: Tensor) -> list[float]:
        """The mean loss of every 64 images: so many as the goal's batches have."""
        size = LARGE_BATCH // MICRO_BATCH
        return losses[: len(losses) // size * size].view(-1, size).mean(1).tolist()

    def reached(self) -> bool:
        """Whether the chosen run's curve lies on the dashed one, from the first image to the last."""
        means, goal = self._window_means(self._seen()[1]), self.goal.losses[0].tolist()
        return len(means) == len(goal) and all(abs(a - b) < ON_IT for a, b in zip(means, goal, strict=True))

    # What is drawn. The back never changes.

    def _panels(self) -> tuple[svg.Panel, svg.Panel]:
        count = self.goal.losses.shape[1] * LARGE_BATCH // MICRO_BATCH
        left = svg.Panel(52, 34, 370, 252, (0, count), (0, TOP))
        right = svg.Panel(498, 34, 370, 252, (0, count), LENGTHS, log_y=True)
        return left, right

    def _draw_back(self) -> None:
        left, right = self._panels()
        size, epoch = LARGE_BATCH // MICRO_BATCH, len(self._batches)
        counts = range(size, (len(self.goal.losses[0]) + 1) * size, size)
        ticks = [(number * epoch, str(number * epoch)) for number in range(self.num_epochs + 1)]
        x_label = "micro-batches of 16 images (one tick an epoch)"
        powers = [(10.0**power, words) for power, words in zip(range(-2, 4), POWERS, strict=True)]
        losses = [(value, str(value)) for value in range(int(TOP) + 1)]
        legend = f"dashed: batches of {LARGE_BATCH}, lr {GOAL.lr:g}"
        body = [
            left.axes("Loss", x_label, f"mean loss of {LARGE_BATCH} images", ticks, losses),
            right.axes("The gradient that each step uses", x_label, "its length (log scale)", ticks, powers),
            svg.line(left.path(counts, self.goal.losses[0].tolist()), colour="ink", width=1.2, dash="4 3"),
            svg.line(right.path(counts, self.goal.norms[0].tolist()), colour="ink", width=1.2, dash="4 3"),
            svg.text(left.left + 10, left.top + 38, legend, size=12),
        ]
        self._back.value = svg.picture(WIDTH, HEIGHT, "".join(body), alt=self._alt())

    def _draw_front(self) -> None:
        left, right = self._panels()
        plan, losses, norms = self._seen()
        size = LARGE_BATCH // MICRO_BATCH
        means = self._window_means(losses)
        # Only what a step uses is drawn: with one step for k micro-batches, that is every k-th length.
        used = [count for count in range(1, len(norms) + 1) if plan.steps(count)]
        every = norms.tolist()
        lengths = [every[count - 1] for count in used]
        counts = range(size, (len(means) + 1) * size, size)
        body = [
            svg.line(left.path(counts, means), colour="accent", width=2.2),
            svg.line(right.path(used, lengths), colour="accent", width=1.6),
            svg.text(left.left + 10, left.top + 20, _name(plan), weight="600", colour="accent"),
        ]
        if len(norms) and not used:
            middle = right.left + right.width / 2
            body.append(svg.text(middle, right.top + 40, "no step is ever taken", anchor="middle", colour="accent"))
        shown = f"{self.clear_every.value} {self.step.value} {'scaled' if plan.scaled else 'unscaled'} {plan.lr:g}"
        sentence = self._sentence(plan, means, lengths)
        alt = svg.plain(sentence.partition("<br>")[0])
        self._front.value = svg.picture(WIDTH, HEIGHT, "".join(body), alt=alt, data_shown=shown)
        # Room for three lines always: where the words are longer, nothing below may move.
        self._words.value = f'<div class="lab-words" style="min-height: 4.4em" aria-live="polite">{sentence}</div>'

    # What is said.

    def _sentence(self, plan: Plan, means: Sequence[float], lengths: Sequence[float]) -> str:
        """What the controls make of the loop, its numbers, and whether the goal is reached."""
        words = f"<b>{_what(plan)}</b> "
        total = self.goal.losses.shape[1]
        if len(means) < total:
            return words + f"Training: {len(means) * LARGE_BATCH:,} of {total * LARGE_BATCH:,} images …"
        words += f"The loss goes from {means[0]:.2f} to {_number(means[-1])}"
        lowest = min(range(total), key=lambda index: means[index] if math.isfinite(means[index]) else math.inf)
        if not means[-1] < means[lowest] + 0.5:
            words += f", after {means[lowest]:.2f} on the way"
        words += f"; the longest gradient used is {_number(max(lengths))}." if lengths else "."
        left_over = total * LARGE_BATCH // MICRO_BATCH % plan.clear_every if plan.clear_every else 0
        if plan.step_once and left_over:
            words += f" The last {left_over} micro-batches never reach a step."
        goal = f"Goal: lay your curve on the dashed one, the loop with batches of {LARGE_BATCH} at lr {GOAL.lr:g}."
        if self.reached():
            other = "without the division" if plan.scaled else "with the division by k"
            goal = (
                f"<b>Goal reached ✓</b> four micro-batches of {MICRO_BATCH} make one batch of {LARGE_BATCH}. "
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
        size = LARGE_BATCH // MICRO_BATCH
        chosen = [Plan(START, every) for every in (1, 16, None)]
        names = [_name(plan) for plan in chosen]
        rows = [runs.plans.index(plan) for plan in chosen]
        left, right = plots.new_axes(2)
        means = {name: self._window_means(runs.losses[row]) for name, row in zip(names, rows, strict=True)}
        x_label = "micro-batches of 16 images"
        plots.plot_runs(means, left, xs=[size] * len(rows), top=TOP, title=f"Loss at lr {START:.3g}", x_label=x_label)
        left.set_ylabel(f"mean loss of {LARGE_BATCH} images")
        lengths = {name: runs.norms[row].tolist() for name, row in zip(names, rows, strict=True)}
        plots.plot_runs(lengths, right, title="The gradient that each step uses", x_label=x_label)
        right.set(yscale="log", ylim=(0.1, LENGTHS[1]), ylabel="its length (log scale)")
        words = "ZeroGradLab: run the cell, then choose how often the gradients are cleared"
        first, some, never = means.values()
        alt = (
            f"Left: the loss at learning rate {START:.3g}, with a step after every micro-batch. Cleared every time it "
            f"falls slowly, to {first[-1]:.1f}; cleared every 16 it falls to {some[-1]:.1f}; never cleared it falls "
            f"fastest, to {min(never):.1f}, and then rises to {never[-1]:.1f}. Right: the length of the gradient "
            "that each step uses. Only without clearing it grows and grows."
        )
        return {"image/png": plots.png(left), "text/plain": words}, {"image/png": {"alt": alt}}


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "no number any more"


def _name(plan: Plan) -> str:
    """The run's name in the picture."""
    if plan.clear_every is None:
        return "never cleared"
    return "cleared every time" if plan.clear_every == 1 else f"cleared every {plan.clear_every}"


def _what(plan: Plan) -> str:
    """What these controls make of the loop, in a sentence."""
    every = plan.clear_every
    if every is None and plan.step_once:
        return "Never cleared, and the step waits for the clearing: nothing moves."
    if every is None:
        return "Never cleared: step t uses the gradients of all t micro-batches, which is SGD with momentum 1."
    if every == 1:
        return f"Cleared every time: the ordinary loop with batches of {MICRO_BATCH}."
    if not plan.step_once:
        divided = f", divided by {every}" if plan.scaled else ""
        return f"Cleared every {every}, a step after each: a step uses the last 1 to {every} gradients{divided}."
    if plan.scaled:
        return f"Accumulation: {every} micro-batches, one step, as with batches of {every * MICRO_BATCH}."
    return f"Accumulation without scaling: the gradient is {every} times too long, as if lr were {every * plan.lr:.3g}."
