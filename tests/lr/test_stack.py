"""Stacks of models: which forward pass they get, and that it is the model's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_utils.lr.stack import Stack, choose_forward
from course_utils.models import CNN, MLP

X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Base(nn.Module):
    """Two layers, whose `forward` each test writes anew."""

    def __init__(self):
        super().__init__()
        self.flatten, self.first, self.relu, self.last = nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)


class Residual(Base):
    def forward(self, x):
        h = self.flatten(x)
        return self.last(h + self.relu(self.first(h)))


class ResidualInPlace(Base):
    def forward(self, x):
        h = self.flatten(x)
        after = self.first(h)
        after += h
        return self.last(self.relu(after))


class HiddenResidual(Residual):
    """Its last layer starts at 0: at the start, its logits are the same with and without the residual."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.last.weight)


class Functional(Base):
    def forward(self, x):
        return self.last(F.relu(self.first(x.flatten(1))))


class Detached(Base):
    """The same numbers, other gradients."""

    def forward(self, x):
        return self.last(self.relu(self.first(self.flatten(x))).detach())


class WithoutGradients(Base):
    """The same layers and numbers, but the first layer is meant to learn nothing."""

    def forward(self, x):
        with torch.no_grad():
            h = self.relu(self.first(self.flatten(x)))
        return self.last(h)


class Scaled(Base):
    def forward(self, x):
        return 2 * self.last(self.relu(self.first(self.flatten(x))))


class Keyword(Base):
    def forward(self, x):
        return self.last(input=self.relu(self.first(self.flatten(x))))


class Twice(Base):
    """One layer called two times, one ReLU object for both, and a layer that is registered first but called last."""

    def forward(self, x):
        h = self.relu(self.first(self.flatten(x)))
        return self.last(self.relu(self.first(h)))


def hooked():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model[1].register_forward_hook(lambda layer, args, result: result.mul_(2))
    return model


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrized():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.utils.parametrize.register_parametrization(model[1], "weight", Doubled())
    return model


def recomputed():
    """As older forms of weight normalization do it: the layer's class stays Linear, its weight is no parameter."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    layer = model[1]
    layer.source = nn.Parameter(layer.weight.detach() / 2)
    del layer.weight

    def compute(layer, args):
        layer.weight = 2 * layer.source

    with torch.no_grad():  # a copy of the model can be made of plain values only
        compute(layer, ())
    layer.register_forward_pre_hook(compute)
    return model


def frozen():
    model = MLP()
    model.base[1].weight.requires_grad_(False)
    model.base[3].bias.requires_grad_(False)
    return model


def tied():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model[3].weight = model[1].weight
    return model


BY_LAYERS = {
    "MLP": MLP,
    "CNN": CNN,
    "no hidden layer": lambda: MLP(hidden=()),
    "no bias": lambda: nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.Flatten(), nn.Linear(108, 10, bias=False)),
    "stride, padding, dilation": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=2, dilation=2),
        nn.ReLU(),
        nn.Conv2d(4, 4, 2),
        nn.Flatten(),
        nn.Linear(36, 10),
    ),
    "one layer": lambda: nn.Linear(64, 10),
    "overlapping pools": lambda: nn.Sequential(
        nn.MaxPool2d(3, stride=1, padding=1),
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.MaxPool2d(2, stride=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 10),
    ),
    "ReLU on the data and on flat features": lambda: nn.Sequential(
        nn.ReLU(), nn.Flatten(), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.ReLU()
    ),
    "called twice": Twice,
    "frozen weights": frozen,
    "nested": lambda: nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, 8), nn.ReLU()), nn.Linear(8, 10)),
}
BY_VMAP = {
    "residual": Residual,
    "residual in place": ResidualInPlace,
    "hidden residual": HiddenResidual,
    "functional": Functional,
    "detached": Detached,
    "part without gradients": WithoutGradients,
    "scaled": Scaled,
    "keyword argument": Keyword,
    "hook that changes the result": hooked,
    "tied weights": tied,
    "weight computed by a parametrization": parametrized,
    "weight computed before each call": recomputed,
    "other layer": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10)),
    "grouped convolution": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 10)
    ),
    "circular padding": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(128, 10)
    ),
    "linear on the last dimension": lambda: nn.Sequential(nn.Linear(8, 4), nn.Flatten(), nn.Linear(32, 10)),
    "batch normalization": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)),
}


def made(make_model):
    torch.manual_seed(0)
    return make_model().double()


@pytest.mark.parametrize(
    ("make_model", "method"),
    [pytest.param(make, "layers", id=name) for name, make in BY_LAYERS.items()]
    + [pytest.param(make, "vmap", id=name) for name, make in BY_VMAP.items()],
)
def test_the_stack_computes_what_each_model_computes(make_model, method):
    model = made(make_model)
    x = X.flatten(1) if isinstance(model, nn.Linear) else X
    chosen, forward = choose_forward(model, x)
    assert chosen == method
    tensors = Stack.copies(model, 3)
    with torch.no_grad():
        for scale, name in zip((0.5, 1.0, 2.0) * len(tensors), tensors, strict=False):
            if tensors[name].is_floating_point():
                tensors[name].mul_(scale * torch.tensor([0.7, 1.0, 1.4]).view(-1, *[1] * (tensors[name].ndim - 1)))
    logits = forward(tensors, x)
    weights = [tensor for tensor in tensors.values() if tensor.requires_grad]
    slopes = torch.randn(logits.shape, dtype=X.dtype, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad((logits * slopes).sum(), weights, allow_unused=True, materialize_grads=True)
    for run in range(3):
        own = made(make_model)
        with torch.no_grad():
            for name, weight in own.named_parameters():
                weight.copy_(tensors[name][run])
        own_logits = own(x)
        torch.testing.assert_close(logits[run].T, own_logits, rtol=1e-10, atol=1e-12)
        trained = [weight for weight in own.parameters() if weight.requires_grad]
        own_grads = torch.autograd.grad(
            (own_logits.T * slopes[run]).sum(), trained, allow_unused=True, materialize_grads=True
        )
        for ours, theirs in zip(grads, own_grads, strict=True):
            torch.testing.assert_close(ours[run], theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("make_model", [MLP, BY_VMAP["batch normalization"], hooked])
def test_choosing_and_training_leave_the_model_as_it_was(make_model):
    model = made(make_model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hooks = [len(layer._forward_hooks) for layer in model.modules()]
    _, forward = choose_forward(model, X)
    stack = Stack(model, forward, torch.optim.SGD([torch.zeros(1)], lr=1.0), [0.1, 0.2])
    stack.step(X, torch.arange(6))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [len(layer._forward_hooks) for layer in model.modules()] == hooks
    assert all(weight.grad is None for weight in model.parameters())


def test_a_step_does_not_change_the_data():
    x = X - 0.5
    before = x.clone()
    model = made(BY_LAYERS["ReLU on the data and on flat features"])
    _, forward = choose_forward(model, x)
    Stack(model, forward, torch.optim.SGD([torch.zeros(1)], lr=1.0), [0.1]).step(x, torch.arange(6))
    assert torch.equal(x, before)


def test_a_model_whose_path_hangs_on_its_numbers_is_refused():
    class Branching(Base):
        def forward(self, x):
            h = self.first(self.flatten(x))
            return self.last(h if h.sum() > 0 else -h)

    with pytest.raises(ValueError, match=r"Branching cannot be trained at many rates at once \(torch.func.vmap: "):
        choose_forward(made(Branching), X)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adam])
def test_runs_that_stay_keep_their_weights_rates_and_memory(kind):
    options = {"momentum": 0.9} if kind is not torch.optim.Adam else {}
    model, rates = made(MLP), [0.01, 0.02, 0.03, 0.04]
    example, y = kind([torch.zeros(1)], lr=1.0, **options), torch.arange(6)
    _, forward = choose_forward(model, X)
    whole, cut = (Stack(model, forward, example, rates) for _ in range(2))
    for stack in (whole, cut):
        stack.step(X, y)
        stack.step(X, y)
    cut.keep(torch.tensor([False, True, False, True]))
    assert cut.rows.tolist() == [1, 3]
    for _ in range(3):
        torch.testing.assert_close(cut.step(X, y), whole.step(X, y)[[1, 3]], rtol=1e-12, atol=0)
