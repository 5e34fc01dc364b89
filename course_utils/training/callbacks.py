"""What users add to the loop at fixed points: the base class, early stopping, and the best checkpoint."""

import inspect
import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from course_utils.errors import check_name, is_file_name, non_negative_number, positive_integer, quoted, unknown_name
from course_utils.files import remove_unfinished, write_atomically
from course_utils.training import comparison, distributed
from course_utils.training.checkpoint import OWN_FILES
from course_utils.training.reading import read_plain
from course_utils.training.scheduling import Scheduling, best_mode
from course_utils.training.state import load_model_state, model_state

if TYPE_CHECKING:
    from course_utils.training.trainer import Trainer


class Callback:
    """Does nothing at each point of a run; a subclass overrides the points it needs.

    The points, in order:

        on_fit_start
        for each epoch:
            for each step:
                on_step_end
            on_validation_start, on_validation_batch for each batch, on_validation_end
            on_epoch_end
        on_fit_end

    Callbacks are called in the order of the Trainer's list. Each gets the trainer, with its `model`, `step`, `epoch`,
    `history`, and `stop()`, which ends the run. With several processes, each process calls its own callbacks.

    Raises:
        ValueError: a subclass has a method `on_…` that is not one of these points, so it would never be called.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        points = [name for name in vars(Callback) if name.startswith("on_")]
        for name in vars(cls):
            if name.startswith("on_") and name not in points:
                raise unknown_name(f"method of the callback {cls.__name__}", name, points)

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Called when `fit` starts, after a checkpoint was loaded and before the next step."""

    def on_step_end(self, trainer: "Trainer") -> None:
        """Called after each step that changed the weights; reading a tensor here makes the program wait for a GPU."""

    def on_validation_start(self, trainer: "Trainer") -> None:
        """Called before the validation data is evaluated, with the model still in training mode."""

    def on_validation_batch(self, trainer: "Trainer", output: Any, y: Any) -> None:
        """Called after each batch of validation data, with the model's output and y, both on the device."""

    def on_validation_end(self, trainer: "Trainer", figures: dict[str, float]) -> None:
        """Called after the validation data was evaluated; always follows `on_validation_start`.

        Args:
            figures: "valid_loss" and, for class indices, "valid_accuracy". A number that is added here goes into
                `history.metrics` and TensorBoard under its name. Empty if the evaluation was interrupted or failed.
        """

    def on_epoch_end(self, trainer: "Trainer", figures: dict[str, float]) -> None:
        """Called after each epoch with all of its figures, before its checkpoint is saved."""

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Called when `fit` ends without an error, also after `stop()`, and after the last checkpoint was saved."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as tensors and plain values; it is saved in each checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class _Monitor(Callback):
    """Watches one figure and keeps its `best` value, which is None before the first one that is finite."""

    def __init__(self, monitor: str, mode: str | None):
        if not isinstance(monitor, str):
            raise TypeError(f"monitor must be the name of a figure, such as 'valid_loss', got {quoted(monitor)}")
        if mode is not None:
            check_name("mode", mode, ["min", "max"])
        known = best_mode(monitor)
        if mode is None and known is None:
            raise ValueError(
                f"whether a larger or a smaller {quoted(monitor)} is better is not known: add mode='max' or 'min'"
            )
        if mode is not None and known not in (None, mode):
            raise ValueError(f"mode={mode!r} would take the worst {quoted(monitor)} for the best: use mode={known!r}")
        self.monitor, self.mode = monitor, mode or known
        self.best: float | None = None

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Forget the best value of another run."""
        if trainer.step == 0:
            self.best = None

    def better_value(self, figures: Mapping[str, float], *, by: float = 0.0) -> float | None:
        """Return the watched figure if it is finite and better than the best by more than `by`, else None.

        Raises:
            ValueError: it is not among the figures; the message lists them.
        """
        if self.monitor not in figures:
            raise unknown_name(f"monitor of {type(self).__name__}", self.monitor, figures)
        value = float(figures[self.monitor])
        if not math.isfinite(value):
            return None
        gain = math.inf if self.best is None else self.best - value if self.mode == "min" else value - self.best
        return value if gain > by else None

    def state_dict(self) -> dict[str, Any]:
        """Return the name of the figure and its best value."""
        return {"monitor": self.monitor, "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: it is the state of another callback, or of one that watches another figure.
        """
        own = self.state_dict()
        best, bad_epochs = state.get("best"), state.get("bad_epochs", 0)
        fits = state.keys() == own.keys() and state["monitor"] == self.monitor
        if not fits or type(best) not in (int, float, type(None)) or type(bad_epochs) is not int:
            raise ValueError(
                f"the saved state {dict(state)!r} is not one of {type(self).__name__}(monitor={self.monitor!r}): "
                "give the Trainer the callbacks of the run, in the same order"
            )
        self.best = best


class EarlyStopping(_Monitor):
    """Ends the run when a figure has not improved for some epochs.

    If such a run is resumed, or `fit` is called again, it ends again at once; to continue, give a larger `patience`.
    The weights at the end are those of the last epoch; `BestCheckpoint` keeps the best ones.

    Args:
        monitor: the name of a figure: "valid_loss", "valid_accuracy", "epoch_loss", or one that a callback adds.
        patience: epochs in a row without improvement that end the run.
        min_delta: how much better than the best a value must be to count as an improvement.
        mode: "min" or "max"; None knows that a smaller loss and a larger accuracy are better.

    Attributes:
        best: the best value so far. NaN and infinite values never count as best.
        bad_epochs: epochs since then.

    Raises:
        ValueError, TypeError: an argument is out of its range, or `mode` is needed.
    """

    def __init__(self, monitor: str = "valid_loss", *, patience: int, min_delta: float = 0.0, mode: str | None = None):
        super().__init__(monitor, mode)
        self.patience = positive_integer("patience", patience)
        self.min_delta = non_negative_number("min_delta", min_delta)
        self.bad_epochs = 0

    @property
    def reason(self) -> str | None:
        """Why the run was ended, in one sentence; None if it was not."""
        if self.bad_epochs < self.patience:
            return None
        if self.best is None:
            return f"{self.monitor} was not finite in any of {self.bad_epochs} epochs"
        return f"{self.monitor} has not improved on {self.best:.4g} for {self.bad_epochs} epochs"

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Forget any other run, and end this one again if it was ended before."""
        super().on_fit_start(trainer)
        if trainer.step == 0:
            self.bad_epochs = 0
        if self.reason:
            trainer.stop()

    def on_epoch_end(self, trainer: "Trainer", figures: dict[str, float]) -> None:
        """Compare the figure with its best value."""
        value = self.better_value(figures, by=self.min_delta)
        if value is None:
            self.bad_epochs += 1
        else:
            self.best, self.bad_epochs = value, 0
        if self.reason:
            trainer.stop()

    def state_dict(self) -> dict[str, Any]:
        """Return the name of the figure, its best value, and the epochs since then."""
        return super().state_dict() | {"bad_epochs": self.bad_epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.bad_epochs = state["bad_epochs"]


class BestCheckpoint(_Monitor):
    """Writes the model's weights into the run's folder each time a figure is the best so far.

    The file holds the model's `state_dict` and nothing else. To load it in another program:
    `model.load_state_dict(torch.load("run/best.pt", weights_only=True))`. If it cannot be written, a RuntimeWarning
    says so, the run continues, and the older file remains.

    Args:
        monitor: the name of a figure: "valid_loss", "valid_accuracy", "epoch_loss", or one that a callback adds.
        mode: "min" or "max"; None knows that a smaller loss and a larger accuracy are better.
        file: the name of the file.
        model: the model whose weights are saved, if it is not the trainer's, such as a moving average of it.

    Attributes:
        best: the value that belongs to the weights in the file. NaN and infinite values never count as best.

    Raises:
        ValueError, TypeError: an argument is out of its range, or `mode` is needed.
    """

    def __init__(
        self,
        monitor: str = "valid_loss",
        *,
        mode: str | None = None,
        file: str = "best.pt",
        model: nn.Module | None = None,
    ):
        super().__init__(monitor, mode)
        if not isinstance(file, str) or not is_file_name(file) or Path(file).name != file or file == "..":
            raise ValueError(f"file must be a name without a folder, such as 'best.pt', got {quoted(file)}")
        if file.startswith(OWN_FILES):
            raise ValueError(
                f"file {quoted(file)} may be one of the run's own files, whose names begin with "
                f"{', '.join(OWN_FILES)}: choose another name, such as 'best.pt'"
            )
        if model is not None and not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, or None for the trainer's, got {quoted(model)}")
        self.file, self.model = file, model
        self._path: Path | None = None

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Forget any other run, and find the folder of this one.

        Raises:
            ValueError: the trainer has none.
        """
        super().on_fit_start(trainer)
        if trainer.run_dir is None:
            raise ValueError(f"BestCheckpoint writes {self.file!r} into the run's folder: give the Trainer run_dir=…")
        self._path = Path(trainer.run_dir) / self.file
        if distributed.rank() == 0:
            remove_unfinished(self._path)

    def on_epoch_end(self, trainer: "Trainer", figures: dict[str, float]) -> None:
        """Save the weights if the figure is the best so far."""
        value = self.better_value(figures)
        if value is None:
            return
        if self._path is not None and distributed.rank() == 0:
            model = trainer.model if self.model is None else self.model
            content = io.BytesIO()
            torch.save(model_state(model), content)
            try:
                write_atomically(self._path, content.getvalue())
            except OSError as error:
                warnings.warn(
                    f"the weights after step {trainer.step} could not be written to {str(self._path)!r} ({error}): "
                    "training continues, and the older file remains",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return
        self.best = value

    def load_best(self, model: nn.Module) -> None:
        """Load the best weights into a model.

        Raises:
            ValueError: no run has saved any, the file is damaged, or its weights are of another model.
            FileNotFoundError: the file is gone.
        """
        if self._path is None or self.best is None:
            raise ValueError(f"{self.file!r} was not written yet: load_best needs a fit with at least one whole epoch")
        try:
            weights = read_plain(self._path)
        except ValueError as error:
            raise ValueError(f"{self._path} cannot be read ({error}), and nothing was loaded from it") from error
        comparison.check_same_model(weights, model_state(model))
        load_model_state(model, weights)


def check_callbacks(callbacks: Sequence[Callback]) -> tuple[Callback, ...]:
    """Return the callbacks as a tuple.

    Raises:
        TypeError: one is not an instance of `Callback`, or they are not in a list.
        ValueError: one is given twice, or two write the same file.
    """
    if not isinstance(callbacks, list | tuple):
        raise TypeError(
            f"callbacks must be a list of callbacks, got {quoted(callbacks)}: put even a single one into []"
        )
    checked: list[Callback] = []
    for index, each in enumerate(callbacks):
        if inspect.isclass(each):
            raise TypeError(f"callbacks[{index}] is the class {each.__name__}: make an instance, {each.__name__}(…)")
        if not isinstance(each, Callback):
            raise TypeError(
                f"callbacks[{index}] is {quoted(each)}: derive its class from course_utils.training.Callback"
            )
        if any(each is other for other in checked):
            raise ValueError(
                f"callbacks[{index}], {type(each).__name__}, is in the list twice and would be called twice: "
                "give it once, or make another instance"
            )
        checked.append(each)
    files = [each.file for each in checked if isinstance(each, BestCheckpoint)]
    for file in files:
        if files.count(file) > 1:
            raise ValueError(f"{files.count(file)} callbacks would write {file!r}: give each another file=…")
    return tuple(checked)


def check_monitors(
    schedule: Scheduling, callbacks: Iterable[Callback], *, validates: bool, has_accuracy: bool = True
) -> None:
    """Check that an epoch can have the figures that the scheduler and the callbacks need, before the first step.

    Args:
        validates: whether the run has validation data.
        has_accuracy: whether these have one.

    Raises:
        ValueError: a figure needs validation data, or is not one of the trainer's and no callback can add it.
    """
    callbacks = list(callbacks)
    needed = [(f"monitor of {type(each).__name__}", each.monitor) for each in callbacks if isinstance(each, _Monitor)]
    if isinstance(schedule.scheduler, ReduceLROnPlateau):
        needed.append(("scheduler_metric", schedule.metric))
    adds = any(type(each).on_validation_end is not Callback.on_validation_end for each in callbacks)
    for kind, name in needed:
        if name == "epoch_loss":
            continue
        if not validates:
            raise ValueError(f"{kind} is {name!r}, which needs validation data: give fit valid=…, or use 'epoch_loss'")
        if name == "valid_accuracy" and not has_accuracy:
            raise ValueError(
                f"{kind} is 'valid_accuracy', but the targets are not class indices, so there is none: use 'valid_loss'"
            )
        if name not in ("valid_loss", "valid_accuracy") and not adds:
            raise unknown_name(kind, name, ["epoch_loss", "valid_loss", "valid_accuracy"])
