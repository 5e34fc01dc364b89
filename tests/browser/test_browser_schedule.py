"""Lesson 03's lab in the real JupyterLab: the rates follow the hand at once, the loss follows by real training."""

import re

import pytest
from latency import Hand
from playwright.sync_api import expect
from running import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
LESSON = "03_choosing_the_learning_rate.ipynb"
ARTIFACTS = ROOT / "artifacts"


@pytest.fixture
def lab(lesson):
    return lesson.lab("schedule-lab")


def loss_path(lab):
    return lab.root.locator(".lab-loss path").first.get_attribute("d")


def test_all_cells_run_without_an_error(lesson):
    assert lesson.output_errors() == []


def test_rates_follow_the_mouse_and_the_loss_comes_after(lab):
    shown, rates, loss = lab.shown(), lab.paths(), loss_path(lab)
    lab.drag_to(0.45)
    lab.wait_for_another(shown)
    assert lab.paths() != rates
    # Trained for real: as soon as the machine has the time.
    expect(lab.root.locator(".lab-loss path").first).not_to_have_attribute("d", loss)
    lab.expect_words(f"{float(lab.shown()):.3g} at the start")
    assert lab.errors() == []


def test_the_goal_is_reached_by_hand_and_by_keyboard(lab):
    words = lab.root.locator(".lab-words")
    lab.root.locator("select").first.select_option("linear")
    expect(words).to_contain_text("at the start")
    expect(words).not_to_contain_text("Goal reached")
    lab.bring_into_view()
    lab.handle.focus()
    # From wherever the drag before ended, to 0.237 and 0.316: both are too high to stay at.
    for _ in range(24):
        if "Goal reached" in words.inner_text():
            break
        shown = lab.shown()
        lab.page.keyboard.press("ArrowRight")
        lab.wait_for_another(shown)
        lab.expect_words(f"{float(lab.shown()):.3g} at the start")
    expect(words).to_contain_text("Goal reached ✓")


def test_the_other_sliders_change_the_shape(lab):
    for place, text in ((1, "warm-up"), (2, "final share")):
        before = lab.paths()
        handle = lab.root.locator(".noUi-handle").nth(place)
        expect(lab.root.locator(".widget-label").filter(has_text=re.compile(f"^{text}$"))).to_be_visible()
        handle.focus()
        lab.page.keyboard.press("ArrowRight")
        expect(lab.front.locator("path").last).not_to_have_attribute("d", before[-1])
    assert lab.errors() == []


def test_the_lab_works_by_keyboard_alone(lab):
    assert lab.work_by_keyboard() == ["base rate", "shape", "optimizer", "warm-up", "final share"]
    assert lab.errors() == []


def test_rates_answer_while_the_hand_moves(lesson, lab):
    """A training runs beside it all the time."""
    Hand(lesson, lab.root.locator(".widget-slider").first, ".schedule-lab .lab-front svg").check_that_it_follows()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_lab_is_photographed_in_both_themes(lab, theme):
    lab.check_theme(theme, ARTIFACTS / f"schedule-lab-{theme}.png", line=-1)
