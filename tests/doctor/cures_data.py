"""Proofs of the fixes for data and checkpoints."""

from cure_parts import cure

STEP = """
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
"""
START = """
train_loader, val_loader = loader(), loader(40)
model = network()
optimizer = sgd(model, 0.01)
"""
EPOCHS = f"""
for epoch in range(3):
    for x, y in train_loader:{STEP}"""

cure(
    "same-batch-again",
    f"""{START}
for epoch in range(3):
    # cure
    for _ in range(len(train_loader)):
        x, y = next(iter(train_loader))
    # end{STEP}""",
    START + EPOCHS,
)
VALIDATION = """
    with torch.no_grad():
        total = 0.0
        {}
            total += accuracy(model(x), y)
        result.append(total / len(val_loader))
"""
cure(
    "same-batch-again",
    f"{START}\nresult = []{EPOCHS}"
    + VALIDATION.format(
        "# cure\n        for _ in range(len(val_loader)):\n            x, y = next(iter(val_loader))\n        # end"
    ),
    f"{START}\nresult = []{EPOCHS}" + VALIDATION.format("for x, y in val_loader:"),
    name="valid",
)
cure(
    "evaluated-on-training-data",
    f"{START}\nresult = []{EPOCHS}" + VALIDATION.format("# cure\n        for x, y in train_loader:\n        # end"),
    f"{START}\nresult = []{EPOCHS}" + VALIDATION.format("for x, y in val_loader:"),
)
SORTED = """
from torch.utils.data import DataLoader, TensorDataset
x, y = rows()
order = y.argsort()
dataset = TensorDataset(x[order], y[order])
model = network()
optimizer = sgd(model, 0.01)
"""
cure(
    "not-shuffled",
    SORTED + "# cure\ntrain_loader = DataLoader(dataset, batch_size=8)\n# end\n" + EPOCHS,
    SORTED + "train_loader = DataLoader(dataset, 8, shuffle=True)\n" + EPOCHS,
)
BEST = f"""{START}
for epoch in range(3):
    for x, y in train_loader:{STEP}
    if epoch == 1:
        {{}}
model.load_state_dict(best_state)
"""
cure(
    "best-weights-not-copied",
    BEST.format("# cure\n        best_state = model.state_dict()\n        # end"),
    "import copy\n" + BEST.format("best_state = copy.deepcopy(model.state_dict())"),
)
RESUMED = f"""
train_loader = loader()
model = network()
optimizer = adam(model)
for epoch in range(3):
    for x, y in train_loader:{STEP}
torch.save({{"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict()}}, folder / "last.pt")
checkpoint = torch.load(folder / "last.pt")
model = network()
optimizer = adam(model)
model.load_state_dict(checkpoint["model"])
"""
RESUME = f"""
for epoch in range(checkpoint["epoch"], 5):
    for x, y in train_loader:{STEP}"""
cure(
    "resumed-without-optimizer-state",
    RESUMED + "# cure\n# end\n" + RESUME,
    f"""
train_loader = loader()
model = network()
optimizer = adam(model)
for epoch in range(5):
    for x, y in train_loader:{STEP}""",
)
