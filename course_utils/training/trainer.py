"""The training loop: one step that can be read aloud, and around it what a week-long run needs."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from course_utils import devices
from course_utils.errors import positive_integer, positive_number
from course_utils.training import checkpoint, comparison, distributed, evaluation, gradients, loaders, validation
from course_utils.training.callbacks import Callback, check_callbacks
from course_utils.training.history import History
from course_utils.training.loaders import Batch, Loader, forward, to_device
from course_utils.training.losses import BatchLoss
from course_utils.training.recorder import Recorder
from course_utils.training.run import Run
from course_utils.training.scheduling import Scheduling
from course_utils.training.signals import finish_step_on_signal
from course_utils.training.tracking import Progress, Tracking, reporting


class Trainer(Run):
    """Trains a model: the loop of lesson 08_the_whole_loop.

    Args:
        model: maps x to logits. It is moved to the device.
        optimizer: holds parameters of this model, and of the loss function if that has some.
        loss_fn: maps (logits, y) to one number: a mean over the batch or a sum.
        scheduler: changes the lr of the optimizer, after each step or, with `scheduler_every="epoch"`, each epoch.
            ReduceLROnPlateau is always stepped after each epoch, with the figure `scheduler_metric`.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "fp32", "bf16" (autocast) or "fp16" (autocast and a gradient scaler, CUDA only).
        accumulation_steps: micro-batches per step, weighted by what their means divide by: as if they were one batch.
        max_grad_norm: clip the joint norm of the gradients to this; None does not clip.
        run_dir: the folder for the checkpoints and TensorBoard files of the run; None writes neither.
        log_every: steps per window; a window continues over the end of an epoch.
        checkpoint_every: epochs between checkpoints; `checkpoint.Checkpoints` describes when one is delayed.
        checkpoint_every_steps, checkpoint_every_seconds: save within an epoch too, each time so much has passed.
        progress: True for a bar, False for none, or a function that is called as
            `progress(step, num_steps, history)` after each window and each epoch.
        callbacks: instances of `Callback`; they are called in this order.
        prepare_batch: maps what the loader yields to `(inputs, y)`. The model gets inputs in a tuple by position, and
            those in a dict by name. None: the loader yields pairs (x, y).
        loss_count: maps y to what the mean of `loss_fn` divides by. None knows PyTorch's losses, and counts rows for
            others.
        on_nonfinite: "raise" if the loss is NaN or infinite, or "skip" steps with such gradients; "skip"
            waits for the device at each step.
        track_grad_norm: add the joint norm of the gradients to the history, with and without clipping.

    The attributes are described in `run.Run`.

    Raises:
        ValueError, TypeError: parts that do not fit together; the message names them and the way out.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: Callable[..., Tensor],
        *,
        scheduler: LRScheduler | None = None,
        scheduler_every: str = "step",
        scheduler_metric: str = "valid_loss",
        device: str | torch.device = "auto",
        precision: str = "fp32",
        accumulation_steps: int = 1,
        max_grad_norm: float | None = None,
        run_dir: str | Path | None = None,
        log_every: int = 50,
        checkpoint_every: int = 1,
        checkpoint_every_steps: int | None = None,
        checkpoint_every_seconds: float | None = None,
        progress: Progress = True,
        callbacks: Sequence[Callback] = (),
        prepare_batch: Callable[[Any], tuple[Any, Any]] | None = None,
        loss_count: Callable[[Any], float | Tensor] | None = None,
        on_nonfinite: str = "raise",
        track_grad_norm: bool = False,
    ):
        super().__init__()
        validation.check_model(model)
        self.accumulation_steps = positive_integer("accumulation_steps", accumulation_steps)
        self.loss_fn = BatchLoss(
            loss_fn, count=loss_count, joins=self.accumulation_steps > 1 or distributed.world_size() > 1
        )
        validation.check_optimizer(optimizer, model, self.loss_fn.module)
        validation.check_options(progress, prepare_batch, on_nonfinite, track_grad_norm)
        self.device = distributed.local_device(device)
        devices.check_precision(precision, self.device)
        self.max_grad_norm = None if max_grad_norm is None else positive_number("max_grad_norm", max_grad_norm)
        self.schedule = Scheduling(scheduler, optimizer, every=scheduler_every, metric=scheduler_metric)
        self.callbacks = check_callbacks(callbacks)
        self.recorder = Recorder(self.loss_fn.reduction, positive_integer("log_every", log_every))
        self.checkpoints = checkpoint.Checkpoints(
            run_dir,
            writes=distributed.rank() == 0,
            every=checkpoint_every,
            every_steps=checkpoint_every_steps,
            every_seconds=checkpoint_every_seconds,
        )
        self.model, self.optimizer, self.scheduler = model.to(self.device), optimizer, scheduler
        self.loss_fn.to(self.device)
        if optimizer.state:  # momentum and other buffers follow the model to its device
            optimizer.load_state_dict(optimizer.state_dict())
        self.progress, self.prepare_batch = progress if distributed.rank() == 0 else False, prepare_batch
        self.on_nonfinite, self.track_grad_norm = on_nonfinite, track_grad_norm
        self.measures_gradients = max_grad_norm is not None or track_grad_norm or on_nonfinite == "skip"
        self.autocast = devices.autocast(precision, self.device)
        self.scaler = devices.make_scaler(precision, self.device)
        self.hyperparameters = (
            comparison.describe(model, optimizer, scheduler, loss_fn)
            | {
                "precision": precision,
                "accumulation_steps": self.accumulation_steps,
                "max_grad_norm": self.max_grad_norm,
                "on_nonfinite": on_nonfinite,
            }
            | ({"scheduler_every": "epoch"} if self.schedule.every == "epoch" else {})
        )
        self.network: nn.Module = self.model

    def train_step(self, batches: Sequence[Batch], shares: Sequence[float | Tensor]) -> list[Tensor]:
        """Take one step on one or more micro-batches; a share is the weight of a micro-batch's loss in the step's loss.

        Returns the loss of each micro-batch, on the device and without a graph.
        """
        losses = []
        self.optimizer.zero_grad()
        for batch, share in zip(batches, shares, strict=True):
            x, y = to_device(batch.inputs, self.device), to_device(batch.y, self.device)
            distributed.exchange_gradients(self.network, when=batch is batches[-1])
            with self.autocast:
                logits = forward(self.network, x)
                loss = self.loss_fn(logits, y)
            self.scaler.scale(loss * share).backward()
            losses.append(loss.detach())
        if self.measures_gradients:
            self.scaler.unscale_(self.optimizer)
            self.grad_norm = gradients.clip(self.optimizer, self.max_grad_norm)
        self.is_finite = self.on_nonfinite == "raise" or self._are_finite(self.grad_norm, *losses)
        if self.is_finite:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return losses

    def fit(
        self,
        train: Loader,
        valid: Loader | None = None,
        *,
        num_epochs: int,
        steps_per_epoch: int | None = None,
        resume: bool = False,
    ) -> History:
        """Train until the run has `num_epochs` epochs; another call continues where the last one ended.

        Args:
            train: batches, again in each pass: `data.Batches`, a DataLoader, a list. Before each pass, its
                `set_epoch` is called if it has one.
            valid: batches to evaluate on after each epoch; one of them is tried before the first.
            steps_per_epoch: end an epoch after so many steps instead of after one pass over `train`, which may then be
                of unknown length; a pass continues over the ends of epochs.
            resume: continue from the checkpoint in `run_dir`; if there is none yet, start. The end is the same, bit for
                bit, as without a break, unless a warning at the start says why it cannot be.

        Returns the history. After Ctrl-C or a notebook's stop button that is the history so far, `interrupted`.

        Raises:
            NonFiniteError: the loss or the weights became NaN or infinite.
            RunCompleteError: the run already has `num_epochs` epochs.
            SystemExit: after SIGTERM or SIGUSR1, when the run is saved; its code is 128 + the signal.
            ValueError, TypeError, OSError: data that cannot be trained on, a checkpoint of another run, a bad folder.
        """
        plan = validation.make_plan(train, valid, num_epochs, steps_per_epoch, self.accumulation_steps)
        self._steps_per_epoch, self._stopping, self._halted = steps_per_epoch, False, False
        self.history.interrupted = False
        with closing(self.checkpoints), finish_step_on_signal(self.stop) as received:
            valid = self._open(train, valid, plan, resume=resume)
            self.network = distributed.wrap(self.model, self.device)
            first_step = max(self.step, 1)  # its figures may have come in part: they are written again
            with (
                Tracking(self.checkpoints.folder_to_write, first_step=first_step, made_with=self.made_with) as tracking,
                reporting(self.progress, self.step, plan["num_steps"]) as report,
                evaluation.modes_kept(self.model, self.loss_fn.module, training=True),
                self._interruptible(),
            ):
                self.recorder.start(tracking, report, self.device, first_step=first_step)
                self._try_validation(valid)
                self._call("on_fit_start")
                while self.epoch < num_epochs and not self._halted:
                    if not self.epoch_trained:
                        self._train_epoch()
                    if self.epoch_trained:
                        self._close_epoch(valid, last=self.epoch + 1 == num_epochs)
                self._read_losses()
                self._save()
                self._call("on_fit_end")
        self.history.interrupted |= received.signum is not None
        received.exit()
        return self.history

    def stop(self) -> None:
        """End the run after the current step or, with several processes, after the window; any thread may call this.

        `fit` then saves a checkpoint and returns the history so far.
        """
        self._stopping = True
        if distributed.world_size() == 1:
            self._halted = True

    def _next_batches(self) -> list[Batch]:
        """Return the micro-batches of the next step, fewer at the end of a pass; none at the end of the epoch."""
        if self._steps_per_epoch is None:
            return self._passes.take(self.accumulation_steps)
        batches: list[Batch] = []
        if self.position < self._steps_per_epoch * self.accumulation_steps:
            while len(batches) < self.accumulation_steps:
                batches += self._passes.take(self.accumulation_steps - len(batches))
        return batches

    def _train_epoch(self) -> None:
        """Take steps until the end of the epoch, or until stopped."""
        while not self._halted and not self.epoch_trained:
            try:
                batches = self._next_batches()
            except (KeyboardInterrupt, *loaders.LOST_WORKER) as error:
                if not isinstance(error, KeyboardInterrupt) and not self._may_have_lost_workers():
                    raise
                self._halted = self.history.interrupted = True
                return
            self.epoch_trained = not batches
            if batches:
                self._take_step(batches)

    def _take_step(self, batches: list[Batch]) -> None:
        """Take one step, count it unless it was skipped, and do what is due after it."""
        counts = self.loss_fn.counts(batches)
        whole = len(batches) == 1 and self.network is self.model
        shares = [1.0] if whole else distributed.shares(counts, self.loss_fn.reduction, self.device)
        may_skip = self.scaler.is_enabled() or self.on_nonfinite == "skip"
        losses = (self._step_or_skip if may_skip else self.train_step)(batches, shares)
        self.position += len(batches)
        if not losses:
            return
        self.step += 1
        rows, lr = sum([batch.rows for batch in batches]), self.optimizer.param_groups[0]["lr"]
        self.recorder.add_step(losses, counts, rows, lr)
        self.schedule.after_step()
        if self.callbacks:
            self._call("on_step_end")
        if self.step % self.recorder.log_every == 0:
            self._read_losses()
            self.recorder.close_window(self.step, self.grad_norm.item() if self.track_grad_norm else None)
        if self.checkpoints.folder is not None and self._is_due_after_step():
            self._read_losses()
            self._save()

    def _step_or_skip(self, batches: list[Batch], shares: Sequence[float | Tensor]) -> list[Tensor]:
        """Take one step; if it was skipped, count that, restore the buffers, and return no losses."""
        scale, buffers = self.scaler.get_scale(), self._copied_buffers()
        losses = self.train_step(batches, shares)
        if self.is_finite and self.scaler.get_scale() >= scale:
            return losses
        self.skipped_steps += 1
        self._restore_buffers(buffers)
        return []

    def _read_losses(self) -> None:
        """Read the losses of the steps since the last read, and hear whether another process was asked to stop."""
        self.recorder.read(self.step)
        self._halted = distributed.any_process(self._stopping, self.device)

    def _close_epoch(self, valid: Loader | None, *, last: bool) -> None:
        """Read the losses of the epoch, evaluate, and record the figures of both."""
        self._read_losses()
        began = time.perf_counter()
        figures = {"epoch_loss": self.recorder.epoch_loss(self.epoch + 1, self.skipped_steps)}
        if valid is not None or self.callbacks:
            self._save_if_due(self.epoch + 1)  # they may fail
        with self._saved_if_it_fails():
            if valid is None or self._validate(valid, figures):
                self.schedule.after_epoch(figures)
                self.recorder.close_epoch(self.step, figures)
                self.epoch, self.position, self.epoch_trained = self.epoch + 1, 0, False
                self._call("on_epoch_end", figures)
                self._halted = distributed.any_process(self._stopping, self.device)
                if not last:  # then fit saves
                    self._save_if_due(self.epoch)
                self.recorder.report(self.step)
        self.recorder.leave_out(time.perf_counter() - began)
