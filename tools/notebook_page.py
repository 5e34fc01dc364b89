"""Open a notebook in JupyterLab the way a person does: run its cells, drag a slider, read the picture."""

import re
from urllib.parse import urlsplit

from headless import Server
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, WebSocket, expect

from notebooks import SETTLE_LABS

RUN_TIMEOUT = 240_000  # milliseconds for all cells of a lesson
ANSWER_TIMEOUT = 30_000  # milliseconds for whatever follows a click, on a busy machine
SETTLE_TIMEOUT = 60  # seconds
expect.set_options(timeout=ANSWER_TIMEOUT)
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
DONE = re.compile(r"^\[\d+\]:$")
ERRORS = (
    ".jp-OutputArea [data-mime-type='application/vnd.jupyter.error'], "
    ".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']"
)
NOTEBOOK = "window.jupyterapp.shell.currentWidget"
KERNEL = f"{NOTEBOOK}.sessionContext.session.kernel"
# Keep the ids of the widget messages that the kernel has not dealt with yet. A widget holds back its next message while
# one is on its way and sends it when the answer is handled, which is before `iopubMessage` reports that answer.
LISTEN = f"""() => {{
  const unanswered = window.unansweredMessages = new Set();
  {KERNEL}.anyMessage.connect((_, {{ msg, direction }}) => {{
    if (direction === "send" && msg.header.msg_type === "comm_msg") unanswered.add(msg.header.msg_id);
  }});
  {KERNEL}.iopubMessage.connect((_, msg) => {{
    if (msg.content.execution_state === "idle") unanswered.delete(msg.parent_header.msg_id);
  }});
}}"""
ANSWERED = "() => window.unansweredMessages.size === 0"
# Run code in the kernel. Whatever the labs sent before is handled before the reply.
EXECUTE = f"""async code => {{
  const {{ content }} = await {KERNEL}.requestExecute({{ code, silent: true }}).done;
  return content.status === "ok" ? "" : `${{content.ename}}: ${{content.evalue}}`;
}}"""
RUN_CELL = f"""async index => {{
  {NOTEBOOK}.content.activeCellIndex = index;
  await window.jupyterapp.commands.execute("notebook:run-cell");
}}"""
# Console errors that say nothing about the course, by a part of their text or address, each with its reason.
HARMLESS = {
    "/font-roboto/": "TensorBoard ignores its own --path_prefix for its fonts, and the browser uses others",
}


class NotebookPage:
    """A notebook in a browser page, and everything that went wrong in it.

    Args:
        browser: the browser.
        server: the JupyterLab that serves the notebook.
        notebook: its path in the server's folder.
        theme: "light" or "dark".
        scale: pixels of a screenshot for each pixel of the page.

    Attributes:
        page: Playwright's page.
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
        # A request that would leave the machine is blocked, and it is a fault.
        self.context.route(lambda url: urlsplit(url).hostname not in ("127.0.0.1", None), lambda route: route.abort())
        self.page.on("request", self._note_request)
        self.page.goto(f"{server.url}doc/tree/{notebook}?token={server.token}&reset")
        # The status bar waits for a session; the indicator in the toolbar shows "idle" before there is a kernel.
        expect(self.page.locator(".jp-StatusBar-TextItem", has_text="| Idle")).to_be_visible(timeout=60_000)
        self.page.evaluate(LISTEN)
        self.set_theme(theme)

    def close(self) -> None:
        """Close the page; the server keeps its kernel."""
        self.context.close()

    def _note_console(self, message: ConsoleMessage) -> None:
        text = f"{message.text} {message.location.get('url', '')}"
        if message.type == "error" and not any(harmless in text for harmless in HARMLESS):
            self.faults.append(f"console: {message.text}")

    def _note_request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname != "127.0.0.1":
            self.faults.append(f"request to {address.hostname}: {request.url}")

    def _listen(self, socket: WebSocket) -> None:
        socket.on("framereceived", self._note_frame)

    def _note_frame(self, payload: str | bytes) -> None:
        # JupyterLab shows nothing when a widget's callback raises, but the kernel sends the error.
        text = payload if isinstance(payload, str) else payload.decode("utf-8", errors="replace")
        if re.search(r'"msg_type":\s*"error"', text) and re.search(r'"msg_type":\s*"comm_msg"', text):
            error = re.search(r'"ename":\s*"(\w+)",\s*"evalue":\s*"([^"]*)"', text)
            self.faults.append(f"callback: {error[1]}: {error[2]}" if error else f"callback: {text[:300]}")

    def set_theme(self, theme: str) -> None:
        """Choose the light or the dark theme, and wait until the page has it."""
        self.page.evaluate(
            "theme => void window.jupyterapp.commands.execute('apputils:change-theme', {theme})", THEMES[theme]
        )
        light = "true" if theme == "light" else "false"
        expect(self.page.locator(f"body[data-jp-theme-light='{light}']")).to_be_attached()
        # JupyterLab covers the page while it loads a theme, and axe-core takes what is covered for hidden.
        expect(self.page.locator("#jupyterlab-splash")).to_have_count(0)

    def run_all(self) -> None:
        """Run all cells and wait until each has its number."""
        self.page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        waiting = self.page.locator(".jp-CodeCell .jp-InputPrompt:visible").filter(has_not_text=DONE)
        expect(waiting).to_have_count(0, timeout=RUN_TIMEOUT)

    def run_cell(self, index: int) -> None:
        """Run one cell and wait until it has its number."""
        self.page.evaluate(RUN_CELL, index)
        expect(self.page.locator(".jp-Cell").nth(index).locator(".jp-InputPrompt")).to_have_text(DONE)

    def execute(self, code: str) -> None:
        """Run code in the notebook's kernel, outside its cells, once the kernel has answered every widget message.

        Whatever a lab sent before is on the page afterwards.

        Raises:
            RuntimeError: the code raised; the message holds the error.
        """
        self.page.wait_for_function(ANSWERED, timeout=ANSWER_TIMEOUT)
        error = self.page.evaluate(EXECUTE, code)
        if error:
            raise RuntimeError(f"code that was sent to the kernel raised {error}")

    def settle(self) -> None:
        """Wait until the notebook's labs have computed and drawn everything that they were asked for."""
        self.execute(SETTLE_LABS.format(timeout=SETTLE_TIMEOUT))

    def output_errors(self) -> list[str]:
        """Return the text of each error or stderr output on the page."""
        return self.page.locator(ERRORS).all_inner_texts()

    def lab(self, css_class: str) -> "LabOnPage":
        """Return the first lab with a CSS class, at rest: everything asked of it before is done."""
        self.settle()
        return LabOnPage(self, css_class)


class LabOnPage:
    """The first lab with a CSS class: its first slider, its picture, its words."""

    def __init__(self, notebook: NotebookPage, css_class: str):
        self.notebook, self.page, self.css_class = notebook, notebook.page, css_class
        self.root = self.page.locator(f".{css_class}").first
        self.handle = self.root.locator(".noUi-handle").first
        self.track = self.root.locator(".noUi-base").first
        # The widget stays; the drawing in it is a new element after each change.
        self.picture = self.root.locator(".lab-front")
        self.front = self.picture.locator("svg")

    def shown(self) -> str:
        """Return the value that the picture shows."""
        return self.front.get_attribute("data-shown")

    def paths(self) -> list[str]:
        """Return the path data of each line in front."""
        return self.front.locator("path").evaluate_all("lines => lines.map(line => line.getAttribute('d'))")

    def words(self) -> str:
        """Return the words below the picture."""
        return self.root.locator(".lab-words").inner_text()

    def expect_words(self, text: str) -> None:
        """Wait until the words below the picture contain `text`: they follow the picture."""
        expect(self.root.locator(".lab-words")).to_contain_text(text)

    def wait_for_other_words(self, before: str) -> None:
        """Wait until the words below the picture differ from `before`."""
        self.page.wait_for_function(
            "([lab, before]) => lab.querySelector('.lab-words').innerText !== before",
            arg=[self.root.element_handle(), before],
            timeout=ANSWER_TIMEOUT,
        )

    def readout(self) -> float:
        """Return the number beside the slider."""
        return float(self.root.locator(".widget-readout").first.inner_text())

    def button(self, name: str) -> Locator:
        """Return the button with this text."""
        return self.root.locator(".jupyter-button", has_text=name)

    def errors(self) -> list[str]:
        """Return the errors that the lab shows."""
        return [text for text in self.root.locator(".lab-error").all_inner_texts() if text.strip()]

    def bring_into_view(self) -> None:
        """Scroll until slider and picture are visible: a mouse on a hidden handle moves nothing."""
        self.picture.scroll_into_view_if_needed()
        self.handle.scroll_into_view_if_needed()
        expect(self.picture).to_be_in_viewport(ratio=0.5)
        expect(self.handle).to_be_in_viewport()

    def drag_to(self, share: float) -> None:
        """Drag the handle with the mouse and drop it at a share of the track, 0 at the left."""
        self.bring_into_view()
        handle, track = self.handle.bounding_box(), self.track.bounding_box()
        mouse = self.page.mouse
        mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
        mouse.down()
        mouse.move(track["x"] + share * track["width"], handle["y"] + handle["height"] / 2, steps=8)
        mouse.up()

    def type_number(self, number: str) -> None:
        """Type a number into the field beside the first slider."""
        readout = self.root.locator(".widget-readout").first
        readout.click()
        readout.fill(number)
        readout.press("Enter")

    def wait_for_another(self, shown: str) -> None:
        """Wait until the picture shows a value other than `shown`, and the same as the number beside the slider.

        That it shows another one is not enough: during a drag it shows many. Both numbers are rounded to three digits.
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
