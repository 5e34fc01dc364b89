"""Lesson 08's lab: a real run of `Trainer` in the background, held, steered and ended by hand."""

import contextlib
import copy
import math
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import torch
from torch import nn

from course_utils import data, models, plots
from course_utils.devices import seed_everything
from course_utils.errors import positive_integer
from course_utils.labs import svg
from course_utils.labs.base import Lab, layers
from course_utils.learner.record import learner_folder
from course_utils.optimizers import make_optimizer
from course_utils.training import NonFiniteError, Trainer
from course_utils.training.history import History

# The goal: the accuracy on images the model has never seen, after the last epoch.
GOAL = 0.97
# The rate that the lab opens with: so small that the run does not reach the goal when nobody moves it.
START_RATE = 10**-1.5
EXPONENTS = (-4, 1)
RATE_TICKS = [(1e-4, "10⁻⁴"), (1e-2, "0.01"), (1.0, "1")]
# A step of this model takes a third of a millisecond: a run would be over before a hand has moved.
SPEEDS = {"slow motion: 60 steps a second": 60.0, "as fast as it goes": 0.0}
# The picture is drawn this often, in seconds, and a run that rests looks this often whether it may go on.
REDRAW, LOOK = 0.1, 0.05
# A path of more points is no finer on a screen.
MOST_POINTS = 500
WIDTH, HEIGHT = 880, 380
WIDE = widgets.Layout(width="98%")
CHOOSER = widgets.Layout(width="auto")


class TrainingLab(Lab):
    """Start a real training run, change its learning rate while it runs, hold it, and stop it; the kernel stays free.

    `Trainer` trains plain SGD on the handwritten digits in a thread of its own. On the left is the loss of each step
    with the learning rate below it, on the right the accuracy on held-out images after each epoch. The grey curves are
    a run that nobody touched. Each run keeps its checkpoint and its TensorBoard files in a folder of its own,
    `runs/training-lab-N` in the learner's folder.

    A run ends by itself after `num_epochs`; it ends after the step it is at when Stop is pressed, when another
    `TrainingLab` is made (the cell was run again), when the lab is closed, at JupyterLab's own stop button between two
    cells, and with the kernel.

    Args:
        num_epochs: passes over the 1,437 training images in each run.
        seed: the first weights and the order of the batches, the same for each run.

    Attributes:
        lr, speed: the controls; `lab.lr.value = 0.1` moves the handle.
        start, pause, halt: the buttons.
        state: "ready", "running", "paused", "finished", "stopped" or "broken" (the loss was no number any more).
        history: the figures of the run shown, as `Trainer` records them.
        run_dir: the folder of that run, or None before the first.

    Raises:
        ValueError: num_epochs is no whole number of at least 1.
    """

    def __init__(self, *, num_epochs: int = 20, seed: int = 0):
        self.num_epochs, self.seed = positive_integer("num_epochs", num_epochs), seed
        for other in list(Lab.alive):
            if isinstance(other, TrainingLab):
                other.stop()
        self.lr = widgets.FloatLogSlider(
            value=START_RATE,
            base=10,
            min=EXPONENTS[0],
            max=EXPONENTS[1],
            step=1 / 8,
            description="learning rate",
            readout_format=".3g",
            layout=WIDE,
            style={"description_width": "90px"},
            tooltip="learning rate from the next step on, from 0.0001 to 10 on a log scale",
        )
        self.speed = widgets.Dropdown(options=SPEEDS, value=60.0, description="speed", layout=CHOOSER)
        self.start = widgets.Button(description="Start", icon="play", tooltip="train from fresh weights")
        self.pause = widgets.Button(
            description="Pause", icon="pause", disabled=True, tooltip="hold the run after this step, or let it go on"
        )
        self._back, self._front, self._words = widgets.HTML(), widgets.HTML(), widgets.HTML()
        for part, name in ((self._back, "lab-back"), (self._front, "lab-front")):
            part.add_class(name)
        super().__init__(
            [self.lr, widgets.HBox([self.speed]), layers(self._back, self._front), self._words],
            controls={"lr": self.lr, "speed": self.speed, "start": self.start, "pause": self.pause},
            css_class="training-lab",
            buttons=[self.start, self.pause],
        )
        digits = data.load("digits")
        self._x, self._y = digits.train.dataset.tensors
        self._valid, self._num_batches = digits.valid, len(digits.train)
        self.num_steps = self.num_epochs * self._num_batches
        with torch.random.fork_rng(devices=[]):
            seed_everything(seed)
            self._fresh = models.MLP()  # copied for each run, so that no run touches the learner's random numbers
        self.state, self.history, self.run_dir = "ready", History(), None
        self._held, self._rests, self._drawn = threading.Event(), False, 0.0
        self._temporary: list[tempfile.TemporaryDirectory] = []
        self.when(self.lr, self._follow)
        self.when(self.start, self._begin)
        self.when(self.pause, self._hold)
        # An untouched run is made before the lab is shown: something to beat, and the still picture.
        self.untouched = self._fit(START_RATE)
        self._draw_back()
        self._draw_front()
        self._say()

    # What the hand asks for: each notes what is wanted and hands the work on.

    def _follow(self) -> None:
        self.clear_error()
        self.drawing.submit(lambda stale: self._show())

    def _begin(self) -> None:
        self.clear_error()
        self._held.clear()
        self.computing.submit(self._train)

    def _hold(self) -> None:
        if self.state not in ("running", "paused"):
            return
        if self._held.is_set():
            self._held.clear()
        else:
            self._held.set()

    def stop(self) -> None:
        """End the run after the step that it is at; what is shown stays."""
        super().stop()
        self._held.clear()

    def settle(self, timeout: float = 60.0) -> None:
        """Wait until a run that runs has ended, or rests, and all of it is drawn.

        Raises:
            TimeoutError: it took longer than `timeout` seconds.
            Exception: the first error that a callback or a worker met since the last `settle`.
        """
        end = time.monotonic() + timeout

        def rests() -> bool:
            return self._rests and self._held.is_set()

        while self.computing.busy and not rests() and time.monotonic() < end:
            time.sleep(LOOK / 5)
        if rests():
            self.drawing.settle(max(0.0, end - time.monotonic()))
        else:
            super().settle(max(0.0, end - time.monotonic()))

    def close(self) -> None:
        """End the run after the step it is at, and take the widget off the page."""
        made = self in Lab.alive  # one whose making failed half-way has no run
        super().close()
        if not made:
            return
        with contextlib.suppress(TimeoutError):
            self.computing.settle(5.0)
        while self._temporary:
            self._temporary.pop().cleanup()

    # What the worker does.

    def _fit(self, lr: float, **options: Any) -> History:
        """Train once from the fresh weights with `Trainer`, a figure for each step."""
        network = copy.deepcopy(self._fresh)
        optimizer = make_optimizer("sgd", network.parameters(), lr)
        batches = data.Batches(self._x, self._y, batch_size=64, seed=self.seed)
        follow = options.pop("follow", None)
        trainer = Trainer(
            network,
            optimizer,
            nn.CrossEntropyLoss(),
            device="cpu",
            log_every=1,
            progress=False if follow is None else lambda *news: follow(trainer, *news),
            **options,
        )
        return trainer.fit(batches, self._valid, num_epochs=self.num_epochs)

    def _train(self, stale: Callable[[], bool]) -> None:
        """Train in the background until the end, or until the hand or a newer run wants it to end."""
        self.history = History()
        self.run_dir, trouble = self._new_folder()
        self._turn("running")
        due, last = time.monotonic(), 0

        def follow(trainer: Trainer, step: int, num_steps: int, history: History) -> None:
            nonlocal due, last
            self.history = history
            if stale():
                trainer.stop()
                return
            trainer.optimizer.param_groups[0]["lr"] = self.lr.value  # the next step is taken with it
            if step > last and self.speed.value:
                # Late steps are not made up for: a run that was held goes on at its pace.
                now = time.monotonic()
                due = max(due + 1 / self.speed.value, now)
                time.sleep(due - now)
            if step == last or time.monotonic() - self._drawn > REDRAW:
                # The end of an epoch is told a second time, with the accuracy.
                self._drawn = time.monotonic()
                self.tell(step / num_steps, f"step {step} of {num_steps}")
                self._follow()
            last = step
            if self._held.is_set():
                self._turn("paused")
                self._rests = True  # and all that says so is on its way
                while self._held.is_set() and not stale():
                    time.sleep(LOOK)
                self._rests = False
                self._turn("running")

        ended = "stopped"
        try:
            self.history = self._fit(self.lr.value, run_dir=self.run_dir, follow=follow)
            if len(self.history.epoch_loss) == self.num_epochs:
                ended = "finished"
        except NonFiniteError as error:
            ended, trouble = "broken", str(error)
        finally:
            self._turn(ended)
            self.told(trouble)

    def _turn(self, state: str) -> None:
        """Enter a state: the buttons, the words and the picture say so."""
        self.state = state
        live, paused = state in ("running", "paused"), state == "paused"
        self.pause.disabled = not live
        self.pause.description, self.pause.icon = ("Continue", "play") if paused else ("Pause", "pause")
        if live:
            step = len(self.history.step_loss)
            self.tell(step / self.num_steps, f"paused after step {step}" if paused else f"step {step}")
        self.drawing.submit(lambda stale: self._show())

    def _new_folder(self) -> tuple[Path, str]:
        """Make a folder for one run in the learner's folder; where that can't be, a temporary one, and say so."""
        runs = learner_folder() / "runs"
        number = 1
        try:
            runs.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    folder = runs / f"training-lab-{number}"
                    folder.mkdir()
                    return folder, ""
                except FileExistsError:  # an earlier run, or another lesson was quicker
                    number += 1
        except OSError as error:
            self._temporary.append(tempfile.TemporaryDirectory(prefix="training-lab-"))
            trouble = f"{str(runs)!r} cannot be written ({error.strerror}): this run's files go when the lab is closed"
            return Path(self._temporary[-1].name), trouble

    # What is drawn. The back is drawn once, the front while the run goes on.

    def _panels(self) -> tuple[svg.Panel, svg.Panel, svg.Panel]:
        steps = (0, self.num_steps)
        loss = svg.Panel(52, 34, 370, 208, steps, (0, 4))
        rate = svg.Panel(52, 262, 370, 70, steps, (10 ** EXPONENTS[0], 10 ** EXPONENTS[1]), log_y=True)
        accuracy = svg.Panel(498, 34, 370, 298, steps, (0, 1))
        return loss, rate, accuracy

    def _draw_back(self) -> None:
        loss, rate, accuracy = self._panels()
        every = max(1, self.num_epochs // 4)
        ticks = [(epoch * self._num_batches, str(epoch)) for epoch in range(0, self.num_epochs + 1, every)]
        shares = [(share / 4, f"{share * 25}") for share in range(5)]
        body = [
            loss.axes("Loss of each step", "", "loss of the batch", [], [(n, str(n)) for n in range(5)]),
            rate.axes("", "epoch", "rate", ticks, RATE_TICKS),
            accuracy.axes("Accuracy on images never seen", "epoch", "right, in percent", ticks, shares),
            svg.line(_path(loss, self.untouched.step_loss), colour="faint", width=0.7, opacity=0.85),
            svg.line(_path(accuracy, self.untouched.valid_accuracy), colour="faint", width=1.4, opacity=0.85),
        ]
        goal = accuracy.y(GOAL)
        body.append(svg.line(f"M{accuracy.left} {goal:.1f}h{accuracy.width}", colour="good", width=1.4, dash="6 4"))
        right, bottom = accuracy.left + accuracy.width - 8, accuracy.top + accuracy.height
        body.append(svg.text(right, goal + 16, f"goal: {GOAL:.0%} at the end", anchor="end", size=12, colour="good"))
        words = f"grey: nobody touched lr = {plots.rate_text(START_RATE)}"
        body.append(svg.text(right, bottom - 12, words, anchor="end", size=12, colour="faint"))
        alt = (
            f"Left: the loss of each step of a run of {self.num_epochs} epochs, and its learning rate. Right: its "
            f"accuracy on held-out images, with the goal of {GOAL:.0%}. In grey a run at the rate "
            f"{plots.rate_text(START_RATE)} that nobody touched; it ends at {self.untouched.valid_accuracy[-1][1]:.0%}."
        )
        self._back.value = svg.picture(WIDTH, HEIGHT, "".join(body), alt=alt)

    def _draw_front(self) -> None:
        loss, rate, accuracy = self._panels()
        history = self.history
        losses, rates, shares = list(history.step_loss), list(history.lr), list(history.valid_accuracy)
        body = [
            svg.line(_path(loss, losses), colour="accent", width=1.2),
            svg.line(_path(rate, rates), colour="second", width=1.8),
            svg.line(_path(accuracy, shares), colour="accent", width=2.2),
        ]
        # The handle's own rate: what the next step will be taken with.
        x, y = rate.x(len(losses)), rate.y(self.lr.value)
        body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="var(--lab-second)"/>')
        if shares:
            x, y = accuracy.x(shares[-1][0]), accuracy.y(shares[-1][1])
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="var(--lab-accent)"/>')
            words = f"now {shares[-1][1]:.1%}"
            right, bottom = accuracy.left + accuracy.width - 8, accuracy.top + accuracy.height
            body.append(svg.text(right, bottom - 32, words, anchor="end", weight="600", colour="accent"))
        alt = svg.plain(self._sentence().partition("<br>")[0])
        alt += f" The next step is taken at rate {plots.rate_text(self.lr.value)}."
        self._front.value = svg.picture(
            WIDTH,
            HEIGHT,
            "".join(body),
            alt=alt,
            data_shown=f"{self.lr.value:.4g}",
            data_step=str(len(losses)),
            data_state=self.state,
        )

    def _show(self) -> None:
        self._draw_front()
        self._say()

    # What is said.

    def _say(self) -> None:
        words = f'<div class="lab-words" aria-live="polite">{self._sentence()}</div>'
        if words != self._words.value:
            self._words.value = words

    def _sentence(self) -> str:
        """What the run does, and whether the goal is reached; it changes once an epoch, not at each step."""
        history, state = self.history, self.state
        goal = f"Goal: end the run with {GOAL:.0%} or more; change the rate while it runs."
        if state == "ready":
            return (
                "<b>Ready.</b> Press Start and move the learning rate while it runs. Other cells can be run meanwhile."
                f"<br>{goal}"
            )
        epochs, rate = len(history.epoch_loss), plots.rate_text(self.lr.value)
        so_far = f"after {epochs} of {self.num_epochs} epochs"
        if epochs:
            so_far += (
                f" the loss is {history.epoch_loss[-1][1]:.3f} and the accuracy {history.valid_accuracy[-1][1]:.1%}"
            )
        files = f"Its TensorBoard files: {'/'.join(self.run_dir.parts[-3:])}."
        if state == "finished":
            reached = history.valid_accuracy[-1][1] >= GOAL
            if reached:
                goal = f"<b>Goal reached ✓</b> {GOAL:.0%} or more of the images that it has never seen."
            return f"<b>Finished:</b> {so_far}. {files}<br>{goal}"
        if state == "broken":
            return f"<b>Broken off:</b> the loss is no number any more. Begin again with a smaller rate.<br>{goal}"
        if state == "stopped":
            return f"<b>Stopped:</b> {so_far}. {files}<br>{goal}"
        if state == "paused":
            return f"<b>Paused:</b> {so_far}. It goes on at rate {rate} when you press Continue.<br>{goal}"
        return f"<b>Running at rate {rate}:</b> {so_far}.<br>{goal}"

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        losses, shares = plots.new_axes(2)
        rate = plots.rate_text(START_RATE)
        plots.plot_runs({f"lr = {rate}, untouched": [value for _, value in self.untouched.step_loss]}, ax=losses)
        steps, values = zip(*self.untouched.valid_accuracy, strict=True)
        epochs = [step / self._num_batches for step in steps]
        shares.plot(epochs, values, color=plots.BLUE, marker="o", markersize=3, label=f"lr = {rate}, untouched")
        shares.axhline(GOAL, color=plots.GREEN, linestyle="--", label=f"goal: {GOAL:.0%}")
        shares.set(title="Accuracy on images never seen", xlabel="epoch", ylabel="share right", ylim=(0, 1.02))
        shares.set_xticks(range(0, self.num_epochs + 1, max(1, self.num_epochs // 4)))
        shares.legend(frameon=False, loc="lower right")
        words = "TrainingLab: run the cell, press Start, and move the learning rate while it trains"
        alt = (
            f"A run of {self.num_epochs} epochs at the learning rate {rate} that nobody touched. Left: the loss of "
            f"each step. Right: the accuracy on held-out images, {values[-1]:.0%} at the end; the goal is {GOAL:.0%}."
        )
        return {"image/png": plots.png(losses), "text/plain": words}, {"image/png": {"alt": alt}}


def _path(panel: svg.Panel, points: list[tuple[int, float]]) -> str:
    """The path through points of a history, of no more points than a screen can show."""
    stride = math.ceil(len(points) / MOST_POINTS) or 1
    shown = points[::stride] + (points[-1:] if (len(points) - 1) % stride else [])
    return panel.path([step for step, _ in shown], [value for _, value in shown])
