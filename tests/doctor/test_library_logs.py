"""What wandb, MLflow and transformers log is read under the doctor, and they are as before afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from library_logs import LOOPS, RESULT, installed
from make_env import BENCH, site_packages

SCRIPT = Path(__file__).with_name("library_logs.py")


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
@pytest.mark.parametrize("name", LOOPS)
def test_what_a_library_logs_is_read(name, examined):
    if name not in examined:
        pytest.skip(f"{LOOPS[name][0]} is not installed")
    code = LOOPS[name][2]
    assert examined[name]["codes"] == [code] * bool(code), examined[name]["card"]
    assert examined[name]["lines"] == [code] * bool(code)
    assert examined[name]["replaced"] == []
    assert "this batch's loss" in examined[name]["card"] or "mean batch loss" in examined[name]["card"] or code
