"""Lesson 08's lab: a real run of `Trainer` in the background, to be paused, steered and stopped."""

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

from course_utils import data, models, plots
from course_utils.errors import positive_integer, valid_seed
from course_utils.experiments.digits import Follow, fit_digits, seeded_model
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
    still_picture,
)
from course_utils.learner.record import learner_folder
from course_utils.optimizers import make_optimizer
from course_utils.training import NonFiniteError, Trainer
from course_utils.training.history import History

# The goal: the accuracy on the validation images after the last epoch.
GOAL = 0.97
# The rate at the start: too small for the run to reach the goal if it is not changed.
START_RATE = 10**-1.5
EXPONENTS = (-4, 1)
# A step of this model takes a third of a millisecond: at full speed a run ends before anybody can move the slider.
SPEEDS = {"slow motion: 60 steps a second": 60.0, "as fast as it goes": 0.0}
# A paused run checks this often whether to continue, in seconds.
POLL_INTERVAL = 0.05
# More points than this make a path no finer on a screen.
MAX_POINTS = 500
HEIGHT = 380


class TrainingLab(Lab):
    """Start a real training run, change its learning rate while it runs, pause it, and stop it; the kernel stays free.

    `Trainer` trains with plain SGD on the handwritten digits in a background thread. The left panel shows the loss of
    each step with the learning rate below it, the right panel the accuracy on the validation images after each epoch.
    The gray curves are a run with a constant rate. Each run writes its checkpoint and its TensorBoard files to its own
    folder, `runs/training-lab-N` in the learner's folder.

    A run ends by itself after `num_epochs`. It stops after its current step when Stop is pressed, when another
    `TrainingLab` is made (the cell was run again), when the lab is closed, when the kernel is interrupted between two
    cells, and when the kernel ends.

    Args:
        num_epochs: passes over the 1,437 training images in each run.
        seed: fixes the first weights and the order of the batches, the same for each run.

    Attributes:
        lr, speed: the controls; `lab.lr.value = 0.1` moves the slider.
        start, pause, halt: the buttons.
        state: "ready", "running", "paused", "finished", "stopped" or "broken" (the loss became NaN or infinite).
        history: the history of the run shown, as `Trainer` records it.
        run_dir: the folder of that run, or None before the first.

    Raises:
        ValueError: num_epochs is not a whole number of at least 1, or the seed not one of at least 0.
    """

    def __init__(self, *, num_epochs: int = 20, seed: int = 0):
        self.num_epochs, self.seed = positive_integer("num_epochs", num_epochs), valid_seed("seed", seed)
        for other in list(Lab.alive):
            if isinstance(other, TrainingLab):
                other.stop()
        self.lr = log_slider(
            "learning rate",
            value=START_RATE,
            exponents=EXPONENTS,
            step=1 / 8,
            tooltip="learning rate from the next step on, from 0.0001 to 10 on a log scale",
        )
        self.speed = widgets.Dropdown(options=SPEEDS, value=60.0, description="speed", layout=FIT)
        self.start = widgets.Button(description="Start", icon="play", tooltip="train from fresh weights")
        self.pause = widgets.Button(
            description="Pause", icon="pause", disabled=True, tooltip="pause the run after this step, or continue it"
        )
        self._back, self._front, self._words = html_box("lab-back"), html_box("lab-front"), html_box()
        super().__init__(
            [self.lr, widgets.HBox([self.speed]), layers(self._back, self._front), self._words],
            controls={"lr": self.lr, "speed": self.speed, "start": self.start, "pause": self.pause},
            css_class="training-lab",
            buttons=[self.start, self.pause],
        )
        self._num_batches = len(data.load("digits").train)
        self.num_steps = self.num_epochs * self._num_batches
        self._model = seeded_model(models.MLP, seed)
        self.state, self.history = "ready", History()
        self.run_dir: Path | None = None
        self._pause_requested, self._paused = threading.Event(), False
        self._temporary: list[tempfile.TemporaryDirectory] = []
        self.on_change(self.lr, self.follow)
        self.on_change(self.start, self._begin)
        self.on_change(self.pause, self._toggle_pause)
        # A run with a constant rate is made before the lab is shown: something to beat, and the still picture.
        self.untouched = self._fit(START_RATE)
        self._draw_back()
        self._draw_front()

    # Callbacks: each notes the request and leaves the work to a worker.

    def _begin(self) -> None:
        self.clear_error()
        self._pause_requested.clear()
        self.computing.submit(self._train)

    def _toggle_pause(self) -> None:
        if self.state not in ("running", "paused"):
            return
        if self._pause_requested.is_set():
            self._pause_requested.clear()
        else:
            self._pause_requested.set()

    def stop(self) -> None:
        """Stop the run after its current step; what is shown stays."""
        super().stop()
        self._pause_requested.clear()

    def settle(self, timeout: float = 60.0) -> None:
        """Wait until the run has ended or is paused, and all of it is drawn.

        Raises:
            TimeoutError: it took longer than `timeout` seconds.
            Exception: the first error that a callback or a worker raised since the last `settle`.
        """
        end = time.monotonic() + timeout

        def paused() -> bool:
            return self._paused and self._pause_requested.is_set()

        while self.computing.busy and not paused() and time.monotonic() < end:
            time.sleep(POLL_INTERVAL / 5)
        if paused():
            self.drawing.settle(max(0.0, end - time.monotonic()))
        else:
            super().settle(max(0.0, end - time.monotonic()))

    def close(self) -> None:
        """Stop the run after its current step, and take the widget off the page."""
        constructed = self in Lab.alive  # a lab whose constructor failed halfway has no run
        super().close()
        if not constructed:
            return
        with contextlib.suppress(TimeoutError):
            self.computing.settle(5.0)
        while self._temporary:
            self._temporary.pop().cleanup()

    # The job of the computing worker.

    def _fit(self, lr: float, *, follow: Follow | None = None, run_dir: Path | None = None) -> History:
        """Train once from the same first weights."""
        model = copy.deepcopy(self._model)
        return fit_digits(
            model,
            make_optimizer("sgd", model.parameters(), lr),
            num_epochs=self.num_epochs,
            seed=self.seed,
            validate=True,
            follow=follow,
            run_dir=run_dir,
        )

    def _train(self, cancelled: Callable[[], bool]) -> None:
        """Train in the background until the end, or until Stop or a newer run cancels it."""
        self.history = History()
        self.run_dir, trouble = self._new_folder()
        self._enter("running")
        due, last, redraw = time.monotonic(), 0, Throttle()

        def follow(trainer: Trainer, step: int, num_steps: int, history: History) -> None:
            nonlocal due, last
            self.history = history
            if cancelled():
                trainer.stop()
                return
            trainer.optimizer.param_groups[0]["lr"] = self.lr.value  # from the next step on
            if step > last and self.speed.value:
                # Late steps are not made up for: a run that was paused continues at its pace.
                now = time.monotonic()
                due = max(due + 1 / self.speed.value, now)
                time.sleep(due - now)
            if step == last or redraw.due():
                # At the end of an epoch this is called a second time, with the accuracy.
                self.show_progress(step / num_steps, f"step {step} of {num_steps}")
                self.follow()
            last = step
            if self._pause_requested.is_set():
                self._enter("paused")
                self._paused = True  # only now, when the widgets already show it
                while self._pause_requested.is_set() and not cancelled():
                    time.sleep(POLL_INTERVAL)
                self._paused = False
                self._enter("running")

        ended = "stopped"
        try:
            self.history = self._fit(self.lr.value, run_dir=self.run_dir, follow=follow)
            if len(self.history.epoch_loss) == self.num_epochs:
                ended = "finished"
        except NonFiniteError as error:
            ended, trouble = "broken", str(error)
        finally:
            self._enter(ended)
            self.end_progress(trouble)

    def _enter(self, state: str) -> None:
        """Enter a state, and show it in the buttons, the sentences and the picture."""
        self.state = state
        live, paused = state in ("running", "paused"), state == "paused"
        self.pause.disabled = not live
        self.pause.description, self.pause.icon = ("Continue", "play") if paused else ("Pause", "pause")
        if live:
            step = len(self.history.step_loss)
            self.show_progress(step / self.num_steps, f"paused after step {step}" if paused else f"step {step}")
        self.draw()

    def _new_folder(self) -> tuple[Path, str]:
        """Make a folder for one run in the learner's folder or else a temporary one, and return it with a warning."""
        runs = learner_folder() / "runs"
        number = 1
        try:
            runs.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    folder = runs / f"training-lab-{number}"
                    folder.mkdir()
                    return folder, ""
                except FileExistsError:  # from an earlier run, or another notebook was faster
                    number += 1
        except OSError as error:
            self._temporary.append(tempfile.TemporaryDirectory(prefix="training-lab-"))
            trouble = (
                f"{str(runs)!r} cannot be written ({error.strerror}): this run's files are deleted when the lab is "
                "closed"
            )
            return Path(self._temporary[-1].name), trouble

    # Drawing: the back is drawn once, the front while the run goes on.

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
            rate.axes("", "epoch", "rate", ticks, svg.decades(-4, 0, 2)),
            accuracy.axes("Accuracy on images never seen", "epoch", "right, in percent", ticks, shares),
            svg.line(_path(loss, self.untouched.step_loss), color="faint", width=0.7, opacity=0.85),
            svg.line(_path(accuracy, self.untouched.valid_accuracy), color="faint", width=1.4, opacity=0.85),
        ]
        goal = accuracy.y(GOAL)
        body.append(svg.line(f"M{accuracy.left} {goal:.1f}h{accuracy.width}", color="good", width=1.4, dash="6 4"))
        right, bottom = accuracy.left + accuracy.width - 8, accuracy.top + accuracy.height
        body.append(svg.text(right, goal + 16, f"goal: {GOAL:.0%} at the end", anchor="end", size=12, color="good"))
        words = f"gray: nobody touched lr = {plots.rate_text(START_RATE)}"
        body.append(svg.text(right, bottom - 12, words, anchor="end", size=12, color="faint"))
        alt = (
            f"Left: the loss of each step of a run of {self.num_epochs} epochs, and its learning rate. Right: its "
            f"accuracy on held-out images, with the goal of {GOAL:.0%}. In gray a run at the rate "
            f"{plots.rate_text(START_RATE)} that nobody touched; it ends at {self.untouched.valid_accuracy[-1][1]:.0%}."
        )
        self._back.value = svg.picture(HEIGHT, "".join(body), alt=alt)

    def _draw_front(self) -> None:
        loss, rate, accuracy = self._panels()
        history = self.history
        losses, rates, shares = list(history.step_loss), list(history.lr), list(history.valid_accuracy)
        body = [
            svg.line(_path(loss, losses), color="accent", width=1.2),
            svg.line(_path(rate, rates), color="second", width=1.8),
            svg.line(_path(accuracy, shares), color="accent", width=2.2),
        ]
        # The slider's rate, which the next step will use.
        x, y = rate.x(len(losses)), rate.y(self.lr.value)
        body.append(svg.dot(x, y, 4.5, color="second"))
        if shares:
            x, y = accuracy.x(shares[-1][0]), accuracy.y(shares[-1][1])
            body.append(svg.dot(x, y, 5))
            words = f"now {shares[-1][1]:.1%}"
            right, bottom = accuracy.left + accuracy.width - 8, accuracy.top + accuracy.height
            body.append(svg.text(right, bottom - 32, words, anchor="end", weight="600", color="accent"))
        alt = svg.plain(self._sentence().partition("<br>")[0])
        alt += f" The next step is taken at rate {plots.rate_text(self.lr.value)}."
        self._front.value = svg.picture(
            HEIGHT,
            "".join(body),
            alt=alt,
            data_shown=f"{self.lr.value:.4g}",
            data_step=str(len(losses)),
            data_state=self.state,
        )
        self._words.value = sentences(self._sentence())

    # Sentences.

    def _sentence(self) -> str:
        """Describe the run, and whether the goal is reached; this changes once an epoch, not at each step."""
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
        folder = "" if self.run_dir is None else "/".join(self.run_dir.parts[-3:])
        files = f"Its TensorBoard files: {folder}."
        if state == "finished":
            reached = history.valid_accuracy[-1][1] >= GOAL
            if reached:
                goal = f"{GOAL_REACHED} {GOAL:.0%} or more of the images that it has never seen."
            return f"<b>Finished:</b> {so_far}. {files}<br>{goal}"
        if state == "broken":
            return f"<b>Stopped:</b> the loss is not a finite number anymore. Try a smaller rate.<br>{goal}"
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
        text = "TrainingLab: run the cell, press Start, and move the learning rate while it trains"
        alt = (
            f"A run of {self.num_epochs} epochs at the learning rate {rate} that nobody touched. Left: the loss of "
            f"each step. Right: the accuracy on held-out images, {values[-1]:.0%} at the end; the goal is {GOAL:.0%}."
        )
        return still_picture(losses, text=text, alt=alt)


def _path(panel: svg.Panel, points: list[tuple[int, float]]) -> str:
    """Return the path through a history's points, thinned to as many as a screen can show."""
    stride = math.ceil(len(points) / MAX_POINTS) or 1
    shown = points[::stride] + (points[-1:] if (len(points) - 1) % stride else [])
    return panel.path([step for step, _ in shown], [value for _, value in shown])
