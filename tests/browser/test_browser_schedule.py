"""The lab of lesson 03 in JupyterLab: the rates follow the mouse at once, the loss follows by real training."""

import keyboard
import pytest
from accessibility import check_themes
from hand import check_that_the_picture_follows
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


@pytest.fixture
def lab(show):
    return show("schedule-lab")


def test_rates_follow_the_mouse_and_the_loss_comes_after(lab):
    loss = lab.root.locator(".lab-loss path").first
    shown, rates, before = lab.shown(), lab.paths(), loss.get_attribute("d")
    lab.drag_to(0.45)
    lab.wait_for_another(shown)
    assert lab.paths() != rates
    # Really trained: as soon as the machine has the time.
    expect(loss).not_to_have_attribute("d", before)
    lab.expect_words(f"{float(lab.shown()):.3g} at the start")
    assert lab.errors() == []


def test_the_goal_is_reached_by_keyboard(lab):
    words = lab.root.locator(".lab-words")
    lab.root.locator("select").first.select_option("linear")
    expect(words).to_contain_text("at the start")
    expect(words).not_to_contain_text("Goal reached")
    shown = lab.shown()
    lab.type_number("0.237")
    lab.wait_for_another(shown)
    shown = lab.shown()
    lab.handle.focus()
    lab.page.keyboard.press("ArrowRight")  # to 0.316, too high to stay at
    lab.wait_for_another(shown)
    expect(words).to_contain_text("Goal reached ✓")


def test_the_other_sliders_change_the_shape(lab):
    for place in (1, 2):  # warm-up, final share
        before = lab.paths()
        lab.root.locator(".noUi-handle").nth(place).focus()
        lab.page.keyboard.press("ArrowRight")
        expect(lab.front.locator("path").last).not_to_have_attribute("d", before[-1])
    assert lab.errors() == []


def test_the_lab_works_by_keyboard_alone(lab):
    assert keyboard.work(lab) == ["base rate", "shape", "optimizer", "warm-up", "final share"]
    assert lab.errors() == []


def test_the_rates_follow_while_the_mouse_drags(lab):
    """A training runs in the background all the time."""
    check_that_the_picture_follows(lab)


def test_the_lab_is_accessible_in_both_themes(lab):
    check_themes(lab, line=-1)
