"""Validation of arguments and of losses: each error names what is wrong and what to do about it."""

import inspect
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from course_utils.errors import check_name, positive_integer, quoted
from course_utils.training.loaders import Loader, check_loader, num_batches


def check_model(model: nn.Module) -> None:
    """Check that the model has parameters, all on one device.

    Raises:
        TypeError: it is not an `nn.Module`.
        ValueError: it has no parameters, or parameters on several devices.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if any(is_lazy(each) for each in (*model.parameters(), *model.buffers())):
        raise ValueError(
            f"{type(model).__name__} has layers that take their size from the first batch: "
            "run the model on one batch before the optimizer is made"
        )
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if not devices:
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to train")
    if devices == ["meta"]:
        raise ValueError(
            f"the parameters of {type(model).__name__} are on the device 'meta', which holds no numbers: "
            "make them real first, with model.to_empty(device=...) and its initialization"
        )
    if len(devices) > 1:
        raise ValueError(
            f"the model's parameters are on {len(devices)} devices ({', '.join(devices)}): "
            "move the whole model to one of them first, with model.to(device)"
        )


def check_optimizer(optimizer: Optimizer, model: nn.Module, loss_module: nn.Module | None = None) -> None:
    """Check that the optimizer holds parameters of this model (and of the loss function) only, and steps by itself.

    Raises:
        TypeError: it is not an optimizer, or its `step` needs a closure.
        ValueError: it holds other tensors, or its lr, momentum or weight_decay is NaN, infinite or negative.
    """
    if not isinstance(optimizer, Optimizer):
        given = optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__
        raise TypeError(f"optimizer must be an instance of torch.optim.Optimizer, got {given}")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"{type(optimizer).__name__}.step() needs a closure that computes the loss again, several times a step, "
            "but the loop computes the gradients once: use an optimizer whose step() works without, such as SGD or Adam"
        )
    for index, group in enumerate(optimizer.param_groups):
        for name in ("lr", "momentum", "weight_decay"):
            value = group.get(name, 0.0)
            if not isinstance(value, Tensor) and not 0 <= value < math.inf:
                raise ValueError(
                    f"the optimizer's {name} (group {index}) must be a finite number of at least 0, "
                    f"got {quoted(value)}: make the optimizer with another one"
                )
    owners = [model] if loss_module is None else [model, loss_module]
    own = {id(parameter) for owner in owners for parameter in owner.parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    strange = sum(id(parameter) not in own for parameter in held)
    if strange:
        raise ValueError(
            f"{strange} of the optimizer's {len(held)} tensors are not parameters of this model, so its step() would "
            "not train it: make the optimizer from model.parameters() of the same model (lesson 01_optimizers)"
        )


def check_progress(progress: object) -> None:
    """Check the `progress` argument.

    Raises:
        TypeError: it is not True, False or a function.
    """
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(
            f"progress must be True, False or a function (step, num_steps, history), got {quoted(progress)}"
        )


def check_options(progress: object, prepare_batch: object, on_nonfinite: str, track_grad_norm: bool) -> None:
    """Check options of the trainer that are functions or names.

    Raises:
        TypeError: `progress` or `prepare_batch` is neither a function nor one of its other values, or
            `track_grad_norm` is neither True nor False.
        ValueError: `on_nonfinite` is neither "raise" nor "skip".
    """
    check_progress(progress)
    if prepare_batch is not None and not callable(prepare_batch):
        raise TypeError(
            f"prepare_batch must be a function from a batch to (inputs, y), or None, got {quoted(prepare_batch)}"
        )
    check_name("on_nonfinite", on_nonfinite, ["raise", "skip"])
    if not isinstance(track_grad_norm, bool):
        raise TypeError(f"track_grad_norm must be True or False, got {quoted(track_grad_norm)}")


def make_plan(
    train: Loader, valid: Loader | None, num_epochs: int, steps_per_epoch: int | None, accumulation_steps: int
) -> dict[str, int]:
    """Return how many steps and epochs a run is to have in all.

    Raises:
        TypeError, ValueError: a number is not positive, or a loader cannot be trained or evaluated on.
    """
    num_epochs = positive_integer("num_epochs", num_epochs)
    if steps_per_epoch is not None:
        steps_per_epoch = positive_integer("steps_per_epoch", steps_per_epoch)
    check_loader("train", train, steps_per_epoch=steps_per_epoch)
    if valid is not None:
        check_loader("valid", valid, steps_per_epoch=1)  # a pass over it may be of any length
        if valid is train and getattr(train, "persistent_workers", False):
            raise ValueError(
                "train and valid are the same DataLoader with persistent_workers=True, which can be in one pass at a "
                "time: make another one for validation"
            )
    steps = steps_per_epoch or -(-(num_batches(train) or 0) // accumulation_steps)
    return {"num_steps": num_epochs * steps, "num_epochs": num_epochs}


def check_same_epoch(position: int, before: Mapping[str, int] | None, now: Mapping[str, int]) -> None:
    """Check that a run that continues within an epoch has as many steps in it as before.

    Args:
        position: micro-batches done in this epoch.
        before, now: `num_steps` and `num_epochs` of the run, before and now; None if they are not known.

    Raises:
        ValueError: it has more or fewer.
    """
    if not position or before is None:
        return
    then, steps = (plan["num_steps"] // plan["num_epochs"] for plan in (before, now))
    if steps != then:
        raise ValueError(
            f"the run stopped within an epoch of {then} steps, which would now have {steps}: end the epoch with the "
            "same data and steps_per_epoch first"
        )


def check_same_callbacks(saved: Sequence[object], callbacks: Sequence[object]) -> None:
    """Check that a run continues with as many callbacks as it was saved with, or that one of the two has none.

    Raises:
        ValueError: their numbers differ.
    """
    if saved and callbacks and len(saved) != len(callbacks):
        raise ValueError(
            f"the run was saved with {len(saved)} callbacks and has {len(callbacks)} here: "
            "give the Trainer the callbacks of the run, in the same order, or none"
        )


def warn_inexact(reason: str, *, resumed: bool) -> None:
    """Warn that a run cannot be resumed exactly, when it starts and when it is resumed.

    Warns:
        RuntimeWarning: always.
    """
    if resumed:
        message = f"some rows may be repeated or left out in this epoch: {reason}"
    else:
        message = f"a resumed run cannot repeat the order of the data exactly: {reason}"
    warnings.warn(message, RuntimeWarning, stacklevel=4)


class RunCompleteError(ValueError):
    """The run to resume already has as many epochs as were asked for, or more."""


def check_epochs_left(run_dir: Path | None, epoch: int, num_epochs: int) -> None:
    """Check that a run has epochs left.

    Raises:
        RunCompleteError: it has none.
    """
    if epoch >= num_epochs:
        raise RunCompleteError(
            f"the run{'' if run_dir is None else f' in {str(run_dir)!r}'} already has {epoch} epochs and "
            f"num_epochs={num_epochs} asks for no more: it counts from the start of the run, so give a larger number"
        )


class NonFiniteError(ArithmeticError):
    """The loss or the weights became NaN or infinite; the message names the step, the lr and the lesson to read."""


def check_finite(losses: Sequence[float], lrs: Sequence[float], last_step: int) -> None:
    """Check the losses of the last steps, up to `last_step`, which were taken at these learning rates.

    Raises:
        NonFiniteError: one is NaN or infinite.
    """
    if all(map(math.isfinite, losses)):
        return
    for index, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"the loss of step {last_step - len(losses) + index + 1} is {loss} at lr {float(lrs[index]):g}: "
                "training stopped, and the last checkpoint is from before this step. A smaller lr (lesson "
                "02_learning_rate), max_grad_norm or on_nonfinite='skip' may help; look for NaN in the data too"
            )


def check_weights(modules: Iterable[nn.Module], step: int, lr: float) -> None:
    """Check that the weights are finite before a run is saved or ends; this waits for the device once.

    Raises:
        NonFiniteError: a parameter that is trained is NaN or infinite, or a buffer is NaN.
    """
    owners = list(modules)
    # Frozen parameters do not change. They may be of whole numbers, as when they are quantized.
    weights = [each.detach() for owner in owners for each in owner.parameters() if each.requires_grad and each.numel()]
    worst = get_total_norm(weights, norm_type=math.inf)
    buffers = [each for owner in owners for each in owner.buffers() if each.is_floating_point()]
    if not bool(worst.isfinite()) or any(bool(buffer.isnan().any()) for buffer in buffers):
        raise NonFiniteError(
            f"the weights are not finite after step {step} at lr {float(lr):g}, though its loss was: training stopped, "
            "and the last checkpoint is from before this step. Try a smaller lr (lesson 02_learning_rate) or "
            "max_grad_norm"
        )


def check_epoch(epoch: int, loss_count: float, skipped_steps: int) -> None:
    """Check that an epoch took at least one step.

    Raises:
        NonFiniteError: every step was skipped.
    """
    if not loss_count:
        raise NonFiniteError(
            f"no step of epoch {epoch} had finite gradients ({skipped_steps} skipped): "
            "try a smaller lr (lesson 02_learning_rate) or look for NaN in the data"
        )
