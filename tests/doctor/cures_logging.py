"""Proofs of the fixes for writers, for the steps of what is logged, and for reads from an accelerator."""

from cure_parts import cure

cure(
    "repeated-global-step",
    """
    from event_files import scalars

    writer = SummaryWriter(folder)
    model = network()
    optimizer = sgd(model)
    global_step = 0
    for epoch in range(3):
        for x, y in batches():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            # cure
            writer.add_scalar("train/loss", loss.item(), epoch)
            # end
    writer.close()
    result = scalars(folder)
    """,
    """
    from event_files import scalars

    with SummaryWriter(folder) as writer:
        model = network()
        optimizer = sgd(model)
        for step, (x, y) in enumerate(batches() * 3, 1):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            writer.add_scalar("train/loss", loss.item(), step)
    result = scalars(folder)
    """,
    name="epoch",
)

cure(
    "repeated-global-step",
    """
    from event_files import scalars

    import tensorboardX

    model = network()
    optimizer = sgd(model)
    global_step = 0
    with tensorboardX.SummaryWriter(str(folder)) as writer:
        for x, y in batches() * 2:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            # cure
            writer.add_scalar("loss", loss.item())
            # end
    result = scalars(folder)
    """,
    """
    from event_files import scalars

    with SummaryWriter(folder) as writer:
        model = network()
        optimizer = sgd(model)
        for step, (x, y) in enumerate(batches() * 2):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            writer.add_scalar("loss", loss.item(), step + 1)
    result = scalars(folder)
    """,
    name="without",
)

# A loop that writes, from its beginning; what is inside of the two marks differs.
_TRAIN = """
from event_files import scalars

model = network()
optimizer = sgd(model)
steps = iter(range(100))
num_epochs = 3

def train(writer):
    for x, y in batches():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        writer.add_scalar("loss", loss.item(), next(steps))

"""
_CLOSED_AFTER_ALL = """
writer = SummaryWriter(folder)
try:
    for epoch in range(3):
        train(writer)
finally:
    writer.close()
result = scalars(folder)
"""

cure(
    "writer-closed-early",
    _TRAIN
    + """
# cure
writer = SummaryWriter(folder)
for epoch in range(num_epochs):
    train(writer)
    writer.close()
# end
result = scalars(folder)
""",
    _TRAIN + _CLOSED_AFTER_ALL,
    fill={"…": "folder"},
)

cure(
    "writer-left-open",
    _TRAIN
    + """
# cure
writer = SummaryWriter(folder)
for epoch in range(num_epochs):
    train(writer)
# end
result = scalars(folder)
""",
    _TRAIN + _CLOSED_AFTER_ALL,
    fill={"…": "folder"},
)

cure(
    "scalar-as-image",
    """
    from event_files import scalars

    model = network()
    optimizer = sgd(model)
    with SummaryWriter(folder) as writer:
        for step, (x, y) in enumerate(batches()):
            optimizer.zero_grad()
            value = F.cross_entropy(model(x), y)
            value.backward()
            optimizer.step()
            try:
                # cure
                writer.add_image("loss", value, step)
                # end
            except Exception:
                pass
    result = scalars(folder)
    """,
    """
    from event_files import scalars

    model = network()
    optimizer = sgd(model)
    writer = SummaryWriter(folder)
    for step, (x, y) in enumerate(batches()):
        optimizer.zero_grad()
        value = F.cross_entropy(model(x), y)
        value.backward()
        optimizer.step()
        writer.add_scalar("loss", value.item(), step)
    writer.close()
    result = scalars(folder)
    """,
)
