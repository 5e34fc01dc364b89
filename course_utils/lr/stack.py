"""Many copies of one model that train at once: their weights are stacked, with the run as the first dimension."""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

# A forward pass for a stack: (weights and buffers by name, x) -> logits of shape (runs, classes, batch).
Forward = Callable[[dict[str, Tensor], Tensor], Tensor]

# The update rules. Each changes one stacked weight in place. `weight` and `grad` have the shape (runs, *shape); `lr`
# has the shape (runs, 1, …), so that every run has its own rate. `memory` holds the optimizer's buffers, `options` are
# the defaults of PyTorch's optimizer, and `step` counts from 1.
Options = dict[str, Any]


def _sgd(weight: Tensor, grad: Tensor, lr: Tensor, memory: dict[str, Tensor], step: int, options: Options) -> None:
    if options["weight_decay"]:
        grad = grad.add(weight, alpha=options["weight_decay"])
    if options["momentum"]:
        if step == 1:
            memory["velocity"] = grad.clone()
        else:
            memory["velocity"].mul_(options["momentum"]).add_(grad)
        velocity = memory["velocity"]
        grad = grad.add(velocity, alpha=options["momentum"]) if options["nesterov"] else velocity
    weight.addcmul_(grad, lr, value=-1)


def _rmsprop(weight: Tensor, grad: Tensor, lr: Tensor, memory: dict[str, Tensor], step: int, options: Options) -> None:
    if step == 1:
        memory.update(square=torch.zeros_like(weight), velocity=torch.zeros_like(weight))
    if options["weight_decay"]:
        grad = grad.add(weight, alpha=options["weight_decay"])
    square = memory["square"].mul_(options["alpha"]).addcmul_(grad, grad, value=1 - options["alpha"])
    size = square.sqrt().add_(options["eps"])
    if options["momentum"]:
        velocity = memory["velocity"].mul_(options["momentum"]).addcdiv_(grad, size)
        weight.addcmul_(velocity, lr, value=-1)
    else:
        weight.addcdiv_(grad, size.div_(lr), value=-1)


def _adam(weight: Tensor, grad: Tensor, lr: Tensor, memory: dict[str, Tensor], step: int, options: Options) -> None:
    if step == 1:
        memory.update(mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
    if options["decoupled_weight_decay"]:  # AdamW: the weights shrink on their own, not through the gradient
        weight.mul_(1 - lr * options["weight_decay"])
    elif options["weight_decay"]:
        grad = grad.add(weight, alpha=options["weight_decay"])
    beta1, beta2 = options["betas"]
    mean = memory["mean"].lerp_(grad, 1 - beta1)
    square = memory["square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    size = square.sqrt().div_((1 - beta2**step) ** 0.5).add_(options["eps"])
    weight.addcdiv_(mean, size.div_(lr / (1 - beta1**step)), value=-1)


RULES = {torch.optim.SGD: _sgd, torch.optim.RMSprop: _rmsprop, torch.optim.Adam: _adam, torch.optim.AdamW: _adam}

# The layers that a stack computes for all runs at once, and how many dimensions the result of each may have.
LAYERS: dict[type[nn.Module], tuple[int, ...]] = {
    nn.Flatten: (2,),
    nn.Linear: (2,),
    nn.ReLU: (2, 4),
    nn.Conv2d: (4,),
    nn.MaxPool2d: (4,),
}


def _entry(layer: str, part: str) -> str:
    """Return the name of a layer's weight in the model; if the model is the layer, the layer has no name."""
    return f"{layer}.{part}" if layer else part


def _layers_called(model: nn.Module, x: Tensor) -> list[tuple[str, nn.Module]] | None:
    """Return the layers that `model(x)` calls, in order; None if one is not in `LAYERS` or others act between them."""
    layers: list[tuple[str, nn.Module]] = []
    h: object = x
    known = True

    def note(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[object, ...], result: Any) -> None:
            nonlocal h, known
            # Each layer must take the very tensor that the previous one returned.
            known = known and len(args) == 1 and args[0] is h
            known = known and type(layer) in LAYERS and result.ndim in LAYERS[type(layer)]
            layers.append((name, layer))
            h = result

        return hook

    model = copy.deepcopy(model)  # hooks and running means stay away from the caller's model
    for name, layer in model.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(note(name))
    result = model(x)
    if not known or result is not h:
        return None
    own = {name for name, _ in model.named_parameters()}
    for name, layer in layers:
        if isinstance(layer, nn.Conv2d) and layer.groups != 1:
            return None
        if isinstance(layer, nn.Conv2d | nn.Linear):
            # A weight that two layers share, or that is computed from others, is not among the parameters by this name.
            needed = ["weight"] if layer.bias is None else ["weight", "bias"]
            if not own.issuperset(_entry(name, part) for part in needed):
                return None
    # ReLU and a maximum commute: the result is the same, and ReLU then has a quarter of the work.
    for index, ((_, first), (_, second)) in enumerate(pairwise(layers)):
        if isinstance(first, nn.ReLU) and isinstance(second, nn.MaxPool2d):
            layers[index : index + 2] = layers[index + 1], layers[index]
    return layers


def _by_layers(layers: list[tuple[str, nn.Module]]) -> Forward:
    """Return a forward pass with one batched product per Linear, and one convolution with a group per run per Conv2d.

    Images have the shape (batch, runs · channels, height, width), features the shape (runs, features, batch).
    """

    def forward(stack: dict[str, Tensor], x: Tensor) -> Tensor:
        runs = len(next(iter(stack.values())))
        groups = 1  # until the first weights, all runs see the same images
        overwrite = False
        h = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.flatten(1).t().expand(runs, -1, -1)
        for name, layer in layers:
            bias = stack.get(_entry(name, "bias"))
            if isinstance(layer, nn.Conv2d):
                weight, flat = stack[_entry(name, "weight")], None if bias is None else bias.flatten()
                h = F.conv2d(h, weight.flatten(0, 1), flat, layer.stride, layer.padding, layer.dilation, groups)
                groups = runs
            elif isinstance(layer, nn.Linear):
                weight = stack[_entry(name, "weight")]
                h = weight @ h if bias is None else torch.baddbmm(bias.unsqueeze(2), weight, h)
            elif isinstance(layer, nn.MaxPool2d):
                h = F.max_pool2d(h, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
            elif isinstance(layer, nn.ReLU):
                h = h.relu_() if overwrite else h.relu()
            elif h.ndim == 4:  # Flatten; features are already flat
                h = h.unflatten(1, (groups, -1)).flatten(2).permute(1, 2, 0).expand(runs, -1, -1)
            # The gradients of these layers do not need their results, so ReLU may overwrite them.
            overwrite = isinstance(layer, nn.Conv2d | nn.Linear | nn.MaxPool2d)
        return h

    return forward


def _by_vmap(model: nn.Module) -> Forward:
    """Return a forward pass for any model, by `torch.func.vmap`. Dropout draws one mask per step, for all runs."""

    def forward(stack: dict[str, Tensor], x: Tensor) -> Tensor:
        logits = vmap(lambda one: functional_call(model, one, (x,)), randomness="same")(stack)
        return logits.transpose(1, 2)

    return forward


@torch.enable_grad()
def _computes_the_same(forward: Forward, model: nn.Module, x: Tensor) -> bool:
    """Return whether logits and gradients of a forward pass for stacks are the model's own, for random weights.

    The layers do not show what a model's `forward` does between them (it may add `x` to the result), and initial
    weights may hide it (a last layer of zeros). Random weights do not.
    """
    generator = torch.Generator().manual_seed(0)

    def near(tensor: Tensor, *runs: int) -> Tensor:
        return tensor.detach() + 0.1 * torch.randn(*runs, *tensor.shape, generator=generator).to(tensor)

    x = near(x)
    stack = {name: near(weight, 2).requires_grad_(weight.requires_grad) for name, weight in model.named_parameters()}
    theirs = [functional_call(model, {name: weight[run] for name, weight in stack.items()}, (x,)) for run in range(2)]
    own, logits = torch.stack(theirs), forward(stack, x).transpose(1, 2)
    if logits.shape != own.shape:
        return False
    trained = [weight for weight in stack.values() if weight.requires_grad]
    slope = near(torch.zeros_like(own))
    grads = [
        torch.autograd.grad((result * slope).sum(), trained, allow_unused=True, materialize_grads=True)
        for result in (logits, own)
    ]
    pairs = [(logits, own), *zip(*grads, strict=True)]
    return all(bool((ours - other).abs().max() <= 1e-3 * other.abs().max()) for ours, other in pairs)


def choose_forward(model: nn.Module, x: Tensor) -> tuple[str, Forward]:
    """Return how a stack of this model computes its logits: ("layers", forward), or ("vmap", forward) for any model.

    Args:
        model: the model; it is not changed.
        x: a batch of inputs, to find the layers that the model calls and to compare the results.

    Raises:
        ValueError: `torch.func.vmap` cannot run this model.
    """
    layers = _layers_called(model, x)
    if layers is not None:
        forward = _by_layers(layers)
        if _computes_the_same(forward, model, x):
            return "layers", forward
    forward = _by_vmap(model)
    try:
        forward(Stack.copies(model, 2), x)
    except RuntimeError as error:
        raise ValueError(
            f"{type(model).__name__} cannot be trained at many rates at once (torch.func.vmap: {error}): "
            "train it at one rate at a time, with make_optimizer"
        ) from error
    return "vmap", forward


class Stack:
    """Runs of one model, each with its own learning rate, that take their steps together.

    Args:
        model: the start of every run; it is not changed.
        forward: from `choose_forward`.
        optimizer: one of PyTorch's optimizers, whose rule and options all runs use.
        lrs: the learning rates, one per run.
    """

    def __init__(self, model: nn.Module, forward: Forward, optimizer: torch.optim.Optimizer, lrs: list[float]):
        self.tensors = self.copies(model, len(lrs))
        self.memory: dict[str, dict[str, Tensor]] = {
            name: {} for name, tensor in self.tensors.items() if tensor.requires_grad
        }
        first = next(iter(self.tensors.values()))
        self.lr = torch.tensor(lrs, dtype=first.dtype, device=first.device)
        self.rows = torch.arange(len(lrs))
        self.forward, self.rule, self.options = forward, RULES[type(optimizer)], optimizer.defaults
        self.steps = dict.fromkeys(self.memory, 0)

    @staticmethod
    def copies(model: nn.Module, runs: int) -> dict[str, Tensor]:
        """Return the model's weights and buffers by name, `runs` copies of each, shape (runs, *shape)."""
        tensors = [*model.named_parameters(), *model.named_buffers()]
        return {
            name: tensor.detach().expand(runs, *tensor.shape).clone().requires_grad_(tensor.requires_grad)
            for name, tensor in tensors
        }

    @torch.enable_grad()
    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Take one step on a batch and return each run's mean loss before it, shape (runs,), on the CPU."""
        logits = self.forward(self.tensors, x)
        losses = F.cross_entropy(logits, y.expand(len(logits), -1), reduction="none").mean(1)
        # No run's loss depends on another run's weights, so the gradient of the sum holds the gradients of all.
        grads = torch.autograd.grad(losses.sum(), [self.tensors[name] for name in self.memory], allow_unused=True)
        with torch.no_grad():
            for (name, memory), grad in zip(self.memory.items(), grads, strict=True):
                if grad is not None:
                    weight = self.tensors[name]
                    self.steps[name] += 1
                    lr = self.lr.view(-1, *[1] * (weight.ndim - 1))
                    self.rule(weight, grad, lr, memory, self.steps[name], self.options)
        return losses.detach().cpu()

    def keep(self, chosen: Tensor) -> None:
        """Keep only the chosen runs (a bool for each); `rows` holds their numbers among the first runs."""
        self.rows = self.rows[chosen]
        chosen = chosen.to(self.lr.device)
        self.lr = self.lr[chosen]
        self.tensors = {name: t.detach()[chosen].requires_grad_(t.requires_grad) for name, t in self.tensors.items()}
        self.memory = {name: {key: t[chosen] for key, t in kept.items()} for name, kept in self.memory.items()}
