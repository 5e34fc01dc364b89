"""What the loop refuses before it trains: each check says in words what is wrong and what to do."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import Dataset


def check_model(model: nn.Module) -> None:
    """Check that the model has parameters, all on one device.

    Raises:
        TypeError: it is no `nn.Module`.
        ValueError: no parameters, or parameters on several devices.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if not devices:
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to train")
    if len(devices) > 1:
        raise ValueError(
            f"the model's parameters lie on {len(devices)} devices ({', '.join(devices)}): "
            "move all of it to one first, with model.to(device)"
        )


def check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Check that the optimizer holds this model's own parameters.

    Raises:
        TypeError: it is no optimizer.
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
    """Check that the scheduler steers this optimizer and can be stepped once a step.

    Raises:
        TypeError: it wants a validation loss.
        ValueError: it was made for another optimizer.
    """
    if scheduler is None:
        return
    if isinstance(scheduler, ReduceLROnPlateau):
        raise TypeError(
            "scheduler ReduceLROnPlateau waits for a validation loss, but the schedule here is stepped once a step: "
            "use one that counts steps, for example CosineAnnealingLR (lesson 03_choosing_the_learning_rate)"
        )
    if getattr(scheduler, "optimizer", None) is not optimizer:
        raise ValueError(
            f"{type(scheduler).__name__} was made for another optimizer, so it would never change this one's lr: "
            "make it from the optimizer that the Trainer gets (lesson 03_choosing_the_learning_rate)"
        )


def check_loss_fn(loss_fn: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Return how the loss function joins a batch, "mean" or "sum"; a plain function counts as "mean".

    Raises:
        TypeError: it can't be called.
        ValueError: its `reduction` gives one number a sample.
    """
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function of (logits, y), got {type(loss_fn).__name__}")
    reduction = getattr(loss_fn, "reduction", "mean")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"loss_fn has reduction={reduction!r}, but backward() needs one number: use 'mean' or 'sum'")
    return reduction


def check_loss(loss: object) -> None:
    """Check that a loss is one number.

    Raises:
        TypeError: it is no tensor.
        ValueError: it is a tensor of several numbers.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss_fn must return a tensor, got {type(loss).__name__}: backward() starts from it")
    if loss.ndim:
        raise ValueError(
            f"loss_fn returned a tensor of shape {tuple(loss.shape)}, but backward() needs one number: "
            "use reduction='mean', or .mean() at its end"
        )


def check_progress(progress: object) -> None:
    """Check what is to show the progress.

    Raises:
        TypeError: it is neither True, False nor a function.
    """
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"progress must be True, False or a function (step, num_steps, history), got {progress!r}")


def check_loader(name: str, loader: Iterable) -> None:
    """Check that a loader can be passed over once an epoch and knows how many batches that is.

    Raises:
        TypeError: a data set instead of batches, or something without `len` or that can't be iterated.
        ValueError: it is empty.
    """
    if isinstance(loader, Dataset):
        raise TypeError(
            f"{name} is a {type(loader).__name__}, which gives single samples: "
            "wrap it, DataLoader(dataset, batch_size=64, shuffle=True)"
        )
    if not hasattr(loader, "__iter__") or not hasattr(loader, "__len__"):
        raise TypeError(
            f"{name} must be an iterable of (x, y) batches with a length, such as a DataLoader, "
            f"got {type(loader).__name__}"
        )
    if len(loader) == 0:
        raise ValueError(f"{name} is empty, 0 batches: is the data set empty, or drop_last=True with few rows?")


def unpack(name: str, batch: object) -> tuple[Tensor, Tensor]:
    """Return a batch as `(x, y)`.

    Raises:
        TypeError: it is no pair of tensors.
        ValueError: x and y have different numbers of rows.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise _not_a_pair(name, batch)
    x, y = batch
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise TypeError(f"{name} must yield tensors (x, y), got ({type(x).__name__}, {type(y).__name__})")
    shape = x.shape
    if not shape or not y.ndim:
        raise ValueError(f"{name} yields single samples, x of shape {tuple(shape)}: batches need a first dimension")
    if shape[0] != y.shape[0] or not shape[0]:
        raise ValueError(
            f"{name} yields {len(x)} rows of x but {len(y)} of y: they must be the same number, at least 1"
        )
    return x, y


def _not_a_pair(name: str, batch: object) -> TypeError:
    if isinstance(batch, tuple | list):
        return TypeError(f"{name} must yield pairs (x, y), got {len(batch)} item{'s' * (len(batch) != 1)} a batch")
    keys = f" with the keys {', '.join(map(repr, batch))}" if isinstance(batch, dict) else ""
    return TypeError(f"{name} must yield pairs (x, y), got a {type(batch).__name__}{keys}")


class RunCompleteError(ValueError):
    """A run that was to be resumed has as many epochs as it was asked for, or more."""


def check_epochs_left(run_dir: str | Path | None, epoch: int, num_epochs: int) -> None:
    """Check that a resumed run has something to do.

    Raises:
        RunCompleteError: it has its epochs.
    """
    if epoch >= num_epochs:
        raise RunCompleteError(
            f"the run in {str(run_dir)!r} has {epoch} epochs already, num_epochs={num_epochs} asks for no more: "
            "give a larger number to go on"
        )


class NonFiniteError(ArithmeticError):
    """The loss or the weights became NaN or infinite; the message names the step, the lr and the lesson to read."""


def check_finite(losses: Sequence[float], lrs: Sequence[float], last_step: int) -> None:
    """Check the losses of the steps up to `last_step`, taken with these learning rates.

    Raises:
        NonFiniteError: one is NaN or infinite.
    """
    if all(map(math.isfinite, losses)):
        return
    for index, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"the loss of step {last_step - len(losses) + index + 1} is {loss} at lr {float(lrs[index]):g}: "
                "training stopped, and the last checkpoint is from before. A smaller lr (lesson 02_learning_rate), "
                "max_grad_norm or on_nonfinite='skip' may help; so may a look at the data for NaN"
            )


def check_weights(model: nn.Module, step: int, lr: float) -> None:
    """Check that a model is worth saving; it waits for the device once.

    Raises:
        NonFiniteError: a parameter is NaN or infinite, or a buffer is NaN.
    """
    worst = get_total_norm([parameter.detach() for parameter in model.parameters()], norm_type=math.inf)
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if not bool(worst.isfinite()) or any(bool(buffer.isnan().any()) for buffer in buffers):
        raise NonFiniteError(
            f"the weights are not finite after step {step} at lr {float(lr):g}, though its loss was: training stopped, "
            "and the last checkpoint is from before. Try a smaller lr (lesson 02_learning_rate) or max_grad_norm"
        )


def check_epoch(epoch: int, num_batches: int, num_samples: float, skipped_steps: int) -> None:
    """Check that an epoch trained on something.

    Raises:
        ValueError: the data gave no batch.
        NonFiniteError: every step was skipped.
    """
    if not num_batches:
        raise ValueError(
            f"train gave no batch in epoch {epoch}: it must give its batches in every pass, "
            "as a DataLoader or a list does and a generator does not"
        )
    if not num_samples:
        raise NonFiniteError(
            f"no step of epoch {epoch} had finite gradients ({skipped_steps} skipped): "
            "try a smaller lr (lesson 02_learning_rate) or look at the data for NaN"
        )
