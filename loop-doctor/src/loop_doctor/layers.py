"""The layers of a model that behave differently in train and in eval mode, and which of them are frozen."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

_Norm = nn.modules.batchnorm._NormBase


@dataclass(frozen=True, slots=True)
class Sensitive:
    """A layer that behaves differently in eval mode.

    Attributes:
        frozen: whether it belongs to a part of the model that is not trained.
        before: the last layer before it that has weights and is not a norm, or None.
    """

    name: str
    layer: nn.Module
    frozen: bool
    before: nn.Module | None

    def may_be_off(self) -> bool:
        """Return whether eval mode is right in training: it belongs to a frozen part, or its own weights are frozen."""
        return self.frozen or _is_frozen(self.layer)

    def __str__(self) -> str:
        return f"{self.name or type(self.layer).__name__} ({type(self.layer).__name__})"


def sensitive_layers(model: nn.Module) -> Iterator[Sensitive]:
    """Yield the layers that behave differently in eval mode, in the order in which they were defined."""
    before: nn.Module | None = None
    waiting: list[tuple[str, nn.Module, nn.Module | None]] = []  # dropout that belongs to the next layer with weights
    for name, layer in model.named_modules():
        weighted = next(layer.parameters(recurse=False), None) is not None or isinstance(layer, nn.MultiheadAttention)
        if weighted and not isinstance(layer, _Norm):
            frozen = _is_frozen(layer)
            for dropout in waiting:
                yield Sensitive(*dropout[:2], frozen or _is_in_frozen_part(model, dropout[0]), dropout[2])
            waiting, before = [], layer
        if not differs_in_eval_mode(layer):
            continue
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            waiting.append((name, layer, before))
        elif isinstance(layer, _Norm):
            frozen = _is_frozen(layer) and (before is None or _is_frozen(before))
            yield Sensitive(name, layer, frozen, before)
        else:
            yield Sensitive(name, layer, _is_frozen(layer), before)
    yield from (Sensitive(*dropout[:2], _is_frozen(before), dropout[2]) for dropout in waiting)


def differs_in_eval_mode(layer: nn.Module) -> bool:
    """Return whether a layer behaves differently in eval mode."""
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return layer.p > 0
    if isinstance(layer, _Norm):
        return layer.track_running_stats
    if isinstance(layer, nn.RNNBase):
        return layer.dropout > 0 and layer.num_layers > 1
    return isinstance(layer, nn.MultiheadAttention) and layer.dropout > 0


def _is_frozen(layer: nn.Module | None) -> bool:
    """Return whether a layer has weights, and none of them is trained."""
    weights = [] if layer is None else list(layer.parameters(recurse=isinstance(layer, nn.MultiheadAttention)))
    return bool(weights) and not any(weight.requires_grad for weight in weights)


def _is_in_frozen_part(model: nn.Module, name: str) -> bool:
    """Return whether the part of a model that a layer is in has weights, and none of them is trained."""
    weights = list(model.get_submodule(name.rpartition(".")[0]).parameters())
    return bool(weights) and not any(weight.requires_grad for weight in weights)


def frozen_part(model: nn.Module, name: str) -> str:
    """Return the largest part of a model that holds a layer and nothing that is trained."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        part = ".".join(parts[:length])
        if not any(weight.requires_grad for weight in model.get_submodule(part).parameters()):
            return part
    return name
