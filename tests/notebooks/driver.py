"""Run a notebook and then move every control in it, the way JupyterLab does: with messages to a live kernel.

nbval runs cells and stops there; no comparison of a notebook's outputs ever calls a slider's callback. This driver
sends what the browser would send, first to the main thread and then to a subshell (JupyterLab does the same: a
control's first message arrives on the main thread, later ones on another). It collects what no learner would ever see:
errors of callbacks, error text on stderr, and errors in the workers of the labs.
"""

import contextlib
import copy
import json
import queue
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from notebooks import ANSI, MEASURED, SETTLE_LABS, WIDGET_VIEW, run_cells, running_kernel

REPLY_TIMEOUT = 60  # seconds for one callback, and again for the work that it asked for

# Only these widgets take no input. A model that is neither here nor known to `moves` fails the test: a new kind of
# control must not slip through unmoved.
DISPLAYS = {
    "AccordionModel",
    "AudioModel",
    "BoxModel",
    "FloatProgressModel",
    "GridBoxModel",
    "HBoxModel",
    "HTMLMathModel",
    "HTMLModel",
    "ImageModel",
    "IntProgressModel",
    "LabelModel",
    "LayoutModel",
    "LinkModel",
    "DirectionalLinkModel",
    "OutputModel",
    "StackModel",
    "TabModel",
    "VBoxModel",
    "ValidModel",
    "VideoModel",
}
ONE_NUMBER = {
    "BoundedFloatTextModel",
    "BoundedIntTextModel",
    "FloatSliderModel",
    "IntSliderModel",
    "PlayModel",
}
TWO_NUMBERS = {"FloatRangeSliderModel", "IntRangeSliderModel"}
ONE_CHOICE = {"DropdownModel", "RadioButtonsModel", "SelectModel", "SelectionSliderModel", "ToggleButtonsModel"}
ON_OR_OFF = {"CheckboxModel", "ToggleButtonModel"}
TYPED = {"ComboboxModel", "TextModel", "TextareaModel", "PasswordModel"}
TYPED_NUMBER = {"FloatTextModel", "IntTextModel"}

LIST_WIDGETS = """
import ipywidgets as _widgets, json as _json
_states = _widgets.Widget.get_manager_state(drop_defaults=False)["state"]
print(_json.dumps({_id: {"model": _entry["model_name"], **{_key: _entry["state"].get(_key) for _key in
    ("value", "min", "max", "base", "index", "_options_labels", "description", "disabled", "children")}}
    for _id, _entry in _states.items()}, default=str))
"""

JOIN_THREADS = """
import threading as _threading
for _thread in _threading.enumerate():
    if not _thread.daemon and _thread is not _threading.main_thread():
        _thread.join()
"""

# A cell with this tag takes long. The second run leaves it out, except in `make proof`, and keeps its first outputs.
RUN_ONCE = "run-once"
LOADED_AGAIN = re.compile(r"The \S+ extension is already loaded\. To reload it, use:\n  %reload_ext \S+\n")
SHAKEN = Path(__file__).with_name("shaken")
SHAKE_WEIGHTS = f"""
import os as _os, runpy as _runpy
_os.environ["PYTHONPATH"] = {str(SHAKEN)!r}
_runpy.run_path({str(SHAKEN / "sitecustomize.py")!r})
"""


@dataclass
class Drive:
    """What a drive did and what went wrong.

    Attributes:
        notebook: the notebook with the outputs of the first run.
        again: the same with the outputs of the second run, up to a cell that raised; None without a second run.
        moved: one line for each message sent: control, value, thread.
        unmoved: controls on the page that were disabled all the time.
        faults: one entry for each error.
    """

    notebook: NotebookNode
    again: NotebookNode | None = None
    moved: list[str] = field(default_factory=list)
    unmoved: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def drive(path: Path) -> Drive:
    """Run a notebook from top to bottom in a fresh kernel without a graphics card, then drive it with `go_on`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised in the first run.
    """
    notebook = nbformat.read(path, as_version=4)
    with running_kernel(path.resolve().parent) as kernel:
        run_cells(notebook, kernel)
        return go_on(notebook, kernel, repeat_all=True)


def go_on(notebook: NotebookNode, kernel: KernelManager, *, repeat_all: bool) -> Drive:
    """Move each control of a notebook that has just run in a kernel, run its cells again, and collect the faults.

    The second run is that of a learner who goes back to the top. Its models begin with weights that are a rounding
    error away, as on another machine. An error is a fault.

    Args:
        notebook: the notebook with the outputs of the first run.
        kernel: the kernel.
        repeat_all: whether the second run repeats the cells tagged `run-once`, too.
    """
    result = Drive(notebook)
    with _connect(kernel) as hand:
        hand.settle("before any control was moved")
        # A click may have made new widgets, so they are listed again for each thread. What one thread has computed may
        # be cached for the next one, which then never enables "Stop".
        unmoved = [_move_all(hand, shell, result) for shell in hand.shells()]
        result.unmoved = [name for name in unmoved[0] if all(name in names for names in unmoved)]
        hand.join_threads()
        hand.shake_weights()
    result.faults = hand.faults
    result.again = copy.deepcopy(notebook)
    try:
        run_cells(result.again, kernel, skip="" if repeat_all else RUN_ONCE)
    except CellExecutionError as error:
        result.faults.append(f"in the second run, with weights a rounding error away: {ANSI.sub('', str(error))}")
    return result


def printed(notebook: NotebookNode) -> list[str]:
    """Return what each code cell of a notebook printed, without the measured numbers.

    What IPython prints when a second run loads an extension again is not the lesson's.
    """
    texts = [
        "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    return [MEASURED.sub("\u2248", LOADED_AGAIN.sub("", text)) for text in texts]


def _move_all(hand: "_Hand", shell: str | None, result: Drive) -> list[str]:
    """Move every control on one thread; a disabled one is moved once another control has enabled it.

    Returns:
        The controls on the page that stayed disabled.
    """
    found = hand.widgets()
    waiting = {model_id for model_id, state in found.items() if state["disabled"]}

    def move(model_id: str) -> None:
        # Read now: a control that was enabled later may also have another range by then.
        state = hand.widgets()[model_id]
        for value, message in moves(state):
            what = f"{name(state)} {value} on {shell or 'the main thread'}"
            hand.send(model_id, message, shell, what)
            result.moved.append(what)
            for woken in sorted(hand.enabled & waiting):
                waiting.discard(woken)
                move(woken)

    def name(state: dict[str, Any]) -> str:
        return f"{state['model']} {state['description'] or ''!r}"

    hand.enabled.clear()
    for model_id, state in found.items():
        # Most widgets are displays and layouts; reading all states for each of them would take longer than the moves.
        if moves(state) and not state["disabled"]:
            move(model_id)
    seen = _on_the_page(result.notebook, found)
    return [name(found[model_id]) for model_id in sorted(waiting & seen) if moves(found[model_id])]


def _on_the_page(notebook: NotebookNode, states: dict[str, dict[str, Any]]) -> set[str]:
    """Return the widgets that a reader of the notebook can see: those displayed, and everything in them."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    reached = [output.data[WIDGET_VIEW]["model_id"] for output in outputs if WIDGET_VIEW in output.get("data", {})]
    for model_id in reached:  # the list grows while it is walked, until no widget has others in it
        inside = states[model_id]["children"] or []
        reached += [child.removeprefix("IPY_MODEL_") for child in inside]
    return set(reached)


def moves(state: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the messages that move one control to its ends and back to where it was; none for a display.

    Returns:
        pairs (value in words, content of the message).

    Raises:
        ValueError: the widget is of a kind that this driver does not know.
    """
    model = state["model"]
    if model in DISPLAYS or model.endswith("StyleModel"):
        return []
    if model == "ButtonModel":
        return [("clicked", {"method": "custom", "content": {"event": "click"}})]
    if model in ONE_CHOICE:
        start = state["index"]
        choices = [*range(len(state["_options_labels"])), *([start] if start is not None else [])]
        return [_update(index=index) for index in choices]
    if model == "SelectMultipleModel":
        return [_update(index=index) for index in ([], list(range(len(state["_options_labels"]))), state["index"])]
    if model == "SelectionRangeSliderModel":
        last = len(state["_options_labels"]) - 1
        return [_update(index=index) for index in ([0, 0], [last, last], [0, last], state["index"])]
    low, high, value = state["min"], state["max"], state["value"]
    if model == "FloatLogSliderModel":
        ends = [state["base"] ** low, state["base"] ** high]
    elif model in ONE_NUMBER:
        ends = [low, high]
    elif model in TWO_NUMBERS:
        ends = [[low, low], [high, high], [low, high]]
    elif model in ON_OR_OFF:
        ends = [not value]
    elif model in TYPED:
        ends = ["", "some words <b>&amp;</b>"]
    elif model in TYPED_NUMBER:
        ends = [0, -1]
    else:
        raise ValueError(f"unknown control {model!r}: teach the driver in tests/notebooks/driver.py to move it")
    return [_update(value=end) for end in [*ends, value]]


def _update(**state: Any) -> tuple[str, dict[str, Any]]:
    ((_, value),) = state.items()
    return str(value), {"method": "update", "state": state}


@contextlib.contextmanager
def _connect(kernel: KernelManager) -> Iterator["_Hand"]:
    client = BlockingKernelClient()
    client.load_connection_info(kernel.get_connection_info())
    client.start_channels()
    try:
        client.wait_for_ready(timeout=REPLY_TIMEOUT)
        yield _Hand(client)
    finally:
        client.stop_channels()


class _Hand:
    """One front end: sends messages to widgets and listens to everything that the kernel publishes."""

    def __init__(self, client: BlockingKernelClient):
        self.client = client
        self.faults: list[str] = []
        self.enabled: set[str] = set()

    def shells(self) -> list[str | None]:
        """Name the threads that can take a message: None is the main one; ipykernel 6 has no other."""
        asked = self.client.kernel_info()
        while (reply := self.client.get_shell_msg(timeout=REPLY_TIMEOUT))["parent_header"]["msg_id"] != asked:
            pass  # replies to what was executed before
        if "kernel subshells" not in reply["content"].get("supported_features", []):
            return [None]
        self._post(self.client.control_channel, "create_subshell_request", {})
        reply = self.client.get_control_msg(timeout=REPLY_TIMEOUT)["content"]
        return [None, reply["subshell_id"]]

    def widgets(self) -> dict[str, dict[str, Any]]:
        """Read the state of every widget in the kernel, by model id."""
        return json.loads(self._execute(LIST_WIDGETS, "listing the widgets"))

    def send(self, model_id: str, message: dict[str, Any], shell: str | None, what: str) -> None:
        """Send one message to a widget on one thread and wait until its callbacks and their work are done."""
        # ipykernel delivers a message on the thread that last published for this widget, whatever the message asks
        # for. Asking for the state first makes the wanted thread that thread.
        for data in ({"method": "request_state"}, message):
            content = {"comm_id": model_id, "data": data}
            self._listen(self._post(self.client.shell_channel, "comm_msg", content, shell), what)
        self.settle(what)

    def settle(self, what: str) -> None:
        """Wait until every lab is idle; the errors of their workers become faults."""
        self._execute(SETTLE_LABS.format(timeout=REPLY_TIMEOUT), what)

    def shake_weights(self) -> None:
        """Let all models that are made from now on begin a rounding error away, here and in the programs begun here."""
        self._execute(SHAKE_WEIGHTS, "shaking the weights")

    def join_threads(self) -> None:
        """Wait for the threads that callbacks have started: they may fail after the last answer."""
        self._execute(JOIN_THREADS, "after the last move")

    def _post(self, channel: Any, kind: str, content: dict[str, Any], shell: str | None = None) -> str:
        message = self.client.session.msg(kind, content)
        if shell is not None:
            message["header"]["subshell_id"] = shell
        channel.send(message)
        return message["header"]["msg_id"]

    def _execute(self, code: str, what: str) -> str:
        return self._listen(self.client.execute(code, store_history=False, stop_on_error=False), what)

    def _listen(self, message_id: str, what: str) -> str:
        """Gather what is published until the kernel has dealt with a message, and return what that printed."""
        printed = ""
        end = time.monotonic() + 2 * REPLY_TIMEOUT
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self.faults.append(f"{what}: no answer in {2 * REPLY_TIMEOUT} s")
                return printed
            self._note(message, what)
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream" and content["name"] == "stdout":
                printed += content["text"]
            elif kind == "status" and content["execution_state"] == "idle":
                return printed

    def _note(self, message: dict[str, Any], what: str) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "error":
            self.faults.append(f"{what}: {content['ename']}: {content['evalue']}")
        elif kind == "stream" and content["name"] == "stderr":
            self.faults.append(f"{what}: stderr: {content['text'].strip()}")
        elif kind == "comm_msg" and content["data"].get("state", {}).get("disabled") is False:
            # A "Stop" may be there for a moment only; that it was there is enough to press it.
            self.enabled.add(content["comm_id"])
