"""The labs of lesson 07 in JupyterLab: the writer's lab, and TensorBoard in the notebook and on a page of its own."""

import re

import keyboard
import pytest
from accessibility import ARTIFACTS, check_themes, violations
from notebook_page import ANSWER_TIMEOUT
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
# TensorBoard's page is large, and the first look at it builds all its cards.
BOARD_TIMEOUT = 2 * ANSWER_TIMEOUT


@pytest.fixture
def lab(show):
    return show("writer-lab")


@pytest.fixture
def panel(show):
    return show("tensorboard-panel")


def numbers(lab):
    """Return what the picture shows: added, waiting, on disk, lost, files."""
    return [int(number) for number in lab.shown().split()][:5]


def click(lab, words):
    lab.button(words).scroll_into_view_if_needed()
    lab.button(words).click()


def wait_for(lab, *shown):
    expect(lab.front).to_have_attribute("data-shown", re.compile(f"^{' '.join(map(str, shown))} "))


def test_the_lab_follows_the_mouse_to_its_goal(lab):
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
    lab.type_number("6")
    expect(lab.front.locator("circle[r='2']")).to_have_count(7)
    click(lab, "add_scalar")
    click(lab, "flush()")
    wait_for(lab, added + 6, 0, on_disk + 6, lost, 2)
    click(lab, "crash")
    lab.expect_words("Goal reached")
    assert lab.errors() == []


def test_the_lab_works_by_keyboard_alone(lab):
    assert keyboard.work(lab) == ["points to add", "disk, ms a record"]
    for button in ("add_scalar", "flush()", "close()", "crash", "start over"):
        keyboard.press(lab, button)
    assert lab.errors() == []


def test_the_lab_is_accessible_in_both_themes(lab):
    check_themes(lab)


def test_tensorboard_is_started_and_ended_by_keyboard_alone(notebook, panel):
    reached = ["End", "open it as a page of its own", "TensorBoard"]
    assert keyboard.stops(panel) == reached
    assert violations(notebook, panel.root) == []
    keyboard.press(panel, "End")
    expect(panel.root).to_contain_text("TensorBoard has ended")
    keyboard.press(panel, "Start")
    expect(panel.root.locator("iframe")).to_be_attached()
    assert keyboard.stops(panel) == reached


def test_tensorboard_shows_the_curves_in_the_notebook(panel):
    frame = panel.root.locator("iframe[title='TensorBoard']")
    frame.scroll_into_view_if_needed()
    board = panel.root.frame_locator("iframe[title='TensorBoard']")
    card = board.locator("scalar-card", has_text="loss").first
    expect(card).to_be_visible(timeout=BOARD_TIMEOUT)
    expect(card.locator("line-chart svg path, line-chart canvas").first).to_be_attached(timeout=BOARD_TIMEOUT)
    expect(board.get_by_text("first", exact=True).first).to_be_attached()
    ARTIFACTS.mkdir(exist_ok=True)
    frame.screenshot(path=ARTIFACTS / "tensorboard-in-the-notebook.png")


def test_tensorboard_opens_as_a_page_of_its_own(notebook, panel):
    link = panel.root.locator("a", has_text="open it as a page")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", link.get_attribute("href"))
    with notebook.context.expect_page() as opening:
        link.click()
    page = opening.value
    try:
        expect(page.locator("scalar-card", has_text="loss").first).to_be_visible(timeout=BOARD_TIMEOUT)
    finally:
        page.close()
