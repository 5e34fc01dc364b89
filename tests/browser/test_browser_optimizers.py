"""The lab of lesson 01 in JupyterLab: the four paths follow the mouse and the keyboard."""

import keyboard
import pytest
from accessibility import check_themes
from hand import check_that_the_picture_follows
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


@pytest.fixture
def lab(show):
    return show("optimizer-lab")


def test_paths_and_words_follow_the_mouse_and_the_keys(lab):
    shown, paths, words = lab.shown(), lab.paths(), lab.words()
    lab.drag_to(0.4)
    lab.wait_for_another(shown)
    assert lab.paths() != paths
    lab.wait_for_other_words(words)
    lab.expect_words(f"{float(lab.shown()):.3g}")
    paths = lab.paths()
    lab.root.locator(".noUi-handle").nth(1).focus()
    lab.page.keyboard.press("ArrowLeft")
    lab.expect_words("momentum 0.89")
    assert lab.paths() != paths
    lab.page.keyboard.press("ArrowRight")
    lab.expect_words("momentum 0.90")
    assert lab.errors() == []


def test_the_paths_follow_while_the_mouse_drags(lab):
    """Each picture takes forty real steps of four optimizers."""
    check_that_the_picture_follows(lab)


def test_a_path_can_be_hidden_and_the_goal_be_reached_on_another_surface(lab):
    lab.bring_into_view()
    number = lab.front.locator("path").count()
    lab.button("SGD").first.click()
    # Its path, its points, its losses and its line in the legend.
    expect(lab.front.locator("path")).to_have_count(number - 4)
    lab.button("SGD").first.click()
    expect(lab.front.locator("path")).to_have_count(number)
    lab.button("round bowl").click()
    expect(lab.root.locator(".lab-back")).to_contain_text("round bowl")
    shown = lab.shown()
    lab.type_number("0.237")
    lab.wait_for_another(shown)
    lab.root.locator(".noUi-handle").nth(1).focus()
    lab.page.keyboard.press("Home")
    lab.expect_words("Goal reached ✓")
    lab.button("narrow valley").click()
    expect(lab.root.locator(".lab-words")).not_to_contain_text("Goal reached")
    assert lab.errors() == []


def test_the_lab_works_by_keyboard_alone(lab):
    changed = ["learning rate", "momentum", "round bowl", "bent valley", "saddle"]
    assert keyboard.work(lab) == [*changed, "● SGD", "■ momentum", "▲ RMSprop", "◆ Adam"]
    assert lab.errors() == []


def test_the_lab_is_accessible_in_both_themes(lab):
    check_themes(lab)
