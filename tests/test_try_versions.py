"""`make try` in a small repository: the real git and make, and an environment of one file."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import try_versions
import yaml

pytestmark = pytest.mark.skipif(
    not (shutil.which("git") and shutil.which("make")), reason="a clone is made by git and tested by make"
)
# Each target notes what it was called with and which pins it found; the environment's Python is a pip that lists.
MAKEFILE = """\
setup:
\t@mkdir -p .venv/bin && cp pip .venv/bin/python && (echo "setup $(PYTHON)"; cat constraints.txt) >> log
test:
\t@(echo "test $(PYTHON)"; cat constraints.txt) >> log; test ! -e broken
"""
PIP = """\
#!/bin/sh
echo '[{"name": "torch", "version": "2.11.3+cu128"}, {"name": "nvidia-nccl-cu12", "version": "2.28"},
       {"name": "torchvision", "version": "0.26.1"}, {"name": "setuptools", "version": "81.0"},
       {"name": "torchmetrics", "version": "1.9.0"}]'
"""
PINS = "# a head\ncuda-toolkit==13.2\nnumpy==2.4.6\nsetuptools==84.2.1\ntorch==2.15.0\ntorchmetrics==1.9.0\n"
KEPT = "# a head\nnumpy==2.4.6\ntorchmetrics==1.9.0\n"


PROJECT = Path(__file__).resolve().parents[1]


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "a course 课程"
    folder.mkdir()
    files = {
        "Makefile": MAKEFILE,
        "pip": PIP,
        "constraints.txt": PINS,
        "pyproject.toml": "[build-system]\nrequires = ['setuptools>=77']\n",
        ".gitignore": "/build/\n/.venv/\nlog\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "pip").chmod(0o755)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(try_versions, "ROOT", folder)
    return folder


def test_another_pytorch_is_pinned_as_pip_has_chosen_it(root, capsys):
    assert try_versions.main(["--torch", "2.11"]) == 0
    log = (root / "build" / "try-python-torch2.11" / "log").read_text()
    chosen = "torch==2.11.3\nnvidia-nccl-cu12==2.28\ntorchvision==0.26.1\nsetuptools==81.0\n"
    assert log == f"setup \n{KEPT}torch==2.11.*\nsetuptools>=77\ntest \n{KEPT}{chosen}"
    assert (root / "constraints.txt").read_text() == PINS
    assert not (root / ".venv").exists()
    assert capsys.readouterr().out == ""


def test_a_second_call_tries_the_new_commit_in_the_same_environment(root, capsys):
    assert try_versions.main(["--python", "sh"]) == 0
    clone = root / "build" / "try-sh-torch-pinned"
    (clone / ".venv").mkdir()
    (root / "constraints.txt").write_text("# another head\n")
    git(root, "commit", "--quiet", "--all", "-m", "second")
    (root / "broken").touch()
    assert try_versions.main(["--python", "sh"]) == 0
    assert (clone / ".venv").is_dir()
    called = f"test {shutil.which('sh')}\n"
    assert (clone / "log").read_text() == f"{called}{PINS}{called}# another head\n"
    assert capsys.readouterr().out == "What is not committed is not tried.\n"


def test_a_failure_there_is_a_failure_here(root, capsys):
    (root / "broken").touch()
    git(root, "add", "broken")
    git(root, "commit", "--quiet", "-m", "broken")
    assert try_versions.main([]) == 1
    assert capsys.readouterr().err.endswith("make test failed in build/.\n")


def test_repeated_runs_are_counted_and_an_interrupted_count_goes_on(root, capsys):
    # The second run of the three fails; a run that was cut off before has left its file.
    clone, runs = root / "build" / "try-python-torch-pinned", root / "build"
    (root / "Makefile").write_text(MAKEFILE.replace("test ! -e broken", "test $$(grep -c test log) -ne 2"))
    git(root, "commit", "--quiet", "--all", "-m", "flaky")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
    runs /= f"try-python-torch-pinned-{commit.stdout.strip()}"
    runs.mkdir(parents=True)
    (runs / "2.txt").write_text("cut off")
    assert try_versions.main(["--times", "3"]) == 1
    said = capsys.readouterr()
    assert [line.split(": ")[-1].split(",")[0] for line in said.out.splitlines()[:3]] == ["passed", "FAILED", "passed"]
    assert said.out.splitlines()[3].startswith("2 of 3 runs passed; what each said is in build/try-python-torch")
    assert said.err.endswith("make test failed in build/.\n")
    assert sorted(path.name for path in runs.iterdir()) == ["1-passed.txt", "2-FAILED.txt", "3-passed.txt"]
    assert "Error 1" in (runs / "2-FAILED.txt").read_text()
    assert (clone / "log").read_text().count("test") == 3

    assert try_versions.main(["--times", "4"]) == 1
    assert "run 4 of 4, in build/" in capsys.readouterr().out
    assert (clone / "log").read_text().count("test") == 4
    # Another commit is counted anew.
    (root / "Makefile").write_text(MAKEFILE)
    git(root, "commit", "--quiet", "--all", "-m", "cured")
    assert try_versions.main(["--times", "2"]) == 0
    assert "2 of 2 runs passed" in capsys.readouterr().out


def test_no_run_at_all_is_no_count(root, capsys):
    with pytest.raises(SystemExit, match="2"):
        try_versions.main(["--times", "0"])
    assert "the tests run once or more, got 0 times" in capsys.readouterr().err


@pytest.mark.parametrize("torch", ["2", "newest", "2.11 "])
def test_what_is_no_release_is_named(root, torch, capsys):
    with pytest.raises(SystemExit, match="2"):
        try_versions.main(["--torch", torch])
    assert f"a release of PyTorch is a number as 2.11, got {torch!r}" in capsys.readouterr().err


def test_ci_tries_the_oldest_pytorch_on_the_oldest_python():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    torch = next(each for each in project["dependencies"] if each.startswith("torch>="))
    workflow = yaml.safe_load((PROJECT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    _, python, run = workflow["jobs"]["oldest"]["steps"]
    assert run["run"] == f"make try PYTHON=python TORCH={torch.removeprefix('torch>=')}"
    assert f">={python['with']['python-version']}" == project["requires-python"]
