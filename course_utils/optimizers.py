"""PyTorch's optimizers by name."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from course_utils.errors import positive_number, unknown_name

# name: PyTorch's class, the options that the name itself sets, and the options that `make_optimizer` takes.
_KINDS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any], tuple[str, ...]]] = {
    "sgd": (torch.optim.SGD, {}, ("momentum", "weight_decay", "nesterov")),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}, ("momentum", "weight_decay", "nesterov")),
    "rmsprop": (torch.optim.RMSprop, {}, ("alpha", "eps", "weight_decay", "momentum")),
    "adam": (torch.optim.Adam, {}, ("betas", "eps", "weight_decay")),
    "adamw": (torch.optim.AdamW, {}, ("betas", "eps", "weight_decay")),
}
OPTIMIZERS = tuple(_KINDS)


def make_optimizer(name: str, params: Iterable[Any], lr: float, **options: Any) -> torch.optim.Optimizer:
    """Return one of PyTorch's optimizers by its name in `OPTIMIZERS`; "momentum" is SGD with momentum 0.9.

    Args:
        params: parameters or groups of them, as for every `torch.optim.Optimizer`.
        options: "sgd" and "momentum" take momentum, weight_decay, nesterov; "rmsprop" takes alpha, eps, weight_decay,
            momentum; "adam" and "adamw" take betas, eps, weight_decay. The others keep PyTorch's defaults.

    Raises:
        ValueError: the name or an option is unknown (the nearest one is suggested), or PyTorch refuses a value.

    >>> make_optimizer("momentum", torch.nn.Linear(2, 1).parameters(), 0.1).defaults["momentum"]
    0.9
    """
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    kind, preset, known = _KINDS[name]
    for option in options:
        if option not in known:
            raise unknown_name(f"{name} option", option, known)
    lr = positive_number("lr", lr)
    try:
        return kind(params, lr=lr, **{**preset, **options})
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer {name!r} cannot be made with {options}: {error}") from error
