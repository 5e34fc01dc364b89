"""PyTorch's optimizers by name: what PyTorch gets, and each bad value one by one."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from course_utils.optimizers import make_optimizer

NAN, INF = float("nan"), float("inf")


def weights():
    return [nn.Parameter(torch.ones(2))]


def test_the_options_reach_pytorch_as_pythons_own_numbers():
    adam = make_optimizer("adam", weights(), np.float32(0.5), betas=[np.float64(0.5), 0.25], eps=0, weight_decay=1)
    chosen = {name: adam.defaults[name] for name in ("lr", "betas", "eps", "weight_decay")}
    assert chosen == {"lr": 0.5, "betas": (0.5, 0.25), "eps": 0.0, "weight_decay": 1.0}
    assert all(type(value) is float for value in (chosen["lr"], *chosen["betas"], chosen["eps"]))
    sgd = make_optimizer("sgd", weights(), 0.1, momentum=np.float16(0.5), nesterov=True)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.5, True)


@pytest.mark.parametrize(
    ("name", "option", "values", "rule"),
    [
        ("sgd", "momentum", [NAN, INF, -0.1, 1, 1.5, "0.9", True, None], "at least 0 and below 1"),
        ("rmsprop", "momentum", [NAN, 1.0], "at least 0 and below 1"),
        ("rmsprop", "alpha", [NAN, INF, -0.1, 1, "0.9", True, None, [0.9]], "at least 0 and below 1"),
        ("adam", "eps", [NAN, INF, -1e-8, "1e-8", True, None], "a finite number of at least 0"),
        ("adamw", "weight_decay", [NAN, INF, -0.1, "0.1", True, None, 10**400], "a finite number of at least 0"),
        ("sgd", "weight_decay", [NAN, torch.tensor(0.1)], "a finite number of at least 0"),
        ("adam", "betas", [0.9, (0.9,), (0.9, 0.99, 0.999), "ab", None, {0.9: 1, 0.99: 2}], "a pair of numbers"),
        ("sgd", "nesterov", [1, "yes", None, np.True_], "True or False"),
    ],
)
def test_values_out_of_range_are_quoted_with_the_rule(name, option, values, rule):
    for value in values:
        with pytest.raises(ValueError, match=rf"^{option} must be {rule}.*, got ") as caught:
            make_optimizer(name, weights(), 0.1, **{option: value})
        assert repr(value)[:100] in str(caught.value)


@pytest.mark.parametrize(("betas", "which"), [((1, 0.9), 0), ((0.9, NAN), 1), ((0.9, "x"), 1), ((True, 0.9), 0)])
def test_a_bad_beta_is_named_by_its_place(betas, which):
    message = f"betas[{which}] must be at least 0 and below 1, got {betas[which]!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_optimizer("adam", weights(), 0.1, betas=betas)


def test_nesterov_needs_momentum():
    for momentum in ({}, {"momentum": 0}):
        with pytest.raises(ValueError, match=r"nesterov=True needs a momentum above 0: give momentum=0\.9"):
            make_optimizer("sgd", weights(), 0.1, nesterov=True, **momentum)
    assert make_optimizer("momentum", weights(), 0.1, nesterov=True).defaults["nesterov"]


def test_the_options_of_a_group_are_checked_too():
    frozen = make_optimizer("sgd", [{"params": weights(), "lr": 0}], 0.1)
    assert frozen.param_groups[0]["lr"] == 0
    for option, value in (("lr", NAN), ("lr", -1), ("momentum", 2)):
        with pytest.raises(ValueError, match=f"^{option} must be .*, got {value}"):
            make_optimizer("sgd", [{"params": weights(), option: value}], 0.1)


def test_a_model_in_place_of_its_parameters():
    with pytest.raises(TypeError, match=r"params must be parameters, got the model itself: use Linear\.parameters\(\)"):
        make_optimizer("sgd", nn.Linear(2, 1), 0.1)


@pytest.mark.parametrize("params", [torch.ones(2), "weights", b"w", {"params": []}, 3, None])
def test_what_is_no_list_of_parameters(params):
    with pytest.raises(TypeError, match=r"params must be a list of parameters or of groups of them, got "):
        make_optimizer("sgd", params, 0.1)


def test_no_parameters_and_a_generator_that_was_used_before():
    used = nn.Linear(2, 1).parameters()
    make_optimizer("sgd", used, 0.1)
    for params in ([], used, nn.ReLU().parameters()):
        with pytest.raises(ValueError, match=r"params holds no parameters.*call model\.parameters\(\) again"):
            make_optimizer("sgd", params, 0.1)


@pytest.mark.parametrize("params", [[3], [{}], ["weight"], [torch.ones(2, requires_grad=True) * 2]])
def test_what_pytorch_refuses_comes_with_its_reason(params):
    with pytest.raises(ValueError, match=r"optimizer 'sgd' cannot be made with params=\[.*\]: ."):
        make_optimizer("sgd", params, 0.1)
