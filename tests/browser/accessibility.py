"""Look at a part of a page with axe-core, in the light and in the dark theme."""

from pathlib import Path

import keyboard
from axe_playwright_python.base import AXE_SCRIPT
from headless import ROOT
from notebook_page import LabOnPage, NotebookPage
from playwright.sync_api import Locator

# Screenshots for people to look at.
ARTIFACTS = ROOT / "artifacts"
# WCAG 2.2 at levels A and AA, as axe-core names it. Another theme changes only the colors.
WCAG = {
    "light": {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "iframes": False},
    "dark": {"runOnly": {"type": "rule", "values": ["color-contrast"]}, "iframes": False},
}
# What axe-core reports about our elements and nobody here can fix, each with its reason.
NOT_OURS = {
    # ipywidgets writes a slider's description beside it and gives the handle, which takes the focus, no name.
    ("aria-input-field-name", "noUi-handle"),
    # It cannot tell the background of a text in an SVG, or of a single character; tests/test_palette.py can.
    ("color-contrast", "<text"),
    ("color-contrast", 'role="img"'),
    # ipywidgets draws the arrow of a list as a picture behind its words.
    ("color-contrast", "<select"),
}
# JupyterLab's body has no height, so axe-core takes everything in it for hidden, as it does what is scrolled away.
LOOK = """async (element, options) => {
  document.body.style.height = "100vh";
  element.scrollIntoView({ block: "center" });
  try {
    return await axe.run({ include: [element] }, options);
  } finally {
    document.body.style.height = "";
  }
}"""
# The color of each line of a picture.
INKS = """picture => [...picture.querySelectorAll("svg path")].map(line => getComputedStyle(line).stroke)"""


def violations(notebook: NotebookPage, element: Locator) -> list[str]:
    """Return what axe-core finds in an element against WCAG's levels A and AA, and is ours.

    What it cannot measure counts, too, except words in SVG, which tests/test_palette.py measures.
    """
    if not notebook.page.evaluate("'axe' in window"):
        notebook.page.evaluate(AXE_SCRIPT)
    dark = notebook.page.locator("body[data-jp-theme-light='false']").count()
    found = element.evaluate(LOOK, WCAG["dark" if dark else "light"])
    measured = [rule for rule in found["passes"] if rule["id"] == "color-contrast"]
    assert measured, f"axe-core measured no words in {element}"
    return [
        f"{rule['id']}: {node['html']}: {node['failureSummary']}"
        for rule in (*found["violations"], *found["incomplete"])
        for node in rule["nodes"]
        if not any(rule["id"] == known and mark in node["html"].split(">")[0] for known, mark in NOT_OURS)
    ]


def check_themes(lab: LabOnPage, *, line: int = 0) -> None:
    """Check in both themes that a line follows the theme and that words and focus rings are visible; keep screenshots.

    The page has the light theme before and after.

    Args:
        lab: the lab.
        line: which line of the picture in front must follow; a negative number counts from the last.
    """
    lab.bring_into_view()
    light = lab.picture.evaluate(INKS)[line]
    screenshot(lab, "light")
    assert violations(lab.notebook, lab.root) == []
    try:
        lab.notebook.set_theme("dark")
        assert lab.picture.evaluate(INKS)[line] != light
        screenshot(lab, "dark")
        assert violations(lab.notebook, lab.root) == []
        keyboard.stops(lab)
    finally:
        lab.notebook.set_theme("light")


def screenshot(lab: LabOnPage, ending: str) -> Path:
    """Photograph a lab for people to look at."""
    ARTIFACTS.mkdir(exist_ok=True)
    path = ARTIFACTS / f"{lab.css_class}-{ending}.png"
    lab.root.screenshot(path=path)
    return path
