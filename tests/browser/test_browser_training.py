"""The lab of lesson 08 in JupyterLab: a run is started, steered, paused and stopped with mouse, keyboard and kernel."""

import re

import keyboard
import pytest
from accessibility import screenshot, violations
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
# The steps of a whole run.
STEPS = 920
# That another cell could run meanwhile: the kernel answers, and the run went on in the meantime.
BETWEEN = "assert training.state == 'running' and len(training.history.step_loss) > 0, training.state"


@pytest.fixture
def lab(notebook, show):
    """The lab, at rest when a test begins and when it has ended."""
    lab = show("training-lab")
    lab.bring_into_view()
    yield lab
    notebook.execute("training.stop()")  # in the kernel: the button may be disabled by the time it is pressed
    expect(lab.front).not_to_have_attribute("data-state", re.compile("running|paused"))


def step(lab):
    return int(lab.front.get_attribute("data-step"))


def wait_for_step(lab, least):
    lab.page.wait_for_function(
        "([lab, least]) => Number(lab.querySelector('.lab-front svg').dataset.step) >= least",
        arg=[lab.root.element_handle(), least],
    )


def wait_for_state(lab, state):
    expect(lab.front).to_have_attribute("data-state", state)


def test_it_is_useful_before_start_is_pressed(lab):
    expect(lab.root.locator(".lab-back svg")).to_have_attribute("aria-label", re.compile("nobody touched"))
    assert lab.front.get_attribute("data-state") == "ready"
    assert "Goal" in lab.words()
    expect(lab.button("Pause")).to_be_disabled()


def test_a_run_follows_the_mouse_and_the_keyboard_while_the_kernel_stays_free(notebook, lab):
    lab.button("Start").click()
    wait_for_step(lab, 20)
    paths, shown = lab.paths(), lab.shown()
    lab.drag_to(0.75)
    lab.wait_for_another(shown)
    wait_for_step(lab, step(lab) + 20)
    assert lab.paths() != paths
    wait_for_state(lab, "running")
    notebook.execute(BETWEEN)
    shown, value = lab.shown(), lab.readout()
    lab.handle.focus()
    lab.page.keyboard.press("ArrowLeft")
    lab.wait_for_another(shown)
    assert lab.readout() < value
    lab.button("Stop").click()
    wait_for_state(lab, "stopped")
    lab.expect_words("TensorBoard files: learner/runs/training-lab-")
    assert lab.errors() == []


def test_pause_holds_it_and_continue_goes_on(lab):
    lab.button("Start").click()
    wait_for_step(lab, 10)
    lab.button("Pause").click()
    wait_for_state(lab, "paused")
    lab.expect_words("Paused")
    held, shown = step(lab), lab.shown()
    # The lab answers the slider, and the run makes no step meanwhile.
    lab.drag_to(0.4)
    lab.wait_for_another(shown)
    assert step(lab) == held
    lab.button("Continue").click()
    wait_for_step(lab, held + 5)
    expect(lab.button("Pause")).to_be_enabled()


def test_a_run_is_started_paused_and_stopped_by_keyboard_alone(lab):
    assert keyboard.work(lab, silent=["speed"]) == ["learning rate", "speed"]
    keyboard.press(lab, "Start")
    wait_for_step(lab, 5)
    keyboard.press(lab, "Pause")
    wait_for_state(lab, "paused")
    keyboard.press(lab, "Continue")
    wait_for_state(lab, "running")
    keyboard.press(lab, "Stop")
    wait_for_state(lab, "stopped")


def test_a_prediction_is_made_and_changed_by_keyboard_alone(show):
    prediction = show("prediction-lab")
    expect(prediction.root).to_contain_text("Choose one")
    assert keyboard.work(prediction) == ["the smaller", "the larger", "neither"]
    expect(prediction.root).to_contain_text("Your guess is kept: the smaller")


def test_jupyterlabs_own_stop_button_stops_it(notebook, lab):
    lab.button("Start").click()
    wait_for_step(lab, 10)
    notebook.page.evaluate("void window.jupyterapp.commands.execute('notebook:interrupt-kernel')")
    wait_for_state(lab, "stopped")
    assert step(lab) < STEPS


def test_it_is_accessible_in_both_themes_and_its_height_stays_while_it_runs(notebook, lab):
    height = lab.root.bounding_box()["height"]
    lab.button("Start").click()
    wait_for_step(lab, 100)
    try:
        for theme in ("light", "dark"):
            notebook.set_theme(theme)
            screenshot(lab, theme)
            assert violations(notebook, lab.root) == []
    finally:
        notebook.set_theme("light")
    assert lab.root.bounding_box()["height"] == pytest.approx(height, abs=2)
