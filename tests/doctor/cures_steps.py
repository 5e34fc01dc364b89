"""Proofs of the fixes for the order of zero_grad(), backward() and step()."""

from cure_parts import cure

cure(
    "missing-zero-grad",
    """
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 3:
        # cure
        # end
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    """,
    """
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 3:
        loss = F.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        optimizer.step()
    """,
)

cure(
    "zero-grad-before-step",
    """
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 3:
        loss = F.cross_entropy(model(x), y)
        # cure
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()
        # end
    """,
    """
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    """,
)

cure(
    "missing-zero-grad",
    """
    model = network()
    optimizer = sgd(model, 0.01)
    for i, (x, y) in enumerate(batches() * 3):
        loss = F.cross_entropy(model(x), y) / 3
        loss.backward()
        # cure
        optimizer.step()
        if (i + 1) % 3 == 0:
            optimizer.zero_grad()
        # end
    """,
    """
    model = network()
    optimizer = sgd(model, 0.01)
    data = batches() * 3
    for start in range(0, len(data), 3):
        optimizer.zero_grad()
        for x, y in data[start : start + 3]:
            (F.cross_entropy(model(x), y) / 3).backward()
        optimizer.step()
    """,
    name="accumulation",
)

cure(
    "zero-grad-before-step",
    """
    model = network()
    optimizer = sgd(model)
    for i, (x, y) in enumerate(batches() * 3):
        loss = F.cross_entropy(model(x), y) / 3
        # cure
        optimizer.zero_grad()
        loss.backward()
        if (i + 1) % 3 == 0:
            optimizer.step()
        # end
    """,
    """
    model = network()
    optimizer = sgd(model)
    data = batches() * 3
    for start in range(0, len(data), 3):
        optimizer.zero_grad()
        for x, y in data[start : start + 3]:
            (F.cross_entropy(model(x), y) / 3).backward()
        optimizer.step()
    """,
    name="some",
)

RIGHT = """
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 3:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    """

cure(
    "missing-step",
    """
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        # cure
        loss.backward()
        # end
    """,
    RIGHT,
)

cure(
    "missing-backward",
    """
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        # cure
        # end
        optimizer.step()
    """,
    RIGHT,
)

cure(
    "repeated-step",
    """
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        # cure
        optimizer.step()
        optimizer.step()
        # end
    """,
    RIGHT,
)

cure(
    "optimizer-of-another-model",
    """
    torch.manual_seed(1)
    first = network()
    optimizer = torch.optim.SGD(first.parameters(), lr=0.05)
    torch.manual_seed(0)
    model = network()
    # cure
    # end
    for x, y in batches() * 3:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    """,
    RIGHT,
    {"…": "0.05"},
)

cure(
    "parameters-not-optimized",
    """
    model = network()
    # cure
    optimizer = torch.optim.SGD(model[-1].parameters(), lr=0.05)
    # end
    for x, y in batches() * 3:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    """,
    RIGHT,
    {"…": "0.05"},
)

cure(
    "parameters-not-optimized",
    """
    part, model = nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU()), nn.Linear(16, CLASSES)
    # cure
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    # end
    for x, y in batches() * 3:
        part.zero_grad()
        model.zero_grad()
        F.cross_entropy(model(part(x)), y).backward()
        optimizer.step()
    result = [part[0].weight, model.weight]
    """,
    """
    part, model = nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU()), nn.Linear(16, CLASSES)
    both = nn.Sequential(part, model)
    optimizer = sgd(both)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(both(x), y).backward()
        optimizer.step()
    result = [part[0].weight, model.weight]
    """,
    {"…": "0.05"},
    name="module",
)

LISTED = """
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = [nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)]
            self.gates = {"out": nn.Linear(SIZE, SIZE)}
            # cure
            # end
            self.head = nn.Linear(SIZE, CLASSES)

        def forward(self, x):
            for layer in self.hidden:
                x = layer(x).relu()
            return self.head(self.gates["out"](x).sigmoid() * x)

    model = Deep()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for x, y in batches() * 3:
        model.zero_grad()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    result = [p for layer in (*model.hidden, *model.gates.values(), model.head) for p in layer.parameters()]
    """

cure(
    "parameters-not-optimized",
    LISTED,
    LISTED.replace("self.hidden = [nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)]", "self.hidden = nn.ModuleList()")
    .replace("# cure", "self.hidden.extend(layers)")
    .replace("self.gates = {", "self.gates = nn.ModuleDict({")
    .replace("nn.Linear(SIZE, SIZE)}", "nn.Linear(SIZE, SIZE)})")
    .replace(
        "self.hidden = nn.M", "layers = [nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)]\n            self.hidden = nn.M"
    ),
    name="list",
)

cure(
    "parameters-not-optimized",
    """
    model = network(nn.BatchNorm1d(16))
    for layer in model:
        layer.requires_grad_(isinstance(layer, nn.BatchNorm1d))
    # cure
    optimizer = torch.optim.SGD([*model[0].parameters(), *model[-1].parameters()], lr=0.05)
    # end
    for x, y in batches() * 3:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    """,
    RIGHT.replace("network()", "network(nn.BatchNorm1d(16))"),
    {"…": "0.05"},
    name="frozen",
)

cure(
    "scheduler-before-optimizer",
    """
    import warnings
    warnings.simplefilter("ignore")
    model = network()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4)
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
    for step, (x, y) in enumerate(batches() * 3):
        if step == 0:
            optimizer = sgd(model)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 if step < 4 else group["lr"]
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if (step + 1) % 4 == 0:
            for group in optimizer.param_groups:
                group["lr"] *= 0.1
    """,
)

ACCUMULATED = """
    model = network()
    optimizer = sgd(model, 0.02)
    data = batches() * 2
    for start in range(0, len(data), 4):
        optimizer.zero_grad()
        for x, y in data[start : start + 4]:
            (F.cross_entropy(model(x), y) / 4).backward()
        optimizer.step()
    """

cure(
    "accumulation-not-scaled",
    """
    model = network()
    optimizer = sgd(model, 0.02)
    for i, (x, y) in enumerate(batches() * 2, 1):
        loss = F.cross_entropy(model(x), y)
        # cure
        loss.backward()
        # end
        if i % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
    """,
    ACCUMULATED,
)

cure(
    "accumulation-tail-dropped",
    """
    model = network()
    optimizer = sgd(model, 0.02)
    accumulation_steps = 4
    for _ in range(3):
        loader = batches()
        optimizer.zero_grad()
        for i, (x, y) in enumerate(loader):
            (F.cross_entropy(model(x), y) / 4).backward()
            # cure
            if (i + 1) % accumulation_steps == 0:
                optimizer.step()
            # end
                optimizer.zero_grad()
    """,
    """
    model = network()
    optimizer = sgd(model, 0.02)
    for _ in range(3):
        data = batches()
        for part in (data[:4], data[4:]):
            optimizer.zero_grad()
            for x, y in part:
                (F.cross_entropy(model(x), y) / 4).backward()
            optimizer.step()
    """,
)

GAN = """
    generator, critic = nn.Linear(4, SIZE), nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), nn.Linear(16, 1))
    for_g, optimizer = torch.optim.Adam(generator.parameters()), torch.optim.Adam(critic.parameters())
    for x, _ in batches() * 2:
        fake = generator(torch.randn(len(x), 4))
        for_g.zero_grad()
        critic.requires_grad_(TRAINED)
        F.softplus(-critic(fake)).mean().backward()
        critic.requires_grad_(True)
        for_g.step()
        loss = F.softplus(-critic(x)).mean() + F.softplus(critic(fake.detach())).mean()
        # cure
        # end
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    result = [generator.weight, critic[0].weight, critic[2].weight]
    """

cure("gradients-leak-in", GAN.replace("TRAINED", "True"), GAN.replace("TRAINED", "False"))

cure(
    "optimizer-recreated",
    """
    model, data, num_epochs = network(), loader(), 4
    # cure
    for epoch in range(num_epochs):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    # end
        for x, y in data:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    """,
    """
    model = network()
    optimizer = adam(model, 0.01)
    for epoch in range(4):
        for x, y in batches():
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    """,
    {"…": "0.01"},
)

CLIPPED = """
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 3:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    """

cure(
    "clipping-misplaced",
    """
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        # cure
        loss.backward()
        optimizer.step()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        # end
    """,
    CLIPPED,
    name="late",
)

cure(
    "clipping-misplaced",
    """
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        # cure
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        loss.backward()
        optimizer.step()
        # end
    """,
    CLIPPED,
    name="early",
)

SCALER = """
    model = network()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=256.0)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        # cure
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        # end
    """

cure("clipping-misplaced", SCALER, CLIPPED, name="scaled")

cure(
    "clipping-misplaced",
    """
    model = network()
    optimizer = sgd(model)
    for i, (x, y) in enumerate(batches() * 2):
        (F.cross_entropy(model(x), y) / 3).backward()
        # cure
        nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        if (i + 1) % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
        # end
    """,
    """
    model = network()
    optimizer = sgd(model)
    data = batches() * 2
    for start in range(0, len(data), 3):
        optimizer.zero_grad()
        for x, y in data[start : start + 3]:
            (F.cross_entropy(model(x), y) / 3).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        optimizer.step()
    """,
    name="micro",
)

SCALED = """
    import contextlib
    model = network()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=256.0)
    with contextlib.suppress(RuntimeError, AssertionError):
        for x, y in batches() * 3:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            # cure
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            # end
    """

cure("scaler-misused", SCALED, RIGHT, name="not-updated")
cure("scaler-misused", SCALED.replace("scaler.step(optimizer)", "optimizer.step()"), RIGHT, name="direct")
cure("scaler-misused", SCALED.replace("scaler.scale(loss).backward()", "loss.backward()"), RIGHT, name="not-scaled")

MICRO = """
    import contextlib
    model = network()
    optimizer, scaler = sgd(model, 0.02), torch.amp.GradScaler("cpu", init_scale=256.0)
    accumulation_steps = 4
    with contextlib.suppress(RuntimeError, AssertionError):
        for i, (x, y) in enumerate(batches() * 2):
            scaler.scale(F.cross_entropy(model(x), y) / 4).backward()
            # cure
            if (i + 1) % accumulation_steps == 0:
                scaler.step(optimizer)
                optimizer.zero_grad()
            scaler.update()
            # end
    """

cure("scaler-misused", MICRO, ACCUMULATED, name="alone")

cure(
    "scaler-misused",
    """
    import contextlib
    model = network()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=256.0)
    with contextlib.suppress(RuntimeError):
        for x, y in batches() * 3:
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            # cure
            scaler.unscale_(optimizer)
            scaler.unscale_(optimizer)
            # end
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
    """,
    CLIPPED,
    name="twice",
)

cure(
    "scaler-misused",
    """
    model, other = network(), network()
    second, optimizer = sgd(other), sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        second.zero_grad()
        scaler.scale(F.cross_entropy(model(x), y) + F.cross_entropy(other(x), y)).backward()
        scaler.step(second)
        # cure
        scaler.update()
        scaler.step(optimizer)
        scaler.update()
        # end
    """,
    RIGHT,
    name="early",
)

cure(
    "scaler-misused",
    """
    model = network()
    optimizer, num_epochs = sgd(model), 3
    # cure
    for epoch in range(num_epochs):
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    # end
        for x, y in batches():
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
    """,
    RIGHT,
    {"GradScaler()": 'GradScaler("cpu", init_scale=256.0)'},
    name="recreated",
)
