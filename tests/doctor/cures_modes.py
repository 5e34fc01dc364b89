"""Proofs of the fixes for train and eval mode, and for validation with gradients."""

from cure_parts import cure

NET = """
torch.manual_seed(3)
model = nn.Sequential(nn.Linear(SIZE, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, CLASSES))
optimizer = sgd(model)
"""
STEP = """
def step(x, y):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
"""

cure(
    "train-mode-while-evaluating",
    NET
    + STEP
    + """
right = 0.0
for epoch in range(3):
    for x, y in loader():
        step(x, y)
    for x, y in loader(40):
        # cure
        with torch.no_grad():
            out = model(x)
        # end
        right += accuracy(out, y)
result = [dict(model.state_dict()), right]
""",
    NET
    + STEP
    + """
right = 0.0
for epoch in range(3):
    model.train()
    for x, y in loader():
        step(x, y)
    model.eval()
    with torch.inference_mode():
        right += sum(accuracy(model(x), y) for x, y in loader(40))
model.train()
result = [dict(model.state_dict()), right]
""",
    {"…  # the evaluation": "out = model(x)"},
)

cure(
    "eval-mode-while-training",
    NET
    + STEP
    + """
for epoch in range(3):
    # cure
    # end
    for x, y in batches():
        step(x, y)
    model.eval()
""",
    NET
    + STEP
    + """
for epoch in range(3):
    for x, y in batches():
        step(x, y)
""",
)

cure(
    "validation-builds-graph",
    NET
    + STEP
    + """
total = 0.0
for epoch in range(3):
    model.train()
    for x, y in batches():
        step(x, y)
    model.eval()
    for x, y in batches(40):
        # cure
        total += F.cross_entropy(model(x), y).item()
        # end
result = [dict(model.state_dict()), total]
""",
    NET
    + STEP
    + """
total = 0.0
for epoch in range(3):
    model.train()
    for x, y in batches():
        step(x, y)
    model.eval()
    for x, y in batches(40):
        with torch.inference_mode():
            total += float(F.cross_entropy(model(x), y))
result = [dict(model.state_dict()), total]
""",
    {"…  # the validation loop": "total += F.cross_entropy(model(x), y).item()"},
)

FROZEN = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(SIZE, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.backbone(x))

torch.manual_seed(3)
model = Net()
model.backbone.requires_grad_(False)
optimizer = sgd(model.head)
"""

cure(
    "frozen-norm-still-learns",
    FROZEN
    + STEP
    + """
for epoch in range(3):
    # cure
    model.train()
    # end
    for x, y in batches():
        step(x, y)
""",
    FROZEN
    + STEP
    + """
for epoch in range(3):
    model.head.train()
    model.backbone.train(False)
    for x, y in batches():
        step(x, y)
""",
    name="part",
)

FLAT = """
torch.manual_seed(3)
model = nn.Sequential(
    nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)
)
model[:5].requires_grad_(False)
optimizer = sgd(model[5])
"""

cure(
    "frozen-norm-still-learns",
    FLAT
    + STEP
    + """
for epoch in range(3):
    # cure
    model.train()
    # end
    for x, y in batches():
        step(x, y)
""",
    FLAT
    + STEP
    + """
for epoch in range(3):
    model.train()
    model[1].eval()
    model[4].eval()
    for x, y in batches():
        step(x, y)
""",
    name="several",
)
