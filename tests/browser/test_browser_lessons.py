"""The lessons in JupyterLab: Run All runs every cell, and what lesson 00 shows to a newcomer is accessible."""

import keyboard
import nbformat
import pytest
from accessibility import ARTIFACTS, violations
from headless import ROOT
from notebook_page import NotebookPage
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
FIRST, *OTHERS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def run_all(browser, server, name):
    """Run a lesson, check that each cell ran and only the wanted errors are shown, and return its page."""
    notebook = NotebookPage(browser, server, name)
    notebook.run_all()
    cells = nbformat.read(server.folder / name, as_version=4).cells
    wanted = sum("raises-exception" in cell.metadata.get("tags", []) for cell in cells)
    errors = notebook.output_errors()
    assert len(errors) == wanted, errors
    return notebook


@pytest.mark.proof
@pytest.mark.parametrize("name", OTHERS)
def test_all_cells_run(browser, server, name):
    notebook = run_all(browser, server, name)
    notebook.settle()
    assert notebook.faults == []
    notebook.close()


@pytest.fixture(scope="module")
def lesson(browser, server):
    notebook = run_all(browser, server, FIRST)
    yield notebook
    assert notebook.faults == []
    notebook.close()


def test_the_first_lesson_runs_and_its_card_shows_this_machine(lesson):
    card = lesson.page.locator(".machine-card").first
    card.scroll_into_view_if_needed()
    expect(card).to_contain_text("✓")
    expect(card).to_contain_text("your own folder")
    expect(card).not_to_contain_text("✗")
    ARTIFACTS.mkdir(exist_ok=True)
    card.screenshot(path=ARTIFACTS / "machine-card.png")


def test_the_goal_of_the_first_lab_is_reached_by_hand(lesson):
    lab = lesson.lab("quadratic-lab")
    lab.bring_into_view()
    lab.type_number("0.25")
    lab.expect_words("Goal reached ✓")
    assert lab.errors() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_a_lesson_shows_is_accessible(lesson, theme):
    """The card, the predictions, the lab, the doctor's card, and the report on the exercises."""
    reports = lesson.page.locator(".jp-OutputArea-output", has_text="exercises solved")
    try:
        lesson.set_theme(theme)
        for kind in (".machine-card", ".prediction-lab", ".quadratic-lab", ".loop-doctor"):
            assert violations(lesson, lesson.page.locator(kind).first) == [], kind
        assert violations(lesson, reports.last) == []
        if theme == "dark":
            quadratic, prediction = lesson.lab("quadratic-lab"), lesson.lab("prediction-lab")
            assert keyboard.stops(quadratic) == ["learning rate", "learning rate", "curvature λ", "curvature λ"]
            assert len(keyboard.stops(prediction)) == 3
    finally:
        lesson.set_theme("light")
