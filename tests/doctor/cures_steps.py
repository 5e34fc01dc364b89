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
