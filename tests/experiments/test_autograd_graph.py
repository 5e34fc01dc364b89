"""What autograd keeps: counted, and compared with numbers worked out by hand."""

import gc

import pytest
import torch
from torch import nn

from course_utils.experiments.autograd_graph import KeptTensors, nodes
from course_utils.models import CNN, MLP

LOSS = nn.CrossEntropyLoss()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(64, 1, 8, 8, generator=generator), torch.randint(10, (64,), generator=generator)


def test_nodes_by_hand():
    w = torch.tensor(2.0, requires_grad=True)
    assert nodes(w) == set()
    assert nodes(w.detach() * 3) == set()
    assert len(nodes(w * 3)) == 2  # the product, and the place where w's gradient is added up
    shared = w * 3
    assert len(nodes(shared * shared)) == 3
    assert len(nodes(w * 3, w * 4)) == 3


def test_a_chain_longer_than_pythons_stack_is_counted():
    total = torch.zeros(())
    w = torch.ones((), requires_grad=True)
    for _ in range(5_000):
        total = total + w
    assert len(nodes(total)) == 5_001


def test_a_node_with_many_ways_to_it_is_walked_through_once():
    product = torch.ones((), requires_grad=True) * 1
    for _ in range(60):  # 2 to the power of 60 ways lead to the first node
        product = product * product
    assert len(nodes(product)) == 62


def test_stop_leaves_out_what_was_counted_before():
    w = torch.ones((), requires_grad=True)
    first = w * 2
    second = first + w * 3
    assert len(nodes(second, stop=nodes(first))) == len(nodes(second)) - len(nodes(first)) == 2


def test_what_has_no_graph_is_told():
    with pytest.raises(TypeError, match=r"only a tensor can have a graph, got 0\.5 of type float"):
        nodes(0.5)


def kept_by(model, batch):
    x, y = batch
    with KeptTensors([*model.parameters(), x, y]) as kept:
        loss = LOSS(model(x), y)
    return kept, loss


def test_bytes_of_an_mlp_by_hand(batch):
    kept, loss = kept_by(MLP(hidden=(32, 16)), batch)
    # The two hidden layers and the log of the softmax, 64 rows of float32, and the mean's one divisor.
    assert kept.bytes == 64 * (32 + 16 + 10) * 4 + 4
    assert kept.pieces == 4
    loss.backward()
    assert (kept.bytes, kept.pieces) == (0, 0)


def test_a_graph_that_is_dropped_leaves_the_count_without_the_garbage_collector(batch):
    gc.disable()
    try:
        kept, loss = kept_by(CNN(), batch)
        assert kept.bytes > 0
        del loss
        assert kept.bytes == 0
    finally:
        gc.enable()


def test_a_graph_kept_for_another_backward_stays(batch):
    kept, loss = kept_by(MLP(), batch)
    before = kept.bytes
    loss.backward(retain_graph=True)
    assert kept.bytes == before
    loss.backward()
    assert kept.bytes == 0


def test_nothing_is_kept_under_no_grad(batch):
    with torch.no_grad():
        kept, _ = kept_by(MLP(), batch)
    assert kept.bytes == 0


def test_what_lives_anyhow_is_counted_only_if_it_is_not_named(batch):
    x, y = batch
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with KeptTensors() as kept:
        loss = LOSS(model(x), y)
    named, again = kept_by(model, batch)
    assert kept.bytes - named.bytes == x.nbytes + y.nbytes
    assert loss == again


def test_gradients_are_the_same_with_and_without_it(batch):
    x, y = batch
    model = CNN()
    LOSS(model(x), y).backward()
    oracle = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    kept_by(model, batch)[1].backward()
    assert all(torch.equal(p.grad, right) for p, right in zip(model.parameters(), oracle, strict=True))


def test_what_is_built_after_the_block_is_not_counted(batch):
    x, y = batch
    model = MLP()
    with KeptTensors() as kept:
        pass
    loss = LOSS(model(x), y)
    assert kept.bytes == 0
    assert loss.requires_grad
