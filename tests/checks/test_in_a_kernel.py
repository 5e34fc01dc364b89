"""An exercise in a real kernel: an endless loop is stopped, and so does the stop button, and the next cell runs."""

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
    manager = KernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    manager.start_kernel(cwd=str(tmp_path_factory.mktemp("kernel")), extra_arguments=["--log-level=ERROR"])
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run(client, source, when_begun=lambda: None):
    """Run a cell and give what it shows, and the name of its error or ""."""
    told, error = [], ""
    message = client.execute(source)
    while True:
        reply = client.get_iopub_msg(timeout=60)
        if reply["parent_header"].get("msg_id") != message:
            continue
        kind, content = reply["msg_type"], reply["content"]
        if kind == "stream":
            told.append(content["text"])
            if "begun" in content["text"]:
                when_begun()
        elif kind == "execute_result":
            told.append(content["data"]["text/plain"])
        elif kind == "error":
            error = content["ename"]
        elif kind == "status" and content["execution_state"] == "idle":
            client.get_shell_msg(timeout=60)
            return "".join(told), error


def test_an_endless_exercise_is_stopped_and_the_kernel_lives_on(kernel):
    _, client = kernel
    assert run(client, "from course_utils import checks\nfrom course_utils.checks import runner") == ("", "")
    told, error = run(client, f"runner.SECONDS = 0.5\n{ENDLESS}\nchecks.recover(recover)")
    assert error == ""
    assert told.startswith("begun\n")
    assert "Your function was still running after 0.5 s and was stopped at your line" in told
    assert run(client, "1 + 1") == ("2", "")


def test_the_stop_button_ends_a_check_at_once_and_the_kernel_lives_on(kernel):
    manager, client = kernel
    source = f"runner.SECONDS = 1000\n{ENDLESS}\nchecks.recover(recover)"

    _, error = run(client, source, when_begun=manager.interrupt_kernel)
    assert error == "KeyboardInterrupt"
    assert run(client, "import threading\n[t.name for t in threading.enumerate() if t.name == 'check-clock']") == (
        "[]",
        "",
    )
    assert run(client, "runner.SECONDS = 10.0\nchecks.recover(lambda sums, length: print('printed'))")[0].count(
        "printed"
    )


def test_an_exercise_before_its_section_names_what_is_missing(kernel):
    _, client = kernel
    source = "def recover(sums, length):\n    return [epoch_means[0]]\n\nchecks.recover(recover)"
    told, error = run(client, source)
    assert error == ""
    assert "Run the cells above first: `epoch_means` is not defined yet (NameError) at your line 2:" in told
    assert "return [epoch_means[0]]" in told
