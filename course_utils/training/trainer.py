"""The training loop: five verbs a step, and around them what a week-long run needs."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from course_utils import devices
from course_utils.errors import positive_integer, positive_number, unknown_name
from course_utils.training import checkpoint, distributed, evaluation, gradients, loaders, validation
from course_utils.training.evaluation import Evaluation
from course_utils.training.history import History, LossMeter
from course_utils.training.loaders import Batch, Loader
from course_utils.training.rng import RandomStates
from course_utils.training.signals import finish_step_on_interrupt
from course_utils.training.tracking import Progress, Tracking, reporting


class Trainer:
    """Trains a model: the loop of lesson 08_the_whole_loop.

    Args:
        model: maps x to logits. It is moved to the device.
        optimizer: holds parameters of this model.
        loss_fn: maps (logits, y) to one number: a mean over the batch or, with `reduction="sum"`, a sum.
        scheduler: changes the lr of the optimizer; stepped once after each step.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "fp32", "bf16" (autocast) or "fp16" (autocast and a gradient scaler, CUDA only).
        accumulation_steps: micro-batches per step, weighted by their samples, as if they were one batch.
        max_grad_norm: clip the joint norm of the gradients to this; None does not clip.
        run_dir: the folder for the checkpoints and TensorBoard files of the run; None writes neither.
        log_every: steps per window; a window continues over the end of an epoch. Losses stay on the device and are
            read together, once a window and once an epoch.
        checkpoint_every: epochs between checkpoints; `checkpoint.Checkpoints` describes when one is delayed.
        progress: True for a bar, False for none, or a function that is called as
            `progress(step, num_steps, history)` after each window and each epoch.
        on_nonfinite: "raise" if the loss is NaN or infinite, or "skip" steps with such gradients; "skip"
            waits for the device at each step.
        track_grad_norm: add the joint norm of the gradients to the history, with and without clipping.

    Attributes:
        step, epoch, position: steps and whole epochs done, and micro-batches done in this epoch.
        skipped_steps: steps that were not taken because their gradients were not finite.
        history: the figures so far; meter: the means that are not in it yet.
        hyperparameters: what the run is made with; saved with it, and compared when it is resumed.

    Raises:
        ValueError, TypeError: parts that do not fit together; the message names them and the way out.
    """

    history: History
    meter: LossMeter

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
        run_dir: str | Path | None = None,
        log_every: int = 50,
        checkpoint_every: int = 1,
        progress: Progress = True,
        on_nonfinite: str = "raise",
        track_grad_norm: bool = False,
    ):
        validation.check_model(model)
        validation.check_optimizer(optimizer, model)
        validation.check_scheduler(scheduler, optimizer)
        self.reduction = validation.check_loss_fn(loss_fn)
        self.device = distributed.local_device(device)
        devices.check_precision(precision, self.device)
        validation.check_progress(progress)
        if on_nonfinite not in ("raise", "skip"):
            raise unknown_name("on_nonfinite", on_nonfinite, ["raise", "skip"])
        self.accumulation_steps = positive_integer("accumulation_steps", accumulation_steps)
        self.max_grad_norm = None if max_grad_norm is None else positive_number("max_grad_norm", max_grad_norm)
        self.log_every = positive_integer("log_every", log_every)
        self.checkpoint_every = positive_integer("checkpoint_every", checkpoint_every)
        self.model, self.optimizer, self.scheduler = model.to(self.device), optimizer, scheduler
        self.loss_fn = loss_fn.to(self.device) if isinstance(loss_fn, nn.Module) else loss_fn
        self.run_dir, self.progress = run_dir, progress if distributed.rank() == 0 else False
        self.on_nonfinite, self.track_grad_norm = on_nonfinite, track_grad_norm
        if optimizer.state:  # momentum and other buffers follow the model to its device
            optimizer.load_state_dict(optimizer.state_dict())
        self.autocast = devices.autocast(precision, self.device)
        self.scaler = devices.make_scaler(precision, self.device)
        self.hyperparameters = checkpoint.describe(model, optimizer, scheduler, loss_fn) | {
            "precision": precision,
            "accumulation_steps": accumulation_steps,
            "max_grad_norm": max_grad_norm,
            "on_nonfinite": on_nonfinite,
        }
        self._data: dict[str, int | None] = {}
        self._begin()

    def train_step(self, batches: list[Batch], num_samples: int) -> list[Tensor]:
        """Take one step on one or more micro-batches of `num_samples` rows together: five verbs, in order.

        Returns the loss of each micro-batch, on the device and without a graph.
        """
        gradients.zero_grad(self.optimizer)
        losses = []
        for x, y in distributed.synchronized_last(self.network, batches):
            with self.autocast:
                logits = self.network(x)
                loss = self.loss_fn(logits, y)
            weight = self._scaled_weight(loss, x.shape[0], num_samples)
            loss.backward(weight)
            losses.append(loss.detach())
        if self._gradients_are_ready():
            self.scaler.step(self.optimizer)
        return losses

    def fit(self, train: Loader, valid: Loader | None = None, *, num_epochs: int, resume: bool = False) -> History:
        """Train for `num_epochs` passes over `train`, counted from the start of the run.

        Args:
            train: batches `(x, y)` with a length: `data.Batches`, a DataLoader, a list. Before each pass, its
                `set_epoch` is called if it has one.
            valid: batches to evaluate on after each epoch.
            resume: continue from the checkpoint in `run_dir`, to the same end, bit for bit, as without a break; if
                there is no checkpoint yet, start.

        Returns the history; after `stop()`, Ctrl-C or a notebook's stop button, the history so far.

        Raises:
            NonFiniteError: the loss became NaN or infinite.
            RunCompleteError: the run to resume already has `num_epochs` epochs.
            ValueError, TypeError, OSError: data that cannot be trained on, a checkpoint of another run, a bad folder.
        """
        positive_integer("num_epochs", num_epochs)
        loaders.check_loader("train", train)
        if valid is not None:
            loaders.check_loader("valid", valid)
        self._begin()
        self._data = {} if self.run_dir is None else checkpoint.fingerprint(train)
        train, valid = distributed.shard(train, valid)
        self._random_states = RandomStates(train, valid, enabled=self.run_dir is not None)
        self._checkpoints = checkpoint.Checkpoints(self.run_dir, writes=distributed.rank() == 0)
        state = self._checkpoints.open(resume=resume)
        if state is not None:
            self.load_state_dict(state)
            in_epoch = self.position > 0 and not self.epoch_trained
            self._random_states.load_state_dict(distributed.of_this_rank(state["random"]), in_epoch=in_epoch)
        validation.check_epochs_left(self.run_dir, self.epoch, num_epochs)
        checkpoint.check_storable(self.state_dict())
        self.network = distributed.wrap(self.model, self.device)
        folder = self.run_dir if self._checkpoints.writes else None
        self._tracking = Tracking(folder, resume=resume, first_step=self.step + 1, made_with=self.made_with)
        num_steps = num_epochs * -(-len(train) // self.accumulation_steps)
        try:
            with (
                self._tracking,
                evaluation.modes_kept(self.model, training=True),
                finish_step_on_interrupt(self.stop),
                reporting(self.progress, self.step, num_steps) as self._report,
            ):
                while self.epoch < num_epochs and not self._halted:
                    if not self.epoch_trained:
                        self._train_epoch(train)
                    if self.epoch_trained:
                        self._close_epoch(valid, last=self.epoch + 1 == num_epochs)
                if self._halted:
                    self._read_losses()
                    self._save()
        except KeyboardInterrupt:
            # Raised anywhere but while a batch is loaded (`_train_epoch` handles that): by a second Ctrl-C, or by a
            # callback. The step may be half done, so nothing more is saved and the last checkpoint remains.
            pass
        return self.history

    def stop(self) -> None:
        """End the run after the current step or, with several processes, after the window; any thread may call this.

        `fit` then saves a checkpoint and returns the history so far.
        """
        self._stopping = True
        if distributed.world_size() == 1:
            self._halted = True

    def evaluate(self, loader: Loader) -> Evaluation:
        """Compute loss per sample and accuracy on some batches, and restore the mode of the model."""
        loaders.check_loader("loader", loader)
        batches = loaders.batches_on(self.device, "loader", loader)
        return evaluation.evaluate(self.model, self.loss_fn, batches, autocast=self.autocast)

    @property
    def made_with(self) -> dict[str, object]:
        """The hyperparameters and, once `fit` was given a run folder and data, numbers that describe the data."""
        return self.hyperparameters | self._data

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the run: model, optimizer, scheduler, scaler, counts, means and history.

        The states of the random number generators are not in it, because a run draws from its loaders' generators too.
        `fit` saves them beside it in each checkpoint.
        """
        scheduler = {} if self.scheduler is None else {"scheduler": self.scheduler.state_dict()}
        return {
            "made_with": self.made_with,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **scheduler,
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "position": self.position,
            "epoch_trained": self.epoch_trained,
            "skipped_steps": self.skipped_steps,
            "means": self.meter.state_dict(),
            "history": self.history.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, on this trainer's device.

        `fit` does this when it resumes a run from a checkpoint; without `resume` it starts a run at step 0.

        Raises:
            ValueError: the state is of another model, or of a run with other settings or data; nothing was changed.
        """
        checkpoint.check_same_model(state["model"], self.model.state_dict())
        seen = {name: value for name, value in state["made_with"].items() if self._data or name not in checkpoint.DATA}
        checkpoint.check_same(seen, self.made_with)
        # The optimizer compares its groups with the state's before it changes anything, so it comes first.
        self.optimizer.load_state_dict(state["optimizer"])
        self.model.load_state_dict(state["model"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.epoch, self.position = state["step"], state["epoch"], state["position"]
        self.epoch_trained, self.skipped_steps = state["epoch_trained"], state["skipped_steps"]
        self.meter.load_state_dict(state["means"])
        self.history = History.from_state_dict(state["history"])
        self._samples_before = self.meter.window.count

    # Around the step.

    def _begin(self) -> None:
        """Set all counts to those of a run that has not started."""
        self.step = self.epoch = self.position = self.skipped_steps = 0
        self.epoch_trained = self._stopping = self._halted = False
        self.history = History()
        self.meter = LossMeter(self.reduction)
        self.network = self.model
        self._process_weight: float | Tensor = 1.0
        alone = distributed.world_size() == 1
        self._plain = alone and not self.scaler.is_enabled()
        self._all_reduce_sum = None if alone else partial(distributed.all_reduce_sum, device=self.device)
        self._lrs: list[float] = []
        self._window_began, self._samples_before = time.perf_counter(), 0.0

    def _save(self) -> None:
        """Save all that an exact resume needs, if the weights are finite."""
        if self.run_dir is not None:
            validation.check_weights(self.model, self.step, self.optimizer.param_groups[0]["lr"])
            random_states = distributed.all_gather(self._random_states.state_dict())
            self._tracking.flush()
            self._checkpoints.save(self.state_dict() | {"random": random_states})

    def _until_halted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches until the run is to end."""
        for batch in batches:
            yield batch
            if self._halted:
                return

    def _train_epoch(self, train: Loader) -> None:
        """Go over the data once, or until stopped; the batches left at the end make a smaller step."""
        distributed.set_epoch(train, self.epoch)
        self._random_states.begin_epoch(train)
        batches = loaders.batches_on(self.device, "train", train)
        for _ in itertools.islice(batches, self.position):
            pass  # done before the run was interrupted
        self._random_states.end_skipping()
        while not self._halted and not self.epoch_trained:
            try:
                group = list(itertools.islice(batches, self.accumulation_steps))
            except (KeyboardInterrupt, *loaders.LOST_WORKER) as error:
                if not self._stopping and not isinstance(error, KeyboardInterrupt):
                    raise
                self._halted = True
                break
            self.epoch_trained = not group
            if group:
                self._take_step(group)
                self.position += len(group)

    def _take_step(self, batches: list[Batch]) -> None:
        """Take one step, count it unless it was skipped, and read the losses if it ends a window."""
        counts = [y.shape[0] for _, y in batches]
        num_samples, skipped = sum(counts), self.skipped_steps
        if self._plain:
            losses = self.train_step(batches, num_samples)
        else:
            self._process_weight = distributed.loss_weight(num_samples, self.reduction, self.device)
            scale = self.scaler.get_scale()
            losses = self.train_step(batches, num_samples)
            self.scaler.update()
            self.skipped_steps += self.scaler.get_scale() < scale
        if self.skipped_steps > skipped:
            return
        self.step += 1
        self.meter.add(losses, counts)
        self._lrs.append(self.optimizer.param_groups[0]["lr"])
        if self.scheduler is not None:
            self.scheduler.step()
        if self.step % self.log_every == 0:
            self._close_window()

    def _scaled_weight(self, loss: Tensor, rows: int, num_samples: int) -> Tensor | None:
        """Return what backward() starts from: the scaled weight of the micro-batch in the step's loss; None means 1."""
        validation.check_loss(loss)
        if rows == num_samples and self._plain:
            return None
        weight = rows / num_samples if self.reduction == "mean" else 1.0
        return self.scaler.scale(torch.full_like(loss, weight).mul_(self._process_weight))

    def _gradients_are_ready(self) -> bool:
        """Clip the gradients, keep their norm, and return whether to step with them."""
        if self.max_grad_norm is None and not self.track_grad_norm and self.on_nonfinite == "raise":
            return True
        self.scaler.unscale_(self.optimizer)
        self._grad_norm = gradients.clip(self.optimizer, self.max_grad_norm)
        if self.on_nonfinite == "raise" or self.scaler.is_enabled() or bool(self._grad_norm.isfinite()):
            return True
        self.skipped_steps += 1
        return False

    def _read_losses(self) -> None:
        """Read the losses of the steps since the last read: the only place where training waits for the device."""
        lrs, self._lrs = self._lrs, []
        losses = self.meter.read(self._all_reduce_sum)
        validation.check_finite(losses, lrs, self.step)
        if losses:
            self._lr = float(lrs[-1])
        self._halted = distributed.any_process(self._stopping, self.device)

    def _close_window(self) -> None:
        """Read the losses of the window and record its figures."""
        self._read_losses()
        window, seconds = self.meter.window, time.perf_counter() - self._window_began
        speed = (window.count - self._samples_before) / seconds
        figures = {"step_loss": window.value, "lr": self._lr, "samples_per_second": speed}
        if self.track_grad_norm:
            figures["grad_norm"] = self._grad_norm.item()
        self._record(figures)
        self.meter.reset_window()
        self._report(self.step, self.history)
        self._window_began, self._samples_before = time.perf_counter(), 0.0

    def _close_epoch(self, valid: Loader | None, *, last: bool) -> None:
        """Read the losses of the epoch, evaluate, record the figures of both, and save."""
        self._read_losses()
        paused = time.perf_counter()
        validation.check_epoch(self.epoch + 1, self.position, self.meter.epoch.count, self.skipped_steps)
        figures = {"epoch_loss": self.meter.epoch.value}
        if valid is not None:
            distributed.set_epoch(valid, self.epoch)
            before = self._random_states.state_before_pass(valid)
            result = evaluation.evaluate(
                self.model,
                self.loss_fn,
                self._until_halted(loaders.batches_on(self.device, "valid", valid)),
                autocast=self.autocast,
                all_reduce_sum=self._all_reduce_sum,
            )
            if self._halted:
                self._random_states.set_state(before)  # the resumed run evaluates again, on all of the data
                return
            figures["valid_loss"] = result.loss
            if result.accuracy is not None:
                figures["valid_accuracy"] = result.accuracy
        self._record(figures)
        self.meter.reset_epoch()
        self.epoch, self.position, self.epoch_trained = self.epoch + 1, 0, False
        if last or (self.epoch % self.checkpoint_every == 0 and distributed.broadcast(self._checkpoints.due())):
            self._save()
        self._report(self.step, self.history)
        self._window_began += time.perf_counter() - paused

    def _record(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            getattr(self.history, name).append((self.step, value))
        self._tracking.write(self.step, figures)
