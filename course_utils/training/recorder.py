"""The figures of a run: from the losses of its steps to the history, the TensorBoard files and the progress bar."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from course_utils.training import distributed, validation
from course_utils.training.history import Count, History, LossMeter, as_numbers
from course_utils.training.tracking import ReportFunction, Tracking


class Recorder:
    """Turns the losses of steps into means over windows and epochs, and passes them on.

    Losses stay on their device and are read together, once a window and once an epoch.

    Args:
        reduction: how the loss function joins a batch, "mean" or "sum".
        log_every: steps per window; a window continues over the end of an epoch.

    Attributes:
        history: the figures so far.
        meter: the means that are not in it yet.
    """

    def __init__(self, reduction: str, log_every: int):
        self.log_every = log_every
        self.history, self.meter = History(), LossMeter(reduction)
        self._lrs: list[float] = []
        self._lr = 0.0

    def start(self, tracking: Tracking, report: ReportFunction, device: torch.device, *, first_step: int) -> None:
        """Pass the figures on to these from now on, and time the windows from now on.

        Args:
            first_step: TensorBoard drops what its files hold of this step and later, and gets again what is known.
        """
        self._tracking, self._report = tracking, report
        for name, points in self.history.lists().items():
            for step, value in points:
                if step >= first_step:
                    tracking.write(step, {name: value})
        alone = distributed.world_size() == 1
        self.all_reduce_sum = None if alone else partial(distributed.all_reduce_sum, device=device)
        self._began = time.perf_counter()

    def add_step(self, losses: Sequence[Tensor], counts: Sequence[Count], rows: int, lr: float) -> None:
        """Add a step: the loss of each micro-batch, what its mean divides by, the rows of the step, and its lr."""
        self.meter.add(losses, counts, rows)
        self._lrs.append(float(lr))

    def read(self, step: int) -> None:
        """Read the losses of the steps up to this one: the only place where training waits for the device.

        Raises:
            NonFiniteError: a loss is NaN or infinite.
        """
        lrs, self._lrs = self._lrs, []
        losses = self.meter.read(self.all_reduce_sum)
        validation.check_finite(losses, lrs, step)
        if losses:
            self._lr = lrs[-1]

    def close_window(self, step: int, grad_norm: float | None) -> None:
        """Record the figures of the window that this step ended; its losses were read."""
        speed = self.meter.rows / (time.perf_counter() - self._began)
        figures = {"step_loss": self.meter.window.value, "lr": self._lr, "samples_per_second": speed}
        if grad_norm is not None:
            figures["grad_norm"] = grad_norm
        self._record(step, figures)
        self.meter.reset_window()
        self.report(step)
        self._began = time.perf_counter()

    def epoch_loss(self, epoch: int, skipped_steps: int) -> float:
        """Return the mean loss of the epoch, whose losses were read.

        Raises:
            NonFiniteError: every step of it was skipped.
        """
        validation.check_epoch(epoch, self.meter.epoch.count, skipped_steps)
        return self.meter.epoch.value

    def close_epoch(self, step: int, figures: Mapping[str, object]) -> None:
        """Record the figures of the epoch that this step ended.

        Raises:
            TypeError, ValueError: a callback added a figure that is not one number, or whose name is taken.
        """
        self._record(step, as_numbers(figures))
        self.meter.reset_epoch()

    def report(self, step: int) -> None:
        """Move the progress bar to this step, or call the user's function."""
        self._report(step, self.history)

    def leave_out(self, seconds: float) -> None:
        """Leave this time, of validation or saving, out of the speed of the window."""
        self._began += seconds

    def flush(self) -> None:
        """Write what waits for the TensorBoard file."""
        self._tracking.flush()

    def state_dict(self) -> dict[str, Any]:
        """Return the history and the means, for a checkpoint."""
        return {"means": self.meter.state_dict(), "history": self.history.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; other entries are ignored."""
        self.meter.load_state_dict(state["means"])
        self.history = History.from_state_dict(state["history"])

    def _record(self, step: int, figures: Mapping[str, float]) -> None:
        self.history.add(step, figures)
        self._tracking.write(step, figures)
