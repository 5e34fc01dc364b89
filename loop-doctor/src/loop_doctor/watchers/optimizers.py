"""Optimizers: which weights they hold, what gradients a step uses, and how far it moves the weights."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from loop_doctor.call_sites import CallSites, Location
from loop_doctor.identity_map import IdentityMap
from loop_doctor.parameters import Mark, ParameterRegistry
from loop_doctor.records import ModelRecord, OptimizerRecord, Record
from loop_doctor.watchers.carried import CarriedWatcher
from loop_doctor.watchers.clipping import ClipWatcher
from loop_doctor.watchers.epochs import EpochWatcher
from loop_doctor.watchers.lineages import Lineages
from loop_doctor.watchers.models import ModelWatcher
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope

SAMPLE, SAMPLED = 512, 4  # weights of one tensor whose movement is measured, and tensors
MEASURED = ("cpu", "cuda")  # where it is measured: in double precision, which MPS does not have
MAX_PATHS = 64
MAX_PENDING = 1024


class OptimizerWatcher:
    """Watches optimizers from their construction to each step.

    Attributes:
        in_closure: the optimizer whose closure is running, or None.
        in_scaler: whether a GradScaler is stepping.
        carried: looks at the graphs of the closure's backward calls, and of all others.
    """

    def __init__(
        self,
        record: Record,
        scope: Scope,
        sites: CallSites,
        parameters: ParameterRegistry,
        models: ModelWatcher,
        clips: ClipWatcher,
        epochs: EpochWatcher,
    ):
        self._record, self._scope, self._sites = record, scope, sites
        self._parameters, self._models, self._clips = parameters, models, clips
        self._lineages = Lineages(record, epochs)
        self.in_scaler = False
        self.in_closure: OptimizerRecord | None = None
        self.carried = CarriedWatcher(record)
        self._optimizers: IdentityMap[OptimizerRecord] = IdentityMap()
        self._weights_before: Tensor | None = None

    def install(self, patches: Patches) -> None:
        """Put the hooks and wrappers in place."""
        patches.on_removal(register_optimizer_step_pre_hook(self._before_step).remove)
        patches.on_removal(register_optimizer_step_post_hook(self._after_step).remove)
        patches.wrap(Optimizer, "__init__", self._init)
        patches.wrap(Optimizer, "zero_grad", self._zero_grad)
        patches.wrap(Optimizer, "load_state_dict", self._load)

    def finish(self) -> None:
        """Complete the records of all optimizers."""
        for optimizer in self._record.optimizers:
            optimizer.fetch_moves()
            if optimizer.pending_paths_known():
                optimizer.left_over = len(optimizer.pending)
            optimizer.received = sum(parameter.received > 0 for parameter in optimizer.parameters)
        self._weights_before = None
        self._lineages.finish()

    def know(self, optimizer: Optimizer, made_at: Location | None = None) -> OptimizerRecord:
        """Return the record of an optimizer, with the weights that it holds now."""
        optimizer = _inside(optimizer)
        record = self._optimizers.get(optimizer)
        if record is None:
            record = OptimizerRecord(type(optimizer).__name__, made_at=made_at)
            self._optimizers.put(optimizer, record)
            self._record.optimizers.append(record)
        groups = optimizer.param_groups
        if sum([len(group["params"]) for group in groups]) != len(record.parameters):
            record.parameters = [self._parameters.know(parameter) for group in groups for parameter in group["params"]]
            for parameter in record.parameters:
                if record not in parameter.optimizers:
                    parameter.optimizers.append(record)
        return record

    def _init(self, original: AnyFunction) -> AnyFunction:
        def init(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            if self._scope.sees():
                self._lineages.made(self.know(optimizer, self._made_at(optimizer)), optimizer)

        return init

    def _made_at(self, optimizer: Optimizer) -> Location | None:
        """Return the line that makes an optimizer, not the one in a class of the user's own that calls this class."""
        frames = self._sites.user_frames(4)
        outside = [f for f in frames if f.f_code.co_name != "__init__" or f.f_locals.get("self") is not optimizer]
        return self._sites.location_of(outside[0]) if outside else None

    def _load(self, original: AnyFunction) -> AnyFunction:
        def load_state_dict(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            if self._scope.sees():
                self.know(optimizer).loaded = True

        return load_state_dict

    def _zero_grad(self, original: AnyFunction) -> AnyFunction:
        def zero_grad(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            if self._scope.sees():
                record = self.know(optimizer)
                record.num_zero_grads += 1
                if record.num_steps and not record.pending and record.stepped_first:
                    record.zeroed_after_step.note(self._sites.current())
            original(optimizer, *args, **kwargs)

        return zero_grad

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._scope.sees():
            return None
        record = self.know(optimizer)
        record.location = record.location or self._sites.current()
        record.lr = float(optimizer.param_groups[0]["lr"])
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is not None:
            record.num_closures += 1
            self.in_closure, record.backwards_before = record, self._record.num_backwards
            # The closure's own backward calls come now.
            if record.num_closures & (record.num_closures - 1) or not callable(closure):
                return None
            watched = self.carried.watched_closure(closure, record)
            return ((args[0], watched, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": watched})
        self._use(record)
        if record.num_steps < 16 or record.num_steps % 16 == 0:
            self._weights_before = _sample(record)
        return None

    def _use(self, record: OptimizerRecord) -> None:
        """Look at the gradients that a step uses."""
        self._clips.before_step(record)
        if record.scaler is not None and not self.in_scaler:
            self._notice_direct(record)
        if not record.num_steps:
            record.stepped_first = not record.num_zero_grads
        if len(record.pending) == 1 and record.as_left():
            (backward,) = record.pending
            if len(record.paths) < MAX_PATHS:
                record.paths.add(backward.path)
            record.groups[1] += not backward.again
            record.note_run(stale=False)
        else:
            record.note_run(stale=self._look_closely(record))
        if record.leak is not None:
            record.leaked.note(record.leak[0], name=record.leak[1])
            record.leak = None
        self._note_modes(record)

    def _notice_direct(self, record: OptimizerRecord) -> None:
        """Note a step with gradients that still carry a GradScaler's factor."""
        as_left = all(p.mark() == p.after for p in record.parameters if p.after is not None)
        if as_left and not self._record.scaling.factor_read:
            self._record.scaling.direct.note(self._sites.current())

    def _note_modes(self, record: OptimizerRecord) -> None:
        """Note in which mode the models were called whose outputs this step learns from."""
        # A frozen network that only passes the gradient on stays in eval mode for a good reason.
        for key, call in list(self._models.reached.items()):
            if not trains(record, call.model):
                continue
            if call.eval_mode and (call.model.off or call.model.dropped):
                call.model.steps_in_eval.note(call.location)
            else:
                call.model.num_steps_in_train += 1
            del self._models.reached[key]

    def _look_closely(self, record: OptimizerRecord) -> bool:
        """Look at what a step is about to use, when it is not simply what one backward call left.

        Returns:
            Whether it contains what an earlier step has used.
        """
        marks = [parameter.mark() for parameter in record.parameters]
        if record.pending and record.all_cleared():
            record.cleared.note(self._sites.current())
        elif record.pending:
            paths = {backward.path for backward in record.pending}
            record.paths |= paths if len(record.paths) < MAX_PATHS else set()
            # A gradient that was changed after backward(), and not only clipped, may have been divided there.
            as_it_was = all(mark == p.after for mark, p in zip(marks, record.parameters, strict=True))
            record.num_rewritten += not as_it_was
            if len(paths) == 1 and not any(backward.again for backward in record.pending):
                record.groups[min(len(record.pending), MAX_PENDING)] += 1
                whole = not any(backward.scaled for backward in record.pending)
                if len(record.pending) > 1 and whole and as_it_was:
                    record.unscaled.note(self._sites.current(), k=len(record.pending))
        elif not any(marks):
            record.empty.note(self._sites.current())
            record.num_frozen += all(parameter.frozen() for parameter in record.parameters)
        elif (
            record.num_steps
            and self._record.num_backwards
            and record.num_closures == 0
            and all(mark == p.used for mark, p in zip(marks, record.parameters, strict=True))
        ):
            record.repeated.note(self._sites.current())
        return _notice_stale_step(record, marks)

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        record = self._optimizers.get(optimizer)
        if record is None or not self._scope.sees():
            return
        if self.in_closure is record and record.backwards_before == self._record.num_backwards:
            # The closure computed nothing: a library passes one to every step.
            self.in_closure, record.num_closures = None, record.num_closures - 1
            self._use(record)
        elif self.in_closure is record:
            self.in_closure = None
            marks = [parameter.mark() for parameter in record.parameters]
            _notice_stale_step(record, marks)
            if not any(marks):
                record.empty.note(self._sites.current())
        record.num_steps += 1
        record.scaler = None
        self._lineages.stepped(record, optimizer)
        self._record.num_steps += 1
        record.pending.clear()
        for parameter in record.parameters:
            parameter.used, parameter.used_at, parameter.stale = parameter.mark(), record.num_steps, None
            tensor = parameter.ref()
            if tensor is not None and tensor._version != parameter.version:
                parameter.version = parameter.stepped_version = tensor._version
                parameter.changed = True
        before, self._weights_before = self._weights_before, None
        if before is not None and (now := _sample(record)) is not None:
            record.note_move(torch.dist(now, before), before.norm())


def _inside(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer itself if a library has wrapped it in an object that passes for it."""
    if "param_groups" in vars(optimizer):
        return optimizer
    inner = vars(optimizer).get("_optimizer", vars(optimizer).get("optimizer"))
    return inner if isinstance(inner, Optimizer) else optimizer


def _notice_stale_step(record: OptimizerRecord, marks: list[Mark | None]) -> bool:
    """Note a step that uses a gradient in which a backward call was added to one that a step had used before."""
    old = [
        p
        for p, mark in zip(record.parameters, marks, strict=True)
        if p.stale is not None and mark is not None and p.after is not None and mark[0] == p.after[0]
    ]
    if old and not old[0].empty():
        record.stale.note(old[0].stale_at, name=old[0].name, step=old[0].stale)
        return True
    return False


def trains(record: OptimizerRecord, model: ModelRecord) -> bool:
    """Return whether an optimizer holds one of a model's weights."""
    for parameter in model.parameters.values():  # noqa: SIM110 (at each step: a generator would double the cost)
        if record in parameter.optimizers:
            return True
    return False


def _sample(record: OptimizerRecord) -> Tensor | None:
    """Return the first weights of some of an optimizer's tensors as one vector, or None if they are not measured."""
    every = max(1, -(-len(record.parameters) // SAMPLED))  # from the first layers to the last
    weights = [weight for parameter in record.parameters[::every] if (weight := parameter.ref()) is not None]
    if len({weight.device for weight in weights}) != 1 or weights[0].device.type not in MEASURED:
        return None
    return torch.cat([weight.detach().flatten()[:SAMPLE] for weight in weights]).double()
