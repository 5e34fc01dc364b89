"""Proofs of the fixes for graphs that live too long, for closures, and for losses that run away."""

from cure_parts import cure

cure(
    "hidden-state-not-detached",
    """
    cell, head = nn.RNNCell(SIZE, 6), nn.Linear(6, 1)
    model = nn.ModuleList([cell, head])
    hidden = torch.zeros(16, 6)
    for x, _ in batches(80) * 3:
        # cure
        # end
        hidden = cell(x, hidden)
        loss = (head(hidden) - 1).square().mean()
        loss.backward(retain_graph=True)
        for p in model.parameters():
            p.data -= 0.1 * p.grad
            p.grad.zero_()
    """,
    """
    cell, head = nn.RNNCell(SIZE, 6), nn.Linear(6, 1)
    model = nn.ModuleList([cell, head])
    numbers = torch.zeros(16, 6)
    for x, _ in batches(80) * 3:
        hidden = cell(x, numbers)
        numbers = hidden.data.clone()
        (head(hidden) - 1).square().mean().backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
        model.zero_grad()
    """,
)

cure(
    "hidden-state-not-detached",
    """
    lstm, head = nn.LSTM(SIZE, 6), nn.Linear(6, CLASSES)
    model = nn.ModuleList([lstm, head])
    optimizer = sgd(model)
    hidden = torch.zeros(1, 16, 6), torch.zeros(1, 16, 6)
    try:
        for x, y in batches(80) * 3:
            # cure
            # end
            out, hidden = lstm(x[None], hidden)
            loss = F.cross_entropy(head(out[0]), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    except RuntimeError:
        pass
    """,
    """
    lstm, head = nn.LSTM(SIZE, 6), nn.Linear(6, CLASSES)
    model = nn.ModuleList([lstm, head])
    optimizer = sgd(model)
    h, c = torch.zeros(1, 16, 6), torch.zeros(1, 16, 6)
    for x, y in batches(80) * 3:
        out, (h, c) = lstm(x[None], (h.detach(), c.detach()))
        optimizer.zero_grad()
        F.cross_entropy(head(out[0]), y).backward()
        optimizer.step()
    """,
    name="the tuple of an LSTM",
)

cure(
    "closure-does-not-recompute",
    """
    model = nn.Linear(SIZE, CLASSES)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
    loss_fn = nn.CrossEntropyLoss()
    for x, y in batches():
        # cure
        logits = model(x)
        def closure():
            optimizer.zero_grad()
            loss = loss_fn(logits, y)
            loss.backward(retain_graph=True)
            return loss
        # end
        optimizer.step(closure)
    """,
    """
    model = nn.Linear(SIZE, CLASSES)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
    for x, y in batches():
        def evaluate():
            model.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss
        optimizer.step(evaluate)
    """,
)

cure(
    "closure-does-not-recompute",
    """
    model = nn.Linear(SIZE, CLASSES)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    loss_fn = nn.CrossEntropyLoss()
    for x, y in batches():
        # cure
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        closure = lambda: loss
        # end
        optimizer.step(closure)
    """,
    """
    model = nn.Linear(SIZE, CLASSES)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    for x, y in batches():
        def evaluate():
            model.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss
        optimizer.step(evaluate)
    """,
    name="a stored loss",
)

cure(
    "graph-kept-alive",
    """
    model = network()
    optimizer = sgd(model)
    running_loss = 0.0
    for x, y in batches() * 3:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # cure
        running_loss += loss
        # end
    result = model.state_dict(), running_loss
    """,
    """
    model = network()
    optimizer = sgd(model)
    losses = []
    for x, y in batches() * 3:
        loss = F.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    result = model.state_dict(), sum(losses)
    """,
)

cure(
    "graph-kept-alive",
    """
    model = network()
    optimizer = sgd(model)
    outputs = []
    for x, y in batches() * 4:
        output = model(x)
        optimizer.zero_grad()
        F.cross_entropy(output, y).backward()
        optimizer.step()
        # cure
        outputs.append(output)
        # end
    result = model.state_dict(), outputs
    """,
    """
    model = network()
    optimizer = sgd(model)
    outputs = []
    for x, y in batches() * 4:
        output = model(x)
        model.zero_grad()
        F.cross_entropy(output, y).backward()
        optimizer.step()
        outputs.append(output.data)
    result = model.state_dict(), outputs
    """,
    name="outputs",
)

cure(
    "graph-kept-alive",
    """
    model = network()
    scores = []
    for x, y in batches() * 4:
        output = model(x)
        # cure
        scores.append(output)
        # end
    result = scores
    """,
    """
    model = network()
    with torch.no_grad():
        result = [model(x) for x, y in batches() * 4]
    """,
    fill={"outputs": "scores"},
    name="outputs without a backward call",
)

cure(
    "graph-kept-alive",
    """
    model = nn.Linear(SIZE, CLASSES)
    optimizer = sgd(model, 0.01)
    total = 0.0
    for x, y in batches() * 3:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        # cure
        total = total + loss
        total.backward(retain_graph=True)
        # end
        optimizer.step()
    """,
    """
    model = nn.Linear(SIZE, CLASSES)
    optimizer = sgd(model, 0.01)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    """,
    name="a sum of losses",
)

cure(
    "loss-not-finite",
    """
    model = network()
    optimizer = sgd(model)
    data = batches() * 3
    data[7] = data[7][0] * float("nan"), data[7][1]
    for x, y in data:
        loss = F.cross_entropy(model(x), y)
        # cure
        # end
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    """,
    """
    model = network()
    optimizer = sgd(model)
    data = batches() * 3
    del data[7]
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    """,
)

cure(
    "learning-rate-too-high",
    """
    model = network()
    # cure
    lr = 200.0
    # end
    optimizer = sgd(model, lr)
    for x, y in batches() * 4:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    """,
    """
    model = network()
    optimizer = sgd(model, lr=0.02)
    for x, y in batches() * 4:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    """,
)
