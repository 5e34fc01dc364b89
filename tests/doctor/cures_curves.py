"""Proofs of the fixes for logged values; the result is what the writer was given, and the weights."""

from cure_parts import cure

# A writer that keeps what it is given, so that the numbers can be compared.
START = """
    class Writer(SummaryWriter):
        def add_scalar(self, tag, value, step):
            super().add_scalar(tag, value, step)
            logged.append(float(value))

    logged = []
    model, loader = network(), loader()
    optimizer, writer = sgd(model), Writer(folder)

    def train(x, y, reduction="mean"):
        loss = F.cross_entropy(model(x), y, reduction=reduction)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss
"""
END = """
    writer.close()
    result = logged, dict(model.state_dict())
"""
BODY = {"…": "loss = train(x, y)"}
BODY_OF_SUMS = {"…": "loss = train(x, y, 'sum')"}

RIGHT_BY_BATCHES = """
    for epoch in range(4):
        losses = [train(x, y).item() for x, y in loader]
        writer.add_scalar("loss", sum(losses) / len(losses), epoch)
"""
RIGHT_BY_SAMPLES = """
    for epoch in range(4):
        pairs = [(train(x, y).item(), len(y)) for x, y in loader]
        writer.add_scalar("loss", sum(loss * n for loss, n in pairs) / ROWS, epoch)
"""
RIGHT_BY_SUMS = """
    for epoch in range(4):
        writer.add_scalar("loss", sum(train(x, y, "sum").item() for x, y in loader) / ROWS, epoch)
"""
RIGHT_BY_WINDOW = """
    losses = []
    for step, (x, y) in enumerate(batches() * 4, 1):
        losses.append(train(x, y).item())
        if step % 4 == 0:
            writer.add_scalar("loss", sum(losses[-4:]) / 4, step)
"""


def _epochs(before: str, add: str, value: str, body: str = "loss = train(x, y)") -> str:
    """Return a loop over epochs that begins with `before`, adds up `add`, and logs `value`."""
    return f"""
    {before}
    for epoch in range(4):
        # cure
        for x, y in loader:
            {body}
            {add}
        writer.add_scalar("loss", {value}, epoch)
        # end
"""


def _window(value: str, reset: str) -> str:
    return f"""
    running_loss, num_batches, log_every = 0.0, 0, 4
    for step, (x, y) in enumerate(batches() * 4, 1):
        loss = train(x, y)
        # cure
        running_loss += loss.item()
        if step % log_every == 0:
            writer.add_scalar("loss", {value}, step)
            {reset}
        # end
"""


def _prove(code: str, faulty: str, right: str, name: str, fill: dict[str, str] | None = None) -> None:
    cure(code, START + faulty + END, START + right + END, fill, name)


_prove(
    "loss-never-reset",
    _epochs("running_loss = 0.0", "running_loss += loss.item()", "running_loss"),
    RIGHT_BY_BATCHES,
    "sum",
    BODY,
)
_prove(
    "loss-never-reset",
    _epochs("running_loss = 0.0", "running_loss += loss.item()", "running_loss / len(loader)"),
    RIGHT_BY_BATCHES,
    "divided",
    BODY,
)
_prove(
    "loss-never-reset",
    _epochs("total = seen = 0", "total, seen = total + loss.item() * len(y), seen + len(y)", "total / seen"),
    RIGHT_BY_SAMPLES,
    "mean",
    BODY,
)
_prove("loss-never-reset", _window("running_loss / log_every", "pass"), RIGHT_BY_WINDOW, "window")
_prove(
    "loss-not-averaged",
    _epochs("losses = []", "losses.append(loss.item())", "sum(losses[-len(loader):])"),
    RIGHT_BY_BATCHES,
    "batches",
    BODY,
)
_prove(
    "loss-not-averaged",
    _epochs("losses = []", "losses.append(loss.item())", "sum(losses[-len(loader):])", "loss = train(x, y, 'sum')"),
    RIGHT_BY_SUMS,
    "sums",
    BODY_OF_SUMS,
)
_prove("loss-not-averaged", _window("running_loss", "running_loss = 0.0"), RIGHT_BY_WINDOW, "window")
_prove(
    "wrong-divisor",
    _epochs("losses = []", "losses.append(loss.item())", "sum(losses[-len(loader):]) / len(loader.dataset)"),
    RIGHT_BY_BATCHES,
    "batches",
    BODY,
)
_prove(
    "wrong-divisor",
    _epochs("parts = []", "parts.append(loss.item() * len(y))", "sum(parts[-len(loader):]) / len(loader)"),
    RIGHT_BY_SAMPLES,
    "samples",
    BODY,
)
_prove("wrong-divisor", _window("running_loss / 7", "running_loss = 0.0"), RIGHT_BY_WINDOW, "window")
