"""Losses: their values, what they are a mean or a sum of, and by what they were scaled."""

import functools
import math
import weakref
from types import FrameType
from typing import Any

from torch import Tensor, nn

from loop_doctor.call_sites import CallSites, Location, Spot, spot_of
from loop_doctor.graph import MAX_CONSTANTS, read_factors, read_mean, read_reduction, read_weights, wrapped
from loop_doctor.ledger import Series
from loop_doctor.records import Record
from loop_doctor.watchers.epochs import EpochWatcher
from loop_doctor.watchers.inputs import LOOKED_AT, InputWatcher
from loop_doctor.watchers.models import ModelWatcher
from loop_doctor.watchers.modes import ModeWatcher
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
MAX_MEANS = 4  # shapes of training losses that the user wrote as a mean


class LossWatcher:
    """Watches the loss functions and the losses that backward calls start from."""

    def __init__(
        self,
        record: Record,
        scope: Scope,
        sites: CallSites,
        models: ModelWatcher,
        epochs: EpochWatcher,
        modes: ModeWatcher,
        inputs: InputWatcher,
    ):
        self._modes = modes
        self._record, self._scope, self._sites = record, scope, sites
        self._models, self._epochs, self._inputs = models, epochs, inputs
        self._latest: tuple[Location, tuple[Spot, ...]] | None = None  # where the latest loss was computed, and around
        self._backwards_at_valid = -1
        self._delivered_at_backward = 0
        self._lines: dict[int, tuple[int, str | None]] = {}
        self._last_loss: tuple[weakref.ref[Tensor], int, float] | None = None
        self._means: dict[tuple[int, ...], float] = {}  # shape but for the rows: the factor before the mean

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place."""
        for name in LOSSES:
            patches.wrap(nn.functional, name, functools.partial(self._loss, name))

    def place_inside(self, frames: list[FrameType]) -> Location | None:
        """Return the line that computed the loss of a backward call, if one line of the user made a library do both.

        That line, such as `trainer.fit(module)`, says less than the one in `training_step`.
        """
        latest, self._latest = self._latest, None
        return latest[0] if latest and frames and spot_of(frames[0]) in latest[1] else None

    def look_at(self, loss: Tensor, line: int, location: Location | None) -> bool:
        """Note the loss that a backward call starts from, and return whether it is scaled as for a micro-batch."""
        factors, below = read_factors(loss.grad_fn)
        looks, reduction = self._lines.get(line, (0, None))
        if looks < 8 or self._record.num_backwards % 16 == 0:
            reduction = read_reduction(below)
            self._lines[line] = (looks + 1, reduction)
            if looks < 8:
                self._read_terms(loss.grad_fn)
        # Dividing or a factor below 1 scales a micro-batch; a GradScaler's factor is far above 1.
        self._delivered_at_backward = self._epochs.num_delivered
        scaled = reduction == "sum" or any(factor < 1 for factor in factors)
        if loss.numel() == 1 and not loss.is_meta:
            series = self._append(line, self._value(loss), reduction, factors)
            if series is not None:
                series.location = series.location or location
                series.is_root = True
                self._record.losses[line] = series
            # What is logged may be the loss before it was scaled: undo one factor after the other.
            undone = 1.0
            for number, factor in enumerate(factors[:3], 1):
                undone *= factor
                if undone not in (0.0, math.inf):
                    self._append((line, number), self._value(loss) / undone, reduction, factors[number:], rounded=True)
        return scaled

    def _loss(self, name: str, original: AnyFunction) -> AnyFunction:
        looked_at = name in LOOKED_AT

        @functools.wraps(original)
        def loss(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if not self._scope.sees() or not isinstance(result, Tensor) or wrapped(result):
                return result
            if looked_at and result.requires_grad:
                self._inputs.called(name, args, kwargs)
            if result.ndim == 0:
                inputs = args[0] if args else kwargs.get("input")
                self._computed(name, result, kwargs.get("reduction", "mean"), inputs)
            return result

        return loss

    def _computed(self, name: str, result: Tensor, reduction: str, inputs: Any) -> None:
        if result.is_meta:
            return
        frames = self._sites.user_frames(self._sites.loss_depth)
        spot = spot_of(frames[0]) if frames else None
        training = result.requires_grad and not self._models.eval_mode
        if training and len(frames) > 1:
            self._latest = self._sites.location_of(frames[0]), tuple(map(spot_of, frames[1:]))
        del frames
        if not result.requires_grad:
            self._modes.loss_without_graph()
        if isinstance(inputs, Tensor) and inputs.ndim:
            self._models.batch_size = inputs.size(0)
        phase = "train" if training else "valid"
        series = self._record.ledger.of((name, phase, spot), phase, reduction)
        if series is None:
            return
        if training:
            self._take_turn(series, self._record.num_backwards)
            self._epochs.begin_epoch_if_due(series)
        else:
            self._begin_validation_if_due(series)
        if not series.now.batches and isinstance(inputs, Tensor):
            series.per_row = _elements_per_row(name, inputs)
        series.append(self._value(result), self._models.batch_size)

    def _begin_validation_if_due(self, series: Series) -> None:
        """Begin a validation at the first loss after a backward call, and count the values of each batch."""
        if self._backwards_at_valid != self._record.num_backwards:
            self._backwards_at_valid = self._record.num_backwards
            for other in self._record.ledger.series.values():
                if other.phase == "valid":
                    other.begin_epoch()
        if self._epochs.num_delivered != self._delivered_at_backward:
            self._take_turn(series, self._epochs.num_delivered)

    @staticmethod
    def _take_turn(series: Series, turn: int) -> None:
        series.has_several = series.has_several or series.turn == turn
        series.turn = turn

    def _read_terms(self, node: Any) -> None:
        """Learn the weights of the terms of a loss, and whether the loss is a mean that the user wrote."""
        weights = self._record.ledger.weights
        if len(weights) < MAX_CONSTANTS:
            weights |= read_weights(node)
        mean = read_mean(node)
        if mean is not None and len(self._means) < MAX_MEANS:
            factor, shape = mean
            self._means[shape] = factor
            self._models.means.start(self._averaged)

    def _averaged(self, given: Tensor, result: Tensor) -> None:
        """Note a mean that the user took after a model was evaluated, if the training loss is such a mean too."""
        factor = self._means.get(tuple(given.shape[1:]))
        if factor is None or not given.ndim or not result.is_floating_point() or result.is_meta or wrapped(result):
            return
        frames = self._sites.user_frames(self._sites.loss_depth)
        spot = spot_of(frames[0]) if frames else None
        del frames
        series = self._record.ledger.of(("mean", "valid", spot), "valid", "mean")
        if series is None:
            return
        series.is_by_hand = True
        self._begin_validation_if_due(series)
        value = self._value(result)
        series.append(value * factor, given.size(0))

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


def _elements_per_row(name: str, inputs: Tensor) -> int:
    """Return over how many elements of one row a loss function takes its mean."""
    of_classes = name in ("cross_entropy", "nll_loss") and inputs.ndim > 1
    return math.prod(inputs.shape[2 if of_classes else 1 :])
