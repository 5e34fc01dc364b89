"""Lesson 02's labs: the learning-rate slider over real training runs, and the ball in a quadratic bowl."""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import torch
from torch import nn

from course_utils import data, models, plots
from course_utils.devices import seed_everything
from course_utils.labs import svg
from course_utils.labs.base import Lab, layers
from course_utils.learner.record import learner_folder
from course_utils.lr import Sweep, iter_sweep_lr
from course_utils.optimizers import make_optimizer
from course_utils.training import Trainer

EXPONENTS = (-5, 1)
RATES_A_DECADE = 8
RATES = [
    float(f"{10 ** (EXPONENTS[0] + index / RATES_A_DECADE):.4g}")
    for index in range((EXPONENTS[1] - EXPONENTS[0]) * RATES_A_DECADE + 1)
]
RATE_TICKS = ("10⁻⁵", "10⁻⁴", "0.001", "0.01", "0.1", "1", "10")
# The handle starts at 0.316, where plain SGD works.
START = 36
OPTIMIZERS = {
    "SGD": "sgd",
    "SGD with momentum": "momentum",
    "RMSprop": "rmsprop",
    "Adam": "adam",
    "AdamW": "adamw",
}
MODELS = {"MLP": "mlp", "small CNN": "cnn"}
RECORDED = Path(__file__).resolve().parents[1] / "recorded"
WIDTH, HEIGHT = 880, 340
# A sweep that fills in is drawn again this often, in seconds: seldom enough to leave the time to the training.
REDRAW = 0.25
# A sweep that took longer than this, in seconds, is kept in the learner's folder for the next time.
KEEP_AFTER = 2.0
WIDE = widgets.Layout(width="98%")
CHOOSER = widgets.Layout(width="auto")


class LearningRateLab(Lab):
    """Drag the learning rate and see at once how training goes: 49 real runs on the handwritten digits.

    On the left the loss of every step, the run at the handle in front of all others; on the right the final loss
    against the learning rate. "Train at this rate" trains once more with `Trainer` and lays that curve on top.

    Args:
        num_epochs: passes over the 1,437 training images in each run.
        seed: the weights and the order of the batches that all runs share.

    Attributes:
        lr, optimizer, momentum, model, batch_size: the controls; `lab.lr.value = 0.1` moves the handle.
        train, halt: the buttons.
        sweep: the runs shown, or what there is of them so far.
        exact: the last run of "Train at this rate" as (lr, losses), or None.
    """

    def __init__(self, *, num_epochs: int = 5, seed: int = 0):
        self.num_epochs, self.seed = num_epochs, seed
        self.lr = widgets.FloatLogSlider(
            value=RATES[START],
            base=10,
            min=EXPONENTS[0],
            max=EXPONENTS[1],
            step=1 / RATES_A_DECADE,
            description="learning rate",
            readout_format=".3g",
            layout=WIDE,
            style={"description_width": "90px"},
            tooltip="learning rate, from 0.00001 to 10 on a log scale",
        )
        self.optimizer = widgets.Dropdown(options=OPTIMIZERS, value="sgd", description="optimizer", layout=CHOOSER)
        self.momentum = widgets.Dropdown(
            options=[0.5, 0.9, 0.95, 0.99], value=0.9, description="momentum", disabled=True, layout=CHOOSER
        )
        self.model = widgets.Dropdown(options=MODELS, value="mlp", description="model", layout=CHOOSER)
        self.batch_size = widgets.Dropdown(
            options=[16, 32, 64, 128], value=64, description="batch size", layout=CHOOSER
        )
        self.train = widgets.Button(
            description="Train at this rate", icon="play", tooltip="train for real at exactly this learning rate"
        )
        self._back, self._front, self._words = widgets.HTML(), widgets.HTML(), widgets.HTML()
        for part, name in ((self._back, "lab-back"), (self._front, "lab-front")):
            part.add_class(name)
        controls = {
            "lr": self.lr,
            "optimizer": self.optimizer,
            "momentum": self.momentum,
            "model": self.model,
            "batch_size": self.batch_size,
            "train": self.train,
        }
        choosers = widgets.HBox(
            [self.optimizer, self.momentum, self.model, self.batch_size], layout=widgets.Layout(flex_flow="row wrap")
        )
        super().__init__(
            [self.lr, choosers, layers(self._back, self._front), self._words],
            controls=controls,
            css_class="learning-rate-lab",
            buttons=[self.train],
        )
        self.sweep: Sweep | None = None
        self.exact: tuple[float, list[float]] | None = None
        self._finished: dict[tuple[Any, ...], Sweep] = {}
        self._x, self._y = data.load("digits").train.dataset.tensors
        self.when(self.lr, self._follow)
        for control in (self.optimizer, self.momentum, self.model, self.batch_size):
            self.when(control, self._change)
        self.when(self.train, self._train)
        # The first sweep is made before the lab is shown: it is useful before any click, and it is the still picture.
        self._make_sweep(lambda: False)
        self.settle(60)

    # What the hand asks for: each notes what is wanted and hands the work on.

    def _follow(self) -> None:
        self.clear_error()
        self.draw()

    def _change(self) -> None:
        self.clear_error()
        self.momentum.disabled = self.optimizer.value != "momentum"
        self.exact = None
        self.computing.submit(self._make_sweep)

    def _train(self) -> None:
        self.clear_error()
        self.computing.submit(self._train_exactly)

    # What the workers do.

    def _setting(self) -> tuple[Any, ...]:
        momentum = self.momentum.value if self.optimizer.value == "momentum" else None
        return self.model.value, self.optimizer.value, momentum, self.batch_size.value, self.num_epochs, self.seed

    def _make_sweep(self, stale: Callable[[], bool]) -> None:
        """Find or train the sweep of the chosen setting, shown as it fills in; a stale one is left unfinished."""
        setting = self._setting()
        name = "-".join(str(part) for part in setting if part is not None) + ".json"
        trouble = ""
        if setting not in self._finished:
            trouble = self._find(setting, name)
        if setting in self._finished:
            self.sweep = self._finished[setting]
            self.told()
            self.draw(back=True)
            return
        model, optimizer, momentum, batch_size, num_epochs, seed = setting
        options = {} if momentum is None else {"momentum": momentum}
        runs = iter_sweep_lr(
            lambda: models.make_model(model, self._x.shape[1:]),
            self._x,
            self._y,
            RATES,
            optimizer=optimizer,
            num_epochs=num_epochs,
            batch_size=batch_size,
            seed=seed,
            **options,
        )
        began = drawn = time.monotonic()
        with contextlib.closing(runs):
            for sweep in runs:
                self.sweep = sweep
                if stale():
                    self.told("stopped")
                    return
                if time.monotonic() - drawn > REDRAW:
                    self.tell(sweep.steps_done / sweep.losses.shape[1], f"training {len(RATES)} rates at once")
                    self.draw(back=True)
                    drawn = time.monotonic()
        self._finished[setting] = self.sweep
        self.draw(back=True)
        if time.monotonic() - began > KEEP_AFTER:
            try:
                self.sweep.save(learner_folder() / "sweeps" / name)
            except OSError as error:
                trouble = f"not kept for the next time: {str(learner_folder())!r} cannot be written ({error.strerror})"
        self.told(trouble)

    def _find(self, setting: tuple[Any, ...], name: str) -> str:
        """Look for a sweep in the learner's folder, then among the recorded ones; return what was wrong with it."""
        path = next(
            (place / name for place in (learner_folder() / "sweeps", RECORDED) if (place / name).is_file()), None
        )
        if path is None:
            return ""
        try:
            found = Sweep.load(path)
        except (OSError, ValueError) as error:
            return f"{name} could not be used and was trained anew: {error}"
        if found.lrs != RATES:
            return f"{name} holds other learning rates and was trained anew"
        self._finished[setting] = found
        return ""

    def _train_exactly(self, stale: Callable[[], bool]) -> None:
        """Train once with the course's own loop at exactly the handle's rate."""
        model, optimizer, momentum, batch_size, num_epochs, seed = self._setting()
        lr = self.lr.value
        with torch.random.fork_rng(devices=[]):
            seed_everything(seed)
            net = models.make_model(model, self._x.shape[1:])
        options = {} if momentum is None else {"momentum": momentum}
        batches = data.Batches(self._x, self._y, batch_size=batch_size, seed=seed)
        losses: list[float] = []
        drawn = 0.0

        def follow(step: int, num_steps: int, history: Any) -> None:
            nonlocal drawn
            losses[:] = [value for _, value in history.step_loss]
            self.exact = (lr, list(losses))
            if stale():
                trainer.stop()
            if time.monotonic() - drawn > REDRAW:
                drawn = time.monotonic()
                self.tell(step / num_steps, f"step {step} of {num_steps}")
                self._follow()

        trainer = Trainer(
            net,
            make_optimizer(optimizer, net.parameters(), lr, **options),
            nn.CrossEntropyLoss(),
            device="cpu",
            log_every=1,
            progress=follow,
            on_nonfinite="skip",
        )
        try:
            trainer.fit(batches, num_epochs=num_epochs)
        finally:
            self.told()
        self._follow()

    # What is drawn. The back changes with the setting, the front with the handle.

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
        rate_ticks = [(10.0**power, words) for power, words in zip(range(-5, 2), RATE_TICKS, strict=True)]
        body = [
            left.axes("Loss at each step", "step (one tick an epoch)", "loss of the batch", epoch_ticks, loss_ticks)
        ]
        family = "".join(left.path(steps, curve) for curve in sweep.losses.tolist())
        body.append(svg.line(family, colour="faint", width=0.6, opacity=0.3))
        # Every run starts here: a model that knows nothing gives each of ten digits the same chance.
        nothing = left.y(math.log(10))
        body.append(svg.line(f"M{left.left} {nothing:.1f}H{left.left + left.width}", colour="ink", width=1, dash="2 4"))
        body.append(svg.text(left.left + 6, nothing - 7, "knows nothing: ln 10", size=11))
        title = "Final loss against the learning rate"
        body.append(right.axes(title, "learning rate (log scale)", "mean loss, last epoch", rate_ticks, loss_ticks))
        if sweep.steps_done == sweep.losses.shape[1]:
            for zone, low, high in plots.zone_spans(sweep):
                body.append(_band(right, zone, low, high))
            finals = [value if math.isfinite(value) else math.inf for value in sweep.final_losses.tolist()]
            body.append(svg.line(right.path(sweep.lrs, finals), colour="faint", width=1.4))
        else:
            share = sweep.steps_done / sweep.losses.shape[1]
            body.append(
                svg.text(right.left + 20, right.top + 40, f"training {len(RATES)} rates: {share:.0%}", colour="faint")
            )
        self._back.value = svg.picture(WIDTH, HEIGHT, "".join(body), alt=self._alt())

    def _draw_front(self) -> None:
        sweep, (left, right) = self.sweep, self._panels()
        index = sweep.nearest(self.lr.value)
        losses, final = sweep.losses[index].tolist(), sweep.final_losses[index].item()
        path = left.path(range(1, len(losses) + 1), losses)
        body = [svg.line(path, colour="accent", width=2.2)]
        if self.exact is not None:
            exact_lr, curve = self.exact
            d = left.path(range(1, len(curve) + 1), curve)
            body.append(svg.line(d, colour="second", width=1.6, dash="5 3"))
            words = f"trained at lr = {plots.rate_text(exact_lr)}"
            body.append(svg.text(left.left + left.width - 8, left.top + 38, words, anchor="end", colour="second"))
        words = f"lr = {plots.rate_text(sweep.lrs[index])}"
        body.append(
            svg.text(left.left + left.width - 8, left.top + 20, words, anchor="end", weight="600", colour="accent")
        )
        if sweep.steps_done == sweep.losses.shape[1]:
            x, y = right.x(sweep.lrs[index]), right.y(final if math.isfinite(final) else math.inf)
            down = f"M{x:.1f} {right.top + 22}V{right.top + right.height}"
            body.append(svg.line(down, colour="accent", width=1, dash="3 3"))
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="var(--lab-accent)"/>')
        shown, sentence = f"{sweep.lrs[index]:.4g}", self._sentence(index)
        alt = svg.plain(sentence.partition("<br>")[0])
        self._front.value = svg.picture(WIDTH, HEIGHT, "".join(body), alt=alt, data_shown=shown)
        self._words.value = f'<div class="lab-words" aria-live="polite">{sentence}</div>'

    # What is said.

    def _sentence(self, index: int) -> str:
        """The numbers at the handle in words, and whether the goal is reached."""
        sweep = self.sweep
        lr, losses = plots.rate_text(sweep.lrs[index]), sweep.losses[index]
        if sweep.steps_done < losses.numel():
            return f"Learning rate {lr}: step {sweep.steps_done} of {losses.numel()} …"
        zone, final, start = sweep.zones[index], sweep.final_losses[index].item(), losses[0].item()
        peak = losses[losses.isfinite()].max().item()
        if not math.isfinite(final):
            ended = f"its loss stopped being a number after step {int(losses.isfinite().sum())}"
        else:
            ended = f"the loss went from {start:.2f} to {final:.3f} in {self.num_epochs} epochs"
            if peak > 1.2 * start:
                ended += f", with a jump to {peak:.3g} on the way"
        works = [rate for rate, name in zip(sweep.lrs, sweep.zones, strict=True) if name == "works"]
        goal = "Goal: find the largest rate that still works."
        if works and sweep.lrs[index] == works[-1]:
            goal = "<b>Goal reached ✓</b> this is the largest rate of this setting that still works."
        return f"<b>Learning rate {lr}: {zone}.</b> At this rate {ended}.<br>{goal}"

    def _alt(self) -> str:
        sweep = self.sweep
        if sweep.steps_done < sweep.losses.shape[1]:
            return "The loss curves of 49 learning rates, still being trained."
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
        words = "LearningRateLab: run the cell, then drag the learning rate"
        return {"image/png": plots.png(left), "text/plain": words}, {"image/png": {"alt": self._alt()}}


def _band(panel: svg.Panel, zone: str, low: float, high: float) -> str:
    """One named zone of the right panel; a zone too narrow for its name shows the colour alone."""
    colour = {"too slow": "slow", "works": "good", "diverges": "bad"}[zone]
    left, right = panel.x(low), panel.x(high)
    rect = (
        f'<rect x="{left:.1f}" y="{panel.top}" width="{right - left:.1f}" height="{panel.height}" '
        f'fill="var(--lab-{colour})" fill-opacity=".13" stroke="var(--lab-{colour})" stroke-width=".8"/>'
    )
    if right - left < 30:
        return rect
    return rect + svg.text((left + right) / 2, panel.top + 15, zone, anchor="middle", size=12, weight="600")
