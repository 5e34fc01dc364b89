"""GradScalers: which gradients carry their factor, and in which order they are used."""

from typing import Any

import torch
from torch import Tensor

from loop_doctor.call_sites import CallSites, Location
from loop_doctor.graph import tensors_in
from loop_doctor.identity_map import IdentityMap
from loop_doctor.parameters import ParameterRegistry
from loop_doctor.records import Record
from loop_doctor.records.optimizers import OptimizerRecord
from loop_doctor.records.scalers import ScalerRecord
from loop_doctor.watchers.clipping import ClipWatcher
from loop_doctor.watchers.optimizers import OptimizerWatcher
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope

MARK = "loop doctor's scaler"
MAX_NODES = 16  # how far below a loss the factor is looked for: divided by k, or one of a few losses that are added


class ScalerWatcher:
    """Watches GradScalers. One that is not enabled does nothing, and nothing is seen of it."""

    def __init__(
        self,
        record: Record,
        scope: Scope,
        sites: CallSites,
        parameters: ParameterRegistry,
        optimizers: OptimizerWatcher,
        clips: ClipWatcher,
    ):
        self._record, self._scope, self._sites, self._parameters = record, scope, sites, parameters
        self._optimizers, self._clips = optimizers, clips
        self._scalers: IdentityMap[ScalerRecord] = IdentityMap()
        self._by_number: dict[int, ScalerRecord] = {}

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place."""
        scaler = torch.amp.GradScaler
        patches.wrap(scaler, "__init__", self._init)
        patches.wrap(scaler, "scale", self._scale)
        patches.wrap(scaler, "unscale_", self._unscale)
        patches.wrap(scaler, "step", self._step)
        patches.wrap(scaler, "update", self._update)
        patches.wrap(scaler, "get_scale", self._get_scale)
        patches.wrap(scaler, "load_state_dict", self._load)

    def note_backward(self, roots: list[Tensor], reached: list[OptimizerRecord]) -> None:
        """Note whose factor the gradients of a backward call carry."""
        self._record.scaling.factor_read = False
        scaler = self._scaler_of(roots) if self._by_number else None
        for optimizer in reached:
            optimizer.scaler = scaler
            optimizer.scaler_updates = 0 if scaler is None else scaler.num_updates

    def _scaler_of(self, roots: list[Tensor]) -> ScalerRecord | None:
        """Return the scaler that scaled the loss, or a part of it."""
        waiting: list[Any] = [root.grad_fn for root in roots if root.grad_fn is not None]
        for node in waiting:
            number = node.metadata.get(MARK)
            if number is not None:
                return self._by_number.get(number)
            if len(waiting) < MAX_NODES:
                waiting += [below for below, _ in node.next_functions if below is not None]
        return None

    def _know(self, scaler: Any) -> ScalerRecord | None:
        """Return the record of a scaler, or None if it is not enabled."""
        if not scaler.is_enabled():
            return None
        known = self._scalers.get(scaler)
        if known is None:
            known = self._scalers.put(scaler, ScalerRecord(len(self._by_number) + 1))
            if len(self._by_number) < 1024:
                self._by_number[known.number] = known
        return known

    def _init(self, original: AnyFunction) -> AnyFunction:
        def init(scaler: Any, *args: Any, **kwargs: Any) -> None:
            original(scaler, *args, **kwargs)
            if self._scope.sees() and (known := self._know(scaler)) is not None:
                known.made_at = self._sites.current()

        return init

    def _scale(self, original: AnyFunction) -> AnyFunction:
        def scale(scaler: Any, outputs: Any) -> Any:
            scaled = original(scaler, outputs)
            if self._scope.sees() and (known := self._know(scaler)) is not None:
                known.num_scales += 1
                for tensor in tensors_in(scaled):
                    if tensor.grad_fn is not None:
                        tensor.grad_fn.metadata[MARK] = known.number  # type: ignore[index]
            return scaled

        return scale

    def _unscale(self, original: AnyFunction) -> AnyFunction:
        def unscale(scaler: Any, optimizer: Any) -> None:
            known = self._know(scaler) if self._scope.sees() else None
            if known is None:
                original(scaler, optimizer)
                return
            record, scaling = self._optimizers.know(optimizer), self._record.scaling
            if id(record) in known.stepped:
                scaling.not_updated.note(known.stepped[id(record)])
            elif id(record) in known.unscaled:
                scaling.twice.note(self._sites.current())
            self._take_out(record, known)
            self._parameters.keep_marks(original, scaler, optimizer)

        return unscale

    def _take_out(self, record: OptimizerRecord, known: ScalerRecord) -> None:
        """Note what was done to gradients that carried the factor until now."""
        if record.scaler is known:
            self._clips.notice_scaled(record)
            if record.scaler_updates < known.num_updates:
                self._record.scaling.early.note(known.updated_at)
        record.scaler = None
        known.unscaled.add(id(record))

    def _step(self, original: AnyFunction) -> AnyFunction:
        def step(scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._scope.sees():
                return original(scaler, optimizer, *args, **kwargs)
            record, known = self._optimizers.know(optimizer), self._know(scaler)
            self._record.num_scaler_steps += 1
            location = self._sites.current()
            if known is not None:
                self._before_step(record, known, scaler, optimizer, location)
            self._optimizers.in_scaler = True
            try:
                result = original(scaler, optimizer, *args, **kwargs)
            finally:
                self._optimizers.in_scaler = False
            if known is not None:
                known.stepped[id(record)] = location
            return result

        return step

    def _before_step(
        self, record: OptimizerRecord, known: ScalerRecord, scaler: Any, optimizer: Any, location: Location | None
    ) -> None:
        scaling = self._record.scaling
        if id(record) in known.stepped:
            scaling.not_updated.note(location)
            return
        if id(record) not in known.unscaled:
            never = known.num_scales == 0 and scaler._scale is None
            if record.scaler is not None:
                if getattr(optimizer, "_step_supports_amp_scaling", False):  # it takes the factor out itself
                    self._take_out(record, known)
            elif record.pending and not scaling.factor_read and (known.num_scales or never):
                scaling.not_scaled.note(location, never=never)
        if record.last_scaler is not known:
            record.last_scaler = known
            if not known.loaded:
                record.num_scalers[known.made_at] += 1

    def _update(self, original: AnyFunction) -> AnyFunction:
        def update(scaler: Any, new_scale: Any = None) -> None:
            known = self._know(scaler) if self._scope.sees() else None
            if known is None:
                original(scaler, new_scale)
                return
            known.updated_at = self._sites.current()
            try:
                original(scaler, new_scale)
            except AssertionError:  # nothing was unscaled since the last update()
                self._record.scaling.alone.note(known.updated_at)
                raise
            known.num_updates += 1
            known.stepped.clear()
            known.unscaled.clear()

        return update

    def _get_scale(self, original: AnyFunction) -> AnyFunction:
        def get_scale(scaler: Any) -> float:
            if self._scope.sees():
                self._record.scaling.factor_read = True
            scale: float = original(scaler)
            return scale

        return get_scale

    def _load(self, original: AnyFunction) -> AnyFunction:
        def load(scaler: Any, state: Any) -> None:
            original(scaler, state)
            if self._scope.sees() and (known := self._know(scaler)) is not None:
                known.loaded = True

        return load
