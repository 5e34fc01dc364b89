"""Loops that evaluate in train mode or let frozen batch norm learn, and loops that look like them."""

import copy

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
    rows,
    sgd,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint


class Normed(nn.Module):
    """A backbone with batch norm, and a head."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Linear(SIZE, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(dropout)
        )
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.backbone(x))


def train_epoch(model, optimizer, data):
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


# train-mode-while-evaluating


@faulty("train-mode-while-evaluating", style="a DataLoader, accuracies only", evidence="(Dropout)")
def accuracy_in_train_mode(folder):
    model = Classifier(dropout=0.5)
    optimizer = sgd(model)
    for _ in range(3):
        train_epoch(model, optimizer, loader())
        right = 0
        with torch.no_grad():
            for x, y in loader(40, 8):
                logits = model(x)  # <- train-mode-while-evaluating
                right += int((logits.argmax(1) == y).sum())
    return model, optimizer


@faulty("train-mode-while-evaluating", style="a trainer class, the validation loss, no DataLoader", evidence="Batch")
def validation_loss_in_train_mode(folder):
    class Trainer:
        def __init__(self):
            self.model = Normed()
            self.optimizer = adam(self.model)
            self.criterion = nn.CrossEntropyLoss()

        def training_step(self, x, y):
            self.optimizer.zero_grad()
            self.criterion(self.model(x), y).backward()
            self.optimizer.step()

        @torch.inference_mode()
        def validation_step(self, x, y):
            return self.criterion(self.model(x), y).item()  # <- train-mode-while-evaluating

        def fit(self):
            self.model.train()
            for _ in range(3):
                for x, y in batches():
                    self.training_step(x, y)
                sum(self.validation_step(x, y) for x, y in batches(32))

    trainer = Trainer()
    trainer.fit()
    return trainer.model, trainer.optimizer


@faulty("train-mode-while-evaluating", style="all validation rows at once, functional dropout")
def whole_validation_in_train_mode(folder):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(SIZE, 16), nn.Linear(16, CLASSES)

        def forward(self, x):
            return self.two(F.dropout(torch.relu(self.one(x)), 0.3, training=self.training))

    model, (x_val, y_val) = Net(), rows(32)
    optimizer = sgd(model)
    for _ in range(4):
        train_epoch(model, optimizer, batches())
        with torch.no_grad():
            F.cross_entropy(model(x_val), y_val)  # <- train-mode-while-evaluating
    return model, optimizer


@faulty("train-mode-while-evaluating", style="eval() only before the first evaluation, phases with set_grad_enabled")
def eval_mode_only_once(folder):
    model = Normed(0.2)
    optimizer = sgd(model)
    data = {"train": loader(), "val": loader(40)}
    model.eval()
    with torch.no_grad():
        for x, y in data["val"]:
            F.cross_entropy(model(x), y)
    for _ in range(3):
        for phase in ("train", "val"):
            model.train()
            for x, y in data[phase]:
                with torch.set_grad_enabled(phase == "train"):
                    out = model(x)  # <- train-mode-while-evaluating
                    loss = F.cross_entropy(out, y)
                if phase == "train":
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
    return model, optimizer


@faulty("train-mode-while-evaluating", style="perplexity of a recurrent language model")
def perplexity_in_train_mode(folder):
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(12, 8)
            self.rnn = nn.LSTM(8, 8, num_layers=2, dropout=0.3)
            self.out = nn.Linear(8, 12)

        def forward(self, tokens, hidden):
            out, hidden = self.rnn(self.embedding(tokens), hidden)
            return self.out(out), hidden

    def detached(hidden):
        return tuple(part.detach() for part in hidden)

    model = Language()
    optimizer = sgd(model, 0.5)
    tokens = torch.randint(12, (61, 4))
    state = torch.zeros(2, 4, 8), torch.zeros(2, 4, 8)
    for _ in range(2):
        hidden = state
        for i in range(0, 40, 10):
            logits, hidden = model(tokens[i : i + 10], detached(hidden))
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[i + 1 : i + 11].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        total, hidden = 0.0, state
        with torch.no_grad():
            for i in range(40, 60, 10):
                logits, hidden = model(tokens[i : i + 10], hidden)  # <- train-mode-while-evaluating
                total += F.cross_entropy(logits.flatten(0, 1), tokens[i + 1 : i + 11].flatten()).item()
    return model, optimizer


@correct("train-mode-while-evaluating", style="several draws of dropout on purpose")
def draws_of_dropout(folder):
    model = Classifier(dropout=0.3)
    optimizer = sgd(model)
    for _ in range(3):
        model.train()
        train_epoch(model, optimizer, loader())
        with torch.no_grad():
            for x, y in loader(40):
                draws = torch.stack([model(x).softmax(1) for _ in range(4)])
                accuracy(draws.mean(0), y)
        model.eval()
        model.dropout.train()
        with torch.no_grad():
            for x, y in loader(40):
                F.cross_entropy(model(x), y)
        model.train()
    return model, optimizer


@correct("train-mode-while-evaluating", style="a whole pass for each draw of dropout")
def passes_of_dropout(folder):
    model = Classifier(dropout=0.3)
    optimizer = sgd(model)
    validation = loader(40)
    for _ in range(3):
        train_epoch(model, optimizer, loader())
        with torch.no_grad():
            draws = [torch.cat([model(x).softmax(1) for x, _ in validation]) for _ in range(4)]
        torch.stack(draws).var(0)
    return model, optimizer


@correct("train-mode-while-evaluating", style="batch norm averages computed again, by PyTorch and by hand")
def averages_computed_again(folder):
    model, data = Normed(), loader()
    optimizer = sgd(model)
    averaged = AveragedModel(model)
    for _ in range(3):
        model.train()
        train_epoch(model, optimizer, data)
        averaged.update_parameters(model)
        with torch.no_grad():
            for x, _ in loader(64):
                model(x)
            for x, _ in loader(48):
                _ = model(x)
        update_bn(loader(40), model)
        update_bn(loader(40), averaged)
    return model, averaged, optimizer


@correct("train-mode-while-evaluating", style="pseudo-labels and a teacher in train mode, at each step")
def pseudo_labels_at_each_step(folder):
    model = Classifier(dropout=0.2)
    teacher = copy.deepcopy(model).requires_grad_(False)
    optimizer = sgd(model)
    unlabeled = loader(88, 16, shuffle=True, generator=torch.Generator().manual_seed(5))
    for _ in range(3):
        for (x, y), (u, _) in zip(loader(), unlabeled, strict=True):
            with torch.no_grad():
                guess = model(u).softmax(1)
                expected = teacher(u).softmax(1)
                F.kl_div(guess.log(), expected, reduction="batchmean")
                most, labels = guess.max(1)
            logits = model(u + 0.1)
            loss = (
                F.cross_entropy(model(x), y) + (F.cross_entropy(logits, labels, reduction="none") * (most > 0.5)).mean()
            )
            loss = loss + F.mse_loss(logits.softmax(1), expected)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(teacher.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)
    return model, teacher, optimizer


@correct("train-mode-while-evaluating", "frozen-norm-still-learns", style="a momentum encoder in train mode")
def momentum_encoder(folder):
    class Contrast(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Sequential(nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
            self.key = copy.deepcopy(self.query)
            for weight in self.key.parameters():
                weight.requires_grad = False

        def forward(self, one, two):
            query = F.normalize(self.query(one), dim=1)
            with torch.no_grad():
                for slow, fast in zip(self.key.parameters(), self.query.parameters(), strict=True):
                    slow.data = slow.data * 0.9 + fast.data * 0.1
                key = F.normalize(self.key(two), dim=1)
            return query @ key.T / 0.1

    model = Contrast().train()
    optimizer = sgd(model.query)
    for _ in range(3):
        for x, _ in loader():
            logits = model(x + 0.1 * torch.randn_like(x), x)
            loss = F.cross_entropy(logits, torch.arange(len(x)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model, optimizer


@correct("train-mode-while-evaluating", style="a GAN: fakes without gradients, and a sheet of them after each epoch")
def gan_with_batch_norm(folder):
    g = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, SIZE))
    d = nn.Sequential(nn.Linear(SIZE, 16), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Linear(16, 1))
    og, od = adam(g), adam(d)
    for _ in range(3):
        for x, _ in loader():
            with torch.no_grad():
                fake = g(torch.randn(len(x), 4))
            loss = F.softplus(-d(x)).mean() + F.softplus(d(fake)).mean()
            od.zero_grad()
            loss.backward()
            od.step()
            d.requires_grad_(False)
            loss = F.softplus(-d(g(torch.randn(len(x), 4)))).mean()
            og.zero_grad()
            loss.backward()
            og.step()
            d.requires_grad_(True)
        with torch.no_grad():
            sheet = [g(torch.randn(8, 4)) for _ in range(4)]
            for x, _ in loader(32):
                score = d(x)
                F.binary_cross_entropy_with_logits(score, torch.ones_like(score))
    return g, d, sheet


@correct("train-mode-while-evaluating", style="shapes tried out, the loss after a step, chunks, checkpointing")
def calls_without_gradients(folder):
    model = nn.Sequential(nn.LazyLinear(16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.LazyLinear(CLASSES))
    with torch.no_grad():
        shape = model(torch.zeros(2, SIZE)).shape
    optimizer = sgd(model)
    for _ in range(3):
        for x, y in loader():
            with torch.no_grad():
                chunks = torch.cat([model(part) for part in x.chunk(2)])
            loss = F.cross_entropy(checkpoint(model, x, use_reentrant=False), y) + 0 * chunks.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                F.cross_entropy(model(x), y)
    return model, shape, optimizer


@correct("train-mode-while-evaluating", style="the loss of the same batch after each step")
def loss_after_each_step(folder):
    model = Classifier(dropout=0.2)
    optimizer = sgd(model)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            F.cross_entropy(model(x), y)
    return model, optimizer


@correct("train-mode-while-evaluating", style="no layer depends on it, dropout of zero, layer norm")
def evaluated_in_an_indifferent_train_mode(folder):
    model = nn.Sequential(nn.Linear(SIZE, 16), nn.LayerNorm(16), nn.Dropout(0.0), nn.Linear(16, CLASSES))
    optimizer = sgd(model)
    for _ in range(3):
        train_epoch(model, optimizer, loader())
        with torch.no_grad():
            for x, y in loader(40):
                out = model(x)
                F.cross_entropy(out, y)
    return model, optimizer


@correct("train-mode-while-evaluating", "frozen-norm-still-learns", style="eval() by a flag of a function")
def modes_by_a_flag(folder):
    def run(model, data, optimizer=None):
        model.train(optimizer is not None)
        with torch.set_grad_enabled(optimizer is not None):
            for x, y in data:
                loss = F.cross_entropy(model(x), y)
                if optimizer is not None:
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()

    model = Normed(0.1)
    optimizer = sgd(model)
    for _ in range(3):
        run(model, loader(), optimizer)
        run(model, loader(40))
    return model, optimizer


# frozen-norm-still-learns


@faulty("frozen-norm-still-learns", style="a frozen backbone, train() at each epoch", evidence="backbone.1")
def frozen_backbone_in_train_mode(folder):
    model = Normed()
    model.backbone.requires_grad_(False)
    optimizer = sgd(model.head)
    for _ in range(3):
        model.train()  # <- frozen-norm-still-learns
        train_epoch(model, optimizer, loader())
        model.eval()
        with torch.no_grad():
            for x, y in loader(40):
                accuracy(model(x), y)
    return model, optimizer


@faulty("frozen-norm-still-learns", style="the backbone as a model of its own, by a function", evidence="batch norm")
def frozen_model_feeds_a_head(folder):
    def fit(backbone, head, epochs):
        optimizer = adam(head, 0.01)
        for _ in range(epochs):
            backbone.train()  # <- frozen-norm-still-learns
            head.train()
            for x, y in batches():
                with torch.no_grad():
                    features = backbone(x)
                loss = F.cross_entropy(head(features), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    backbone, head = Normed().backbone, nn.Linear(8, CLASSES)
    for weight in backbone.parameters():
        weight.requires_grad = False
    fit(backbone, head, 3)
    return backbone, head


@faulty("frozen-norm-still-learns", style="by names, the first layers of a flat model, never train()", evidence="One")
def first_layers_frozen(folder):
    model = nn.Sequential(nn.Linear(SIZE, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES))
    for name, weight in model.named_parameters():
        weight.requires_grad_(not name.startswith(("0.", "1.")))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 0.01)
    for _ in range(3):
        for x, y in loader():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)  # <- frozen-norm-still-learns
            loss.backward()
            optimizer.step()
    return model, optimizer


@faulty("frozen-norm-still-learns", style="a wrapper with a train() of its own that freezes nothing")
def wrapper_in_train_mode(folder):
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Normed()
            self.steps = 0
            self.net.backbone.requires_grad_(False)

        def train(self, mode=True):
            self.steps += mode
            return super().train(mode)

        def training_step(self, x, y):
            return F.cross_entropy(self.net(x), y)

    module = Wrapper()
    optimizer = sgd(module.net.head)
    module.train()  # <- frozen-norm-still-learns
    for x, y in batches() * 3:
        optimizer.zero_grad()
        module.training_step(x, y).backward()
        optimizer.step()
    return module, optimizer


@correct(
    "frozen-norm-still-learns", "eval-mode-while-training", style="a train() that leaves frozen layers in eval mode"
)
def frozen_layers_in_eval_mode(folder):
    class Frozen(Normed):
        def __init__(self):
            super().__init__()
            self.backbone.requires_grad_(False)

        def train(self, mode=True):
            super().train(mode)
            self.backbone.eval()
            return self

    model = Frozen().train()
    optimizer = sgd(model.head)
    train_epoch(model, optimizer, batches() * 3)
    return model, optimizer


@correct("frozen-norm-still-learns", style="no weights, no averages, no momentum, other norms, trained neighbors")
def norms_that_may_stay_in_train_mode(folder):
    results = []
    for norm in (
        nn.BatchNorm1d(16, affine=False),
        nn.BatchNorm1d(16, track_running_stats=False),
        nn.BatchNorm1d(16, momentum=0.0),
        nn.GroupNorm(4, 16),
    ):
        model = nn.Sequential(nn.Linear(SIZE, 16), norm, nn.ReLU(), nn.Linear(16, CLASSES))
        model[:2].requires_grad_(False)
        optimizer = sgd(model[3])
        train_epoch(model, optimizer, batches() * 3)
        results += [model, optimizer]
    for frozen in ("weight", "all"):
        model = Normed()
        norm = model.backbone[1]
        norm.weight.requires_grad_(False)
        norm.bias.requires_grad_(frozen == "weight")
        optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], 0.05)
        train_epoch(model, optimizer, batches() * 3)
        results += [model, optimizer]
    return results


@correct("frozen-norm-still-learns", style="frozen in the first epoch only, then trained")
def frozen_for_a_while(folder):
    model = Normed()
    model.backbone.requires_grad_(False)
    optimizer = sgd(model)
    for epoch in range(3):
        if epoch == 1:
            model.backbone.requires_grad_(True)
        train_epoch(model, optimizer, loader())
    return model, optimizer


@correct("frozen-norm-still-learns", style="frozen in most steps, not in all")
def frozen_in_most_steps(folder):
    model = Normed()
    optimizer = sgd(model)
    for i, (x, y) in enumerate(batches() * 3):
        model.backbone.requires_grad_(i in (4, 5, 6))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@correct("frozen-norm-still-learns", style="averages of a new domain: nothing is trained")
def averages_of_a_new_domain(folder):
    model = Normed().requires_grad_(False)
    model.train()
    for x, _ in batches() * 3:
        model(x + 1)
    return model


# eval-mode-while-training, validation-builds-graph


@correct("eval-mode-while-training", style="the whole model in eval mode, only a head without dropout is trained")
def head_trained_in_eval_mode(folder):
    model = Normed(0.2)
    model.backbone.requires_grad_(False)
    optimizer = sgd(model.head)
    model.eval()
    train_epoch(model, optimizer, batches() * 3)
    return model, optimizer


@correct("eval-mode-while-training", style="batch norm fixed by eval(), its weights frozen, no other layer like it")
def fixed_norms_between_trained_layers(folder):
    model = Normed()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.requires_grad_(False)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], 0.05)
    model.eval()
    train_epoch(model, optimizer, batches() * 3)
    return model, optimizer


@correct("eval-mode-while-training", style="eval mode, and train mode for the part that is trained")
def trained_part_in_train_mode(folder):
    model = Normed(0.2)
    model.head = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, CLASSES))
    model.backbone.requires_grad_(False)
    optimizer = sgd(model.head)
    model.eval()
    model.head.train()
    train_epoch(model, optimizer, batches() * 3)
    return model, optimizer


@faulty(
    "eval-mode-while-training", style="a frozen base in eval mode, and the dropout of the head too", evidence="head.0"
)
def head_with_dropout_in_eval_mode(folder):
    model = Normed()
    model.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, CLASSES))
    model.backbone.requires_grad_(False)
    optimizer = sgd(model.head)
    model.eval()
    for x, y in batches() * 3:
        loss = F.cross_entropy(model(x), y)  # <- eval-mode-while-training
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer


class Energies(nn.Module):
    """Energies, and the forces that are their gradients."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(SIZE, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        with torch.enable_grad():
            x = x.requires_grad_()
            energy = self.net(x).squeeze(1)
            (forces,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        return energy, -forces


@correct("validation-builds-graph", style="forces: the model takes gradients of its own output")
def forces_in_validation(folder):
    model = Energies()
    optimizer = adam(model)
    for _ in range(3):
        model.train()
        for x, _ in batches():
            energy, forces = model(x.clone())
            loss = energy.square().mean() + F.mse_loss(forces, x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        errors = [F.l1_loss(model(x.clone())[1].detach(), x).item() for x, _ in batches(40)]
    return model, errors


@correct("validation-builds-graph", style="attacks on the input, and residuals, in eval mode")
def gradients_of_the_input(folder):
    model = Classifier(dropout=0.1)
    optimizer = sgd(model)
    for _ in range(3):
        model.train()
        train_epoch(model, optimizer, batches())
        model.eval()
        for x, y in batches(40):
            attacked = x.clone().requires_grad_()
            F.cross_entropy(model(attacked), y).backward()
            model.zero_grad()
            stepped = (x + 0.1 * attacked.grad.sign()).requires_grad_()
            torch.autograd.grad(model(stepped).sum(), stepped)
            torch.func.grad(lambda row: model(row[None])[0, 0])(x[0])
    return model, optimizer


@correct("validation-builds-graph", style="a sampler that follows the energy's gradient, several outputs")
def sampler_in_eval_mode(folder):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.base, self.head = nn.Linear(SIZE, 8), nn.Linear(8, 1)

        def forward(self, x):
            hidden = torch.tanh(self.base(x))
            return {"energy": self.head(hidden), "hidden": hidden}

    model = Two()
    optimizer = adam(model)
    for _ in range(3):
        for x, _ in batches():
            loss = model(x)["energy"].mean() - model(x + 1)["energy"].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        x = torch.randn(8, SIZE)
        for _ in range(BATCHES):
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(model(x)["hidden"].sum(), x)
            x = x - 0.1 * slope
        model.train()
    return model, x.detach()
