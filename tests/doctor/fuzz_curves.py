"""Loops that log losses as people do, right or wrong, combined at random: weighted terms, masks, sums, and means."""

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

SEEDS = 300
TIME, CLASSES, SIZE = 4, 5, 6  # each row is a short sequence, and each of its elements has a label
IGNORED = -100
EPOCHS = 4

CHOICES: dict[str, tuple] = {
    "rows": (40, 44, 60, 80),
    "batch": (4, 5, 8, 10, 16, 20),
    "valid_rows": (12, 20, 40, 44, 50),
    "data": ("loader", "shuffled", "dropped", "list"),
    "loss": (
        "tokens", "masked", "class weights", "mse", "half mse", "sum / rows", "sum / elements", "sum / valid", "own",
        "labels", "two terms", "gan", "steps",
    ),
    "weight": (0.5, 0.1, 0.01, 2.0, 10.0, 100.0, 0.25, 3.0, 0.9),
    "average": ("batches", "samples", "window", "meter", "smooth", "last", "so far", "shares"),
    "validation": ("no", "mean", "samples", "sum / rows", "sum / elements", "sum / valid", "weights", "mean of means"),
    "unit": (1.0, 1.0, 1.0, 100.0, 1000.0, 0.5, 0.25),
    "number": ("float", "tensor"),
    "k": (1, 1, 2, 4),
}  # fmt: skip
# What is done wrong, and what the doctor calls it.
MISTAKES = {
    "epoch sum": "loss-not-averaged",
    "by rows": "wrong-divisor",
    "one more": "wrong-divisor",
    "grows": "loss-never-reset",
    "meter": "loss-never-reset",
    "validation sum": "loss-not-averaged",
    "validation by rows": "wrong-divisor",
}


@dataclass(frozen=True)
class Style:
    """One choice of each habit, and a mistake or none."""

    chosen: tuple[tuple[str, Any], ...]
    mistake: str
    seed: int

    def __getattr__(self, name: str) -> Any:
        return dict(self.chosen)[name]


def draw(seed: int, mistake: str = "") -> Style:
    """Choose every habit at random."""
    chance = random.Random(1000 + seed)
    chosen = {name: chance.choice(options) for name, options in CHOICES.items()}
    if mistake:  # the sums are of plain means then, because only these can be told from weighted ones
        chosen |= {"loss": chance.choice(("labels", "mse")), "unit": 1.0, "k": 1, "average": "batches"}
        chosen |= {
            "batch": chance.choice((8, 10, 16)),
            "valid_rows": 44,
            "validation": "mean",
            "data": chance.choice(("loader", "shuffled")),
        }
    if chosen["loss"] == "half mse" or chosen["average"] == "shares":  # two factors together may be any number
        chosen["unit"] = 1.0
    return Style(tuple(chosen.items()), mistake, seed)


def _data(style: Style) -> tuple[Callable[[], Iterator[Any]], list[tuple[Tensor, Tensor]]]:
    x = torch.randn(style.rows, TIME, SIZE)
    y = (2 * x[..., :CLASSES]).argmax(-1)
    y[torch.rand(style.rows, TIME) < 0.2] = IGNORED
    valid = x[: style.valid_rows].flip(0) + 0.1, y[: style.valid_rows].flip(0)
    parts = list(zip(x.split(style.batch), y.split(style.batch), strict=True))
    if style.data == "list":
        return lambda: iter(parts), list(zip(*(each.split(style.batch) for each in valid), strict=True))
    loader = DataLoader(
        TensorDataset(x, y), style.batch, shuffle=style.data == "shuffled", drop_last=style.data == "dropped"
    )
    return lambda: iter(loader), list(zip(*(each.split(style.batch) for each in valid), strict=True))


def _terms(style: Style, out: Tensor, y: Tensor, class_weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss, and the terms that are logged apart."""
    flat, labels = out.flatten(0, 1), y.flatten()
    valid = labels != IGNORED
    target = F.one_hot(y.clamp(min=0), CLASSES).float()
    weight = style.weight
    if style.loss == "tokens":
        return F.cross_entropy(flat, labels), {}
    if style.loss == "labels":
        return F.cross_entropy(out[:, 0], y[:, 0].clamp(min=0)), {}
    if style.loss == "masked":
        return (F.cross_entropy(flat, labels, reduction="none") * valid).sum() / valid.sum(), {}
    if style.loss == "class weights":
        return F.cross_entropy(flat, labels, class_weights), {}
    if style.loss == "mse":
        return F.mse_loss(out, target), {}
    if style.loss == "half mse":
        return 0.5 * F.mse_loss(out, target), {}
    if style.loss == "sum / rows":
        return F.mse_loss(out, target, reduction="sum") / len(y), {}
    if style.loss == "sum / elements":
        return F.mse_loss(out, target, reduction="sum") / target.numel(), {}
    if style.loss == "sum / valid":
        return F.cross_entropy(flat, labels, reduction="sum") / valid.sum(), {}
    if style.loss == "own":
        return -(out.log_softmax(-1) * target).sum(-1).mean(), {}
    if style.loss == "two terms":
        main, extra = F.cross_entropy(flat, labels), F.l1_loss(out, target)
        return main + weight * extra, {"main": main, "extra": extra, "weighted": weight * extra}
    if style.loss == "gan":
        real, fake = (F.binary_cross_entropy_with_logits(out[..., i], target[..., i]) for i in (0, 1))
        shape = F.mse_loss(out, target) * weight
        return (real + fake) / 2 + shape, {"real": real, "fake": fake, "shape": shape}
    parts = [F.cross_entropy(out[:, t], y[:, t].clamp(min=0)) for t in range(TIME)]
    return sum(parts) / TIME, {"sum of steps": sum(parts), "first": parts[0]}


class Meter:
    """The usual meter."""

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0

    def update(self, value: Any, n: int = 1) -> None:
        self.sum, self.count = self.sum + value * n, self.count + n

    @property
    def avg(self) -> Any:
        return self.sum / self.count


def _validation(style: Style, model: nn.Module, parts: list[Any], class_weights: Tensor) -> float:
    total, count, value = 0.0, 0.0, 0.0
    model.eval()
    with torch.no_grad():
        for x, y in parts:
            out, labels = model(x), y.flatten()
            target = F.one_hot(y.clamp(min=0), CLASSES).float()
            if style.validation in ("mean", "samples", "mean of means"):
                value = float(_terms(style, out, y, class_weights)[0])
                n = len(y) if style.validation == "samples" else 1
                total, count = total + value * n, count + n
            elif style.validation == "weights":
                total += float(F.cross_entropy(out.flatten(0, 1), labels, class_weights, reduction="sum"))
                count += float(class_weights[labels[labels != IGNORED]].sum())
            elif style.validation == "sum / valid":
                total += float(F.cross_entropy(out.flatten(0, 1), labels, reduction="sum"))
                count += float((labels != IGNORED).sum())
            else:
                total += float(F.mse_loss(out, target, reduction="sum"))
                count += len(y) if style.validation == "sum / rows" else target.numel()
    model.train()
    if style.mistake == "validation sum":
        return total
    if style.mistake == "validation by rows":
        return total / sum(len(y) for _, y in parts)
    return total / count


def run(style: Style, folder: Path) -> Any:
    """Train in this style, and return what a watcher might have changed."""
    torch.manual_seed(style.seed)
    batches, parts = _data(style)
    model = nn.Sequential(nn.Linear(SIZE, 12), nn.Tanh(), nn.Linear(12, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05 / max(1.0, style.weight))
    class_weights = torch.linspace(0.5, 2.0, CLASSES)
    value_of = (lambda loss: loss.item()) if style.number == "float" else (lambda loss: loss.detach().clone())
    writer, logged = SummaryWriter(folder), []
    step, grows, so_far, smooth, forever = 0, 0.0, Meter(), None, Meter()
    window, last = [], deque(maxlen=30)

    def log(tag: str, value: Any, at: int) -> None:
        logged.append(float(value))
        writer.add_scalar(tag, value, at)

    for epoch in range(EPOCHS):
        meter, terms_of_epoch, num_batches, pending = Meter(), {}, 0, 0
        for x, y in batches():
            loss, terms = _terms(style, model(x), y, class_weights)
            if style.k > 1:
                loss = loss / style.k
            loss.backward()
            pending += 1
            if pending % style.k == 0:
                optimizer.step()
                optimizer.zero_grad()
            value = value_of(loss) * style.k * style.unit
            step, num_batches = step + 1, num_batches + 1
            meter.update(value, len(y) if style.average == "samples" else 1)
            so_far.update(value)
            forever.update(value, len(y) if style.seed % 2 else 1)
            grows += value
            for name, term in terms.items():
                terms_of_epoch.setdefault(name, Meter()).update(value_of(term))
            window.append(value)
            if style.average == "last":
                last.append(value)
            if style.average == "window" and len(window) == 3:
                log("window", sum(window) / 3, step)
                window = []
            elif style.average == "smooth":
                smooth = value if smooth is None else 0.9 * smooth + 0.1 * value
                log("smooth", smooth, step)
            elif style.average == "last":
                log("last", sum(last) / len(last), step)
            elif style.average == "so far":
                log("running", so_far.avg, step)
        if pending % style.k:
            optimizer.step()
            optimizer.zero_grad()
        wrong = {
            "epoch sum": meter.sum,
            "by rows": meter.sum / style.rows,
            "one more": meter.sum / (num_batches + 1),
            "grows": grows / (num_batches if style.seed % 3 else 1),
            "meter": forever.avg,
        }
        if style.average in ("batches", "samples", "meter") or style.mistake:
            log("epoch", wrong.get(style.mistake, meter.avg), epoch)
        elif style.average == "shares":
            log("epoch", meter.avg / 4, epoch)  # as each of four processes does before they are added up
        elif style.average == "last":
            log("last at the end", sum(last) / len(last), epoch)
        for name, each in terms_of_epoch.items():
            log(name, each.avg, epoch)
            if name == "extra":
                log(f"{name}, times its weight", style.weight * each.avg, epoch)
        if style.validation != "no":
            log("valid", _validation(style, model, parts, class_weights), epoch)
    writer.close()
    return logged, [parameter.detach().clone() for parameter in model.parameters()], torch.get_rng_state()
