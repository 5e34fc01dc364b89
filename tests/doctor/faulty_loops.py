"""Loops with one mistake each (sometimes two), written as people write them."""

import copy
import warnings

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
    faulty,
    loader,
    network,
    rows,
    sgd,
    stream,
)
from torch import nn
from torch.utils.tensorboard import SummaryWriter

# missing-zero-grad


@faulty(
    "missing-zero-grad", style="plain loop over a DataLoader", evidence=("`0.weight`", "step 1's", "17 of 18 steps")
)
def never_cleared(folder):
    model = network()
    optimizer = sgd(model, 0.01)
    for _ in range(3):
        for x, y in loader():
            loss = F.cross_entropy(model(x), y)
            loss.backward()  # <- missing-zero-grad
            optimizer.step()
    return model, optimizer


@faulty("missing-zero-grad", style="function called once an epoch", evidence="15 of 18 steps")
def cleared_once_an_epoch(folder):
    model = network()
    optimizer = adam(model)

    def train_one_epoch():
        optimizer.zero_grad()
        for x, y in batches():
            F.cross_entropy(model(x), y).backward()  # <- missing-zero-grad
            optimizer.step()

    for _ in range(3):
        train_one_epoch()
    return model, optimizer


@faulty("missing-zero-grad", style="class with train_step, parentheses forgotten", evidence="23 of 24 steps")
def zero_grad_without_parentheses(folder):
    class Trainer:
        def __init__(self):
            self.model = Classifier(dropout=0.1)
            self.optimizer = torch.optim.RMSprop(self.model.parameters(), lr=1e-4)

        def train_step(self, x, y):
            self.optimizer.zero_grad  # noqa: B018
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()  # <- missing-zero-grad
            self.optimizer.step()
            return loss.item()

    trainer = Trainer()
    for _ in range(4):
        for x, y in batches():
            trainer.train_step(x, y)
    return trainer.model, trainer.optimizer


@faulty("missing-zero-grad", style="manual SGD under no_grad", evidence=("`0.weight`", "17 of 18 steps"))
def manual_never_cleared(folder):
    model = network()
    for _ in range(3):
        for x, y in batches():
            loss = F.cross_entropy(model(x), y)
            loss.backward()  # <- missing-zero-grad
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.01 * p.grad
    return model


@faulty("missing-zero-grad", style="manual SGD on two tensors, .data")
def manual_tensors_never_cleared(folder):
    x, _ = rows()
    target = x[:, :1] * 2 + 1
    w, b = torch.zeros(SIZE, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    for _ in range(20):
        loss = ((x @ w + b - target) ** 2).mean()
        loss.backward()  # <- missing-zero-grad
        w.data -= 0.001 * w.grad.data
        b.data -= 0.001 * b.grad.data
    return w, b


@faulty("missing-zero-grad", style="two optimizers, one of them never cleared", evidence="`weight`")
def wrong_optimizer_cleared(folder):
    encoder, head = nn.Linear(SIZE, 16), nn.Linear(16, CLASSES)
    first, second = torch.optim.SGD(encoder.parameters(), lr=0.01), torch.optim.Adam(head.parameters(), lr=1e-3)
    for x, y in batches() * 3:
        first.zero_grad()
        loss = F.cross_entropy(head(encoder(x).relu()), y)
        loss.backward()  # <- missing-zero-grad
        first.step()
        second.step()
    return encoder, head, first, second


@faulty("missing-zero-grad", style="LBFGS closure that does not clear")
def closure_never_clears(folder):
    model = nn.Linear(SIZE, CLASSES)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=4)
    x, y = rows()

    def closure():
        loss = F.cross_entropy(model(x), y)
        loss.backward()  # <- missing-zero-grad
        return loss

    for _ in range(6):
        optimizer.step(closure)
    return model, optimizer


@faulty("missing-zero-grad", style="GradScaler, a while loop and an iterator")
def scaler_never_cleared(folder):
    model = network()
    optimizer, scaler = sgd(model, 0.01), torch.amp.GradScaler("cpu", init_scale=128.0)
    data, step = iter(stream()), 0
    while step < 20:
        x, y = next(data)
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()  # <- missing-zero-grad
        scaler.step(optimizer)
        scaler.update()
        step += 1
    return model, optimizer


@faulty("missing-zero-grad", style="two losses through torch.autograd.backward")
def autograd_backward_never_cleared(folder):
    model = Classifier()
    optimizer = adam(model)
    for x, y in loader(shuffle=True):
        logits = model(x)
        torch.autograd.backward([F.cross_entropy(logits, y), 0.01 * logits.square().mean()])  # <- missing-zero-grad
        optimizer.step()
    return model, optimizer


@faulty("missing-zero-grad", style="GAN whose discriminator is never cleared")
def discriminator_never_cleared(folder):
    generator, critic = nn.Linear(4, SIZE), nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), nn.Linear(16, 1))
    for_g, for_d = torch.optim.Adam(generator.parameters(), lr=1e-4), torch.optim.Adam(critic.parameters(), lr=1e-4)
    for x, _ in batches() * 3:
        fake = generator(torch.randn(len(x), 4))
        one, zero = torch.ones(len(x), 1), torch.zeros(len(x), 1)
        loss = F.binary_cross_entropy_with_logits(critic(x), one)
        loss = loss + F.binary_cross_entropy_with_logits(critic(fake.detach()), zero)
        loss.backward()  # <- missing-zero-grad
        for_d.step()
        for_g.zero_grad()
        F.binary_cross_entropy_with_logits(critic(fake), one).backward()
        for_g.step()
    return generator, critic, for_g, for_d


# zero-grad-before-step


@faulty("zero-grad-before-step", style="plain loop", evidence="18 times")
def cleared_before_step(folder):
    model = network()
    optimizer = adam(model)
    for x, y in batches() * 3:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()  # <- zero-grad-before-step
    return model, optimizer


@faulty("zero-grad-before-step", style="class, model.zero_grad(set_to_none=False)")
def model_cleared_before_step(folder):
    class Learner:
        def __init__(self):
            self.model = network()
            self.optimizer = sgd(self.model)

        def update(self, loss):
            loss.backward()
            self.model.zero_grad(set_to_none=False)
            self.optimizer.step()  # <- zero-grad-before-step

    learner = Learner()
    for x, y in batches() * 2:
        learner.update(F.cross_entropy(learner.model(x), y))
    return learner.model, learner.optimizer


@faulty("zero-grad-before-step", style="gradients set to None by hand in a callback")
def callback_clears_too_early(folder):
    model = Classifier()
    optimizer = sgd(model)

    def after_backward():
        for p in model.parameters():
            p.grad = None

    def after_step():
        pass

    callbacks = {"after_backward": after_backward, "after_step": after_step}
    for x, y in stream():
        F.cross_entropy(model(x), y).backward()
        callbacks["after_backward"]()
        optimizer.step()  # <- zero-grad-before-step
        callbacks["after_step"]()
        if len(x) < BATCH:
            break
    return model, optimizer


# missing-step


@faulty("missing-step", style="plain loop", evidence=("Adam", "18 times"))
def never_stepped(folder):
    model = network()
    optimizer = adam(model)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # <- missing-step
    return model, optimizer


@faulty("missing-step", style="parentheses forgotten, class")
def step_without_parentheses(folder):
    class Trainer:
        def __init__(self, model):
            self.model, self.optimizer = model, sgd(model)

        def fit(self, data):
            for x, y in data:
                self.optimizer.zero_grad()
                loss = F.cross_entropy(self.model(x), y)
                loss.backward()  # <- missing-step
                self.optimizer.step  # noqa: B018

    trainer = Trainer(Classifier())
    for _ in range(2):
        trainer.fit(loader())
    return trainer.model, trainer.optimizer


@faulty("missing-step", style="only the scheduler steps")
def scheduler_instead_of_optimizer(folder):
    model = network()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x, y in batches() * 2:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()  # <- missing-step
            scheduler.step()
    return model, optimizer


@faulty("missing-step", style="no optimizer at all")
def gradients_for_nothing(folder):
    model = network()
    for x, y in batches() * 2:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()  # <- missing-step
    return model


@faulty("missing-step", style="GAN whose generator never steps")
def generator_never_steps(folder):
    generator, critic = nn.Linear(4, SIZE), nn.Linear(SIZE, 1)
    for_g, for_d = torch.optim.Adam(generator.parameters()), torch.optim.SGD(critic.parameters(), lr=0.01)
    for x, _ in batches() * 3:
        fake = generator(torch.randn(len(x), 4))
        for_d.zero_grad()
        (critic(fake.detach()).mean() - critic(x).mean()).backward()
        for_d.step()
        for_g.zero_grad()
        (-critic(fake).mean()).backward()  # <- missing-step
    return generator, critic, for_g, for_d


# missing-backward


@faulty("missing-backward", style="plain loop", evidence="18 times")
def never_backward(folder):
    model = network()
    optimizer = adam(model)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y)
        optimizer.step()  # <- missing-backward
    return model, optimizer


@faulty("missing-backward", style="parentheses forgotten, function called once an epoch")
def backward_without_parentheses(folder):
    model = Classifier()
    optimizer = sgd(model)

    def epoch():
        for x, y in loader():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward  # noqa: B018
            optimizer.step()  # <- missing-backward

    epoch()
    epoch()
    return model, optimizer


@faulty("missing-backward", style="a loss created again to silence an error", evidence="12 times")
def loss_cut_from_its_graph(folder):
    model = network()
    optimizer = adam(model)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).detach(), y)
        loss.requires_grad_()
        loss.backward()
        optimizer.step()  # <- missing-backward
    return model, optimizer


@faulty("missing-backward", style="closure that only computes the loss")
def closure_without_backward(folder):
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 2:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            return F.cross_entropy(model(x), y)

        optimizer.step(closure)  # <- missing-backward
    return model, optimizer


# repeated-step


@faulty("repeated-step", style="plain loop", evidence="18 times")
def stepped_twice(folder):
    model = network()
    optimizer = adam(model)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.step()  # <- repeated-step
    return model, optimizer


@faulty("repeated-step", style="a helper steps, and its caller again")
def helper_steps_too(folder):
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def update(loss):
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    for x, y in loader():
        update(F.cross_entropy(model(x), y))
        optimizer.step()  # <- repeated-step
    return model, optimizer


@faulty("repeated-step", style="a callback steps, class")
def callback_steps_too(folder):
    class Trainer:
        def __init__(self):
            self.model = network()
            self.optimizer = sgd(self.model, 0.01, momentum=0.9)
            self.after_batch = [lambda: self.optimizer.step()]  # <- repeated-step

        def train_step(self, x, y):
            loss = F.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            for call in self.after_batch:
                call()

    trainer = Trainer()
    for x, y in batches() * 2:
        trainer.train_step(x, y)
    return trainer.model, trainer.optimizer


@faulty("repeated-step", style="a loop over models that share one optimizer")
def one_optimizer_for_two_models(folder):
    one, two = network(), network()
    optimizer = torch.optim.SGD([*one.parameters(), *two.parameters()], lr=0.01)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        (F.cross_entropy(one(x), y) + F.cross_entropy(two(x), y)).backward()
        for _ in (one, two):
            optimizer.step()  # <- repeated-step
    return one, two, optimizer


# optimizer-of-another-model


@faulty(
    "optimizer-of-another-model",
    style="the model is created again after the optimizer",
    evidence=("18 of 18", "`0.weight`"),
)
def model_made_anew(folder):
    model = network()
    optimizer = adam(model)
    model = network()
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()  # <- optimizer-of-another-model
    return model, optimizer


@faulty("optimizer-of-another-model", style="a deep copy is trained, class")
def copy_is_trained(folder):
    class Trainer:
        def __init__(self, model):
            self.optimizer = sgd(model)
            self.model = copy.deepcopy(model)

        def fit(self):
            for x, y in loader():
                self.model.zero_grad()
                F.cross_entropy(self.model(x), y).backward()
                self.optimizer.step()  # <- optimizer-of-another-model

    trainer = Trainer(Classifier())
    trainer.fit()
    trainer.fit()
    return trainer.model, trainer.optimizer


@faulty("optimizer-of-another-model", style="cross-validation that creates the optimizer once")
def folds_share_the_optimizer(folder):
    optimizer = adam(network())
    models = []
    for _ in range(3):
        model = network()
        models.append(model)
        for x, y in batches():
            model.zero_grad()
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()  # <- optimizer-of-another-model
    return models, optimizer


# parameters-not-optimized


@faulty(
    "parameters-not-optimized",
    style="only the head is given",
    evidence=("`base.0.weight`", "144 of its 195 numbers"),
)
def head_only(folder):
    model = Classifier()
    optimizer = torch.optim.Adam(model.head.parameters())  # <- parameters-not-optimized
    for x, y in batches() * 3:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@faulty("parameters-not-optimized", style="a new head after the optimizer, function", evidence="`head.weight`")
def head_replaced_after_the_optimizer(folder):
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)  # <- parameters-not-optimized
    model.head = nn.Linear(16, CLASSES)

    def epoch():
        for x, y in loader():
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    epoch()
    epoch()
    return model, optimizer


@faulty("parameters-not-optimized", style="layers in a Python list", evidence="`hidden.0.weight`")
def layers_in_a_list(folder):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = [nn.Linear(SIZE, SIZE) for _ in range(2)]
            self.head = nn.Linear(SIZE, CLASSES)

        def forward(self, x):
            for layer in self.hidden:
                x = layer(x).relu()
            return self.head(x)

    model = Deep()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)  # <- parameters-not-optimized
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, model.hidden, optimizer


@faulty("parameters-not-optimized", style="manual groups that forget the biases")
def biases_forgotten(folder):
    model = network()
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    optimizer = torch.optim.SGD([{"params": weights, "weight_decay": 1e-4}], lr=0.05)  # <- parameters-not-optimized
    data = stream()
    for _ in range(15):
        x, y = next(data)
        loss = F.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer


# graph-kept-alive


@faulty("graph-kept-alive", style="running sum of losses", evidence="18 past losses")
def running_sum_of_tensors(folder):
    model = network()
    optimizer = adam(model)
    running_loss = 0.0
    for x, y in batches() * 3:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running_loss += loss  # <- graph-kept-alive
    return model, optimizer


@faulty("graph-kept-alive", style="losses in a list, class")
def list_of_losses(folder):
    class Trainer:
        def __init__(self):
            self.model, self.history = Classifier(0.1), {"loss": []}
            self.optimizer = sgd(self.model)

        def train_step(self, x, y):
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            self.history["loss"].append(loss)  # <- graph-kept-alive

    trainer = Trainer()
    for _ in range(3):
        for x, y in loader():
            trainer.train_step(x, y)
    return trainer.model, trainer.optimizer


@faulty("graph-kept-alive", style="a moving mean of tensors")
def moving_mean_of_tensors(folder):
    model = network()
    optimizer = sgd(model)
    smooth = None
    for x, y in batches() * 3:
        loss = F.cross_entropy(model(x), y)
        smooth = loss if smooth is None else 0.9 * smooth + 0.1 * loss  # <- graph-kept-alive
        optimizer.zero_grad()
        loss.backward(retain_graph=True)
        optimizer.step()
    return model, optimizer


@faulty("hidden-state-not-detached", style="recurrent state that is never detached, retain_graph")
def state_never_detached(folder):
    cell, head = nn.RNNCell(SIZE, 6), nn.Linear(6, 1)
    last = torch.optim.SGD(head.parameters(), lr=1e-3)
    x, _ = rows()
    state = torch.zeros(4, 6)
    for i in range(20):
        state = cell(x[4 * i : 4 * i + 4], state)
        loss = head(state).square().mean()
        last.zero_grad()
        loss.backward(retain_graph=True)  # <- hidden-state-not-detached
        last.step()
    return cell, head, last


@faulty("graph-kept-alive", "validation-builds-graph", style="outputs of the validation kept")
def outputs_of_validation_kept(folder):
    model = network()
    optimizer = adam(model)
    outputs = []
    for _ in range(4):
        model.train()
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        for x, _ in batches():
            outputs.append(model(x))  # <- graph-kept-alive, validation-builds-graph
    return model, optimizer


# The logged numbers.


@faulty("loss-never-reset", style="writer, sum over the whole run", evidence=("`loss`", "since training began"))
def never_reset(folder):
    model = network()
    optimizer = sgd(model)
    running_loss = 0.0
    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            for x, y in loader():
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                running_loss += loss.item()
            writer.add_scalar("loss", running_loss, epoch)  # <- loss-never-reset
    return model, optimizer


@faulty("loss-never-reset", style="class, divided by the batches of one epoch", evidence="batches in one epoch (6)")
def never_reset_but_divided(folder):
    class Trainer:
        def __init__(self):
            self.model, self.total = Classifier(), 0.0
            self.optimizer, self.writer = adam(self.model), SummaryWriter(folder)

        def epoch(self, number):
            for x, y in batches():
                self.optimizer.zero_grad()
                loss = F.cross_entropy(self.model(x), y)
                loss.backward()
                self.optimizer.step()
                self.total += loss.item()
            self.writer.add_scalar("train/loss", self.total / len(batches()), number)  # <- loss-never-reset

    trainer = Trainer()
    for number in range(4):
        trainer.epoch(number)
    trainer.writer.close()
    return trainer.model, trainer.optimizer


@faulty("loss-never-reset", style="a window that is never emptied, while loop")
def window_never_emptied(folder):
    model = network()
    optimizer = sgd(model)
    data, running_loss, step = stream(), 0.0, 0
    writer = SummaryWriter(folder)
    while step < 30:
        x, y = next(data)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        step += 1
        if step % 5 == 0:
            writer.add_scalar("loss", running_loss / 5, step)  # <- loss-never-reset
    writer.close()
    return model, optimizer


@faulty("loss-not-averaged", style="sum of an epoch", evidence="the sum of the batch losses of this epoch")
def sum_of_an_epoch(folder):
    model = network()
    optimizer = sgd(model)
    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            running_loss = 0.0
            for x, y in loader():
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                running_loss += loss.item()
            writer.add_scalar("loss", running_loss, epoch)  # <- loss-not-averaged
    return model, optimizer


@faulty("loss-not-averaged", style="sum of a window, list of batches", evidence="of the last 4 batches")
def sum_of_a_window(folder):
    model = Classifier()
    optimizer = adam(model)
    running_loss = 0.0
    writer = SummaryWriter(folder)
    for i, (x, y) in enumerate(batches() * 4, 1):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        if i % 4 == 0:
            writer.add_scalar("loss", running_loss, i)  # <- loss-not-averaged
            running_loss = 0.0
    writer.close()
    return model, optimizer


@faulty("loss-not-averaged", style="function that returns a sum of tensors, float32")
def sum_returned_by_a_function(folder):
    model = network()
    optimizer = sgd(model)

    def train_one_epoch():
        total = torch.zeros(())
        for x, y in loader(shuffle=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total

    with SummaryWriter(folder) as writer:
        for epoch in range(4):
            writer.add_scalar("loss", train_one_epoch(), epoch)  # <- loss-not-averaged
    return model, optimizer


@faulty("wrong-divisor", style="batch means divided by the samples", evidence="times too small")
def means_divided_by_samples(folder):
    model = network()
    optimizer = sgd(model)
    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            running_loss = 0.0
            for x, y in loader():
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                running_loss += loss.item()
            writer.add_scalar("loss", running_loss / len(loader().dataset), epoch)  # <- wrong-divisor
    return model, optimizer


@faulty("wrong-divisor", style="a window of 4 divided by 5, class", evidence=("divided by 5", "1.25 times too small"))
def window_divided_by_another_number(folder):
    class Meter:
        def __init__(self, every):
            self.sum, self.every = 0.0, every

        def mean(self):
            value, self.sum = self.sum / (self.every + 1), 0.0
            return value

    model, meter = Classifier(), Meter(4)
    optimizer = adam(model)
    writer = SummaryWriter(folder)
    for i, (x, y) in enumerate(batches() * 4, 1):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        meter.sum += loss.item()
        if i % 4 == 0:
            writer.add_scalar("loss", meter.mean(), i)  # <- wrong-divisor
    writer.close()
    return model, optimizer


@faulty("wrong-divisor", style="sums of samples divided by the batches", evidence="times too large")
def weighted_divided_by_batches(folder):
    model = network()
    optimizer = sgd(model)
    loss_fn = nn.CrossEntropyLoss()
    writer = SummaryWriter(folder)
    for epoch in range(3):
        total = 0.0
        for x, y in loader():
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * x.size(0)
        writer.add_scalar("loss", total / len(loader()), epoch)  # <- wrong-divisor
    writer.close()
    return model, optimizer


@faulty("wrong-divisor", style="the validation's batch means divided by its samples", evidence="validation loss")
def validation_divided_by_samples(folder):
    model = network()
    optimizer = sgd(model)
    writer = SummaryWriter(folder)
    for epoch in range(3):
        model.train()
        for x, y in loader():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        total = 0.0
        with torch.no_grad():
            for x, y in loader(count=40):
                total += F.cross_entropy(model(x), y).item()
        writer.add_scalar("valid/loss", total / 40, epoch)  # <- wrong-divisor
    writer.close()
    return model, optimizer


# The writer.


@faulty(
    "writer-closed-early", style="closed in the loop over epochs", evidence=("2 times after close()", "3 times in all")
)
def closed_each_epoch(folder):
    model = network()
    optimizer = sgd(model)
    writer = SummaryWriter(folder)
    for epoch in range(3):
        for x, y in loader():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        writer.add_scalar("loss", loss.item(), epoch)
        writer.close()  # <- writer-closed-early
    return model, optimizer


@faulty("writer-closed-early", style="used as a context manager again and again")
def context_manager_each_epoch(folder):
    model = Classifier()
    optimizer = adam(model)
    writer = SummaryWriter(folder)
    for epoch in range(4):
        with writer:  # <- writer-closed-early
            for x, y in batches():
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
            writer.add_scalar("loss", loss.item(), epoch)
    return model, optimizer


@faulty("writer-closed-early", style="a function that closes what it was given")
def function_closes_the_writer(folder):
    model = network()
    optimizer = sgd(model)

    def train(writer, start):
        for i, (x, y) in enumerate(batches(), start):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            writer.add_scalar("loss", loss, i)
        writer.close()  # <- writer-closed-early

    writer = SummaryWriter(folder)
    train(writer, 0)
    train(writer, BATCHES)
    return model, optimizer


@faulty("writer-left-open", style="never closed", evidence="18 records")
def never_closed(folder):
    model = network()
    optimizer = sgd(model)
    writer = SummaryWriter(folder)  # <- writer-left-open
    for step, (x, y) in enumerate(batches() * 3):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        writer.add_scalar("loss", loss.item(), step)
    return model, optimizer


@faulty("writer-left-open", style="parentheses forgotten, class")
def close_without_parentheses(folder):
    class Logger:
        def __init__(self):
            self.writer = SummaryWriter(str(folder))  # <- writer-left-open

        def finish(self):
            self.writer.close  # noqa: B018

    logger, model = Logger(), network()
    optimizer = sgd(model)
    for step, (x, y) in enumerate(loader()):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        logger.writer.add_scalars("losses", {"train": loss.item()}, step)
    logger.finish()
    return model, optimizer


@faulty("writer-left-open", style="a return before the close")
def return_before_close(folder):
    model = network()
    optimizer = adam(model)

    def train():
        writer = SummaryWriter(folder, flush_secs=1)  # <- writer-left-open
        for step, (x, y) in enumerate(stream()):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            writer.add_scalar("loss", loss.item(), step)
            if step == 20:
                return step
        writer.close()

    train()
    return model, optimizer


@faulty("scalar-as-image", style="a number, plain loop", raises=Exception, evidence="`loss`")
def number_as_image(folder):
    model = network()
    optimizer = sgd(model)
    with SummaryWriter(folder) as writer:
        for step, (x, y) in enumerate(batches()):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            writer.add_image("loss", loss.item(), step)  # <- scalar-as-image


@faulty("scalar-as-image", style="a tensor without dimensions, keywords", raises=Exception)
def tensor_as_image(folder):
    model = network()
    optimizer = sgd(model)
    with SummaryWriter(folder) as writer:
        for x, y in batches():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        writer.add_image(tag="train/loss", img_tensor=loss.detach(), global_step=1)  # <- scalar-as-image


@faulty("scalar-as-image", style="NumPy's numbers, the error caught", evidence="3 times")
def numpy_as_image(folder):
    model = network()
    optimizer = sgd(model)
    writer = SummaryWriter(folder)
    for step, (x, y) in enumerate(batches()):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        if step % 2 == 0:
            try:
                writer.add_image("loss", loss.detach().numpy(), step)  # <- scalar-as-image
            except Exception as error:
                print(error)
    writer.close()
    return model, optimizer


# The loss.


@faulty("loss-not-finite", style="NaN in the data", evidence="backward call 8 of 18")
def nan_in_the_data(folder):
    model = network()
    optimizer = sgd(model)
    data = batches() * 3
    data[7] = (data[7][0].clone().fill_(float("nan")), data[7][1])
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # <- loss-not-finite
        optimizer.step()
    return model, optimizer


@faulty("loss-not-finite", style="logarithm of zero, class")
def logarithm_of_zero(folder):
    class Learner:
        def __init__(self):
            self.scale = nn.Parameter(torch.full((SIZE,), 0.2))
            self.optimizer = torch.optim.SGD([self.scale], lr=0.1)

        def step(self, x):
            loss = -torch.log(torch.relu(self.scale).mean())
            self.optimizer.zero_grad()
            (-loss).backward()  # <- loss-not-finite
            self.optimizer.step()

    learner = Learner()
    for x, _ in batches() * 3:
        learner.step(x)
    return [learner.scale], learner.optimizer


@faulty("loss-not-finite", style="a weight of infinity, from the first batch on", evidence="6 times")
def infinite_from_the_start(folder):
    model = network()
    optimizer = adam(model)
    x0, _ = rows()
    scale = x0.std(dim=0) * 0
    for x, y in loader():
        optimizer.zero_grad()
        F.cross_entropy(model(x / scale), y).backward()  # <- loss-not-finite
        optimizer.step()
    return model, optimizer


@faulty("learning-rate-too-high", style="SGD, plain loop", evidence="lr = 200")
def sgd_too_fast(folder):
    model = network()
    optimizer = sgd(model, 200.0)
    for x, y in batches() * 4:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()  # <- learning-rate-too-high
    return model, optimizer


@faulty("learning-rate-too-high", style="Adam, class")
def adam_too_fast(folder):
    class Trainer:
        def __init__(self):
            self.model = Classifier()
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=30.0)

        def train_step(self, x, y):
            self.optimizer.zero_grad(set_to_none=False)
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            self.optimizer.step()  # <- learning-rate-too-high

    trainer = Trainer()
    for _ in range(4):
        for x, y in loader():
            trainer.train_step(x, y)
    return trainer.model, trainer.optimizer


@faulty(
    "learning-rate-too-high", style="regression that runs away to infinity", evidence="Consequence (loss-not-finite)"
)
def regression_runs_away(folder):
    x, _ = rows()
    target = x.sum(dim=1, keepdim=True)
    model = nn.Linear(SIZE, 1)
    optimizer = sgd(model, 5.0, momentum=0.9)
    for _ in range(60):
        loss = F.mse_loss(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # <- learning-rate-too-high
    return model, optimizer


# softmax-before-cross-entropy


@faulty("softmax-before-cross-entropy", style="nn.Softmax as last layer", evidence="graphs that were examined")
def softmax_layer(folder):
    model = network()
    model.append(nn.Softmax(dim=1))
    optimizer = adam(model)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(model(x), y).backward()  # <- softmax-before-cross-entropy
        optimizer.step()
    return model, optimizer


@faulty("softmax-before-cross-entropy", style="softmax in forward, class")
def softmax_in_forward(folder):
    class Probabilities(Classifier):
        def forward(self, x):
            return F.softmax(super().forward(x), dim=-1)

    class Trainer:
        def __init__(self):
            self.model = Probabilities()
            self.optimizer = sgd(self.model)

        def train_step(self, x, y):
            loss = F.cross_entropy(self.model(x), y, label_smoothing=0.1)
            self.optimizer.zero_grad()
            loss.backward()  # <- softmax-before-cross-entropy
            self.optimizer.step()

    trainer = Trainer()
    for x, y in batches() * 2:
        trainer.train_step(x, y)
    return trainer.model, trainer.optimizer


@faulty("softmax-before-cross-entropy", style="softmax in the loop, per position, with a penalty")
def softmax_of_a_sequence(folder):
    model = nn.Linear(4, CLASSES)
    optimizer = sgd(model)
    for x, y in batches() * 2:
        probabilities = torch.softmax(model(x.view(-1, 2, 4)), dim=-1)
        loss = F.cross_entropy(probabilities.transpose(1, 2), torch.stack([y, y], dim=1))
        loss = loss + 1e-4 * sum(p.square().sum() for p in model.parameters())
        optimizer.zero_grad()
        loss.backward()  # <- softmax-before-cross-entropy
        optimizer.step()
    return model, optimizer


# eval-mode-while-training


@faulty("eval-mode-while-training", style="train() forgotten after the validation", evidence="12 of 18 steps")
def train_forgotten(folder):
    model = network(nn.Dropout(0.2))
    optimizer = adam(model)
    for _ in range(3):
        for x, y in loader():
            optimizer.zero_grad()
            logits = model(x)  # <- eval-mode-while-training
            F.cross_entropy(logits, y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for x, y in loader(count=40):
                F.cross_entropy(model(x), y)
    return model, optimizer


@faulty(
    "eval-mode-while-training", style="loaded, set to eval and trained further", evidence=("BatchNorm1d", "12 of 12")
)
def always_in_eval(folder):
    model = network(nn.BatchNorm1d(16))
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    model.eval()
    optimizer = sgd(model)

    def train_one_epoch():
        for x, y in batches():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)  # <- eval-mode-while-training
            loss.backward()
            optimizer.step()

    train_one_epoch()
    train_one_epoch()
    return model, optimizer


@faulty("eval-mode-while-training", style="validation in the middle of an epoch, class")
def eval_in_the_middle(folder):
    class Trainer:
        def __init__(self):
            self.model = Classifier(dropout=0.5)
            self.optimizer = adam(self.model)

        @torch.no_grad()
        def validate(self):
            self.model.eval()
            return F.cross_entropy(self.model(rows()[0]), rows()[1]).item()

        def fit(self):
            self.model.train()
            for step, (x, y) in enumerate(stream()):
                self.optimizer.zero_grad()
                F.cross_entropy(self.model(x), y).backward()  # <- eval-mode-while-training
                self.optimizer.step()
                if step == 10:
                    self.validate()
                if step == 24:
                    break

    trainer = Trainer()
    trainer.fit()
    return trainer.model, trainer.optimizer


@faulty("eval-mode-while-training", style="dropout written as a function")
def functional_dropout_in_eval(folder):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(SIZE, 16), nn.Linear(16, CLASSES)

        def forward(self, x):
            return self.two(F.dropout(self.one(x).relu(), 0.5, training=self.training))

    model = Net()
    optimizer = adam(model)
    for _ in range(3):
        for x, y in loader():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()  # <- eval-mode-while-training
            optimizer.step()
        model.eval()
        with torch.no_grad():
            F.cross_entropy(model(rows()[0]), rows()[1])
    return model, optimizer


@faulty("eval-mode-while-training", style="recurrent network with dropout between its layers")
def recurrent_dropout_in_eval(folder):
    lstm, head = nn.LSTM(SIZE, 6, num_layers=2, dropout=0.3), nn.Linear(6, CLASSES)
    model = nn.ModuleDict({"lstm": lstm, "head": head})
    optimizer = adam(model)
    model.eval()
    for x, y in batches() * 2:
        out, _ = lstm(x.view(1, -1, SIZE))  # <- eval-mode-while-training
        loss = F.cross_entropy(head(out[0]), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer


# validation-builds-graph


@faulty("validation-builds-graph", style="no no_grad, plain loop", evidence="9 times")
def validation_without_no_grad(folder):
    model = network()
    optimizer = adam(model)
    for _ in range(3):
        model.train()
        for x, y in loader():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        total = 0.0
        for x, y in loader(count=40):
            total += F.cross_entropy(model(x), y).item()  # <- validation-builds-graph
    return model, optimizer


@faulty("validation-builds-graph", style="function that only counts right answers")
def accuracy_with_graphs(folder):
    model = Classifier(0.3)
    optimizer = sgd(model)

    def evaluate():
        model.eval()
        right = 0
        for x, y in batches():
            right += int((model(x).argmax(1) == y).sum())  # <- validation-builds-graph
        model.train()
        return right / ROWS

    for x, y in batches() * 2:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    evaluate()
    return model, optimizer


@faulty("validation-builds-graph", style="no_grad without parentheses does nothing, class")
def no_grad_never_entered(folder):
    class Trainer:
        def __init__(self):
            self.model = Classifier()
            self.optimizer = sgd(self.model)

        def validate(self):
            torch.no_grad()
            self.model.eval()
            outputs = [self.model(x).argmax(1).tolist() for x, _ in loader()]  # <- validation-builds-graph
            self.model.train()
            return outputs

        def fit(self):
            for _ in range(2):
                for x, y in loader():
                    self.optimizer.zero_grad()
                    F.cross_entropy(self.model(x), y).backward()
                    self.optimizer.step()
                self.validate()

    trainer = Trainer()
    trainer.fit()
    return trainer.model, trainer.optimizer


# Accumulation.


@faulty("accumulation-not-scaled", style="plain loop, every 3 batches", evidence=("3 backward calls", "6 of 6 steps"))
def not_scaled(folder):
    model = network()
    optimizer = sgd(model, 0.01)
    for i, (x, y) in enumerate(batches() * 3, 1):
        F.cross_entropy(model(x), y).backward()
        if i % 3 == 0:
            optimizer.step()  # <- accumulation-not-scaled
            optimizer.zero_grad()
    return model, optimizer


@faulty("accumulation-not-scaled", style="inner loop over micro-batches, class")
def inner_loop_not_scaled(folder):
    class Trainer:
        def __init__(self):
            self.model = Classifier()
            self.optimizer = adam(self.model)

        def train_step(self, micro_batches):
            self.optimizer.zero_grad()
            for x, y in micro_batches:
                loss = F.cross_entropy(self.model(x), y)
                loss.backward()
            self.optimizer.step()  # <- accumulation-not-scaled

    trainer, data = Trainer(), stream()
    for _ in range(6):
        trainer.train_step([next(data) for _ in range(4)])
    return trainer.model, trainer.optimizer


@faulty("accumulation-not-scaled", style="GradScaler, a counter in a while loop")
def scaler_not_scaled(folder):
    model = network()
    optimizer, scaler = sgd(model, 0.01), torch.amp.GradScaler("cpu", init_scale=256.0)
    data, waiting, steps = stream(), 0, 0
    while steps < 8:
        x, y = next(data)
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        waiting += 1
        if waiting == 2:
            scaler.step(optimizer)  # <- accumulation-not-scaled
            scaler.update()
            optimizer.zero_grad()
            waiting, steps = 0, steps + 1
    return model, optimizer


@faulty(
    "accumulation-tail-dropped",
    style="cleared at the start of each epoch",
    evidence=("4 micro-batches", "(2 of 4)"),
)
def tail_cleared(folder):
    model = network()
    optimizer = sgd(model)
    for _ in range(3):
        optimizer.zero_grad()
        for i, (x, y) in enumerate(loader(), 1):
            (F.cross_entropy(model(x), y) / 4).backward()  # <- accumulation-tail-dropped
            if i % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()
    return model, optimizer


@faulty("accumulation-tail-dropped", style="mixed into the next epoch, function")
def tail_mixed(folder):
    model = Classifier()
    optimizer = adam(model)

    def epoch():
        for i, (x, y) in enumerate(batches(), 1):
            loss = F.cross_entropy(model(x), y) / 4
            loss.backward()
            if i % 4 == 0:
                optimizer.step()  # <- accumulation-tail-dropped
                optimizer.zero_grad()

    for _ in range(4):
        epoch()
    return model, optimizer


@faulty("accumulation-tail-dropped", style="lost at the end of the run, class", evidence="last 2")
def tail_lost_at_the_end(folder):
    class Trainer:
        def __init__(self, every):
            self.model, self.every, self.seen = network(), every, 0
            self.optimizer = sgd(self.model)

        def train_step(self, x, y):
            (F.cross_entropy(self.model(x), y) / self.every).backward()
            self.seen += 1
            if self.seen % self.every == 0:
                self.optimizer.step()  # <- accumulation-tail-dropped
                self.optimizer.zero_grad()

    trainer = Trainer(5)
    for x, y in batches() * 2:
        trainer.train_step(x, y)
    return trainer.model, trainer.optimizer


# scheduler-before-optimizer


def _quietly(run):
    """PyTorch warns about this one too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run()


@faulty("scheduler-before-optimizer", style="at the beginning of each epoch", evidence="StepLR.step()")
def scheduler_first(folder):
    model = network()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)

    def run():
        for _ in range(3):
            scheduler.step()  # <- scheduler-before-optimizer
            for x, y in loader():
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()

    _quietly(run)
    return model, optimizer


@faulty("scheduler-before-optimizer", style="each batch, class, OneCycleLR", evidence="OneCycleLR.step()")
def scheduler_before_each_step(folder):
    class Trainer:
        def __init__(self):
            self.model = Classifier()
            self.optimizer = adam(self.model)
            self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.01, total_steps=40)

        def train_step(self, x, y):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(x), y).backward()
            self.scheduler.step()  # <- scheduler-before-optimizer
            self.optimizer.step()

    trainer = Trainer()
    _quietly(lambda: [trainer.train_step(x, y) for x, y in batches() * 3])
    return trainer.model, trainer.optimizer


@faulty(
    "scheduler-before-optimizer", style="a scheduler with a step of its own", evidence="CosineAnnealingWarmRestarts"
)
def restarts_before_the_optimizer(folder):
    model = network()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=4)

    def run():
        for epoch in range(2):
            for i, (x, y) in enumerate(batches()):
                scheduler.step(epoch + i / BATCHES)  # <- scheduler-before-optimizer
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()

    _quietly(run)
    return model, optimizer


@faulty("scheduler-before-optimizer", style="several schedulers in one")
def chained_before_the_optimizer(folder):
    model = network()
    optimizer = sgd(model)
    schedulers = torch.optim.lr_scheduler
    scheduler = schedulers.ChainedScheduler(
        [schedulers.ConstantLR(optimizer, 0.1, 4), schedulers.ExponentialLR(optimizer, 0.9)]
    )

    def run():
        for _ in range(3):
            scheduler.step()  # <- scheduler-before-optimizer
            for x, y in batches():
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()

    _quietly(run)
    return model, optimizer


# waits-every-step


@faulty("waits-every-step", style="item() in each step", evidence="18 numbers in 18 steps", waits=True)
def item_each_step(folder):
    model = network()
    optimizer = sgd(model)
    running_loss = 0.0
    for x, y in batches() * 3:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()  # <- waits-every-step
    return model, optimizer


@faulty("waits-every-step", style="a condition on a tensor, class", waits=True)
def condition_each_step(folder):
    class Trainer:
        def __init__(self):
            self.model, self.best = Classifier(), torch.tensor(float("inf"))
            self.optimizer = adam(self.model)

        def train_step(self, x, y):
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            if loss.detach() < self.best:  # <- waits-every-step
                self.best = loss.detach()

    trainer = Trainer()
    for x, y in batches() * 3:
        trainer.train_step(x, y)
    return trainer.model, trainer.optimizer


@faulty("waits-every-step", style="predictions brought to the host, function", evidence="12 steps", waits=True)
def predictions_to_the_host(folder):
    model = network()
    optimizer = sgd(model)
    right = []

    def update(x, y):
        logits = model(x)
        optimizer.zero_grad()
        F.cross_entropy(logits, y).backward()
        optimizer.step()
        right.extend((logits.argmax(1) == y).cpu())  # <- waits-every-step

    for x, y in batches() * 2:
        update(x, y)
    return model, optimizer


# harmless-here: reported only on request.


@faulty("harmless-here", style="zero_grad after step", evidence="zero_grad() comes after step()", harmless=True)
def cleared_after_step(folder):
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 2:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()  # <- harmless-here
    return model, optimizer


@faulty("harmless-here", style="no eval() for a model that needs none", evidence="without eval()", harmless=True)
def no_eval_needed(folder):
    model = network()
    optimizer = sgd(model)
    for _ in range(2):
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            for x, y in batches():
                F.cross_entropy(model(x), y)  # <- harmless-here
    return model, optimizer


@faulty("harmless-here", style="closed twice", evidence="close()", harmless=True)
def closed_twice(folder):
    model = network()
    optimizer = sgd(model)
    with SummaryWriter(folder) as writer:
        for step, (x, y) in enumerate(batches()):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            writer.add_scalar("loss", loss, step)
    writer.close()  # <- harmless-here
    return model, optimizer
