"""The lab of lesson 04 in JupyterLab: it follows the mouse, the keyboard and the buttons."""

import re

import keyboard
import pytest
from accessibility import check_themes
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


@pytest.fixture
def lab(show):
    return show("zero-grad-lab")


def shows(lab, pattern):
    """Wait until the picture shows this setting."""
    expect(lab.front).to_have_attribute("data-shown", re.compile(pattern))


def test_picture_and_words_follow_the_mouse_and_the_keys(lab):
    shows(lab, "^never every")
    lab.expect_words("momentum 1")
    paths = lab.paths()
    lab.drag_to(0.0)
    shows(lab, "^1 every")
    assert lab.paths() != paths
    lab.expect_words("the ordinary loop")
    lab.handle.focus()
    lab.page.keyboard.press("ArrowRight")
    shows(lab, "^2 every")
    lab.page.keyboard.press("ArrowLeft")
    shows(lab, "^1 every")
    assert lab.errors() == []


def test_the_goal_is_reached_by_hand(lab):
    lab.drag_to(2 / 7)
    shows(lab, "^4 every")
    lab.root.get_by_role("button", name="once, just before clearing").click()
    shows(lab, "^4 once unscaled")
    expect(lab.root.locator(".lab-words")).not_to_contain_text("Goal reached")
    lab.root.locator(".noUi-handle").nth(1).focus()
    for _ in range(2):
        lab.page.keyboard.press("ArrowRight")
    shows(lab, r"^4 once unscaled 0\.0625$")
    lab.expect_words("Goal reached ✓")
    lab.root.get_by_label("divide each loss by k").check()
    shows(lab, r"^4 once scaled 0\.0625$")
    expect(lab.root.locator(".lab-words")).not_to_contain_text("Goal reached")
    assert lab.errors() == []


def test_the_lab_works_by_keyboard_alone(lab):
    lab.drag_to(2 / 7)
    shows(lab, "^4 ")
    *sliders, step, switch = keyboard.work(lab)
    assert sliders == ["clear every k =", "learning rate"]
    assert step in ("after every backward()", "once, just before clearing")
    assert switch == "divide each loss by k"


def test_the_lab_is_accessible_in_both_themes(lab):
    check_themes(lab)
