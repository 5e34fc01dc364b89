"""A notebook in JupyterLab as a person meets it: run the cells, take the handle, look at the picture."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, TimeoutError, WebSocket, expect
from running import Server

from notebooks import SETTLE_LABS

RUN_TIMEOUT = 240_000  # milliseconds for all cells of a lesson
ANSWER_TIMEOUT = 30_000  # milliseconds for whatever follows a click, on a machine busy with other things
expect.set_options(timeout=ANSWER_TIMEOUT)
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
DONE = re.compile(r"^\[\d+\]:$")
ERRORS = (
    ".jp-OutputArea [data-mime-type='application/vnd.jupyter.error'], "
    ".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']"
)
# What WCAG 2.2 asks for at the levels A and AA, as axe-core names it. Another theme changes the colours alone.
WCAG = {
    "light": {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "iframes": False},
    "dark": {"runOnly": {"type": "rule", "values": ["color-contrast"]}, "iframes": False},
}
# What axe-core says of our elements and nobody here can cure, each with its reason.
NOT_OURS = {
    # ipywidgets writes a slider's description beside it and gives the handle, which takes the focus, no name.
    ("aria-input-field-name", "noUi-handle"),
    # It knows the ground of no word in an SVG, and of no single sign; tests/test_palette.py does.
    ("color-contrast", "<text"),
    ("color-contrast", 'role="img"'),
    # ipywidgets draws the arrow of a list as a picture behind its words.
    ("color-contrast", "<select"),
}
# JupyterLab's body has no height, so axe-core takes all that is in it for hidden, as it does what is scrolled away.
LOOK = """async (element, options) => {
  document.body.style.height = "100vh";
  element.scrollIntoView({ block: "center" });
  try {
    return await axe.run({ include: [element] }, options);
  } finally {
    document.body.style.height = "";
  }
}"""
# The keys that change a control, and those that put it back. A list is opened first, because JupyterLab takes the
# arrows of a closed one for its own cells.
KEYS = {
    "slider": ["ArrowRight", "ArrowLeft"],
    "list": ["Space ArrowDown Enter", "Space ArrowUp Enter"],
    "switch": ["Space", "Space"],
    "choice": ["Space", "Space"],
}
# The button that is chosen among those beside the one that has the focus.
CHOSEN = "() => document.activeElement.closest('.widget-toggle-buttons')?.querySelector('.mod-active') ?? null"
# Which control has the focus: its name, its kind, its state, and the ring around it. ipywidgets gives the handle of a
# slider and the number beside it no name that a program could read, so theirs is the description that stands there.
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
# The colour of a lab's words; axe-core measures their contrast.
INK = """lab => {
  const probe = lab.appendChild(document.createElement("i"));
  probe.style.color = "var(--lab-ink)";
  const ink = getComputedStyle(probe).color;
  probe.remove();
  return ink;
}"""
KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
# Whether the kernel has answered all moves of widgets: those that come after the first go to another thread there, and
# one that comes while another is answered waits in the page. A cell's own request is kept for ever.
ANSWERED = f'() => [...{KERNEL}._futures.values()].every(asked => asked.msg.header.msg_type !== "comm_msg")'
# Run code in the kernel. What the labs sent comes before the answer.
EXECUTE = f"""async code => {{
  const {{ content }} = await {KERNEL}.requestExecute({{ code, silent: true }}).done;
  return content.status === "ok" ? "" : `${{content.ename}}: ${{content.evalue}}`;
}}"""
SETTLE_TIMEOUT = 60  # seconds
# The colour of each line of a picture.
INKS = """picture => [...picture.querySelectorAll("svg path")].map(line => getComputedStyle(line).stroke)"""
# All that a lab shows, as one text.
SHOWN = """lab => [...lab.querySelectorAll(".widget-html-content")].map(part => part.innerHTML).join("\\n")"""
# What a lab's pictures are to somebody who does not see them; where there is no picture, all that is shown.
DESCRIBED = f"""lab => {{
  const pictures = [...lab.querySelectorAll("svg[role=img]")].map(picture => picture.getAttribute("aria-label"));
  return pictures.length ? String(pictures) : ({SHOWN})(lab);
}}"""
# Console errors that say nothing about the course, by a part of their words or of the address, each with its reason.
HARMLESS = {
    "/font-roboto/": "TensorBoard forgets its own --path_prefix before its letters, and the browser takes others",
}


@dataclass(frozen=True)
class Control:
    """A control that has the focus.

    Attributes:
        name: what it is called.
        kind: "slider", "number" (beside a slider), "list", "choice" (one button of several), "switch", "button",
            "link" or "frame".
        state: its value; "" where it has none.
        last: whether it stands at its upper end.
        ring: width and colour of the ring around it; "" if there is none.
    """

    name: str
    kind: str
    state: str
    last: bool
    ring: str


class NotebookPage:
    """One notebook in one browser page, and everything that went wrong in it.

    Attributes:
        page: Playwright's page, `scale` pixels of a screenshot for one of its own.
        faults: console errors, errors that a kernel sent for a widget's message, and requests that left the machine.
    """

    def __init__(self, browser: Browser, server: Server, notebook: str, *, theme: str = "light", scale: int = 1):
        self.server = server
        self.faults: list[str] = []
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, device_scale_factor=scale)
        self.page: Page = self.context.new_page()
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        self.page.on("websocket", self._listen)
        # A request that would leave the machine is not made, and it is a fault.
        self.context.route(lambda url: urlsplit(url).hostname not in ("127.0.0.1", None), lambda route: route.abort())
        self.page.on("request", self._note_request)
        self.page.goto(f"{server.url}doc/tree/{notebook}?token={server.token}&reset")
        # The status bar waits for a real session; the indicator in the toolbar says "idle" before there is a kernel.
        expect(self.page.locator(".jp-StatusBar-TextItem", has_text="| Idle")).to_be_visible(timeout=60_000)
        self.set_theme(theme)

    def close(self) -> None:
        self.context.close()

    def _note_console(self, message: ConsoleMessage) -> None:
        said = f"{message.text} {message.location.get('url', '')}"
        if message.type == "error" and not any(harmless in said for harmless in HARMLESS):
            self.faults.append(f"console: {message.text}")

    def _note_request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname != "127.0.0.1":
            self.faults.append(f"request to {address.hostname}: {request.url}")

    def _listen(self, socket: WebSocket) -> None:
        socket.on("framereceived", self._note_frame)

    def _note_frame(self, payload: str | bytes) -> None:
        # JupyterLab shows nothing where a widget's callback raises; the kernel says it on the wire all the same.
        text = payload if isinstance(payload, str) else payload.decode("utf-8", errors="replace")
        if re.search(r'"msg_type":\s*"error"', text) and re.search(r'"msg_type":\s*"comm_msg"', text):
            error = re.search(r'"ename":\s*"(\w+)",\s*"evalue":\s*"([^"]*)"', text)
            self.faults.append(f"callback: {error[1]}: {error[2]}" if error else f"callback: {text[:300]}")

    def set_theme(self, theme: str) -> None:
        """Choose the light or the dark theme, and wait until the page wears it."""
        self.page.evaluate(
            "theme => void window.jupyterapp.commands.execute('apputils:change-theme', {theme})", THEMES[theme]
        )
        light = "true" if theme == "light" else "false"
        expect(self.page.locator(f"body[data-jp-theme-light='{light}']")).to_be_attached()

    def run_all(self) -> None:
        """Run all cells and wait until each has its number."""
        self.page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        waiting = self.page.locator(".jp-CodeCell .jp-InputPrompt:visible").filter(has_not_text=DONE)
        expect(waiting).to_have_count(0, timeout=RUN_TIMEOUT)

    def execute(self, code: str) -> None:
        """Run code in the notebook's kernel, outside of its cells, when the kernel has answered all that it was asked.

        What a lab sent before that is on the page then.
        """
        self.page.wait_for_function(ANSWERED, timeout=ANSWER_TIMEOUT)
        failed = self.page.evaluate(EXECUTE, code)
        assert not failed, failed

    def settle(self) -> None:
        """Wait until the notebook's labs have computed and drawn all that they were asked for."""
        self.execute(SETTLE_LABS.format(timeout=SETTLE_TIMEOUT))

    def numbered(self) -> int:
        """Count the cells that have run."""
        return self.page.locator(".jp-CodeCell .jp-InputPrompt").filter(has_text=DONE).count()

    def output_errors(self) -> list[str]:
        """The text of every error or stderr output on the page."""
        return self.page.locator(ERRORS).all_inner_texts()

    def violations(self, element: Locator) -> list[str]:
        """What axe-core finds in an element against WCAG's levels A and AA, and is ours.

        What it cannot measure counts, too: all but words in SVG, which tests/test_palette.py measures.
        """
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE_SCRIPT)
        dark = self.page.locator("body[data-jp-theme-light='false']").count()
        found = element.evaluate(LOOK, WCAG["dark" if dark else "light"])
        measured = [rule for rule in found["passes"] if rule["id"] == "color-contrast"]
        assert measured, f"axe-core measured no word in {element}"
        return [
            f"{rule['id']}: {node['html']}: {node['failureSummary']}"
            for rule in (*found["violations"], *found["incomplete"])
            for node in rule["nodes"]
            if not any(rule["id"] == known and mark in node["html"].split(">")[0] for known, mark in NOT_OURS)
        ]

    def lab(self, name: str) -> "LabOnPage":
        """The first lab with this CSS class, at rest: what was asked of it before is done."""
        self.settle()
        return LabOnPage(self, self.page.locator(f".{name}").first)


class LabOnPage:
    """One lab: its first slider, its picture, its words."""

    def __init__(self, notebook: NotebookPage, root: Locator):
        self.notebook, self.page, self.root = notebook, notebook.page, root
        self.handle = root.locator(".noUi-handle").first
        self.track = root.locator(".noUi-base").first
        # The widget stays; the drawing in it is another element after each change.
        self.picture = root.locator(".lab-front")
        self.front = self.picture.locator("svg")

    def shown(self) -> str:
        """The value that the picture says it shows."""
        return self.front.get_attribute("data-shown")

    def paths(self) -> list[str]:
        """The path data of every line in front."""
        return self.front.locator("path").evaluate_all("lines => lines.map(line => line.getAttribute('d'))")

    def words(self) -> str:
        return self.root.locator(".lab-words").inner_text()

    def expect_words(self, text: str) -> None:
        """Wait until the words below the picture hold `text`: they come a moment after the picture."""
        expect(self.root.locator(".lab-words")).to_contain_text(text)

    def wait_for_other_words(self, before: str) -> None:
        """Wait until the words below the picture are others than `before`."""
        self.page.wait_for_function(
            "([lab, before]) => lab.querySelector('.lab-words').innerText !== before",
            arg=[self.root.element_handle(), before],
            timeout=ANSWER_TIMEOUT,
        )

    def readout(self) -> float:
        """The number that stands beside the slider."""
        return float(self.root.locator(".widget-readout").first.inner_text())

    def errors(self) -> list[str]:
        return [text for text in self.root.locator(".lab-error").all_inner_texts() if text.strip()]

    def bring_into_view(self) -> None:
        """Scroll until slider and picture can be seen: a mouse that is moved to a hidden handle moves nothing."""
        self.picture.scroll_into_view_if_needed()
        self.handle.scroll_into_view_if_needed()
        expect(self.picture).to_be_in_viewport(ratio=0.5)
        expect(self.handle).to_be_in_viewport()

    def drag_to(self, share: float) -> None:
        """Take the handle with the mouse and drop it at a share of the track, 0 at the left."""
        self.bring_into_view()
        handle, track = self.handle.bounding_box(), self.track.bounding_box()
        mouse = self.page.mouse
        mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
        mouse.down()
        mouse.move(track["x"] + share * track["width"], handle["y"] + handle["height"] / 2, steps=8)
        mouse.up()

    def wait_for_another(self, shown: str) -> None:
        """Wait until the picture shows another value than `shown`, and the one that stands beside the slider.

        That it shows another one is not enough: on the way of a drag it shows many. Both numbers are rounded to
        three digits.
        """
        self.page.wait_for_function(
            """([lab, before]) => {
              const shown = lab.querySelector(".lab-front svg").dataset.shown;
              const beside = lab.querySelector(".widget-readout").innerText;
              return shown !== before && Math.abs(shown / beside - 1) < 0.01;
            }""",
            arg=[self.root.element_handle(), shown],
            timeout=ANSWER_TIMEOUT,
        )

    def violations(self) -> list[str]:
        """What axe-core finds in the lab, and is ours."""
        return self.notebook.violations(self.root)

    # By keyboard alone.

    def focused(self) -> Control | None:
        """The control of this lab that has the focus, or None."""
        found = self.root.evaluate(FOCUSED)
        return None if found is None else Control(**found)

    def _stops(self) -> Iterator[Control]:
        """Come from the lab's cell, selected as the arrow keys select it, and go through the lab by Tab.

        Around each control there must be a ring in the ink that words have.
        """
        ink = self.root.evaluate(INK)
        self.root.evaluate("lab => lab.closest('.jp-Cell').focus()")
        self._step("Tab")
        passed = 0
        while (control := self.focused()) is not None:
            # Whoever is in a frame is in a page that rings its own controls.
            assert control.kind == "frame" or control.ring == f"2px {ink}", control
            yield control
            passed += 1
            assert passed < 40, f"Tab does not lead out of the lab, but to {control}"
            if control.kind == "frame":  # within it is another page, with controls of its own
                break
            self.page.keyboard.press("Tab")
        self._step("Shift+Tab")

    def _step(self, key: str) -> None:
        """Come into the lab from outside; between a cell's own place and its output lie its tools."""
        for _ in range(8):
            self.page.keyboard.press(key)
            if self.focused() is not None:
                return
        raise AssertionError(f"{key} does not lead into the lab")

    def stops(self) -> list[str]:
        """The names of the lab's controls in the order in which Tab reaches them."""
        return [control.name for control in self._stops()]

    def work_by_keyboard(self, *, silent: Collection[str] = (), remembers: bool = False) -> list[str]:
        """Reach each control by Tab, change it by its keys, see the picture and its words follow, and put it back.

        Buttons that begin something are for `press`.

        Args:
            silent: controls that the picture and the words do not follow at once.
            remembers: whether the lab shows what was chosen before, so that it does not look the same again.

        Returns:
            The names of the controls that were changed.
        """
        changed = []
        for control in self._stops():
            if control.kind in KEYS and not (control.kind == "choice" and control.state == "true"):
                follows = control.name not in silent
                self._change(control, follows=follows, returns=follows and not remembers)
                changed.append(control.name)
        return changed

    def _change(self, control: Control, *, follows: bool, returns: bool) -> None:
        # What a lab shows on its way never comes again, and a control put back may have set it going once more.
        self.notebook.settle()
        shown, described = self.root.evaluate(SHOWN), self.root.evaluate(DESCRIBED)
        here = self.page.evaluate_handle("document.activeElement").as_element()
        beside = self.page.evaluate_handle(CHOSEN).as_element()
        there, back = KEYS[control.kind][:: -1 if control.last else 1]
        self._keys(there)
        self._wait_for(FOCUSED, "?.state", control.state)
        if follows:
            self._wait_for(DESCRIBED, "", described)
        if control.kind == "choice" and beside is None:  # of these, one stays chosen
            return
        (beside or here).focus()
        self._keys(back)
        here.focus()
        self._wait_for(FOCUSED, "?.state", control.state, same=True)
        if returns:
            self._wait_for(SHOWN, "", shown, same=True)

    def _keys(self, keys: str) -> None:
        for key in keys.split():
            self.page.keyboard.press(key)

    def press(self, name: str) -> None:
        """Reach a button by Tab, press it by Space, and see the lab answer."""
        for control in self._stops():
            if control.name == name:
                shown = self.root.evaluate(SHOWN)
                self.page.keyboard.press("Space")
                self._wait_for(SHOWN, "", shown)
                return
        raise AssertionError(f"Tab reaches no button {name!r}")

    def _wait_for(self, look: str, part: str, value: str, *, same: bool = False) -> None:
        """Wait until what `look` sees in the lab is another than `value`, or is the same again."""
        seen = f"({look})(lab){part}"
        try:
            self.page.wait_for_function(
                f"([lab, value]) => ({seen} === value) === {str(same).lower()}",
                arg=[self.root.element_handle(), value],
                timeout=ANSWER_TIMEOUT,
            )
        except TimeoutError:
            now = self.root.evaluate(f"lab => {seen}")
            raise AssertionError(
                f"the lab should show {'this again' if same else 'no more'}:\n{value}\nnow:\n{now}"
            ) from None

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self.root.screenshot(path=path)

    def check_theme(self, theme: str, path: Path, *, line: int = 0) -> None:
        """Photograph the lab in a theme, to be looked at; see a line follow the theme, the words and rings be seen.

        The page wears the light theme before and after.

        Args:
            theme: "light" or "dark".
            path: where the picture goes.
            line: which line of the picture in front must follow; a negative number counts from the last.
        """
        try:
            self.notebook.set_theme(theme)
            self.bring_into_view()
            ink = self.picture.evaluate(INKS)[line]
            self.screenshot(path)
            assert self.violations() == []
            if theme == "dark":
                self.stops()
        finally:
            self.notebook.set_theme("light")
        other = self.picture.evaluate(INKS)[line]
        assert (ink == other) == (theme == "light")
