"""Gradients, measured and clipped before they are used."""

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer


def clip(optimizer: Optimizer, max_norm: float | None) -> Tensor:
    """Scale the gradients down to a joint norm of at most `max_norm`; with None, leave them as they are.

    Returns the joint norm before clipping, a tensor on the gradients' device.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = get_total_norm([parameter.grad for parameter in parameters])
    if max_norm is not None:
        clip_grads_with_norm_(parameters, max_norm, norm)
    return torch.as_tensor(norm)
