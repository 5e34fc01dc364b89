"""Checkpoints: kept weights that follow the training, and resumed runs whose optimizer starts from nothing."""

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from loop_doctor.call_sites import CallSites, Location
from loop_doctor.identity_map import IdentityMap
from loop_doctor.records import Record
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope

ENDS = 4  # how many tensors of a state are followed, from its beginning and from its end
DEEP, WIDE = 3, 4096  # how much of a saved object is looked through
COUNTERS = ("epoch", "step", "iter")


@dataclass(eq=False, slots=True)
class Kept:
    """What state_dict() returned: a tensor that shares its memory, and its version, with a weight."""

    location: Location
    version: int
    num_steps: int


@dataclass(eq=False)
class LoadedFile:
    """A checkpoint that was read from a file, with the state of an optimizer in it."""

    groups: list[frozenset[str]]
    counters: dict[str, int]
    weights: list["weakref.ref[Tensor]"] = field(default_factory=list)  # of the model that took them
    location: Location | None = None


class CheckpointWatcher:
    """Watches state_dict(), load_state_dict(), torch.save() and torch.load()."""

    def __init__(self, record: Record, scope: Scope, sites: CallSites):
        self._record, self._scope, self._sites = record, scope, sites
        self._kept: IdentityMap[Kept] = IdentityMap()
        self._from_file: IdentityMap[LoadedFile] = IdentityMap()
        self._waiting: list[LoadedFile] = []  # whose weights were loaded, before the first step
        self._any_file = False
        self._inside = False
        self._patches: Patches | None = None

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place."""
        self._patches = patches
        patches.wrap(nn.Module, "state_dict", self._state_dict)
        patches.wrap(nn.Module, "load_state_dict", self._load_state_dict)
        patches.wrap(Optimizer, "load_state_dict", self._load_optimizer)
        patches.wrap(torch, "save", self._save)
        patches.wrap(torch, "load", self._load)
        patches.on_removal(self._forget)

    def _forget(self) -> None:
        self._kept, self._from_file = IdentityMap(), IdentityMap()
        self._waiting, self._patches = [], None

    def _state_dict(self, original: AnyFunction) -> AnyFunction:
        def state_dict(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._inside or not self._scope.sees():
                return original(module, *args, **kwargs)
            self._inside = True  # a module asks its children in the same way
            try:
                state = original(module, *args, **kwargs)
            finally:
                self._inside = False
            self._keep(state, self._sites.current())
            return state

        return state_dict

    def _keep(self, state: Any, location: Location | None) -> None:
        if location is None or not isinstance(state, Mapping):
            return
        values = [v for v in state.values() if isinstance(v, Tensor) and v.is_floating_point()]
        # Averages of weights ask for the state at each step: a few tensors from both ends are enough.
        for value in values if len(values) <= 2 * ENDS else values[:ENDS] + values[-ENDS:]:
            if not value.is_inference():
                self._kept.put(value, Kept(location, value._version, self._record.num_steps))

    def _followed(self, values: Iterator[Tensor]) -> tuple[Tensor, Kept] | None:
        """Return the first of the weights that were kept without a copy, and that steps have changed since."""
        for value in values:
            kept = self._kept.get(value)
            if kept is not None and kept.num_steps < self._record.num_steps and value._version != kept.version:
                return value, kept
        return None

    def _load_state_dict(self, original: AnyFunction) -> AnyFunction:
        def load_state_dict(module: nn.Module, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            if self._scope.sees() and isinstance(state_dict, Mapping):
                self._look_at_loading(module, state_dict)
            return original(module, state_dict, *args, **kwargs)

        return load_state_dict

    def _look_at_loading(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        followed = self._followed(value for value in state.values() if isinstance(value, Tensor))
        if followed is not None and _memory(followed[0]) in {_memory(weight) for weight in module.parameters()} - {
            None
        }:
            kept = followed[1]
            self._record.checkpoints.loaded_uncopied.note(kept.location, steps=self._record.num_steps - kept.num_steps)
        if not self._any_file:
            return
        tensors = [value for value in state.values() if isinstance(value, Tensor)]
        file = next((found for value in tensors if (found := self._from_file.get(value)) is not None), None)
        weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if file is not None and weights and all(name in state for name, _ in module.named_parameters()):
            file.weights, file.location = [weakref.ref(weight) for weight in weights], self._sites.current()
            self._wait_for_step(file)

    def _save(self, original: AnyFunction) -> AnyFunction:
        def save(obj: Any, *args: Any, **kwargs: Any) -> Any:
            if self._scope.sees() and isinstance(obj, Mapping | list | tuple):
                followed = self._followed(_tensors(obj))
                # What was taken before the first step may be meant to follow the training; this was taken in between.
                if followed is not None and followed[1].num_steps:
                    kept = followed[1]
                    steps = self._record.num_steps - kept.num_steps
                    self._record.checkpoints.saved_uncopied.note(kept.location, steps=steps)
            return original(obj, *args, **kwargs)

        return save

    def _load(self, original: AnyFunction) -> AnyFunction:
        def load(*args: Any, **kwargs: Any) -> Any:
            checkpoint = original(*args, **kwargs)
            if self._scope.sees() and isinstance(checkpoint, dict):
                groups, counters = _optimizer_groups(checkpoint), _counters(checkpoint)
                if groups and counters:
                    file, self._any_file = LoadedFile(groups, counters), True
                    for tensor in _tensors(checkpoint):
                        self._from_file.put(tensor, file)
            return checkpoint

        return load

    def _load_optimizer(self, original: AnyFunction) -> AnyFunction:
        def load_state_dict(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
            if self._scope.sees():
                self._waiting.clear()
            return original(optimizer, *args, **kwargs)

        return load_state_dict

    def _wait_for_step(self, file: LoadedFile) -> None:
        if not self._waiting and self._patches is not None:
            handle = register_optimizer_step_pre_hook(lambda *args: self._before_step(handle, args[0]))
            self._patches.on_removal(handle.remove)
        if file not in self._waiting:
            self._waiting.append(file)

    def _before_step(self, handle: Any, optimizer: Optimizer) -> None:
        """Look once, at the first step after the weights were loaded, whether the run goes on from where it was."""
        if not self._scope.sees():
            return
        handle.remove()
        files, self._waiting = self._waiting, []
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        groups = [frozenset(group) for group in optimizer.param_groups]
        for file in files:
            trains = any(id(weight) in held for ref in file.weights if (weight := ref()) is not None)
            # Keys differ between optimizers, and with them what a state means.
            if not trains or optimizer.state or {g - {"initial_lr"} for g in groups} != set(file.groups):
                continue
            frames = self._sites.user_frames()
            counter = _goes_on(frames, file.counters)
            del frames
            if counter is not None:
                facts = {"counter": counter, "value": file.counters[counter], "optimizer": type(optimizer).__name__}
                self._record.checkpoints.resumed.note(file.location, **facts)


def _memory(tensor: Tensor) -> int | None:
    """Return where a tensor's numbers are, or None if it has none."""
    if tensor.is_meta or tensor.layout is not torch.strided or not tensor.numel():
        return None
    return tensor.data_ptr()


def _tensors(value: Any, depth: int = DEEP) -> Iterator[Tensor]:
    """Yield the tensors in nested dictionaries and lists."""
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for number, inner in enumerate(values):
        if number == WIDE:
            return
        if isinstance(inner, Tensor):
            yield inner
        elif depth > 1:
            yield from _tensors(inner, depth - 1)


def _optimizer_groups(checkpoint: dict[Any, Any]) -> list[frozenset[str]]:
    """Return the keys of each parameter group in the only optimizer state of a checkpoint, if it is not empty."""
    values = [inner for value in checkpoint.values() for inner in (value if isinstance(value, list) else [value])]
    states = [v for v in values if isinstance(v, dict) and "param_groups" in v and v.get("state")]
    if len(states) != 1:
        return []
    return [frozenset(group) - {"initial_lr"} for group in states[0]["param_groups"]]


def _counters(checkpoint: dict[Any, Any]) -> dict[str, int]:
    """Return the counters in a checkpoint; one that is below two says little about where a run goes on."""
    return {
        key: value
        for key, value in checkpoint.items()
        if isinstance(key, str) and type(value) is int and value >= 2 and any(word in key.lower() for word in COUNTERS)
    }


def _goes_on(frames: list[FrameType], counters: dict[str, int]) -> str | None:
    """Return the counter that a loop goes on counting from, or None."""
    for key, value in counters.items():
        words = [word for word in COUNTERS if word in key.lower()]
        for frame in frames:
            for name, now in list(frame.f_locals.items()):
                if type(now) is int and now in (value, value + 1) and any(word in name.lower() for word in words):
                    return key
    return None
