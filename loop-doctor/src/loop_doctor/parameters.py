"""Follow each weight tensor: which backward call filled its gradient, and which step used it."""

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from loop_doctor.call_sites import Location

if TYPE_CHECKING:
    from loop_doctor.records import OptimizerRecord

MAX_GONE = 1024  # weights that are remembered after they have been freed: more than a rule can name

Mark = tuple[int, int]
Result = TypeVar("Result")


class Parameter:
    """One weight tensor, and what its gradient looked like when it was last seen.

    A gradient is recognized by its mark: a number for the tensor object, and its version, which every change in place
    raises.
    """

    __slots__ = (
        "after",
        "before",
        "changed",
        "finalizer",
        "gradient",
        "held",
        "is_weight",
        "kept_in",
        "name",
        "number",
        "optimizers",
        "received",
        "ref",
        "shape",
        "stale",
        "stale_at",
        "stepped_version",
        "used",
        "used_at",
        "version",
        "watched_at",
        "watched_value",
    )

    finalizer: "weakref.finalize[Any, Any]"

    def __init__(self, parameter: Tensor, name: str):
        self.ref = weakref.ref(parameter)
        self.name, self.shape = name, tuple(parameter.shape)
        self.is_weight = isinstance(parameter, nn.Parameter)
        self.version = parameter._version
        self.kept_in: tuple[str, str] | tuple[()] = ()  # a list of a model's: its name, and what it should be
        self.stepped_version = -1  # the version that the last step of an optimizer left
        self.before: Mark | None = None  # the mark as a backward call found it
        self.after: Mark | None = None  # and as it left it
        self.used: Mark | None = None  # the mark as the last step left it
        self.used_at = 0
        self.held: int | None = None  # the step whose gradient a backward call found here
        self.stale: int | None = None  # the step whose gradient is still part of this one
        self.stale_at: Location | None = None  # the backward call that added to it
        self.gradient: weakref.ref[Tensor] | None = None
        self.number = 0
        self.received = 0
        self.changed = False
        self.optimizers: list[OptimizerRecord] = []
        self.watched_at: int | None = None  # one of the weights, for changes that do not raise the version
        self.watched_value = 0.0

    def mark(self) -> Mark | None:
        """Return the mark of the gradient as it is now, or None if there is none."""
        parameter = self.ref()
        if parameter is None or (gradient := parameter.grad) is None:
            return None
        # An address would not do: a new tensor often takes the memory of the last one.
        if self.gradient is None or self.gradient() is not gradient:
            self.gradient = weakref.ref(gradient)
            self.number += 1
        return self.number, gradient._version

    def frozen(self) -> bool:
        """Return whether no gradient is computed for it."""
        parameter = self.ref()
        return parameter is not None and not parameter.requires_grad

    def empty(self) -> bool:
        """Return whether the gradient is None or all zeros."""
        parameter = self.ref()
        if parameter is None or parameter.grad is None:
            return True
        gradient = parameter.grad
        if gradient.is_meta:
            return False
        with torch.no_grad():
            return not bool((gradient._values() if gradient.is_sparse else gradient).any())

    def cleared(self) -> bool:
        """Return whether the gradient that the last backward call left is gone."""
        mark = self.mark()
        return mark is None or (mark != self.after and self.empty())

    def notice_change(self, tensor: Tensor) -> bool:
        """Return whether the weights have changed since the last look."""
        changed = tensor._version != self.version
        self.version = tensor._version
        if not changed and self.watched_at is not None and not any(o.num_steps for o in self.optimizers):
            changed = float(tensor.detach().flatten()[self.watched_at]) != self.watched_value
        if changed and self.watched_at is not None:
            self.watched_value = float(tensor.detach().flatten()[self.watched_at])
        self.changed = self.changed or changed
        return changed

    def should_be_watched(self) -> bool:
        """Return whether one of its numbers shows something: of an optimizer's weights, one tensor is enough."""
        return all(not o.num_steps and all(p.watched_at is None for p in o.parameters) for o in self.optimizers)

    def watch_one_number(self) -> None:
        """Choose the weight with the largest gradient: `p.data -= …` changes it without raising the version."""
        tensor = self.ref()
        gradient = None if tensor is None else tensor.grad
        if tensor is not None and gradient is not None and not tensor.is_meta and not gradient.is_sparse:
            self.watched_at = int(gradient.abs().argmax())
            self.watched_value = float(tensor.detach().flatten()[self.watched_at])


class ParameterRegistry:
    """All weight tensors that have been seen, each for as long as it lives."""

    def __init__(self) -> None:
        self.alive: dict[int, Parameter] = {}
        self._gone: list[Parameter] = []

    def know(self, tensor: Tensor, name: str = "") -> Parameter:
        """Return what is known of a weight tensor, and follow it from now on."""
        known = self.alive.get(id(tensor))
        if known is None or known.ref() is not tensor:
            shape = "×".join(map(str, tensor.shape)) or "one number"
            known = Parameter(tensor, name or f"parameter {len(self.alive) + 1} ({shape})")
            key = id(tensor)
            self.alive[key] = known
            known.finalizer = weakref.finalize(tensor, self._lose, key, known)
            known.finalizer.atexit = False
        return known

    def _lose(self, key: int, known: Parameter) -> None:
        if self.alive.get(key) is known:
            del self.alive[key]
            if known.received and len(self._gone) < MAX_GONE:
                self._gone.append(known)

    def keep_marks(self, change: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Call a function that only scales gradients: they are still the same ones afterwards."""
        marks = [(p, p.mark()) for p in self.alive.values() if p.after is not None or p.used is not None]
        same = [(p, mark == p.after, mark == p.used) for p, mark in marks if mark is not None]
        result = change(*args, **kwargs)
        for parameter, as_left, used in same:
            if as_left or used:
                mark = parameter.mark()
                parameter.after = mark if as_left else parameter.after
                parameter.used = mark if used else parameter.used
        return result

    def with_gradients(self) -> list[Parameter]:
        """Return all parameters that ever received a gradient, also those that have been freed."""
        return [parameter for parameter in (*self._gone, *self.alive.values()) if parameter.received]

    def release(self) -> None:
        """Follow no parameter any longer; the user's weights live on."""
        for parameter in self.alive.values():
            parameter.finalizer.detach()
        self.alive = {}
