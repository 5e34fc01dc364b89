"""Correct training loops, combined at random from the habits that people have."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, StepLR
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

ROWS, BATCH = 44, 8  # six batches, the last one with 4 rows
SEEDS = 200


@dataclass(frozen=True)
class Style:
    """One choice of each habit."""

    model: str
    data: str
    optimizer: str
    clear: str
    k: int
    clip: str
    schedule: str
    loss: str
    validation: str
    log: str
    scaler: bool
    seed: int


CHOICES: dict[str, tuple] = {
    "model": ("linear", "mlp", "dropout", "batchnorm", "cnn", "log_softmax"),
    "data": ("loader", "shuffled", "list", "generator", "indices"),
    "optimizer": ("sgd", "momentum", "adam", "adamw", "rmsprop", "by hand", "by hand, data", "two groups", "frozen"),
    "clear": ("first", "before backward", "after step", "zeros", "model", "none by hand", "zero_ by hand", "data zero"),
    "k": (1, 1, 1, 2, 3),
    "clip": ("no", "no", "norm", "value"),
    "schedule": ("no", "no", "epoch", "step"),
    "loss": ("mean", "sum / n", "own", "mse"),
    "validation": ("no", "no_grad", "inference", "in the middle"),
    "log": ("no", "batch", "tensor", "epoch", "samples", "window", "since start", "moving", "accuracy"),
    "scaler": (False, False, False, True),
}


def draw(seed: int) -> Style:
    """Choose every habit at random."""
    chance = random.Random(seed)
    chosen = {name: chance.choice(options) for name, options in CHOICES.items()}
    style = Style(**chosen, seed=seed)
    assert {field.name for field in fields(style)} == {*CHOICES, "seed"}
    return style


def _model(style: Style) -> nn.Module:
    layers: dict[str, Callable[[], list[nn.Module]]] = {
        "linear": lambda: [nn.Linear(16, 4)],
        "mlp": lambda: [nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)],
        "dropout": lambda: [nn.Linear(16, 12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 4)],
        "batchnorm": lambda: [nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4)],
        "cnn": lambda: [nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)],
        "log_softmax": lambda: [nn.Linear(16, 4), nn.LogSoftmax(dim=1)],
    }
    return nn.Sequential(*layers[style.model]())


def _batches(style: Style, x: Tensor, y: Tensor) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    parts = list(zip(x.split(BATCH), y.split(BATCH), strict=True))

    def generator() -> Iterator[tuple[Tensor, Tensor]]:
        yield from parts

    def indices() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(ROWS)
        for start in range(0, ROWS, BATCH):
            chosen = order[start : start + BATCH]
            yield x[chosen], y[chosen]

    if style.data in ("loader", "shuffled"):
        loader = DataLoader(TensorDataset(x, y), BATCH, shuffle=style.data == "shuffled")
        return lambda: iter(loader)
    return {"list": lambda: iter(parts), "generator": generator, "indices": indices}[style.data]


def _optimizer(style: Style, model: nn.Module) -> torch.optim.Optimizer | None:
    parameters = list(model.parameters())
    if style.optimizer == "frozen" and len(parameters) > 2:
        for parameter in parameters[:2]:
            parameter.requires_grad_(False)
        parameters = parameters[2:]
    makers: dict[str, Callable[[], torch.optim.Optimizer | None]] = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=0.02),
        "momentum": lambda: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, nesterov=True),
        "adam": lambda: torch.optim.Adam(parameters, lr=0.003),
        "adamw": lambda: torch.optim.AdamW(parameters, lr=0.003),
        "rmsprop": lambda: torch.optim.RMSprop(parameters, lr=0.001),
        "two groups": lambda: torch.optim.SGD(
            [{"params": parameters[:1], "lr": 0.02}, {"params": parameters[1:]}], lr=0.01
        ),
        "frozen": lambda: torch.optim.SGD(parameters, lr=0.02),
    }
    return makers[style.optimizer]() if style.optimizer in makers else None


def _update_by_hand(style: Style, model: nn.Module) -> None:
    if style.optimizer == "by hand":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.02 * parameter.grad
    else:
        for parameter in model.parameters():
            parameter.data -= 0.02 * parameter.grad.data


def _clear(style: Style, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    kind = style.clear
    if kind in ("none by hand", "zero_ by hand", "data zero") or (optimizer is None and kind != "model"):
        for parameter in model.parameters():
            if parameter.grad is None:
                continue
            if kind == "zero_ by hand":
                parameter.grad.zero_()
            elif kind == "data zero":
                parameter.grad.data.zero_()
            else:
                parameter.grad = None
    elif kind == "model":
        model.zero_grad()
    else:
        optimizer.zero_grad(set_to_none=kind != "zeros")


def _loss(style: Style, output: Tensor, y: Tensor) -> Tensor:
    if style.loss == "mse":
        return F.mse_loss(output, F.one_hot(y, 4).float())
    if style.loss == "own":
        return -output.log_softmax(dim=1)[torch.arange(len(y)), y].mean()
    if style.loss == "sum / n":
        return F.cross_entropy(output, y, reduction="sum") / len(y)
    return F.nll_loss(output, y) if style.model == "log_softmax" else F.cross_entropy(output, y)


def run(style: Style, folder: Path, num_epochs: int = 3) -> dict[str, Any]:
    """Train in this style, and return everything that a watcher might have changed."""
    torch.manual_seed(style.seed)
    x, y = torch.randn(ROWS, 16), torch.randint(0, 4, (ROWS,))
    model = _model(style)
    batches, optimizer = _batches(style, x, y), _optimizer(style, model)
    scheduler = None
    if optimizer is not None and style.schedule != "no":
        scheduler = StepLR(optimizer, 1, 0.9) if style.schedule == "epoch" else LambdaLR(optimizer, lambda s: 0.99**s)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10) if style.scaler and optimizer is not None else None
    writer = SummaryWriter(folder) if style.log != "no" else None
    losses: list[float] = []
    step, total, num_batches = 0, 0.0, -(-ROWS // BATCH)

    def validate() -> None:
        guard = torch.inference_mode if style.validation == "inference" else torch.no_grad
        model.eval()
        with guard():
            for part in x.split(16):
                model(part)
        model.train()

    for epoch in range(num_epochs):
        epoch_sum = epoch_samples = window_sum = 0.0
        pending = 0
        for i, (inputs, labels) in enumerate(batches()):
            if style.clear == "first" and pending == 0:
                _clear(style, model, optimizer)
            loss = _loss(style, model(inputs), labels)
            if style.clear not in ("first", "after step") and pending == 0:
                _clear(style, model, optimizer)
            last = i + 1 == num_batches
            # The micro-batches that make this step: at the end of the epoch there may be fewer of them.
            group = min(style.k, num_batches - (i - pending))
            scaled = loss / group if group > 1 else loss
            (scaler.scale(scaled) if scaler else scaled).backward()
            pending += 1
            if pending == style.k or last:
                pending = 0
                if scaler and style.clip != "no":
                    scaler.unscale_(optimizer)
                if style.clip == "norm":
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                elif style.clip == "value":
                    nn.utils.clip_grad_value_(model.parameters(), 0.1)
                if optimizer is None:
                    _update_by_hand(style, model)
                elif scaler:
                    scaler.step(optimizer)
                    scaler.update()
                else:
                    optimizer.step()
                if style.clear == "after step":
                    _clear(style, model, optimizer)
                if scheduler and style.schedule == "step":
                    scheduler.step()
                step += 1
            value = loss.item()
            losses.append(value)
            total += value
            epoch_sum += value
            epoch_samples += value * len(labels)
            window_sum += value
            if style.log == "batch":
                writer.add_scalar("loss", value, len(losses))
            elif style.log == "tensor":
                writer.add_scalar("loss", loss, len(losses))
            elif style.log == "window" and len(losses) % 3 == 0:
                writer.add_scalar("loss", window_sum / 3, len(losses))
                window_sum = 0.0
            elif style.log == "since start":
                writer.add_scalar("loss", total / len(losses), len(losses))
            elif style.log == "moving":
                part = losses[-4:]
                writer.add_scalar("loss", sum(part) / len(part), len(losses))
            if style.validation == "in the middle" and i == 2:
                validate()
        if style.log == "epoch":
            writer.add_scalar("loss", epoch_sum / num_batches, epoch)
        elif style.log == "samples":
            writer.add_scalar("loss", epoch_samples / ROWS, epoch)
        elif style.log == "accuracy":
            writer.add_scalar("accuracy", (epoch + 1) / 7, epoch)
        if scheduler and style.schedule == "epoch":
            scheduler.step()
        if style.validation in ("no_grad", "inference"):
            validate()
    if writer:
        writer.close()
    return {
        "losses": losses,
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "optimizer": optimizer.state_dict() if optimizer else None,
        "random": torch.get_rng_state(),
        "python": random.getstate(),
        "training": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
    }
