"""Exercises in a real kernel: endless loops and the stop button end a check, and a hint follows a NameError."""

import json
import os

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

ENDLESS = """
import sys
def recover(sums, length):
    print("begun", file=sys.stderr, flush=True)
    while True:
        try:
            length += 1
        except Exception:
            length = 0
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """Return a running kernel of this Python, its client, and its folder."""
    folder = tmp_path_factory.mktemp("kernel")
    manager = KernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    environment = {name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"}
    manager.start_kernel(cwd=str(folder), env=environment, extra_arguments=["--log-level=ERROR"])
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    assert run(client, "from course_utils import checks\nfrom course_utils.checks import runner") == ("", "")
    yield manager, client, folder
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run(client, source, when_begun=lambda: None):
    """Run a cell and return what it shows, and the name of its error or ""."""
    shown, error = [], ""
    message = client.execute(source)
    while True:
        reply = client.get_iopub_msg(timeout=60)
        if reply["parent_header"].get("msg_id") != message:
            continue
        kind, content = reply["msg_type"], reply["content"]
        if kind == "stream":
            shown.append(content["text"])
            if "begun" in content["text"]:
                when_begun()
        elif kind in ("execute_result", "display_data"):
            shown.append(content["data"]["text/plain"])
        elif kind == "error":
            error = content["ename"]
        elif kind == "status" and content["execution_state"] == "idle":
            client.get_shell_msg(timeout=60)
            return "".join(shown), error


def test_an_endless_exercise_is_stopped_and_the_kernel_lives_on(kernel):
    _, client, _ = kernel
    shown, error = run(client, f"runner.SECONDS = 0.5\n{ENDLESS}\nchecks.recover(recover)")
    assert error == ""
    assert shown.startswith("begun\n")
    assert "Your function was still running after 0.5 s and was stopped.\nIt was at your line" in shown
    assert run(client, "1 + 1") == ("2", "")


def test_the_stop_button_ends_a_check_at_once_and_the_kernel_lives_on(kernel):
    manager, client, _ = kernel
    source = f"runner.SECONDS = 1000\n{ENDLESS}\nchecks.recover(recover)"
    _, error = run(client, source, when_begun=manager.interrupt_kernel)
    assert error == "KeyboardInterrupt"
    threads = "import threading\n[t.name for t in threading.enumerate() if t.name == 'check-clock']"
    assert run(client, threads) == ("[]", "")
    shown, _ = run(client, "runner.SECONDS = 10.0\nchecks.recover(lambda sums, length: print('printed'))")
    assert "printed" in shown


def test_an_exercise_before_its_section_names_what_is_missing(kernel):
    _, client, _ = kernel
    source = "def recover(sums, length):\n    return [epoch_means[0]]\n\nchecks.recover(recover)"
    shown, error = run(client, source)
    assert error == ""
    assert "Run the cells above first: `epoch_means` is not defined yet (NameError).\nIt was at your line 2:" in shown
    assert "return [epoch_means[0]]" in shown


def test_a_section_that_is_run_too_early_names_the_one_that_it_needs(kernel):
    _, client, folder = kernel
    cells = [
        {"cell_type": "markdown", "source": "## 1. One run"},
        {"cell_type": "code", "source": "losses = [1, 2]"},
        {"cell_type": "markdown", "source": "## 2. Its mean"},
        {"cell_type": "code", "source": "sum(losses) / len(losses)"},
    ]
    (folder / "lesson.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert run(client, "from course_utils.learner import name_hints\nname_hints.guide()") == ("", "")
    shown, error = run(client, "sum(losses) / len(losses)")
    assert error == "NameError"
    assert shown.startswith("`losses` is defined in section 1, “One run”. Run that section first: ")
    assert run(client, "losses = [1, 2]") == ("", "")
    assert run(client, "sum(losses) / len(losses)") == ("1.5", "")
