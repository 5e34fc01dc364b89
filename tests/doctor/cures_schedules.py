"""Proofs of the fixes for learning-rate schedules."""

from cure_parts import cure

BEGIN = """
torch.manual_seed(3)
model = network()
optimizer = sgd(model, 0.1)
schedulers = torch.optim.lr_scheduler

def step(x, y):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
"""

cure(
    "scheduler-before-optimizer",
    """
    model = network()
    optimizer = sgd(model, 0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
    import warnings
    warnings.simplefilter("ignore")
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        # cure
        scheduler.step()
        optimizer.step()
        # end
    """,
    """
    model = network()
    optimizer = sgd(model, 0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
    for x, y in batches() * 3:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    """,
)

cure(
    "schedule-out-of-step",
    BEGIN
    + """
scheduler = schedulers.StepLR(optimizer, 2, gamma=0.1)
for epoch in range(5):
    for x, y in loader():
        step(x, y)
    # cure
        scheduler.step()
    # end
""",
    BEGIN
    + """
for epoch in range(5):
    optimizer.param_groups[0]["lr"] = 0.1 * 0.1 ** (epoch // 2)
    for x, y in loader():
        step(x, y)
""",
    name="batch",
)

cure(
    "schedule-out-of-step",
    BEGIN
    + """
scheduler = schedulers.CosineAnnealingLR(optimizer, 5)
for epoch in range(5):
    for x, y in loader():
        step(x, y)
    # cure
        scheduler.step()
    # end
""",
    BEGIN
    + """
scheduler = schedulers.CosineAnnealingLR(optimizer, 5)
for epoch in range(5):
    [step(x, y) for x, y in loader()]
    scheduler.step()
""",
    name="waves",
)

cure(
    "schedule-out-of-step",
    BEGIN
    + """
data = loader()
scheduler = schedulers.CosineAnnealingLR(optimizer, T_max=4 * len(data))
for epoch in range(4):
    for x, y in data:
        step(x, y)
        # cure
    scheduler.step()
        # end
""",
    BEGIN
    + """
scheduler = schedulers.CosineAnnealingLR(optimizer, T_max=24)
for _ in range(4):
    for x, y in batches():
        step(x, y)
        scheduler.step()
""",
    name="epoch",
)

cure(
    "schedule-out-of-step",
    BEGIN
    + """
num_epochs, data = 4, loader()
# cure
T_max = len(data)
# end
scheduler = schedulers.CosineAnnealingLR(optimizer, T_max)
for epoch in range(num_epochs):
    for x, y in data:
        step(x, y)
    scheduler.step()
""",
    BEGIN
    + """
scheduler = schedulers.CosineAnnealingLR(optimizer, 4)
for epoch in range(4):
    for x, y in batches():
        step(x, y)
    scheduler.step()
""",
    name="pass",
)

cure(
    "schedule-out-of-step",
    BEGIN
    + """
scheduler = schedulers.CosineAnnealingLR(optimizer, 12)
for i, (x, y) in enumerate(batches(96) * 4):
    (F.cross_entropy(model(x), y) / 2).backward()
    if i % 2:
        optimizer.step()
        # cure
    if i:
        scheduler.step()
        # end
    if i % 2:
        optimizer.zero_grad()
""",
    BEGIN
    + """
scheduler = schedulers.CosineAnnealingLR(optimizer, 12)
pairs = batches(96) * 4
for one, two in zip(pairs[::2], pairs[1::2]):
    optimizer.zero_grad()
    for x, y in (one, two):
        loss = F.cross_entropy(model(x), y) * 0.5
        loss.backward()
    optimizer.step()
    scheduler.step()
optimizer.zero_grad()
""",
    name="micro",
)

cure(
    "schedule-out-of-step",
    BEGIN
    + """
# cure
T_max = 8
# end
scheduler = schedulers.CosineAnnealingLR(optimizer, T_max)
for epoch in range(12):
    for x, y in batches():
        step(x, y)
    scheduler.step()
""",
    BEGIN
    + """
scheduler = schedulers.CosineAnnealingLR(optimizer, 12)
for epoch in range(12):
    for x, y in batches():
        step(x, y)
    scheduler.step()
""",
    name="past",
)

cure(
    "schedule-out-of-step",
    BEGIN
    + """
# cure
total_iters = 10
# end
scheduler = schedulers.PolynomialLR(optimizer, total_iters)
for x, y in batches() * 6:
    step(x, y)
    scheduler.step()
""",
    BEGIN
    + """
scheduler = schedulers.PolynomialLR(optimizer, 36)
for x, y in batches() * 6:
    step(x, y)
    scheduler.step()
""",
    name="early",
)

cure(
    "schedule-out-of-step",
    BEGIN
    + """
# cure
gamma = 0.3
# end
scheduler = schedulers.ExponentialLR(optimizer, gamma)
for epoch in range(16):
    for x, y in batches(48):
        step(x, y)
    scheduler.step()
""",
    BEGIN
    + """
scheduler = schedulers.ExponentialLR(optimizer, 0.7499)
for epoch in range(16):
    for x, y in batches(48):
        step(x, y)
    scheduler.step()
""",
    name="decay",
)

cure(
    "schedule-out-of-step",
    BEGIN
    + """
num_epochs = 4
# cure
total_steps = 10
# end
scheduler = schedulers.OneCycleLR(optimizer, 0.1, total_steps)
try:
    for epoch in range(num_epochs):
        for x, y in loader():
            step(x, y)
            scheduler.step()
except ValueError:
    pass
""",
    BEGIN
    + """
scheduler = schedulers.OneCycleLR(optimizer, 0.1, epochs=4, steps_per_epoch=6)
for x, y in batches() * 4:
    step(x, y)
    scheduler.step()
""",
    {"len(loader)": "len(loader())"},
    name="ended",
)

VALIDATE = (
    BEGIN
    + """
def validate(metric):
    with torch.no_grad():
        return sum(float(metric(model(x), y)) for x, y in loader(32)) / 2

def train():
    for x, y in batches():
        step(x, y)
"""
)

cure(
    "plateau-metric-reversed",
    VALIDATE
    + """
# cure
scheduler = schedulers.ReduceLROnPlateau(optimizer, patience=0)
# end
for epoch in range(6):
    train()
    scheduler.step(validate(accuracy))
""",
    VALIDATE
    + """
scheduler = schedulers.ReduceLROnPlateau(optimizer, "max", patience=0)
for epoch in range(6):
    train()
    scheduler.step(validate(accuracy))
""",
    {"…": "patience=0"},
    name="accuracy",
)

cure(
    "plateau-metric-reversed",
    VALIDATE
    + """
# cure
scheduler = schedulers.ReduceLROnPlateau(optimizer, "max", patience=0)
# end
for epoch in range(6):
    train()
    scheduler.step(validate(F.cross_entropy))
""",
    VALIDATE
    + """
scheduler = schedulers.ReduceLROnPlateau(optimizer, patience=0)
for epoch in range(6):
    train()
    scheduler.step(validate(F.cross_entropy))
""",
    {"…": "patience=0"},
    name="loss",
)

cure(
    "plateau-metric-reversed",
    VALIDATE
    + """
scheduler = schedulers.ReduceLROnPlateau(optimizer, patience=0)
for epoch in range(6):
    train()
    val_loss = validate(F.cross_entropy)
    # cure
    scheduler.step(epoch)
    # end
""",
    VALIDATE
    + """
scheduler = schedulers.ReduceLROnPlateau(optimizer, patience=0)
for epoch in range(6):
    train()
    scheduler.step(validate(F.cross_entropy))
""",
    name="epoch",
)
