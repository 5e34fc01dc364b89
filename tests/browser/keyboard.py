"""Work a lab by keyboard alone: reach each control by Tab, change it, and see the picture follow."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from notebook_page import ANSWER_TIMEOUT, LabOnPage
from playwright.sync_api import TimeoutError

# The keys that change a control, and those that put it back. A list is opened first, because JupyterLab takes the
# arrow keys of a closed one for its own cells.
KEYS = {
    "slider": ["ArrowRight", "ArrowLeft"],
    "list": ["Space ArrowDown Enter", "Space ArrowUp Enter"],
    "switch": ["Space", "Space"],
    "choice": ["Space", "Space"],
}
# The chosen one among the buttons beside the one that has the focus.
CHOSEN = "() => document.activeElement.closest('.widget-toggle-buttons')?.querySelector('.mod-active') ?? null"
# The control that has the focus: its name, its kind, its state, and the ring around it. ipywidgets gives neither the
# handle of a slider nor the number beside it an accessible name, so theirs is the description beside them.
FOCUSED = """lab => {
  const at = document.activeElement;
  if (!lab.contains(at)) return null;
  const widget = at.closest(".widget-slider"), style = getComputedStyle(at);
  const label = widget ? widget.querySelector(".widget-label") : at.labels && at.labels[0];
  const name = at.getAttribute("aria-label") || (label || at).innerText.trim() || at.title;
  const group = at.closest(".widget-toggle-buttons");
  const kind = at.matches("[role=slider]") ? "slider" : at.matches("[contenteditable=true]") ? "number"
    : at.matches("select") ? "list" : at.matches("input[type=checkbox]") ? "switch" : at.matches("a") ? "link"
    : at.matches("iframe") ? "frame" : group ? "choice" : at.matches(".widget-toggle-button") ? "switch" : "button";
  const state = kind === "slider" ? at.getAttribute("aria-valuetext") : kind === "list" ? at.value
    : kind === "switch" || kind === "choice" ? String(at.checked ?? at.classList.contains("mod-active")) : "";
  const last = kind === "slider" ? Number(at.getAttribute("aria-valuenow")) >= Number(at.getAttribute("aria-valuemax"))
    : kind === "list" && at.selectedIndex === at.length - 1;
  const ring = style.outlineStyle === "none" ? "" : `${style.outlineWidth} ${style.outlineColor}`;
  return {name, kind, state, last, ring};
}"""
# The color of a lab's words; axe-core measures their contrast.
INK = """lab => {
  const probe = lab.appendChild(document.createElement("i"));
  probe.style.color = "var(--lab-ink)";
  const ink = getComputedStyle(probe).color;
  probe.remove();
  return ink;
}"""
# Everything that a lab shows, as one text.
SHOWN = """lab => [...lab.querySelectorAll(".widget-html-content")].map(part => part.innerHTML).join("\\n")"""
# What a lab's pictures are to somebody who cannot see them; if there is no picture, everything that is shown.
DESCRIBED = f"""lab => {{
  const pictures = [...lab.querySelectorAll("svg[role=img]")].map(picture => picture.getAttribute("aria-label"));
  return pictures.length ? String(pictures) : ({SHOWN})(lab);
}}"""


@dataclass(frozen=True)
class Control:
    """A control that has the focus.

    Attributes:
        name: its accessible name.
        kind: "slider", "number" (beside a slider), "list", "choice" (one button of several), "switch", "button",
            "link" or "frame".
        state: its value; "" if it has none.
        last: whether it is at its upper end.
        ring: width and color of the ring around it; "" if there is none.
    """

    name: str
    kind: str
    state: str
    last: bool
    ring: str


def focused(lab: LabOnPage) -> Control | None:
    """Return the control of the lab that has the focus, or None."""
    found = lab.root.evaluate(FOCUSED)
    return None if found is None else Control(**found)


def _walk(lab: LabOnPage) -> Iterator[Control]:
    """Go through a lab by Tab, from its cell, selected as the arrow keys select it.

    The ring around each control must have the color of the words.
    """
    ink = lab.root.evaluate(INK)
    lab.root.evaluate("lab => lab.closest('.jp-Cell').focus()")
    _enter(lab, "Tab")
    passed = 0
    while (control := focused(lab)) is not None:
        # In a frame, the focus is on a page that draws its own rings.
        assert control.kind == "frame" or control.ring == f"2px {ink}", control
        yield control
        passed += 1
        assert passed < 40, f"Tab does not lead out of the lab, but to {control}"
        if control.kind == "frame":  # it holds another page with controls of its own
            break
        lab.page.keyboard.press("Tab")
    _enter(lab, "Shift+Tab")


def _enter(lab: LabOnPage, key: str) -> None:
    """Enter the lab from outside; the cell's tools are between the cell and its output."""
    for _ in range(8):
        lab.page.keyboard.press(key)
        if focused(lab) is not None:
            return
    raise AssertionError(f"{key} does not lead into the lab")


def stops(lab: LabOnPage) -> list[str]:
    """Return the names of the lab's controls in the order in which Tab reaches them."""
    return [control.name for control in _walk(lab)]


def work(lab: LabOnPage, *, silent: Collection[str] = (), remembers: bool = False) -> list[str]:
    """Reach each control by Tab, change it by its keys, see picture and words follow, and put it back.

    Buttons that start something are for `press`.

    Args:
        lab: the lab.
        silent: controls that picture and words do not follow at once.
        remembers: whether the lab shows what was chosen before, so that it does not look the same again.

    Returns:
        The names of the controls that were changed.
    """
    changed = []
    for control in _walk(lab):
        if control.kind in KEYS and not (control.kind == "choice" and control.state == "true"):
            follows = control.name not in silent
            _change(lab, control, follows=follows, returns=follows and not remembers)
            changed.append(control.name)
    return changed


def press(lab: LabOnPage, name: str) -> None:
    """Reach a button by Tab, press it by Space, and see the lab answer."""
    for control in _walk(lab):
        if control.name == name:
            shown = lab.root.evaluate(SHOWN)
            lab.page.keyboard.press("Space")
            _wait_for(lab, SHOWN, "", shown)
            return
    raise AssertionError(f"Tab reaches no button {name!r}")


def _change(lab: LabOnPage, control: Control, *, follows: bool, returns: bool) -> None:
    # What a lab shows while it computes never comes again, and a control put back may have started it once more.
    lab.notebook.settle()
    shown, described = lab.root.evaluate(SHOWN), lab.root.evaluate(DESCRIBED)
    here = lab.page.evaluate_handle("document.activeElement").as_element()
    beside = lab.page.evaluate_handle(CHOSEN).as_element()
    there, back = KEYS[control.kind][:: -1 if control.last else 1]
    _type(lab, there)
    _wait_for(lab, FOCUSED, "?.state", control.state)
    if follows:
        _wait_for(lab, DESCRIBED, "", described)
    if control.kind == "choice" and beside is None:  # once one of these is chosen, one stays chosen
        return
    (beside or here).focus()
    _type(lab, back)
    here.focus()
    _wait_for(lab, FOCUSED, "?.state", control.state, same=True)
    if returns:
        _wait_for(lab, SHOWN, "", shown, same=True)


def _type(lab: LabOnPage, keys: str) -> None:
    for key in keys.split():
        lab.page.keyboard.press(key)


def _wait_for(lab: LabOnPage, look: str, part: str, value: str, *, same: bool = False) -> None:
    """Wait until what `look` sees in the lab differs from `value`, or is the same again."""
    seen = f"({look})(lab){part}"
    try:
        lab.page.wait_for_function(
            f"([lab, value]) => ({seen} === value) === {str(same).lower()}",
            arg=[lab.root.element_handle(), value],
            timeout=ANSWER_TIMEOUT,
        )
    except TimeoutError:
        now = lab.root.evaluate(f"lab => {seen}")
        expected = "should show this again" if same else "should no longer show this"
        raise AssertionError(f"The lab {expected}:\n{value}\nIt shows:\n{now}") from None
