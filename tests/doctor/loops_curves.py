"""Loops about the numbers that are logged: running means that go on, sums under no_grad, and what looks like them."""

import weakref
from collections import deque
from typing import Any

import torch
import torch.nn.functional as F
from case_parts import (
    BATCH,
    BATCHES,
    CLASSES,
    ROWS,
    SIZE,
    Classifier,
    adam,
    batches,
    correct,
    faulty,
    loader,
    network,
    sgd,
)
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter


class AverageMeter:
    """The usual meter."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val: float, n: int = 1) -> None:
        self.val, self.sum, self.count = val, self.sum + val * n, self.count + n
        self.avg = self.sum / self.count


def one_hot(y: Tensor) -> Tensor:
    return F.one_hot(y, CLASSES).float()


# Meters that are never reset.


@faulty("loss-never-reset", style="a meter made once, each sample counts the same", evidence="of that epoch alone was")
def meter_made_once(folder):
    model, losses = network(), AverageMeter()
    optimizer = sgd(model)
    with SummaryWriter(folder) as writer:
        for epoch in range(4):
            for x, y in loader(shuffle=True):
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.update(loss.item(), x.size(0))
            writer.add_scalar("train/loss", losses.avg, epoch)  # <- loss-never-reset
    return model, optimizer


@faulty(
    "loss-never-reset", style="class whose list of losses is only ever appended to", evidence="since training began"
)
def list_that_is_never_emptied(folder):
    class Trainer:
        def __init__(self):
            self.net, self.history, self.board = Classifier(), [], SummaryWriter(folder)
            self.optimizer, self.criterion = adam(self.net), nn.CrossEntropyLoss()

        def fit(self, data, epochs):
            for self.epoch in range(epochs):
                for batch in data:
                    self.training_step(*batch)
                self.on_epoch_end()

        def training_step(self, x, y):
            loss = self.criterion(self.net(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.history.append(loss.detach())

        def on_epoch_end(self):
            self.board.add_scalar("loss", torch.stack(self.history).mean(), self.epoch)  # <- loss-never-reset

    trainer = Trainer()
    trainer.fit(loader(), 4)
    trainer.board.close()
    return trainer.net, trainer.optimizer


@faulty("loss-never-reset", style="the validation's meter lives as long as the run", evidence="validation loss")
def validation_meter_never_reset(folder):
    model = network()
    optimizer, meters = sgd(model), {"train": AverageMeter(), "val": AverageMeter()}

    def run(phase, data):
        model.train(phase == "train")
        with torch.set_grad_enabled(phase == "train"):
            for x, y in data:
                loss = F.cross_entropy(model(x), y)
                if phase == "train":
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                meters[phase].update(loss.item(), len(y))

    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            meters["train"].reset()
            run("train", loader())
            run("val", loader(count=40))
            writer.add_scalar("loss/train", meters["train"].avg, epoch)
            writer.add_scalar("loss/val", meters["val"].avg, epoch)  # <- loss-never-reset
    return model, optimizer


@faulty("loss-never-reset", style="shares of an epoch's mean added up over all epochs, times a constant")
def shares_added_up(folder):
    model = network()
    optimizer, epoch_loss = sgd(model), 0.0
    data = loader(shuffle=True)
    writer = SummaryWriter(folder)
    for epoch in range(4):
        for x, y in data:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            epoch_loss += loss.item() * len(y) / len(data.dataset) * 0.3
        writer.add_scalar("loss", epoch_loss, epoch)  # <- loss-never-reset
    writer.close()
    return model, optimizer


@correct("loss-never-reset", style="a meter for each epoch, and one that goes on and is logged at each step")
def two_meters(folder):
    model, overall = network(), AverageMeter()
    optimizer, step = sgd(model), 0
    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            losses = AverageMeter()
            for x, y in loader():
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.update(loss.item(), len(x))
                overall.update(loss.item(), len(x))
                step += 1
                writer.add_scalar("loss/step", overall.avg, step)
            writer.add_scalar("loss", losses.avg, epoch)
    return model, optimizer


@correct("loss-never-reset", style="a window of the last hundred losses, longer than the run, logged after each epoch")
def long_window(folder):
    class Smoothed:
        def __init__(self, size):
            self.values = deque(maxlen=size)

        def mean(self):
            return sum(self.values) / len(self.values)

    model, meters = network(), {"loss": Smoothed(100)}
    optimizer = sgd(model)
    dead = weakref.proxy(Smoothed(1))  # noqa: F841  a variable that may not be touched
    with SummaryWriter(folder) as writer:
        for epoch in range(4):
            for x, y in loader():
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                meters["loss"].values.append(loss.item())
            writer.add_scalar("loss", meters["loss"].mean(), epoch)
    return model, optimizer


@correct("loss-never-reset", style="rounds of new data without epochs, the mean of all rounds")
def mean_over_rounds(folder):
    model, every = nn.Linear(SIZE, 1), []
    optimizer = sgd(model)
    with SummaryWriter(folder) as writer:
        for episode in range(5):
            state = torch.randn(4, SIZE)
            for _ in range(6):
                state = 0.9 * state + 0.1 * torch.randn(4, SIZE)
                loss = F.smooth_l1_loss(model(state).squeeze(1), state.mean(1))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                every.append(loss.item())
            writer.add_scalar("td error", sum(every) / len(every), episode)
    return model, optimizer


# Losses that the user writes out, under no_grad.


@faulty(
    "loss-not-averaged", style="negative log-likelihood of a flow, fitted by a method", evidence="validation losses"
)
def likelihood_summed_in_validation(folder):
    class Gaussian(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(SIZE, 2 * SIZE)

        def log_prob(self, x):
            mean, log_scale = self.inner(torch.ones_like(x)).chunk(2, dim=1)
            return (-0.5 * ((x - mean) * (-log_scale).exp()).square() - log_scale).sum(dim=1)

        def fit(self, train, valid, writer):
            optimizer = adam(self, 1e-2)
            for epoch in range(4):
                for x, _ in train:
                    loss = -self.log_prob(x).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                total = 0.0
                with torch.no_grad():
                    for x, _ in valid:
                        total -= self.log_prob(x).mean().item()
                writer.add_scalar("valid/nll", total, epoch)  # <- loss-not-averaged
            return optimizer

    model = Gaussian()
    with SummaryWriter(folder) as writer:
        optimizer = model.fit(loader(), loader(count=44), writer)
    return model, optimizer


@faulty("loss-not-averaged", style="squared error by hand in inference mode, torch.mean, a generator expression")
def squared_error_summed(folder):
    model = nn.Sequential(nn.Linear(SIZE, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)

    def criterion(out, y):
        return torch.mean((out - one_hot(y)) ** 2)

    with SummaryWriter(folder) as writer:
        for epoch in range(4):
            model.train()
            for x, y in loader():
                optimizer.zero_grad()
                criterion(model(x), y).backward()
                optimizer.step()
            model.eval()
            with torch.inference_mode():
                total = sum(criterion(model(x), y) for x, y in loader(count=56))
            writer.add_scalar("loss/validation", total, epoch)  # <- loss-not-averaged
    return model, optimizer


@correct("loss-not-averaged", "wrong-divisor", style="hand-written losses averaged, beside an accuracy and a sum")
def other_means_in_validation(folder):
    model = network()
    optimizer = adam(model, 1e-2)
    with SummaryWriter(folder) as writer:
        for epoch in range(4):
            model.train()
            for x, y in loader():
                loss = -model(x).log_softmax(1).gather(1, y[:, None]).squeeze(1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            model.eval()
            total, right, unsure = 0.0, 0.0, 0.0
            with torch.no_grad():
                for x, y in loader(count=48):
                    logits = model(x)
                    total += -logits.log_softmax(1).gather(1, y[:, None]).squeeze(1).mean().item()
                    right += (logits.argmax(1) == y).float().mean().item()
                    unsure -= logits.log_softmax(1).max(1).values.mean()
            writer.add_scalar("valid/loss", total / 3, epoch)
            writer.add_scalar("valid/accuracy", right / 3, epoch)
            writer.add_scalar("valid/unsure", unsure, epoch)  # a sum, but not of a loss
    return model, optimizer


# A mean times a number, and means over something other than rows.


@correct("wrong-divisor", "loss-not-averaged", style="dict of weighted losses, as detection models return")
def weighted_parts(folder):
    model = network()
    optimizer = sgd(model)
    weights = {
        "loss_cls": 1.0,
        "loss_box": 2.5,
        "loss_mask": 0.5,
        "loss_rpn": float(BATCHES - 1),
        "loss_dist": 1 / BATCH,
    }
    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            totals = dict.fromkeys(weights, 0.0)
            for x, y in loader(drop_last=True):
                out = model(x)
                parts: dict[str, Any] = {
                    "loss_cls": F.cross_entropy(out, y),
                    "loss_box": F.smooth_l1_loss(out.sigmoid(), one_hot(y)),
                    "loss_mask": F.binary_cross_entropy_with_logits(out, one_hot(y)),
                    "loss_rpn": F.l1_loss(out.softmax(1), one_hot(y)),
                    "loss_dist": F.mse_loss(out.softmax(1), one_hot(y)),
                }
                parts = {name: part * weights[name] for name, part in parts.items()}
                loss = sum(parts.values())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                for name, part in parts.items():
                    totals[name] += part.item()
            for name, total in totals.items():
                writer.add_scalar(name, total / (BATCHES - 1), epoch)
    return model, optimizer


@correct("wrong-divisor", style="the mean in another unit, and the share of one process")
def losses_in_other_units(folder):
    model = nn.Linear(SIZE, CLASSES)
    optimizer = sgd(model)
    with SummaryWriter(folder) as writer:
        for epoch in range(4):
            total, step_total = 0.0, 0.0
            for x, y in batches():
                loss = F.mse_loss(model(x), one_hot(y))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += 1000 * loss.item()  # in millimetres
                step_total += loss.item() / 4  # the share of one of four processes
            writer.add_scalar("error in mm", total / BATCHES, epoch)
            writer.add_scalar("share", step_total / BATCHES, epoch)
    return model, optimizer


@correct("wrong-divisor", "loss-not-averaged", style="summed errors by elements, and by the labels that count")
def sums_by_other_counts(folder):
    model = nn.Linear(SIZE, 4 * CLASSES)
    optimizer = sgd(model)
    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            model.train()
            for x, y in loader():
                out = model(x).unflatten(1, (4, CLASSES))
                optimizer.zero_grad()
                F.cross_entropy(out.flatten(0, 1), y.repeat_interleave(4)).backward()
                optimizer.step()
            model.eval()
            nll = labels = errors = elements = 0.0
            with torch.no_grad():
                for x, y in loader(count=40):
                    out = model(x).unflatten(1, (4, CLASSES))
                    tokens = torch.where(torch.arange(4) < 3, y[:, None], -100)
                    nll += F.cross_entropy(out.transpose(1, 2), tokens, reduction="sum", ignore_index=-100).item()
                    labels += (tokens != -100).sum().item()
                    errors += F.mse_loss(out[:, 0], one_hot(y), reduction="sum").item()
                    elements += out[:, 0].numel()
            writer.add_scalar("valid/nll per token", nll / labels, epoch)
            writer.add_scalar("valid/mse", errors / elements, epoch)
    return model, optimizer


@correct("wrong-divisor", style="a loss that is a sum, divided by the labels that count in the whole epoch")
def training_sum_by_labels(folder):
    model = nn.Linear(SIZE, CLASSES)
    optimizer = sgd(model, 1e-3)
    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            total = count = 0.0
            for x, y in loader(shuffle=True):
                loss = F.cross_entropy(model(x), y, reduction="sum", ignore_index=0)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total, count = total + loss.item(), count + (y != 0).sum().item()
            writer.add_scalar("loss", total / count, epoch)
    return model, optimizer


@correct("loss-not-averaged", "wrong-divisor", style="a recurrent net: the sum over the time steps of one batch")
def sum_over_time_steps(folder):
    cell, head = nn.GRUCell(SIZE, 8), nn.Linear(8, CLASSES)
    optimizer = torch.optim.Adam([*cell.parameters(), *head.parameters()], lr=1e-2)

    def unroll(x, y):
        state, total = torch.zeros(len(x), 8), 0.0
        for _ in range(5):
            state = cell(x, state)
            total = total + F.cross_entropy(head(state), y)
        return total

    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            for x, y in loader():
                optimizer.zero_grad()
                unroll(x, y).backward()
                optimizer.step()
            with torch.no_grad():
                values = [unroll(x, y).item() for x, y in loader(count=16)]
            writer.add_scalar("valid, last batch", values[-1], epoch)
            writer.add_scalar("valid", sum(values) / len(values), epoch)
    return cell, head, optimizer


@faulty("wrong-divisor", style="while loop, the divisor counts epochs", evidence=("divisor was 2", "divisor is 12"))
def divided_by_epochs(folder):
    model, criterion = Classifier(), nn.CrossEntropyLoss()
    optimizer, epoch, total = adam(model), 0, 0.0
    with SummaryWriter(folder) as writer:
        while epoch < 8:
            for x, y in loader(shuffle=True):
                loss = criterion(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            epoch += 1
            if epoch % 2 == 0:
                writer.add_scalar("loss", total / 2, epoch)  # <- wrong-divisor
                total = 0.0
    return model, optimizer


@faulty("wrong-divisor", style="samples that drop_last left out are counted", evidence=("divisor was 88", "80 samples"))
def dropped_samples_counted(folder):
    model = network()
    optimizer = sgd(model)
    data = loader(shuffle=True, drop_last=True)
    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            total = 0.0
            for x, y in data:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                total += loss.item() * len(y)
            writer.add_scalar("loss", total / ROWS, epoch)  # <- wrong-divisor
    return model, optimizer


@correct("loss-never-reset", style="online learning, the cumulative loss that the learner pays")
def cumulative_loss(folder):
    model = nn.Linear(SIZE, CLASSES)
    optimizer, paid = sgd(model), 0.0
    with SummaryWriter(folder) as writer:
        for step, (x, y) in enumerate(batches(batch_size=4), 1):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            paid += loss.item()
            writer.add_scalar("cumulative loss", paid, step)
    return model, optimizer


@correct("loss-not-averaged", style="a hand-written loss; the validation stops with an error", raises=ValueError)
def error_in_validation(folder):
    model = network()
    optimizer = sgd(model)
    for x, y in loader():
        loss = (model(x) - one_hot(y)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        (model(x) - one_hot(y)).square().mean()
        raise ValueError("no validation data")
