"""Loops whose learning-rate schedule does not fit the run, and loops whose schedule does, although it looks odd."""

import contextlib
import functools
import math
import warnings

import torch
import torch.nn.functional as F
from case_parts import (
    BATCHES,
    CLASSES,
    SIZE,
    Classifier,
    accuracy,
    adam,
    batches,
    correct,
    faulty,
    loader,
    network,
    rows,
    sgd,
    stream,
)
from torch import nn
from torch.optim import lr_scheduler as schedulers


def train_step(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


def ignored():
    """Ignore PyTorch's warning about a first step that comes too early."""
    return warnings.catch_warnings(action="ignore")


# schedule-out-of-step


@faulty("schedule-out-of-step", style="StepLR in epochs, stepped after each batch", evidence="after each batch")
def step_lr_in_each_batch(folder):
    model = network()
    optimizer = sgd(model, 0.1)
    scheduler = schedulers.StepLR(optimizer, 3, gamma=0.1)
    for _ in range(6):
        for x, y in loader():
            train_step(model, optimizer, x, y)
            scheduler.step()  # <- schedule-out-of-step
    return model, optimizer


@faulty("schedule-out-of-step", style="a cosine over the epochs, stepped by the trainer's batch hook", evidence="T_max")
def cosine_over_epochs_in_each_batch(folder):
    class Trainer:
        def __init__(self, epochs):
            self.model, self.epochs = Classifier(), epochs
            self.optimizer = adam(self.model, 0.01)
            self.schedule = schedulers.CosineAnnealingLR(self.optimizer, epochs)

        def batch(self, x, y):
            train_step(self.model, self.optimizer, x, y)
            self.schedule.step()  # <- schedule-out-of-step

        def fit(self, data):
            for _ in range(self.epochs):
                for x, y in data:
                    self.batch(x, y)

    trainer = Trainer(5)
    trainer.fit(loader(shuffle=True, generator=torch.Generator().manual_seed(2)))
    return trainer.model, trainer.optimizer


@faulty("schedule-out-of-step", style="milestones in epochs, stepped in each batch of a list")
def milestones_in_each_batch(folder):
    model, data = network(), batches()
    optimizer = sgd(model, 0.1, momentum=0.9)
    scheduler = schedulers.MultiStepLR(optimizer, milestones=[2, 4], gamma=0.1)
    for _epoch in range(5):
        for _i, (x, y) in enumerate(data):
            train_step(model, optimizer, x, y)
            scheduler.step()  # <- schedule-out-of-step
    return model, optimizer


@faulty("schedule-out-of-step", style="a decay for epochs, as a function, in each batch")
def lambda_decay_in_each_batch(folder):
    model = network()
    optimizer = adam(model, 0.01)
    scheduler = schedulers.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    for _ in range(4):
        for x, y in loader():
            train_step(model, optimizer, x, y)
            scheduler.step()  # <- schedule-out-of-step
    return model, optimizer


@faulty(
    "schedule-out-of-step",
    style="a cosine over all batches, stepped once per epoch",
    evidence="That number counts batches",
)
def cosine_over_batches_once_per_epoch(folder):
    model, data, epochs = network(), loader(), 6
    optimizer = sgd(model, 0.1)
    scheduler = schedulers.CosineAnnealingLR(optimizer, T_max=epochs * len(data), eta_min=1e-5)
    for _ in range(epochs):
        for x, y in data:
            train_step(model, optimizer, x, y)
        scheduler.step()  # <- schedule-out-of-step
    return model, optimizer


@faulty("schedule-out-of-step", style="OneCycleLR for all batches, stepped once per epoch")
def one_cycle_once_per_epoch(folder):
    model, data = network(), loader()
    optimizer = sgd(model, 0.1)
    scheduler = schedulers.OneCycleLR(optimizer, max_lr=0.1, steps_per_epoch=len(data), epochs=4)
    for _ in range(4):
        for x, y in data:
            train_step(model, optimizer, x, y)
        scheduler.step()  # <- schedule-out-of-step
    return model, optimizer


@faulty("schedule-out-of-step", style="linear decay of a library's kind, once per epoch")
def linear_decay_once_per_epoch(folder):
    def left(step, num_warmup_steps, num_training_steps):
        if step < num_warmup_steps:
            return step / num_warmup_steps
        return max(0.0, (num_training_steps - step) / (num_training_steps - num_warmup_steps))

    model, data = network(), loader()
    optimizer = adam(model, 0.01)
    num_steps = len(data) * 5
    scheduler = schedulers.LambdaLR(
        optimizer, functools.partial(left, num_warmup_steps=1, num_training_steps=num_steps)
    )
    for _ in range(5):
        for x, y in data:
            train_step(model, optimizer, x, y)
        scheduler.step()  # <- schedule-out-of-step
    return model, optimizer


@faulty("schedule-out-of-step", style="at each micro-batch", evidence="2 micro-batches make up one step")
def cosine_at_each_micro_batch(folder):
    model, data, epochs = network(), batches(96), 4
    optimizer = sgd(model, 0.1)
    scheduler = schedulers.CosineAnnealingLR(optimizer, T_max=epochs * len(data) // 2)
    for _ in range(epochs):
        for i, (x, y) in enumerate(data):
            (F.cross_entropy(model(x), y) / 2).backward()
            if (i + 1) % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
            with ignored():
                scheduler.step()  # <- schedule-out-of-step
    return model, optimizer


@faulty("schedule-out-of-step", style="linear decay at each of four micro-batches")
def linear_decay_at_each_micro_batch(folder):
    model, total = network(), 12
    optimizer = adam(model, 0.01)
    scheduler = schedulers.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total))
    data = stream(64)
    for step in range(total * 4):
        x, y = next(data)
        loss = F.cross_entropy(model(x), y) / 4
        loss.backward()
        if step % 4 == 3:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with ignored():
            scheduler.step()  # <- schedule-out-of-step
    return model, optimizer


@faulty("schedule-out-of-step", style="a cosine past its end", evidence="T_max = 8")
def cosine_past_its_end(folder):
    model = network()
    optimizer = sgd(model, 0.1)
    scheduler = schedulers.CosineAnnealingLR(optimizer, T_max=8)
    for _ in range(12):
        for x, y in batches():
            train_step(model, optimizer, x, y)
        scheduler.step()  # <- schedule-out-of-step
    return model, optimizer


@faulty("schedule-out-of-step", style="OneCycleLR that is over", raises=ValueError, evidence="made for 10 steps")
def one_cycle_over(folder):
    model, data = network(), stream()
    optimizer = sgd(model)
    scheduler = schedulers.OneCycleLR(optimizer, 0.1, total_steps=10)
    for _ in range(20):
        train_step(model, optimizer, *next(data))
        scheduler.step()  # <- schedule-out-of-step


@faulty("schedule-out-of-step", style="a decay that is over long before the run", evidence="a thousandth")
def polynomial_decay_over_early(folder):
    model, step = network(), 0
    optimizer = sgd(model, 0.1)
    scheduler = schedulers.PolynomialLR(optimizer, total_iters=10, power=0.9)
    data = stream()
    while step < 40:
        train_step(model, optimizer, *next(data))
        scheduler.step()  # <- schedule-out-of-step
        step += 1
    return model, optimizer


@faulty("schedule-out-of-step", style="an exponential decay that is far too fast", evidence="a thousandth")
def exponential_decay_too_fast(folder):
    model, data = network(), batches(48)
    optimizer = sgd(model, 0.1)
    scheduler = schedulers.ExponentialLR(optimizer, 0.3)
    for _ in range(16):
        for x, y in data:
            train_step(model, optimizer, x, y)
        scheduler.step()  # <- schedule-out-of-step
    return model, optimizer


@correct("schedule-out-of-step", style="warm restarts, cyclic rates, and a step with a fraction of the epoch")
def restarts_and_cycles(folder):
    model = Classifier()
    slow, fast = sgd(model.base, 0.1), sgd(model.head, 0.1)
    restarts = schedulers.CosineAnnealingWarmRestarts(slow, T_0=2)
    cycles = schedulers.CyclicLR(fast, 1e-6, 0.1, step_size_up=4)
    data = loader()
    for epoch in range(5):
        for i, (x, y) in enumerate(data):
            slow.zero_grad()
            fast.zero_grad()
            F.cross_entropy(model(x), y).backward()
            slow.step()
            fast.step()
            restarts.step(epoch + i / len(data))
            cycles.step()
    return model, slow, fast


@correct("schedule-out-of-step", style="two epochs of a plan for two hundred, in epochs and in batches")
def smoke_test_of_a_long_plan(folder):
    results = []
    for per_batch in (False, True):
        model, data = network(), loader()
        optimizer = sgd(model, 0.1)
        scheduler = schedulers.CosineAnnealingLR(optimizer, T_max=200 * (len(data) if per_batch else 1))
        for _ in range(2):
            for x, y in data:
                train_step(model, optimizer, x, y)
                if per_batch:
                    scheduler.step()
            if not per_batch:
                scheduler.step()
        results += [model, optimizer]
    return results


@correct("schedule-out-of-step", style="as many planned epochs as batches in one, cut short")
def plan_as_long_as_an_epoch(folder):
    model, data = network(), loader()
    optimizer = sgd(model, 0.1)
    scheduler = schedulers.CosineAnnealingLR(optimizer, T_max=6)
    assert len(data) == 6
    for _ in range(3):
        for x, y in data:
            train_step(model, optimizer, x, y)
        scheduler.step()
    return model, optimizer


@correct("schedule-out-of-step", style="planned epochs that happen to be as many as all batches, cut short")
def plan_as_long_as_the_run(folder):
    results = []
    for cosine in (True, False):
        model, data, num_epochs = network(), loader(), 30
        optimizer = sgd(model, 0.1)
        if cosine:
            scheduler = schedulers.CosineAnnealingLR(optimizer, num_epochs)
        else:
            scheduler = schedulers.PolynomialLR(optimizer, total_iters=30)
        for epoch in range(num_epochs):
            if epoch == 5:
                break
            for x, y in data:
                train_step(model, optimizer, x, y)
            scheduler.step()
        results += [model, optimizer]
    return results


@correct("schedule-out-of-step", style="warm-up and cosine over all batches, as one function")
def warm_up_and_cosine(folder):
    model, epochs = network(), 5
    warm, total = 5, epochs * BATCHES

    def rate(step):
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))

    optimizer = adam(model, 0.01)
    scheduler = schedulers.LambdaLR(optimizer, rate)
    for _ in range(epochs):
        for x, y in loader():
            train_step(model, optimizer, x, y)
            scheduler.step()
    return model, optimizer


@correct("schedule-out-of-step", style="a warm-up per batch next to a decay per epoch")
def warm_up_and_decay(folder):
    model = network()
    optimizer = sgd(model, 0.1)
    warm = schedulers.LinearLR(optimizer, 0.01, total_iters=6)
    decay = schedulers.MultiStepLR(optimizer, [3, 5])
    for epoch in range(6):
        for x, y in loader():
            train_step(model, optimizer, x, y)
            if epoch == 0:
                warm.step()
        decay.step()
    return model, optimizer


@correct("schedule-out-of-step", style="small decays in each batch, and large ones after many")
def decays_in_each_batch(folder):
    results = []
    for kind in (
        lambda optimizer: schedulers.ExponentialLR(optimizer, 0.98),
        lambda optimizer: schedulers.StepLR(optimizer, 20),
        lambda optimizer: schedulers.PolynomialLR(optimizer, 6 * BATCHES),
        lambda optimizer: schedulers.OneCycleLR(optimizer, 0.2, epochs=6, steps_per_epoch=BATCHES),
    ):
        model = network()
        optimizer = sgd(model, 0.1)
        scheduler = kind(optimizer)
        for _ in range(6):
            for x, y in loader():
                train_step(model, optimizer, x, y)
                scheduler.step()
        results += [model, optimizer]
    return results


@correct("schedule-out-of-step", style="accumulation: at each optimizer step, and in a plan of micro-batches")
def accumulation_with_a_schedule(folder):
    results = []
    for per_micro in (False, True):
        model = network()
        optimizer = sgd(model, 0.1)
        scheduler = schedulers.CosineAnnealingLR(optimizer, 24 if per_micro else 12)
        for i, (x, y) in enumerate(batches(96) * 4):
            (F.cross_entropy(model(x), y) / 2).backward()
            if i % 2 == 1:
                optimizer.step()
                optimizer.zero_grad()
            if (per_micro and i) or i % 2 == 1:
                scheduler.step()
        results += [model, optimizer]
    return results


@correct("schedule-out-of-step", "scheduler-before-optimizer", style="several phases in one, each epoch")
def phases_in_one(folder):
    model = network()
    optimizer = sgd(model, 0.1)
    scheduler = schedulers.SequentialLR(
        optimizer,
        [
            schedulers.LinearLR(optimizer, 0.1, total_iters=2),
            schedulers.CosineAnnealingLR(optimizer, 4),
            schedulers.ConstantLR(optimizer, 0.01, 100),
        ],
        milestones=[2, 6],
    )
    for _ in range(8):
        for x, y in loader():
            train_step(model, optimizer, x, y)
        scheduler.step()
    return model, optimizer


@correct("schedule-out-of-step", style="one epoch, a schedule that goes on from before, a full batch")
def schedules_in_short_runs(folder):
    model = network()
    optimizer = sgd(model, 0.1)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    scheduler = schedulers.CosineAnnealingLR(optimizer, 10, last_epoch=5)
    for x, y in loader():
        train_step(model, optimizer, x, y)
    scheduler.step()
    x, y = rows()
    again = schedulers.CosineAnnealingLR(optimizer, 20)
    for _ in range(20):
        train_step(model, optimizer, x, y)
        again.step()
    return model, optimizer


@correct("scheduler-before-optimizer", "schedule-out-of-step", style="a resumed run that catches up")
def schedule_that_catches_up(folder):
    model = network()
    optimizer = sgd(model, 0.1)
    scheduler = schedulers.CosineAnnealingLR(optimizer, 12)
    with ignored():
        for _ in range(6):
            scheduler.step()
    for _ in range(6):
        for x, y in loader():
            train_step(model, optimizer, x, y)
        scheduler.step()
    return model, optimizer


@correct("scheduler-before-optimizer", "schedule-out-of-step", style="a linear decay planned in micro-batches")
def linear_decay_in_micro_batches(folder):
    model, data, epochs = network(), loader(128, 8), 4
    optimizer = adam(model)
    total = epochs * len(data)
    scheduler = schedulers.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total))
    for _ in range(epochs):
        for i, (x, y) in enumerate(data):
            (F.cross_entropy(model(x), y) / 4).backward()
            if (i + 1) % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()
            with ignored():
                scheduler.step()
    return model, optimizer


@correct("schedule-out-of-step", "missing-zero-grad", style="L-BFGS, mixed precision, a run that stops early")
def schedules_in_other_loops(folder):
    x, y = rows()
    linear = nn.Linear(SIZE, CLASSES)
    newton = torch.optim.LBFGS(linear.parameters(), lr=0.5, max_iter=3)
    scheduler = schedulers.CosineAnnealingLR(newton, 10)
    for _ in range(10):

        def closure():
            newton.zero_grad()
            loss = F.cross_entropy(linear(x), y)
            loss.backward()
            return loss

        newton.step(closure)
        scheduler.step()
    model, data = network(), loader()
    optimizer, scaler = sgd(model, 0.1), torch.amp.GradScaler("cpu", enabled=False)
    linear_decay = schedulers.PolynomialLR(optimizer, 20 * len(data))
    for epoch in range(20):
        for x, y in data:
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
            linear_decay.step()
        if epoch == 2:
            break
    return linear, newton, model, optimizer


# plateau-metric-reversed


def accuracy_of(model, data):
    right = total = 0
    model.eval()
    with torch.no_grad():
        for x, y in data:
            right += (model(x).argmax(1) == y).sum().item()
            total += len(y)
    model.train()
    return right / total


@faulty("plateau-metric-reversed", style="an accuracy with the default mode", evidence="an accuracy")
def plateau_of_an_accuracy(folder):
    model = network(nn.Dropout(0.1))
    optimizer = sgd(model, 0.05)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, patience=1)
    for _ in range(6):
        for x, y in loader():
            train_step(model, optimizer, x, y)
        scheduler.step(accuracy_of(model, loader(40)))  # <- plateau-metric-reversed
    return model, optimizer


@faulty("plateau-metric-reversed", style="a percentage from a class, labels in a dictionary")
def plateau_of_a_percentage(folder):
    class Runner:
        def __init__(self):
            self.model = Classifier(0.1)
            self.optimizer = adam(self.model, 0.01)
            self.schedule = schedulers.ReduceLROnPlateau(self.optimizer, "min", factor=0.5, patience=0)

        def fit(self):
            for x, y in batches():
                train_step(self.model, self.optimizer, x, y)

        @torch.inference_mode()
        def validate(self):
            self.model.eval()
            right, total = torch.tensor(0), 0
            dataset = [{"inputs": x, "labels": y} for x, y in zip(*rows(30), strict=True)]
            for batch in torch.utils.data.DataLoader(dataset, 7):
                logits = self.model(batch["inputs"])
                right += torch.eq(logits.max(dim=1).indices, batch["labels"]).sum()
                total += len(logits)
            self.model.train()
            return 100.0 * right / total

    runner = Runner()
    for _ in range(5):
        runner.fit()
        runner.schedule.step(runner.validate())  # <- plateau-metric-reversed
    return runner.model, runner.optimizer


@faulty("plateau-metric-reversed", style="mode max and the validation loss", evidence="mode='max'")
def plateau_of_a_loss_to_grow(folder):
    model = network()
    optimizer = sgd(model, 0.05)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, mode="max", patience=2)
    for _ in range(6):
        for x, y in loader():
            train_step(model, optimizer, x, y)
        model.eval()
        total = 0.0
        with torch.no_grad():
            for x, y in batches(48):
                total += F.cross_entropy(model(x), y).item()
        model.train()
        scheduler.step(total / 3)  # <- plateau-metric-reversed
    return model, optimizer


@faulty("plateau-metric-reversed", style="the number of the epoch", evidence="a counter")
def plateau_of_the_epoch(folder):
    model = network()
    optimizer = sgd(model, 0.05)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, patience=1)
    for epoch in range(6):
        for x, y in batches():
            train_step(model, optimizer, x, y)
        scheduler.step(epoch)  # <- plateau-metric-reversed
    return model, optimizer


@correct("plateau-metric-reversed", style="accuracies and losses, each with the right sign")
def plateaus_with_the_right_sign(folder):
    results = []
    for mode, sign in (("max", lambda a: a), ("min", lambda a: -a), ("min", lambda a: 1 - a)):
        model = network()
        optimizer = sgd(model, 0.05)
        scheduler = schedulers.ReduceLROnPlateau(optimizer, mode, patience=1)
        for _ in range(6):
            for x, y in loader():
                train_step(model, optimizer, x, y)
            scheduler.step(sign(accuracy_of(model, loader(40))))
        results += [model, optimizer]
    return results


@correct("plateau-metric-reversed", style="a validation loss and an error rate that rise: overfitting")
def plateau_while_overfitting(folder):
    results = []
    for counted in (False, True):
        x, y = torch.randn(16, SIZE), torch.randint(CLASSES, (16,))
        other, labels = torch.randn(40, SIZE), torch.randint(CLASSES, (40,))
        model = nn.Sequential(nn.Linear(SIZE, 32), nn.ReLU(), nn.Linear(32, CLASSES))
        optimizer = adam(model, 0.02)
        scheduler = schedulers.ReduceLROnPlateau(optimizer, patience=3)
        for _ in range(12):
            for _ in range(4):
                train_step(model, optimizer, x, y)
            with torch.no_grad():
                logits = model.eval()(other)
                wrong = 1 - accuracy(logits, labels)
                loss = -logits.log_softmax(1)[range(40), labels].mean()
            model.train()
            scheduler.step(wrong if counted else loss)
        results += [model, optimizer]
    return results


@correct("plateau-metric-reversed", "schedule-out-of-step", style="the training loss, in each batch")
def plateau_of_each_batch(folder):
    model = network()
    optimizer = sgd(model, 0.05)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, patience=20)
    for x, y in batches() * 8:
        scheduler.step(train_step(model, optimizer, x, y).item())
    return model, optimizer


@correct("plateau-metric-reversed", style="a reward that grows, and a likelihood")
def plateau_of_a_reward(folder):
    model = network()
    optimizer = adam(model, 0.01)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, "max", patience=1)
    for _ in range(5):
        total = 0.0
        for x, y in batches():
            total -= train_step(model, optimizer, x, y).item()
        with contextlib.suppress(StopIteration):
            scheduler.step(total / BATCHES)
    return model, optimizer
