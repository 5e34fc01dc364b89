"""Gradients against PyTorch's own functions for them."""

import pytest
import torch
from torch import nn

from course_utils.training import gradients


def model_with_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    model(torch.randn(4, 6)).square().sum().backward()
    return model


def grouped(model):
    return torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5}])


@pytest.mark.parametrize("max_norm", [0.5, 1e6, None])
def test_clip_equals_pytorchs_own_and_gives_the_norm_before(max_norm):
    mine, other = model_with_gradients(), model_with_gradients()
    mine[2].bias.grad = other[2].bias.grad = None
    norm = gradients.clip(grouped(mine), max_norm)
    expected = nn.utils.clip_grad_norm_(other.parameters(), max_norm or float("inf"))
    assert torch.equal(norm, expected)
    assert norm > 0.5
    for one, two in zip(mine.parameters(), other.parameters(), strict=True):
        assert one.grad is two.grad is None or torch.equal(one.grad, two.grad)
