"""Loops about what goes into a loss: its inputs, their shapes, terms without a gradient, and parts that are cut off."""

import functools
import warnings

import torch
import torch.nn.functional as F
from case_parts import CLASSES, SIZE, Classifier, adam, batches, correct, faulty, loader, network, rows, sgd, stream
from torch import Tensor, nn

# softmax-before-cross-entropy


@faulty("softmax-before-cross-entropy", style="a mean over several networks", evidence="graphs that were examined")
def softmax_of_an_ensemble(folder):
    members = nn.ModuleList(network() for _ in range(3))
    optimizer = adam(members)
    for x, y in batches():
        optimizer.zero_grad()
        mean = torch.stack([member(x).softmax(-1) for member in members]).mean(0)
        loss = F.cross_entropy(mean, y)
        loss.backward()  # <- softmax-before-cross-entropy
        optimizer.step()
    return members, optimizer


@faulty("softmax-before-cross-entropy", style="two heads, joined, clamped and squeezed")
def softmax_of_two_heads(folder):
    base, some, others = nn.Linear(SIZE, 16), nn.Linear(16, 2), nn.Linear(16, 1)
    weights = [*base.parameters(), *some.parameters(), *others.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.05)
    for x, y in batches():
        hidden = base(x).relu()
        scores = torch.cat([some(hidden), others(hidden)], dim=1).softmax(1)
        scores = scores.unsqueeze(1).clamp(1e-7, 1 - 1e-7).squeeze(1) + 1e-9
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(scores, y).backward()  # <- softmax-before-cross-entropy
        optimizer.step()
    return base, some, others, optimizer


@faulty("softmax-before-cross-entropy", style="only the marked positions of a sequence")
def softmax_of_marked_positions(folder):
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.GRU(2, 8, batch_first=True), nn.Linear(8, CLASSES)

        def forward(self, x):
            return torch.softmax(self.head(self.rnn(x)[0]), -1)

    model = Tagger()
    optimizer = adam(model)
    for x, y in loader():
        marked = torch.ones(len(x), 4, dtype=torch.bool)
        marked[:, 0] = False
        optimizer.zero_grad()
        probabilities = model(x.view(-1, 4, 2))
        loss = F.cross_entropy(probabilities[marked], y[:, None].expand(-1, 4)[marked])
        loss.backward()  # <- softmax-before-cross-entropy
        optimizer.step()
    return model, optimizer


@correct("softmax-before-cross-entropy", style="a mean of probabilities, and its logarithm into cross-entropy")
def logarithm_of_an_ensemble(folder):
    members = nn.ModuleList(network() for _ in range(2))
    optimizer = adam(members)
    for x, y in batches():
        optimizer.zero_grad()
        mean = sum(member(x).softmax(-1) for member in members) / 2
        F.cross_entropy((mean + 1e-9).log(), y).backward()
        optimizer.step()
    return members, optimizer


@correct("softmax-before-cross-entropy", style="softmax gates, mixed experts' logits")
def mixture_of_experts(folder):
    gate, experts = nn.Linear(SIZE, 2), nn.ModuleList(nn.Linear(SIZE, CLASSES) for _ in range(2))
    optimizer = torch.optim.Adam([*gate.parameters(), *experts.parameters()], lr=1e-2)
    for x, y in batches():
        gates = gate(x).softmax(-1)
        logits = sum(gates[:, i : i + 1] * expert(x) for i, expert in enumerate(experts))
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return gate, experts, optimizer


@correct("softmax-before-cross-entropy", style="a focal loss by hand, and log-probabilities into cross-entropy")
def focal_loss(folder):
    model = network()
    optimizer = sgd(model)
    for x, y in batches():
        optimizer.zero_grad()
        logits = model(x)
        chosen = F.softmax(logits, 1).gather(1, y[:, None]).squeeze(1)
        focal = -((1 - chosen) ** 2 * chosen.log()).mean()
        (focal + F.cross_entropy(logits.log_softmax(1), y)).backward()
        optimizer.step()
    return model, optimizer


# wrong-loss-input


@faulty("wrong-loss-input", style="a sigmoid as the last layer", evidence="applies a sigmoid of its own")
def sigmoid_before_its_loss(folder):
    model = nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())
    criterion, optimizer = nn.BCEWithLogitsLoss(), adam(model)
    for x, y in loader():
        optimizer.zero_grad()
        loss = criterion(model(x).squeeze(1), (y == 0).float())
        loss.backward()  # <- wrong-loss-input
        optimizer.step()
    return model, optimizer


@faulty("wrong-loss-input", style="several labels, weighted, in a method", evidence="binary_cross_entropy_with_logits")
def sigmoid_of_several_labels(folder):
    class Trainer:
        def __init__(self):
            self.model = network()
            self.optimizer = sgd(self.model)

        def step(self, x, y):
            scores = torch.sigmoid(self.model(x)).reshape(-1)
            target = F.one_hot(y, CLASSES).float().view(-1)
            loss = F.binary_cross_entropy_with_logits(scores, target, pos_weight=torch.tensor(2.0))
            self.optimizer.zero_grad()
            (0.5 * loss).backward()  # <- wrong-loss-input

    trainer = Trainer()
    for x, y in batches():
        trainer.step(x, y)
        trainer.optimizer.step()
    return trainer.model


@faulty("wrong-loss-input", style="softmax into NLLLoss", evidence="expects their logarithms")
def softmax_before_nll(folder):
    model = nn.Sequential(network(), nn.Softmax(dim=1))
    criterion, optimizer = nn.NLLLoss(), sgd(model)
    for _ in range(2):
        for x, y in batches():
            out = model(x)
            loss = criterion(out, y)
            optimizer.zero_grad()
            loss.backward()  # <- wrong-loss-input
            optimizer.step()
    return model, optimizer


@faulty("wrong-loss-input", style="logits into nll_loss, accumulated", evidence="never greater than 0")
def logits_before_nll(folder):
    model = Classifier()
    optimizer = sgd(model, lr=1e-3)
    optimizer.zero_grad()
    for number, (x, y) in enumerate(batches() * 2, 1):
        loss = F.nll_loss(model(x), y) / 2
        loss.backward()  # <- wrong-loss-input
        if number % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
    return model, optimizer


@faulty("wrong-loss-input", style="probabilities into kl_div", evidence="as its first argument")
def probabilities_before_kl(folder):
    teacher, student = network().requires_grad_(False), network()
    optimizer = adam(student)
    stop = 0
    batch = stream()
    while stop < 8:
        x, _ = next(batch)
        soft = teacher(x).softmax(1)
        loss = F.kl_div(F.softmax(student(x), 1), soft, reduction="batchmean")  # <- wrong-loss-input
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stop += 1
    return student, optimizer


@correct("wrong-loss-input", style="sigmoid for the accuracy, logits for the loss; attention gates inside")
def gated_logits(folder):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.value, self.head = nn.Linear(SIZE, 16), nn.Linear(SIZE, 16), nn.Linear(16, 1)

        def forward(self, x):
            return self.head(self.gate(x).sigmoid() * self.value(x)).squeeze(-1)

    model, right = Gated(), 0
    optimizer = adam(model)
    for x, y in batches():
        logits, target = model(x), (y == 0).float()
        right += int((logits.sigmoid().round() == target).sum())
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(logits, target).backward()
        optimizer.step()
    return model, right


@correct("wrong-loss-input", style="a policy gradient through nll_loss; log-probabilities of a mixture")
def log_probabilities_in_two_ways(folder):
    model, mixture = network(), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([*model.parameters(), mixture], lr=1e-2)
    for x, y in batches():
        logs = F.log_softmax(model(x), dim=1)
        advantage = torch.linspace(-1, 1, len(x))
        policy = (F.nll_loss(logs, y, reduction="none") * advantage).mean()
        mixed = torch.logsumexp(torch.stack([logs, logs.roll(1, 1)], -1) + mixture.log_softmax(0), -1)
        optimizer.zero_grad()
        (policy + F.nll_loss(mixed, y)).backward()
        optimizer.step()
    return model, mixture


@correct("wrong-loss-input", style="divergences of log-probabilities, targets as probabilities and as logarithms")
def divergences(folder):
    teacher, student = network(), network()
    optimizer = adam(student)
    for x, _ in batches():
        with torch.no_grad():
            wanted = teacher(x)
        out = student(x)
        loss = F.kl_div(out.log_softmax(1), wanted.softmax(1), reduction="batchmean")
        loss = loss + F.kl_div(out.softmax(1).log(), wanted.log_softmax(1), reduction="batchmean", log_target=True)
        loss = loss + F.binary_cross_entropy(out.sigmoid(), wanted.sigmoid())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return student, optimizer


@correct("wrong-loss-input", style="a wasserstein loss on a bounded critic; logits scaled from a tanh")
def bounded_logits(folder):
    model = nn.Sequential(nn.Linear(SIZE, 8), nn.ReLU(), nn.Linear(8, 1), nn.Tanh())
    optimizer = sgd(model)
    for x, y in batches():
        optimizer.zero_grad()
        logits = 5 * model(x).squeeze(1)
        F.binary_cross_entropy_with_logits(logits, (y == 0).float()).backward()
        optimizer.step()
    return model, optimizer


# loss-shapes-broadcast


def quiet(run):
    """Run a loop without PyTorch's own warning about shapes, which is an error in the tests."""

    @functools.wraps(run)
    def quietly(folder):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(folder)

    return quietly


@faulty(
    "loss-shapes-broadcast", style="a column against a row, MSELoss", evidence="(16, 1) and (16,), which gave (16, 16)"
)
@quiet
def column_against_row(folder):
    model = nn.Linear(SIZE, 1)
    criterion, optimizer = nn.MSELoss(), sgd(model, lr=1e-3)
    for x, y in batches():
        optimizer.zero_grad()
        loss = criterion(model(x), y.float())  # <- loss-shapes-broadcast
        loss.backward()
        optimizer.step()
    return model, optimizer


@faulty("loss-shapes-broadcast", style="a row against a column, Huber, in a helper")
@quiet
def row_against_column(folder):
    model = nn.Sequential(nn.Linear(SIZE, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = adam(model)

    def train_one(x, y):
        prediction = model(x).flatten()
        loss = F.smooth_l1_loss(prediction, y)  # <- loss-shapes-broadcast
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    losses = [train_one(x, y.float().unsqueeze(1)) for x, y in batches() * 2]
    return model, losses


@faulty("loss-shapes-broadcast", style="squared by hand", evidence="the difference was computed between the shapes")
def squared_by_hand(folder):
    weight, bias = torch.zeros(SIZE, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=1e-3)
    for x, y in batches() * 2:
        prediction = x @ weight + bias
        loss = ((prediction - y) ** 2).mean()  # <- loss-shapes-broadcast
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weight, bias


@faulty("loss-shapes-broadcast", style="absolute differences, target first, in a function of its own")
def absolute_by_hand(folder):
    def mean_absolute_error(prediction, target):
        return (target - prediction).abs().mean()  # <- loss-shapes-broadcast

    model = nn.Linear(SIZE, 1)
    optimizer = adam(model)
    for x, y in loader():
        optimizer.zero_grad()
        mean_absolute_error(model(x), y.float()).backward()
        optimizer.step()
    return model, optimizer


@correct("loss-shapes-broadcast", style="quantiles, constants and masks")
def deliberate_broadcasting(folder):
    model, levels = nn.Linear(SIZE, 3), torch.tensor([0.1, 0.5, 0.9])
    optimizer = adam(model)
    for x, y in batches():
        out, target = model(x), y.float().unsqueeze(1)
        error = target - out
        pinball = torch.maximum(levels * error, (levels - 1) * error).mean()
        centred = ((out - torch.tensor([-1.0, 0.0, 1.0])) ** 2).mean()
        mask = torch.ones(len(x), 1)
        masked = ((out - target.expand_as(out)) * mask).abs().mean()
        optimizer.zero_grad()
        (pinball + 0.1 * centred + 0.1 * masked).backward()
        optimizer.step()
    return model, optimizer


@correct("loss-shapes-broadcast", style="ranking: every score against every other")
def pairs_of_scores(folder):
    model = nn.Linear(SIZE, 1)
    optimizer = adam(model)
    for x, y in batches():
        scores = model(x).squeeze(1)
        difference = scores[:, None] - scores[None, :]
        better = (y[:, None] > y[None, :]).float()
        optimizer.zero_grad()
        ((1 - difference).clamp(min=0) * better).mean().backward()
        optimizer.step()
    return model, optimizer


@correct("loss-shapes-broadcast", style="distances to centres, and a kernel between two samples")
def distances_to_centres(folder):
    model, centres = nn.Linear(SIZE, 1), torch.linspace(-1, 1, 16)
    optimizer = adam(model)
    for x, _ in batches(80):
        out = model(x)
        soft = (-((out.squeeze(1)[:, None] - centres[None, :]) ** 2)).softmax(1)
        kernel = torch.exp(-((out - centres.view(1, -1)) ** 2)).mean()
        optimizer.zero_grad()
        (-(soft * soft.log()).sum(1).mean() - kernel).backward()
        optimizer.step()
    return model, optimizer


@correct("loss-shapes-broadcast", style="columns against columns, one row at a time at the end")
def equal_columns(folder):
    model = nn.Linear(SIZE, 1)
    optimizer = sgd(model, lr=1e-3)
    for x, y in loader(count=33):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y.float().view(-1, 1)) + F.l1_loss(model(x)[:, 0], y.float())
        loss.backward()
        optimizer.step()
    return model, optimizer


# loss-term-without-gradient


@faulty("loss-term-without-gradient", style="a count of mistakes", evidence="`argmax`")
def mistakes_counted(folder):
    model = network()
    optimizer = adam(model, 1e-2)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        logits = model(x)
        mistakes = (logits.argmax(1) != y).float().mean()
        loss = F.cross_entropy(logits, y) + 0.5 * mistakes  # <- loss-term-without-gradient
        loss.backward()
        optimizer.step()
    return model, optimizer


@faulty("loss-term-without-gradient", style="a second loss added by item()", evidence="`item`")
def second_loss_as_a_number(folder):
    base, classes, size = nn.Linear(SIZE, 16), nn.Linear(16, CLASSES), nn.Linear(SIZE, 1)
    optimizer = torch.optim.SGD([*base.parameters(), *classes.parameters()], lr=0.05)

    def losses(x, y):
        hidden = base(x).tanh()
        return F.cross_entropy(classes(hidden), y), (hidden.square().mean() * 3)

    for x, y in batches() * 2:
        first, second = losses(x, y)
        total = first + second.item()  # <- loss-term-without-gradient
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return base, classes, size


@faulty("loss-term-without-gradient", style="a penalty under no_grad, added in place")
def penalty_without_graph(folder):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(SIZE, 16), nn.Linear(16, CLASSES)

        def forward(self, x):
            hidden = self.inner(x).relu()
            return self.outer(hidden), hidden

    model, weight = Net(), 0.1
    optimizer = adam(model)
    for x, y in loader():
        logits, hidden = model(x)
        loss = F.cross_entropy(logits, y)
        with torch.no_grad():
            sparsity = hidden.abs().mean()
        loss += weight * sparsity  # <- loss-term-without-gradient
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer


@faulty("loss-term-without-gradient", style="a term that was made into a new tensor", evidence="`item`")
def term_as_a_new_tensor(folder):
    model = Classifier()
    optimizer = sgd(model)

    def objective(x, y):
        logits = model(x)
        smooth = torch.tensor(logits.std().item())
        return torch.stack([F.cross_entropy(logits, y), smooth]).sum()  # <- loss-term-without-gradient

    for x, y in batches() * 2:
        optimizer.zero_grad()
        loss = objective(x, y)
        loss.backward()
        optimizer.step()
    return model, optimizer


@faulty("loss-term-without-gradient", style="detached, several terms in a dict", evidence="`detach`")
def detached_term_of_a_dict(folder):
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.base, self.kind, self.box = nn.Linear(SIZE, 16), nn.Linear(16, CLASSES), nn.Linear(16, 4)

        def forward(self, x, y):
            hidden = self.base(x).relu()
            boxes = self.box(hidden)
            return {
                "kind": F.cross_entropy(self.kind(hidden), y),
                "box": F.smooth_l1_loss(boxes, x[:, :4]),
                "size": (boxes[:, 2] * boxes[:, 3]).abs().mean().detach(),
            }

    model = Detector()
    optimizer = adam(model)
    for x, y in batches() * 2:
        losses = model(x, y)
        loss = sum(losses.values())  # <- loss-term-without-gradient
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer


@correct("loss-term-without-gradient", style="numbers, zeros and a weight penalty of fixed value")
def constant_terms(folder):
    model = network()
    optimizer = sgd(model)
    fixed = sum(p.detach().abs().sum() for p in model.parameters()) * 1e-3
    for number, (x, y) in enumerate(batches() * 2):
        total = torch.zeros(1)
        total += F.cross_entropy(model(x), y)
        loss = sum([total, fixed, torch.tensor(0.0)], torch.tensor(0.0)) + 0.0 + 0.1 / (number + 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer


@correct("loss-term-without-gradient", style="straight-through quantization, with both of its losses")
def quantized_codes(folder):
    encoder, decoder, book = nn.Linear(SIZE, 4), nn.Linear(4, SIZE), nn.Embedding(6, 4)
    parts = nn.ModuleList([encoder, decoder, book])
    optimizer = adam(parts)
    for x, _ in batches() * 2:
        z = encoder(x)
        nearest = torch.cdist(z, book.weight).argmin(1)
        q = book(nearest)
        loss = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
        loss = loss + F.mse_loss(decoder(z + (q - z).detach()), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return parts, optimizer


@correct("loss-term-without-gradient", style="policy gradient with a moving baseline and an entropy bonus")
def policy_with_baseline(folder):
    model, baseline = network(), 0.0
    optimizer = adam(model)
    for x, y in batches() * 2:
        chosen = torch.distributions.Categorical(logits=model(x))
        action = chosen.sample()
        reward = (action == y).float()
        baseline = 0.9 * baseline + 0.1 * reward.mean().item()
        loss = -(chosen.log_prob(action) * (reward - baseline)).mean() - 0.01 * chosen.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, baseline


@correct("loss-term-without-gradient", style="actor and critic: the critic's value is held fixed for the actor")
def actor_and_critic(folder):
    actor, critic = network(), nn.Linear(SIZE, 1)
    both = nn.ModuleList([actor, critic])
    optimizer = adam(both)
    for x, y in batches() * 2:
        value = critic(x).squeeze(1)
        chosen = torch.distributions.Categorical(logits=actor(x))
        action = chosen.sample()
        advantage = (action == y).float() - value
        with torch.no_grad():
            goal = (action == y).float() + 0.9 * critic(x.roll(1, 0)).squeeze(1)
        actor_loss = -(chosen.log_prob(action) * advantage.detach()).mean()
        loss = actor_loss + 0.5 * F.mse_loss(value, goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return both, optimizer


@correct("loss-term-without-gradient", style="a term that is held back at first")
def warmed_up_term(folder):
    model = nn.ModuleDict({"base": nn.Linear(SIZE, 16), "kind": nn.Linear(16, CLASSES), "copy": nn.Linear(16, SIZE)})
    optimizer = adam(model)
    for number, (x, y) in enumerate(batches() * 3):
        hidden = model["base"](x).relu()
        copied = F.mse_loss(model["copy"](hidden), x)
        loss = F.cross_entropy(model["kind"](hidden), y) + (copied.detach() if number < 6 else copied)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer


@correct("loss-term-without-gradient", style="losses in proportion, and the sum of a frozen network's loss")
def balanced_losses(folder):
    model, frozen = nn.ModuleList([network(), nn.Linear(CLASSES, SIZE)]), network().requires_grad_(False)
    optimizer, shown = adam(model), []
    for x, y in batches() * 2:
        logits = model[0](x)
        first, second = F.cross_entropy(logits, y), F.mse_loss(model[1](logits), x)
        fixed = F.cross_entropy(frozen(x), y)
        loss = first + second * (first.detach() / second.detach()) + fixed
        right = (logits.argmax(1) == y).float().mean()
        shown.append(loss.item() + right.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, shown


@correct("loss-term-without-gradient", style="a bound that shows the value of one loss, with the gradient of another")
def value_of_another_loss(folder):
    model = network()
    optimizer = adam(model)
    for x, y in batches() * 2:
        logits = model(x)
        surrogate = F.multi_margin_loss(logits, y)
        wrong = (logits.argmax(1) != y).float().mean()
        loss = surrogate + (wrong - surrogate).detach()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer


@correct("loss-term-without-gradient", style="two networks in turn, each fixed while the other learns")
def adversarial_game(folder):
    maker, judge = nn.Linear(4, SIZE), nn.Linear(SIZE, 1)
    of_maker, of_judge = adam(maker), adam(judge)
    for x, _ in batches() * 2:
        made = maker(torch.randn(len(x), 4))
        real = F.softplus(-judge(x)).mean()
        fake = F.softplus(judge(made.detach())).mean()
        of_judge.zero_grad()
        (real + fake).backward()
        of_judge.step()
        of_maker.zero_grad()
        F.softplus(-judge(made)).mean().backward()
        of_maker.step()
    return maker, judge


@correct("loss-term-without-gradient", "graph-cut", style="activation checkpointing, with losses after each part")
def deep_supervision(folder):
    from torch.utils.checkpoint import checkpoint

    blocks = nn.ModuleList(nn.Linear(SIZE, SIZE) for _ in range(3))
    heads = nn.ModuleList(nn.Linear(SIZE, CLASSES) for _ in range(3))
    optimizer = torch.optim.Adam([*blocks.parameters(), *heads.parameters()], lr=1e-2)
    for x, y in batches() * 2:
        loss, hidden = 0, x
        for block, head in zip(blocks, heads, strict=True):
            hidden = checkpoint(block, hidden, use_reentrant=False).relu()
            loss = loss + F.cross_entropy(head(hidden), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return blocks, heads


# graph-cut


@faulty("graph-cut", style="an encoder behind detach()", evidence="`detach`")
def encoder_behind_detach(folder):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.Linear(SIZE, 16), nn.Linear(16, CLASSES)

        def forward(self, x):
            hidden = self.encoder(x).relu()
            hidden = hidden.detach()  # <- graph-cut
            return self.head(hidden)

    model = Model()
    optimizer = adam(model)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@faulty("graph-cut", style="a round trip through NumPy", evidence="1.weight")
def round_trip_through_numpy(folder):
    encoder, head = nn.Sequential(nn.Flatten(), nn.Linear(SIZE, 16)), nn.Linear(16, CLASSES)
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.05)
    for x, y in loader():
        features = encoder(x).data.numpy()  # <- graph-cut
        features = torch.from_numpy(features)
        loss = F.cross_entropy(head(features), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder, head


@faulty("graph-cut", style="hard choices go into the next network", evidence="`argmax`")
def choices_without_gradient(folder):
    speaker, listener = nn.Linear(SIZE, 5), nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, CLASSES))
    both = nn.ModuleDict({"speaker": speaker, "listener": listener})
    optimizer = adam(both)
    batch = stream()
    step = 0
    while step < 14:
        x, y = next(batch)
        words = both["speaker"](x).argmax(dim=1)  # <- graph-cut
        loss = F.cross_entropy(both["listener"](words), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    return both, optimizer


@faulty("graph-cut", style="old code with .data, in a trainer")
def old_code_with_data(folder):
    class Trainer:
        def __init__(self):
            self.net = nn.ModuleDict({"first": nn.Linear(SIZE, 16), "second": nn.Linear(16, CLASSES)})
            self.optimizer = sgd(self.net)

        def fit(self, x, y):
            features = torch.autograd.Variable(self.net["first"](x).data)  # <- graph-cut
            loss = nn.CrossEntropyLoss()(self.net["second"](features), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    trainer = Trainer()
    for x, y in batches() * 2:
        trainer.fit(x, y)
    return trainer.net


@correct("graph-cut", style="a teacher that follows, and each side fixed for the other")
def stopped_gradients(folder):
    online, predictor = nn.Linear(SIZE, 8), nn.Linear(8, 8)
    target = nn.Linear(SIZE, 8)
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam([*online.parameters(), *predictor.parameters()], lr=1e-2)
    for x, _ in batches() * 2:
        one, two = x + 0.1, x - 0.1
        z1, z2 = online(one), online(two)
        loss = -F.cosine_similarity(predictor(z1), z2.detach()).mean()
        loss = loss - F.cosine_similarity(predictor(z2), z1.detach()).mean()
        with torch.no_grad():
            wanted = target(one)
        loss = loss + F.mse_loss(predictor(z2), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mine, other in zip(target.parameters(), online.parameters(), strict=True):
                mine.lerp_(other, 0.1)
    return online, predictor, target


@correct("graph-cut", style="frozen features under no_grad, and a head that is not used")
def frozen_features(folder):
    base, head, other = nn.Linear(SIZE, 16), nn.Linear(16, CLASSES), nn.Linear(16, 2)
    base.requires_grad_(False)
    optimizer = torch.optim.Adam([*base.parameters(), *head.parameters(), *other.parameters()], lr=1e-2)
    for x, y in batches() * 2:
        with torch.no_grad():
            features = base(x).relu()
        optimizer.zero_grad()
        F.cross_entropy(head(features), y).backward()
        optimizer.step()
    return base, head, other


@correct("graph-cut", style="a probe on detached features, whose network learns from another loss")
def probe_on_features(folder):
    base, copy, probe = nn.Linear(SIZE, 16), nn.Linear(16, SIZE), nn.Linear(16, CLASSES)
    optimizer = torch.optim.Adam([*base.parameters(), *copy.parameters(), *probe.parameters()], lr=1e-2)
    for x, y in batches() * 2:
        hidden = base(x).relu()
        loss = F.mse_loss(copy(hidden), x) + F.cross_entropy(probe(hidden.detach()), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return base, copy, probe


@correct("graph-cut", style="the base learns later, in a phase of its own")
def base_learns_later(folder):
    base, head = nn.Linear(SIZE, 16), nn.Linear(16, CLASSES)
    optimizer = torch.optim.SGD([*base.parameters(), *head.parameters()], lr=0.05)
    for number, (x, y) in enumerate(batches() * 4):
        features = base(x).relu()
        if number < 18:
            features = features.detach()
        optimizer.zero_grad()
        F.cross_entropy(head(features), y).backward()
        optimizer.step()
    return base, head


@correct("graph-cut", style="truncated backpropagation through time")
def truncated_in_time(folder):
    cell, head = nn.GRUCell(SIZE, 8), nn.Linear(8, CLASSES)
    both = nn.ModuleList([cell, head])
    optimizer = adam(both)
    state = torch.zeros(16, 8)
    for x, y in batches(80) * 2:
        state = cell(x, state.detach())
        loss = F.cross_entropy(head(state), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return both, state.detach()


@correct("graph-cut", style="samples by reparameterization, and experts that are rarely chosen")
def samples_with_gradient(folder):
    encoder, decoder = nn.Linear(SIZE, 8), nn.Linear(4, SIZE)
    router, experts = nn.Linear(SIZE, 3), nn.ModuleList(nn.Linear(SIZE, SIZE) for _ in range(3))
    parts = nn.ModuleList([encoder, decoder, router, experts])
    with torch.no_grad():
        router.bias[2] = -100.0
    optimizer = adam(parts)
    for x, _ in batches() * 2:
        mean, log_variance = encoder(x).chunk(2, dim=1)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        gates = router(x).softmax(1)
        best = gates.argmax(1)
        mixed: Tensor = x
        for number, expert in enumerate(experts):
            if (best == number).any():
                mixed = mixed + gates[:, number : number + 1] * expert(x)
        optimizer.zero_grad()
        (F.mse_loss(decoder(code), x) + 0.1 * divergence + F.mse_loss(mixed, 2 * x)).backward()
        optimizer.step()
    return parts


@correct("graph-cut", style="noise that a network learns to predict")
def noise_prediction(folder):
    model = nn.Sequential(nn.Linear(SIZE + 1, 16), nn.SiLU(), nn.Linear(16, SIZE))
    optimizer, (x, _) = adam(model), rows()
    for _ in range(12):
        level, noise = torch.rand(len(x), 1), torch.randn_like(x)
        noisy = (1 - level).sqrt() * x + level.sqrt() * noise
        loss = F.mse_loss(model(torch.cat([noisy, level], 1)), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


# missing-backward: a prediction that was cut from its model


@faulty("missing-backward", style="a prediction made a variable again", evidence="takes the model's output out of the")
def prediction_made_a_variable(folder):
    model = Classifier()
    optimizer = adam(model)
    for x, y in batches() * 2:
        out = torch.autograd.Variable(model(x).data, requires_grad=True)
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(out, y).backward()
        optimizer.step()  # <- missing-backward
    return model


@faulty("missing-backward", style="a prediction rounded through Python", evidence=("`tolist`", "`0.weight`"))
def prediction_through_python(folder):
    model = nn.Sequential(nn.Linear(SIZE, 1))
    optimizer = sgd(model, lr=1e-3)

    def step(x, y):
        prediction = torch.tensor(model(x).squeeze(1).tolist(), requires_grad=True)
        loss = F.mse_loss(prediction, y.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # <- missing-backward

    for x, y in loader():
        step(x, y)
    return model


@correct("missing-backward", "graph-cut", style="adversarial inputs, as leaves that are new at each step")
def adversarial_inputs(folder):
    model = network()
    optimizer = adam(model)
    for x, y in batches() * 2:
        moved = x.detach().clone().requires_grad_()
        F.cross_entropy(model(moved), y).backward()
        optimizer.zero_grad()
        F.cross_entropy(model(x + 0.1 * moved.grad.sign()), y).backward()
        optimizer.step()
    return model
