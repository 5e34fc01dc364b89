"""The labs of lesson 02 in JupyterLab: picture and words follow the mouse, and a fault of a lab is seen."""

import re

import keyboard
import numpy as np
import pytest
from accessibility import check_themes
from hand import check_that_the_picture_follows
from photograph import film
from playwright.sync_api import expect

from course_utils.experiments.recorded_sweeps import RATES

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
BREAK = """
def fail(*_):
    raise ValueError("no such rate")

def draw_nothing():
    raise ValueError("no curve for this rate")

rates.lr.observe(fail, names="value")
rates._draw_front = draw_nothing"""
MEND = """
rates.lr.unobserve(fail, names="value")
del rates._draw_front
rates.errors.clear()
rates.clear_error()"""


@pytest.fixture(params=["learning-rate-lab", "quadratic-lab"])
def lab(request, show):
    return show(request.param)


@pytest.fixture
def rate_lab(show):
    return show("learning-rate-lab")


def test_picture_and_words_follow_the_mouse(lab):
    shown, paths, words = lab.shown(), lab.paths(), lab.words()
    lab.drag_to(0.95)
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


def test_the_picture_follows_the_arrow_keys(lab):
    lab.bring_into_view()
    start, value = lab.shown(), lab.readout()
    lab.handle.focus()
    lab.page.keyboard.press("ArrowLeft")
    lab.wait_for_another(start)
    assert lab.readout() < value
    there = lab.shown()
    lab.page.keyboard.press("ArrowRight")
    lab.wait_for_another(there)
    assert lab.shown() == start


def test_the_labs_work_by_keyboard_alone(show, rate_lab):
    assert keyboard.work(show("quadratic-lab")) == ["learning rate", "curvature λ"]
    assert keyboard.work(rate_lab) == ["learning rate", "optimizer", "model", "batch size"]
    keyboard.press(rate_lab, "Train at this rate")
    expect(rate_lab.front).to_contain_text("trained at lr")
    assert rate_lab.errors() == []


def test_the_picture_follows_a_typed_number(rate_lab):
    rate_lab.drag_to(0.2)
    shown = rate_lab.shown()
    rate_lab.type_number("1")
    rate_lab.wait_for_another(shown)
    expect(rate_lab.front).to_have_attribute("data-shown", "1")
    assert rate_lab.readout() == 1


def test_the_picture_follows_while_the_mouse_drags(rate_lab):
    check_that_the_picture_follows(rate_lab)


def test_the_labs_are_accessible_in_both_themes(lab):
    check_themes(lab)


def test_the_lab_is_filmed_while_the_mouse_drags(notebook, rate_lab):
    """What `make pictures` does, in small: each picture shows the handle's place, and the arrow disappears again."""
    places = [20, 36, 42, 36]
    taken, words = film(rate_lab, places)
    assert [re.match(r"Learning rate (\S+): (too slow|works|diverges)", text)[2] for text in words] == [
        "too slow",
        "works",
        "diverges",
        "works",
    ]
    pixels = [np.asarray(picture) for picture in taken]
    changed = [(pixels[1] != other).any(axis=2).mean() for other in pixels]
    assert changed[3] < 0.002 < min(changed[0], changed[2])
    assert notebook.page.locator(".filmed-mouse").count() == 0
    rate_lab.page.mouse.move(300, 300)
    assert rate_lab.shown() == f"{RATES[36]:.4g}"


def test_what_goes_wrong_on_a_page_is_seen(notebook, rate_lab):
    # The address is reserved for documentation, and the request is blocked in any case.
    notebook.page.evaluate("fetch('http://192.0.2.1/picture.png').catch(() => console.error('no picture'))")
    assert "request to 192.0.2.1: http://192.0.2.1/picture.png" in notebook.faults
    assert "console: no picture" in notebook.faults
    notebook.execute(BREAK)
    rate_lab.drag_to(0.3)
    expect(rate_lab.root.locator(".lab-error").first).to_contain_text("ValueError: no curve for this rate")
    notebook.execute(MEND)
    assert "callback: ValueError: no such rate" in notebook.faults
    notebook.faults.clear()
