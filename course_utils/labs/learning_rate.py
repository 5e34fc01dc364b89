"""Lesson 02's lab: a learning-rate slider over real training runs."""

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from course_utils import plots
from course_utils.experiments.recorded_sweeps import EXPONENTS, RATES, RATES_PER_DECADE, RECORDED, SweepConfig
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
    still_picture,
)
from course_utils.learner.record import learner_folder
from course_utils.lr import Sweep
from course_utils.training import Trainer
from course_utils.training.history import History

# The slider starts at 0.316, where plain SGD works.
START = 36
OPTIMIZERS = {
    "SGD": "sgd",
    "SGD with momentum": "momentum",
    "RMSprop": "rmsprop",
    "Adam": "adam",
    "AdamW": "adamw",
}
MODELS = {"MLP": "mlp", "small CNN": "cnn"}
HEIGHT = 340
# Redrawing all runs of a sweep takes longer than one curve, so it happens less often; in seconds.
REDRAW_INTERVAL = 0.25
# A sweep that took longer than this, in seconds, is stored in the learner's folder for the next time.
KEEP_AFTER = 2.0


class LearningRateLab(Lab):
    """Drag the learning rate and see at once how training goes: 49 real runs on the handwritten digits.

    The left panel shows the loss of every step, with the run at the slider in front of all others; the right panel the
    final loss against the learning rate. "Train at this rate" trains once more with `Trainer` and adds that curve.

    Args:
        num_epochs: passes over the 1,437 training images in each run.
        seed: fixes the first weights and the order of the batches, which all runs share.

    Attributes:
        lr, optimizer, momentum, model, batch_size: the controls; `lab.lr.value = 0.1` moves the slider.
        train, halt: the buttons.
        sweep: the runs shown, as far as they are trained.
        exact: the last run of "Train at this rate" as (lr, losses), or None.
    """

    sweep: Sweep

    def __init__(self, *, num_epochs: int = 5, seed: int = 0):
        self.num_epochs, self.seed = num_epochs, seed
        self.lr = log_slider(
            "learning rate",
            value=RATES[START],
            exponents=EXPONENTS,
            step=1 / RATES_PER_DECADE,
            tooltip="learning rate, from 0.00001 to 10 on a log scale",
        )
        self.optimizer = widgets.Dropdown(options=OPTIMIZERS, value="sgd", description="optimizer", layout=FIT)
        self.momentum = widgets.Dropdown(
            options=[0.5, 0.9, 0.95, 0.99], value=0.9, description="momentum", disabled=True, layout=FIT
        )
        self.model = widgets.Dropdown(options=MODELS, value="mlp", description="model", layout=FIT)
        self.batch_size = widgets.Dropdown(options=[16, 32, 64, 128], value=64, description="batch size", layout=FIT)
        self.train = widgets.Button(
            description="Train at this rate", icon="play", tooltip="train for real at exactly this learning rate"
        )
        self._back, self._front, self._words = html_box("lab-back"), html_box("lab-front"), html_box()
        controls = {
            "lr": self.lr,
            "optimizer": self.optimizer,
            "momentum": self.momentum,
            "model": self.model,
            "batch_size": self.batch_size,
            "train": self.train,
        }
        choosers = widgets.HBox([self.optimizer, self.momentum, self.model, self.batch_size], layout=WRAP)
        super().__init__(
            [self.lr, choosers, layers(self._back, self._front), self._words],
            controls=controls,
            css_class="learning-rate-lab",
            buttons=[self.train],
        )
        self.exact: tuple[float, list[float]] | None = None
        self._finished: dict[SweepConfig, Sweep] = {}
        self.on_change(self.lr, self.follow)
        for control in (self.optimizer, self.momentum, self.model, self.batch_size):
            self.on_change(control, self._change)
        self.on_change(self.train, self._train)
        # The first sweep is made before the lab is shown: it is useful before any click, and it is the still picture.
        self._make_sweep(lambda: False)
        self.settle(60)

    # Callbacks: each notes the new setting and leaves the work to a worker.

    def _change(self) -> None:
        self.clear_error()
        self.momentum.disabled = self.optimizer.value != "momentum"
        self.exact = None
        self.computing.submit(self._make_sweep)

    def _train(self) -> None:
        self.clear_error()
        self.computing.submit(self._train_exactly)

    # Jobs of the workers.

    def _config(self) -> SweepConfig:
        return SweepConfig(
            self.model.value,
            self.optimizer.value,
            self.momentum.value if self.optimizer.value == "momentum" else None,
            self.batch_size.value,
            self.num_epochs,
            self.seed,
        )

    def _make_sweep(self, cancelled: Callable[[], bool]) -> None:
        """Find or train the sweep of the chosen setting, and show it as it fills in; stop if cancelled."""
        config = self._config()
        trouble = ""
        if config not in self._finished:
            try:
                found = config.find([learner_folder() / "sweeps", RECORDED])
            except (OSError, ValueError) as error:
                found, trouble = None, f"The stored sweep could not be used and was trained again: {error}"
            if found is not None:
                self._finished[config] = found
        if config in self._finished:
            self.sweep = self._finished[config]
            self.end_progress()
            self.draw(back=True)
            return
        began, redraw = time.monotonic(), Throttle(REDRAW_INTERVAL)
        with contextlib.closing(config.train()) as sweeps:
            for sweep in sweeps:
                self.sweep = sweep
                if cancelled():
                    self.end_progress("stopped")
                    return
                if redraw.due():
                    self.show_progress(sweep.steps_done / sweep.losses.shape[1], f"training {len(RATES)} rates at once")
                    self.draw(back=True)
        self._finished[config] = self.sweep
        self.draw(back=True)
        if time.monotonic() - began > KEEP_AFTER:
            try:
                self.sweep.save(learner_folder() / "sweeps" / config.file_name)
            except OSError as error:
                trouble = f"The sweep was not stored: {str(learner_folder())!r} cannot be written ({error.strerror})"
        self.end_progress(trouble)

    def _train_exactly(self, cancelled: Callable[[], bool]) -> None:
        """Train once with the course's own loop at exactly the slider's rate."""
        lr, redraw = self.lr.value, Throttle(REDRAW_INTERVAL)

        def follow(trainer: Trainer, step: int, num_steps: int, history: History) -> None:
            self.exact = (lr, [value for _, value in history.step_loss])
            if cancelled():
                trainer.stop()
            if redraw.due():
                self.show_progress(step / num_steps, f"step {step} of {num_steps}")
                self.follow()

        try:
            self._config().train_once(lr, follow)
        finally:
            self.end_progress()
        self.follow()

    # Drawing: the back changes with the setting, the front with the slider.

    def _panels(self) -> tuple[svg.Panel, svg.Panel]:
        top, steps = plots.ceiling(self.sweep), self.sweep.losses.shape[1]
        left = svg.Panel(52, 34, 370, 252, (0, steps), (0, top))
        right = svg.Panel(498, 34, 370, 252, (RATES[0], RATES[-1]), (0, top), log_x=True)
        return left, right

    def _draw_back(self) -> None:
        sweep, (left, right) = self.sweep, self._panels()
        steps = range(1, sweep.losses.shape[1] + 1)
        loss_ticks = [(value, str(value)) for value in range(int(left.y_range[1]) + 1)]
        epoch = sweep.losses.shape[1] // self.num_epochs
        epoch_ticks = [(count * epoch, str(count * epoch)) for count in range(self.num_epochs + 1)]
        rate_ticks = svg.decades(*EXPONENTS)
        body = [
            left.axes("Loss at each step", "step (one tick an epoch)", "loss of the batch", epoch_ticks, loss_ticks)
        ]
        family = "".join(left.path(steps, curve) for curve in sweep.losses.tolist())
        body.append(svg.line(family, color="faint", width=0.6, opacity=0.3))
        # Every run starts here: an untrained model assigns each of the ten digits about the same probability.
        nothing = left.y(math.log(10))
        body.append(svg.line(f"M{left.left} {nothing:.1f}H{left.left + left.width}", color="ink", width=1, dash="2 4"))
        body.append(svg.text(left.left + 6, nothing - 7, "knows nothing: ln 10", size=11))
        title = "Final loss against the learning rate"
        body.append(right.axes(title, "learning rate (log scale)", "mean loss, last epoch", rate_ticks, loss_ticks))
        if sweep.steps_done == sweep.losses.shape[1]:
            for zone, low, high in plots.zone_spans(sweep):
                body.append(_band(right, zone, low, high))
            finals = [value if math.isfinite(value) else math.inf for value in sweep.final_losses.tolist()]
            body.append(svg.line(right.path(sweep.lrs, finals), color="faint", width=1.4))
        else:
            share = sweep.steps_done / sweep.losses.shape[1]
            body.append(
                svg.text(right.left + 20, right.top + 40, f"training {len(RATES)} rates: {share:.0%}", color="faint")
            )
        self._back.value = svg.picture(HEIGHT, "".join(body), alt=self._alt())

    def _draw_front(self) -> None:
        sweep, (left, right) = self.sweep, self._panels()
        index = sweep.nearest(self.lr.value)
        losses, final = sweep.losses[index].tolist(), sweep.final_losses[index].item()
        path = left.path(range(1, len(losses) + 1), losses)
        body = [svg.line(path, color="accent", width=2.2)]
        if self.exact is not None:
            exact_lr, curve = self.exact
            d = left.path(range(1, len(curve) + 1), curve)
            body.append(svg.line(d, color="second", width=1.6, dash="5 3"))
            words = f"trained at lr = {plots.rate_text(exact_lr)}"
            body.append(svg.text(left.left + left.width - 8, left.top + 38, words, anchor="end", color="second"))
        words = f"lr = {plots.rate_text(sweep.lrs[index])}"
        body.append(
            svg.text(left.left + left.width - 8, left.top + 20, words, anchor="end", weight="600", color="accent")
        )
        if sweep.steps_done == sweep.losses.shape[1]:
            x, y = right.x(sweep.lrs[index]), right.y(final if math.isfinite(final) else math.inf)
            down = f"M{x:.1f} {right.top + 22}V{right.top + right.height}"
            body.append(svg.line(down, color="accent", width=1, dash="3 3"))
            body.append(svg.dot(x, y, 6))
        shown, sentence = f"{sweep.lrs[index]:.4g}", self._sentence(index)
        alt = svg.plain(sentence.partition("<br>")[0])
        self._front.value = svg.picture(HEIGHT, "".join(body), alt=alt, data_shown=shown)
        self._words.value = sentences(sentence)

    # Sentences.

    def _sentence(self, index: int) -> str:
        """Describe the run at the slider, and whether the goal is reached."""
        sweep = self.sweep
        lr, losses = plots.rate_text(sweep.lrs[index]), sweep.losses[index]
        if sweep.steps_done < losses.numel():
            return f"Learning rate {lr}: step {sweep.steps_done} of {losses.numel()} …"
        zone, final, start = sweep.zones[index], sweep.final_losses[index].item(), losses[0].item()
        peak = losses[losses.isfinite()].max().item()
        if not math.isfinite(final):
            ended = f"its loss stopped being a number after step {int(losses.isfinite().sum())}"
        elif peak > 1.2 * start:
            ended = (
                f"the loss went from {start:.2f} to {final:.3f} in {self.num_epochs} epochs, "
                f"with a jump to {peak:.3g} on the way"
            )
        else:
            ended = f"the loss went from {start:.2f} to {final:.3f} in {self.num_epochs} epochs"
        works = [rate for rate, name in zip(sweep.lrs, sweep.zones, strict=True) if name == "works"]
        goal = "Goal: find the largest rate that still works."
        if works and sweep.lrs[index] == works[-1]:
            goal = f"{GOAL_REACHED} this is the largest rate of this setting that still works."
        return f"<b>Learning rate {lr}: {zone}.</b> At this rate {ended}.<br>{goal}"

    def _alt(self) -> str:
        sweep = self.sweep
        if sweep.steps_done < sweep.losses.shape[1]:
            return f"The loss curves of {len(RATES)} learning rates, still being trained."
        spans = "; ".join(
            f"{zone} from {plots.rate_text(low)} to {plots.rate_text(high)}"
            for zone, low, high in plots.zone_spans(sweep)
        )
        return (
            f"Left: the loss at each step for {len(RATES)} learning rates with {self.optimizer.label} on the "
            f"{self.model.label}. Right: the final loss against the learning rate, {spans}."
        )

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        left, right = plots.new_axes(2)
        plots.plot_losses(self.sweep, self.lr.value, ax=left)
        plots.plot_final_losses(self.sweep, self.lr.value, ax=right)
        text = "LearningRateLab: run the cell, then drag the learning rate"
        return still_picture(left, text=text, alt=self._alt())


def _band(panel: svg.Panel, zone: str, low: float, high: float) -> str:
    """Draw one named zone of the right panel; a zone too narrow for its name shows only the color."""
    color = {"too slow": "slow", "works": "good", "diverges": "bad"}[zone]
    left, right = panel.x(low), panel.x(high)
    rect = (
        f'<rect x="{left:.1f}" y="{panel.top}" width="{right - left:.1f}" height="{panel.height}" '
        f'fill="var(--lab-{color})" fill-opacity=".13" stroke="var(--lab-{color})" stroke-width=".8"/>'
    )
    if right - left < 30:
        return rect
    return rect + svg.text((left + right) / 2, panel.top + 15, zone, anchor="middle", size=12, weight="600")
