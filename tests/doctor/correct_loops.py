"""Correct loops that look like faulty ones. The doctor must report nothing, not even a hint."""

import copy
from collections import deque

import torch
import torch.distributed
import torch.nn.functional as F
from case_parts import (
    BATCH,
    BATCHES,
    CLASSES,
    SIZE,
    Classifier,
    accuracy,
    adam,
    batches,
    correct,
    loader,
    network,
    rows,
    sgd,
    stream,
)
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from course_utils.data import Batches

schedulers = torch.optim.lr_scheduler

# Loops as they should be.


@correct(
    "missing-zero-grad",
    "missing-step",
    "validation-builds-graph",
    "eval-mode-while-training",
    style="plain loop with a validation",
)
def plain_loop(folder):
    model = network(nn.BatchNorm1d(16), nn.Dropout(0.1))
    optimizer = adam(model)
    for _ in range(3):
        model.train()
        for x, y in loader(shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            sum(F.cross_entropy(model(x), y).item() for x, y in loader(count=40))
    return model, optimizer


@correct(
    "repeated-step",
    "wrong-divisor",
    "loss-never-reset",
    "writer-left-open",
    style="class, meters, schedule, clipping, a writer of its own",
)
def trainer_class(folder):
    class Meter:
        def __init__(self):
            self.reset()

        def reset(self):
            self.sum, self.count = 0.0, 0

        def update(self, value, count):
            self.sum += value * count
            self.count += count

        @property
        def mean(self):
            return self.sum / self.count

    class Trainer:
        def __init__(self):
            self.model, self.meter, self.writer = Classifier(0.2), Meter(), SummaryWriter(folder)
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
            self.scheduler = schedulers.CosineAnnealingLR(self.optimizer, 3)
            self.step = 0

        def train_step(self, x, y):
            self.optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(self.model(x), y, label_smoothing=0.05)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.meter.update(loss.item(), len(y))
            self.step += 1
            self.writer.add_scalar("train/step", loss.item(), self.step)

        @torch.no_grad()
        def evaluate(self, epoch):
            self.model.eval()
            x, y = rows()
            logits = self.model(x)
            self.writer.add_scalar("valid/loss", F.cross_entropy(logits, y).item(), epoch)
            self.writer.add_scalar("valid/accuracy", accuracy(logits, y), epoch)
            self.model.train()

        def fit(self, num_epochs):
            for epoch in range(num_epochs):
                self.meter.reset()
                for x, y in batches():
                    self.train_step(x, y)
                self.writer.add_scalar("train/epoch", self.meter.mean, epoch)
                self.writer.add_scalar("lr", self.scheduler.get_last_lr()[0], epoch)
                self.evaluate(epoch)
                self.scheduler.step()
            self.writer.close()

    trainer = Trainer()
    trainer.fit(3)
    return trainer.model, trainer.optimizer


@correct("missing-zero-grad", "missing-backward", style="callbacks, after miniai")
def callbacks(folder):
    class CancelBatch(Exception):
        pass

    class Train:
        def predict(self, learner):
            learner.preds = learner.model(learner.batch[0])

        def get_loss(self, learner):
            learner.loss = F.cross_entropy(learner.preds, learner.batch[1])

        def backward(self, learner):
            learner.loss.backward()

        def step(self, learner):
            learner.optimizer.step()

        def zero_grad(self, learner):
            learner.optimizer.zero_grad()

    class Skip:
        def before_batch(self, learner):
            if learner.count % 7 == 3:
                raise CancelBatch

    class Learner:
        def __init__(self, callbacks):
            self.callbacks, self.count, self.model = callbacks, 0, network()
            self.optimizer = sgd(self.model)

        def call(self, name):
            for each in self.callbacks:
                if hasattr(each, name):
                    getattr(each, name)(self)

        def fit(self, num_epochs):
            for _ in range(num_epochs):
                for self.batch in batches():
                    self.count += 1
                    try:
                        for name in ("before_batch", "predict", "get_loss", "backward", "step", "zero_grad"):
                            self.call(name)
                    except CancelBatch:
                        continue

    learner = Learner([Train(), Skip()])
    learner.fit(3)
    return learner.model, learner.optimizer


@correct("missing-zero-grad", "repeated-step", "missing-backward", style="LBFGS with its closure")
def lbfgs(folder):
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, line_search_fn="strong_wolfe")
    x, y = rows()
    for _ in range(6):

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return model, optimizer


@correct("repeated-step", "missing-zero-grad", "zero-grad-before-step", style="SGD with a closure")
def closure_with_sgd(folder):
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 2:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return model, optimizer


@correct("missing-step", "missing-zero-grad", style="manual SGD under no_grad, zeroed by hand")
def manual_no_grad(folder):
    model = network()
    for x, y in batches() * 3:
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.05 * p.grad
                p.grad.zero_()
    return model


@correct("missing-step", "missing-zero-grad", style="manual SGD on .data, zeroed through .data")
def manual_data(folder):
    w, b = torch.zeros(SIZE, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    x, _ = rows()
    target = x[:, :1] * 2 + 1
    for _ in range(20):
        loss = ((x @ w + b - target) ** 2).mean()
        loss.backward()
        w.data -= 0.01 * w.grad.data
        b.data -= 0.01 * b.grad.data
        w.grad.data.zero_()
        b.grad.data.zero_()
    return w, b


@correct("missing-step", "missing-zero-grad", style="manual SGD, gradients set to None")
def manual_none(folder):
    model = Classifier()
    for x, y in stream():
        for p in model.parameters():
            p.grad = None
        F.cross_entropy(model(x), y).backward()
        for p in model.parameters():
            p.data += -0.05 * p.grad
        if len(x) < BATCH:
            break
    return model


@correct("missing-step", "missing-zero-grad", style="manual SGD, model.zero_grad() and new tensors")
def manual_new_tensors(folder):
    w = torch.zeros(SIZE, 1, requires_grad=True)
    x, _ = rows()
    target = x[:, :1] * 2
    for _ in range(20):
        loss = F.mse_loss(x @ w, target)
        loss.backward()
        w = (w - 0.01 * w.grad).detach().requires_grad_()
    return [w]


@correct("missing-backward", "missing-step", "missing-zero-grad", style="torch.autograd.grad and a manual update")
def gradients_as_values(folder):
    model = network()
    for x, y in batches() * 2:
        grads = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), grads, strict=True):
                p.sub_(g, alpha=0.05)
    return model


@correct(
    "missing-backward",
    "missing-zero-grad",
    "repeated-step",
    style="gradients assigned by hand, an optimizer steps",
)
def gradients_assigned(folder):
    model = network()
    optimizer = adam(model)
    for x, y in batches() * 2:
        loss = F.cross_entropy(model(x), y)
        for p, g in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
            p.grad = g
        optimizer.step()
    return model, optimizer


@correct(
    "repeated-step",
    "missing-zero-grad",
    "optimizer-of-another-model",
    style="Reptile: an inner copy is trained, the outer gradient assigned",
)
def reptile(folder):
    model = network()
    outer = sgd(model, 0.5)
    data = stream()
    for _ in range(6):
        fast = copy.deepcopy(model)
        inner = sgd(fast, 0.05)
        for _ in range(3):
            x, y = next(data)
            inner.zero_grad()
            F.cross_entropy(fast(x), y).backward()
            inner.step()
        outer.zero_grad()
        for p, q in zip(model.parameters(), fast.parameters(), strict=True):
            p.grad = p.data - q.data
        outer.step()
    return model, outer


@correct("missing-backward", "missing-step", style="no gradients at all: evolution")
def evolution(folder):
    model = network()
    x, y = rows()
    best = float("inf")
    with torch.no_grad():
        for _ in range(20):
            old = [p.clone() for p in model.parameters()]
            for p in model.parameters():
                p += 0.05 * torch.randn_like(p)
            loss = F.cross_entropy(model(x), y).item()
            if loss > best:
                for p, q in zip(model.parameters(), old, strict=True):
                    p.copy_(q)
            else:
                best = loss
    return model


@correct(
    "missing-zero-grad",
    "zero-grad-before-step",
    "repeated-step",
    style="sharpness-aware: two backward calls, weights moved and put back",
)
def sharpness_aware(folder):
    model = network()
    optimizer = sgd(model, 0.05)
    for x, y in batches() * 3:
        F.cross_entropy(model(x), y).backward()
        moves = []
        with torch.no_grad():
            for p in model.parameters():
                moves.append(0.02 * p.grad / (p.grad.norm() + 1e-9))
                p.add_(moves[-1])
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for p, move in zip(model.parameters(), moves, strict=True):
                p.sub_(move)
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


# Accumulation on purpose.


@correct(
    "missing-zero-grad",
    "accumulation-not-scaled",
    "accumulation-tail-dropped",
    style="every 4 batches, and at the end of an epoch",
)
def accumulation(folder):
    model = network()
    optimizer = sgd(model)
    data = loader()
    for _ in range(3):
        for i, (x, y) in enumerate(data):
            (F.cross_entropy(model(x), y) / 4).backward()
            if (i + 1) % 4 == 0 or i + 1 == len(data):
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
    return model, optimizer


@correct(
    "missing-zero-grad",
    "accumulation-not-scaled",
    "accumulation-tail-dropped",
    style="inner loop after nanoGPT, GradScaler, backward on a scaled sum",
)
def accumulation_with_scaler(folder):
    model = Classifier()
    optimizer, scaler = adam(model), torch.amp.GradScaler("cpu", init_scale=1024.0)
    data = stream()
    x, y = next(data)
    for _ in range(8):
        for _ in range(4):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(x), y) / 4
            x, y = next(data)
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
    return model, optimizer


@correct("missing-zero-grad", "accumulation-not-scaled", style="gradients divided by hand before the step")
def gradients_divided(folder):
    model = network()
    optimizer = sgd(model)
    for i, (x, y) in enumerate(batches() * 2, 1):
        F.cross_entropy(model(x), y).backward()
        if i % 3 == 0:
            for p in model.parameters():
                p.grad /= 3
            optimizer.step()
            optimizer.zero_grad()
    return model, optimizer


@correct("accumulation-not-scaled", "missing-zero-grad", style="losses summed over samples and divided by their count")
def sums_accumulated(folder):
    model = network()
    optimizer = sgd(model)
    data = batches() * 2
    while data:
        some, data = data[:3], data[3:]
        count = sum(len(y) for _, y in some)
        optimizer.zero_grad()
        for x, y in some:
            loss = F.cross_entropy(model(x), y, reduction="sum") / count
            loss.backward()
        optimizer.step()
    return model, optimizer


@correct("accumulation-not-scaled", "missing-zero-grad", style="the scale is passed to backward(gradient=…)")
def share_given_to_backward(folder):
    model = Classifier()
    optimizer = sgd(model)
    for i, (x, y) in enumerate(batches() * 2, 1):
        F.cross_entropy(model(x), y).backward(gradient=torch.tensor(0.5))
        if i % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
    return model, optimizer


@correct("accumulation-tail-dropped", style="a counter over all epochs, a last step after the loop")
def accumulation_over_epochs(folder):
    model = network()
    optimizer = sgd(model)
    seen = 0
    for _ in range(3):
        for x, y in loader():
            (F.cross_entropy(model(x), y) / 4).backward()
            seen += 1
            if seen % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()
    optimizer.step()
    return model, optimizer


@correct(
    "accumulation-tail-dropped",
    "accumulation-not-scaled",
    style="the last few batches of each epoch are left out",
)
def whole_groups_only(folder):
    model = network()
    optimizer = sgd(model)
    for _ in range(3):
        data = iter(loader(drop_last=True))
        for _ in range(2):
            optimizer.zero_grad()
            for _ in range(2):
                x, y = next(data)
                F.cross_entropy(model(x), y).div(2).backward()
            optimizer.step()
    return model, optimizer


@correct(
    "accumulation-not-scaled",
    "missing-zero-grad",
    "parameters-not-optimized",
    style="several tasks, one backward call each in a loop",
)
def tasks_in_a_loop(folder):
    base = nn.Linear(SIZE, 16)
    heads = nn.ModuleList([nn.Linear(16, CLASSES), nn.Linear(16, 1)])
    optimizer = torch.optim.Adam([*base.parameters(), *heads.parameters()])
    losses = [lambda out, y: F.cross_entropy(out, y), lambda out, y: F.mse_loss(out[:, 0], y.float())]
    for x, y in batches() * 2:
        optimizer.zero_grad()
        for head, loss in zip(heads, losses, strict=True):
            loss(head(base(x).relu()), y).backward()
        optimizer.step()
    return base, heads, optimizer


@correct("accumulation-not-scaled", "graph-kept-alive", style="several losses of one output, retain_graph")
def losses_of_one_output(folder):
    model = Classifier()
    optimizer = sgd(model)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        logits = model(x)
        for loss in (F.cross_entropy(logits, y), 1.5 * F.mse_loss(logits, torch.zeros_like(logits))):
            loss.backward(retain_graph=True)
        optimizer.step()
    return model, optimizer


# Several models, several optimizers.


@correct(
    "missing-zero-grad",
    "accumulation-not-scaled",
    "parameters-not-optimized",
    style="GAN after DCGAN: a dirty discriminator",
)
def gan(folder):
    generator = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, SIZE))
    critic = nn.Sequential(nn.Linear(SIZE, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1), nn.Sigmoid())
    for_d = torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.5, 0.999))
    for_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    loss_fn = nn.BCELoss()
    for _ in range(3):
        for x, _ in loader():
            critic.zero_grad()
            label = torch.full((len(x),), 1.0)
            loss_real = loss_fn(critic(x).view(-1), label)
            loss_real.backward()
            fake = generator(torch.randn(len(x), 4))
            label.fill_(0.0)
            loss_fake = loss_fn(critic(fake.detach()).view(-1), label)
            loss_fake.backward()
            for_d.step()
            generator.zero_grad()
            label.fill_(1.0)
            loss_fn(critic(fake).view(-1), label).backward()
            for_g.step()
    return generator, critic, for_d, for_g


@correct("accumulation-not-scaled", "missing-zero-grad", style="GAN: real and fake in a loop of two")
def gan_real_and_fake_in_a_loop(folder):
    generator, critic = nn.Linear(4, SIZE), nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), nn.Linear(16, 1))
    for_d, for_g = adam(critic), adam(generator)
    for x, _ in batches() * 3:
        fake = generator(torch.randn(len(x), 4))
        for_d.zero_grad()
        for sample, target in ((x, 1.0), (fake.detach(), 0.0)):
            out = critic(sample)
            F.binary_cross_entropy_with_logits(out, torch.full_like(out, target)).backward()
        for_d.step()
        for_g.zero_grad()
        out = critic(fake)
        F.binary_cross_entropy_with_logits(out, torch.ones_like(out)).backward()
        for_g.step()
    return generator, critic, for_d, for_g


@correct(
    "missing-zero-grad",
    "missing-step",
    "learning-rate-too-high",
    style="WGAN: 5 critic steps, weights clipped, one generator step",
)
def wgan(folder):
    generator, critic = nn.Linear(4, SIZE), nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), nn.Linear(16, 1))
    for_d = torch.optim.RMSprop(critic.parameters(), lr=5e-4)
    for_g = torch.optim.RMSprop(generator.parameters(), lr=5e-4)
    data = stream()
    for _ in range(8):
        for p in critic.parameters():
            p.requires_grad_(True)
        for _ in range(5):
            x, _ = next(data)
            for_d.zero_grad()
            with torch.no_grad():
                fake = generator(torch.randn(len(x), 4))
            loss = critic(fake).mean() - critic(x).mean()
            loss.backward()
            for_d.step()
            for p in critic.parameters():
                p.data.clamp_(-0.1, 0.1)
        for p in critic.parameters():
            p.requires_grad_(False)
        for_g.zero_grad()
        (-critic(generator(torch.randn(BATCH, 4))).mean()).backward()
        for_g.step()
    return generator, critic, for_d, for_g


@correct("missing-zero-grad", "graph-kept-alive", style="gradient penalty: backward through a gradient")
def gradient_penalty(folder):
    critic = nn.Sequential(nn.Linear(SIZE, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = adam(critic)
    for x, _ in batches() * 3:
        fake = torch.randn_like(x)
        mixed = (0.5 * (x + fake)).requires_grad_()
        (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        loss = critic(fake).mean() - critic(x).mean() + 10 * ((slope.norm(dim=1) - 1) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return critic, optimizer


@correct(
    "optimizer-of-another-model",
    "missing-zero-grad",
    "eval-mode-while-training",
    style="DQN with a target network that is copied",
)
def dqn(folder):
    policy, target = network(), network()
    target.load_state_dict(policy.state_dict())
    target.eval()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    memory = deque(maxlen=200)
    state = torch.randn(SIZE)
    for step in range(60):
        with torch.no_grad():
            action = policy(state).argmax().item() if torch.rand(()) > 0.3 else int(torch.randint(CLASSES, ()))
        following, reward = torch.randn(SIZE), float(action == 1)
        memory.append((state, action, reward, following))
        state = following
        if len(memory) < 20:
            continue
        states, actions, rewards, followings = zip(*list(memory)[-16:], strict=True)
        chosen = policy(torch.stack(states)).gather(1, torch.tensor(actions)[:, None])[:, 0]
        with torch.no_grad():
            value = target(torch.stack(followings)).max(1).values
        loss = F.smooth_l1_loss(chosen, torch.tensor(rewards) + 0.9 * value)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(policy.parameters(), 100)
        optimizer.step()
        if step % 10 == 0:
            target.load_state_dict(policy.state_dict())
    return policy, target, optimizer


@correct(
    "optimizer-of-another-model",
    "parameters-not-optimized",
    style="a teacher in eval mode, its weights left with gradients on",
)
def distillation(folder):
    teacher, student = Classifier(0.3).eval(), network()
    optimizer = adam(student)
    for x, y in loader():
        with torch.no_grad():
            soft = teacher(x).softmax(1)
        out = student(x)
        loss = F.cross_entropy(out, y) + F.kl_div(out.log_softmax(1), soft, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return teacher, student, optimizer


@correct(
    "parameters-not-optimized",
    "optimizer-of-another-model",
    "validation-builds-graph",
    style="a perceptual loss through a fixed network",
)
def perceptual_loss(folder):
    features = nn.Sequential(nn.Linear(SIZE, 6), nn.ReLU()).eval()
    model = nn.Linear(SIZE, SIZE)
    optimizer = adam(model)
    for x, _ in batches() * 3:
        loss = F.mse_loss(features(model(x)), features(x).detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return features, model, optimizer


@correct("parameters-not-optimized", "eval-mode-while-training", style="a frozen base, only the head is trained")
def frozen_base(folder):
    model = Classifier(dropout=0.2)
    for p in model.base.parameters():
        p.requires_grad_(False)
    optimizer = sgd(model.head)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@correct("parameters-not-optimized", "missing-zero-grad", style="a base that is unfrozen later, add_param_group")
def unfrozen_later(folder):
    model = Classifier()
    model.base.requires_grad_(False)
    optimizer = sgd(model.head)
    for epoch in range(4):
        if epoch == 2:
            model.base.requires_grad_(True)
            optimizer.add_param_group({"params": model.base.parameters(), "lr": 0.01})
        for x, y in loader():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model, optimizer


@correct("parameters-not-optimized", "optimizer-of-another-model", style="two optimizers for two parts of one model")
def two_optimizers(folder):
    model = Classifier()
    slow, fast = sgd(model.base, 0.01), adam(model.head, 0.01)
    for x, y in batches() * 3:
        slow.zero_grad()
        fast.zero_grad()
        F.cross_entropy(model(x), y).backward()
        slow.step()
        fast.step()
    return model, slow, fast


@correct("parameters-not-optimized", "missing-step", style="parts trained by turns with two optimizers")
def parts_by_turns(folder):
    model = Classifier()
    optimizers = [sgd(model.base), sgd(model.head)]
    for i, (x, y) in enumerate(batches() * 3):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizers[i // 6 % 2].step()
    return model, optimizers


@correct("optimizer-of-another-model", "missing-zero-grad", style="cross-validation: a model and an optimizer a fold")
def folds(folder):
    models = []
    for fold in range(3):
        model = network()
        optimizer = adam(model)
        models += [model, optimizer]
        for i, (x, y) in enumerate(batches()):
            if i % 3 != fold:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    return models


@correct(
    "optimizer-of-another-model",
    "validation-builds-graph",
    "eval-mode-while-training",
    style="evaluation of several models, one of them an average",
)
def several_models_evaluated(folder):
    model = network(nn.Dropout(0.1))
    average = torch.optim.swa_utils.AveragedModel(model)
    best = copy.deepcopy(model)
    optimizer = sgd(model)
    x0, y0 = rows()
    for _ in range(3):
        model.train()
        for x, y in loader():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            average.update_parameters(model)
        with torch.inference_mode():
            scores = [F.cross_entropy(each.eval()(x0), y0).item() for each in (model, average, best)]
        if scores[0] < scores[2]:
            best.load_state_dict(model.state_dict())
    return model, average, best, optimizer


# Graphs that are kept for a purpose.


@correct("graph-kept-alive", "missing-backward", style="REINFORCE: graphs kept until the episode ends")
def reinforce(folder):
    policy = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = adam(policy)
    for _ in range(5):
        log_probs, rewards = [], []
        for _ in range(25):
            choice = torch.distributions.Categorical(logits=policy(torch.randn(4)))
            action = choice.sample()
            log_probs.append(choice.log_prob(action))
            rewards.append(float(action))
        returns, total = [], 0.0
        for reward in reversed(rewards):
            total = reward + 0.99 * total
            returns.insert(0, total)
        returns = torch.tensor(returns)
        returns = (returns - returns.mean()) / (returns.std() + 1e-8)
        loss = torch.stack([-p * r for p, r in zip(log_probs, returns, strict=True)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy, optimizer


@correct("graph-kept-alive", style="actor and critic: two losses over one episode")
def actor_critic(folder):
    base, actor, critic = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 1)
    model = nn.ModuleList([base, actor, critic])
    optimizer = adam(model, 3e-3)
    for _ in range(4):
        saved = []
        for _ in range(20):
            hidden = base(torch.randn(4)).relu()
            choice = torch.distributions.Categorical(F.softmax(actor(hidden), dim=-1))
            action = choice.sample()
            saved.append((choice.log_prob(action), critic(hidden), float(action)))
        policy_losses, value_losses = [], []
        for log_prob, value, reward in saved:
            policy_losses.append(-log_prob * (reward - value.item()))
            value_losses.append(F.smooth_l1_loss(value, torch.tensor([reward])))
        optimizer.zero_grad()
        (torch.stack(policy_losses).sum() + torch.stack(value_losses).sum()).backward()
        optimizer.step()
    return model, optimizer


@correct("graph-kept-alive", "missing-zero-grad", style="truncated backpropagation through time")
def truncated_bptt(folder):
    cell, head = nn.GRU(SIZE, 6, batch_first=True), nn.Linear(6, CLASSES)
    parameters = [*cell.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    x, y = rows(80)
    hidden = torch.zeros(1, 4, 6)
    for start in range(0, 20, 1):
        hidden = hidden.detach()
        part = x.view(4, 20, SIZE)[:, start : start + 1]
        out, hidden = cell(part, hidden)
        loss = F.cross_entropy(head(out[:, -1]), y.view(4, 20)[:, start])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.25)
        optimizer.step()
    return cell, head, optimizer


@correct("graph-kept-alive", "accumulation-not-scaled", style="losses of a window added up, one backward call for all")
def one_backward_a_window(folder):
    model = network()
    optimizer = sgd(model)
    total, count = 0.0, 0
    for x, y in batches() * 5:
        total = total + F.cross_entropy(model(x), y)
        count += 1
        if count == 10:
            optimizer.zero_grad()
            (total / count).backward()
            optimizer.step()
            total, count = 0.0, 0
    return model, optimizer


@correct("graph-kept-alive", "loss-never-reset", style="losses kept as detached tensors and under no_grad")
def losses_kept_without_graphs(folder):
    model = Classifier()
    optimizer = adam(model)
    history, validation, outputs = [], [], []
    for _ in range(3):
        for x, y in loader():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            history.append(loss.detach())
        with torch.no_grad():
            for x, y in batches():
                outputs.append(model(x))
                validation.append(F.cross_entropy(outputs[-1], y))
    return model, optimizer, history, validation, outputs


@correct("graph-kept-alive", style="the best loss and the last one kept by their names")
def best_loss_kept(folder):
    model = network()
    optimizer = sgd(model)
    best = last = None
    for x, y in batches() * 3:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if best is None or loss < best:
            best = loss
        last = loss
    return model, optimizer, last.item()


@correct("graph-kept-alive", style="the losses of one epoch kept for its mean, then released")
def losses_of_an_epoch_kept(folder):
    model = network()
    optimizer = sgd(model)
    means = []
    for _ in range(5):
        for x, y in batches():
            losses = []
            for part, labels in zip(x.split(4), y.split(4), strict=True):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(part), labels)
                loss.backward()
                optimizer.step()
                losses.append(loss)
            means.append(torch.stack(losses).mean().item())
    return model, optimizer, means


# Half precision, clipping, gradients that are missing.


@correct(
    "missing-step",
    "missing-zero-grad",
    "loss-not-finite",
    "scheduler-before-optimizer",
    style="GradScaler that skips its first steps",
)
def scaler_skips(folder):
    model = network()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=1000)
    scheduler = schedulers.StepLR(optimizer, 100)
    for i, (x, y) in enumerate(batches() * 3):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x * (1e15 if i < 2 else 1)), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        before = scaler.get_scale()
        scaler.update()
        if scaler.get_scale() >= before:
            scheduler.step()
    return model, optimizer


@correct(
    "missing-step",
    "repeated-step",
    "zero-grad-before-step",
    style="a bad batch is skipped, its gradients cleared",
)
def bad_batches_skipped(folder):
    model = network()
    optimizer = adam(model)
    for i, (x, y) in enumerate(batches() * 4):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        if norm > 1e4 or i % 5 == 4:
            optimizer.zero_grad()
            continue
        optimizer.step()
    return model, optimizer


@correct("missing-zero-grad", "missing-backward", style="zeroed by hand in a loop over groups")
def zeroed_by_groups(folder):
    model = Classifier()
    groups = [{"params": model.base.parameters(), "lr": 0.01}, {"params": model.head.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for x, y in stream():
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.detach_()
                    p.grad.zero_()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if len(x) < BATCH:
            break
    return model, optimizer


@correct("missing-zero-grad", "missing-step", style="a sparse embedding with an optimizer of its own")
def sparse_embedding(folder):
    table, head = nn.Embedding(40, 6, sparse=True), nn.Linear(6, CLASSES)
    sparse, dense = torch.optim.SparseAdam(table.parameters(), lr=0.01), adam(head)
    for _ in range(3):
        for start in range(0, 40, 8):
            words = torch.arange(start, start + 8)
            sparse.zero_grad()
            dense.zero_grad()
            F.cross_entropy(head(table(words)), words % CLASSES).backward()
            sparse.step()
            dense.step()
    return table, head, sparse, dense


@correct("missing-zero-grad", "missing-backward", style="experts: some weights get no gradient at some steps")
def experts_by_turns(folder):
    experts = nn.ModuleList([nn.Linear(SIZE, CLASSES) for _ in range(3)])
    optimizer = adam(experts)
    for i, (x, y) in enumerate(batches() * 3):
        optimizer.zero_grad()
        F.cross_entropy(experts[i % 3](x), y).backward()
        optimizer.step()
    return experts, optimizer


@correct("missing-zero-grad", "missing-step", style="the optimizer steps inside hooks of the gradients")
def step_in_backward_hooks(folder):
    model = network()
    optimizers = {p: torch.optim.SGD([p], lr=0.05) for p in model.parameters()}

    def hook(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    handles = [p.register_post_accumulate_grad_hook(hook) for p in model.parameters()]
    for x, y in batches() * 3:
        F.cross_entropy(model(x), y).backward()
    for handle in handles:
        handle.remove()
    return model, list(optimizers.values())


# Modes.


@correct("eval-mode-while-training", "missing-zero-grad", style="a model whose train() keeps batch norm frozen")
def train_overridden(folder):
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(SIZE), nn.Linear(SIZE, CLASSES)

        def train(self, mode=True):
            super().train(mode)
            self.norm.eval()
            return self

        def forward(self, x):
            return self.head(self.norm(x))

    model = Frozen()
    model.train()
    optimizer = sgd(model)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@correct(
    "eval-mode-while-training",
    "validation-builds-graph",
    "accumulation-not-scaled",
    style="an attack in eval mode, trained in train mode",
)
def attacked_in_eval_mode(folder):
    model = network(nn.Dropout(0.2))
    optimizer = sgd(model)
    for x, y in batches() * 3:
        model.eval()
        with torch.no_grad():
            clean = model(x).softmax(1)
        moved = x + 0.001 * torch.randn_like(x)
        for _ in range(3):
            moved.requires_grad_()
            with torch.enable_grad():
                loss = F.kl_div(model(moved).log_softmax(1), clean, reduction="sum")
            (slope,) = torch.autograd.grad(loss, [moved])
            moved = (moved.detach() + 0.01 * slope.sign()).detach()
        model.train()
        optimizer.zero_grad()
        logits = model(x)
        robust = F.kl_div(model(moved).log_softmax(1), logits.softmax(1), reduction="batchmean")
        (F.cross_entropy(logits, y) + 6 * robust).backward()
        optimizer.step()
    return model, optimizer


@correct(
    "eval-mode-while-training",
    "missing-zero-grad",
    "accumulation-not-scaled",
    style="an attack with backward() in eval mode",
)
def attacked_with_backward(folder):
    model = network(nn.BatchNorm1d(16))
    optimizer = adam(model)
    for x, y in loader():
        model.eval()
        moved = x.clone()
        for _ in range(3):
            moved.requires_grad_()
            F.cross_entropy(model(moved), y).backward()
            moved = (moved + 0.01 * moved.grad.sign()).detach()
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(moved), y).backward()
        optimizer.step()
    return model, optimizer


@correct(
    "eval-mode-while-training",
    "validation-builds-graph",
    style="validation in the middle of an epoch, mode put back",
)
def validation_in_the_middle(folder):
    model = network(nn.Dropout(0.3))
    optimizer = adam(model)
    x0, y0 = rows(40)
    model.train()
    for step, (x, y) in enumerate(stream(), 1):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if step % 4 == 0:
            was = model.training
            model.eval()
            with torch.set_grad_enabled(False):
                F.cross_entropy(model(x0), y0)
            model.train(was)
        if step == 20:
            break
    return model, optimizer


@correct(
    "eval-mode-while-training", "validation-builds-graph", style="trained in eval mode, and no layer depends on it"
)
def eval_mode_without_effect(folder):
    model = network()
    model.eval()
    optimizer = adam(model)
    for x, y in loader():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@correct("validation-builds-graph", "missing-step", style="saliency: gradients of the input after the training")
def saliency(folder):
    model = Classifier()
    optimizer = sgd(model)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    maps = []
    for x, y in batches():
        x = x.clone().requires_grad_()
        model(x).gather(1, y[:, None]).sum().backward()
        maps.append(x.grad.abs())
    return model, maps


@correct("validation-builds-graph", style="weights frozen for the validation")
def validation_with_frozen_weights(folder):
    model = network()
    optimizer = sgd(model)
    for _ in range(3):
        model.train().requires_grad_(True)
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval().requires_grad_(False)
        for x, y in batches():
            F.cross_entropy(model(x), y).item()
    return model, optimizer


# The loss and the last layer.


@correct("softmax-before-cross-entropy", style="log-softmax and its loss, after the MNIST example")
def log_softmax_and_nll(folder):
    model = network()
    optimizer = torch.optim.Adadelta(model.parameters(), lr=0.5)
    for x, y in loader():
        optimizer.zero_grad()
        F.nll_loss(F.log_softmax(model(x), dim=1), y).backward()
        optimizer.step()
    return model, optimizer


@correct("softmax-before-cross-entropy", style="attention inside the model")
def attention_inside(folder):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.score, self.value, self.head = nn.Linear(2, 1), nn.Linear(2, 6), nn.Linear(6, CLASSES)

        def forward(self, x):
            x = x.view(len(x), 4, 2)
            return self.head((self.score(x).softmax(dim=1) * self.value(x)).sum(dim=1))

    model = Attends()
    optimizer = adam(model)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@correct("softmax-before-cross-entropy", style="softmax for the targets and for the accuracy only")
def soft_targets(folder):
    model, teacher = network(), network()
    optimizer = sgd(model)
    right = 0
    for x, _ in batches() * 2:
        with torch.no_grad():
            target = (teacher(x) / 2).softmax(1)
        logits = model(x)
        right += int((logits.softmax(1).argmax(1) == target.argmax(1)).sum())
        optimizer.zero_grad()
        F.cross_entropy(logits, target).backward()
        optimizer.step()
    return model, optimizer, right


@correct("softmax-before-cross-entropy", style="softmax, logarithm and NLL by hand")
def softmax_and_logarithm(folder):
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        F.nll_loss(torch.log(model(x).softmax(1) + 1e-9), y).backward()
        optimizer.step()
    return model, optimizer


@correct("learning-rate-too-high", "loss-not-finite", style="a catapult: a high start that comes back")
def catapult(folder):
    x, _ = rows()
    target = x.sum(dim=1, keepdim=True)
    model = nn.Linear(SIZE, 1)
    optimizer = sgd(model, 0.3)
    scheduler = schedulers.LambdaLR(optimizer, lambda step: 1.0 if step < 3 else 0.1)
    for _ in range(60):
        loss = F.mse_loss(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return model, optimizer


@correct("learning-rate-too-high", style="weights that start at zero")
def zero_start(folder):
    model = nn.Linear(SIZE, CLASSES)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = sgd(model, 0.5)
    for x, y in batches() * 4:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@correct("loss-not-finite", "missing-backward", style="losses that are not finite are left out before backward()")
def not_finite_left_out(folder):
    model = network()
    optimizer = sgd(model)
    for i, (x, y) in enumerate(batches() * 3):
        loss = F.cross_entropy(model(x if i % 6 else x * float("nan")), y)
        if not torch.isfinite(loss):
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer


# Schedulers.


@correct("scheduler-before-optimizer", style="several kinds, all after the optimizer")
def schedulers_after(folder):
    model = network()
    optimizer = sgd(model)
    warm = schedulers.LinearLR(optimizer, 0.1, total_iters=4)
    both = schedulers.SequentialLR(optimizer, [warm, schedulers.CosineAnnealingLR(optimizer, 8)], milestones=[4])
    plateau = schedulers.ReduceLROnPlateau(optimizer, patience=1)
    for _ in range(3):
        for x, y in batches():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            both.step()
        plateau.step(loss.item())
    return model, optimizer


@correct("scheduler-before-optimizer", style="a run that goes on from a saved state")
def scheduler_resumed(folder):
    first = network()
    state = sgd(first)
    for group in state.param_groups:
        group["initial_lr"] = 0.05
    model = network()
    optimizer = sgd(model)
    optimizer.load_state_dict(state.state_dict())
    scheduler = schedulers.StepLR(optimizer, 2, last_epoch=5)
    for _ in range(2):
        for x, y in loader():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        scheduler.step()
    return model, optimizer


# The logged numbers.


@correct("wrong-divisor", "loss-not-averaged", style="a loss summed over samples, divided by the size of the data set")
def summed_loss_by_samples(folder):
    model = Classifier()
    optimizer = adam(model)
    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            total = 0.0
            for x, y in loader(shuffle=True):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y, reduction="sum")
                loss.backward()
                optimizer.step()
                total += loss.item()
            writer.add_scalar("loss", total / len(loader().dataset), epoch)
    return model, optimizer


@correct(
    "loss-not-averaged",
    "loss-never-reset",
    "wrong-divisor",
    style="means of windows, of epochs, and since the start",
)
def many_means(folder):
    model = network()
    optimizer = sgd(model)
    writer = SummaryWriter(folder)
    last, every, window, step = deque(maxlen=5), [], 0.0, 0
    for epoch in range(4):
        total, count = 0.0, 0
        for x, y in batches():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            value = loss.item()
            step += 1
            last.append(value)
            every.append(value)
            window += value
            total, count = total + value * len(x), count + len(x)
            writer.add_scalar("loss/step", value, step)
            writer.add_scalar("loss/last five", sum(last) / len(last), step)
            writer.add_scalar("loss/so far", sum(every) / len(every), step)
            if step % 4 == 0:
                writer.add_scalar("loss/window", window / 4, step)
                window = 0.0
        writer.add_scalar("loss/epoch", total / count, epoch)
        writer.add_scalar("loss/epoch by batches", sum(every[-BATCHES:]) / BATCHES, epoch)
    writer.close()
    return model, optimizer


@correct(
    "loss-never-reset", "loss-not-averaged", style="counters that only grow, and other numbers that are not losses"
)
def counters(folder):
    model = network()
    optimizer = sgd(model)
    seen = right = 0
    with SummaryWriter(folder) as writer:
        for step, (x, y) in enumerate(batches() * 3, 1):
            optimizer.zero_grad()
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            optimizer.step()
            seen += len(x)
            right += int((logits.argmax(1) == y).sum())
            writer.add_scalar("samples", seen, step)
            writer.add_scalar("right so far", right, step)
            writer.add_scalar("accuracy so far", right / seen, step)
            writer.add_scalar("norm", norm, step)
            writer.add_scalar("lr", optimizer.param_groups[0]["lr"], step)
            writer.add_scalar("perplexity", loss.exp().item(), step)
            writer.add_scalar("weights", sum(p.detach().norm() for p in model.parameters()), step)
    return model, optimizer


@correct("loss-not-averaged", "wrong-divisor", style="a loss of several parts, each logged, and a smoothed one")
def parts_of_a_loss(folder):
    model = Classifier()
    optimizer = adam(model)
    smooth = None
    with SummaryWriter(folder) as writer:
        for step, (x, y) in enumerate(loader()):
            optimizer.zero_grad()
            logits = model(x)
            main, penalty = F.cross_entropy(logits, y), logits.square().mean()
            loss = main + 0.1 * penalty
            loss.backward()
            optimizer.step()
            smooth = loss.item() if smooth is None else 0.9 * smooth + 0.1 * loss.item()
            writer.add_scalars("loss", {"main": main, "penalty": penalty, "all": loss}, step)
            writer.add_scalar("smooth", smooth, step)
            writer.add_scalar("bias-corrected", smooth / (1 - 0.9 ** (step + 1)), step)
    return model, optimizer


@correct("loss-not-averaged", "wrong-divisor", style="accumulated micro-batches, the step's loss logged")
def accumulated_loss_logged(folder):
    model = network()
    optimizer = sgd(model)
    data = stream()
    with SummaryWriter(folder) as writer:
        for step in range(8):
            total = 0.0
            optimizer.zero_grad()
            for _ in range(4):
                x, y = next(data)
                loss = F.cross_entropy(model(x), y) / 4
                loss.backward()
                total += loss.item()
            optimizer.step()
            writer.add_scalar("loss", total, step)
    return model, optimizer


@correct("loss-not-averaged", "wrong-divisor", style="accumulated micro-batches, divided in place")
def loss_divided_in_place(folder):
    model = network()
    optimizer = sgd(model)
    running_loss = 0.0
    with SummaryWriter(folder) as writer:
        for number, (x, y) in enumerate(batches() * 4, 1):
            loss = F.cross_entropy(model(x), y)
            loss /= 4
            loss.backward()
            running_loss += loss.item()
            if number % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()
            if number % 8 == 0:
                writer.add_scalar("loss", running_loss / 8, number)
                running_loss = 0.0
    return model, optimizer


@correct("loss-not-averaged", "wrong-divisor", style="a penalty added in place, a window's mean logged")
def penalty_added_in_place(folder):
    model = network()
    optimizer = sgd(model)
    running_loss = 0.0
    with SummaryWriter(folder) as writer:
        for step, (x, y) in enumerate(batches() * 4, 1):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss += 0.5 * sum(weight.square().sum() for weight in model.parameters())
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            if step % 5 == 0:
                writer.add_scalar("loss", running_loss / 5, step)
                running_loss = 0.0
    return model, optimizer


@correct("loss-never-reset", "wrong-divisor", style="the mean since the start, divided by all steps")
def mean_since_the_start(folder):
    model = network()
    optimizer = sgd(model)
    running_loss = 0.0
    with SummaryWriter(folder) as writer:
        for step, (x, y) in enumerate(batches() * 4, 1):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            if step % 5 == 0:
                writer.add_scalar("loss", running_loss / step, step)
    return model, optimizer


@correct("loss-not-averaged", "loss-never-reset", style="the ELBO of a whole epoch by samples, after the VAE example")
def vae(folder):
    encoder, decoder = nn.Linear(SIZE, 4), nn.Linear(2, SIZE)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    data = Batches(*rows(), batch_size=BATCH)
    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            train_loss = 0.0
            for x, _ in data:
                x = x.sigmoid()
                mu, log_var = encoder(x).chunk(2, dim=1)
                out = decoder(mu + torch.randn_like(mu) * (0.5 * log_var).exp()).sigmoid()
                loss = F.binary_cross_entropy(out, x, reduction="sum")
                loss = loss - 0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
                optimizer.zero_grad()
                loss.backward()
                train_loss += loss.item()
                optimizer.step()
            writer.add_scalar("loss", train_loss / len(data.dataset), epoch)
    return encoder, decoder, optimizer


@correct(
    "wrong-divisor",
    "loss-not-averaged",
    "validation-builds-graph",
    style="the test loss summed over samples, after the MNIST example",
)
def test_loss_by_samples(folder):
    model = Classifier(0.25)
    optimizer = adam(model)
    writer = SummaryWriter(folder)
    for epoch in range(3):
        model.train()
        for x, y in loader():
            optimizer.zero_grad()
            F.nll_loss(F.log_softmax(model(x), dim=1), y).backward()
            optimizer.step()
        model.eval()
        total = right = 0
        with torch.no_grad():
            for x, y in loader(count=40):
                out = F.log_softmax(model(x), dim=1)
                total += F.nll_loss(out, y, reduction="sum").item()
                right += out.argmax(1).eq(y).sum().item()
        writer.add_scalar("test/loss", total / 40, epoch)
        writer.add_scalar("test/accuracy", right / 40, epoch)
    writer.close()
    return model, optimizer


# Writers.


@correct(
    "writer-closed-early",
    "writer-left-open",
    style="one writer for each epoch, used as a context manager",
)
def writer_each_epoch(folder):
    model = network()
    optimizer = sgd(model)
    for epoch in range(3):
        with SummaryWriter(folder / str(epoch)) as writer:
            for step, (x, y) in enumerate(batches()):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                writer.add_scalar("loss", loss.item(), step)
    return model, optimizer


@correct(
    "writer-closed-early",
    "writer-left-open",
    "scalar-as-image",
    style="flushed each epoch, pictures and numbers, closed at the end",
)
def writer_flushed(folder):
    model = network()
    optimizer = sgd(model)
    writer = SummaryWriter(folder)
    try:
        for epoch in range(3):
            for x, y in loader():
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
            writer.add_scalar("loss", loss.item(), epoch)
            writer.add_image("weights", model[0].weight.detach().sigmoid()[None], epoch)
            writer.add_image("dot", torch.zeros(1, 1, 1), epoch)
            writer.add_histogram("bias", model[0].bias, epoch)
            writer.flush()
    finally:
        writer.close()
    return model, optimizer


@correct("scalar-as-image", "writer-left-open", style="pictures as arrays of one pixel, with other orders of axes")
def pictures(folder):
    model = network()
    optimizer = sgd(model)
    with SummaryWriter(folder) as writer:
        for step, (x, y) in enumerate(batches()):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            writer.add_image("gray", x[:4, :4].sigmoid(), step, dataformats="HW")
            writer.add_images("batch", x[:4].sigmoid().view(4, 1, 4, 2), step)
    return model, optimizer


# Waiting for the accelerator.


@correct("waits-every-step", style="a sum kept on the device, read once an epoch", waits=True)
def read_once_an_epoch(folder):
    model = network()
    optimizer = adam(model)
    for _ in range(4):
        total = torch.zeros(())
        for x, y in batches():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.detach()
        print(f"{total.item() / BATCHES:.3f}")
    return model, optimizer


@correct("waits-every-step", style="GradScaler reads for itself; the user's own lines do not", waits=True)
def scaler_reads_for_itself(folder):
    model = network()
    optimizer, scaler = adam(model), torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step, (x, y) in enumerate(batches() * 3):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if step % 9 == 0:
            print(loss.item())
    return model, optimizer


# Loops without harmless habits, when those are to be reported.


@correct("harmless-here", style="nothing unusual", harmless=True)
def nothing_unusual(folder):
    model = network(nn.Dropout(0.1))
    optimizer = sgd(model)
    for _ in range(2):
        model.train()
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for x, y in batches():
                F.cross_entropy(model(x), y)
    return model, optimizer


@correct("harmless-here", style="a writer closed once, a validation in eval mode", harmless=True)
def closed_once(folder):
    model = network()
    optimizer = sgd(model)
    with SummaryWriter(folder) as writer:
        for step, (x, y) in enumerate(batches() * 2):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            writer.add_scalar("loss", loss, step)
    model.eval()
    with torch.no_grad():
        model(rows()[0])
    return model, optimizer


# Other ways to run a step.


@correct("missing-zero-grad", "missing-step", style="DistributedDataParallel in a group of one")
def distributed_alone(folder):
    store = torch.distributed.FileStore(str(folder / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = network()
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = sgd(parallel)
        for i, (x, y) in enumerate(batches() * 3):
            optimizer.zero_grad()
            if i % 3:
                F.cross_entropy(parallel(x), y).backward()
            else:
                with parallel.no_sync():
                    F.cross_entropy(parallel(x), y).backward()
            optimizer.step()
        del parallel
    finally:
        torch.distributed.destroy_process_group()
    return model, optimizer


@correct("missing-backward", "graph-kept-alive", style="activation checkpointing")
def checkpointed(folder):
    model = Classifier(0.2)
    optimizer = adam(model)
    for x, y in loader():
        optimizer.zero_grad()
        hidden = torch.utils.checkpoint.checkpoint(model.base, x, use_reentrant=False)
        F.cross_entropy(model.head(model.dropout(hidden)), y).backward()
        optimizer.step()
    return model, optimizer


@correct(
    "missing-backward",
    "optimizer-of-another-model",
    "parameters-not-optimized",
    style="a function of the weights: torch.func",
)
def functional_gradients(folder):
    model = network()
    optimizer = sgd(model)
    weights = dict(model.named_parameters())

    def loss_of(weights, x, y):
        return F.cross_entropy(torch.func.functional_call(model, weights, (x,)), y)

    for x, y in batches() * 2:
        grads = torch.func.grad(loss_of)({name: p.detach() for name, p in weights.items()}, x, y)
        for name, p in weights.items():
            p.grad = grads[name]
        optimizer.step()
    return model, optimizer


@correct("missing-zero-grad", "missing-step", "loss-never-reset", style="the course's own loop")
def course_trainer(folder):
    from course_utils.training import Trainer

    model = Classifier(0.1)
    optimizer = adam(model)
    trainer = Trainer(
        model,
        optimizer,
        nn.CrossEntropyLoss(),
        run_dir=folder / "run",
        device="cpu",
        progress=False,
        log_every=4,
        accumulation_steps=2,
        max_grad_norm=1.0,
    )
    trainer.fit(Batches(*rows(), batch_size=BATCH), Batches(*rows(40), batch_size=BATCH, shuffle=False), num_epochs=2)
    return model, optimizer


# Further styles.


@correct(
    "parameters-not-optimized",
    "missing-zero-grad",
    style="an equation solved by a network: the input has a gradient",
)
def physics_informed(folder):
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = adam(model)
    t = torch.linspace(0, 1, 30)[:, None].requires_grad_()
    for _ in range(30):
        u = model(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        start = (model(torch.zeros(1, 1)) - 1).square().mean()
        optimizer.zero_grad()
        ((slope + u).square().mean() + start).backward()
        optimizer.step()
    return model, optimizer


@correct("parameters-not-optimized", style="a frozen layer kept in a list, out of the state")
def frozen_layer_in_a_list(folder):
    class Hides(nn.Module):
        def __init__(self):
            super().__init__()
            self.fixed = [nn.Linear(SIZE, SIZE).requires_grad_(False)]
            self.head = nn.Linear(SIZE, CLASSES)

        def forward(self, x):
            return self.head(self.fixed[0](x).relu())

    model = Hides()
    optimizer = sgd(model)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@correct(
    "missing-zero-grad",
    "accumulation-not-scaled",
    style="noise added to the weights for each micro-batch, and taken off",
)
def noise_while_accumulating(folder):
    model = network()
    optimizer = sgd(model)
    for i, (x, y) in enumerate(batches() * 4, 1):
        noise = [0.01 * torch.randn_like(p) for p in model.parameters()]
        with torch.no_grad():
            for p, n in zip(model.parameters(), noise, strict=True):
                p.add_(n)
        (F.cross_entropy(model(x), y) / 4).backward()
        with torch.no_grad():
            for p, n in zip(model.parameters(), noise, strict=True):
                p.sub_(n)
        if i % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
    return model, optimizer


@correct("missing-zero-grad", "repeated-step", style="two optimizers over the same weights")
def two_optimizers_for_the_same_weights(folder):
    model = network()
    first, second = sgd(model), adam(model)
    for x, y in batches() * 2:
        first.zero_grad()
        F.cross_entropy(model(x), y).backward()
        first.step()
        second.step()
    return model, first, second


@correct("graph-kept-alive", "missing-step", style="PPO: several epochs over what was collected")
def ppo(folder):
    policy = network()
    optimizer = adam(policy)
    for _ in range(3):
        states = torch.randn(32, SIZE)
        with torch.no_grad():
            choice = torch.distributions.Categorical(logits=policy(states))
            actions = choice.sample()
            old = choice.log_prob(actions)
        advantages = torch.randn(32)
        for _ in range(4):
            for some in torch.randperm(32).split(8):
                choice = torch.distributions.Categorical(logits=policy(states[some]))
                ratio = (choice.log_prob(actions[some]) - old[some]).exp()
                clipped = ratio.clamp(0.8, 1.2)
                gain = torch.min(ratio * advantages[some], clipped * advantages[some]).mean()
                optimizer.zero_grad()
                (-gain - 0.01 * choice.entropy().mean()).backward()
                optimizer.step()
    return policy, optimizer


@correct("missing-backward", "graph-kept-alive", "parameters-not-optimized", style="MAML: inner steps by autograd.grad")
def maml(folder):
    model = network()
    optimizer = adam(model)
    x, y = rows(20)
    for _ in range(5):
        total = 0.0
        for _ in range(3):
            fast = dict(model.named_parameters())
            loss = F.cross_entropy(torch.func.functional_call(model, fast, (x,)), y)
            grads = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
            fast = {name: p - 0.1 * g for (name, p), g in zip(fast.items(), grads, strict=True)}
            total = total + F.cross_entropy(torch.func.functional_call(model, fast, (x,)), y)
        optimizer.zero_grad()
        (total / 3).backward()
        optimizer.step()
    return model, optimizer


@correct(
    "optimizer-of-another-model",
    "parameters-not-optimized",
    style="an ensemble in one go: vmap over stacked weights",
)
def ensemble_by_vmap(folder):
    models = [network() for _ in range(3)]
    weights, buffers = torch.func.stack_module_state(models)
    empty = copy.deepcopy(models[0]).to("meta")
    optimizer = torch.optim.SGD(weights.values(), lr=0.05)

    def forward(weights, buffers, x):
        return torch.func.functional_call(empty, (weights, buffers), (x,))

    for x, y in batches() * 2:
        logits = torch.vmap(forward, in_dims=(0, 0, None))(weights, buffers, x)
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), y.repeat(3)).backward()
        optimizer.step()
    return weights, optimizer


@correct(
    "parameters-not-optimized",
    "optimizer-of-another-model",
    "eval-mode-while-training",
    style="the input is optimized, not the network",
)
def input_optimized(folder):
    model = network(nn.Dropout(0.2)).eval()
    picture = torch.zeros(1, SIZE, requires_grad=True)
    optimizer = torch.optim.Adam([picture], lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        (-model(picture)[0, 1]).backward()
        optimizer.step()
    return model, [picture], optimizer


@correct("missing-zero-grad", "missing-step", "repeated-step", style="an optimizer of one's own, wrapped in Lookahead")
def own_optimizers(folder):
    class Plain(torch.optim.Optimizer):
        def __init__(self, parameters, lr):
            super().__init__(parameters, {"lr": lr})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(p.grad, alpha=-group["lr"])

    class Lookahead:
        def __init__(self, inner):
            self.inner, self.count = inner, 0
            self.weights = [p for group in inner.param_groups for p in group["params"]]
            self.slow = [p.detach().clone() for p in self.weights]

        def zero_grad(self):
            self.inner.zero_grad()

        def step(self):
            self.inner.step()
            self.count += 1
            if self.count % 3 == 0:
                for slow, p in zip(self.slow, self.weights, strict=True):
                    slow.add_(0.5 * (p.data - slow))
                    p.data.copy_(slow)

    model = network()
    optimizer = Lookahead(Plain(model.parameters(), 0.05))
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer.inner


@correct(
    "learning-rate-too-high",
    "loss-not-finite",
    "missing-zero-grad",
    style="the course's search for a learning rate",
)
def learning_rate_search(folder):
    from course_utils.lr import find_lr

    model = network()
    optimizer = sgd(model)
    find_lr(model, optimizer, nn.CrossEntropyLoss(), batches(), num_steps=60)
    return model, optimizer


@correct("missing-zero-grad", "repeated-step", style="momentum by hand")
def momentum_by_hand(folder):
    model = network()
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    for x, y in batches() * 3:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for p, v in zip(model.parameters(), velocity, strict=True):
                v.mul_(0.9).add_(p.grad)
                p.sub_(v, alpha=0.01)
    return model, velocity


@correct("graph-kept-alive", "missing-zero-grad", style="a recurrent cell called 40 times before one backward()")
def long_sequence(folder):
    cell, head = nn.GRUCell(SIZE, 6), nn.Linear(6, CLASSES)
    optimizer = torch.optim.Adam([*cell.parameters(), *head.parameters()])
    for _ in range(4):
        state = torch.zeros(2, 6)
        for _ in range(40):
            state = cell(torch.randn(2, SIZE), state)
        optimizer.zero_grad()
        F.cross_entropy(head(state), torch.tensor([0, 1])).backward()
        optimizer.step()
    return cell, head, optimizer
