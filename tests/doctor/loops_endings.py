"""Loops whose graphs live too long, and loops that only look like it."""

from collections import deque

import torch
import torch.nn.functional as F
from case_parts import (
    CLASSES,
    SIZE,
    Classifier,
    adam,
    batches,
    correct,
    faulty,
    loader,
    network,
    rows,
    sgd,
)
from torch import nn

# hidden-state-not-detached


def sequences(count=12, length=5):
    """Return batches of four sequences that follow each other in time."""
    drawn = torch.Generator().manual_seed(3)
    return [torch.randn(4, length, SIZE, generator=drawn) for _ in range(count)]


def by_hand(parameters, lr=0.01):
    """Update weights as old code did, without raising their versions."""
    for p in parameters:
        p.data -= lr * p.grad.data
        p.grad.data.zero_()


@faulty(
    "hidden-state-not-detached",
    style="LSTM state, no retain_graph: the second batch fails",
    raises=RuntimeError,
    evidence="began with the state of that one",
)
def lstm_state_fails(folder):
    lstm, head = nn.LSTM(SIZE, 6, batch_first=True), nn.Linear(6, 1)
    optimizer = torch.optim.SGD([*lstm.parameters(), *head.parameters()], lr=0.1)
    state = None
    for x in sequences():
        out, state = lstm(x, state)
        loss = head(out).square().mean()
        optimizer.zero_grad()
        loss.backward()  # <- hidden-state-not-detached
        optimizer.step()


@faulty(
    "hidden-state-not-detached", style="state in the module, retain_graph: a weight has changed", raises=RuntimeError
)
def state_in_the_module(folder):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = nn.GRUCell(SIZE, 6), nn.Linear(6, 1)
            self.memory = torch.zeros(4, 6)

        def forward(self, x):
            for step in x.unbind(1):
                self.memory = self.cell(step, self.memory)
            return self.out(self.memory)

    class Trainer:
        def __init__(self):
            self.model = Reader()
            self.optimizer = adam(self.model)

        def step(self, x):
            self.optimizer.zero_grad()
            loss = F.mse_loss(self.model(x), x.sum((1, 2))[:, None])
            loss.backward(retain_graph=True)  # <- hidden-state-not-detached
            self.optimizer.step()

    trainer = Trainer()
    for x in sequences():
        trainer.step(x)


@faulty("hidden-state-not-detached", style="a while loop, updates by hand, retain_graph", evidence="10 batches")
def state_grows(folder):
    cell, head = nn.RNNCell(SIZE, 6), nn.Linear(6, 1)
    data, position, hidden = torch.cat(sequences(20, 1), dim=1), 0, torch.zeros(4, 6)
    while position < data.size(1):
        hidden = cell(data[:, position], hidden)
        cost = (head(hidden) - 1).pow(2).mean()
        torch.autograd.backward(cost, retain_graph=True)  # <- hidden-state-not-detached
        by_hand([*cell.parameters(), *head.parameters()])
        position += 1
    return cell, head


@faulty("hidden-state-not-detached", style="the prediction is the next input", raises=RuntimeError)
def prediction_is_the_next_input(folder):
    model = nn.Sequential(nn.Linear(SIZE, 16), nn.Tanh(), nn.Linear(16, SIZE))
    optimizer = sgd(model)
    x, y = torch.randn(4, SIZE), torch.randn(4, SIZE)
    for _ in range(6):
        x = model(x)
        optimizer.zero_grad()
        ((x - y) ** 2).mean().backward()  # <- hidden-state-not-detached
        optimizer.step()


@correct("hidden-state-not-detached", style="repackage_hidden, as in the language model of PyTorch's examples")
def repackaged(folder):
    def repackage_hidden(h):
        return h.detach() if isinstance(h, torch.Tensor) else tuple(repackage_hidden(v) for v in h)

    lstm, head = nn.LSTM(SIZE, 6, batch_first=True), nn.Linear(6, 1)
    optimizer = torch.optim.SGD([*lstm.parameters(), *head.parameters()], lr=0.1)
    state = (torch.zeros(1, 4, 6), torch.zeros(1, 4, 6))
    for x in sequences():
        optimizer.zero_grad()
        state = repackage_hidden(state)
        out, state = lstm(x, state)
        head(out).square().mean().backward()
        optimizer.step()
    return lstm, head, optimizer


@correct("hidden-state-not-detached", "graph-kept-alive", style="windows of five steps on purpose, retain_graph")
def windows_on_purpose(folder):
    cell, head = nn.RNNCell(SIZE, 6), nn.Linear(6, 1)
    hidden = torch.zeros(4, 6)
    for i, x in enumerate(sequences(40, 1)):
        if i % 5 == 0:
            hidden = hidden.detach()
        hidden = cell(x[:, 0], hidden)
        (head(hidden) - 1).pow(2).mean().backward(retain_graph=True)
        by_hand([*cell.parameters(), *head.parameters()])
    return cell, head


@correct("hidden-state-not-detached", "accumulation-not-scaled", style="one step over a sequence, a backward each time")
def gradients_of_a_sequence(folder):
    cell, head = nn.GRUCell(SIZE, 6), nn.Linear(6, 1)
    optimizer = torch.optim.Adam([*cell.parameters(), *head.parameters()])
    for x in sequences(3, 12):
        hidden = torch.zeros(4, 6)
        optimizer.zero_grad()
        for step in x.unbind(1):
            hidden = cell(step, hidden)
            (head(hidden).square().mean() / 12).backward(retain_graph=True)
        optimizer.step()
    return cell, head, optimizer


@correct("hidden-state-not-detached", "graph-kept-alive", style="two losses of one encoding, one after the other")
def two_losses_of_one_encoding(folder):
    encoder, decoder, head = nn.Linear(SIZE, 6), nn.Linear(6, SIZE), nn.Linear(6, CLASSES)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), *head.parameters()])
    for x, y in batches() * 3:
        optimizer.zero_grad()
        code = encoder(x).tanh()
        F.cross_entropy(head(code), y).backward(retain_graph=True)
        F.mse_loss(decoder(code), x).backward()
        optimizer.step()
    return encoder, decoder, head, optimizer


@correct("hidden-state-not-detached", style="an encoding made once, with its graph, for a head that is trained")
def encoding_made_once(folder):
    encoder, head = nn.Linear(SIZE, 6), nn.Linear(6, CLASSES)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    x, y = rows()
    code = encoder(x).tanh()
    for _ in range(14):
        optimizer.zero_grad()
        encoder.zero_grad()
        F.cross_entropy(head(code), y).backward(retain_graph=True)
        optimizer.step()
    return head, optimizer


@correct(
    "hidden-state-not-detached", style="an encoding made once fails at the second batch: no state", raises=RuntimeError
)
def encoding_made_once_fails(folder):
    encoder, head = nn.Linear(SIZE, 6), nn.Linear(6, CLASSES)
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.1)
    x, y = rows()
    code = encoder(x).tanh()
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(head(code), y).backward()
        optimizer.step()


# closure-does-not-recompute


@faulty(
    "closure-does-not-recompute", style="LBFGS, prediction before the closure, retain_graph", evidence="was older than"
)
def prediction_before_the_closure(folder):
    model = nn.Linear(SIZE, CLASSES)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
    for x, y in batches():
        logits = model(x)

        def closure(logits=logits, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(logits, y)
            loss.backward(retain_graph=True)  # <- closure-does-not-recompute
            return loss

        optimizer.step(closure)
    return model, optimizer


@faulty("closure-does-not-recompute", style="LBFGS, the whole loss before the closure", raises=RuntimeError)
def loss_before_the_closure(folder):
    class Fit:
        def __init__(self):
            self.net = network()
            self.optimizer = torch.optim.LBFGS(self.net.parameters(), line_search_fn="strong_wolfe")

        def closure(self):
            self.optimizer.zero_grad()
            self.loss.backward()  # <- closure-does-not-recompute
            return self.loss

        def run(self, x, y):
            self.loss = F.cross_entropy(self.net(x), y)
            self.optimizer.step(self.closure)

    Fit().run(*rows())


@faulty("closure-does-not-recompute", style="a closure that only returns a stored loss", evidence="without a backward")
def stored_loss(folder):
    w = nn.Parameter(torch.full((SIZE,), 0.5))
    optimizer = torch.optim.LBFGS([w], lr=0.1, max_iter=4)
    x, _ = rows()
    for _ in range(4):
        optimizer.zero_grad()
        loss = (x @ w - 1).square().mean()
        loss.backward()
        optimizer.step(lambda loss=loss: loss)  # <- closure-does-not-recompute
    return [w], optimizer


@faulty("closure-does-not-recompute", style="Adam with a closure, prediction before the loop", raises=RuntimeError)
def prediction_before_the_loop(folder):
    model = network()
    optimizer = adam(model)
    x, y = rows()
    output = model(x)

    def closure():
        optimizer.zero_grad(set_to_none=False)
        loss = nn.CrossEntropyLoss()(output, y)
        loss.backward()  # <- closure-does-not-recompute
        return loss

    for _ in range(8):
        optimizer.step(closure)


@correct("closure-does-not-recompute", style="LBFGS past the minimum: equal losses, zero gradients")
def lbfgs_at_the_minimum(folder):
    w = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.LBFGS([w], lr=1.0, max_iter=20, tolerance_grad=0, tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        loss = (w - 0.3).square().sum()
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
    return [w], optimizer


@correct("closure-does-not-recompute", style="LBFGS on a head, features of a frozen network made once")
def features_made_once(folder):
    backbone, head = network(), nn.Linear(CLASSES, CLASSES)
    x, y = rows()
    with torch.no_grad():
        features = backbone(x)
    turned = head.weight.t()  # a view: it always shows the present weights
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=5)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(features @ turned + head.bias, y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    return head, optimizer


@correct("closure-does-not-recompute", style="a closure that is called once a step, prediction before it")
def closure_called_once(folder):
    model = Classifier()
    optimizer = adam(model)
    for x, y in batches() * 2:
        logits = model(x)

        def closure(logits=logits, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(logits, y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return model, optimizer


@correct("closure-does-not-recompute", "missing-backward", style="the loss is only returned, its gradient made before")
def loss_returned(folder):
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step(lambda loss=loss: loss)
    return model, optimizer


# graph-kept-alive


@faulty("graph-kept-alive", style="outputs of training in a dictionary", evidence="after their backward calls")
def outputs_in_a_dictionary(folder):
    model = network()
    optimizer = adam(model)
    predictions = {}
    for step, (x, y) in enumerate(batches() * 4):
        out = model(x)
        optimizer.zero_grad()
        F.cross_entropy(out, y).backward()
        optimizer.step()
        predictions[step] = out.softmax(1)  # <- graph-kept-alive
    return model, optimizer


@faulty("graph-kept-alive", style="records of a step in a list, trainer class")
def records_in_a_list(folder):
    class Trainer:
        def __init__(self):
            self.model, self.log = Classifier(), []
            self.optimizer = sgd(self.model)

        def step(self, x, y):
            pred = self.model(x)
            loss = F.cross_entropy(pred, y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return {"loss": loss.item(), "pred": pred}

        def fit(self):
            for x, y in batches() * 4:
                self.log.append(self.step(x, y))  # <- graph-kept-alive

    trainer = Trainer()
    trainer.fit()
    return trainer.model, trainer.optimizer


@faulty("graph-kept-alive", style="a tensor of all outputs, joined batch by batch")
def outputs_joined(folder):
    model = network()
    optimizer = sgd(model)
    everything = torch.empty(0, CLASSES)
    for x, y in [*loader()] * 4:
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        everything = torch.cat([everything, logits])  # <- graph-kept-alive
    return model, optimizer


@faulty("graph-kept-alive", style="a meter that adds tensors up")
def meter_of_tensors(folder):
    class Meter:
        def __init__(self):
            self.sum, self.count = 0.0, 0

        def update(self, value, n):
            self.sum = self.sum + value * n
            self.count += n

    model, meter = network(), Meter()
    optimizer = adam(model)
    for x, y in batches() * 3:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        meter.update(loss, len(x))  # <- graph-kept-alive
    return model, optimizer


@faulty("graph-kept-alive", style="backward through the sum of all losses so far", evidence="earlier outputs")
def backward_through_the_sum(folder):
    model = nn.Linear(SIZE, CLASSES)
    optimizer = sgd(model, 0.01)
    total = 0.0
    for x, y in batches() * 3:
        total = total + F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        total.backward(retain_graph=True)  # <- graph-kept-alive
        optimizer.step()
    return model, optimizer


@correct("graph-kept-alive", style="a window of losses: a deque with a bound")
def window_of_losses(folder):
    model = network()
    optimizer = sgd(model)
    recent, means = deque(maxlen=50), []
    for x, y in batches() * 5:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recent.append(loss)
        means.append(sum(value.item() for value in recent) / len(recent))
    return model, optimizer, means


@correct("graph-kept-alive", style="many outputs at several scales, and losses for each")
def many_scales(folder):
    base, heads = nn.Linear(SIZE, 16), nn.ModuleList(nn.Linear(16, CLASSES) for _ in range(12))
    optimizer = adam(nn.ModuleList([base, heads]))
    for x, y in batches() * 3:
        features = base(x).relu()
        outputs = [head(features) for head in heads]
        loss = sum(F.cross_entropy(out, y) for out in outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return base, heads, optimizer


@correct("graph-kept-alive", style="outputs kept as numbers in a list of dictionaries")
def outputs_as_numbers(folder):
    model = network()
    optimizer = adam(model)
    log = []
    for x, y in batches() * 4:
        out = model(x)
        loss = F.cross_entropy(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.append({"loss": loss.detach(), "pred": out.data, "acc": (out.argmax(1) == y).float().mean()})
    return model, optimizer, log


@faulty("graph-kept-alive", style="a module that keeps the losses of its training steps, as some trainers ask for")
def module_keeps_its_losses(folder):
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.training_step_outputs = network(), []

        def training_step(self, batch):
            x, y = batch
            loss = F.cross_entropy(self.net(x), y)
            self.training_step_outputs.append(loss)  # <- graph-kept-alive
            return loss

    class Trainer:
        def fit(self, module):
            optimizer = adam(module)
            for batch in batches() * 3:
                optimizer.zero_grad()
                module.training_step(batch).backward()
                optimizer.step()
            return optimizer

    module = Module()
    optimizer = Trainer().fit(module)
    return module.net, optimizer
