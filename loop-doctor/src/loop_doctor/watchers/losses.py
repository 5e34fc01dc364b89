"""Losses: their values, what they are a mean or a sum of, and by what they were scaled."""

import functools
import math
import weakref
from typing import Any

from torch import Tensor, nn

from loop_doctor.call_sites import CallSites, Location, spot_of
from loop_doctor.graph import read_factors, read_reduction, wrapped
from loop_doctor.ledger import Series
from loop_doctor.records import Record
from loop_doctor.watchers.epochs import EpochWatcher
from loop_doctor.watchers.inputs import InputWatcher
from loop_doctor.watchers.models import ModelWatcher
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope

LOSSES = (
    "cross_entropy",
    "nll_loss",
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "kl_div",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "poisson_nll_loss",
    "gaussian_nll_loss",
)


class LossWatcher:
    """Watches the loss functions and the losses that backward calls start from."""

    def __init__(
        self,
        record: Record,
        scope: Scope,
        sites: CallSites,
        models: ModelWatcher,
        epochs: EpochWatcher,
        inputs: InputWatcher,
    ):
        self._record, self._scope, self._sites = record, scope, sites
        self._models, self._epochs, self._inputs = models, epochs, inputs
        self._backwards_at_valid = -1
        self._lines: dict[int, tuple[int, str | None]] = {}
        self._last_loss: tuple[weakref.ref[Tensor], int, float] | None = None

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place."""
        for name in LOSSES:
            patches.wrap(nn.functional, name, functools.partial(self._loss, name))

    def look_at(self, loss: Tensor, line: int, location: Location | None) -> bool:
        """Note the loss that a backward call starts from, and return whether it is scaled as for a micro-batch."""
        factors, below = read_factors(loss.grad_fn)
        looks, reduction = self._lines.get(line, (0, None))
        if looks < 8 or self._record.num_backwards % 16 == 0:
            reduction = read_reduction(below)
            self._lines[line] = (looks + 1, reduction)
        # Dividing or a factor below 1 scales a micro-batch; a GradScaler's factor is far above 1.
        scaled = reduction == "sum" or any(factor < 1 for factor in factors)
        if loss.numel() == 1 and not loss.is_meta:
            series = self._append(line, self._value(loss), reduction, factors)
            if series is not None:
                series.location = series.location or location
                self._record.losses[line] = series
            # What is logged may be the loss before it was scaled: undo one factor after the other.
            undone = 1.0
            for number, factor in enumerate(factors[:3], 1):
                undone *= factor
                if undone not in (0.0, math.inf):
                    self._append((line, number), self._value(loss) / undone, reduction, factors[number:], rounded=True)
        return scaled

    def _loss(self, name: str, original: AnyFunction) -> AnyFunction:
        @functools.wraps(original)
        def loss(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if self._scope.sees() and isinstance(result, Tensor) and result.requires_grad and not wrapped(result):
                self._inputs.called(name, args, kwargs)
            if self._scope.sees() and isinstance(result, Tensor) and result.ndim == 0 and not wrapped(result):
                inputs = args[0] if args else kwargs.get("input")
                self._computed(name, result, kwargs.get("reduction", "mean"), inputs)
            return result

        return loss

    def _computed(self, name: str, result: Tensor, reduction: str, inputs: Any) -> None:
        if result.is_meta:
            return
        frames = self._sites.user_frames(1)
        spot = spot_of(frames[0]) if frames else None
        del frames
        training = result.requires_grad and not self._models.eval_mode
        if isinstance(inputs, Tensor) and inputs.ndim:
            self._models.batch_size = inputs.size(0)
        phase = "train" if training else "valid"
        series = self._record.ledger.of((name, phase, spot), phase, reduction)
        if series is None:
            return
        if not training and self._backwards_at_valid != self._record.num_backwards:
            self._backwards_at_valid = self._record.num_backwards
            for other in self._record.ledger.series.values():
                if other.phase == "valid":
                    other.begin_epoch()
        if training:
            self._epochs.begin_epoch_if_due(series)
        series.append(self._value(result), self._models.batch_size)

    def _value(self, loss: Tensor) -> Tensor | float:
        """Return a loss's value: a number on the CPU, elsewhere a copy to fetch later, so that nothing waits here."""
        if not loss.is_cpu:
            return loss.detach().clone()
        # An inference tensor has no version; its value is read only once anyway, because it has no backward call.
        version = 0 if loss.is_inference() else loss._version
        if self._last_loss is not None:
            last, its_version, value = self._last_loss
            if last() is loss and its_version == version:
                return value
        value = float(self._scope.unseen(loss.item))
        self._last_loss = (weakref.ref(loss), version, value)
        return value

    def _append(
        self, key: object, value: Tensor | float, reduction: str | None, factors: list[float], *, rounded: bool = False
    ) -> Series | None:
        # A sum that is divided by the size of its batch is a mean.
        if reduction == "sum" and any(abs(factor * self._models.batch_size - 1) < 1e-6 for factor in factors):
            reduction = "mean"
        series = self._record.ledger.of(key, "train", reduction, rounded=rounded)
        if series is not None:
            if factors:
                series.scale = min(series.scale, math.prod(factor for factor in factors if factor < 1))
            self._epochs.begin_epoch_if_due(series)
            series.append(value, self._models.batch_size)
        return series
