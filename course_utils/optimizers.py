"""PyTorch's optimizers, made by their names."""

from collections.abc import Iterable

import torch

from course_utils.errors import positive_number, unknown_name

# name: PyTorch's class, what the name sets beside PyTorch's defaults, and the options that a sweep knows.
_KINDS = {
    "sgd": (torch.optim.SGD, {}, ("momentum", "weight_decay", "nesterov")),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}, ("momentum", "weight_decay", "nesterov")),
    "rmsprop": (torch.optim.RMSprop, {}, ("alpha", "eps", "weight_decay", "momentum")),
    "adam": (torch.optim.Adam, {}, ("betas", "eps", "weight_decay")),
    "adamw": (torch.optim.AdamW, {}, ("betas", "eps", "weight_decay")),
}
OPTIMIZERS = tuple(_KINDS)


def make_optimizer(name: str, params: Iterable, lr: float, **options) -> torch.optim.Optimizer:
    """Make PyTorch's own optimizer by its name in `OPTIMIZERS`; "momentum" is SGD with momentum 0.9.

    Args:
        params: parameters or groups of them, as for every `torch.optim.Optimizer`.
        options: "sgd" and "momentum" take momentum, weight_decay, nesterov; "rmsprop" takes alpha, eps, weight_decay,
            momentum; "adam" and "adamw" take betas, eps, weight_decay. PyTorch's defaults hold for what is left out.

    Raises:
        ValueError: an unknown name or option (the nearest is suggested), or a value that PyTorch refuses.

    >>> make_optimizer("momentum", nn.Linear(2, 1).parameters(), 0.1).defaults["momentum"]
    0.9
    """
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    kind, meant, known = _KINDS[name]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of optimizer {name!r}", option, known)
    lr = positive_number("lr", lr)
    try:
        return kind(params, lr=lr, **{**meant, **options})
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer {name!r} cannot be made with {options}: {error}") from error
