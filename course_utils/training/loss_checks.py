"""Checks of a loss on a batch: shapes, kinds of labels, what it returns, and how the losses of two parts join."""

import contextlib
import copy
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.training.loaders import tensors_in
from course_utils.training.rng import RandomStates

TAKES_CLASSES: tuple[Callable[..., Tensor], ...] = (F.cross_entropy, F.nll_loss, F.multi_margin_loss)
_IN_UNIT_INTERVAL = (F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
_FLOATS_ONLY = (*_IN_UNIT_INTERVAL, F.kl_div)
_ONE_DTYPE = (F.binary_cross_entropy, F.huber_loss)


def check_batch(
    function: Callable[..., Tensor], name: str, output: Any, y: Any, ignore_index: int, *, values: bool
) -> None:
    """Check that an output and targets are of the shapes and kinds that one of PyTorch's losses compares row by row.

    Args:
        function: PyTorch's function for the loss.
        name: of the loss, for messages.
        values: whether to read the targets too; that waits for a GPU.

    Raises:
        TypeError: one of them is not a tensor.
        ValueError: shapes or dtypes that do not fit, or targets that are out of range.
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            f"{name} takes a tensor, but the model returned a {type(output).__name__}: choose the part of it that the "
            "loss needs, for example loss_fn=lambda output, y: loss(output[0], y)"
        )
    if not isinstance(y, Tensor):
        raise TypeError(
            f"{name} takes a tensor, but y is a {type(y).__name__}: choose the part of it that the loss needs, for "
            "example loss_fn=lambda output, y: loss(output, y[0])"
        )
    given = (
        f"{name} got an output of shape {tuple(output.shape)}, {output.dtype}, and y of shape {tuple(y.shape)}, "
        f"{y.dtype}: "
    )
    if function in TAKES_CLASSES:
        problem = _problem_of_classes(function, output, y, ignore_index, values=values)
    else:
        problem = _problem_of_elements(function, output, y, values=values)
    if problem is not None:
        raise ValueError(given + problem)


def _problem_of_classes(
    function: Callable[..., Tensor], output: Tensor, y: Tensor, ignore_index: int, *, values: bool
) -> str | None:
    if output.ndim < 2:
        return "an output needs a dimension of classes after that of the rows, (rows, classes)"
    if output.shape[1] < 2:
        return "with 1 class nothing can be learned: use BCEWithLogitsLoss with float targets of the output's shape"
    expected = output.shape[:1] + output.shape[2:]
    if y.is_floating_point():
        if function is F.cross_entropy and y.shape == output.shape:
            return None
        way = "y.long()" if y.shape == expected else "y.argmax(1)" if y.shape == output.shape else "y.long()"
        return f"labels must be class indices of dtype int64: use {way}, in the data set or prepare_batch"
    if y.shape != expected:
        problem = f"class indices must have the shape {tuple(expected)}"
        if y.shape == output.shape:
            return f"{problem}: use y.argmax(1) for one-hot targets, or y.float() for class probabilities"
        if y.shape == output.shape[:-1]:
            return f"{problem}, since the classes are dimension 1: move them there, output.movedim(-1, 1)"
        if y.numel() == math.prod(expected):
            return f"{problem}: use y.reshape({', '.join(map(str, (-1, *expected[1:])))})"
        return f"{problem}, one for each place of the output that is not a class"
    # For images PyTorch takes int64 only.
    if y.dtype != torch.int64 and not (y.dtype == torch.uint8 and y.ndim == 1):
        return "labels must be class indices of dtype int64: use y.long(), in the data set or prepare_batch"
    if not values:
        return None
    labels = y.long()
    labels = labels[labels != ignore_index] if function is not F.multi_margin_loss else labels.flatten()
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= output.shape[1]):
        return (
            f"the labels are {int(labels.min())} to {int(labels.max())}, but with {output.shape[1]} classes they go "
            f"from 0 to {output.shape[1] - 1}: number the classes from 0, and give the model an output for each"
        )
    return None


def _problem_of_elements(function: Callable[..., Tensor], output: Tensor, y: Tensor, *, values: bool) -> str | None:
    if output.shape != y.shape:
        problem = "they must have the same shape, or each row would be compared with every other"
        if output.shape == (*y.shape, 1):
            return f"{problem}: use y.unsqueeze(-1), or .squeeze(-1) at the model's end"
        if y.shape == (*output.shape, 1):
            return f"{problem}: use y.squeeze(-1), or .unsqueeze(-1) at the model's end"
        if not y.is_floating_point() and output.ndim > 1 and y.shape == output.shape[:1] + output.shape[2:]:
            return f"{problem}. For class indices, use CrossEntropyLoss"
        return problem
    if function is F.multilabel_margin_loss:
        return None if y.dtype == torch.int64 else "labels must be class indices of dtype int64: use y.long()"
    if y.dtype == torch.bool or (function in _FLOATS_ONLY and not y.is_floating_point()):
        return "targets must be floats: use y.float(), in the data set or prepare_batch"
    if function in _ONE_DTYPE and y.dtype != output.dtype and not torch.is_autocast_enabled(output.device.type):
        return f"both must have one dtype: use y.to({output.dtype}), in the data set or prepare_batch"
    if values and function in _IN_UNIT_INTERVAL and not bool(((y >= 0) & (y <= 1)).all()):
        return (
            f"the targets are {float(y.min()):g} to {float(y.max()):g}, but they must be from 0 to 1; "
            "for class indices, use CrossEntropyLoss"
        )
    return None


def not_a_loss(loss: object) -> TypeError | ValueError:
    """Return the error for what a loss function returned, if that is not one number with a graph."""
    if not isinstance(loss, Tensor):
        which = ": return the one that is to become small" if isinstance(loss, tuple | list | dict) else ""
        return TypeError(f"loss_fn must return a tensor, got {type(loss).__name__}: backward() starts from it{which}")
    if loss.ndim:
        return ValueError(
            f"loss_fn returned a tensor of shape {tuple(loss.shape)}, but backward() needs one number: "
            "use reduction='mean', or .mean() at its end"
        )
    return ValueError(
        "loss_fn returned a loss without a graph, so backward() would find no weights: look for .detach(), .item(), "
        "argmax, torch.no_grad() or torch.tensor(...) between the weights and the loss, and for frozen weights"
    )


def joins_by_rows(
    loss_fn: Callable[..., Any],
    output: Any,
    y: Any,
    reduction: str,
    count: Callable[[Any, int], float | Tensor],
    *,
    strict: bool,
) -> bool:
    """Return whether the losses of two parts of a batch join into that of the whole; True if that cannot be tried.

    Args:
        loss_fn: called on a copy of itself; neither it nor the random numbers are changed.
        y: targets of at least 3 rows, so that the parts are of unequal size.
        reduction, count: how they should join.
        strict: raise an error if they do not, in place of a warning.

    Raises:
        ValueError: a sum that is taken for a mean, or a mean for a sum; rows that are broadcast; and if `strict`, parts
            that do not join.
    """
    try:
        parts = _Parts(loss_fn, output, y, count)
        if not parts.can_be_judged:
            return True
    except Exception:
        # The loss may take nothing but whole batches, or cannot be copied: then there is nothing to find out.
        return True
    expected, other = (parts.is_mean, parts.is_sum) if reduction == "mean" else (parts.is_sum, parts.is_mean)
    if expected:
        return True
    if other and reduction == "mean":
        raise ValueError(
            f"loss_fn adds up the rows of a batch ({parts}), but counts as a mean: end it with .mean(), or set the "
            "attribute reduction = 'sum' on it"
        )
    if other:
        raise ValueError(
            f"loss_fn has reduction='sum', but it is a mean ({parts}): end it with .sum(), or set its reduction to "
            "'mean'"
        )
    if isinstance(output, Tensor) and isinstance(y, Tensor) and output.shape != y.shape:
        _check_broadcast(loss_fn, output, y, count)
    problem = (
        f"loss_fn is neither the mean nor the sum over the rows of a batch ({parts}), so batches cannot be joined as "
        "if they were one: if its mean divides by something else, such as the labels that are not ignored, give "
        "loss_count, a function of y that returns it, for example loss_count=lambda y: (y != -100).sum()"
    )
    if strict:
        raise ValueError(f"{problem}; otherwise train in one process, with accumulation_steps=1")
    warnings.warn(f"{problem}; until then, the loss of an epoch is approximate", stacklevel=4)
    return False


def _check_broadcast(
    loss_fn: Callable[..., Any], output: Tensor, y: Tensor, count: Callable[[Any, int], float | Tensor]
) -> None:
    """Check that a loss does not compare each row with every other just because of broadcasting.

    Raises:
        ValueError: the loss is that of single rows as soon as the output has the shape of y.
    """
    try:
        parts = _Parts(loss_fn, output.reshape(y.shape), y, count)
        broadcast = parts.can_be_judged and (parts.is_mean or parts.is_sum)
    except Exception:
        return  # other shapes than these are not for this loss
    if broadcast:
        raise ValueError(
            f"loss_fn got an output of shape {tuple(output.shape)} and y of shape {tuple(y.shape)}, and broadcasting "
            "compares each row with every other: give them the same shape, for example with "
            f"output.reshape(y.shape) in loss_fn"
        )


class _Parts:
    """The losses of a whole batch, and of its first third and the rest."""

    def __init__(
        self,
        loss_fn: Callable[..., Any],
        output: Any,
        y: Any,
        count: Callable[[Any, int], float | Tensor],
    ):
        first = next(tensors_in(y), None)
        if first is None or not first.ndim:
            raise TypeError("targets that cannot be split by rows")
        rows = len(first)
        cut = max(1, rows // 3)
        self.rows = cut, rows - cut
        halves = [(_rows(output, rows, part), _rows(y, rows, part)) for part in (slice(cut), slice(cut, None))]
        everything = _rows(output, rows, slice(None)), _rows(y, rows, slice(None))
        exact = torch.autocast(first.device.type, enabled=False)
        with torch.no_grad(), exact, _random_numbers_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = _copy(loss_fn)
            self.whole, *self.losses, self.again = [float(trial(*each)) for each in (everything, *halves, everything)]
            self.counts = [float(count(each[1], n)) for each, n in zip(halves, self.rows, strict=True)]

    @property
    def can_be_judged(self) -> bool:
        numbers = (self.whole, *self.losses, *self.counts)
        return all(map(math.isfinite, numbers)) and self._near(self.again, 1e-6) and sum(self.counts) > 0

    @property
    def is_sum(self) -> bool:
        return self._near(sum(self.losses))

    @property
    def is_mean(self) -> bool:
        joined = sum(loss * count for loss, count in zip(self.losses, self.counts, strict=True))
        return self._near(joined / sum(self.counts))

    def _near(self, number: float, tolerance: float = 1e-4) -> bool:
        return abs(number - self.whole) <= tolerance * max(map(abs, (self.whole, *self.losses)))

    def __str__(self) -> str:
        (first, rest), (loss, other) = self.rows, self.losses
        return f"{first} rows give {loss:.6g}, the other {rest} give {other:.6g}, and all give {self.whole:.6g}"


def _rows(value: Any, rows: int, part: slice) -> Any:
    """Return a copy of some rows of nested tensors, without a graph and at least in single precision.

    Raises:
        TypeError: something has no rows, or another number of them.
    """
    if isinstance(value, Tensor) and value.ndim and len(value) == rows:
        half = value.dtype in (torch.float16, torch.bfloat16)
        return value.detach()[part].to(torch.float32 if half else value.dtype, copy=True)
    if type(value) in (tuple, list):
        return type(value)(_rows(each, rows, part) for each in value)
    if type(value) is dict:
        return {key: _rows(each, rows, part) for key, each in value.items()}
    raise TypeError(f"a {type(value).__name__} that cannot be split by rows")


def _copy(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of a loss that shares its parameters only; a function is its own copy."""
    owner = getattr(loss_fn, "__self__", loss_fn)
    shared = list(owner.parameters()) if isinstance(owner, nn.Module) else []
    return copy.deepcopy(loss_fn, {id(parameter): parameter for parameter in shared})


@contextlib.contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Restore the random number generators of Python, NumPy, PyTorch and CUDA at the end."""
    random_states = RandomStates()
    before = random_states.get_state()
    try:
        yield
    finally:
        random_states.set_state(before)
