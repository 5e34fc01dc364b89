"""A notebook in JupyterLab as a person meets it: run the cells, take the handle, look at the picture."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, WebSocket, expect
from running import Server

RUN_TIMEOUT = 240_000  # milliseconds for all cells of a lesson
ANSWER_TIMEOUT = 30_000  # milliseconds for whatever follows a click, on a machine busy with other things
expect.set_options(timeout=ANSWER_TIMEOUT)
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
DONE = re.compile(r"^\[\d+\]:$")
ERRORS = (
    ".jp-OutputArea [data-mime-type='application/vnd.jupyter.error'], "
    ".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']"
)
# Console errors that say nothing about the course, each with its reason.
HARMLESS: dict[str, str] = {}


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
        if message.type == "error" and not any(harmless in message.text for harmless in HARMLESS):
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

    def numbered(self) -> int:
        """Count the cells that have run."""
        return self.page.locator(".jp-CodeCell .jp-InputPrompt").filter(has_text=DONE).count()

    def output_errors(self) -> list[str]:
        """The text of every error or stderr output on the page."""
        return self.page.locator(ERRORS).all_inner_texts()

    def lab(self, name: str) -> "LabOnPage":
        """The first lab with this CSS class."""
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

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self.root.screenshot(path=path)
