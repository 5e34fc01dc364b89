"""The lab of lesson 05 in JupyterLab: the curve, the words and the goal follow what is chosen."""

import keyboard
import pytest
from accessibility import screenshot, violations
from hand import check_that_the_picture_follows

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


@pytest.fixture
def lab(show):
    return show("running-loss-lab")


def choose(lab, description, value):
    row = lab.root.locator(".widget-dropdown").filter(has=lab.page.locator("label", has_text=description))
    row.locator("select").select_option(value)


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
    assert keyboard.work(lab) == ["window", "reset", "divide by", "log"]
    assert lab.errors() == []


def test_the_picture_follows_while_the_mouse_drags(lab):
    choose(lab, "log", "each batch")
    check_that_the_picture_follows(lab)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_learner_reaches_the_goal_in_both_themes(notebook, lab, theme):
    try:
        notebook.set_theme(theme)
        choose(lab, "reset", "never")
        choose(lab, "divide by", "nothing")
        choose(lab, "log", "each batch")
        lab.expect_words("the sum of all batch losses since training began")
        lab.expect_words("times too large")
        height = lab.root.bounding_box()["height"]
        lab.bring_into_view()
        screenshot(lab, theme)
        choose(lab, "reset", "each epoch")
        choose(lab, "divide by", "batches added")
        choose(lab, "log", "each epoch")
        lab.expect_words("It is off by")
        choose(lab, "divide by", "samples added")
        lab.expect_words("Goal reached ✓")
        assert lab.root.bounding_box()["height"] == height
        screenshot(lab, f"goal-{theme}")
        assert violations(notebook, lab.root) == []
        if theme == "dark":
            keyboard.stops(lab)
    finally:
        notebook.set_theme("light")
    assert lab.errors() == []
