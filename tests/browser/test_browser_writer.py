"""Lesson 07 in the real JupyterLab: the lab follows the hand; TensorBoard stands in the lesson and on its own page."""

import re

import nbformat
import pytest
from lab_page import ANSWER_TIMEOUT
from playwright.sync_api import expect
from running import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
LESSON = "07_summary_writer.ipynb"
ARTIFACTS = ROOT / "artifacts"
# TensorBoard's page is large, and the first look at it builds all its cards.
BOARD_TIMEOUT = 2 * ANSWER_TIMEOUT


@pytest.fixture
def lab(lesson):
    return lesson.lab("writer-lab")


def numbers(lab):
    """What the picture says it shows: added, waiting, on disk, lost, files."""
    return [int(number) for number in lab.shown().split()][:5]


def click(lab, words):
    button = lab.root.locator(f".jupyter-button:has-text('{words}')")
    button.scroll_into_view_if_needed()
    button.click()


def wait_for(lab, *shown):
    expect(lab.front).to_have_attribute("data-shown", re.compile(f"^{' '.join(map(str, shown))} "))


def test_all_cells_run_without_an_error(lesson):
    cells = nbformat.read(lesson.server.folder / LESSON, as_version=4).cells
    assert lesson.numbered() == sum(cell.cell_type == "code" for cell in cells)
    assert lesson.output_errors() == []


def test_the_lab_follows_the_hand_to_its_goal(lab):
    click(lab, "start over")
    wait_for(lab, 0, 0, 0, 0, 1)
    # A crash at once, while the slow disk is at its first records.
    lab.drag_to(1.0)
    expect(lab.front.locator("circle[r='2']")).to_have_count(41)  # the points of the next click, and the legend's
    expect(lab.root.locator(".widget-readout").first).to_have_text("40")
    click(lab, "add_scalar")
    lab.expect_words("is full")
    click(lab, "crash")
    lab.expect_words("First half done")
    wait_for(lab, r"\d+", 0, r"\d+", r"\d+", 2)  # the new process opens its file when it is up
    added, _, on_disk, lost, _ = numbers(lab)
    assert lost > 0
    assert added == on_disk + lost
    lab.handle.focus()
    lab.page.keyboard.press("Home")
    for _ in range(5):
        lab.page.keyboard.press("ArrowRight")
    expect(lab.root.locator(".widget-readout").first).to_have_text("6")
    click(lab, "add_scalar")
    click(lab, "flush()")
    wait_for(lab, added + 6, 0, on_disk + 6, lost, 2)
    click(lab, "crash")
    lab.expect_words("Goal reached")
    assert lab.errors() == []


def test_the_lab_works_by_keyboard_alone(lab):
    assert lab.work_by_keyboard() == ["points to add", "disk, ms a record"]
    for button in ("add_scalar", "flush()", "close()", "crash", "start over"):
        lab.press(button)
    assert lab.errors() == []


def test_tensorboard_stands_in_the_lesson_with_the_curves_of_its_runs(lesson):
    frame = lesson.page.locator(".tensorboard-panel iframe[title='TensorBoard']")
    frame.scroll_into_view_if_needed()
    board = lesson.page.frame_locator(".tensorboard-panel iframe[title='TensorBoard']")
    # The tag of the run that the lesson trained, in the head of its card.
    card = board.locator("scalar-card", has_text="loss").first
    expect(card).to_be_visible(timeout=BOARD_TIMEOUT)
    expect(card.locator("line-chart svg path, line-chart canvas").first).to_be_attached(timeout=BOARD_TIMEOUT)
    expect(board.get_by_text("live", exact=True).first).to_be_attached()
    ARTIFACTS.mkdir(exist_ok=True)
    frame.screenshot(path=ARTIFACTS / "tensorboard-in-the-lesson.png")


def test_tensorboard_opens_as_a_page_of_its_own(lesson):
    link = lesson.page.locator(".tensorboard-panel a", has_text="open it as a page")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", link.get_attribute("href"))
    with lesson.context.expect_page() as opening:
        link.click()
    page = opening.value
    try:
        expect(page.locator("scalar-card", has_text="loss").first).to_be_visible(timeout=BOARD_TIMEOUT)
    finally:
        page.close()


def test_tensorboard_is_started_and_ended_by_keyboard_alone(lesson):
    panel = lesson.lab("tensorboard-panel")
    reached = ["End", "open it as a page of its own", "TensorBoard"]
    assert panel.stops() == reached
    assert panel.violations() == []
    panel.press("End")
    expect(panel.root).to_contain_text("TensorBoard has ended")
    panel.press("Start")
    expect(panel.root.locator("iframe")).to_be_attached()
    assert panel.stops() == reached


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_lab_is_photographed_in_both_themes(lab, theme):
    lab.check_theme(theme, ARTIFACTS / f"writer-lab-{theme}.png")
