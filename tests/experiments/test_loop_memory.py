"""What a loop keeps alive: counted by autograd, compared with numbers worked out by hand, and all of it freed."""

import gc

import pytest
import torch
from torch import nn

from course_utils import data
from course_utils.experiments import loop_memory
from course_utils.experiments.autograd_graph import nodes
from course_utils.experiments.loop_memory import MODELS, LoopVariant, measure
from course_utils.models import MLP

NUM_STEPS = 40
ADDED = ("loss", "loss.detach()", "loss.item()")
# One step of the small MLP on 64 images: two hidden layers of 64, ten log-probabilities, the mean's divisor.
ONE_STEP = 64 * (64 + 64 + 10) * 4 + 4


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr(loop_memory, "NUM_STEPS", NUM_STEPS)


def test_bytes_by_hand():
    trace = measure(LoopVariant("small", "validation", "loss"))
    assert [kept for _, kept in trace.points] == [step * ONE_STEP for step in range(1, NUM_STEPS + 1)]
    trace = measure(LoopVariant("small", "validation", "loss.item()"))
    assert {kept for _, kept in trace.points} == {ONE_STEP}


def test_nodes_are_those_of_a_full_count():
    images, labels = data.load("digits").train.dataset.tensors
    torch.manual_seed(0)
    model, loss_fn, running_loss, oracle = MLP(), nn.CrossEntropyLoss(), 0.0, []
    for step in range(5):
        rows = slice(64 * step, 64 * step + 64)
        loss = loss_fn(model(images[rows]), labels[rows])
        running_loss += loss
        oracle.append(len(nodes(running_loss, loss)))
    measured = [count for count, _ in measure(LoopVariant("small", "validation", "loss")).points]
    assert measured[:5] == oracle
    # Counted from step to step, and still right at the end: each step adds the same.
    assert measured == [oracle[0] + step * (oracle[1] - oracle[0]) for step in range(NUM_STEPS)]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("added", ADDED)
def test_training_keeps_nodes_and_no_tensors(model, added):
    trace = measure(LoopVariant(model, "training", added))
    assert {kept for _, kept in trace.points} == {0}
    assert trace.flat == (added != "loss")


@pytest.mark.parametrize("added", ADDED)
def test_nothing_is_built_under_no_grad(added):
    assert set(measure(LoopVariant("small", "validation", added, no_grad=True)).points) == {(0, 0)}


def test_backward_under_no_grad_is_refused_by_pytorch():
    trace = measure(LoopVariant("small", "training", "loss", no_grad=True))
    assert trace.points == []
    assert "does not require grad" in trace.outcome
    assert trace.bytes_left == 0


@pytest.mark.parametrize(
    ("limit", "free", "steps"),
    [
        (10 * ONE_STEP + 1, 1 << 40, 10),
        (1 << 40, 4 * (5 * ONE_STEP + 1), 5),
    ],
)
def test_a_loop_that_keeps_too_much_is_stopped_before_and_frees_everything(monkeypatch, limit, free, steps):
    class Memory:
        available = free

    monkeypatch.setattr(loop_memory, "MAX_BYTES", limit)
    monkeypatch.setattr(loop_memory.psutil, "virtual_memory", lambda: Memory)
    trace = measure(LoopVariant("small", "validation", "loss"))
    assert (trace.outcome, len(trace.points), trace.bytes_left) == ("full", steps, 0)
    assert not trace.flat


def test_memory_is_freed_without_the_garbage_collector():
    gc.disable()
    try:
        assert measure(LoopVariant("small", "validation", "loss")).bytes_left == 0
        assert measure(LoopVariant("small", "training", "loss", no_grad=True)).bytes_left == 0
    finally:
        gc.enable()


def test_a_cancelled_loop_stops_after_its_step_and_shows_each_step_before():
    steps = []
    trace = measure(
        LoopVariant("small", "validation", "loss"),
        cancelled=lambda: len(steps) == 7,
        follow=lambda trace: steps.append(len(trace.points)),
    )
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert (trace.outcome, len(trace.points), trace.bytes_left) == ("stopped", 8, 0)


def test_the_source_says_what_the_variant_does():
    source = LoopVariant("small", "training", "loss.item()", no_grad=True).source
    assert source.splitlines() == [
        "running_loss = 0.0",
        "with torch.no_grad():",
        "    for x, y in batches:",
        "        loss = loss_fn(model(x), y)",
        "        optimizer.zero_grad()",
        "        loss.backward()",
        "        optimizer.step()",
        "        running_loss += loss.item()",
    ]
