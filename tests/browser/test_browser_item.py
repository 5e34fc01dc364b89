"""The lab of lesson 06 in JupyterLab: it follows mouse and keys, and runs and shows what a learner chooses."""

import keyboard
import pytest
from accessibility import check_themes
from hand import check_that_the_picture_follows
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


@pytest.fixture
def lab(show):
    return show("item-lab")


def press(lab, words):
    lab.root.get_by_role("button", name=words, exact=True).click()


def test_the_numbers_follow_the_mouse_and_the_keys(lab):
    lab.expect_words("After step 300, 3,306 nodes and 10.6 MB are kept.")
    shown, paths = lab.shown(), lab.paths()
    lab.drag_to(0.3)
    lab.wait_for_another(shown)
    there = lab.shown()
    assert lab.paths() != paths
    lab.expect_words(f"After step {there}, ")
    lab.handle.focus()
    lab.page.keyboard.press("ArrowRight")
    lab.wait_for_another(there)
    assert int(lab.shown()) == int(there) + 1
    lab.expect_words(f"After step {int(there) + 1}, ")
    assert lab.errors() == []


def test_the_picture_follows_while_the_mouse_drags(lab):
    check_that_the_picture_follows(lab)


def test_a_learner_reaches_the_goal(lab):
    code = lab.root.locator("pre").first
    height = lab.root.bounding_box()["height"]
    press(lab, "+= loss.item()")
    lab.expect_words("Found so far: loss.item().")
    expect(code).to_contain_text("running_loss += loss.item()")
    press(lab, "+= loss.detach()")
    lab.expect_words("Found so far: loss.item(), loss.detach().")
    press(lab, "+= loss")
    press(lab, "with torch.no_grad()")
    lab.expect_words("Goal reached ✓")
    expect(code).to_contain_text("with torch.no_grad():")
    press(lab, "training")
    lab.expect_words("PyTorch refuses.")
    assert abs(lab.root.bounding_box()["height"] - height) < 2
    press(lab, "validation")
    press(lab, "with torch.no_grad()")
    assert lab.errors() == []


def test_the_lab_works_by_keyboard_alone(lab):
    changed = ["after step", "training", "+= loss.detach()", "+= loss.item()", "with torch.no_grad()", "model"]
    assert keyboard.work(lab, remembers=True) == changed
    keyboard.press(lab, "Run again")
    assert lab.errors() == []


def test_a_run_can_be_stopped_and_its_memory_is_given_back(notebook, lab):
    press(lab, "training")
    lab.root.locator("select").select_option("small CNN")
    lab.expect_words("backward() has let the tensors go")
    notebook.settle()
    expect(lab.button("Stop")).to_be_disabled()  # otherwise it would be this run that is stopped below
    # Some seconds instead of half a one, so that the mouse can stop it.
    notebook.execute("from course_utils.experiments import loop_memory\nloop_memory.NUM_STEPS *= 10")
    try:
        lab.button("Run again").click()
        lab.button("Stop").click()
        lab.expect_words("Stopped after step")
        lab.expect_words("0 bytes are kept now")
    finally:
        notebook.execute("loop_memory.NUM_STEPS //= 10")
    lab.button("Run again").click()
    expect(lab.root.locator(".lab-words")).not_to_contain_text("Stopped")
    lab.expect_words("nodes and 0 bytes are kept.")
    lab.root.locator("select").select_option("small MLP")
    press(lab, "validation")
    lab.expect_words("kB behind.")
    assert lab.errors() == []


def test_the_lab_is_accessible_in_both_themes(lab):
    check_themes(lab)
