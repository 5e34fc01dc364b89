"""Lesson 05 in the real JupyterLab: the curve, the words and the goal follow what is chosen."""

import nbformat
import pytest
from latency import Hand
from running import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
LESSON = "05_running_loss.ipynb"
ARTIFACTS = ROOT / "artifacts"


@pytest.fixture
def lab(lesson):
    return lesson.lab("running-loss-lab")


def choose(lab, description, value):
    row = lab.root.locator(".widget-dropdown").filter(has=lab.page.locator("label", has_text=description))
    row.locator("select").select_option(value)


def test_all_cells_run_and_only_the_wanted_error_is_there(lesson):
    cells = nbformat.read(lesson.server.folder / LESSON, as_version=4).cells
    assert lesson.numbered() == sum(cell.cell_type == "code" for cell in cells)
    assert len(lesson.output_errors()) == 1
    assert "UnboundLocalError" in lesson.output_errors()[0]


def test_the_curve_follows_the_mouse_and_the_keys(lab):
    lab.expect_words("divided by 10, the length of a window")
    shown, paths = lab.shown(), lab.paths()
    lab.drag_to(0.15)
    lab.wait_for_another(shown)
    there = int(lab.shown())
    assert lab.paths() != paths
    lab.expect_words(f"divided by {there}, the length of a window")
    lab.handle.focus()
    lab.page.keyboard.press("ArrowRight")
    lab.wait_for_another(str(there))
    assert int(lab.shown()) == there + 1
    lab.expect_words(f"divided by {there + 1}, the length of a window")
    lab.drag_to(1.0)
    lab.expect_words("No point at all")
    assert lab.errors() == []


def test_the_lab_works_by_keyboard_alone(lab):
    lab.drag_to(0.3)
    lab.expect_words("The last point")
    assert lab.work_by_keyboard() == ["window", "reset", "divide by", "log"]
    assert lab.errors() == []


def test_the_picture_answers_while_the_hand_moves(lesson, lab):
    choose(lab, "log", "each batch")
    lab.bring_into_view()
    Hand(lesson, lab.root.locator(".widget-slider").first, ".running-loss-lab .lab-front svg").check_that_it_follows()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_learner_reaches_the_goal_in_both_themes(lesson, lab, theme):
    try:
        lesson.set_theme(theme)
        choose(lab, "reset", "never")
        choose(lab, "divide by", "nothing")
        choose(lab, "log", "each batch")
        lab.expect_words("the sum of all batch losses since training began")
        lab.expect_words("times too large")
        height = lab.root.bounding_box()["height"]
        lab.bring_into_view()
        lab.screenshot(ARTIFACTS / f"running-loss-lab-{theme}.png")
        choose(lab, "reset", "each epoch")
        choose(lab, "divide by", "batches added")
        choose(lab, "log", "each epoch")
        lab.expect_words("It is off by")
        choose(lab, "divide by", "samples added")
        lab.expect_words("Goal reached ✓")
        assert lab.root.bounding_box()["height"] == height
        lab.screenshot(ARTIFACTS / f"running-loss-lab-goal-{theme}.png")
        assert lab.violations() == []
        if theme == "dark":
            lab.stops()
    finally:
        lesson.set_theme("light")
    assert lab.errors() == []
