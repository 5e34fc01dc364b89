"""PyTorch's optimizers by name."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import check_name, decay_rate, non_negative_number, positive_number, quoted, unknown_name

# name: PyTorch's class, the options that the name itself sets, and the options that `make_optimizer` takes.
_KINDS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any], tuple[str, ...]]] = {
    "sgd": (torch.optim.SGD, {}, ("momentum", "weight_decay", "nesterov")),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}, ("momentum", "weight_decay", "nesterov")),
    "rmsprop": (torch.optim.RMSprop, {}, ("alpha", "eps", "weight_decay", "momentum")),
    "adam": (torch.optim.Adam, {}, ("betas", "eps", "weight_decay")),
    "adamw": (torch.optim.AdamW, {}, ("betas", "eps", "weight_decay")),
}
OPTIMIZERS = tuple(_KINDS)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {quoted(value)}")
    return value


def _betas(name: str, value: object) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{name} must be a pair of numbers, such as (0.9, 0.999), got {quoted(value)}")
    return decay_rate(f"{name}[0]", value[0]), decay_rate(f"{name}[1]", value[1])


# How each option is checked. PyTorch itself lets NaN pass, and a momentum of 1, with which no step is ever forgotten.
_CHECKS: dict[str, Callable[[str, object], object]] = {
    "lr": non_negative_number,  # of a group; 0 freezes it
    "momentum": decay_rate,
    "alpha": decay_rate,
    "betas": _betas,
    "eps": non_negative_number,
    "weight_decay": non_negative_number,
    "nesterov": _flag,
}


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    return {name: _CHECKS[name](name, value) if name in _CHECKS else value for name, value in options.items()}


def _groups(params: Any) -> list[Any]:
    """Return the parameters or groups as a list."""
    if isinstance(params, nn.Module):
        raise TypeError(f"params must be parameters, got the model itself: use {type(params).__name__}.parameters()")
    try:
        if isinstance(params, Tensor | str | bytes | dict):
            raise TypeError("its rows, letters or keys are no parameters")
        groups = [_checked(group) if isinstance(group, dict) else group for group in params]
    except TypeError as error:
        raise TypeError(f"params must be a list of parameters or of groups of them, got {quoted(params)}") from error
    if not groups:
        raise ValueError(
            "params holds no parameters: the model has none, or they are from a generator, such as model.parameters(), "
            "that was used before: call model.parameters() again"
        )
    return groups


def make_optimizer(name: str, params: Iterable[Any], lr: float, **options: Any) -> torch.optim.Optimizer:
    """Return one of PyTorch's optimizers by its name in `OPTIMIZERS`; "momentum" is SGD with momentum 0.9.

    Args:
        params: parameters or groups of them, as for every `torch.optim.Optimizer`.
        options: "sgd" and "momentum" take momentum, weight_decay, nesterov; "rmsprop" takes alpha, eps, weight_decay,
            momentum; "adam" and "adamw" take betas, eps, weight_decay. The others keep PyTorch's defaults.

    Raises:
        ValueError: the name or an option is unknown (the nearest one is suggested), a value is out of its range, there
            are no parameters, or PyTorch refuses them.
        TypeError: `params` is a model, a single tensor, or not a collection.

    >>> make_optimizer("momentum", torch.nn.Linear(2, 1).parameters(), 0.1).defaults["momentum"]
    0.9
    """
    check_name("optimizer", name, OPTIMIZERS)
    kind, preset, known = _KINDS[name]
    for option in options:
        if option not in known:
            raise unknown_name(f"{name} option", option, known)
    chosen = {"lr": positive_number("lr", lr), **_checked({**preset, **options})}
    if chosen.get("nesterov") and not chosen.get("momentum"):
        raise ValueError("nesterov=True needs a momentum above 0: give momentum=0.9, or use optimizer 'momentum'")
    groups = _groups(params)
    try:
        return kind(groups, **chosen)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"optimizer {name!r} cannot be made with params={quoted(groups)}: {error}") from error
