"""Proofs of the fixes for what goes into a loss, and for parts that its gradient does not reach."""

from cure_parts import cure

CLASSIFIER = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        logits = self.body(x)
{returned}

model = Net()
optimizer = sgd(model)
for x, y in batches() * 3:
    optimizer.zero_grad()
    {loss}
    loss.backward()
    optimizer.step()
"""


def last_line(code: str, name: str, wrong: str, right: str, loss: str) -> None:
    """Register a proof about the last line of a model."""
    marked = f"        # cure\n        return {wrong}\n        # end"
    faulty = CLASSIFIER.format(returned=marked, loss=loss)
    cure(code, faulty, CLASSIFIER.format(returned=f"        return {right}", loss=loss), name=name)


last_line(
    "softmax-before-cross-entropy",
    "last-layer",
    "logits.softmax(1)",
    "logits",
    "loss = F.cross_entropy(model(x), y)",
)
last_line(
    "wrong-loss-input",
    "sigmoid",
    "torch.sigmoid(logits)",
    "logits",
    "loss = F.binary_cross_entropy_with_logits(model(x), F.one_hot(y, CLASSES).float())",
)
last_line(
    "wrong-loss-input",
    "probabilities",
    "F.softmax(logits, dim=1)",
    "logits.log_softmax(-1)",
    "loss = nn.NLLLoss()(model(x), y)",
)
last_line(
    "wrong-loss-input",
    "divergence",
    "torch.softmax(logits, 1)",
    "logits.log_softmax(-1)",
    "loss = F.kl_div(model(x), F.one_hot(y, CLASSES) * 0.7 + 0.1, reduction='batchmean')",
)

LOGITS = """
model = network()
optimizer = sgd(model, lr=0.01)
for x, y in batches() * 3:
    logits = model(x)
{loss}
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
cure(
    "wrong-loss-input",
    LOGITS.format(loss="    # cure\n    loss = F.nll_loss(logits, y)\n    # end"),
    LOGITS.format(loss="    loss = F.nll_loss(F.log_softmax(logits, 1), y)"),
    name="logits",
)

COLUMNS = """
model = nn.Linear(SIZE, 1)
optimizer = sgd(model, lr=1e-3)
for x, y in batches() * 2:
    y = y.float()
    prediction = model(x)
{lines}
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
for name, loss in (
    ("by-hand", "loss = (prediction - y).square().mean()"),
    ("function", "loss = (F.mse_loss(prediction, y, reduction='none')).mean()"),
):
    cure(
        "loss-shapes-broadcast",
        "import warnings; warnings.simplefilter('ignore')\n"
        + COLUMNS.format(lines=f"    # cure\n    # end\n    {loss}"),
        COLUMNS.format(lines="    loss = F.mse_loss(prediction.flatten(), y)"),
        name=name,
    )

TERMS = """
model = Classifier()
optimizer = sgd(model)
for x, y in batches() * 3:
    logits = model(x)
    loss = F.cross_entropy(logits, y)
{lines}
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
TERM = "    term = logits.square().mean()\n"
for name, line in (("detached", "loss = loss + term.detach()"), ("number", "loss += term.item()")):
    cure(
        "loss-term-without-gradient",
        TERMS.format(lines=f"{TERM}    # cure\n    {line}\n    # end"),
        TERMS.format(lines="    loss = loss + (logits**2).mean()"),
        name=name,
    )
cure(
    "loss-term-without-gradient",
    TERMS.format(
        lines="    # cure\n    with torch.no_grad():\n        term = (logits**2).mean()\n    loss += term\n    # end"
    ),
    TERMS.format(lines="    loss = loss + (logits**2).mean()"),
    fill={"…": "logits.square().mean()"},
    name="no-grad",
)
cure(
    "loss-term-without-gradient",
    TERMS.format(
        lines="    # cure\n    term = (logits.argmax(1) != y).float().mean()\n    # end\n    loss = loss + term"
    ),
    TERMS.format(lines="    loss = loss + (1 - logits.softmax(1)[range(len(y)), y].mean())"),
    name="choice",
)

PARTS = """
encoder, head = nn.Linear(SIZE, 16), nn.Linear(16, CLASSES)
model = nn.ModuleDict({{"encoder": encoder, "head": head}})
optimizer = adam(model)
for x, y in batches() * 3:
{lines}
    loss = F.cross_entropy(head(features), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
for name, line in (
    ("detached", "features = encoder(x).detach()"),
    ("number", "features = torch.tensor(encoder(x).tolist())"),
    ("no-grad", "h = encoder(x)\n    with torch.no_grad():\n        features = h * 1"),
):
    cure(
        "graph-cut",
        PARTS.format(lines=f"    # cure\n    {line}\n    # end"),
        PARTS.format(lines="    features = encoder(x)"),
        name=name,
    )

CHOICES = """
speaker, embedding, head = nn.Linear(SIZE, 5), nn.Embedding(5, 8), nn.Linear(8, CLASSES)
model = nn.ModuleList([speaker, embedding, head])
optimizer = adam(model)
for x, y in batches() * 3:
    logits = speaker(x)
{lines}
    loss = F.cross_entropy(head(features), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
cure(
    "graph-cut",
    CHOICES.format(lines="    # cure\n    choice = logits.argmax(1)\n    features = embedding(choice)\n    # end"),
    CHOICES.format(
        lines="    soft = F.gumbel_softmax(logits, hard=True)\n    features = F.linear(soft, embedding.weight.T)"
    ),
    name="choice",
)

OUTPUT = """
model = network()
optimizer = sgd(model)
for x, y in batches() * 3:
{lines}
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
for name, line in (
    ("detached", "output = model(x).detach().requires_grad_()"),
    ("list", "output = torch.tensor(model(x).tolist(), requires_grad=True)"),
    ("variable", "output = torch.autograd.Variable(model(x).data, requires_grad=True)"),
):
    cure(
        "missing-backward",
        OUTPUT.format(lines=f"    # cure\n    {line}\n    # end\n    loss = F.cross_entropy(output, y)"),
        OUTPUT.format(lines="    loss = F.cross_entropy(model(x), y)"),
        name=f"cut-{name}",
    )
