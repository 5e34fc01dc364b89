"""Models: which are called, in which mode, and whether a backward call follows."""

import functools
import sys
import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from loop_doctor.call_sites import CallSites, Location
from loop_doctor.graph import address, tensors_in, wrapped
from loop_doctor.growth import GraphMarker
from loop_doctor.identity_map import IdentityMap
from loop_doctor.parameters import ParameterRegistry
from loop_doctor.records import ModelRecord, Record
from loop_doctor.watchers.means import MeanWatcher
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope, is_compiling

DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
_LAYERS = nn.modules.dropout.__file__


@dataclass(eq=False, slots=True)
class ModelCall:
    """One call of a model that built a graph, and whether a backward call ever reached it."""

    model: ModelRecord
    eval_mode: bool
    location: Location | None
    from_model: bool = False  # its input was another model's output
    reached: bool = False


class ModelWatcher:
    """Watches the calls of whole models, not of their layers.

    Attributes:
        batch_size: how many rows the last model or loss function was given, or 0.
        eval_mode: whether the last model that was called was in eval mode.
        reached: for each model, its last call that the current backward call has reached.
        num_reached_again: how many calls it has reached that an earlier backward call had reached.
        means: watches the means that are taken between calls without gradients.
    """

    def __init__(self, record: Record, scope: Scope, sites: CallSites, parameters: ParameterRegistry):
        self._record, self._scope, self._sites, self._parameters = record, scope, sites, parameters
        self.batch_size = 0
        self.eval_mode = False
        self.reached: dict[int, ModelCall] = {}
        self.num_reached_again = 0
        self.means = MeanWatcher(scope)
        self._models: IdentityMap[ModelRecord] = IdentityMap()
        self._without_weights: IdentityMap[bool] = IdentityMap()
        # Models whose forward calls dropout as a function, and the function's name if eval mode turned it off.
        self._functional: IdentityMap[str] = IdentityMap()
        self._running: nn.Module | None = None  # the model that is being called
        self._graphs: dict[int, tuple[ModelCall, Any]] = {}
        self._last_results: dict[int, int] = {}

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place."""
        # A global forward hook would do, but it takes every layer off PyTorch's fast path; only whole models matter.
        patches.wrap(nn.Module, "__call__", self._call)
        self.means.install(patches)
        for name in DROPOUTS:
            patches.wrap(nn.functional, name, functools.partial(self._dropout, name))

    def finish(self) -> None:
        """Release the graphs that are still alive, and look through all models a last time."""
        for key, (_, handle) in list(self._graphs.items()):
            handle.remove()  # and the marker with it
            self._drop(key)
        for model in self._record.models:
            self._look_through(model)
        self.reached.clear()

    def start_backward(self) -> None:
        """Forget what the last backward call reached."""
        self.reached.clear()
        self.num_reached_again = 0

    def _call(self, original: AnyFunction) -> AnyFunction:
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or self._running is not None or not self._scope.sees():
                return original(module, *args, **kwargs)
            self._running = module
            self.means.pause()
            try:
                output = original(module, *args, **kwargs)
            finally:
                self._running = None
            self.means.resume()
            if output is not None:
                self._called(module, args, output)
            return output

        return call

    def _known(self, module: nn.Module) -> ModelRecord | None:
        """Return the record of a model, or None for a module without weights, such as a loss function."""
        model = self._models.get(module)
        if model is None and not self._without_weights.get(module):
            if next(module.parameters(), None) is None:
                self._without_weights.put(module, True)
                return None
            model = self._models.put(module, ModelRecord(type(module).__name__, weakref.ref(module)))
            self._record.models.append(model)
        return model

    def _called(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        model = self._known(module)
        if model is None:
            return
        model.num_calls += 1
        if model.num_calls & (model.num_calls - 1) == 0:  # layers may be added later: look again at 1, 2, 4, 8 …
            self._look_through(model)
        tensor = args[0] if args and isinstance(args[0], Tensor) else next(tensors_in(args), None)
        self.batch_size = tensor.size(0) if tensor is not None and tensor.ndim else 0
        self.eval_mode = not module.training
        dropped = self._functional.get(module)
        if dropped is not None:
            model.calls_dropout, model.dropped = True, dropped or model.dropped
        model.calls_in_eval += self.eval_mode
        result = output
        if not isinstance(output, Tensor):
            result = next((t for t in tensors_in(output) if t.grad_fn is not None), None)
        node = None if result is None else result.grad_fn
        if node is None:
            if not self.eval_mode:
                model.evaluated_in_train.note(self._sites.current())
            return
        kept = self._record.outputs_kept
        # Finding the location costs as much as all the rest here, so it is found only if it may be reported.
        location = self._sites.current() if self.eval_mode or kept.piles_up() else None
        others = len(self._last_results) > (id(model) in self._last_results)
        from_model = others and self._comes_from_model(model, tensor)
        marker, call = GraphMarker(), ModelCall(model, self.eval_mode, location, from_model)
        self._last_results[id(model)] = address(result)
        # The hook holds the marker, so the marker lives as long as the node that carries the hook.
        self._graphs[id(marker)] = call, node.register_prehook(functools.partial(self._reach, marker, call))
        kept.follow(marker, self._drop)
        kept.look(location)

    def _comes_from_model(self, model: ModelRecord, tensor: Tensor | None) -> bool:
        """Return whether a model's input is the last output of another model."""
        at = 0 if tensor is None else address(tensor)
        return at != 0 and any(at == other for key, other in self._last_results.items() if key != id(model))

    def _reach(self, marker: GraphMarker, call: ModelCall, gradients: Any) -> None:
        """A backward call has reached a model's output."""
        if self._scope.active:
            self.num_reached_again += call.reached
            call.reached = True
            self.reached[id(call.model)] = call
            self._record.outputs_kept.release(id(marker))

    def _drop(self, key: int) -> None:
        """A model's output has been freed, with its graph."""
        call, _ = self._graphs.pop(key, (None, None))
        if call is not None and call.eval_mode and not call.reached:
            call.model.calls_without_backward.note(call.location)

    def _look_through(self, model: ModelRecord) -> None:
        """Learn a model's parameters by name, and its layers that behave differently in eval mode."""
        module = model.ref()
        if module is None:
            return
        for name, parameter in module.named_parameters():
            if not parameter.is_leaf or wrapped(parameter):
                continue  # torch.func put it in the place of a weight, for this one call
            known = self._parameters.know(parameter, name)
            if name.count(".") < known.name.count(".") or known.name.startswith("parameter "):
                known.name = name
            model.parameters[name] = known
        model.sensitive = [
            f"{name or type(layer).__name__} ({type(layer).__name__})"
            for name, layer in module.named_modules()
            if _differs_in_eval_mode(layer)
        ]

    def _dropout(self, name: str, original: AnyFunction) -> AnyFunction:
        """Notice dropout that a model's forward calls as a function."""

        @functools.wraps(original)
        def dropout(*args: Any, **kwargs: Any) -> Any:
            # nn.Dropout calls the function too; as a layer it is known already.
            running = self._running
            if self._scope.sees() and running is not None and sys._getframe(1).f_code.co_filename != _LAYERS:
                share = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
                training = args[2] if len(args) > 2 else kwargs.get("training", True)
                if share > 0 and (not training or self._functional.get(running) is None):
                    self._functional.put(running, "" if training else f"F.{name}")
            return original(*args, **kwargs)

        return dropout


def _differs_in_eval_mode(layer: nn.Module) -> bool:
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return layer.p > 0
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        return layer.track_running_stats
    if isinstance(layer, nn.RNNBase):
        return layer.dropout > 0 and layer.num_layers > 1
    return isinstance(layer, nn.MultiheadAttention) and layer.dropout > 0
