"""What happens inside the block: events and tensors, folded into a `Record` that does not grow with the run.

Nothing here judges. A learner's loop is watched from outside: PyTorch's global hooks for optimizers, wrappers around
a few functions, hooks on nodes of the autograd graph. All of them are taken away at the end.
"""

import functools
import inspect
import math
import sys
import threading
import weakref
from collections.abc import Callable
from importlib.util import find_spec
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import dataloader

from loop_doctor.call_sites import Frames, LoopVariables, spot_of
from loop_doctor.graph import address, is_number, leaves, read_factors, read_loss, tensors_in, wrapped
from loop_doctor.ledger import Series
from loop_doctor.record import (
    Call,
    Known,
    Marker,
    Micro,
    OptimizerRecord,
    Parameter,
    Place,
    Record,
    RootRecord,
    WriterRecord,
)

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
DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
CLIPS = ("clip_grad_norm_", "clip_grad_value_")
WRITES = ("add_scalar", "add_scalars", "add_image", "add_images", "add_histogram", "add_figure", "add_text")
# Reading a number from these devices makes the program wait until the device has finished.
DEVICES_THAT_WAIT = ("cuda",)
READS = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__")
SAMPLE, SAMPLED = 512, 4  # weights of one tensor whose movement is measured, and tensors
MEASURED = ("cpu", "cuda")  # where it is measured: in double precision, which MPS has not
_LAYERS = nn.modules.dropout.__file__
is_compiling, get_ident = torch.compiler.is_compiling, threading.get_ident  # asked at every layer


class Watch:
    """Watches the thread that began it, from `begin` to `end`, and fills in `record`."""

    def __init__(self) -> None:
        self.record = Record()
        self.on = False
        self._undo: list[Callable[[], None]] = []
        self._thread = 0
        self._parameters: dict[int, Parameter] = {}
        self._gone: list[Parameter] = []
        self._optimizers: Known[OptimizerRecord] = Known()
        self._roots: Known[RootRecord] = Known()
        self._without_weights: Known[bool] = Known()
        self._writers: Known[WriterRecord] = Known()
        self._root: nn.Module | None = None  # the model that is being called
        self._frames = Frames()
        self._graphs: dict[int, tuple[Call, Any]] = {}
        self._last_reached: dict[int, Call] = {}
        self._quiet = False
        self._batch = 0
        self._eval = False
        self._delivered: object = None
        self._epochs: dict[int, object] = {}
        self._backwards_at_valid = -1
        self._loop = LoopVariables()
        self._weights_before: Tensor | None = None
        self._scaled = self._in_backward = self._has_card = False
        self._closure: OptimizerRecord | None = None  # whose closure runs now
        self._last_place: Place | None = None
        self._num_reached_again = 0
        self._last_results: dict[int, int] = {}
        # Models whose forward calls dropout as a function, and the function's name where eval mode turned it off.
        self._functional: Known[str] = Known()
        self._lines: dict[int, tuple[int, str | None]] = {}
        self._last_loss: tuple[weakref.ref, float] | None = None

    # Beginning and ending.

    def begin(self) -> None:
        """Put all hooks and wrappers in place."""
        self._thread = get_ident()
        self.on = True
        self._undo += [
            register_optimizer_step_pre_hook(self._before_step).remove,
            register_optimizer_step_post_hook(self._after_step).remove,
        ]
        # A global forward hook would do, but it takes every layer off PyTorch's fast path; only whole models matter.
        self._wrap(nn.Module, "__call__", self._call)
        self._wrap(torch.autograd, "backward", self._backward)
        self._wrap(torch.autograd, "grad", self._count_gradients)
        for name in LOSSES:
            self._wrap(nn.functional, name, functools.partial(self._loss, name))
        for name in DROPOUTS:
            self._wrap(nn.functional, name, functools.partial(self._dropout, name))
        self._wrap(Optimizer, "__init__", self._make_optimizer)
        self._wrap(Optimizer, "zero_grad", self._zero_grad)
        self._wrap(torch.amp.GradScaler, "step", self._scaler_step)
        self._wrap(torch.amp.GradScaler, "unscale_", self._same_gradients)
        for name in CLIPS:
            for owner in (nn.utils, nn.utils.clip_grad):
                self._wrap(owner, name, self._same_gradients)
        self._wrap(schedulers.LRScheduler, "_initial_step", self._silently)
        for kind in _kinds(schedulers.LRScheduler):
            if "step" in vars(kind):
                self._wrap(kind, "step", self._scheduler_step)
        self._wrap(dataloader._BaseDataLoaderIter, "__next__", self._deliver)
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._wrap(SummaryWriter, "__init__", self._make_writer)
            self._wrap(SummaryWriter, "close", self._close_writer)
            for name in WRITES:
                self._wrap(SummaryWriter, name, functools.partial(self._write, name))
        self._has_card = torch.cuda.is_available()
        if "cpu" in DEVICES_THAT_WAIT or self._has_card:
            for name in READS:
                self._wrap(Tensor, name, self._read)
            self._wrap(Tensor, "to", self._move)

    def end(self, *, interrupted: bool) -> None:
        """Take everything away again and complete the record."""
        self.on = False
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()
        for key, (_, handle) in list(self._graphs.items()):
            handle.remove()  # takes the marker with it
            self._drop(key)
        record = self.record
        record.losses_kept.forget()
        record.outputs_kept.forget()
        record.interrupted = interrupted
        record.tensorboardx = "tensorboardX" in sys.modules
        record.ledger.fold()
        for root in record.roots:
            self._look_through(root)
        self._notice_old_gradients(self._last_place)  # what came after the last backward call
        for optimizer in record.optimizers:
            optimizer.fetch_moves()
            if {micro.way for micro in optimizer.pending} <= optimizer.ways:
                optimizer.left_over = len(optimizer.pending)
            optimizer.received = sum(p.received > 0 for p in optimizer.parameters)
        got = [p for p in (*self._gone, *self._parameters.values()) if p.received]
        record.num_parameters_reached = len(got)
        record.unchanged = [(p.name, p.received) for p in got if not p.changed]
        registered = {id(parameter) for root in record.roots for parameter in root.parameters.values()}
        record.strays = [
            parameter
            for parameter in got
            if parameter.is_weight
            and not parameter.changed
            and not parameter.optimizers
            and id(parameter) not in registered
        ]
        for parameter in self._parameters.values():
            parameter.lost.detach()  # the learner's weights live on
        self._parameters = {}
        self._loop = LoopVariables()
        self._weights_before = self._delivered = None
        self._last_reached.clear()

    def _wrap(self, owner: Any, name: str, make: Callable[[Callable], Callable]) -> None:
        own = vars(owner).get(name)
        original = getattr(owner, name)
        wrapper = functools.wraps(original)(make(original))
        setattr(owner, name, wrapper)

        def undo() -> None:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

        self._undo.append(undo)

    def _sees(self) -> bool:
        """Whether an event belongs to this watch: no compiler that only traces, no CUDA graph, and its own thread.

        The compiler reads this too. It takes the first answer as a constant and leaves the rest of a hook out.
        """
        return (
            not is_compiling()
            and self.on
            and not self._quiet
            and get_ident() == self._thread
            and not (self._has_card and _capturing())
        )

    # Models.

    def _call(self, original: Callable) -> Callable:
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or self._root is not None or not self._sees():
                return original(module, *args, **kwargs)
            self._root = module
            try:
                output = original(module, *args, **kwargs)
            finally:
                self._root = None
            if output is not None:
                self._called(module, args, output)
            return output

        return call

    def _called(self, module: nn.Module, args: tuple, output: Any) -> None:
        root = self._roots.get(module)
        if root is None:
            if self._without_weights.get(module):
                return  # a loss function
            if next(module.parameters(), None) is None:
                self._without_weights.put(module, True)
                return
            root = self._roots.put(module, RootRecord(type(module).__name__, weakref.ref(module)))
            self.record.roots.append(root)
        root.num_calls += 1
        if root.num_calls & (root.num_calls - 1) == 0:  # layers may be added later: look again at 1, 2, 4, 8 …
            self._look_through(root)
        tensor = args[0] if args and isinstance(args[0], Tensor) else next(tensors_in(args), None)
        self._batch = tensor.size(0) if tensor is not None and tensor.ndim else 0
        self._eval = not module.training
        dropped = self._functional.get(module)
        if dropped is not None:
            root.calls_dropout, root.dropped = True, dropped or root.dropped
        root.calls_in_eval += self._eval
        result = output
        if not isinstance(output, Tensor):
            result = next((t for t in tensors_in(output) if t.grad_fn is not None), None)
        node = None if result is None else result.grad_fn
        if node is None:
            if not self._eval:
                root.evaluated_in_train.note(self._frames.place())
            return
        kept = self.record.outputs_kept
        # To find the place costs as much as all the rest here, so it is found only where it may be told.
        place = self._frames.place() if self._eval or kept.piling() else None
        others = len(self._last_results) > (id(root) in self._last_results)
        from_model = others and self._comes_from_model(root, tensor)
        marker, call = Marker(), Call(root, self._eval, place, from_model)
        self._last_results[id(root)] = address(result)
        # The hook holds the marker, so the marker lives as long as the node that carries the hook.
        self._graphs[id(marker)] = call, node.register_prehook(functools.partial(self._reach, marker, call))
        kept.hang(marker, self._drop)
        kept.look(place)

    def _comes_from_model(self, root: RootRecord, tensor: Tensor | None) -> bool:
        """Whether a model's input is what another model gave last."""
        at = 0 if tensor is None else address(tensor)
        return at != 0 and any(at == other for key, other in self._last_results.items() if key != id(root))

    def _reach(self, marker: Marker, call: Call, gradients: Any) -> None:
        """A backward call has come to a model's output."""
        if self.on:
            self._num_reached_again += call.reached
            call.reached = True
            self._last_reached[id(call.root)] = call
            self.record.outputs_kept.release(id(marker))

    def _drop(self, key: int) -> None:
        """A model's output has gone, with its graph."""
        call, _ = self._graphs.pop(key, (None, None))
        if call is not None and call.eval_mode and not call.reached:
            call.root.calls_without_backward.note(call.place)

    def _look_through(self, root: RootRecord) -> None:
        """Learn a model's parameters by name, and its layers that behave otherwise in eval mode."""
        module = root.ref()
        if module is None:
            return
        for name, parameter in module.named_parameters():
            if not parameter.is_leaf or wrapped(parameter):
                continue  # put in the place of a weight for this one call, by torch.func
            known = self._know(parameter, name)
            if name.count(".") < known.name.count(".") or known.name.startswith("parameter "):
                known.name = name
            root.parameters[name] = known
        root.sensitive = [
            f"{name or type(layer).__name__} ({type(layer).__name__})"
            for name, layer in module.named_modules()
            if _differs_in_eval_mode(layer)
        ]

    def _know(self, parameter: Tensor, name: str = "") -> Parameter:
        known = self._parameters.get(id(parameter))
        if known is None or known.ref() is not parameter:
            shape = "×".join(map(str, parameter.shape)) or "one number"
            known = Parameter(parameter, name or f"parameter {len(self._parameters) + 1} ({shape})")
            key = id(parameter)
            self._parameters[key] = known
            known.lost = weakref.finalize(parameter, self._lose, key, known)
            known.lost.atexit = False
        return known

    def _lose(self, key: int, known: Parameter) -> None:
        """A weight has gone; what was seen of it is kept, for so many weights as a judge can name."""
        if self._parameters.get(key) is known:
            del self._parameters[key]
            if known.received and len(self._gone) < 1024:
                self._gone.append(known)

    def _dropout(self, name: str, original: Callable) -> Callable:
        """Dropout that a model's forward calls as a function is seen where it is called."""

        @functools.wraps(original)
        def dropout(*args: Any, **kwargs: Any) -> Any:
            # nn.Dropout calls the function too; as a layer it is known already.
            if self._sees() and self._root is not None and sys._getframe(1).f_code.co_filename != _LAYERS:
                share = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
                training = args[2] if len(args) > 2 else kwargs.get("training", True)
                if share > 0 and (not training or self._functional.get(self._root) is None):
                    self._functional.put(self._root, "" if training else f"F.{name}")
            return original(*args, **kwargs)

        return dropout

    # Losses.

    def _loss(self, name: str, original: Callable) -> Callable:
        @functools.wraps(original)
        def loss(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if self._sees() and isinstance(result, Tensor) and result.ndim == 0 and not wrapped(result):
                inputs = args[0] if args else kwargs.get("input")
                self._saw_loss(name, result, kwargs.get("reduction", "mean"), inputs)
            return result

        return loss

    def _saw_loss(self, name: str, result: Tensor, reduction: str, inputs: Any) -> None:
        if result.is_meta:
            return
        frames = self._frames.learner(1)
        spot = spot_of(frames[0]) if frames else None
        del frames
        training = result.requires_grad and not self._eval
        if isinstance(inputs, Tensor) and inputs.ndim:
            self._batch = inputs.size(0)
        phase = "train" if training else "valid"
        series = self.record.ledger.of((name, phase, spot), phase, reduction)
        if series is None:
            return
        if not training and self._backwards_at_valid != self.record.num_backwards:
            self._backwards_at_valid = self.record.num_backwards
            for other in self.record.ledger.series.values():
                if other.phase == "valid":
                    other.begin_epoch()
        if training:
            self._begin_epoch_where_due(series)
        series.append(self._value(result), self._batch)

    def _begin_epoch_where_due(self, series: Series) -> None:
        """Begin an epoch where a DataLoader began a new pass or, without one, where the loop's own counters say so."""
        source = self._delivered if self._delivered is not None else self._loop.epoch
        if self._epochs.setdefault(id(series), source) is not source:
            self._epochs[id(series)] = source
            series.begin_epoch()
        elif self._delivered is not None:
            series.knows_epochs = True

    def _value(self, loss: Tensor) -> Tensor | float:
        """A loss's value: fetched at once on the CPU, later in one go elsewhere, so that nothing waits for it here."""
        if not loss.is_cpu:
            return loss.detach().clone()
        if self._last_loss is not None and self._last_loss[0]() is loss:
            return self._last_loss[1]
        self._quiet = True
        try:
            value = loss.item()
        finally:
            self._quiet = False
        self._last_loss = (weakref.ref(loss), value)
        return value

    # Backward calls.

    def _backward(self, original: Callable) -> Callable:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            # A default device lets PyTorch call its own function once more from inside, and checkpointing goes back
            # through a part, on a GPU in a thread of PyTorch's: both belong to the call that runs.
            if self._in_backward:
                return original(tensors, *args, **kwargs)
            if not self._sees():
                if self.on and get_ident() != self._thread:
                    self.record.other_threads = True
                return original(tensors, *args, **kwargs)
            roots = [tensors] if isinstance(tensors, Tensor) else [t for t in tensors if isinstance(t, Tensor)]
            frames = self._frames.learner()
            line, place = self._frames.way(frames)
            weights = args[0] if args else kwargs.get("grad_tensors")
            self._before_backward(roots, weights, line, place, frames)
            del frames
            self._in_backward = True
            try:
                original(tensors, *args, **kwargs)
            finally:
                self._in_backward = False
            if self.on:
                self._after_backward(roots, line, place)
            return None

        return backward

    def _count_gradients(self, original: Callable) -> Callable:
        def grad(*args: Any, **kwargs: Any) -> Any:
            if self._sees():
                self.record.num_gradients += 1
            return original(*args, **kwargs)

        return grad

    def _before_backward(
        self, roots: list[Tensor], weights: Any, line: int, place: Place | None, frames: list[FrameType]
    ) -> None:
        record = self.record
        record.num_backwards += 1
        record.backward_place = record.backward_place or place
        self._last_place = place
        self._last_reached.clear()
        self._num_reached_again = 0
        if self._delivered is None or record.num_backwards <= 2:
            self._loop.look(frames)
            for optimizer in self._loop.optimizers(frames) if record.num_backwards <= 2 else ():
                self._know_optimizer(optimizer)
        self._scaled = False
        if len(roots) == 1 and roots[0].grad_fn is not None and not wrapped(roots[0]):
            self._look_at_loss(roots[0], line, place)
        gradient = weights[0] if isinstance(weights, list | tuple) and weights else weights
        if isinstance(gradient, Tensor) and gradient.numel() == 1 and not gradient.is_meta and not self._scaled:
            # To read it from an accelerator would wait: there it counts as what it is given for.
            self._scaled = not gradient.is_cpu or abs(float(gradient)) < 1
        if record.num_backwards & (record.num_backwards - 1) == 0 and roots[0].grad_fn is not None:
            for leaf in leaves(roots[0].grad_fn):
                self._know(leaf)
        self._notice_old_gradients(place)

    def _look_at_loss(self, loss: Tensor, line: int, place: Place | None) -> None:
        factors, below = read_factors(loss.grad_fn)
        looks, reduction = self._lines.get(line, (0, None))
        if looks < 8 or self.record.num_backwards % 16 == 0:
            reduction, softmax = read_loss(below)
            self._lines[line] = (looks + 1, reduction)
            self.record.num_graphs_read += 1
            if softmax:
                self.record.softmax.note(place)
        # Dividing or a factor below 1 scales a micro-batch; a GradScaler's factor is far above 1.
        self._scaled = reduction == "sum" or any(factor < 1 for factor in factors)
        if loss.numel() == 1 and not loss.is_meta:
            series = self._append(line, self._value(loss), reduction, factors)
            if series is not None:
                series.place = series.place or place
                self.record.losses[line] = series
            # What is logged may be the loss before it was scaled: undo one factor after the other.
            undone = 1.0
            for number, factor in enumerate(factors[:3], 1):
                undone *= factor
                if undone not in (0.0, math.inf):
                    self._append((line, number), self._value(loss) / undone, reduction, factors[number:], rounded=True)

    def _append(
        self, key: object, value: Tensor | float, reduction: str | None, factors: list[float], *, rounded: bool = False
    ) -> Series | None:
        # A sum that is divided by the size of its batch is a mean.
        if reduction == "sum" and any(abs(factor * self._batch - 1) < 1e-6 for factor in factors):
            reduction = "mean"
        series = self.record.ledger.of(key, "train", reduction, rounded=rounded)
        if series is not None:
            if factors:
                series.scale = min(series.scale, math.prod(factor for factor in factors if factor < 1))
            self._begin_epoch_where_due(series)
            series.append(value, self._batch)
        return series

    def _notice_old_gradients(self, place: Place | None) -> None:
        """Look which gradients still hold what a step has used already."""
        stale, updated, old = [], False, None
        for parameter in self._parameters.values():
            mark = parameter.before = parameter.mark()
            parameter.held = None
            tensor = parameter.ref()
            changed = tensor is not None and (
                (tensor._version != parameter.version or parameter.watched_at is not None)
                and self._notice_change(parameter, tensor)
            )
            if mark is None:
                parameter.stale = parameter.used = None
                continue
            if changed and not parameter.optimizers and parameter.received:
                updated = True
                if mark == parameter.after:  # the learner's own update has used this gradient
                    parameter.used, parameter.used_at = mark, self.record.num_manual_updates + 1
                    if parameter.stale is not None:
                        old = old or parameter
            elif changed and mark == parameter.after and self._closure in parameter.optimizers:
                # An optimizer that calls its closure several times has moved on with this gradient.
                parameter.used, parameter.used_at = mark, self._closure.num_steps + 1
            if parameter.used is not None and mark == parameter.used:
                stale.append(parameter)
            elif parameter.stale is not None and mark != parameter.after and parameter.empty():
                parameter.stale = None
        self.record.num_manual_updates += updated
        if old is not None:
            self.record.manual_stale.note(old.stale_at, name=old.name, step=old.stale)
        # `p.grad.data.zero_()` raises no version, so the numbers themselves decide; two tensors are enough.
        if stale and not all(parameter.empty() for parameter in stale[:2]):
            for parameter in stale:
                parameter.held = parameter.used_at
        for optimizer in self.record.optimizers:
            if optimizer.pending and self._all_cleared(optimizer):
                if {micro.way for micro in optimizer.pending} <= optimizer.ways:
                    optimizer.dropped.note(place, left=len(optimizer.pending))
                    if optimizer.pending_at == self.record.num_steps + self.record.num_manual_updates:
                        optimizer.lost.note(place)
                optimizer.pending.clear()

    def _all_cleared(self, optimizer: OptimizerRecord) -> bool:
        marked = [parameter for parameter in optimizer.parameters if parameter.after is not None]
        return bool(marked) and all(parameter.cleared() for parameter in marked)

    def _notice_change(self, parameter: Parameter, tensor: Tensor) -> bool:
        """Whether a weight has changed since the last look."""
        changed = tensor._version != parameter.version
        parameter.version = tensor._version
        if not changed and parameter.watched_at is not None and not parameter.optimizers:
            changed = float(tensor.detach().flatten()[parameter.watched_at]) != parameter.watched_value
        if changed and parameter.watched_at is not None:
            parameter.watched_value = float(tensor.detach().flatten()[parameter.watched_at])
        parameter.changed = parameter.changed or changed
        return changed

    def _after_backward(self, roots: list[Tensor], line: int, place: Place | None) -> None:
        reached, weights = {}, 0
        for key, parameter in self._parameters.items():
            mark = parameter.mark()
            if mark is not None and mark != parameter.before:
                parameter.received += 1
                weights ^= key
                parameter.stale = parameter.stale if parameter.held is None else parameter.held
                parameter.stale_at = place
                for optimizer in parameter.optimizers:
                    reached[id(optimizer)] = optimizer
                if parameter.received == 1 and not parameter.optimizers:
                    self._watch_one_number(parameter)
            parameter.after = mark
        # Micro-batches come by the same line, through the same models, from data alike, to the same weights.
        sources = tuple(sorted([(key, call.from_model) for key, call in self._last_reached.items()]))
        for optimizer in reached.values():
            optimizer.backward_place = optimizer.backward_place or place
            optimizer.pending_at = self.record.num_steps + self.record.num_manual_updates
            if len(optimizer.pending) < 1024:
                optimizer.pending.append(Micro((line, weights, sources), self._scaled, self._num_reached_again > 0))
        for loss in roots:
            if loss.grad_fn is not None and loss.numel() == 1 and not wrapped(loss):
                marker = Marker()
                loss.grad_fn.metadata["loop doctor"] = marker
                self.record.losses_kept.hang(marker)
        self.record.losses_kept.look(place)
        self.record.passed_again.count(self._num_reached_again, place)

    def _watch_one_number(self, parameter: Parameter) -> None:
        """Choose the weight with the largest gradient: `p.data -= …` changes it and raises no version."""
        tensor = parameter.ref()
        if tensor is not None and not tensor.is_meta and not tensor.grad.is_sparse:
            parameter.watched_at = int(tensor.grad.abs().argmax())
            parameter.watched_value = float(tensor.detach().flatten()[parameter.watched_at])

    # Optimizers.

    def _know_optimizer(self, optimizer: Optimizer, made_at: Place | None = None) -> OptimizerRecord:
        record = self._optimizers.get(optimizer)
        if record is None:
            record = OptimizerRecord(type(optimizer).__name__, made_at=made_at)
            self._optimizers.put(optimizer, record)
            self.record.optimizers.append(record)
        groups = optimizer.param_groups
        if sum([len(group["params"]) for group in groups]) != len(record.parameters):
            record.parameters = [self._know(parameter) for group in groups for parameter in group["params"]]
            for parameter in record.parameters:
                if record not in parameter.optimizers:
                    parameter.optimizers.append(record)
        return record

    def _make_optimizer(self, original: Callable) -> Callable:
        def init(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            if self._sees():
                self._know_optimizer(optimizer, self._frames.place())

        return init

    def _zero_grad(self, original: Callable) -> Callable:
        def zero_grad(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            if self._sees():
                record = self._know_optimizer(optimizer)
                record.num_zero_grads += 1
                if record.num_steps and not record.pending and record.stepped_first:
                    record.zeroed_after_step.note(self._frames.place())
            original(optimizer, *args, **kwargs)

        return zero_grad

    def _scaler_step(self, original: Callable) -> Callable:
        def step(scaler: Any, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
            if self._sees():
                self._know_optimizer(optimizer)
                self.record.num_scaler_steps += 1
            return original(scaler, optimizer, *args, **kwargs)

        return step

    def _same_gradients(self, original: Callable) -> Callable:
        """What clips gradients, or takes back a GradScaler's factor, leaves them the last backward call's."""

        @functools.wraps(original)
        def same(*args: Any, **kwargs: Any) -> Any:
            if not self._sees():
                return original(*args, **kwargs)
            as_left = [p for p in self._parameters.values() if p.after is not None and p.mark() == p.after]
            result = original(*args, **kwargs)
            for parameter in as_left:
                parameter.after = parameter.mark()
            return result

        return same

    def _before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if not self._sees():
            return
        record = self._know_optimizer(optimizer)
        record.place = record.place or self._frames.place()
        record.lr = float(optimizer.param_groups[0]["lr"])
        if (args[1] if len(args) > 1 else kwargs.get("closure")) is not None:
            record.num_closures += 1
            self._closure = record
            return  # the closure's own backward calls come now
        if not record.num_steps:
            record.stepped_first = not record.num_zero_grads
        if len(record.pending) == 1 and _as_left(record):
            (micro,) = record.pending
            if len(record.ways) < 64:
                record.ways.add(micro.way)
            record.groups[1] += not micro.again
        else:
            self._look_closely(record)
        # A frozen network through which the gradient only passes stays in eval mode for good reason.
        for key, call in list(self._last_reached.items()):
            if not _trains(record, call.root):
                continue
            if call.eval_mode and (call.root.sensitive or call.root.dropped):
                call.root.steps_in_eval.note(call.place)
            else:
                call.root.num_steps_in_train += 1
            del self._last_reached[key]
        if record.num_steps < 16 or record.num_steps % 16 == 0:
            self._weights_before = _sample(record)

    def _look_closely(self, record: OptimizerRecord) -> None:
        """Look what a step is about to use, where it is not plainly what one backward call left."""
        marks = [parameter.mark() for parameter in record.parameters]
        if record.pending and self._all_cleared(record):
            record.cleared.note(self._frames.place())
        elif record.pending:
            ways = {micro.way for micro in record.pending}
            record.ways |= ways if len(record.ways) < 64 else set()
            if len(ways) == 1 and not any(micro.again for micro in record.pending):
                record.groups[min(len(record.pending), 1024)] += 1
                whole = not any(micro.scaled for micro in record.pending)
                # A gradient that was changed after backward(), and not only clipped, may have been divided there.
                as_it_was = all(mark == p.after for mark, p in zip(marks, record.parameters, strict=True))
                record.num_rewritten += not as_it_was
                if len(record.pending) > 1 and whole and as_it_was:
                    record.unscaled.note(self._frames.place(), k=len(record.pending))
        elif not any(marks):
            record.empty.note(self._frames.place())
        elif (
            record.num_steps
            and self.record.num_backwards
            and record.num_closures == 0
            and all(mark == p.used for mark, p in zip(marks, record.parameters, strict=True))
        ):
            record.repeated.note(self._frames.place())
        self._notice_stale_step(record, marks)

    def _notice_stale_step(self, record: OptimizerRecord, marks: list[tuple[int, int] | None]) -> None:
        """Note it where a step uses a gradient to which a backward call added what a step had used before."""
        old = [
            p
            for p, mark in zip(record.parameters, marks, strict=True)
            if p.stale is not None and mark is not None and p.after is not None and mark[0] == p.after[0]
        ]
        if old and not old[0].empty():
            record.stale.note(old[0].stale_at, name=old[0].name, step=old[0].stale)

    def _after_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        record = self._optimizers.get(optimizer)
        if record is None or not self._sees():
            return
        if self._closure is record:
            self._closure = None
            marks = [parameter.mark() for parameter in record.parameters]
            self._notice_stale_step(record, marks)
            if not any(marks):
                record.empty.note(self._frames.place())
        record.num_steps += 1
        self.record.num_steps += 1
        record.pending.clear()
        for parameter in record.parameters:
            parameter.used, parameter.used_at, parameter.stale = parameter.mark(), record.num_steps, None
            tensor = parameter.ref()
            if tensor is not None and tensor._version != parameter.version:
                parameter.version, parameter.changed = tensor._version, True
        before, self._weights_before = self._weights_before, None
        if before is not None:
            record.note_move(torch.dist(_sample(record), before), before.norm())

    def _scheduler_step(self, original: Callable) -> Callable:
        silent = self._silently(original)

        def step(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            if self._sees():
                self.record.num_scheduler_steps += 1
                optimizer = scheduler.optimizer
                record = self._know_optimizer(optimizer)
                first = self.record.num_scheduler_steps == 1 and not self.record.num_scaler_steps
                if first and not record.num_steps and not getattr(optimizer, "_opt_called", False):
                    self.record.early_schedulers.note(self._frames.place(), name=type(scheduler).__name__)
            return silent(scheduler, *args, **kwargs)

        return step

    def _silently(self, original: Callable) -> Callable:
        """A scheduler's constructor calls step(), and one step() may call another: those are not the learner's."""

        def silent(*args: Any, **kwargs: Any) -> Any:
            if not self._sees():
                return original(*args, **kwargs)
            self._quiet = True
            try:
                return original(*args, **kwargs)
            finally:
                self._quiet = False

        return silent

    # Data, writers and reading.

    def _deliver(self, original: Callable) -> Callable:
        def deliver(iterator: Any) -> Any:
            batch = original(iterator)
            if self._sees():
                self._delivered = iterator
            return batch

        return deliver

    def _make_writer(self, original: Callable) -> Callable:
        signature = inspect.signature(original)

        def init(writer: Any, *args: Any, **kwargs: Any) -> None:
            original(writer, *args, **kwargs)
            if self._sees():
                given = signature.bind(writer, *args, **kwargs).arguments
                folder = str(given.get("log_dir") or getattr(writer, "log_dir", ""))
                self._know_writer(writer, WriterRecord(weakref.ref(writer), folder, True, self._frames.place()))

        return init

    def _know_writer(self, writer: Any, record: WriterRecord) -> WriterRecord:
        self._writers.put(writer, record)
        if len(self.record.writers) < 256:
            self.record.writers.append(record)
        return record

    def _writer(self, writer: Any) -> WriterRecord:
        known = self._writers.get(writer)
        if known is None:
            known = self._know_writer(writer, WriterRecord(weakref.ref(writer), str(writer.log_dir), False, None))
            known.closed_at = Place("", 0, "") if writer.all_writers is None else None
        return known

    def _write(self, name: str, original: Callable) -> Callable:
        signature = inspect.signature(original)

        def write(writer: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._sees():
                return original(writer, *args, **kwargs)
            record = self._writer(writer)
            given = signature.bind_partial(writer, *args, **kwargs).arguments
            if writer.all_writers is None:
                record.written_after_close.note(self._frames.place(), closed_at=record.closed_at)
            if name == "add_image" and is_number(given.get("img_tensor")):
                self.record.scalar_images.note(self._frames.place(), tag=given.get("tag"))
            self._quiet = True
            try:
                result = original(writer, *args, **kwargs)
            finally:
                self._quiet = False
            record.num_written += 1
            record.num_since_close += 1
            if name == "add_scalar":
                self._log(str(given.get("tag")), given.get("scalar_value"))
            elif name == "add_scalars":
                for tag, value in dict(given.get("tag_scalar_dict") or {}).items():
                    self._log(f"{given.get('main_tag')}/{tag}", value)
            return result

        return write

    def _log(self, tag: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.device.type in DEVICES_THAT_WAIT:
            self._wait()  # the writer reads it
        self._quiet = True
        try:
            number = float(value.detach() if isinstance(value, Tensor) else value)
        finally:
            self._quiet = False
        self.record.ledger.log(tag, number, self._frames.place())

    def _close_writer(self, original: Callable) -> Callable:
        def close(writer: Any) -> None:
            if self._sees():
                record = self._writer(writer)
                if writer.all_writers is None:
                    record.closed_again.note(self._frames.place())
                else:
                    record.num_closes += 1
                    record.closed_at, record.num_since_close = self._frames.place(), 0
            original(writer)

        return close

    def _wait(self) -> None:
        self.record.num_waits += 1
        self.record.waits[self._frames.place()] += 1

    def _read(self, original: Callable) -> Callable:
        def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if tensor.device.type in DEVICES_THAT_WAIT and self._sees() and self._frames.reads():
                self._wait()
            return original(tensor, *args, **kwargs)

        return read

    def _move(self, original: Callable) -> Callable:
        def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            moved = original(tensor, *args, **kwargs)
            if (
                moved.device.type == "cpu" != tensor.device.type
                and tensor.device.type in DEVICES_THAT_WAIT
                and not (kwargs.get("non_blocking") or any(each is True for each in args))
                and self._sees()
                and self._frames.reads()
            ):
                self._wait()
            return moved

        return to


def _kinds(kind: type) -> set[type]:
    """A class and all that were made from it."""
    return {kind}.union(*map(_kinds, kind.__subclasses__()))


def _differs_in_eval_mode(layer: nn.Module) -> bool:
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return layer.p > 0
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        return layer.track_running_stats
    if isinstance(layer, nn.RNNBase):
        return layer.dropout > 0 and layer.num_layers > 1
    return isinstance(layer, nn.MultiheadAttention) and layer.dropout > 0


def _as_left(record: OptimizerRecord) -> bool:
    """Whether no gradient of an optimizer is an old one, and the first is as the last backward call left it."""
    first = None
    for parameter in record.parameters:
        if parameter.stale is not None:
            return False
        first = parameter if first is None and parameter.after is not None else first
    return first is not None and first.mark() == first.after


def _trains(record: OptimizerRecord, root: RootRecord) -> bool:
    """Whether an optimizer holds one of a model's weights."""
    for parameter in root.parameters.values():  # noqa: SIM110 (at each step: a generator would cost as much again)
        if record in parameter.optimizers:
            return True
    return False


def _capturing() -> bool:
    """Whether what is done on the card now only goes into a CUDA graph: there are no numbers, and none may be read."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _sample(record: OptimizerRecord) -> Tensor | None:
    """The first weights of some of an optimizer's tensors as one vector; None where their movement is not measured."""
    every = max(1, -(-len(record.parameters) // SAMPLED))  # from the first layers to the last
    weights = [weight for parameter in record.parameters[::every] if (weight := parameter.ref()) is not None]
    if len({weight.device for weight in weights}) != 1 or weights[0].device.type not in MEASURED:
        return None
    return torch.cat([weight.detach().flatten()[:SAMPLE] for weight in weights]).double()
