"""Means that the user takes of what an evaluated model returned: validation losses without a loss function."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope

Look = Callable[[Tensor, Tensor], None]


class MeanWatcher:
    """Watches `mean()` between the calls of a model without gradients, and at no other time.

    Layers call it too, and training does not need it: it is replaced only while the user's own lines run.
    """

    def __init__(self, scope: Scope):
        self._scope = scope
        self._look: Look | None = None
        self._places: list[tuple[Any, AnyFunction, AnyFunction]] = []
        self._is_on = False

    def install(self, patches: Patches) -> None:
        """Prepare the wrappers."""
        self._places = [(owner, owner.mean, self._wrapper(owner.mean)) for owner in (Tensor, torch)]
        patches.on_removal(self.stop)

    def start(self, look: Look) -> None:
        """Show `look` the tensor and its mean from now on."""
        self._look = look

    def stop(self) -> None:
        """Put PyTorch's functions back, for good."""
        self.pause()
        self._look = None

    def resume(self) -> None:
        """Replace the functions if a model was called without gradients."""
        if self._look is None or self._is_on or torch.is_grad_enabled():
            return
        self._is_on = True
        for owner, original, wrapper in self._places:
            if owner.mean is original:
                owner.mean = wrapper

    def pause(self) -> None:
        """Put PyTorch's functions back until a model has been called."""
        if not self._is_on:
            return
        self._is_on = False
        for owner, original, wrapper in self._places:
            if vars(owner).get("mean") is not wrapper:
                continue
            if owner is Tensor:
                del owner.mean  # PyTorch defines it in the class below
            else:
                owner.mean = original

    def _wrapper(self, original: AnyFunction) -> AnyFunction:
        @functools.wraps(original)
        def mean(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if self._look is not None and len(args) == 1 and not kwargs and not torch.is_grad_enabled():
                given = args[0]
                if type(given) is Tensor and type(result) is Tensor and self._scope.sees():
                    self._look(given, result)
            return result

        return mean
