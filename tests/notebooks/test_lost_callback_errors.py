"""A callback that fails in a test of a lab fails the test, also where ipywidgets keeps the error to itself."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
SAMPLE = """\
import ipywidgets as widgets

def fail(*_):
    raise ValueError("no curve for this rate")

def test_button():
    button = widgets.Button()
    button.on_click(fail)
    button.click()

def test_message_of_the_front_end():
    slider = widgets.FloatSlider()
    slider.observe(fail, names="value")
    slider._handle_msg({"content": {"data": {"method": "update", "state": {"value": 1.0}}}, "buffers": []})

def test_healthy_button():
    clicked = []
    button = widgets.Button()
    button.on_click(clicked.append)
    button.click()
    assert clicked == [button]
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lost")
    shutil.copy(CONFTEST, folder)
    (folder / "test_sample.py").write_text(SAMPLE)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "--color=no", str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", ["test_button", "test_message_of_the_front_end"])
def test_error_that_was_only_logged_fails_the_test(report, name):
    lines = [line for line in report.splitlines() if line.startswith("ERROR") and f"::{name} " in line]
    assert len(lines) == 1, report
    assert "a widget's callback failed and only the log knew" in report
    assert "no curve for this rate" in report


def test_healthy_callback_passes(report):
    assert "PASSED test_sample.py::test_healthy_button" in report
    assert "ERROR test_sample.py::test_healthy_button" not in report
