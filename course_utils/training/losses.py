"""The loss of a batch, and what its mean divides by, so that batches can be joined as if they were one."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.errors import quoted
from course_utils.training import loss_checks
from course_utils.training.history import Count, Labels
from course_utils.training.loaders import Batch, tensors_in

# PyTorch's losses of (output, y), as modules and as functions, and what the mean of each divides by, as its
# documentation says. "labels" are those that are not ignored, each as often as its class weighs; class probabilities
# count once, whatever the weights.
LOSSES: tuple[tuple[type[nn.Module], Callable[..., Tensor], str], ...] = (
    (nn.CrossEntropyLoss, F.cross_entropy, "labels"),
    (nn.NLLLoss, F.nll_loss, "labels"),
    (nn.MultiMarginLoss, F.multi_margin_loss, "rows"),
    (nn.MultiLabelMarginLoss, F.multilabel_margin_loss, "rows"),
    (nn.MultiLabelSoftMarginLoss, F.multilabel_soft_margin_loss, "elements"),
    (nn.MSELoss, F.mse_loss, "elements"),
    (nn.L1Loss, F.l1_loss, "elements"),
    (nn.SmoothL1Loss, F.smooth_l1_loss, "elements"),
    (nn.HuberLoss, F.huber_loss, "elements"),
    (nn.BCELoss, F.binary_cross_entropy, "elements"),
    (nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits, "elements"),
    (nn.KLDivLoss, F.kl_div, "elements"),
    (nn.PoissonNLLLoss, F.poisson_nll_loss, "elements"),
    (nn.HingeEmbeddingLoss, F.hinge_embedding_loss, "elements"),
    (nn.SoftMarginLoss, F.soft_margin_loss, "elements"),
)
DIVIDES_BY = {function: divisor for _, function, divisor in LOSSES}
# These take more than (output, y).
NEEDS_MORE: tuple[type[nn.Module], ...] = (
    nn.GaussianNLLLoss,
    nn.CosineEmbeddingLoss,
    nn.MarginRankingLoss,
    nn.TripletMarginLoss,
    nn.TripletMarginWithDistanceLoss,
    nn.CTCLoss,
)


class BatchLoss:
    """A loss function of `(output, y)`, checked, with what its mean divides by.

    PyTorch's own losses are known: modules, functions, and `functools.partial` of them. The mean of any other loss is
    taken to divide by the rows of the batch. The first batch of at least 3 rows tests that: a copy of the loss computes
    it again, without a graph, on the whole batch and on two parts of it, and the random numbers are restored. A loss
    that differs when it is repeated, or a batch that cannot be split by rows, is not judged.

    Args:
        loss_fn: returns one number: a mean over the batch or, if its `reduction` is "sum", a sum.
        count: maps y to what the mean divides by; None: known for PyTorch's losses, and otherwise the rows.
        joins: whether the losses of several batches become one step, as with accumulation and several processes. A
            loss whose parts do not add up to the whole is then refused, and otherwise leads to a warning.

    Attributes:
        reduction: "mean" or "sum".
        module: the `nn.Module` in `loss_fn`, whose state and mode belong to a run; None for a function.
        ignore_index: the label that does not count.
        takes_classes: whether y holds class indices or probabilities, as for CrossEntropyLoss; None if unknown.

    Raises:
        TypeError: `loss_fn` cannot be called, is a class, or takes more than `(output, y)`.
        ValueError: it has a reduction that is neither a mean nor a sum.
    """

    def __init__(
        self,
        loss_fn: Callable[..., Any],
        *,
        count: Callable[[Any], float | Tensor] | None = None,
        joins: bool = False,
    ):
        function, keywords = _unwrapped(loss_fn)
        _check_function(function, keywords)
        if count is not None and not callable(count):
            raise TypeError(f"loss_count must be a function of y that returns a number, got {quoted(count)}")
        self.loss_fn, self.joins = loss_fn, joins
        self.module = function if isinstance(function, nn.Module) else None
        self._name = getattr(function, "__name__", type(function).__name__)
        self._own_count = count
        self._function, self._settings, changed = _known(function, keywords)
        self.reduction, self._divides_by = _joined_by(self._function, self._settings, changed=changed)
        self.ignore_index: int = getattr(self._settings, "ignore_index", -100)
        self.takes_classes: bool | None = None
        if self._function is not None:
            self.takes_classes = self._function in loss_checks.TAKES_CLASSES
        elif self.module is not None and next(self.module.parameters(), None) is not None:
            self.takes_classes = False  # the output may be features, of which these parameters make logits
        if changed:
            self._function = None  # what PyTorch's loss expects may be wrong for this one, and its mean another
        self._compares_elements = self._function is not None and not self.takes_classes
        self._counts_labels = (
            self._divides_by == "labels"
            and self.reduction == "mean"
            and count is None
            and not joins
            and self._settings.weight is None
        )
        self._checked, self._judged = False, self._function is not None and count is None
        self._copied_weight: tuple[Tensor, int, Tensor] | None = None

    def __call__(self, output: Any, y: Any) -> Tensor:
        """Return the loss of a batch: a tensor of shape () with a graph, if gradients are on.

        Raises:
            TypeError: what PyTorch's loss takes is not a tensor, or what `loss_fn` returned is not.
            ValueError: shapes that would be broadcast; labels of the wrong kind or, on a GPU in the first batch only,
                out of range; a loss that is not one number or has no graph; a mean that divides by something else than
                `count`.
        """
        if not self._checked:
            self._check(output, y, values=True)
        elif self._compares_elements and output.shape != y.shape:
            self._check(output, y, values=False)
        try:
            loss = self.loss_fn(output, y)
        except Exception:
            # A batch after the first. Values are read from a CPU only, since a GPU that failed does not answer.
            self._check(output, y, values=isinstance(y, Tensor) and y.is_cpu)
            raise
        if not isinstance(loss, Tensor) or loss.ndim or not (loss.requires_grad or not torch.is_grad_enabled()):
            raise loss_checks.not_a_loss(loss)
        self._checked = True
        if not self._judged:
            self._judge(output, y)
        return loss

    def count(self, y: Any, rows: int) -> float | Tensor:
        """Return what the mean of the loss divides by on this batch, and the rows for a sum.

        Args:
            y: the targets, on any device; a GPU is not waited for.
            rows: of the batch.

        Returns a number, or a tensor of shape () on a GPU that y is on.

        Raises:
            TypeError: `count` returned something else.
        """
        if self._own_count is not None:
            return self._counted(self._own_count(y))
        if self.reduction == "sum" or self._divides_by == "rows" or not isinstance(y, Tensor):
            return rows
        return self._num_labels(y) if self._divides_by == "labels" else y.numel()

    def counts(self, batches: Sequence[Batch]) -> list[Count]:
        """Return what the means of a step's micro-batches divide by; labels of a lone one are left to be counted later.

        Counting a few labels takes as long as a layer of a small model, and labels of many steps as long as of one.
        """
        if self._counts_labels and len(batches) == 1 and isinstance(y := batches[0].y, Tensor) and y.ndim == 1:
            return [Labels(y, self.ignore_index)]
        return [self.count(batch.y, batch.rows) for batch in batches]

    def to(self, device: torch.device) -> None:
        """Move the module's parameters and buffers, such as class weights, to the device of the outputs."""
        if self.module is not None:
            self.module.to(device)

    def _check(self, output: Any, y: Any, *, values: bool) -> None:
        if self._function is not None:
            loss_checks.check_batch(self._function, self._name, output, y, self.ignore_index, values=values)

    def _judge(self, output: Any, y: Any) -> None:
        """Find out on the first batch of at least 3 rows whether its parts join as `reduction` and `count` say."""
        first = next(tensors_in(y), None)
        if first is not None and first.ndim and len(first) < 3:
            return
        self._judged = True
        joins = first is None or loss_checks.joins_by_rows(
            self.loss_fn, output, y, self.reduction, self.count, strict=self.joins
        )
        if not joins and self.takes_classes is None:
            self.takes_classes = False  # it compares rows with each other, as contrastive losses of features do

    def _counted(self, number: object) -> float | Tensor:
        """Return what the user's `count` returned, as a number unless that would wait for a GPU."""
        if isinstance(number, Tensor) and number.numel() == 1:
            return number.item() if number.is_cpu else number.reshape(())
        if isinstance(number, Real):
            return float(number)
        raise TypeError(f"loss_count must return one number, what the mean of loss_fn divides by, got {quoted(number)}")

    def _num_labels(self, y: Tensor) -> float | Tensor:
        if y.is_floating_point():
            return y.shape[0] * math.prod(y.shape[2:])
        weight = self._settings.weight
        if weight is None:
            if y.is_cpu:
                return int(np.count_nonzero(y.numpy() != self.ignore_index))  # half of PyTorch's time for a small batch
            return (y.long() != self.ignore_index).sum()  # as uint8, 156 would equal -100
        weight = self._weight_on(weight, y.device)
        # What is not a class is an error of the call, which comes later.
        labels = y.long()
        weights = weight[labels.clamp(0, len(weight) - 1)] * (labels != self.ignore_index)
        total = weights.sum(dtype=torch.promote_types(weight.dtype, torch.float32))
        return total.item() if total.is_cpu else total

    def _weight_on(self, weight: Tensor, device: torch.device) -> Tensor:
        """Return the class weights on a device; they are copied once, and again when they were changed."""
        if weight.device == device:
            return weight
        copied = self._copied_weight
        if copied is None or copied[0] is not weight or copied[1] != weight._version or copied[2].device != device:
            copied = self._copied_weight = weight, weight._version, weight.to(device)
        return copied[2]


def _unwrapped(loss_fn: object) -> tuple[Any, dict[str, Any]]:
    """Return the function or module inside `functools.partial` and `torch.compile`, and the keywords it is given."""
    keywords: dict[str, Any] = {}
    while isinstance(loss_fn, partial) and not loss_fn.args:
        keywords, loss_fn = loss_fn.keywords | keywords, loss_fn.func
    return getattr(loss_fn, "_orig_mod", loss_fn), keywords


def _known(function: Any, keywords: dict[str, Any]) -> tuple[Callable[..., Tensor] | None, Any, bool]:
    """Return PyTorch's function for a loss, or None; an object with its settings; whether a subclass changes forward.

    The settings are attributes: reduction and, if the loss has them, weight and ignore_index.
    """
    for module, known, _ in LOSSES:
        if isinstance(function, module):
            return known, function, type(function).forward is not module.forward
        if function is known:
            arguments = inspect.signature(function).bind_partial(**keywords)
            arguments.apply_defaults()
            return known, SimpleNamespace(**arguments.arguments), False
    return None, SimpleNamespace(reduction=keywords.get("reduction", getattr(function, "reduction", None))), False


def _joined_by(function: Callable[..., Tensor] | None, settings: Any, *, changed: bool) -> tuple[str, str]:
    """Return the reduction, "mean" or "sum", and what the mean divides by; the arguments are what `_known` returns."""
    reduction = getattr(settings, "reduction", None)
    if reduction == "sum":
        return "sum", "rows"
    if function is None:
        return "mean", "rows"
    if reduction == "mean":
        return "mean", DIVIDES_BY[function]
    if changed or (function is F.kl_div and reduction == "batchmean"):
        return "mean", "rows"  # a changed forward joins the losses of single rows itself
    raise ValueError(f"loss_fn has reduction={reduction!r}, but backward() needs one number: use 'mean' or 'sum'")


def _check_function(function: Any, keywords: dict[str, Any]) -> None:
    if isinstance(function, type):
        name = function.__name__
        raise TypeError(f"loss_fn is the class {name}, not an instance of it: add (), as in {name}()")
    if not callable(function):
        raise TypeError(f"loss_fn must be a function of (logits, y), got {type(function).__name__}")
    for needs_more in NEEDS_MORE:
        if isinstance(function, needs_more) and type(function).forward is needs_more.forward:
            names = ", ".join(list(inspect.signature(needs_more.forward).parameters)[1:])
            raise TypeError(
                f"{type(function).__name__} takes ({names}), but a loss_fn is called with (output, y): "
                "give a function of (output, y) that calls it"
            )
    legacy = sorted({"size_average", "reduce"} & keywords.keys())
    if legacy:
        raise ValueError(f"loss_fn is given {legacy[0]}, which PyTorch has deprecated: use reduction='mean' or 'sum'")
