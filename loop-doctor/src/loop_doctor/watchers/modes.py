"""Modes: frozen batch norm in train mode, and evaluations in train mode."""

import dis
import functools
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from loop_doctor.call_sites import CallSites, Location, Spot, spot_of
from loop_doctor.graph import address
from loop_doctor.identity_map import IdentityMap
from loop_doctor.layers import Sensitive, frozen_part, sensitive_layers
from loop_doctor.parameters import ParameterRegistry
from loop_doctor.records import ModelRecord, Record
from loop_doctor.records.modes import Evaluations
from loop_doctor.watchers.epochs import EpochWatcher
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope

MAX_CALLS = 16  # calls of train() that are remembered
MAX_NORMS = 8
SAMPLE = 64

_BatchNorm = nn.modules.batchnorm._BatchNorm


class _Input:
    """A batch that a model was given, to recognize it when it comes again, also in another shape."""

    __slots__ = ("_part", "_tensor")

    def __init__(self, tensor: Tensor):
        whole = tensor._base
        self._tensor = weakref.ref(tensor if whole is None else whole)
        self._part = None if whole is None else (address(tensor), tensor.numel())

    def same_as(self, tensor: Tensor) -> bool:
        """Return whether a tensor is this batch. An address alone would not do, because memory is used again."""
        whole = tensor if tensor._base is None else tensor._base
        if self._tensor() is not whole:
            return False
        return (self._part or (address(whole), whole.numel())) == (address(tensor), tensor.numel())


class ModeWatcher:
    """Watches in which mode the layers of models are."""

    def __init__(
        self, record: Record, scope: Scope, sites: CallSites, parameters: ParameterRegistry, epochs: EpochWatcher
    ):
        self._record, self._scope, self._sites, self._parameters = record, scope, sites, parameters
        self._epochs = epochs
        self._in_train = False
        self._calls: list[tuple[weakref.ref[nn.Module], Location | None]] = []
        self._samples: IdentityMap[list[Tensor]] = IdentityMap()
        self._versions: IdentityMap[int] = IdentityMap()
        self._outputs: dict[int, ModelRecord] = {}  # by address, the last output of each frozen model
        self._evaluated: ModelRecord | None = (
            None  # the model of the last call, if that was an evaluation in train mode
        )
        self._last_input: _Input | None = None
        self._last_delivered: tuple[int, int] = (0, 0)
        self._training: weakref.ref[Any] | None = None  # the iterator that delivered the last training batch
        self._discards: dict[Spot, bool] = {}

    def install(self, patches: Patches) -> None:
        """Put the wrapper in place."""
        patches.wrap(nn.Module, "train", self._train)

    def finish(self) -> None:
        """End the last evaluations, and release what belongs to the user."""
        for model in self._record.models:
            model.evaluations.close()
        self._calls.clear()
        self._outputs.clear()
        self._evaluated = self._last_input = self._training = None

    def _train(self, original: AnyFunction) -> AnyFunction:
        @functools.wraps(original)
        def train(module: nn.Module, mode: bool = True) -> Any:
            if self._in_train or not mode or not self._scope.sees():
                return original(module, mode)
            self._in_train = True
            try:
                result = original(module, mode)
            finally:
                self._in_train = False
            if len(self._calls) < MAX_CALLS and all(known() is not module for known, _ in self._calls):
                self._calls.append((weakref.ref(module), self._line_of_train()))
            return result

        return train

    def _line_of_train(self) -> Location | None:
        """Return the line that called train(), and not the one in a train() of the user's that calls the original."""
        frames = self._sites.user_frames()
        outer = [frame for frame in frames if frame.f_code.co_name != "train" or "mode" not in frame.f_code.co_varnames]
        return self._sites.location_of((outer or frames)[0]) if frames else None

    def trained(self, model: ModelRecord, module: nn.Module, tensor: Tensor | None) -> None:
        """Note a call that built a graph."""
        self._evaluated = None
        if model.sensitive or model.calls_dropout:
            self._last_input = None if tensor is None else _Input(tensor)
        iterator = self._epochs.iterator
        if iterator is not None and (self._training is None or self._training() is not iterator):
            self._training = weakref.ref(iterator)
        if self._outputs and tensor is not None and (source := self._outputs.get(address(tensor))) is not None:
            source.norms.num_fed += source is not model
            self._outputs.clear()
        model.num_graphs += 1
        if model.num_graphs & (model.num_graphs - 1) == 0 and module.training:
            self._look_at_norms(model, module)

    def without_graph(self, model: ModelRecord, module: nn.Module, tensor: Tensor | None, output: Any) -> None:
        """Note a call in train mode that built no graph."""
        if model.num_graphs == 0 and isinstance(output, Tensor):
            model.num_frozen_calls += 1
            if model.num_frozen_calls & (model.num_frozen_calls - 1) == 0:
                self._look_at_norms(model, module)
            if model.norms.names:
                self._outputs = {address(output): model}
        self._evaluated = None
        if self._record.num_backwards and not torch.is_grad_enabled() and (model.sensitive or model.calls_dropout):
            self._note_evaluation(model, module, tensor)

    # Frozen batch norm.

    def _look_at_norms(self, model: ModelRecord, module: nn.Module) -> None:
        """Look which frozen batch norm layers take in new batches."""
        found = [layer for layer in sensitive_layers(module) if layer.frozen and _takes_in(layer.layer)][:MAX_NORMS]
        norms = model.norms
        if not found:
            norms.names, norms.in_train = (), 0
            return
        moved = [self._has_moved(layer) for layer in found]
        if norms.names != tuple(layer.name for layer in found):
            norms.names, norms.in_train = tuple(layer.name for layer in found), 0
            norms.weights = [
                self._parameters.know(weight) for layer in found for weight in layer.layer.parameters(recurse=False)
            ]
            parts = {frozen_part(module, layer.name) for layer in found} if found[0].name else {""}
            norms.part = parts.pop() if len(parts) == 1 else ""
            norms.location = self._train_call(found[0].layer) or self._sites.current()
        elif all(moved):
            norms.in_train += 1
        if any(self._was_updated(layer) for layer in found):
            norms.names, norms.in_train = (), 0

    def _has_moved(self, layer: Sensitive) -> bool:
        """Return whether the running averages have changed since the last look."""
        # The running mean changes without raising its version; the counter next to it does raise its own.
        counter = layer.layer.num_batches_tracked
        before, now = self._versions.get(layer.layer), counter._version if isinstance(counter, Tensor) else 0
        self._versions.put(layer.layer, now)
        return before is not None and now > before

    def _was_updated(self, layer: Sensitive) -> bool:
        """Return whether the weights of a frozen layer change nevertheless, as in a moving average of a model."""
        weights = [
            weight for part in (layer.layer, layer.before) if part is not None for weight in part.parameters(False)
        ]
        now = [weight.detach().flatten()[:SAMPLE].clone() for weight in weights if not weight.is_meta]
        before = self._samples.get(layer.layer)
        if before is None:
            self._samples.put(layer.layer, now)
            return False
        return len(before) != len(now) or not all(map(torch.equal, before, now))

    def _train_call(self, layer: nn.Module) -> Location | None:
        """Return where train() was called on a model that holds this layer."""
        for reference, location in self._calls:
            module = reference()
            if module is not None and any(part is layer for part in module.modules()):
                return location
        return None

    # Evaluations in train mode.

    def _note_evaluation(self, model: ModelRecord, module: nn.Module, tensor: Tensor | None) -> None:
        """Note a call without gradients in train mode, of a model that behaves differently there."""
        run = model.evaluations
        if run.at != self._record.num_backwards:
            run.close()
            self._begin_run(model, module)
        run.num_calls += 1
        if tensor is None or (self._last_input is not None and self._last_input.same_as(tensor)):
            run.excluded = (
                True  # the same batch once more: several draws of dropout, or a look at the loss after a step
            )
        self._last_input = None if tensor is None else _Input(tensor)
        iterator = self._epochs.iterator
        delivered = id(iterator), getattr(iterator, "_num_yielded", 0)
        if iterator is not None and delivered != self._last_delivered:
            run.num_fresh += self._training is None or self._training() is not iterator
            if delivered[1] == 1:
                self._note_pass(run, module, id(iterator._dataset))
        self._last_delivered = delivered
        self._evaluated = model

    def _note_pass(self, run: Evaluations, module: nn.Module, dataset: int) -> None:
        """Note a pass over data: with the same weights, only dropout makes a second one over the same data differ."""
        norms = any(isinstance(layer.layer, _BatchNorm) for layer in sensitive_layers(module))
        run.excluded = run.excluded or (dataset in run.passes and not norms)
        run.passes.add(dataset)

    def _begin_run(self, model: ModelRecord, module: nn.Module) -> None:
        run = model.evaluations
        run.at = self._record.num_backwards
        names = [str(layer) for layer in sensitive_layers(module) if layer.layer.training]
        frames = self._sites.user_frames(1)
        run.excluded = not frames or not (names or model.calls_dropout) or self._is_discarded(frames[0])
        run.names = run.names or names
        run.began_at = self._sites.location_of(frames[0]) if frames else None

    def loss_without_graph(self) -> None:
        """Note that a loss was computed without gradients."""
        if self._evaluated is not None:
            self._evaluated.evaluations.num_losses += 1
            self._evaluated = None

    def _is_discarded(self, frame: Any) -> bool:
        """Return whether the user's line throws the output away: it is called only for the running averages."""
        spot = spot_of(frame)
        known = self._discards.get(spot)
        if known is None:
            known = self._discards[spot] = _discards(frame.f_code, frame.f_lasti)
        return known


def _discards(code: Any, at: int) -> bool:
    """Return whether the instruction after a call throws its result away."""
    following = (step for step in dis.get_instructions(code) if step.offset > at and step.opname != "CACHE")
    step = next(following, None)
    return step is not None and (step.opname == "POP_TOP" or (step.opname.startswith("STORE") and step.argval == "_"))


def _takes_in(layer: nn.Module) -> bool:
    """Return whether a layer is a batch norm that takes each batch into its running averages."""
    return (
        isinstance(layer, _BatchNorm)
        and layer.training
        and layer.affine
        and isinstance(layer.running_mean, Tensor)
        and layer.momentum != 0.0
    )
