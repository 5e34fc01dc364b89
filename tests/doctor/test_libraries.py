"""The training of whole libraries under the doctor: nothing is reported, and their weights are the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from library_loops import LIBRARIES, OTHERS, RESULT, installed
from make_env import BENCH, site_packages

SCRIPT = Path(__file__).with_name("library_loops.py")


@pytest.fixture(scope="module")
def examined():
    """What the script found, with the libraries of .venv-bench if it exists."""
    if not installed() and not site_packages(BENCH):
        pytest.skip("none of the libraries is installed: they come with `python tools/make_env.py bench`")
    path = os.pathsep.join(map(str, [*site_packages(BENCH), *filter(None, [os.environ.get("PYTHONPATH")])]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(RESULT))
    return json.loads(line.removeprefix(RESULT))


@pytest.mark.slow
@pytest.mark.timeout(660)
@pytest.mark.parametrize("name", LIBRARIES)
def test_nothing_is_reported_on_the_training_of_a_library(name, examined):
    if name not in examined:
        pytest.skip(f"{name} is not installed: it comes with `python tools/make_env.py bench`")
    assert examined[name]["codes"] == [], examined[name]["card"]
    assert "18 backward calls" in examined[name]["card"] or "15 backward calls" in examined[name]["card"]
    assert examined[name]["same"]


@pytest.mark.slow
@pytest.mark.timeout(660)
@pytest.mark.parametrize("name", OTHERS)
def test_mistakes_in_loops_that_use_a_library_are_found_and_nothing_else(name, examined):
    library, _, codes = OTHERS[name]
    if name not in examined:
        pytest.skip(f"{library} is not installed: it comes with `python tools/make_env.py bench`")
    assert examined[name]["codes"] == list(codes), examined[name]["card"]
    for code, where in zip(codes, examined[name]["places"], strict=True):
        assert f"# <- {code}" in where
    assert examined[name]["same"]
