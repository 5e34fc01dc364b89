"""Clipping: which gradients are clipped, and whether that is before backward(), in time for the step, or after it."""

import functools
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import clip_grad

from loop_doctor.call_sites import CallSites, Location
from loop_doctor.parameters import Parameter, ParameterRegistry
from loop_doctor.records import Record
from loop_doctor.records.optimizers import OptimizerRecord
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope

CLIPS = {"clip_grad_norm_": "max_norm", "clip_grad_value_": "clip_value"}
MEASURES = 1e4  # a limit as high as this one only measures the norm
MANY = 1024


@dataclass
class _Waiting:
    """What was clipped since an optimizer's last step, and is judged at its next one."""

    late: Location | None = None
    early: Location | None = None
    late_by: Parameter | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    wrong_facts: dict[str, Any] = field(default_factory=dict)
    in_place: Location | None = None
    sizes: list[int] = field(default_factory=list)  # how many backward calls were pending at each time


class ClipWatcher:
    """Watches PyTorch's two functions that clip gradients, by whatever name a program calls them."""

    def __init__(self, record: Record, scope: Scope, sites: CallSites, parameters: ParameterRegistry):
        self._record, self._scope, self._sites, self._parameters = record, scope, sites, parameters
        self._waiting: dict[int, _Waiting] = {}
        self._looks = 0

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place, inside the functions: a program may have imported them before."""
        for name in CLIPS:
            make = functools.partial(self._clip, name)
            if not patches.wrap_inside(getattr(clip_grad, name), make):
                for owner in (nn.utils, clip_grad):
                    patches.wrap(owner, name, make)

    def _clip(self, name: str, original: AnyFunction) -> AnyFunction:
        def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._scope.sees():
                return original(parameters, *args, **kwargs)
            tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
            limit = args[0] if args else kwargs.get(CLIPS[name])
            if tensors and isinstance(limit, int | float) and 0 < limit < MEASURES:
                self._look(name, float(limit), tensors)
            return self._parameters.keep_marks(original, tensors if tensors else iter(()), *args, **kwargs)

        return clip

    def _look(self, name: str, limit: float, tensors: list[Tensor]) -> None:
        """Look at what has become of the gradients so far."""
        known = [p for tensor in tensors if (p := self._parameters.alive.get(id(tensor))) is not None]
        marks = [(p, mark) for p in known if (mark := p.mark()) is not None]
        optimizers = {id(o): o for p in ([p for p, _ in marks] or known) for o in p.optimizers}
        if not optimizers:
            return
        facts = {"call": name, "limit": f"{CLIPS[name]}={limit:g}"}
        location = self._sites.current()
        late = bool(marks) and all(mark == p.used for p, mark in marks)
        early = False if late else self._without_gradients(marks)
        if early is None:
            return
        for optimizer in optimizers.values():
            waiting = self._waiting.setdefault(id(optimizer), _Waiting())
            if late and optimizer.num_steps:
                waiting.late, waiting.late_by, waiting.wrong_facts = location, marks[0][0], facts
            elif early:
                waiting.early, waiting.wrong_facts = location, facts
            elif not late:
                waiting.in_place, waiting.facts = location, facts
                if len(waiting.sizes) < MANY:
                    waiting.sizes.append(len(optimizer.pending))

    def _without_gradients(self, marks: list[tuple[Parameter, Any]]) -> bool | None:
        """Return whether there is nothing to clip yet, or None if that was not looked at."""
        if not marks:
            return True
        if any(mark == p.after for p, mark in marks):
            return False
        self._looks += 1
        tensor = marks[0][0].ref()
        if self._looks & (self._looks - 1) and tensor is not None and not tensor.is_cpu:
            return None  # reading from an accelerator waits
        return all(p.empty() for p, _ in marks[:2])

    def notice_scaled(self, optimizer: OptimizerRecord) -> None:
        """Notice gradients that were clipped while they carried the factor of a GradScaler."""
        waiting = self._waiting.get(id(optimizer))
        if waiting is not None and waiting.in_place is not None and not self._record.scaling.factor_read:
            optimizer.clips.scaled.note(waiting.in_place, **waiting.facts)

    def before_step(self, optimizer: OptimizerRecord) -> None:
        """Judge what was clipped since the last step."""
        waiting = self._waiting.pop(id(optimizer), None) if self._waiting else None
        if waiting is None:
            return
        clips, pending = optimizer.clips, optimizer.pending
        by = waiting.late_by
        if waiting.in_place is not None:
            clips.num_in_place += 1
            sizes = list(range(1, len(pending) + 1))
            if len(sizes) > 1 and waiting.sizes == sizes and len({backward.path for backward in pending}) == 1:
                clips.micro.note(waiting.in_place, k=len(sizes), **waiting.facts)
        elif waiting.late is not None and by is not None and pending and by.stale is None and by.mark() != by.used:
            clips.late.note(waiting.late, **waiting.wrong_facts)
        elif waiting.early is not None and pending:
            clips.early.note(waiting.early, **waiting.wrong_facts)

    def finish(self) -> None:
        """Forget what no step judges any more."""
        self._waiting.clear()
