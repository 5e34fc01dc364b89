"""Lesson 06 in the real JupyterLab: the lab answers the hand, and what a learner chooses is what is run and shown."""

import nbformat
import pytest
from latency import Hand
from playwright.sync_api import expect
from running import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
LESSON = "06_item.ipynb"


@pytest.fixture
def lab(lesson):
    return lesson.lab("item-lab")


def press(lab, words):
    lab.root.get_by_role("button", name=words, exact=True).click()


def test_all_cells_run_without_an_error(lesson):
    cells = nbformat.read(lesson.server.folder / LESSON, as_version=4).cells
    assert lesson.numbered() == sum(cell.cell_type == "code" for cell in cells)
    assert lesson.output_errors() == []


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


def test_the_picture_answers_while_the_hand_moves(lesson, lab):
    lab.bring_into_view()
    Hand(lesson, lab.root.locator(".widget-slider").first, ".item-lab .lab-front svg").check_that_it_follows()


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
    assert lab.work_by_keyboard(remembers=True) == changed
    lab.press("Run again")
    assert lab.errors() == []


def test_a_run_can_be_stopped_and_its_memory_is_given_back(lesson, lab):
    press(lab, "training")
    lab.root.locator("select").select_option("small CNN")
    lab.expect_words("backward() has let the tensors go")
    lesson.settle()
    stop = lab.root.locator("button", has_text="Stop")
    expect(stop).to_be_disabled()  # else it would be this run that is stopped below
    # Some seconds instead of half a one, so that the hand can stop it.
    lesson.execute("from course_utils.labs import item\nitem.NUM_STEPS *= 10")
    try:
        lab.root.locator("button", has_text="Run again").click()
        stop.click()
        lab.expect_words("Stopped after step")
        lab.expect_words("0 bytes are kept now")
    finally:
        lesson.execute("item.NUM_STEPS //= 10")
    lab.root.locator("button", has_text="Run again").click()
    expect(lab.root.locator(".lab-words")).not_to_contain_text("Stopped")
    lab.expect_words("nodes and 0 bytes are kept.")
    lab.root.locator("select").select_option("small MLP")
    press(lab, "validation")
    lab.expect_words("kB behind.")
    assert lab.errors() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_lab_is_photographed_in_both_themes(lab, theme):
    lab.check_theme(theme, ROOT / "artifacts" / f"item-lab-{theme}.png")
