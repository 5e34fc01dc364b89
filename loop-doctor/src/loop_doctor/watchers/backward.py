"""Backward calls: which gradients they fill, add to or find cleared, and which graphs they go through."""

from types import FrameType
from typing import Any

import torch
from torch import Tensor

from loop_doctor.call_sites import CallSites, Location
from loop_doctor.graph import leaves, wrapped
from loop_doctor.growth import GraphMarker
from loop_doctor.parameters import Mark, Parameter, ParameterRegistry
from loop_doctor.records import ModelRecord, OptimizerRecord, PendingBackward, Record
from loop_doctor.watchers.epochs import EpochWatcher
from loop_doctor.watchers.inputs import InputWatcher
from loop_doctor.watchers.losses import LossWatcher
from loop_doctor.watchers.models import ModelWatcher
from loop_doctor.watchers.optimizers import MAX_PENDING, OptimizerWatcher, trains
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scalers import ScalerWatcher
from loop_doctor.watchers.scope import Scope


class BackwardWatcher:
    """Watches every backward call, and the gradients before and after it."""

    def __init__(
        self,
        record: Record,
        scope: Scope,
        sites: CallSites,
        parameters: ParameterRegistry,
        models: ModelWatcher,
        epochs: EpochWatcher,
        losses: LossWatcher,
        optimizers: OptimizerWatcher,
        scalers: ScalerWatcher,
        inputs: InputWatcher,
    ):
        self._record, self._scope, self._sites, self._parameters = record, scope, sites, parameters
        self._models, self._epochs, self._losses, self._optimizers = models, epochs, losses, optimizers
        self._scalers, self._inputs = scalers, inputs
        self._running = False
        self._last_location: Location | None = None
        self._first_line: int | None = None

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place."""
        patches.wrap(torch.autograd, "backward", self._backward)
        patches.wrap(torch.autograd, "grad", self._grad)

    def finish(self) -> None:
        """Look at what happened after the last backward call, and sum up who received gradients."""
        self._notice_old_gradients(self._last_location)
        record = self._record
        # A prediction that is cut from its model and made a leaf again is another tensor at each step, and no weight.
        got = [each for each in self._parameters.with_gradients() if each.is_weight or each.received > 1]
        record.num_parameters_reached = len(got)
        record.unchanged = [(parameter.name, parameter.received) for parameter in got if not parameter.changed]
        registered = {id(parameter) for model in record.models for parameter in model.parameters.values()}
        record.strays = [
            parameter
            for parameter in got
            if parameter.is_weight
            and not parameter.changed
            and not parameter.optimizers
            and id(parameter) not in registered
        ]

    def _backward(self, original: AnyFunction) -> AnyFunction:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            # With a default device, PyTorch calls its own function once more from inside, and checkpointing goes back
            # through a part, on a GPU in one of PyTorch's threads: both belong to the call that is running.
            if self._running or not self._scope.sees():
                if not self._running and self._scope.in_other_thread():
                    self._record.other_threads = True
                original(tensors, *args, **kwargs)
                return
            roots = [tensors] if isinstance(tensors, Tensor) else [t for t in tensors if isinstance(t, Tensor)]
            frames = self._sites.user_frames()
            line, location = self._sites.call_path(frames)
            location = self._losses.place_inside(frames) or location
            weights = args[0] if args else kwargs.get("grad_tensors")
            scaled = self._before(roots, weights, line, location, frames)
            del frames
            self._running = self._models.in_backward = True
            try:
                original(tensors, *args, **kwargs)
            except RuntimeError as error:
                self._optimizers.carried.failed(str(error))
                raise
            finally:
                self._running = self._models.in_backward = False
            if self._scope.active:
                self._after(roots, line, location, scaled)

        return backward

    def _grad(self, original: AnyFunction) -> AnyFunction:
        def grad(*args: Any, **kwargs: Any) -> Any:
            if self._scope.sees():
                self._record.num_gradients += 1
            return original(*args, **kwargs)

        return grad

    def _before(
        self, roots: list[Tensor], weights: Any, line: int, location: Location | None, frames: list[FrameType]
    ) -> bool:
        """Look at the losses and gradients before a call, and return whether the loss is scaled."""
        record = self._record
        record.num_backwards += 1
        record.backward_location = record.backward_location or location
        self._last_location = location
        self._first_line = line if self._first_line is None else self._first_line
        self._models.start_backward()
        variables = self._epochs.variables
        if self._epochs.iterator is None or record.num_backwards <= 2:
            variables.look(frames)
            for optimizer in variables.optimizers(frames) if record.num_backwards <= 2 else ():
                self._optimizers.know(optimizer)
        scaled = False
        if len(roots) == 1 and roots[0].grad_fn is not None and not wrapped(roots[0]):
            scaled = self._losses.look_at(roots[0], line, location)
            self._inputs.look_at(roots[0], line, location, frames)
        gradient = weights[0] if isinstance(weights, list | tuple) and weights else weights
        if isinstance(gradient, Tensor) and gradient.numel() == 1 and not gradient.is_meta and not scaled:
            # Reading it from an accelerator would wait: there it is taken for a scale.
            scaled = not gradient.is_cpu or abs(float(gradient)) < 1
        if record.num_backwards & (record.num_backwards - 1) == 0 and roots[0].grad_fn is not None:
            for leaf in leaves(roots[0].grad_fn):
                self._parameters.know(leaf)
        self._notice_old_gradients(location)
        self._optimizers.carried.look(roots, line, location, self._optimizers.in_closure)
        return scaled

    def _after(self, roots: list[Tensor], line: int, location: Location | None, scaled: bool) -> None:
        """Note which weights a call gave gradients to, and follow the graphs of its losses."""
        record, reached, weights = self._record, {}, 0
        for key, parameter in self._parameters.alive.items():
            mark = parameter.mark()
            if mark is not None and mark != parameter.before:
                parameter.received += 1
                weights ^= key
                parameter.stale = parameter.stale if parameter.held is None else parameter.held
                parameter.stale_at = location
                for optimizer in parameter.optimizers:
                    reached[id(optimizer)] = optimizer
                if parameter.received == 1 and parameter.should_be_watched():
                    parameter.watch_one_number()
            parameter.after = mark
        # Micro-batches come by the same line, through the same models, from similar data, to the same weights.
        sources = tuple(sorted([(key, call.from_model) for key, call in self._models.reached.items()]))
        again = self._models.num_reached_again
        models, optimizers = tuple([call.model for call in self._models.reached.values()]), list(reached.values())
        self._scalers.note_backward(roots, optimizers)
        steps = tuple([(optimizer, optimizer.num_steps) for optimizer in optimizers])
        for optimizer in optimizers:
            if optimizer.backward_location is None or (len(optimizers) == 1 and not optimizer.own_backward):
                # The loss that gives gradients to no other optimizer's weights is this one's.
                optimizer.backward_location, optimizer.own_backward = location, len(optimizers) == 1
            optimizer.pending_at = record.num_steps + record.num_manual_updates
            if optimizer.pending and optimizer.leak is None:
                optimizer.leak = _leak(optimizer, reached, location)
            if len(optimizer.pending) < MAX_PENDING:
                path = line, weights, sources
                optimizer.pending.append(PendingBackward(path, scaled, again > 0, models, steps))
        if record.num_backwards & (record.num_backwards - 1) == 0:
            _note_parts_left_out(models, optimizers)
        for loss in roots:
            node: Any = loss.grad_fn
            if node is not None and loss.numel() == 1 and not wrapped(loss):
                node.metadata["loop doctor"] = marker = GraphMarker()
                record.losses_kept.follow(marker)
        record.losses_kept.look(location, self._sites.user_frames)
        if line == self._first_line:
            record.outputs_kept.look_at_used(location, self._sites.user_frames)
        record.passed_again.count(again, location)
        self._inputs.after_backward()

    def _notice_old_gradients(self, location: Location | None) -> None:
        """Look which gradients still hold what a step has used already, and which were cleared without a step."""
        stale, updated, old = [], False, None
        for parameter in self._parameters.alive.values():
            mark = parameter.before = parameter.mark()
            parameter.held = None
            tensor = parameter.ref()
            changed = tensor is not None and (
                (tensor._version != parameter.version or parameter.watched_at is not None)
                and parameter.notice_change(tensor)
            )
            if mark is None:
                parameter.stale = parameter.used = None
                continue
            if changed:
                by_hand = self._note_update(parameter, mark)
                updated = updated or by_hand
                if by_hand and mark == parameter.after and parameter.stale is not None:
                    old = old or parameter
            if parameter.used is not None and mark == parameter.used:
                stale.append(parameter)
            elif parameter.stale is not None and mark != parameter.after and parameter.empty():
                parameter.stale = None
        self._record.num_manual_updates += updated
        if old is not None:
            self._record.manual_stale.note(old.stale_at, name=old.name, step=old.stale)
        # `p.grad.data.zero_()` does not raise the version, so the numbers themselves decide; two tensors are enough.
        if stale and not all(parameter.empty() for parameter in stale[:2]):
            for parameter in stale:
                parameter.held = parameter.used_at
        for optimizer in self._record.optimizers:
            if optimizer.pending and optimizer.all_cleared():
                self._note_dropped(optimizer, location)

    def _note_update(self, parameter: Parameter, mark: Mark) -> bool:
        """Note which gradient changed a weight, and return whether the user's own lines made the change."""
        closure = self._optimizers.in_closure
        if not parameter.optimizers and parameter.received:
            if mark == parameter.after:
                parameter.used, parameter.used_at = mark, self._record.num_manual_updates + 1
            return True
        if closure is not None and mark == parameter.after and closure in parameter.optimizers:
            # An optimizer that calls its closure several times has moved on with this gradient.
            parameter.used, parameter.used_at = mark, closure.num_steps + 1
        return False

    def _note_dropped(self, optimizer: OptimizerRecord, location: Location | None) -> None:
        """Note backward calls whose gradients were cleared before their optimizer stepped."""
        if optimizer.pending_paths_known():
            optimizer.dropped.note(location, left=len(optimizer.pending))
            if optimizer.pending_at == self._record.num_steps + self._record.num_manual_updates:
                optimizer.lost.note(location)
        optimizer.pending.clear()


def _leak(
    optimizer: OptimizerRecord, reached: dict[int, OptimizerRecord], location: Location | None
) -> tuple[Location | None, str] | None:
    """Return where, and through which model, another optimizer's loss left gradients that are added to now.

    That loss came to the other optimizer's weights through this one's, as a generator's loss comes through the
    discriminator; the other optimizer has stepped, and the loss of this call is not its own.
    """
    left = optimizer.pending[-1]
    for other, num_steps in left.steps:
        if other is optimizer or id(other) in reached or other.num_steps == num_steps:
            continue
        through = next((model for model in left.models if trains(optimizer, model) or trains(other, model)), None)
        if through is not None and not trains(other, through) and any(trains(other, m) for m in left.models):
            return location, through.name
    return None


def _note_parts_left_out(models: tuple[ModelRecord, ...], optimizers: list[OptimizerRecord]) -> None:
    """Note the models that no optimizer holds, next to the optimizer that the same backward call gives gradients to."""
    for model in models:
        if optimizers and not any(parameter.optimizers for parameter in model.parameters.values()):
            model.left_out.note(None, optimizer=optimizers[0])
