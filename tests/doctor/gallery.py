"""Real mistakes and real styles from public repositories, rewritten in our own lines on tiny data.

`BUGS` were reported in those repositories, and all but two (bytetriper/RAE, lanpa/tensorboardX) admitted or repaired
there; each docstring begins with the repository and the number of the issue or pull request in which that can be read.
`STYLES` are correct loops in the shape of well-known code. `LIMITS` are real mistakes that the doctor cannot see; their
docstrings say why. Where the original prints a number, a SummaryWriter logs it here: the doctor reads what is logged,
not what is printed.
"""

import copy
import itertools
import math
import random
import warnings
from collections import deque, namedtuple
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from case_parts import (
    BATCHES,
    CLASSES,
    ROWS,
    SIZE,
    Case,
    Classifier,
    accuracy,
    adam,
    batches,
    loader,
    network,
    rows,
    sgd,
    stream,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

BUGS: list[Case] = []
STYLES: list[Case] = []
LIMITS: list[Case] = []


def bug(*codes: str) -> Callable:
    """Register a real mistake; the line that the doctor must name is marked with `# <- code`."""

    def register(run: Callable) -> Callable:
        BUGS.append(Case(run.__name__, codes, run.__doc__.splitlines()[0], run))
        return run

    return register


def style(run: Callable) -> Callable:
    """Register a real, correct style."""
    STYLES.append(Case(run.__name__, (), run.__doc__.splitlines()[0], run))
    return run


def limit(run: Callable) -> Callable:
    """Register a real mistake that the doctor does not see."""
    LIMITS.append(Case(run.__name__, (), run.__doc__.splitlines()[0], run))
    return run


# Mistakes.


@bug("missing-zero-grad")
def court_detector(folder):
    """yastrebksv/TennisCourtDetector#7: the function that trains an epoch never clears the gradients."""
    model = nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer, criterion = adam(model, 1e-4), nn.MSELoss()

    def train(max_batches):
        model.train()
        losses = []
        for number, (x, _) in enumerate(loader()):
            heatmap = model(x)
            loss = criterion(heatmap, x[:, :4].sigmoid())
            loss.backward()  # <- missing-zero-grad
            optimizer.step()
            losses.append(loss.item())
            if number >= max_batches:
                break
        return sum(losses) / len(losses)

    return [train(4) for _ in range(4)], model


@bug("missing-zero-grad")
def keyword_spotting(folder):
    """wenet-e2e/wekws#73 (a bug, says the maintainer in #72): an executor that clips, steps and never clears."""

    class Executor:
        def __init__(self):
            self.step = 0

        def train(self, model, optimizer, data, *, clip):
            model.train()
            for x, y in data:
                loss = F.cross_entropy(model(x), y)
                loss.backward()  # <- missing-zero-grad
                norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
                if torch.isfinite(norm):
                    optimizer.step()
                self.step += 1

    model, executor = Classifier(dropout=0.1), Executor()
    optimizer = adam(model)
    for _ in range(3):
        executor.train(model, optimizer, loader(), clip=5.0)
    return model


@bug("missing-zero-grad")
def inversion_discriminator(folder):
    """Hsintien-Ng/idinvert_pytorch-reproduced#1: the encoder's optimizer is cleared, the discriminator's is not."""
    encoder, judge = nn.Linear(SIZE, SIZE), nn.Sequential(nn.Linear(SIZE, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer_e, optimizer_d = adam(encoder, 1e-4), adam(judge, 1e-4)
    for x, _ in batches() * 3:
        rebuilt = encoder(x)
        loss_e = F.mse_loss(rebuilt, x) + 0.1 * F.softplus(-judge(rebuilt)).mean()
        optimizer_e.zero_grad()
        loss_e.backward()
        optimizer_e.step()

        loss_d = F.softplus(judge(encoder(x).detach())).mean() + F.softplus(-judge(x)).mean()
        loss_d.backward()  # <- missing-zero-grad
        optimizer_d.step()
    return encoder, judge


@bug("zero-grad-before-step")
def cleared_per_micro_batch(folder):
    """bytetriper/RAE#67: zero_grad() is inside the loop over micro-batches, so only the last of them counts."""
    model, k = network(), 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        for i, (x, y) in enumerate(loader()):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(x), y) / k
            loss.backward()  # <- zero-grad-before-step
            if (i + 1) % k == 0:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
    return model


@bug("missing-step")
def refocusing(folder):
    """tedlasai/learn2refocus#5: backward(), the scheduler and zero_grad(), and no step() of the optimizer."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x, y in batches() * 3:
            loss = F.cross_entropy(model(x), y)
            loss.backward()  # <- missing-step
            schedule.step()
            optimizer.zero_grad()
    return model


@bug("missing-step")
def inpainting(folder):
    """zhaoyuzhi/deepfillv2#6: the discriminator's loss goes backward, and its optimizer never steps."""
    maker, judge = nn.Linear(4, SIZE), nn.Linear(SIZE, 1)
    optimizer_g, optimizer_d = adam(maker), adam(judge)
    for x, _ in batches() * 3:
        fake = maker(torch.randn(len(x), 4))
        optimizer_d.zero_grad()
        loss_d = (
            -torch.min(torch.zeros(1), judge(x) - 1).mean()
            - torch.min(torch.zeros(1), -judge(fake.detach()) - 1).mean()
        )
        loss_d.backward()  # <- missing-step
        optimizer_g.zero_grad()
        loss_g = F.l1_loss(fake, x) - judge(fake).mean()
        loss_g.backward()
        optimizer_g.step()
    return maker, judge


@bug("missing-backward")
def season_invariant_localization(folder):
    """aalto-intelligent-robotics/sivl#2: the line with backward() was deleted when the code was tidied up."""
    model = nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = adam(model)
    for _ in range(3):
        model.train()
        running = 0.0
        for x, _ in loader():
            optimizer.zero_grad()
            anchor, same, other = model(x), model(x + 0.1), model(x.flip(0))
            loss = F.triplet_margin_loss(anchor, same, other)
            optimizer.step()  # <- missing-backward
            running += loss.item()
    return model


@bug("optimizer-of-another-model")
def names_by_characters(folder):
    """spro/practical-pytorch#9: the model is created a second time, after the optimizer."""
    model = network()
    optimizer = sgd(model, 0.005)

    def train(x, y):
        model.zero_grad()
        loss = F.nll_loss(F.log_softmax(model(x), dim=1), y)
        loss.backward()
        optimizer.step()  # <- optimizer-of-another-model
        return loss.item()

    model = network()
    return [train(x, y) for x, y in batches() * 3], model


@bug("parameters-not-optimized")
def entity_recognition(folder):
    """zjunlp/HVPNeT#5: the group of the last layers is filled, and never appended to the list of groups."""

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.bert, self.prompt = nn.Linear(SIZE, 16), nn.Linear(16, 16)
            self.fc = nn.Linear(16, CLASSES)

        def forward(self, x):
            return self.fc(self.prompt(self.bert(x).tanh()).tanh())

    model, groups = Tagger(), []
    for part, lr in (("bert", 1e-4), ("prompt", 1e-3)):
        groups.append({"lr": lr, "params": [p for name, p in model.named_parameters() if name.startswith(part)]})
    group = {"lr": 5e-2, "params": []}
    for name, parameter in model.named_parameters():
        if name.startswith("fc"):
            group["params"].append(parameter)
    optimizer = torch.optim.AdamW(groups)  # <- parameters-not-optimized
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


@bug("parameters-not-optimized")
def cells_in_a_list(folder):
    """ikostrikov/pytorch-meta-optimizer#11: the recurrent cells are appended to a Python list and are not trained."""

    class Meta(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(1, 8), nn.Linear(8, CLASSES)
            self.cells = []
            for _ in range(2):
                self.cells.append(nn.LSTMCell(8, 8))

        def forward(self, x):
            states = [None] * len(self.cells)
            for value in x.split(1, dim=1):
                h = self.first(value)
                for i, cell in enumerate(self.cells):
                    states[i] = cell(h, states[i])
                    h = states[i][0]
            return self.last(h)

    model = Meta()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)  # <- parameters-not-optimized
    for x, y in batches() * 2:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


@bug("repeated-step")
def captured_step(folder):
    """NVIDIA/physicsnemo#1911: a wrapper of the training step has already stepped when the loop steps."""
    model = network()
    optimizer = adam(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)

    def captured(x, y):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(3):
        for x, y in loader():
            captured(x, y)
            optimizer.step()  # <- repeated-step
        schedule.step()
    return model


@bug("accumulation-tail-dropped")
def detector(folder):
    """ultralytics/ultralytics#11217: zero_grad() at the start of an epoch throws away what was gathered at its end."""
    model, accumulate = network(), 4
    optimizer, last_step, seen = sgd(model), -1, 0
    for _ in range(4):
        optimizer.zero_grad()
        for x, y in loader():
            loss = F.cross_entropy(model(x), y) / accumulate
            loss.backward()  # <- accumulation-tail-dropped
            if seen - last_step >= accumulate:
                nn.utils.clip_grad_norm_(model.parameters(), 10.0)
                optimizer.step()
                optimizer.zero_grad()
                last_step = seen
            seen += 1
        last_step = seen - 1
    return model


@bug("accumulation-not-scaled")
def small_gpt(folder):
    """karpathy/nanoGPT#168: the losses of the micro-steps are not divided by their number."""
    model, k = network(), 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    data = stream()
    x, y = next(data)
    for _ in range(8):
        for _ in range(k):
            loss = F.cross_entropy(model(x), y)
            x, y = next(data)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()  # <- accumulation-not-scaled
        optimizer.zero_grad(set_to_none=True)
    return model


@bug("loss-never-reset")
def autoencoder(folder):
    """L1aoXingyu/pytorch-beginner#40: the total starts before all epochs and goes on through them."""
    model = nn.Sequential(nn.Linear(SIZE, 4), nn.ReLU(), nn.Linear(4, SIZE))
    optimizer, total_loss = adam(model), 0
    with SummaryWriter(folder) as writer:
        for epoch in range(4):
            for x, _ in loader():
                loss = F.mse_loss(model(x), x)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total_loss += loss.data
            writer.add_scalar("loss", total_loss, epoch)  # <- loss-never-reset
    return model


@bug("wrong-divisor")
def survival(folder):
    """mahmoodlab/PathomicFusion#3: the batches' means are divided by the number of samples."""
    model = network()
    optimizer = adam(model)
    data = loader(shuffle=True)
    with SummaryWriter(folder) as writer:
        for epoch in range(4):
            loss_epoch = 0.0
            for x, y in data:
                loss = F.nll_loss(F.log_softmax(model(x), dim=1), y)
                loss_epoch += loss.data.item()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss_epoch /= len(data.dataset)
            writer.add_scalar("train/loss", loss_epoch, epoch)  # <- wrong-divisor
    return model


@bug("wrong-divisor")
def quickstart_test_loss(folder):
    """pytorch/tutorials#1486: the test loss of the quickstart is divided by the number of samples."""
    model, loss_fn = network(), nn.CrossEntropyLoss()
    optimizer = sgd(model)

    def test(data):
        size, test_loss, correct = len(data.dataset), 0, 0
        model.eval()
        with torch.no_grad():
            for x, y in data:
                pred = model(x)
                test_loss += loss_fn(pred, y).item()
                correct += (pred.argmax(1) == y).type(torch.float).sum().item()
        return test_loss / size, correct / size

    with SummaryWriter(folder) as writer:
        for epoch in range(4):
            model.train()
            for x, y in loader():
                optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                optimizer.step()
            loss, share = test(loader(60))
            writer.add_scalar("test/accuracy", share, epoch)
            writer.add_scalar("test/loss", loss, epoch)  # <- wrong-divisor
    return model


@bug("wrong-divisor")
def audio_trainer(folder):
    """autrainer/autrainer#125: the validation's sum is divided by the number of batches plus one."""
    model, criterion = network(), nn.CrossEntropyLoss()
    optimizer = sgd(model)

    def evaluate(data):
        model.eval()
        losses = 0.0
        with torch.no_grad():
            for x, y in data:
                losses += criterion(model(x), y).item()
        model.train()
        return losses / (len(data) + 1)

    with SummaryWriter(folder) as writer:
        for epoch in range(4):
            for x, y in loader():
                optimizer.zero_grad()
                criterion(model(x), y).backward()
                optimizer.step()
            writer.add_scalar("dev_loss", evaluate(loader(60)), epoch)  # <- wrong-divisor
    return model


@bug("scheduler-before-optimizer")
def single_shot_detector(folder):
    """lufficc/SSD#98: in each iteration the scheduler steps first."""
    model = network()
    optimizer = sgd(model, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 12])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x, y in batches() * 3:
            scheduler.step()  # <- scheduler-before-optimizer
            losses = {"cls": F.cross_entropy(model(x), y), "reg": 0.01 * model(x).square().mean()}
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


@bug("validation-builds-graph")
def net_validation(folder):
    """skorch-dev/skorch#218: the validation step sets eval mode and leaves the gradients on."""

    class Net:
        def __init__(self):
            self.module = network(nn.Dropout(0.2))
            self.optimizer = sgd(self.module)

        def train_step(self, x, y):
            self.module.train()
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.module(x), y)
            loss.backward()
            self.optimizer.step()
            return loss.item()

        def validation_step(self, x, y):
            self.module.eval()
            return F.cross_entropy(self.module(x), y).item()  # <- validation-builds-graph

    net = Net()
    for _ in range(3):
        for x, y in loader():
            net.train_step(x, y)
        for x, y in loader(40):
            net.validation_step(x, y)
    return net.module


@bug("writer-left-open")
def fine_tuning(folder):
    """huggingface/transformers#779: the script never closes its writer, and the last points do not appear."""
    model = network()
    optimizer = adam(model)
    writer = SummaryWriter(folder)  # <- writer-left-open
    total, logged, step = 0.0, 0.0, 0
    for _ in range(2):
        for x, y in loader():
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            total += loss.item()
            optimizer.step()
            model.zero_grad()
            step += 1
            if step % 3 == 0:
                writer.add_scalar("loss", (total - logged) / 3, step)
                logged = total
    return model


@bug("writer-closed-early")
def closed_to_be_seen(folder):
    """lanpa/tensorboardX#438: close() after each point, because nothing appeared on the board without it."""

    class Board:
        def __init__(self):
            self.writer = SummaryWriter(folder)

        def log(self, tag, value, step):
            self.writer.add_scalar(tag, value, step)
            self.writer.close()  # <- writer-closed-early

    model, board = network(), Board()
    optimizer = sgd(model)
    for epoch in range(4):
        total = 0.0
        for x, y in loader():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        board.log("loss", total / BATCHES, epoch)
    return model


@bug("loss-not-finite")
def focal_loss(folder):
    """mathiaszinnen/focal_loss_torch#3: the logarithm of a probability that may be zero."""
    model = nn.Linear(SIZE, CLASSES)
    optimizer = sgd(model, 0.01)
    for x, y in batches() * 2:
        probabilities = (60 * model(x)).softmax(1)
        p = probabilities.gather(1, y[:, None])
        loss = (-((1 - p) ** 2) * p.log()).mean()
        optimizer.zero_grad()
        loss.backward()  # <- loss-not-finite
        optimizer.step()
    return model


@bug("graph-kept-alive")
def label_model(folder):
    """BatsResearch/labelmodels#4: the running loss is a sum of tensors that are not detached."""
    model = network()
    optimizer = adam(model)
    for _ in range(2):
        running_loss = 0.0
        for x, y in batches() * 3:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            running_loss += loss  # <- graph-kept-alive
    return model


@bug("graph-kept-alive")
def depth_outputs(folder):
    """TRI-ML/packnet-sfm#51: each training step's loss is appended to a list of outputs with its graph."""

    class Wrapper:
        def __init__(self):
            self.model = network()
            self.optimizer = adam(self.model)

        def training_step(self, batch):
            x, y = batch
            return {"loss": F.cross_entropy(self.model(x), y), "metrics": {}}

    wrapper, outputs = Wrapper(), []
    for _ in range(3):
        for batch in loader():
            wrapper.optimizer.zero_grad()
            output = wrapper.training_step(batch)
            output["loss"].backward()
            wrapper.optimizer.step()
            outputs.append(output)  # <- graph-kept-alive
    return wrapper.model, len(outputs)


@bug("softmax-before-cross-entropy")
def activity_recognition(folder):
    """jindongwang/Deep-learning-activity-recognition#10: forward ends with a softmax, the loss is CrossEntropyLoss."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.MaxPool1d(2))
            self.fc = nn.Linear(12, CLASSES)

        def forward(self, x):
            return F.softmax(self.fc(self.conv(x[:, None]).flatten(1)), dim=1)

    model, criterion = Network(), nn.CrossEntropyLoss()
    optimizer = sgd(model, momentum=0.9)
    for x, y in batches() * 3:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # <- softmax-before-cross-entropy
        optimizer.step()
    return model


@bug("softmax-before-cross-entropy")
def logistic_regression(folder):
    """Lightning-Universe/lightning-bolts#654: the loss takes the log-softmax of what is a softmax already."""

    class LogisticRegression(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(SIZE, CLASSES)

        def forward(self, x):
            return F.softmax(self.linear(x), dim=-1)

    model = LogisticRegression()
    optimizer = adam(model)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        loss = F.nll_loss(F.log_softmax(model(x), dim=-1), y)
        loss.backward()  # <- softmax-before-cross-entropy
        optimizer.step()
    return model


@bug("eval-mode-while-training")
def trial(folder):
    """optuna/optuna#1725: train() is called before the epochs, eval() in each of them."""
    model = nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, CLASSES), nn.LogSoftmax(dim=1))
    optimizer = adam(model)
    model.train()
    for _ in range(3):
        for x, y in loader():
            optimizer.zero_grad()
            F.nll_loss(model(x), y).backward()  # <- eval-mode-while-training
            optimizer.step()
        model.eval()
        with torch.no_grad():
            correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in loader(40))
    return model, correct


@bug("eval-mode-while-training")
def segmentation(folder):
    """wkentaro/pytorch-fcn#57: a validation in the middle of an epoch leaves the model in eval mode."""

    class Trainer:
        def __init__(self):
            self.model = network(nn.BatchNorm1d(16))
            self.optim = sgd(self.model)
            self.iteration = 0

        def validate(self):
            self.model.eval()
            with torch.no_grad():
                for x, _ in loader(40):
                    self.model(x)

        def train_epoch(self):
            self.model.train()
            for x, y in loader():
                self.iteration += 1
                if self.iteration % 4 == 0:
                    self.validate()
                self.optim.zero_grad()
                F.cross_entropy(self.model(x), y).backward()  # <- eval-mode-while-training
                self.optim.step()

    trainer = Trainer()
    for _ in range(3):
        trainer.train_epoch()
    return trainer.model


# Mistakes that the doctor does not see.


@limit
def divided_twice(folder):
    """BottleCapAI/NoCap-Test#2: micro-losses that were already divided for backward() are added and divided again.

    What is logged is the mean of the numbers from which backward() began, so it reads as a mean.
    """
    model, k = network(), 3
    optimizer = adam(model)
    data = stream()
    with SummaryWriter(folder) as writer:
        for step in range(8):
            train_loss = 0.0
            for _ in range(k):
                x, y = next(data)
                loss = F.cross_entropy(model(x), y) / k
                train_loss += loss.detach()
                loss.backward()
            train_loss /= k
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            writer.add_scalar("loss", train_loss, step)
    return model


@limit
def last_batch_only(folder):
    """lucidrains/med-seg-diff-pytorch#17: what is called the loss of the epoch is the last batch's.

    `doctor.curves` says so; it is not reported, because one batch's loss is what many people want to log.
    """
    model = network()
    optimizer = adam(model)
    with SummaryWriter(folder) as writer:
        for epoch in range(4):
            for x, y in loader():
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
            writer.add_scalar("epoch_loss", loss.item(), epoch)
    return model


@limit
def printed_loss(folder):
    """kazuto1011/svm-pytorch#4: the sum of the batches' means is divided by the number of samples, and printed.

    The doctor reads what a SummaryWriter is given, not what is printed.
    """
    x, y = rows()
    model, printed = nn.Linear(SIZE, 1), []
    optimizer = sgd(model)
    for _ in range(3):
        sum_loss, order = 0.0, torch.randperm(ROWS)
        for start in range(0, ROWS, 16):
            chosen = order[start : start + 16]
            optimizer.zero_grad()
            margin = 1 - (2.0 * (y[chosen] > 0) - 1) * model(x[chosen])[:, 0]
            loss = margin.clamp(min=0).mean() + 0.01 * model.weight.square().sum() / 2
            loss.backward()
            optimizer.step()
            sum_loss += loss.item()
        printed.append(f"loss: {sum_loss / ROWS:.4f}")
    return model, printed


# Styles.


@style
def nanogpt(folder):
    """karpathy/nanoGPT: train.py with micro-steps, a scaler that is off, warm-up and decay by hand."""
    vocabulary, context, k, max_iters = 11, 6, 3, 10
    text = torch.randint(vocabulary, (200,))
    model = nn.Sequential(nn.Embedding(vocabulary, 8), nn.Dropout(0.1), nn.Linear(8, vocabulary))
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    scaler, context_of_type = torch.amp.GradScaler("cpu", enabled=False), nullcontext()

    def get_batch():
        starts = torch.randint(len(text) - context, (4,)).tolist()
        return tuple(torch.stack([text[i + d : i + d + context] for i in starts]) for d in (0, 1))

    def loss_of(logits, targets):
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))

    @torch.no_grad()
    def estimate_loss():
        out = {}
        model.eval()
        for split in ("train", "val"):
            losses = torch.zeros(3)
            for i in range(3):
                x, y = get_batch()
                with context_of_type:
                    losses[i] = loss_of(model(x), y).item()
            out[split] = losses.mean()
        model.train()
        return out

    def rate(step):
        return 1e-3 * (step + 1) / 3 if step < 3 else 1e-4 + 0.45e-3 * (1 + math.cos(math.pi * (step - 3) / max_iters))

    with SummaryWriter(folder) as writer:
        x, y = get_batch()
        for step in range(max_iters):
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            if step % 4 == 0:
                writer.add_scalars("loss", estimate_loss(), step)
            for _ in range(k):
                with context_of_type:
                    loss = loss_of(model(x), y) / k
                x, y = get_batch()
                scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            writer.add_scalar("iter/loss", loss.item() * k, step)
    return model


@style
def mnist(folder):
    """pytorch/examples, mnist: log-softmax and NLL, Adadelta, a test loss summed and divided by all samples."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.dropout, self.fc = nn.Conv1d(1, 4, 3), nn.Dropout(0.25), nn.Linear(12, CLASSES)

        def forward(self, x):
            x = F.max_pool1d(F.relu(self.conv(x[:, None])), 2)
            return F.log_softmax(self.fc(torch.flatten(self.dropout(x), 1)), dim=1)

    model = Net()
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    test_data = loader(40, 32)
    with SummaryWriter(folder) as writer:
        for epoch in range(1, 4):
            model.train()
            for number, (x, y) in enumerate(loader(shuffle=True)):
                optimizer.zero_grad()
                loss = F.nll_loss(model(x), y)
                loss.backward()
                optimizer.step()
                if number % 3 == 0:
                    writer.add_scalar("train", loss.item(), epoch * BATCHES + number)
            model.eval()
            test_loss = correct = 0
            with torch.no_grad():
                for x, y in test_data:
                    output = model(x)
                    test_loss += F.nll_loss(output, y, reduction="sum").item()
                    correct += output.argmax(dim=1, keepdim=True).eq(y.view(-1, 1)).sum().item()
            test_loss /= len(test_data.dataset)
            writer.add_scalar("test", test_loss, epoch)
            scheduler.step()
    return model, correct


@style
def dcgan(folder):
    """pytorch/examples, dcgan: two backward calls for the discriminator, then the generator through it."""
    maker = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, SIZE))
    judge = nn.Sequential(nn.Linear(SIZE, 16), nn.BatchNorm1d(16), nn.LeakyReLU(0.2), nn.Linear(16, 1), nn.Sigmoid())
    criterion, fixed = nn.BCELoss(), torch.randn(5, 4)
    optimizer_d = torch.optim.Adam(judge.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_g = torch.optim.Adam(maker.parameters(), lr=2e-4, betas=(0.5, 0.999))
    numbers = []
    for _ in range(3):
        for i, (real, _) in enumerate(loader()):
            judge.zero_grad()
            label = torch.full((len(real),), 1.0)
            output = judge(real)[:, 0]
            error_real = criterion(output, label)
            error_real.backward()
            fake = maker(torch.randn(len(real), 4))
            label.fill_(0.0)
            error_fake = criterion(judge(fake.detach())[:, 0], label)
            error_fake.backward()
            error_d = error_real + error_fake
            optimizer_d.step()
            maker.zero_grad()
            label.fill_(1.0)
            error_g = criterion(judge(fake)[:, 0], label)
            error_g.backward()
            optimizer_g.step()
            numbers.append((error_d.item(), error_g.item(), output.mean().item()))
            if i % 5 == 0:
                shown = maker(fixed).detach()
    return maker, judge, numbers, shown


@style
def vae(folder):
    """pytorch/examples, vae: a summed loss divided by the size of the data set."""

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc21, self.fc22 = nn.Linear(SIZE, 12), nn.Linear(12, 2), nn.Linear(12, 2)
            self.fc3, self.fc4 = nn.Linear(2, 12), nn.Linear(12, SIZE)

        def forward(self, x):
            h = F.relu(self.fc1(x))
            mean, log_variance = self.fc21(h), self.fc22(h)
            z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
            return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mean, log_variance

    def loss_function(rebuilt, x, mean, log_variance):
        difference = F.binary_cross_entropy(rebuilt, x, reduction="sum")
        return difference - 0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())

    model, train_data, test_data = VAE(), loader(shuffle=True), loader(40)
    optimizer = adam(model)
    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            model.train()
            train_loss = 0
            for number, (data, _) in enumerate(train_data):
                data = data.sigmoid()
                optimizer.zero_grad()
                rebuilt, mean, log_variance = model(data)
                loss = loss_function(rebuilt, data, mean, log_variance)
                loss.backward()
                train_loss += loss.item()
                optimizer.step()
                if number % 3 == 0:
                    writer.add_scalar("batch", loss.item() / len(data), epoch * BATCHES + number)
            writer.add_scalar("train", train_loss / len(train_data.dataset), epoch)
            model.eval()
            test_loss = 0
            with torch.no_grad():
                for data, _ in test_data:
                    data = data.sigmoid()
                    rebuilt, mean, log_variance = model(data)
                    test_loss += loss_function(rebuilt, data, mean, log_variance).item()
            writer.add_scalar("test", test_loss / len(test_data.dataset), epoch)
    return model


@style
def word_language_model(folder):
    """pytorch/examples, word_language_model: state cut off per window, SGD by hand, the loss of an interval."""

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.encoder = nn.Dropout(0.2), nn.Embedding(13, 8)
            self.rnn, self.decoder = nn.LSTM(8, 8, num_layers=2, dropout=0.2), nn.Linear(8, 13)

        def forward(self, words, hidden):
            output, hidden = self.rnn(self.drop(self.encoder(words)), hidden)
            return F.log_softmax(self.decoder(self.drop(output)).view(-1, 13), dim=1), hidden

    def repackage(hidden):
        return hidden.detach() if isinstance(hidden, torch.Tensor) else tuple(repackage(part) for part in hidden)

    def windows(source, length=5):
        for start in range(0, len(source) - 1, length):
            stop = min(start + length, len(source) - 1)
            yield source[start:stop], source[start + 1 : stop + 1].view(-1)

    model, criterion, lr, best = Words(), nn.NLLLoss(), 2.0, None
    train_words, valid_words = torch.randint(13, (62, 4)), torch.randint(13, (21, 4))

    def fresh():
        return torch.zeros(2, 4, 8), torch.zeros(2, 4, 8)

    def evaluate():
        model.eval()
        total, hidden = 0.0, fresh()
        with torch.no_grad():
            for words, targets in windows(valid_words):
                output, hidden = model(words, hidden)
                hidden = repackage(hidden)
                total += len(words) * criterion(output, targets).item()
        return total / (len(valid_words) - 1)

    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            model.train()
            total, hidden, interval = 0.0, fresh(), 4
            for batch, (words, targets) in enumerate(windows(train_words)):
                model.zero_grad()
                hidden = repackage(hidden)
                output, hidden = model(words, hidden)
                loss = criterion(output, targets)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.25)
                for p in model.parameters():
                    p.data.add_(p.grad, alpha=-lr)
                total += loss.item()
                if batch % interval == 0 and batch > 0:
                    writer.add_scalar("interval", total / interval, epoch * 13 + batch)
                    total = 0
            valid_loss = evaluate()
            writer.add_scalar("valid", valid_loss, epoch)
            if best is None or valid_loss < best:
                best = valid_loss
            else:
                lr /= 4.0
    return model


@style
def time_sequence(folder):
    """pytorch/examples, time_sequence_prediction: LBFGS over all data at once, then a look into the future."""

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm1, self.lstm2, self.linear = nn.LSTMCell(1, 5), nn.LSTMCell(5, 5), nn.Linear(5, 1)

        def forward(self, values, future=0):
            states = [torch.zeros(len(values), 5, dtype=torch.double) for _ in range(4)]
            outputs = []
            for value in [*values.split(1, dim=1), *[None] * future]:
                value = outputs[-1] if value is None else value
                states[:2] = self.lstm1(value, tuple(states[:2]))
                states[2:] = self.lstm2(states[0], tuple(states[2:]))
                outputs.append(self.linear(states[2]))
            return torch.cat(outputs, dim=1)

    waves = torch.sin(torch.arange(12, dtype=torch.double) / 3 + torch.rand(4, 1, dtype=torch.double))
    inputs, target = waves[1:, :-1], waves[1:, 1:]
    model, criterion, seen = Sequence().double(), nn.MSELoss(), []
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.8, max_iter=5)
    for _ in range(3):

        def closure():
            optimizer.zero_grad()
            loss = criterion(model(inputs), target)
            seen.append(loss.item())
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            prediction = model(waves[:1, :-1], future=6)
            loss = criterion(prediction[:, :-6], waves[:1, 1:])
    return model, seen, loss


@style
def reinforce(folder):
    """pytorch/examples, reinforce: log-probabilities of an episode are kept until it ends."""
    policy = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.1), nn.ReLU(), nn.Linear(16, 2), nn.Softmax(dim=-1))
    optimizer = adam(policy, 1e-2)
    running_reward = 10.0
    for _ in range(8):
        state, log_probs, rewards = torch.randn(4), [], []
        for t in range(12):
            choice = torch.distributions.Categorical(policy(state[None]))
            action = choice.sample()
            log_probs.append(choice.log_prob(action))
            state = 0.9 * state + 0.1 * torch.randn(4) + 0.05 * action.item()
            rewards.append(1.0 - t / 12)
        running_reward = 0.05 * sum(rewards) + 0.95 * running_reward
        total, returns = 0.0, deque()
        for reward in reversed(rewards):
            total = reward + 0.99 * total
            returns.appendleft(total)
        returns = torch.tensor(returns)
        returns = (returns - returns.mean()) / (returns.std() + 1e-6)
        policy_loss = [-log_prob * value for log_prob, value in zip(log_probs, returns, strict=True)]
        optimizer.zero_grad()
        torch.cat(policy_loss).sum().backward()
        optimizer.step()
    return policy, running_reward


@style
def actor_critic(folder):
    """pytorch/examples, actor_critic: one network with two heads, two kinds of losses stacked and summed."""
    Saved = namedtuple("Saved", ["log_prob", "value"])

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.base, self.actor, self.critic = nn.Linear(4, 16), nn.Linear(16, 2), nn.Linear(16, 1)
            self.saved, self.rewards = [], []

        def forward(self, x):
            x = F.relu(self.base(x))
            return F.softmax(self.actor(x), dim=-1), self.critic(x)

    model = Policy()
    optimizer = adam(model, 3e-2)
    for _ in range(6):
        state = torch.randn(4)
        for _ in range(10):
            probabilities, value = model(state)
            choice = torch.distributions.Categorical(probabilities)
            action = choice.sample()
            model.saved.append(Saved(choice.log_prob(action), value))
            model.rewards.append(float(action))
            state = torch.randn(4)
        total, returns = 0.0, []
        for reward in model.rewards[::-1]:
            total = reward + 0.99 * total
            returns.insert(0, total)
        returns = torch.tensor(returns)
        returns = (returns - returns.mean()) / (returns.std() + 1e-6)
        policy_losses, value_losses = [], []
        for (log_prob, value), wanted in zip(model.saved, returns, strict=True):
            policy_losses.append(-log_prob * (wanted - value.item()))
            value_losses.append(F.smooth_l1_loss(value, wanted[None]))
        optimizer.zero_grad()
        loss = torch.stack(policy_losses).sum() + torch.stack(value_losses).sum()
        loss.backward()
        optimizer.step()
        del model.rewards[:], model.saved[:]
    return model


@style
def miniai(folder):
    """fastai/course22p2, miniai: a learner whose steps are callbacks; single letters are attributes."""

    class CancelBatch(Exception):
        pass

    class TrainCB:
        def predict(self, learn):
            learn.preds = learn.model(learn.batch[0])

        def get_loss(self, learn):
            learn.loss = F.cross_entropy(learn.preds, learn.batch[1])

        def backward(self, learn):
            learn.loss.backward()

        def step(self, learn):
            learn.opt.step()

        def zero_grad(self, learn):
            learn.opt.zero_grad()

    class MetricsCB:
        def __init__(self):
            self.history = []

        def before_epoch(self, learn):
            self.total, self.count = 0.0, 0

        def after_batch(self, learn):
            n = len(learn.batch[1])
            self.total, self.count = self.total + learn.loss.detach() * n, self.count + n

        def after_epoch(self, learn):
            self.history.append(float(self.total / self.count))
            learn.writer.add_scalar(f"loss/{learn.training}", self.total / self.count, len(self.history))

    class Learner:
        def __init__(self, model, data, callbacks):
            self.model, self.data, self.callbacks = model, data, callbacks
            self.opt, self.writer = sgd(model, 0.1), SummaryWriter(folder)

        def __getattr__(self, name):
            if name not in ("predict", "get_loss", "backward", "step", "zero_grad"):
                raise AttributeError(name)
            return lambda: self.callback(name)

        def callback(self, name):
            for each in self.callbacks:
                getattr(each, name, lambda learn: None)(self)

        def one_epoch(self, training):
            self.training = training
            self.model.train(training)
            self.callback("before_epoch")
            for batch in self.data[0 if training else 1]:
                self.batch = batch
                try:
                    self.predict()
                    self.get_loss()
                    if training:
                        self.backward()
                        self.step()
                        self.zero_grad()
                    self.callback("after_batch")
                except CancelBatch:
                    continue
            self.callback("after_epoch")

        def fit(self, epochs):
            for _ in range(epochs):
                self.one_epoch(True)
                with torch.no_grad():
                    self.one_epoch(False)
            self.writer.close()

    metrics = MetricsCB()
    learner = Learner(network(nn.BatchNorm1d(16)), (loader(), loader(40)), [TrainCB(), metrics])
    learner.fit(3)
    return learner.model, metrics.history


@style
def fairseq(folder):
    """facebookresearch/fairseq: summed losses over an update's micro-batches, gradients divided by their samples."""
    model = network(nn.Dropout(0.1))
    optimizer, update_frequency = adam(model, 5e-3), 2

    def criterion(sample, reduce=True):
        x, y = sample
        loss = F.nll_loss(F.log_softmax(model(x), dim=-1), y, reduction="sum" if reduce else "none")
        return loss, len(y), {"loss": loss.data, "sample_size": len(y)}

    def train_step(samples):
        model.train()
        optimizer.zero_grad()
        logs, sample_size = [], 0
        for sample in samples:
            loss, size, log = criterion(sample)
            loss.backward()
            logs.append(log)
            sample_size += size
            del loss
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.data.mul_(1 / sample_size)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return sum(float(log["loss"]) for log in logs) / sample_size

    updates = 0
    with SummaryWriter(folder) as writer:
        for _ in range(3):
            data = iter(loader(shuffle=True))
            while samples := list(itertools.islice(data, update_frequency)):
                value = train_step(samples)
                updates += 1
                writer.add_scalar("loss", value, updates)
    return model


@style
def transformers_trainer(folder):
    """huggingface/transformers, Trainer: accumulation with a last short step, a loss that is summed and read seldom."""
    model, k, interval = network(nn.Dropout(0.1)), 2, 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    data = loader(104, shuffle=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 12))
    tr_loss, logged, step = torch.tensor(0.0), 0.0, 0

    def training_step(x, y):
        model.train()
        loss = F.cross_entropy(model(x), y) / k
        loss.backward()
        return loss.detach()

    model.zero_grad()
    with SummaryWriter(folder) as writer:
        for _ in range(3):
            for number, (x, y) in enumerate(data):
                tr_loss += training_step(x, y)
                if (number + 1) % k == 0 or number + 1 == len(data):
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    scheduler.step()
                    model.zero_grad()
                    step += 1
                    if step % interval == 0:
                        value = tr_loss.item()
                        writer.add_scalar("train/loss", (value - logged) / interval, step)
                        logged = value
    return model


@style
def super_resolution(folder):
    """pytorch/examples, super_resolution: the epoch's mean by batches, the test in decibels."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.PixelShuffle(2))
    optimizer, criterion, data = adam(model, 1e-2), nn.MSELoss(), loader(48)
    with SummaryWriter(folder) as writer:
        for epoch in range(1, 4):
            epoch_loss = 0
            for x, _ in data:
                target = x[:, None, :, None] * x[:, None, None, :]
                optimizer.zero_grad()
                loss = criterion(model(target[..., ::2, ::2]), target)
                epoch_loss += loss.item()
                loss.backward()
                optimizer.step()
            writer.add_scalar("loss", epoch_loss / len(data), epoch)
            decibels = 0
            with torch.no_grad():
                for x, _ in data:
                    target = x[:, None, :, None] * x[:, None, None, :]
                    decibels += 10 * math.log10(1 / criterion(model(target[..., ::2, ::2]), target).item())
            writer.add_scalar("psnr", decibels / len(data), epoch)
    return model


@style
def siamese(folder):
    """pytorch/examples, siamese_network: one network for both pictures of a pair, and a head on the two together."""

    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.fc = nn.Sequential(nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.ReLU()), nn.Linear(16, 1)

        def forward(self, one, two):
            return torch.sigmoid(self.fc(torch.cat((self.net(one), self.net(two)), 1)))

    model, criterion = Siamese(), nn.BCELoss()
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)
    for _ in range(3):
        model.train()
        for x, y in loader():
            target = (y == y.flip(0)).float()
            optimizer.zero_grad()
            outputs = model(x, x.flip(0)).squeeze()
            loss = criterion(outputs, target)
            loss.backward()
            optimizer.step()
        model.eval()
        test_loss = correct = 0
        with torch.no_grad():
            for x, y in loader(40):
                target = (y == y.flip(0)).float()
                outputs = model(x, x.flip(0)).squeeze()
                test_loss += criterion(outputs, target).sum().item()
                correct += int((outputs > 0.5).eq(target).sum())
        scheduler.step()
    return model, test_loss, correct


@style
def torchvision_reference(folder):
    """pytorch/vision, references/classification: warm-up, scaler, clipping, an averaged copy, meters with windows."""

    class Smoothed:
        def __init__(self):
            self.window, self.total, self.count = deque(maxlen=5), 0.0, 0

        def update(self, value, n=1):
            self.window.append(value)
            self.total, self.count = self.total + value * n, self.count + n

    model, criterion = network(nn.BatchNorm1d(16)), nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = sgd(model, 0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=1)
    main = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, main], milestones=[1])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)

    def train_one_epoch(epoch, writer):
        model.train()
        loss_meter, accuracy_meter = Smoothed(), Smoothed()
        for i, (x, y) in enumerate(loader(shuffle=True)):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = model(x)
                loss = criterion(output, y)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            if i % 2 == 0:
                average.update_parameters(model)
                if epoch < 1:
                    average.n_averaged.fill_(0)
            loss_meter.update(loss.item())
            accuracy_meter.update(accuracy(output, y), len(y))
        writer.add_scalar("loss", loss_meter.total / loss_meter.count, epoch)
        writer.add_scalar("loss in a window", sum(loss_meter.window) / len(loss_meter.window), epoch)
        writer.add_scalar("accuracy", accuracy_meter.total / accuracy_meter.count, epoch)

    def evaluate(network):
        network.eval()
        meter = Smoothed()
        with torch.inference_mode():
            for x, y in loader(40):
                meter.update(criterion(network(x), y).item(), len(y))
        return meter.total / meter.count

    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            train_one_epoch(epoch, writer)
            schedule.step()
            writer.add_scalar("test", evaluate(model), epoch)
            writer.add_scalar("test of the average", evaluate(average), epoch)
    return model, average


@style
def sharpness_aware(folder):
    """davda54/sam: a step uphill with the first gradient, a step downhill with the second."""

    class SAM(torch.optim.Optimizer):
        def __init__(self, params, base, rho=0.05, **options):
            super().__init__(params, dict(rho=rho, **options))
            self.base = base(self.param_groups, **options)
            self.param_groups = self.base.param_groups

        @torch.no_grad()
        def first_step(self, zero_grad=False):
            norms = [p.grad.norm() for group in self.param_groups for p in group["params"] if p.grad is not None]
            norm = torch.stack(norms).norm()
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self.state[p]["old"] = p.data.clone()
                        p.add_(p.grad * (group["rho"] / (norm + 1e-12)))
            if zero_grad:
                self.zero_grad()

        @torch.no_grad()
        def second_step(self, zero_grad=False):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.data = self.state[p]["old"]
            self.base.step()
            if zero_grad:
                self.zero_grad()

    model = network(nn.Dropout(0.1))
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9)
    for _ in range(3):
        for x, y in loader():
            F.cross_entropy(model(x), y, label_smoothing=0.1).mean().backward()
            optimizer.first_step(zero_grad=True)
            F.cross_entropy(model(x), y, label_smoothing=0.1).mean().backward()
            optimizer.second_step(zero_grad=True)
    return model


@style
def averaged_weights(folder):
    """lucidrains/ema-pytorch: a copy in eval mode that follows the weights and is used for sampling."""
    model = network(nn.Dropout(0.1))
    follower = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = adam(model)
    for step, (x, y) in enumerate(batches() * 3):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(follower.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 0.1)
        if step % 6 == 5:
            shown = follower(x)
    return model, follower, shown


@style
def deep_q_network(folder):
    """pytorch/tutorials, the DQN tutorial: replay memory, a target network that follows softly, values clipped."""
    Transition = namedtuple("Transition", ["state", "action", "next_state", "reward"])
    policy = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    target = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    target.load_state_dict(policy.state_dict())
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, amsgrad=True)
    memory, chance = deque(maxlen=100), random.Random(0)

    def optimize_model():
        if len(memory) < 8:
            return
        batch = Transition(*zip(*chance.sample(list(memory), 8), strict=True))
        final = torch.tensor([state is not None for state in batch.next_state])
        following = torch.cat([state for state in batch.next_state if state is not None])
        values = policy(torch.cat(batch.state)).gather(1, torch.cat(batch.action))
        next_values = torch.zeros(8)
        with torch.no_grad():
            next_values[final] = target(following).max(1).values
        expected = (next_values * 0.99) + torch.cat(batch.reward)
        loss = nn.SmoothL1Loss()(values, expected.unsqueeze(1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(policy.parameters(), 100)
        optimizer.step()

    for _ in range(4):
        state = torch.randn(1, 4)
        for t in range(10):
            if chance.random() > 0.5:
                with torch.no_grad():
                    action = policy(state).max(1).indices.view(1, 1)
            else:
                action = torch.tensor([[chance.randrange(2)]])
            next_state = None if t == 9 else torch.randn(1, 4)
            memory.append(Transition(state, action, next_state, torch.tensor([float(action)])))
            optimize_model()
            weights, wanted = target.state_dict(), policy.state_dict()
            for key in wanted:
                weights[key] = wanted[key] * 0.05 + weights[key] * 0.95
            target.load_state_dict(weights)
            if next_state is None:
                break
            state = next_state
    return policy, target


@style
def neural_style(folder):
    """pytorch/examples, fast_neural_style: losses through a frozen network, sums since the epoch's start by batches."""
    transformer = nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), nn.Linear(16, SIZE))
    frozen = nn.Sequential(nn.Linear(SIZE, 8), nn.BatchNorm1d(8)).requires_grad_(False).eval()
    optimizer, mse = adam(transformer), nn.MSELoss()
    wanted = frozen(torch.ones(1, SIZE))
    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            transformer.train()
            content_sum, style_sum = 0.0, 0.0
            for i, (x, _) in enumerate(loader()):
                optimizer.zero_grad()
                y = transformer(x)
                features_y, features_x = frozen(y), frozen(x)
                content_loss = 10 * mse(features_y, features_x)
                style_loss = 0.0
                for part_y, part_w in zip(features_y.split(4, 1), wanted.split(4, 1), strict=True):
                    style_loss += mse(part_y, part_w.expand_as(part_y))
                style_loss *= 3
                total = content_loss + style_loss
                total.backward()
                optimizer.step()
                content_sum += content_loss.item()
                style_sum += style_loss.item()
                if (i + 1) % 3 == 0:
                    step = epoch * BATCHES + i
                    writer.add_scalar("content", content_sum / (i + 1), step)
                    writer.add_scalar("style", style_sum / (i + 1), step)
                    writer.add_scalar("total", (content_sum + style_sum) / (i + 1), step)
    return transformer


@style
def imagenet(folder):
    """pytorch/examples, imagenet: meters that weight each batch by its size."""

    class AverageMeter:
        def __init__(self):
            self.sum = self.count = 0

        def update(self, value, n):
            self.sum, self.count = self.sum + value * n, self.count + n
            self.value, self.avg = value, self.sum / self.count

    model, criterion = network(nn.BatchNorm1d(16)), nn.CrossEntropyLoss()
    optimizer = sgd(model, 0.1, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)

    def validate():
        losses, top = AverageMeter(), AverageMeter()
        model.eval()
        with torch.no_grad():
            for x, y in loader(40):
                output = model(x)
                losses.update(criterion(output, y).item(), x.size(0))
                top.update(accuracy(output, y), x.size(0))
        return losses.avg, top.avg

    with SummaryWriter(folder) as writer:
        best = 0.0
        for epoch in range(3):
            losses = AverageMeter()
            model.train()
            for i, (x, y) in enumerate(loader(shuffle=True)):
                output = model(x)
                loss = criterion(output, y)
                losses.update(loss.item(), x.size(0))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if i % 2 == 0:
                    writer.add_scalar("value", losses.value, epoch * BATCHES + i)
                    writer.add_scalar("average", losses.avg, epoch * BATCHES + i)
            loss, top = validate()
            writer.add_scalar("val", loss, epoch)
            scheduler.step()
            best = max(best, top)
    return model, best


@style
def transfer_learning(folder):
    """pytorch/tutorials, transfer learning: both phases in one loop, gradients switched by the phase."""
    data = {"train": loader(shuffle=True), "val": loader(40)}
    sizes = {phase: len(each.dataset) for phase, each in data.items()}
    model = Classifier(dropout=0.2)
    for parameter in model.base.parameters():
        parameter.requires_grad = False
    optimizer, criterion = sgd(model.head, 0.05, momentum=0.9), nn.CrossEntropyLoss()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    best = 0.0
    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            for phase in ("train", "val"):
                model.train(phase == "train")
                running_loss, running_corrects = 0.0, 0
                for x, y in data[phase]:
                    optimizer.zero_grad()
                    with torch.set_grad_enabled(phase == "train"):
                        outputs = model(x)
                        _, predictions = torch.max(outputs, 1)
                        loss = criterion(outputs, y)
                        if phase == "train":
                            loss.backward()
                            optimizer.step()
                    running_loss += loss.item() * x.size(0)
                    running_corrects += torch.sum(predictions == y.data)
                if phase == "train":
                    scheduler.step()
                writer.add_scalar(f"{phase}/loss", running_loss / sizes[phase], epoch)
                share = running_corrects.double() / sizes[phase]
                if phase == "val" and share > best:
                    best, weights = share, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return model, best


@style
def cycle_gan(folder):
    """junyanz/pytorch-CycleGAN-and-pix2pix: one optimizer for two generators, discriminators frozen for their step."""
    to_b, to_a = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)
    judge_a, judge_b = nn.Linear(SIZE, 1), nn.Linear(SIZE, 1)
    optimizer_g = torch.optim.Adam(itertools.chain(to_b.parameters(), to_a.parameters()), lr=2e-4, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(itertools.chain(judge_a.parameters(), judge_b.parameters()), lr=2e-4)
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda e: 1 - max(0, e - 1) / 4) for o in (optimizer_g, optimizer_d)
    ]
    pool = deque(maxlen=4)

    def set_requires_grad(networks, value):
        for each in networks:
            for parameter in each.parameters():
                parameter.requires_grad = value

    def gan_loss(prediction, real):
        return F.mse_loss(prediction, torch.full_like(prediction, float(real)))

    def backward_d(judge, real, fake):
        loss = (gan_loss(judge(real), True) + gan_loss(judge(fake.detach()), False)) * 0.5
        loss.backward()
        return loss

    for _ in range(3):
        for x, _ in loader():
            a, b = x, x.flip(1)
            fake_b = to_b(a)
            again_a = to_a(fake_b)
            fake_a = to_a(b)
            again_b = to_b(fake_a)
            set_requires_grad([judge_a, judge_b], False)
            optimizer_g.zero_grad()
            loss_g = gan_loss(judge_b(fake_b), True) + gan_loss(judge_a(fake_a), True)
            loss_g = loss_g + 10 * (F.l1_loss(again_a, a) + F.l1_loss(again_b, b)) + 5 * F.l1_loss(to_a(a), a)
            loss_g.backward()
            optimizer_g.step()
            set_requires_grad([judge_a, judge_b], True)
            optimizer_d.zero_grad()
            pool.append(fake_b.detach())
            backward_d(judge_a, a, fake_a)
            backward_d(judge_b, b, pool[0])
            optimizer_d.step()
        for scheduler in schedulers:
            scheduler.step()
    return to_a, to_b, judge_a, judge_b


@style
def proximal_policy(folder):
    """vwxyzjn/cleanrl, PPO: several epochs over one rollout in minibatches; the last minibatch's losses are logged."""

    class Agent(nn.Module):
        def __init__(self):
            super().__init__()
            self.critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
            self.actor = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

        def both(self, x, action=None):
            choice = torch.distributions.Categorical(logits=self.actor(x))
            action = choice.sample() if action is None else action
            return action, choice.log_prob(action), choice.entropy(), self.critic(x)

    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=2.5e-4, eps=1e-5)
    with SummaryWriter(folder) as writer:
        for update in range(1, 5):
            optimizer.param_groups[0]["lr"] = (1 - (update - 1) / 4) * 2.5e-4
            observations = torch.randn(24, 4)
            with torch.no_grad():
                actions, old, _, values = agent.both(observations)
            advantages = torch.randn(24)
            returns = advantages + values.flatten()
            fractions = []
            for _ in range(2):
                for chosen in torch.randperm(24).split(8):
                    _, new, entropy, value = agent.both(observations[chosen], actions[chosen])
                    ratio = (new - old[chosen]).exp()
                    with torch.no_grad():
                        fractions.append(((ratio - 1).abs() > 0.2).float().mean().item())
                    part = advantages[chosen]
                    part = (part - part.mean()) / (part.std() + 1e-8)
                    pg_loss = torch.max(-part * ratio, -part * ratio.clamp(0.8, 1.2)).mean()
                    v_loss = 0.5 * ((value.flatten() - returns[chosen]) ** 2).mean()
                    loss = pg_loss - 0.01 * entropy.mean() + 0.5 * v_loss
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                    optimizer.step()
            writer.add_scalar("losses/value_loss", v_loss.item(), update)
            writer.add_scalar("losses/policy_loss", pg_loss.item(), update)
            writer.add_scalar("losses/clipfrac", sum(fractions) / len(fractions), update)
            writer.add_scalar("charts/learning_rate", optimizer.param_groups[0]["lr"], update)
    return agent


@style
def momentum_contrast(folder):
    """facebookresearch/moco: a second encoder that follows the first, and a queue of old keys."""
    query_encoder, key_encoder = nn.Linear(SIZE, 4), nn.Linear(SIZE, 4)
    key_encoder.load_state_dict(query_encoder.state_dict())
    key_encoder.requires_grad_(False)
    queue, pointer = F.normalize(torch.randn(4, 64), dim=0), 0
    optimizer, criterion = sgd(query_encoder, 0.03, momentum=0.9), nn.CrossEntropyLoss()
    for _ in range(3):
        for x, _ in loader(drop_last=True):
            queries = F.normalize(query_encoder(x + 0.1 * torch.randn_like(x)), dim=1)
            with torch.no_grad():
                for slow, fast in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
                    slow.data = slow.data * 0.99 + fast.data * 0.01
                keys = F.normalize(key_encoder(x + 0.1 * torch.randn_like(x)), dim=1)
            positive = torch.einsum("nc,nc->n", queries, keys)[:, None]
            logits = torch.cat([positive, queries @ queue.clone()], dim=1) / 0.2
            loss = criterion(logits, torch.zeros(len(x), dtype=torch.long))
            queue[:, pointer : pointer + len(x)] = keys.T
            pointer = (pointer + len(x)) % 64
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return query_encoder, key_encoder


@style
def wasserstein(folder):
    """eriklindernoren/PyTorch-GAN, WGAN-GP: a penalty on a gradient, the generator at every third batch only."""
    maker = nn.Sequential(nn.Linear(4, 16), nn.LeakyReLU(0.2), nn.Linear(16, SIZE))
    critic = nn.Sequential(nn.Linear(SIZE, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    optimizer_g = torch.optim.Adam(maker.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.5, 0.999))
    for _ in range(3):
        for i, (real, _) in enumerate(loader()):
            optimizer_d.zero_grad()
            z = torch.randn(len(real), 4)
            fake = maker(z)
            share = torch.rand(len(real), 1)
            between = (share * real.data + (1 - share) * fake.data).requires_grad_(True)
            scores = critic(between)
            (slope,) = torch.autograd.grad(
                scores, between, torch.ones_like(scores), create_graph=True, retain_graph=True
            )
            penalty = ((slope.norm(2, dim=1) - 1) ** 2).mean()
            loss_d = -critic(real).mean() + critic(fake).mean() + 10 * penalty
            loss_d.backward()
            optimizer_d.step()
            optimizer_g.zero_grad()
            if i % 3 == 0:
                loss_g = -critic(maker(z)).mean()
                loss_g.backward()
                optimizer_g.step()
    return maker, critic
