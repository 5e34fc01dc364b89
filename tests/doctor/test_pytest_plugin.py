"""The plugin for pytest, in processes of its own, found through its entry point as after an installation."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCTOR = ROOT / "loop-doctor"
LOOPS = """
import pytest, torch
from torch import nn

def train(clear):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(12):
        if clear:
            optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(torch.randn(8, 4)), torch.randn(8, 1))
        loss.backward()  # the line
        optimizer.step()
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs pytest on a file with these tests, and returns its exit code and its output."""
    entry = tomllib.loads((DOCTOR / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    info = tmp_path / "installed" / "loop_doctor-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loop-doctor\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[pytest11]\n" + "".join(f"{k} = {v}\n" for k, v in entry.items()))
    path = os.pathsep.join([str(info.parent), str(DOCTOR / "src")])

    def run(tests: str, *options: str, loops: str = LOOPS) -> tuple[int, str]:
        (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -W error -p no:cacheprovider\n")
        (tmp_path / "test_it.py").write_text(loops + tests)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *options, "test_it.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=100,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_nothing_is_imported_if_no_test_uses_it(run):
    code, out = run(
        """
import sys
def test_it(request):
    assert request.config.pluginmanager.has_plugin("loop_doctor")
    assert "torch" not in sys.modules and "loop_doctor.doctor" not in sys.modules
""",
        loops="",
    )
    assert code == 0, out


def test_the_fixture_fails_a_test_whose_loop_has_a_problem(run):
    code, out = run("""
def test_well(loop_doctor):
    train(clear=True)
def test_ill(loop_doctor):
    train(clear=False)
def test_alone():
    train(clear=False)
@pytest.mark.loop_doctor(fail_on="never")
def test_expected(loop_doctor):
    train(clear=False)
    assert [finding.code for finding in loop_doctor.findings] == ["missing-zero-grad"]
    train(clear=False)
@pytest.mark.loop_doctor(ignore=["missing-zero-grad"])
def test_ignored():
    train(clear=False)
@pytest.mark.loop_doctor(fail_on=["missing-zero-grad"])
def test_marked_only():
    train(clear=False)
@pytest.mark.loop_doctor
def test_fails_by_itself():
    train(clear=False)
    raise KeyError("mine")
""")
    assert code == 1
    assert "3 failed, 4 passed" in out, out
    for name in ("test_ill", "test_marked_only", "test_fails_by_itself"):
        assert f"FAILED test_it.py::{name}" in out
    assert out.count("loss.backward()  # the line") == 3
    assert "KeyError: 'mine'" in out


@pytest.mark.proof
def test_an_unknown_code_in_a_marker_is_named(run):
    code, out = run("""
@pytest.mark.loop_doctor(ignore=["missing-zero-grads"])
def test_it():
    pass
""")
    assert code == 1
    assert "unknown code 'missing-zero-grads'" in out


@pytest.mark.parametrize("workers", [(), pytest.param(("-n", "2"), marks=pytest.mark.proof)])
def test_the_option_watches_every_test_and_sums_up(run, workers):
    pytest.importorskip("xdist")
    code, out = run(
        """
import unittest
def test_well():
    train(clear=True)
def test_ill():
    train(clear=False)
class TestOld(unittest.TestCase):
    def test_old(self):
        train(clear=False)
@pytest.mark.loop_doctor(fail_on="never")
def test_reported_only():
    train(clear=False)
def test_skipped():
    train(clear=False)
    pytest.skip("later")
def test_without_training():
    pass
""",
        "--loop-doctor",
        *workers,
    )
    assert code == 1
    assert "2 failed, 3 passed, 1 skipped" in out, out
    _, _, summary = out.partition(" loop doctor ====")
    named = [line for line in summary.splitlines() if "missing-zero-grad (problem)" in line and "# the line" in line]
    assert [line.split(": ")[0].rpartition("::")[2] for line in named] == ["test_old", "test_ill", "test_reported_only"]


@pytest.mark.proof
def test_a_test_with_a_doctor_of_its_own_is_told_what_to_do(run):
    code, out = run(
        """
from loop_doctor import LoopDoctor
def test_own():
    with LoopDoctor():
        pass
@pytest.mark.loop_doctor(watch=False)
def test_left_alone():
    with LoopDoctor() as doctor:
        train(clear=False)
    assert doctor.findings
""",
        "--loop-doctor",
    )
    assert code == 1
    assert "1 failed, 1 passed" in out, out
    assert "loop_doctor(watch=False)" in out
    assert "Nothing wrong was seen." in out
