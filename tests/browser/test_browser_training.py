"""Lesson 08's lab in the real JupyterLab: a run is started, steered, held and ended by hand, and by the stop button.

The lab stands in a short notebook of its own: the lesson itself starts other processes and takes a minute.
"""

import re

import nbformat
import pytest
from lab_page import NotebookPage
from playwright.sync_api import expect
from running import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
ARTIFACTS = ROOT / "artifacts"
NAME = "training_lab.ipynb"
# Twice as long as in the lesson, so that what a slow page does still meets a run that goes on.
LENGTH, STEPS = "num_epochs=40", 920
GUESS = """from course_utils.labs import Prediction
Prediction("08-by-keyboard", "Which rate ends lower?", ["the smaller", "the larger", "neither"])"""


@pytest.fixture(scope="module")
def opened(browser, server):
    """A notebook with the lab and a cell to run beside it; what went wrong on the page is an error at its end."""
    made = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(f"from course_utils.labs import TrainingLab\nlab = TrainingLab({LENGTH})\nlab"),
            nbformat.v4.new_code_cell("print('free at step', len(lab.history.step_loss))"),
            nbformat.v4.new_code_cell(GUESS),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(made, server.folder / NAME)
    page = NotebookPage(browser, server, NAME)
    try:
        page.run_all()
        yield page
        assert page.faults == []
    finally:
        page.close()


@pytest.fixture
def lab(opened):
    """The lab, at rest when a test begins and when it has ended."""
    lab = opened.lab("training-lab")
    lab.bring_into_view()
    yield lab
    stop = button(lab, "Stop")
    if stop.is_enabled():
        stop.click()
    expect(lab.front).not_to_have_attribute("data-state", re.compile("running|paused"))


def button(lab, words):
    return lab.root.locator(".jupyter-button", has_text=words)


def step(lab):
    return int(lab.front.get_attribute("data-step"))


def wait_for_step(lab, least):
    lab.page.wait_for_function(
        "([lab, least]) => Number(lab.querySelector('.lab-front svg').dataset.step) >= least",
        arg=[lab.root.element_handle(), least],
    )


def test_it_is_useful_before_start_is_pressed(lab):
    expect(lab.root.locator(".lab-back svg")).to_have_attribute("aria-label", re.compile("nobody touched"))
    assert lab.front.get_attribute("data-state") == "ready"
    assert "Goal" in lab.words()
    expect(button(lab, "Pause")).to_be_disabled()


def test_a_run_follows_the_hand_and_the_kernel_stays_free(opened, lab):
    button(lab, "Start").click()
    wait_for_step(lab, 20)
    paths = lab.paths()
    shown = lab.shown()
    lab.drag_to(0.75)
    lab.wait_for_another(shown)
    at = step(lab)
    wait_for_step(lab, at + 20)
    assert lab.paths() != paths
    assert lab.front.get_attribute("data-state") == "running"
    # Another cell runs meanwhile, and says at which step it ran.
    opened.page.locator(".jp-CodeCell .cm-content").nth(1).click()
    opened.page.keyboard.press("Control+Enter")
    printed = opened.page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea-output")
    expect(printed).to_contain_text(re.compile(r"free at step [1-9]\d*"))
    assert lab.errors() == []


def test_pause_holds_it_and_continue_goes_on(lab):
    button(lab, "Start").click()
    wait_for_step(lab, 10)
    button(lab, "Pause").click()
    expect(lab.front).to_have_attribute("data-state", "paused")
    held = step(lab)
    lab.expect_words("Paused")
    lab.page.wait_for_timeout(400)
    assert step(lab) == held
    button(lab, "Continue").click()
    wait_for_step(lab, held + 5)
    expect(button(lab, "Pause")).to_be_enabled()


def test_stop_ends_it_and_the_keyboard_moves_the_rate(lab):
    button(lab, "Start").click()
    wait_for_step(lab, 10)
    shown, value = lab.shown(), lab.readout()
    lab.handle.focus()
    lab.page.keyboard.press("ArrowLeft")
    lab.wait_for_another(shown)
    assert lab.readout() < value
    button(lab, "Stop").click()
    expect(lab.front).to_have_attribute("data-state", "stopped")
    lab.expect_words("TensorBoard files: learner/runs/training-lab-")


def test_a_run_is_started_steered_held_and_ended_by_keyboard_alone(lab):
    assert lab.work_by_keyboard(silent=["speed"]) == ["learning rate", "speed"]
    assert lab.stops() == ["learning rate", "learning rate", "speed", "Start"]
    lab.press("Start")
    wait_for_step(lab, 5)
    lab.press("Pause")
    expect(lab.front).to_have_attribute("data-state", "paused")
    lab.press("Continue")
    expect(lab.front).to_have_attribute("data-state", "running")
    lab.press("Stop")
    expect(lab.front).to_have_attribute("data-state", "stopped")


def test_a_guess_is_made_and_changed_by_keyboard_alone(opened):
    prediction = opened.lab("prediction-lab")
    expect(prediction.root).to_contain_text("Choose one")
    assert prediction.work_by_keyboard() == ["the smaller", "the larger", "neither"] == prediction.stops()
    expect(prediction.root).to_contain_text("Your guess is kept: the smaller")


def test_jupyterlabs_own_stop_button_ends_it(opened, lab):
    button(lab, "Start").click()
    wait_for_step(lab, 10)
    opened.page.evaluate("void window.jupyterapp.commands.execute('notebook:interrupt-kernel')")
    expect(lab.front).to_have_attribute("data-state", "stopped")
    assert step(lab) < STEPS


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_photographed_in_both_themes(opened, lab, theme):
    """The pictures in artifacts/ are to be looked at; here only that the height stays while it runs."""
    try:
        opened.set_theme(theme)
        height = lab.root.bounding_box()["height"]
        button(lab, "Start").click()
        wait_for_step(lab, 150)
        lab.screenshot(ARTIFACTS / f"training-lab-{theme}.png")
        assert lab.violations() == []
        assert lab.root.bounding_box()["height"] == pytest.approx(height, abs=2)
    finally:
        opened.set_theme("light")
