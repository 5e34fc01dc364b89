"""Lesson 02 in the real JupyterLab: all cells run, and the picture and the words follow the hand."""

import re

import nbformat
import numpy as np
import pytest
from lab_page import LabOnPage, NotebookPage
from latency import Hand
from photograph import film
from playwright.sync_api import expect
from running import ROOT

from course_utils.experiments.recorded_sweeps import RATES

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
LESSON = "02_learning_rate.ipynb"
ARTIFACTS = ROOT / "artifacts"


@pytest.fixture(params=["learning-rate-lab", "quadratic-lab"])
def lab(request, lesson):
    return lesson.lab(request.param)


@pytest.fixture
def rate_lab(lesson):
    return lesson.lab("learning-rate-lab")


def test_all_cells_run_without_an_error(lesson):
    cells = nbformat.read(lesson.server.folder / LESSON, as_version=4).cells
    assert lesson.numbered() == sum(cell.cell_type == "code" for cell in cells)
    wanted = sum("raises-exception" in cell.metadata.get("tags", []) for cell in cells)
    assert len(lesson.output_errors()) == wanted, lesson.output_errors()


@pytest.mark.parametrize("share", [0.05, 0.95, 0.6])
def test_picture_and_words_follow_the_mouse(lab, share):
    shown, paths, words = lab.shown(), lab.paths(), lab.words()
    lab.drag_to(share)
    lab.wait_for_another(shown)
    expect(lab.front).to_be_visible()
    assert lab.paths() != paths
    lab.wait_for_other_words(words)
    assert lab.errors() == []


def test_words_name_the_rate_that_is_shown(rate_lab):
    shown = rate_lab.shown()
    rate_lab.drag_to(0.7)
    rate_lab.wait_for_another(shown)
    rate_lab.expect_words(f"{float(rate_lab.shown()):.3g}")


def test_picture_follows_the_arrow_keys(lab):
    lab.bring_into_view()
    start, value = lab.shown(), lab.readout()
    lab.handle.focus()
    lab.page.keyboard.press("ArrowRight")
    lab.wait_for_another(start)
    assert lab.readout() > value
    there = lab.shown()
    lab.page.keyboard.press("ArrowLeft")
    lab.wait_for_another(there)
    assert lab.shown() == start


def test_labs_work_by_keyboard_alone(lesson, rate_lab):
    assert lesson.lab("quadratic-lab").work_by_keyboard() == ["learning rate", "curvature λ"]
    assert rate_lab.work_by_keyboard() == ["learning rate", "optimizer", "model", "batch size"]
    rate_lab.press("Train at this rate")
    expect(rate_lab.front).to_contain_text("trained at lr")
    assert rate_lab.errors() == []


def test_picture_follows_a_typed_number(rate_lab):
    rate_lab.drag_to(0.2)
    shown = rate_lab.shown()
    readout = rate_lab.root.locator(".widget-readout").first
    readout.click()
    readout.fill("1")
    readout.press("Enter")
    rate_lab.wait_for_another(shown)
    expect(rate_lab.front).to_have_attribute("data-shown", "1")
    assert rate_lab.readout() == 1


def test_picture_answers_while_the_hand_moves(lesson, rate_lab):
    slider = rate_lab.root.locator(".widget-slider").first
    Hand(lesson, slider, ".learning-rate-lab .lab-front svg").check_that_it_follows()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_labs_are_photographed_in_both_themes(lab, theme):
    name = lab.root.get_attribute("class").split()[-1]
    lab.check_theme(theme, ARTIFACTS / f"{name}-{theme}.png")


def test_the_lab_is_filmed_while_the_mouse_drags(lesson, rate_lab):
    """What `make pictures` does, in small: each picture shows where the handle is, and the arrow goes away again."""
    places = [20, 36, 42, 36]
    taken, words = film(rate_lab, places)
    assert [re.match(r"Learning rate (\S+): (too slow|works|diverges)", said)[2] for said in words] == [
        "too slow",
        "works",
        "diverges",
        "works",
    ]
    pixels = [np.asarray(picture) for picture in taken]
    changed = [(pixels[1] != other).any(axis=2).mean() for other in pixels]
    assert changed[3] < 0.002 < min(changed[0], changed[2])
    assert lesson.page.locator(".filmed-mouse").count() == 0
    rate_lab.page.mouse.move(300, 300)
    assert rate_lab.shown() == f"{RATES[36]:.4g}"


BROKEN = {
    "the drawing raises": (
        "def fail(self):\n    raise ValueError('no curve for this rate')\nLearningRateLab._draw_front = fail",
        "ValueError: no curve for this rate",
    ),
    "a callback raises": (
        "def fail(change):\n    raise ValueError('not this rate')\nlab.lr.observe(fail, names='value')",
        "callback: ValueError: not this rate",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_callback_is_seen(browser, server, fault):
    """The checks above would turn red: the same drag in a lab with a fault."""
    source, sentence = BROKEN[fault]
    made = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("from course_utils.labs import LearningRateLab\nlab = LearningRateLab()\nlab"),
            nbformat.v4.new_code_cell(source),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    name = f"{fault.replace(' ', '_')}.ipynb"
    nbformat.write(made, server.folder / name)
    opened = NotebookPage(browser, server, name)
    try:
        opened.run_all()
        # Not by `opened.lab`, which waits until all is drawn and would itself tell of the fault.
        lab = LabOnPage(opened, opened.page.locator(".learning-rate-lab").first)
        lab.drag_to(0.9)
        expect(lab.root.locator(".widget-readout").first).not_to_have_text("0.01")
        # The kernel's answer comes a little later than the front end's own number.
        for _ in range(300):
            told = [*opened.faults, *lab.errors()]
            if any(sentence in text for text in told):
                break
            opened.page.wait_for_timeout(100)
        assert any(sentence in text for text in told), told
    finally:
        opened.close()


def test_request_to_another_machine_and_console_error_are_seen(browser, server):
    opened = NotebookPage(browser, server, LESSON)
    try:
        assert opened.faults == []
        # An address that is reserved for documents: nobody is there, and the request is not made anyhow.
        opened.page.evaluate("fetch('http://192.0.2.1/picture.png').catch(() => console.error('no picture'))")
        assert "request to 192.0.2.1: http://192.0.2.1/picture.png" in opened.faults
        assert "console: no picture" in opened.faults
    finally:
        opened.close()
