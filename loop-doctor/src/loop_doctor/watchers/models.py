"""Models: which are called, in which mode, and whether a backward call follows."""

import functools
import sys
import weakref
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn

from loop_doctor.call_sites import CallSites, Location
from loop_doctor.graph import address, tensors_in, wrapped
from loop_doctor.growth import GraphMarker
from loop_doctor.identity_map import IdentityMap
from loop_doctor.layers import sensitive_layers
from loop_doctor.parameters import ParameterRegistry
from loop_doctor.records import ModelRecord, Record
from loop_doctor.watchers.accuracies import AccuracyWatcher
from loop_doctor.watchers.means import MeanWatcher
from loop_doctor.watchers.modes import ModeWatcher
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope, is_compiling

DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
MAX_OUTPUTS = 4  # of one call, that are followed
MAX_ITEMS = 64  # of a list of a model's
NOT_THE_USERS = ("_modules", "_parameters", "_buffers")
_LAYERS = nn.modules.dropout.__file__
_Lazy = nn.parameter.UninitializedParameter


@dataclass(eq=False, slots=True)
class ModelCall:
    """One call of a model that built a graph, and whether a backward call ever reached it."""

    model: ModelRecord
    eval_mode: bool
    location: Location | None
    from_model: bool = False  # its input was another model's output
    reached: bool = False
    reached_inside: bool = False  # a gradient was taken during the call, or through another output
    num_alive: int = 1  # outputs that are followed
    gradients: int = 0  # how many gradients had been taken before the call ended


class ModelWatcher:
    """Watches the calls of whole models, not of their layers.

    Attributes:
        accuracies: counts right answers.
        batch_size: how many rows the last model or loss function was given, or 0.
        eval_mode: whether the last model that was called was in eval mode.
        reached: for each model, its last call that the current backward call has reached.
        num_reached_again: how many calls it has reached that an earlier backward call had reached.
        in_backward: whether a backward call is running now, and not only `autograd.grad`.
        means: watches the means that are taken between calls without gradients.
    """

    def __init__(
        self, record: Record, scope: Scope, sites: CallSites, parameters: ParameterRegistry, modes: ModeWatcher
    ):
        self._modes = modes
        self._record, self._scope, self._sites, self._parameters = record, scope, sites, parameters
        self.accuracies = AccuracyWatcher(scope, sites)
        self.batch_size = 0
        self.eval_mode = False
        self.reached: dict[int, ModelCall] = {}
        self.num_reached_again = 0
        self.in_backward = False
        self.means = MeanWatcher(scope)
        self._models: IdentityMap[ModelRecord] = IdentityMap()
        self._without_weights: IdentityMap[bool] = IdentityMap()
        # Models whose forward calls dropout as a function, and the function's name if eval mode turned it off.
        self._functional: IdentityMap[str] = IdentityMap()
        self._running: nn.Module | None = None  # the model that is being called
        self._graphs: dict[int, tuple[ModelCall, Any]] = {}
        self._others: dict[int, weakref.ref[GraphMarker]] = {}
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
        self._others.clear()
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
            self._running, before = module, self._num_gradients()
            self.means.pause()
            try:
                output = original(module, *args, **kwargs)
            finally:
                self._running = None
            self.means.resume()
            if output is not None:
                self._called(module, args, output, before)
            return output

        return call

    def _num_gradients(self) -> int:
        return self._record.num_gradients + self._record.num_backwards

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

    def _called(self, module: nn.Module, args: tuple[Any, ...], output: Any, gradients_before: int) -> None:
        model = self._known(module)
        if model is None:
            return
        model.num_calls += 1
        if model.num_calls == 1:
            model.fresh = _is_fresh(module)
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
        if node is None or self.eval_mode:
            model.rows_evaluated += self.batch_size
            if self.accuracies.wanted:
                self.accuracies.evaluated(id(model), output)
        else:
            model.rows_trained += self.batch_size
        if node is None:
            if not self.eval_mode:
                model.evaluated_in_train.note(self._sites.current())
                self._modes.without_graph(model, module, tensor, output)
            return
        self._modes.trained(model, module, tensor)
        if self.eval_mode and model.calls_in_eval & (model.calls_in_eval - 1) == 0:
            model.off = [
                str(layer) for layer in sensitive_layers(module) if not (layer.layer.training or layer.may_be_off())
            ]
        kept = self._record.outputs_kept
        # Finding the location costs as much as all the rest here, so it is found only if it may be reported.
        location = self._sites.current() if self.eval_mode or kept.piles_up() else None
        others = len(self._last_results) > (id(model) in self._last_results)
        from_model = others and self._comes_from_model(model, tensor)
        marker, call = GraphMarker(), ModelCall(model, self.eval_mode, location, from_model)
        # A model whose forward takes gradients, such as forces, needs its graph.
        call.reached_inside = self._num_gradients() != gradients_before
        call.gradients = self._record.num_gradients
        self._last_results[id(model)] = address(result)
        # The hook holds the marker, so the marker lives as long as the node that carries the hook.
        self._graphs[id(marker)] = call, node.register_prehook(functools.partial(self._reach, marker, call))
        kept.follow(marker, self._drop)
        kept.look(location, self._sites.user_frames)
        if self.eval_mode and not isinstance(output, Tensor):
            self._follow_others(output, node, call)

    def _follow_others(self, output: Any, node: Any, call: ModelCall) -> None:
        """Follow further outputs of an evaluation: a gradient through any of them needs the graph."""
        others = {
            other.grad_fn: other for other in islice(tensors_in(output), MAX_OUTPUTS) if other.grad_fn is not None
        }
        for other in others.keys() - {node}:
            marker = GraphMarker()
            key = id(marker)
            self._graphs[key] = call, other.register_prehook(functools.partial(_reach_other, marker, call))
            self._others[key] = weakref.ref(marker, functools.partial(self._drop_other, key))
            call.num_alive += 1

    def _drop_other(self, key: int, _: Any) -> None:
        self._others.pop(key, None)
        self._drop(key)

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
            self._record.outputs_kept.release(id(marker), used=self.in_backward)

    def _drop(self, key: int) -> None:
        """A model's output has been freed, with its graph."""
        call, _ = self._graphs.pop(key, (None, None))
        if call is None or not call.eval_mode:
            return
        call.num_alive -= 1
        if call.num_alive or call.reached or call.reached_inside:
            return
        if call.gradients == self._record.num_gradients:  # else the user may have taken gradients through a part of it
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
        for name, layer in module.named_modules():
            self._know_lists(name, layer)
        model.sensitive = [str(layer) for layer in sensitive_layers(module)]

    def _know_lists(self, name: str, layer: nn.Module) -> None:
        """Learn the weights that a layer keeps in lists and dictionaries, which PyTorch does not look into."""
        for attribute, value in vars(layer).items():
            if not isinstance(value, list | tuple | dict) or attribute in NOT_THE_USERS:
                continue
            items = list(value.items() if isinstance(value, dict) else enumerate(value))[:MAX_ITEMS]
            for key, item in items:
                weights = item.named_parameters() if isinstance(item, nn.Module) else [("", item)]
                for inside, weight in weights if isinstance(item, nn.Module | nn.Parameter) else ():
                    path = ".".join(filter(None, (name, attribute, str(key), inside)))
                    kind = "Module" if isinstance(item, nn.Module) else "Parameter"
                    known = self._parameters.know(weight, path)
                    known.kept_in = attribute, kind + ("Dict" if isinstance(value, dict) else "List")

    def _dropout(self, name: str, original: AnyFunction) -> AnyFunction:
        """Notice dropout that a model's forward calls as a function."""

        @functools.wraps(original)
        def dropout(*args: Any, **kwargs: Any) -> Any:
            if is_compiling():  # asked first: a compiler traces this, and may know nothing of this watcher
                return original(*args, **kwargs)
            # nn.Dropout calls the function too; as a layer it is known already.
            running = self._running
            if self._scope.sees() and running is not None and sys._getframe(1).f_code.co_filename != _LAYERS:
                share = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
                training = args[2] if len(args) > 2 else kwargs.get("training", True)
                if share > 0 and (not training or self._functional.get(running) is None):
                    self._functional.put(running, "" if training else f"F.{name}")
            return original(*args, **kwargs)

        return dropout


def _reach_other(marker: GraphMarker, call: ModelCall, gradients: Any) -> None:
    """A backward call has reached a further output of a model."""
    call.reached_inside = True


def _is_fresh(module: nn.Module) -> bool:
    """Return whether the first layers still have the weights that PyTorch gives a new layer: within ±1/√inputs."""
    kinds = nn.Linear, nn.modules.conv._ConvNd
    layers = [layer for layer in module.modules() if isinstance(layer, kinds) and not isinstance(layer.weight, _Lazy)]
    found = False
    for layer in layers[:3]:
        weight = layer.weight.detach()
        if weight.is_meta or weight.numel() == 0 or wrapped(weight) or not weight.is_floating_point():
            return False
        inputs = weight[0].numel()  # of a transposed convolution, the outputs: it is not fresh then
        if float(weight.abs().max()) > 1.001 / inputs**0.5:
            return False
        found = True
    return found
