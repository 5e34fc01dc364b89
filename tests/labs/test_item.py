"""The lab of .item(): what it counts is what autograd keeps, the text shown is what runs, and all is given back."""

import gc
import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from torch import nn

from course_utils import data
from course_utils.experiments.autograd_graph import nodes
from course_utils.labs import ItemLab, item
from course_utils.labs.item import KEEPS, MAKERS, NUM_STEPS, measure, program
from course_utils.models import MLP

NEVER = (lambda: False, lambda run: None)
# One step of the small MLP on 64 images: two hidden layers of 64, ten log-probabilities, the mean's divisor.
ONE_STEP = 64 * (64 + 64 + 10) * 4 + 4


@pytest.fixture(scope="module")
def lab():
    return ItemLab()


def settle(lab):
    lab.settle(60)
    assert lab._error_box.value == ""


def choose(lab, *, model="small", loop="validation", keep="loss", no_grad=False):
    lab.model.value, lab.loop.value, lab.keep.value, lab.no_grad.value = model, loop, keep, no_grad
    settle(lab)
    return lab.run


def test_bytes_by_hand():
    run = measure(("small", "validation", "loss", False), *NEVER)
    assert [kept for _, kept in run.points] == [step * ONE_STEP for step in range(1, NUM_STEPS + 1)]
    run = measure(("small", "validation", "loss.item()", False), *NEVER)
    assert {kept for _, kept in run.points} == {ONE_STEP}


def test_nodes_are_those_of_a_full_count():
    images, labels = data.load("digits").train.dataset.tensors
    torch.manual_seed(0)
    model, loss_fn, running_loss, oracle = MLP(), nn.CrossEntropyLoss(), 0.0, []
    for step in range(5):
        rows = slice(64 * step, 64 * step + 64)
        loss = loss_fn(model(images[rows]), labels[rows])
        running_loss += loss
        oracle.append(len(nodes(running_loss, loss)))
    measured = [count for count, _ in measure(("small", "validation", "loss", False), *NEVER).points]
    assert measured[:5] == oracle
    # Counted from step to step, and still right at the end: each step adds the same.
    assert measured == [oracle[0] + step * (oracle[1] - oracle[0]) for step in range(NUM_STEPS)]


@pytest.mark.parametrize("model", MAKERS)
@pytest.mark.parametrize("keep", KEEPS)
def test_training_keeps_nodes_and_no_tensors(model, keep):
    run = measure((model, "training", keep, False), *NEVER)
    assert {kept for _, kept in run.points} == {0}
    assert run.flat == (keep != "loss")


@pytest.mark.parametrize("keep", KEEPS)
def test_nothing_is_built_under_no_grad(keep):
    assert set(measure(("small", "validation", keep, True), *NEVER).points) == {(0, 0)}


def test_backward_under_no_grad_is_refused_by_pytorch_and_shown_as_such(lab):
    run = choose(lab, loop="training", no_grad=True)
    assert run.points == []
    assert "does not require grad" in run.ended
    assert "PyTorch refuses" in lab._words.value
    assert lab.run.left == 0


def test_another_error_of_the_loop_is_shown_in_the_lab(monkeypatch):
    lab = ItemLab()
    monkeypatch.setattr(item, "program", lambda *setting: "raise RuntimeError('no such loop')")
    lab.again.click()
    with pytest.raises(RuntimeError, match="no such loop"):
        lab.settle(60)
    assert "no such loop" in lab._error_box.value


@pytest.mark.parametrize(
    "setting",
    [("validation", "loss", False), ("training", "loss.item()", False), ("validation", "loss.detach()", True)],
)
def test_the_loop_shown_is_the_loop_that_runs(lab, setting):
    loop, keep, no_grad = setting
    choose(lab, loop=loop, keep=keep, no_grad=no_grad)
    shown = "".join(ElementTree.fromstring(lab._code.value).itertext())
    assert shown == program(*setting)
    assert f"running_loss += {keep}" in shown
    assert ("with torch.no_grad():" in shown) == no_grad
    assert ("loss.backward()" in shown) == (loop == "training")


def test_it_is_useful_before_any_click():
    fresh = ItemLab()
    assert "After step 300" in fresh._words.value
    assert "Each step leaves 11 nodes and 35.3 kB behind" in fresh._words.value
    assert fresh.run.points[-1][1] == NUM_STEPS * ONE_STEP


@pytest.mark.parametrize("step", [2, 77, 300])
def test_the_slider_reads_its_own_step(lab, step):
    run = choose(lab)
    lab.steps.value = step
    settle(lab)
    left, right = lab._panels()
    front = ElementTree.fromstring(lab._front.value)
    assert front.get("data-shown") == str(step)
    assert f"After step {step}, {run.points[step - 1][0]:,} nodes" in lab._words.value
    drawn = re.findall(r'd="(M[^"]+)"', lab._front.value)
    steps = range(1, step + 1)
    assert drawn == [
        left.path(steps, [kept for _, kept in run.points[:step]]),
        right.path(steps, [count for count, _ in run.points[:step]]),
    ]


def test_the_lines_of_every_model_use_their_axes(lab):
    for model in MAKERS:
        run = choose(lab, model=model)
        left, right = lab._panels()
        assert 0.5 * left.y_range[1] < run.points[-1][1] < left.y_range[1]
        assert 0.5 * right.y_range[1] < run.points[-1][0] < right.y_range[1]


def test_a_loop_that_keeps_too_much_is_ended_before_and_gives_all_back(lab, monkeypatch):
    monkeypatch.setattr(item, "MOST_BYTES", 10 * ONE_STEP + 1)
    run = measure(("small", "validation", "loss", False), *NEVER)
    assert (run.ended, len(run.points), run.left) == ("full", 10, 0)
    assert not run.flat
    lab.run = run
    assert "ended this loop after step 10" in lab._seen(run.points)


def test_a_machine_with_little_memory_ends_it_sooner(monkeypatch):
    class Little:
        available = 4 * (5 * ONE_STEP + 1)

    monkeypatch.setattr(item.psutil, "virtual_memory", lambda: Little)
    assert len(measure(("small", "validation", "loss", False), *NEVER).points) == 5


def test_memory_is_freed_without_the_garbage_collector():
    gc.disable()
    try:
        assert measure(("small", "validation", "loss", False), *NEVER).left == 0
        assert measure(("small", "training", "loss", True), *NEVER).left == 0
    finally:
        gc.enable()


def test_a_stopped_run_is_not_taken_for_the_whole_and_can_be_run_again(monkeypatch):
    monkeypatch.setattr(item, "REDRAW", 0.0)
    lab = ItemLab()
    monkeypatch.setattr(lab, "tell", lambda share, words: share > 0.07 and lab.halt.click())
    lab.again.click()
    settle(lab)
    assert lab.run.ended == "stopped"
    assert 20 < len(lab.run.points) < 40
    assert lab.run.left == 0
    assert "Stopped after step" in lab._words.value
    monkeypatch.undo()
    lab.again.click()
    settle(lab)
    assert lab.run.ended == "whole"


def test_a_run_fills_in_while_it_goes_on(monkeypatch):
    monkeypatch.setattr(item, "REDRAW", 0.0)
    lab = ItemLab()
    told = []
    monkeypatch.setattr(lab, "tell", lambda share, words: told.append((share, words)))
    lab.keep.value = "loss.detach()"
    settle(lab)
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert told[0] == (0.0, "running")
    assert told[-1] == (1.0, "step 300 of 300")


def test_a_setting_already_measured_is_there_at_once(lab, monkeypatch):
    first = choose(lab)
    choose(lab, keep="loss.item()")
    monkeypatch.setattr(item, "measure", lambda *_: pytest.fail("measured again"))
    assert choose(lab) is first


def test_the_goal_is_to_find_three_cures():
    lab = ItemLab()
    lab.run = measure(("small", "validation", "loss.item()", True), *NEVER)
    lab._note_cure(("small", "validation", "loss.item()", True))
    assert lab.cures == [], "two changes at once show nothing about either"
    for keep, no_grad, found in (
        ("loss", False, []),
        ("loss.item()", False, ["loss.item()"]),
        ("loss", True, ["loss.item()", "no_grad"]),
    ):
        choose(lab, keep=keep, no_grad=no_grad)
        assert lab.cures == found
        assert "Goal reached" not in lab._words.value
    assert "Found so far: loss.item(), no_grad." in lab._words.value
    choose(lab, loop="training", keep="loss.detach()")
    assert "Goal reached" not in lab._words.value
    choose(lab, keep="loss.detach()")
    assert sorted(lab.cures) == ["loss.detach()", "loss.item()", "no_grad"]
    assert "Goal reached ✓" in lab._words.value


def test_the_learners_random_numbers_are_left_alone(lab):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    lab.again.click()
    settle(lab)
    assert torch.equal(torch.rand(3), expected)


def test_the_still_picture_says_what_is_seen(lab):
    bundle, metadata = lab._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"] == "ItemLab: run the cell, then change the loop and drag the step"
    assert "validation, += loss: 10.6 MB and 3,306 nodes" in metadata["image/png"]["alt"]
    assert "training, += loss: 0 bytes and 3,306 nodes" in metadata["image/png"]["alt"]
