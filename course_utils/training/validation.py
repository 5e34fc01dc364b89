"""Validation of arguments and of losses: each error names what is wrong and what to do about it."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from course_utils.training.loaders import no_batches


def check_model(model: nn.Module) -> None:
    """Check that the model has parameters, all on one device.

    Raises:
        TypeError: it is not an `nn.Module`.
        ValueError: it has no parameters, or parameters on several devices.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if not devices:
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to train")
    if len(devices) > 1:
        raise ValueError(
            f"the model's parameters are on {len(devices)} devices ({', '.join(devices)}): "
            "move the whole model to one of them first, with model.to(device)"
        )


def check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Check that the optimizer holds parameters of this model only.

    Raises:
        TypeError: it is not an optimizer.
        ValueError: it holds tensors that are not the model's.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    own = {id(parameter) for parameter in model.parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    strange = sum(id(parameter) not in own for parameter in held)
    if strange:
        raise ValueError(
            f"{strange} of the optimizer's {len(held)} tensors are not parameters of this model, so its step() would "
            "not train it: make the optimizer from model.parameters() of the same model (lesson 01_optimizers)"
        )


def check_scheduler(scheduler: object, optimizer: Optimizer) -> None:
    """Check that the scheduler changes this optimizer and can be stepped once per step.

    Raises:
        TypeError: it needs a validation loss.
        ValueError: it was made for another optimizer.
    """
    if scheduler is None:
        return
    if isinstance(scheduler, ReduceLROnPlateau):
        raise TypeError(
            "scheduler ReduceLROnPlateau needs a validation loss, but the trainer calls scheduler.step() without one, "
            "after each step: use a scheduler that counts steps, for example CosineAnnealingLR "
            "(lesson 03_choosing_the_learning_rate)"
        )
    if getattr(scheduler, "optimizer", None) is not optimizer:
        raise ValueError(
            f"{type(scheduler).__name__} was made for another optimizer, so it would never change this one's lr: "
            "make it from the optimizer that the Trainer gets (lesson 03_choosing_the_learning_rate)"
        )


def check_loss_fn(loss_fn: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Return how the loss function joins a batch, "mean" or "sum"; a plain function counts as "mean".

    Raises:
        TypeError: it cannot be called.
        ValueError: its `reduction` is neither "mean" nor "sum".
    """
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function of (logits, y), got {type(loss_fn).__name__}")
    reduction: str = getattr(loss_fn, "reduction", "mean")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"loss_fn has reduction={reduction!r}, but backward() needs one number: use 'mean' or 'sum'")
    return reduction


def check_loss(loss: object) -> None:
    """Check that a loss is one number.

    Raises:
        TypeError: it is not a tensor.
        ValueError: it is a tensor of one dimension or more.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss_fn must return a tensor, got {type(loss).__name__}: backward() starts from it")
    if loss.ndim:
        raise ValueError(
            f"loss_fn returned a tensor of shape {tuple(loss.shape)}, but backward() needs one number: "
            "use reduction='mean', or .mean() at its end"
        )


def check_progress(progress: object) -> None:
    """Check the `progress` argument.

    Raises:
        TypeError: it is not True, False or a function.
    """
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"progress must be True, False or a function (step, num_steps, history), got {progress!r}")


class RunCompleteError(ValueError):
    """The run to resume already has as many epochs as were asked for, or more."""


def check_epochs_left(run_dir: str | Path | None, epoch: int, num_epochs: int) -> None:
    """Check that a run to resume has epochs left.

    Raises:
        RunCompleteError: it has none.
    """
    if epoch >= num_epochs:
        raise RunCompleteError(
            f"the run in {str(run_dir)!r} already has {epoch} epochs and num_epochs={num_epochs} asks for no more: "
            "give a larger number to continue"
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


def check_weights(model: nn.Module, step: int, lr: float) -> None:
    """Check that the weights are finite before they are saved; this waits for the device once.

    Raises:
        NonFiniteError: a parameter is NaN or infinite, or a buffer is NaN.
    """
    worst = get_total_norm([parameter.detach() for parameter in model.parameters()], norm_type=math.inf)
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if not bool(worst.isfinite()) or any(bool(buffer.isnan().any()) for buffer in buffers):
        raise NonFiniteError(
            f"the weights are not finite after step {step} at lr {float(lr):g}, though its loss was: training stopped, "
            "and the last checkpoint is from before this step. Try a smaller lr (lesson 02_learning_rate) or "
            "max_grad_norm"
        )


def check_epoch(epoch: int, num_batches: int, num_samples: float, skipped_steps: int) -> None:
    """Check that an epoch had batches and took at least one step.

    Raises:
        ValueError: the data yielded no batches.
        NonFiniteError: every step was skipped.
    """
    if not num_batches:
        raise no_batches("train", epoch)
    if not num_samples:
        raise NonFiniteError(
            f"no step of epoch {epoch} had finite gradients ({skipped_steps} skipped): "
            "try a smaller lr (lesson 02_learning_rate) or look for NaN in the data"
        )
