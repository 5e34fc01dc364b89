"""Lesson 04 in the real JupyterLab: all cells run, and the lab answers the mouse, the keyboard and the buttons."""

import re

import nbformat
import pytest
from playwright.sync_api import expect
from running import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
LESSON = "04_zero_grad.ipynb"
ARTIFACTS = ROOT / "artifacts"


@pytest.fixture
def lab(lesson):
    return lesson.lab("zero-grad-lab")


def shows(lab, words):
    """Wait until the picture shows this setting."""
    expect(lab.front).to_have_attribute("data-shown", re.compile(words))


def test_all_cells_run_without_an_error(lesson):
    cells = nbformat.read(lesson.server.folder / LESSON, as_version=4).cells
    assert lesson.numbered() == sum(cell.cell_type == "code" for cell in cells)
    assert lesson.output_errors() == []


def test_picture_and_words_follow_the_mouse(lab):
    shows(lab, "^never every")
    lab.expect_words("momentum 1")
    paths = lab.paths()
    lab.drag_to(0.0)
    shows(lab, "^1 every")
    assert lab.paths() != paths
    lab.expect_words("the ordinary loop")
    assert lab.errors() == []


def test_picture_follows_the_arrow_keys(lab):
    lab.drag_to(0.0)
    shows(lab, "^1 every")
    lab.handle.focus()
    lab.page.keyboard.press("ArrowRight")
    shows(lab, "^2 every")
    lab.page.keyboard.press("ArrowLeft")
    shows(lab, "^1 every")


def test_the_goal_is_reached_by_hand(lab):
    lab.drag_to(2 / 7)
    shows(lab, "^4 every")
    lab.root.get_by_role("button", name="once, just before clearing").click()
    shows(lab, "^4 once unscaled")
    expect(lab.root.locator(".lab-words")).not_to_contain_text("Goal reached")
    rate = lab.root.locator(".noUi-handle").nth(1)
    rate.focus()
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
    *sliders, step, switch = lab.work_by_keyboard()
    assert sliders == ["clear every k =", "learning rate"]
    assert step in ("after every backward()", "once, just before clearing")
    assert switch == "divide each loss by k"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_lab_is_photographed_in_both_themes(lab, theme):
    lab.check_theme(theme, ARTIFACTS / f"zero-grad-lab-{theme}.png")
