"""The training loop: five verbs a step, and around them what a run of a week needs."""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from course_utils import guards
from course_utils.data import resolve_device
from course_utils.errors import positive_integer, positive_number, unknown_name
from course_utils.interrupts import finish_the_step_first
from course_utils.meters import History, LossMeter
from course_utils.tracking import Progress, reporting

__all__ = ["Evaluation", "History", "NonFiniteError", "Trainer"]

Batch = tuple[Tensor, Tensor]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteError(ArithmeticError):
    """The loss or the weights became NaN or infinite; the message names the step, the lr and the lesson to read."""


class Evaluation(NamedTuple):
    """Loss per sample on some data, and the share of right answers, None where the labels are no classes."""

    loss: float
    accuracy: float | None


class Trainer:
    """Trains a model: the loop of lesson 08_the_whole_loop.

    Args:
        model: maps x to logits. It is moved to the device.
        optimizer: holds parameters of this model.
        loss_fn: maps (logits, y) to one number, a mean over the batch or, with `reduction="sum"`, a sum.
        scheduler: changes the optimizer's lr; stepped once after each step.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "fp32", "bf16" (autocast) or "fp16" (autocast and a gradient scaler, CUDA only).
        accumulation_steps: micro-batches a step, weighted by their samples, as if they were one batch.
        max_grad_norm: clip the norm of all gradients to this; None for no clipping.
        log_every: steps a window. Losses stay on the device and are read together once a window.
        progress: True for a bar, False for none, or a function that is called as
            `progress(step, num_steps, history)` after each window and each epoch.
        on_nonfinite: "raise" when the loss is NaN or infinite, or "skip" steps with such gradients; "skip"
            waits for the device at each step.
        track_grad_norm: keep the gradient norm in the history, even without clipping.

    Attributes:
        step, epoch, position: steps and whole epochs done, and micro-batches done in this epoch.
        skipped_steps: steps that were left out since their gradients were not finite.
        history: the figures so far.

    Raises:
        ValueError, TypeError: parts that don't fit together; the message says which and what to do.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: Callable[[Tensor, Tensor], Tensor],
        *,
        scheduler: LRScheduler | None = None,
        device: str | torch.device = "auto",
        precision: str = "fp32",
        accumulation_steps: int = 1,
        max_grad_norm: float | None = None,
        log_every: int = 50,
        progress: Progress = True,
        on_nonfinite: str = "raise",
        track_grad_norm: bool = False,
    ):
        guards.check_model(model)
        guards.check_optimizer(optimizer, model)
        guards.check_scheduler(scheduler, optimizer)
        self.reduction = guards.check_loss_fn(loss_fn)
        self.device = resolve_device(device)
        guards.check_precision(precision, self.device)
        if on_nonfinite not in ("raise", "skip"):
            raise unknown_name("on_nonfinite", on_nonfinite, ["raise", "skip"])
        self.accumulation_steps = positive_integer("accumulation_steps", accumulation_steps)
        self.max_grad_norm = None if max_grad_norm is None else positive_number("max_grad_norm", max_grad_norm)
        self.log_every = positive_integer("log_every", log_every)
        self.model, self.optimizer, self.scheduler = model.to(self.device), optimizer, scheduler
        self.loss_fn = loss_fn.to(self.device) if isinstance(loss_fn, nn.Module) else loss_fn
        self.precision, self.progress = precision, progress
        self.on_nonfinite, self.track_grad_norm = on_nonfinite, track_grad_norm
        if optimizer.state:
            # Momentum and the like follow the model to its device.
            optimizer.load_state_dict(optimizer.state_dict())
        low = precision != "fp32"
        self.autocast = torch.autocast(self.device.type, DTYPES[precision]) if low else contextlib.nullcontext()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self._stopping = False
        self._begin()

    def train_step(self, batches: list[Batch], num_samples: int) -> Tensor:
        """Take one step on one or more micro-batches of `num_samples` rows together: five verbs, in order.

        Returns the loss of the micro-batches joined, on the device and without a graph.
        """
        self.optimizer.zero_grad()
        losses = []
        for x, y in batches:
            with self.autocast:
                logits = self.model(x)
                loss = self.loss_fn(logits, y)
            weight = self._weight(loss, len(x), num_samples)
            loss.backward(self.scaler.scale(weight))
            losses.append(loss.detach() if weight is None else loss.detach() * weight)
        if self._gradients_are_ready():
            self.scaler.step(self.optimizer)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def fit(self, train: Iterable[Batch], valid: Iterable[Batch] | None = None, *, num_epochs: int) -> History:
        """Train for `num_epochs` passes over `train`, counted from the start of the run.

        Args:
            train: batches `(x, y)` with a length: `data.Batches`, a DataLoader, a list. One with `set_epoch` is told
                the epoch before each pass.
            valid: batches to evaluate on after each epoch.

        Returns the history; after `stop()`, Ctrl-C or a notebook's stop button, the history so far.

        Raises:
            NonFiniteError: the loss became NaN or infinite.
            ValueError, TypeError: batches that can't be trained on.
        """
        positive_integer("num_epochs", num_epochs)
        guards.check_loader("train", train)
        if valid is not None:
            guards.check_loader("valid", valid)
        self._stopping = False
        self._begin()
        num_steps = num_epochs * -(-len(train) // self.accumulation_steps)
        try:
            with (
                modes_kept(self.model, training=True),
                finish_the_step_first(self.stop),
                reporting(self.progress, 0, num_steps) as self._report,
            ):
                while self.epoch < num_epochs and not self._stopping:
                    self._train_epoch(train)
                    if not self._stopping or self.position == len(train):
                        self._close_epoch(valid)
        except KeyboardInterrupt:
            # Raised by the data or by a callback, or by a second Ctrl-C: the last whole step stands.
            pass
        finally:
            self._stopping = False
        return self.history

    def stop(self) -> None:
        """End the run after the current step; may be called from any thread. `fit` returns the history so far."""
        self._stopping = True

    def evaluate(self, loader: Iterable[Batch]) -> Evaluation:
        """Compute loss per sample and accuracy on some batches, and give the model its mode back."""
        guards.check_loader("loader", loader)
        losses, rights, num_rows, num_labels = [], [], 0, 0
        with modes_kept(self.model, training=False), torch.inference_mode(), self.autocast:
            for x, y in self._on_device("valid", loader):
                logits = self.model(x)
                loss = self.loss_fn(logits, y)
                guards.check_loss(loss)
                losses.append(loss * len(y) if self.reduction == "mean" else loss)
                if not y.is_floating_point() and logits.ndim > 1:
                    rights.append((logits.argmax(1) == y).sum())
                    num_labels += y.numel()
                num_rows += len(y)
        loss = math.fsum(torch.stack(losses).tolist()) / num_rows
        accuracy = sum(torch.stack(rights).tolist()) / num_labels if num_labels else None
        return Evaluation(loss, accuracy)

    # What stands around the step.

    def _begin(self) -> None:
        """Set all counts to the start of a run."""
        self.step = self.epoch = self.position = self.skipped_steps = 0
        self.history = History()
        self._meter = LossMeter(self.reduction)
        self._lrs: list[float] = []
        self._grad_norm: Tensor | None = None
        self._window_began = time.perf_counter()

    def _on_device(self, name: str, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the loader's batches, checked and moved to the device; from pinned memory nothing waits for that."""
        non_blocking = self.device.type == "cuda"
        for batch in loader:
            x, y = guards.unpack(name, batch)
            yield x.to(self.device, non_blocking=non_blocking), y.to(self.device, non_blocking=non_blocking)

    def _train_epoch(self, train: Iterable[Batch]) -> None:
        """Go once over the data, or until stopped; what is left at the end makes a smaller step."""
        if hasattr(train, "set_epoch"):
            train.set_epoch(self.epoch)
        batches = self._on_device("train", train)
        while not self._stopping and (group := list(itertools.islice(batches, self.accumulation_steps))):
            self._take_step(group)
            self.position += len(group)

    def _take_step(self, batches: list[Batch]) -> None:
        """Take one step, count it unless it was skipped, and read the losses if it ends a window."""
        num_samples = sum(len(y) for _, y in batches)
        scale, skipped = self.scaler.get_scale(), self.skipped_steps
        loss = self.train_step(batches, num_samples)
        if self.scaler.is_enabled():
            self.scaler.update()
            self.skipped_steps += self.scaler.get_scale() < scale
        if self.skipped_steps > skipped:
            return
        self.step += 1
        self._meter.add(loss, num_samples)
        self._lrs.append(self.optimizer.param_groups[0]["lr"])
        if self.scheduler is not None:
            self.scheduler.step()
        if self.step % self.log_every == 0:
            self._close_window()

    def _weight(self, loss: Tensor, rows: int, num_samples: int) -> Tensor | None:
        """The share of one micro-batch in the step's loss; None for all of it."""
        guards.check_loss(loss)
        share = rows / num_samples if self.reduction == "mean" else 1.0
        return torch.full_like(loss, share) if share != 1 or self.scaler.is_enabled() else None

    def _gradients_are_ready(self) -> bool:
        """Clip the gradients, note their norm, and tell whether to step with them."""
        if self.max_grad_norm is None and not self.track_grad_norm and self.on_nonfinite == "raise":
            return True
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._grad_norm = get_total_norm([p.grad for p in parameters])
        if self.max_grad_norm is not None:
            clip_grads_with_norm_(parameters, self.max_grad_norm, self._grad_norm)
        if self.on_nonfinite == "raise" or self.scaler.is_enabled() or bool(self._grad_norm.isfinite()):
            return True
        self.skipped_steps += 1
        return False

    def _read_losses(self) -> None:
        """Read the losses of the steps since the last read: the one place where training waits for the device."""
        lrs, self._lrs = self._lrs, []
        losses = self._meter.read()
        for index, loss in enumerate(losses):
            if not math.isfinite(loss):
                step = self.step - len(losses) + index + 1
                raise NonFiniteError(
                    f"the loss of step {step} is {loss} at lr {float(lrs[index]):g}: training stopped. A smaller lr "
                    "(lesson 02_learning_rate), max_grad_norm or on_nonfinite='skip' may help; so may a look at the "
                    "data for NaN"
                )
        if losses:
            self._lr = float(lrs[-1])

    def _close_window(self) -> None:
        """Read the window's losses and note its figures."""
        self._read_losses()
        window, seconds = self._meter.window, time.perf_counter() - self._window_began
        figures = {"step_loss": window.value, "lr": self._lr, "samples_per_second": window.count / seconds}
        if self.track_grad_norm:
            figures["grad_norm"] = self._grad_norm.item()
        self._record(figures)
        self._meter.reset_window()
        self._report(self.step, self.history)
        self._window_began = time.perf_counter()

    def _close_epoch(self, valid: Iterable[Batch] | None) -> None:
        """Read the epoch's losses, evaluate, and note both."""
        self._read_losses()
        paused = time.perf_counter()
        if not self.position:
            raise ValueError(
                f"train gave no batch in epoch {self.epoch + 1}: it must give the same batches in every pass, "
                "as a DataLoader or a list does and a generator does not"
            )
        if not self._meter.epoch.count:
            raise NonFiniteError(
                f"no step of epoch {self.epoch + 1} had finite gradients ({self.skipped_steps} skipped): "
                "try a smaller lr (lesson 02_learning_rate) or look at the data for NaN"
            )
        figures = {"epoch_loss": self._meter.epoch.value}
        if valid is not None:
            loss, accuracy = self.evaluate(valid)
            figures |= {"valid_loss": loss} | ({} if accuracy is None else {"valid_accuracy": accuracy})
        self._record(figures)
        self._meter.reset_epoch()
        self.epoch, self.position = self.epoch + 1, 0
        self._report(self.step, self.history)
        self._window_began += time.perf_counter() - paused

    def _record(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            getattr(self.history, name).append((self.step, value))


@contextlib.contextmanager
def modes_kept(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a model that is in the other mode into training or evaluation, and give each module its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    if not training or not model.training:
        model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
