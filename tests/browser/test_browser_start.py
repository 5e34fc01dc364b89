"""Lesson 00 in the real JupyterLab: the first thing that a newcomer runs."""

import nbformat
import pytest
from playwright.sync_api import expect
from running import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
LESSON = "00_start_here.ipynb"


def test_all_cells_run_without_an_error(lesson):
    cells = nbformat.read(lesson.server.folder / LESSON, as_version=4).cells
    assert lesson.numbered() == sum(cell.cell_type == "code" for cell in cells)
    assert lesson.output_errors() == []


def test_the_card_shows_this_machine(lesson):
    card = lesson.page.locator(".machine-card").first
    card.scroll_into_view_if_needed()
    expect(card).to_contain_text("✓")
    expect(card).to_contain_text("your own folder")
    expect(card).not_to_contain_text("✗")
    card.screenshot(path=ROOT / "artifacts" / "machine-card.png")


def test_the_lab_works_by_keyboard_alone(lesson):
    lab = lesson.lab("quadratic-lab")
    assert lab.stops() == ["learning rate", "learning rate", "curvature λ", "curvature λ"]
    assert lab.work_by_keyboard() == ["learning rate", "curvature λ"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_a_lesson_shows_is_accessible(lesson, theme):
    """The card, the guesses, the lab, the doctor's card, and what the exercises' report says."""
    reports = lesson.page.locator(".jp-OutputArea-output", has_text="exercises solved")
    try:
        lesson.set_theme(theme)
        for kind in (".machine-card", ".prediction-lab", ".quadratic-lab", ".loop-doctor"):
            assert lesson.violations(lesson.page.locator(kind).first) == [], kind
        assert lesson.violations(reports.last) == []
        if theme == "dark":
            lesson.lab("quadratic-lab").stops()
            lesson.lab("prediction-lab").stops()
    finally:
        lesson.set_theme("light")


def test_the_goal_of_the_first_lab_is_reached_with_the_hand(lesson):
    lab = lesson.lab("quadratic-lab")
    lab.bring_into_view()
    readout = lab.root.locator(".widget-readout").first
    readout.click()
    readout.fill("0.25")
    readout.press("Enter")
    lab.expect_words("Goal reached ✓")
    assert lab.errors() == []
