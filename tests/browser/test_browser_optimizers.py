"""Lesson 01 in the real JupyterLab: all cells run, and the four paths follow the hand."""

import nbformat
import pytest
from latency import Hand
from playwright.sync_api import expect
from running import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
LESSON = "01_optimizers.ipynb"
ARTIFACTS = ROOT / "artifacts"


@pytest.fixture
def lab(lesson):
    return lesson.lab("optimizer-lab")


def type_rate(lab, rate):
    shown, readout = lab.shown(), lab.root.locator(".widget-readout").first
    readout.click()
    readout.fill(rate)
    readout.press("Enter")
    lab.wait_for_another(shown)


def button(lab, words):
    return lab.root.get_by_role("button", name=words)


def test_all_cells_run_without_an_error(lesson):
    cells = nbformat.read(lesson.server.folder / LESSON, as_version=4).cells
    assert lesson.numbered() == sum(cell.cell_type == "code" for cell in cells)
    assert lesson.output_errors() == []


@pytest.mark.parametrize("share", [0.1, 0.9, 0.5])
def test_paths_and_words_follow_the_mouse(lab, share):
    shown, paths, words = lab.shown(), lab.paths(), lab.words()
    lab.drag_to(share)
    lab.wait_for_another(shown)
    assert lab.paths() != paths
    lab.wait_for_other_words(words)
    lab.expect_words(f"{float(lab.shown()):.3g}")
    assert lab.errors() == []


def test_momentum_follows_the_arrow_keys(lab):
    lab.bring_into_view()
    lab.drag_to(0.4)
    paths = lab.paths()
    lab.root.locator(".noUi-handle").nth(1).focus()
    lab.page.keyboard.press("ArrowLeft")
    lab.expect_words("momentum 0.89")
    assert lab.paths() != paths
    lab.page.keyboard.press("ArrowRight")
    lab.expect_words("momentum 0.90")


def test_a_path_can_be_hidden_and_the_goal_be_reached_on_another_surface(lab):
    lab.bring_into_view()
    number = lab.front.locator("path").count()
    button(lab, "SGD").first.click()
    # Its path, its points, its losses and its line in the legend.
    expect(lab.front.locator("path")).to_have_count(number - 4)
    button(lab, "SGD").first.click()
    expect(lab.front.locator("path")).to_have_count(number)
    button(lab, "round bowl").click()
    expect(lab.root.locator(".lab-back")).to_contain_text("round bowl")
    type_rate(lab, "0.237")
    lab.root.locator(".noUi-handle").nth(1).focus()
    lab.page.keyboard.press("Home")
    lab.expect_words("Goal reached ✓")
    button(lab, "narrow valley").click()
    expect(lab.root.locator(".lab-words")).not_to_contain_text("Goal reached")
    assert lab.errors() == []


def test_the_lab_works_by_keyboard_alone(lab):
    changed = ["learning rate", "momentum", "round bowl", "bent valley", "saddle"]
    assert lab.work_by_keyboard() == [*changed, "● SGD", "■ momentum", "▲ RMSprop", "◆ Adam"]
    assert lab.errors() == []


def test_paths_answer_while_the_hand_moves(lesson, lab):
    """Forty real steps of four optimizers lie behind each picture."""
    Hand(lesson, lab.root.locator(".widget-slider").first, ".optimizer-lab .lab-front svg").check_that_it_follows()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_lab_is_photographed_in_both_themes(lab, theme):
    lab.check_theme(theme, ARTIFACTS / f"optimizer-lab-{theme}.png")
