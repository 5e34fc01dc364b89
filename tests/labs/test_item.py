"""The lab of .item(): it shows what was measured, and the source code that it shows is what runs."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from course_utils.experiments import loop_memory
from course_utils.experiments.loop_memory import LoopVariant, MemoryTrace
from course_utils.labs import ItemLab, base, item


@pytest.fixture(scope="module")
def lab():
    return ItemLab()


@pytest.fixture
def quick_lab(monkeypatch):
    """A lab whose loops take few steps and whose pictures are redrawn after each."""
    monkeypatch.setattr(loop_memory, "NUM_STEPS", 30)
    monkeypatch.setattr(item, "NUM_STEPS", 30)
    monkeypatch.setattr(base.Throttle, "due", lambda self: True)
    return ItemLab()


def settle(lab):
    lab.settle(60)
    assert lab._error_box.value == ""


def choose(lab, *, model="small", loop="validation", keep="loss", no_grad=False):
    lab.model.value, lab.loop.value, lab.keep.value, lab.no_grad.value = model, loop, keep, no_grad
    settle(lab)
    return lab.trace


def test_it_is_useful_before_any_click(lab):
    assert "After step 300" in lab._words.value
    assert "Each step leaves 11 nodes and 35.3 kB behind" in lab._words.value


def test_backward_under_no_grad_is_refused_by_pytorch_and_shown_as_such(lab):
    assert choose(lab, loop="training", no_grad=True).points == []
    assert "PyTorch refuses" in lab._words.value
    assert "does not require grad" in lab._words.value


def test_another_error_of_the_loop_is_shown_in_the_lab(quick_lab, monkeypatch):
    monkeypatch.setattr(LoopVariant, "source", "raise RuntimeError('no such loop')")
    quick_lab.again.click()
    with pytest.raises(RuntimeError, match="no such loop"):
        quick_lab.settle(60)
    assert "no such loop" in quick_lab._error_box.value


@pytest.mark.parametrize(
    "setting",
    [("validation", "loss", False), ("training", "loss.item()", False), ("validation", "loss.detach()", True)],
)
def test_the_loop_shown_is_the_loop_that_runs(quick_lab, setting):
    loop, keep, no_grad = setting
    choose(quick_lab, loop=loop, keep=keep, no_grad=no_grad)
    shown = "".join(ElementTree.fromstring(quick_lab._code.value).itertext())
    assert shown == LoopVariant("small", *setting).source


@pytest.mark.parametrize("step", [2, 77, 300])
def test_the_slider_reads_its_own_step(lab, step):
    trace = choose(lab)
    lab.steps.value = step
    settle(lab)
    left, right = lab._panels()
    front = ElementTree.fromstring(lab._front.value)
    assert front.get("data-shown") == str(step)
    assert f"After step {step}, {trace.points[step - 1][0]:,} nodes" in lab._words.value
    drawn = re.findall(r'd="(M[^"]+)"', lab._front.value)
    steps = range(1, step + 1)
    assert drawn == [
        left.path(steps, [kept for _, kept in trace.points[:step]]),
        right.path(steps, [count for count, _ in trace.points[:step]]),
    ]


def test_the_lines_of_every_model_use_their_axes(lab):
    for model in item.MODELS.values():
        trace = choose(lab, model=model)
        left, right = lab._panels()
        assert 0.5 * left.y_range[1] < trace.points[-1][1] < left.y_range[1]
        assert 0.5 * right.y_range[1] < trace.points[-1][0] < right.y_range[1]


def test_a_loop_that_was_ended_early_is_shown_as_such(quick_lab):
    quick_lab.trace = MemoryTrace([(11, 100), (22, 200)], "full")
    assert "ended this loop after step 2" in quick_lab._seen(quick_lab.trace.points)


def test_a_stopped_run_is_not_mistaken_for_a_finished_one_and_can_be_run_again(quick_lab, monkeypatch):
    monkeypatch.setattr(quick_lab, "show_progress", lambda share, _: share > 0.3 and quick_lab.halt.click())
    quick_lab.again.click()
    settle(quick_lab)
    assert quick_lab.trace.outcome == "stopped"
    assert 9 < len(quick_lab.trace.points) < 15
    assert quick_lab.trace.bytes_left == 0
    assert "Stopped after step" in quick_lab._words.value
    monkeypatch.undo()
    quick_lab.again.click()
    settle(quick_lab)
    assert quick_lab.trace.outcome == "finished"


def test_a_run_fills_in_while_it_goes_on(quick_lab, monkeypatch):
    shown = []
    monkeypatch.setattr(quick_lab, "show_progress", lambda share, text: shown.append((share, text)))
    quick_lab.keep.value = "loss.detach()"
    settle(quick_lab)
    assert [share for share, _ in shown] == sorted(share for share, _ in shown)
    assert shown[0] == (0.0, "running")
    assert shown[-1] == (1.0, "step 30 of 30")


def test_a_setting_already_measured_is_there_at_once(lab, monkeypatch):
    first = choose(lab)
    choose(lab, keep="loss.item()")
    monkeypatch.setattr(item, "measure", lambda *_, **__: pytest.fail("measured again"))
    assert choose(lab) is first


def test_the_goal_is_to_find_three_cures(quick_lab):
    lab = quick_lab
    lab.trace = MemoryTrace([(11, 100), (11, 100)], "finished")
    lab._note_cure(LoopVariant("small", "validation", "loss.item()", no_grad=True))
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
