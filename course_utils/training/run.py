"""What the loop works on: the parts of a run, its place and its figures; how they are saved, restored and evaluated."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from course_utils.training import checkpoint, comparison, distributed, evaluation, loaders, validation
from course_utils.training.callbacks import Callback, check_monitors
from course_utils.training.checkpoint import Checkpoints
from course_utils.training.evaluation import Evaluation
from course_utils.training.history import History
from course_utils.training.loaders import Batch, Loader
from course_utils.training.losses import BatchLoss
from course_utils.training.passes import Passes
from course_utils.training.recorder import Recorder
from course_utils.training.scheduling import Scheduling
from course_utils.training.state import check_buffers, check_fits, check_state, load_model_state, model_state


class Run:
    """A run without its loop, which is in `Trainer`.

    Attributes:
        step, epoch, position: steps and whole epochs done, and micro-batches done in this epoch.
        epoch_trained: whether this epoch has had all of its steps, and only its end is to come.
        skipped_steps: steps that were not taken because their gradients were not finite.
        hyperparameters: what the run is made with; saved with it, and compared when it is resumed.
        plan: the steps and epochs that the last `fit` was to end with; None before the first.
    """

    model: nn.Module
    optimizer: Optimizer
    loss_fn: BatchLoss
    schedule: Scheduling
    scaler: torch.amp.GradScaler
    recorder: Recorder
    checkpoints: Checkpoints
    callbacks: Sequence[Callback]
    hyperparameters: dict[str, object]
    device: torch.device
    autocast: AbstractContextManager[object]
    prepare_batch: Callable[[Any], tuple[Any, Any]] | None
    on_nonfinite: str
    accumulation_steps: int
    _passes: Passes
    _steps_per_epoch: int | None

    def __init__(self) -> None:
        self.step = self.epoch = self.position = self.skipped_steps = 0
        self.epoch_trained = self._stopping = self._halted = False
        self.plan: dict[str, int] | None = None
        self._has_begun = False
        self._trained_on: object = None
        self._place: dict[str, Any] | None = None  # of a loaded state, until the next `fit`
        self._data: dict[str, object] = {}

    @property
    def history(self) -> History:
        """The figures so far."""
        return self.recorder.history

    @property
    def run_dir(self) -> Path | None:
        """The folder of the run, or None."""
        return self.checkpoints.folder

    @property
    def save_error(self) -> OSError | None:
        """The error of the last checkpoint, if it could not be written."""
        return self.checkpoints.error

    @property
    def made_with(self) -> dict[str, object]:
        """The hyperparameters and, once `fit` was given a run folder and data, numbers that describe the data."""
        return self.hyperparameters | self._data

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the run: model, optimizer, scheduler, scaler, counts, means and history.

        The place in the data and the states of the random number generators are not in it, because they belong to the
        loaders. `fit` saves them beside it in each checkpoint.
        """
        state = {
            "made_with": self.made_with,
            "plan": self.plan,
            "model": model_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "position": self.position,
            "epoch_trained": self.epoch_trained,
            "skipped_steps": self.skipped_steps,
            "callbacks": [callback.state_dict() for callback in self.callbacks],
        } | self.recorder.state_dict()
        if self.schedule.scheduler is not None:
            state["scheduler"] = self.schedule.state_dict()
        if self.loss_fn.module is not None:
            state["loss_fn"] = self.loss_fn.module.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, or a checkpoint, on this run's device; the next `fit` continues there.

        Raises:
            ValueError: the state is of another model, or of a run with other settings or data, or a part of it is
                missing or damaged; nothing was changed.
        """
        check_state(state)
        comparison.check_same_model(state["model"], model_state(self.model))
        comparison.check_same(state["made_with"], self.made_with, with_data=bool(self._data))
        check_fits(state, self.state_dict())
        check_buffers(state["optimizer"], self.optimizer)
        validation.check_same_callbacks(state["callbacks"], self.callbacks)
        # The optimizer compares its groups with the state's before it changes anything, so it comes first.
        self.optimizer.load_state_dict(state["optimizer"])
        load_model_state(self.model, state["model"])
        self.schedule.load_state_dict(state.get("scheduler", {}))
        if self.loss_fn.module is not None and "loss_fn" in state:
            self.loss_fn.module.load_state_dict(state["loss_fn"])
        self.scaler.load_state_dict(state["scaler"])
        for callback, saved in zip(self.callbacks, state["callbacks"], strict=False):
            callback.load_state_dict(saved)
        self.step, self.epoch, self.position = state["step"], state["epoch"], state["position"]
        self.epoch_trained, self.skipped_steps, self.plan = (
            state["epoch_trained"],
            state["skipped_steps"],
            state["plan"],
        )
        self.recorder.load_state_dict(state)
        self._place = distributed.of_this_rank(state["passes"]) if "passes" in state else None

    def _open(self, train: Loader, valid: Loader | None, plan: dict[str, int], *, resume: bool) -> Loader | None:
        """Continue from a checkpoint, or where the last `fit` ended; return this process's part of `valid`."""
        check_monitors(self.schedule, self.callbacks, validates=valid is not None)
        if self.checkpoints.folder is not None:
            self._data = comparison.fingerprint(train)
        same_data = self._has_begun and (
            train is self._trained_on or comparison.fingerprint(train) == comparison.fingerprint(self._trained_on)
        )
        self._trained_on = train
        train, valid = distributed.shard(train, valid)
        passes = Passes(train, partial(loaders.prepare, "train", prepare_batch=self.prepare_batch), others=(valid,))
        state = self.checkpoints.open(resume=resume, own=self._has_begun)
        if state is not None:
            self.load_state_dict(state)
        elif same_data:
            self._place = self._passes.state_dict()
        if self._place is not None:
            passes.load_state_dict(self._place)
        elif self._has_begun:  # other data, from their beginning
            passes.number = self._passes.number
        else:
            passes.number, passes.position = self._place_without_passes(loaders.num_batches(train))
        self._passes, self._place, self._has_begun = passes, None, True
        validation.check_epochs_left(self.checkpoints.folder, self.epoch, plan["num_epochs"])
        validation.check_same_epoch(self.position, self.plan, plan)
        self.schedule.check_plan(**plan, planned=self.plan)
        self.plan = plan
        checkpoint.check_storable(self.state_dict())
        if self.checkpoints.folder is not None and passes.inexact is not None:
            validation.warn_inexact(passes.inexact, resumed=state is not None)
        return valid

    def _place_without_passes(self, num_batches: int | None) -> tuple[int, int]:
        """Return the number of the pass and the place in it, for a state that does not hold them."""
        if self._steps_per_epoch is None or not num_batches:
            return self.epoch, self.position
        taken = self.epoch * self._steps_per_epoch * self.accumulation_steps + self.position
        return divmod(taken, num_batches)

    def _modules(self) -> list[nn.Module]:
        return [self.model] if self.loss_fn.module is None else [self.model, self.loss_fn.module]

    def _are_finite(self, *values: Tensor) -> bool:
        """Return whether numbers are finite, in all processes."""
        finite = bool(torch.stack([value.float() for value in values]).isfinite().all())
        return not distributed.any_process(not finite, self.device)

    def _copied_buffers(self) -> list[Tensor]:
        """Copy what a batch that is skipped may have changed, such as the running means of BatchNorm."""
        if self.on_nonfinite == "raise":
            return []
        return [buffer.clone() for module in self._modules() for buffer in module.buffers()]

    def _restore_buffers(self, copies: list[Tensor]) -> None:
        buffers = [buffer for module in self._modules() for buffer in module.buffers()] if copies else []
        for buffer, copied in zip(buffers, copies, strict=True):
            buffer.copy_(copied)

    def _save(self) -> None:
        """Check that the weights are finite and, with a run folder, save all that an exact resume needs."""
        validation.check_weights(self._modules(), self.step, self.optimizer.param_groups[0]["lr"])
        if self.checkpoints.folder is not None:
            passes = distributed.all_gather(self._passes.state_dict())
            self.recorder.flush()
            self.checkpoints.save(self.state_dict() | {"passes": passes})

    def _is_due_after_step(self) -> bool:
        """Return whether a checkpoint is asked for after this step; clocks differ, so one process decides."""
        due = self.checkpoints.due_after_step(self.step)
        return due if self.checkpoints.every_seconds is None else distributed.broadcast(due)

    def _save_if_due(self, epoch: int) -> None:
        """Save at the end of an epoch that is to be saved, unless the last checkpoint is too recent."""
        if distributed.broadcast(self.checkpoints.due_after_epoch(epoch)):
            self._save()

    @contextmanager
    def _saved_if_it_fails(self) -> Iterator[None]:
        """Save before an error leaves this block: what was trained is whole."""
        try:
            yield
        except Exception:
            if distributed.world_size() == 1:  # the others may wait elsewhere
                self._save()
            raise

    def evaluate(self, loader: Loader) -> Evaluation:
        """Compute loss per sample and accuracy on some batches, and restore the mode of the model."""
        loaders.check_loader("loader", loader)
        return self._evaluate(loaders.prepare("loader", batch, self.prepare_batch) for batch in loader)

    def _try_validation(self, valid: Loader | None) -> None:
        """Evaluate one batch, so that what does not fit is found before the first epoch, and not after it."""
        if valid is None or hasattr(valid, "load_state_dict"):  # such a loader would go on after that batch
            return
        states = self._passes.random_states.get_state()
        found = self._evaluate(islice(self._prepared(valid), 1))
        self._passes.random_states.set_state(states)
        check_monitors(self.schedule, self.callbacks, validates=True, has_accuracy=found.accuracy is not None)

    def _evaluate(self, batches: Iterator[Batch], **options: Any) -> Evaluation:
        options |= {"device": self.device, "autocast": self.autocast}
        return evaluation.evaluate(self.model, self.loss_fn, batches, **options)

    def _prepared(self, valid: Loader) -> Iterator[Batch]:
        """Yield the batches of validation, checked, until the run is to end."""
        for batch in valid:
            yield loaders.prepare("valid", batch, self.prepare_batch)
            if self._halted:
                return

    def _may_have_lost_workers(self) -> bool:
        """Return whether the signal that is to end this run may also have ended the processes of a DataLoader."""
        return self._stopping and distributed.world_size() == 1

    def _call(self, hook: str, *arguments: object) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """End quietly at a second Ctrl-C. The step may be half done: nothing is saved, the last checkpoint remains."""
        try:
            yield
        except KeyboardInterrupt:
            self.history.interrupted = True

    def _validate(self, valid: Loader, figures: dict[str, float]) -> bool:
        """Evaluate and add the figures; if the run is stopped meanwhile, add none, so that it evaluates again later.

        Returns whether the figures are there; a callback that stops the run when it has seen them does not undo that.
        """
        loaders.set_epoch(valid, self.epoch)
        random_states = self._passes.random_states
        before = random_states.get_state()
        found: dict[str, float] = {}
        try:
            self._call("on_validation_start")
            result = self._evaluate(
                self._prepared(valid),
                all_reduce_sum=self.recorder.all_reduce_sum,
                on_batch=partial(self._call, "on_validation_batch") if self.callbacks else None,
            )
            if not self._halted:
                found = result.figures()
        except loaders.LOST_WORKER:
            if not self._may_have_lost_workers():
                raise
            self._halted = True
        finally:
            self._call("on_validation_end", found)
            if not found:
                random_states.set_state(before)
        figures |= found
        return bool(found)
