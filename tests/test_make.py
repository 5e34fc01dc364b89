"""`make` in a small copy of the checkout: the real make, sh, venv and pip, but packages of a few bytes."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import lab as lab_tool
import pytest
import tiny_backend

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ["find_python.sh", "make_env.py", "lab.py", "run.py"]
PYPROJECT = """\
[build-system]
requires = []
build-backend = "tiny_backend"
backend-path = ["."]

[project]
name = "tiny-course"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["tiny-torch>=1"]

[project.optional-dependencies]
lab = ["tiny-lab>=1"]
zh = []
hub = []
site = []
test = ["tiny-test>=1"]
bench = ["tiny-bench>=1"]

[tool.setuptools]
"""

pytestmark = pytest.mark.skipif(
    os.name == "nt" or not shutil.which("make"), reason="make is not here: on Windows the course is set up by conda"
)


class Tree:
    """A checkout in miniature."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "tools").mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", folder)
        for name in TOOLS:
            shutil.copy(ROOT / "tools" / name, folder / "tools")
        shutil.copy(tiny_backend.__file__, folder)
        (folder / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
        self.pin("1.0")
        (folder / "wheels").mkdir()
        for name in ("tiny-torch", "tiny-lab", "tiny-test", "tiny-bench"):
            for version in ("1.0", "2.0"):
                tiny_backend.write_wheel(folder / "wheels", name, version)
        # A Python by its usual name, whatever the machine calls it.
        self.programs = folder.parent / "programs"
        self.programs.mkdir()
        (self.programs / "python3.13").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")

    def pin(self, version: str) -> None:
        names = ("tiny-torch", "tiny-lab", "tiny-test", "tiny-bench")
        text = "".join(f"{name}=={version}\n" for name in names)
        (self.folder / "constraints.txt").write_text(text, encoding="utf-8")

    def start(self, *arguments: str, path: str | None = None, index: str | None = None) -> subprocess.Popen:
        """Start make; packages come from the folder with wheels, or from an index."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "PYTHON"))}
        env = {
            **keep,
            "PATH": path or f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        if index is None:
            env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": (self.folder / "wheels").as_uri()}
        else:
            env |= {"PIP_INDEX_URL": index, "PIP_RETRIES": "1"}
        return subprocess.Popen(
            [shutil.which("make"), "--no-print-directory", *arguments],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def make(self, *arguments: str, **start: str | None) -> tuple[int, str, list[str]]:
        """Run make; give its status, its output, and the lines of its errors but for make's own."""
        done = self.start(*arguments, **start)
        output, errors = done.communicate(timeout=100)
        return done.returncode, output, [line for line in errors.splitlines() if not line.startswith("make: ***")]

    def builds(self) -> int:
        log = self.folder / "builds.log"
        return len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0

    def versions(self) -> dict[str, str]:
        site = next((self.folder / ".venv").glob("lib/python3*/site-packages"))
        found = [path.name.removesuffix(".dist-info").split("-") for path in site.glob("tiny_*.dist-info")]
        return {name.removeprefix("tiny_"): version for name, version in found}

    def interrupt_in_pip(self, how: signal.Signals, *arguments: str) -> str:
        """Start make, wait until pip is at work, and send the signal to all that make started, as a terminal does."""
        (self.folder / "pause").touch()
        before, running = self.builds(), self.start(*arguments)
        deadline = time.monotonic() + 60
        while self.builds() == before:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline, "pip never began to build"
            time.sleep(0.05)
        os.killpg(running.pid, how)
        _, errors = running.communicate(timeout=30)
        (self.folder / "pause").unlink()
        assert running.returncode != 0
        return errors


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "a course 课程" / "checkout")


def python_that(tree: Tree, name: str, before: str) -> Path:
    """Put a Python on PATH that is this one, but for a statement that it runs first."""
    path = tree.programs / name
    path.unlink(missing_ok=True)
    path.write_text(f"""#!/bin/sh
shift
code=$1
shift
exec '{sys.executable}' -c 'import sys; {before}; code = sys.argv.pop(1); exec(code)' "$code" "$@"
""")
    path.chmod(0o755)
    return path


OLD = 'sys.version_info = (3, 9, 18, "final", 0)'


def path_without_python(tree: Tree, *keep: str) -> str:
    """Make a PATH that holds what the recipes call, and of the Pythons only those that are named."""
    only = tree.folder.parent / "only"
    only.mkdir()
    for name in ("sh", "sed", "dirname", "awk"):
        (only / name).symlink_to(shutil.which(name))
    for name in keep:
        (only / name).symlink_to(tree.programs / name)
    return str(only)


def test_old_python_that_was_named_is_told_in_one_line(tree):
    old = python_that(tree, "python3.9", OLD)
    status, output, errors = tree.make("setup", f"PYTHON={old}")
    assert status != 0
    assert output == ""
    assert errors == [
        f"PYTHON={old} is Python 3.9.18: name a Python 3.11 or newer, as in  make setup PYTHON=/path/to/python3.11"
    ]
    assert not (tree.folder / ".venv").exists()


def test_old_python_on_path_is_told_in_one_line(tree):
    python_that(tree, "python3", OLD)
    status, _, errors = tree.make("lab", path=path_without_python(tree, "python3"))
    assert status != 0
    assert errors == [
        "Python 3.11 or newer is needed (python3 is Python 3.9.18): install one, or name one with  "
        "make setup PYTHON=/path/to/python3.11"
    ]


def test_missing_python_is_told_in_one_line(tree):
    status, _, errors = tree.make("test", path=path_without_python(tree))
    assert status != 0
    assert errors == [
        "Python 3.11 or newer is needed (no Python was found): install one, or name one with  "
        "make setup PYTHON=/path/to/python3.11"
    ]
    status, _, errors = tree.make("setup", "PYTHON=/no such/python")
    assert status != 0
    assert errors == [
        "PYTHON=/no such/python does not run: name a Python 3.11 or newer, as in  make setup PYTHON=/path/to/python3.11"
    ]


def test_python_without_venv_is_told_in_one_line(tree):
    bare = python_that(tree, "python3", 'sys.modules["ensurepip"] = None')
    status, _, errors = tree.make("setup", f"PYTHON={bare}")
    assert status != 0
    assert len(errors) == 1
    assert "without its venv module (Debian, Ubuntu: apt-get install python3-venv)" in errors[0]


def test_newer_python_is_found_behind_broken_and_old_ones(tree):
    (tree.programs / "python3.12").write_text("#!/bin/sh\necho 'no such version' >&2\nexit 127\n")
    (tree.programs / "python3.12").chmod(0o755)
    (tree.programs / "python").symlink_to((tree.programs / "python3.13").readlink())
    (tree.programs / "python3.13").unlink()
    python_that(tree, "python3", OLD)
    path = path_without_python(tree, "python3.12", "python3", "python")
    found = subprocess.run(
        ["sh", "tools/find_python.sh"], cwd=tree.folder, env={"PATH": path}, capture_output=True, text=True
    )
    assert (found.stdout, found.stderr) == ("python\n", "")


@pytest.mark.slow
@pytest.mark.timeout(600)  # five environments are made, each by a fresh Python
def test_setup_survives_what_can_happen_to_it(tree):
    venv = tree.folder / ".venv"

    # Ctrl-C while pip is at work: one line says how to go on, and no stamp says that it is done.
    errors = tree.interrupt_in_pip(signal.SIGINT, "setup")
    assert "Interrupted. Call it again: it goes on from here." in errors
    made = (venv / "pyvenv.cfg").stat().st_mtime_ns

    # The same without a chance to tidy up. What pip had in hand is gone with the next call, not with the last one.
    (venv / "pip-scratch" / "half a download").touch()
    tree.interrupt_in_pip(signal.SIGKILL, "setup")
    assert list((venv / "pip-scratch").iterdir())
    assert not (venv / "pip-scratch" / "half a download").exists()

    # No network before all is installed: pip's words, then what is missing and what to do.
    with socket.socket() as nobody:  # bound, and never listening: every connection is refused
        nobody.bind(("127.0.0.1", 0))
        status, output, errors = tree.make("setup", index=f"http://127.0.0.1:{nobody.getsockname()[1]}/simple")
    assert status != 0
    assert any("after connection broken by" in line for line in errors)
    assert errors[-1] == (
        "The package index did not answer, so the packages that the course needs could not be downloaded. Connect to "
        "the network, or see to its proxy, and call it again: it goes on from here. Once all is installed, no network "
        "is needed."
    )

    status, output, errors = tree.make("setup")
    assert (status, errors) == (0, [])
    assert output.endswith(".venv is ready.\n")
    assert tree.versions() == {"course": "1.0", "torch": "1.0", "lab": "1.0", "test": "1.0"}
    assert (venv / "pyvenv.cfg").stat().st_mtime_ns == made, "a good .venv must be gone on with, not made anew"
    assert not (venv / "pip-scratch").exists()

    # Up to date: nothing runs, with whatever Python, for `make lab`'s part too, without packages to install from, and
    # without a network.
    builds = tree.builds()
    (tree.folder / "wheels").rename(tree.folder / "no wheels")
    for arguments in (["setup"], ["setup", f"PYTHON={tree.programs / 'python3.13'}"], ["setup", "PYTHON=python3.13"]):
        assert tree.make(*arguments) == (0, ".venv is up to date.\n", [])
    assert tree.make("setup", index="http://127.0.0.1:9/simple") == (0, ".venv is up to date.\n", [])
    assert tree.builds() == builds
    (tree.folder / "no wheels").rename(tree.folder / "wheels")

    # A package that pip counts as installed although its last files are missing.
    site = next(venv.glob("lib/python3*/site-packages"))
    (site / "tiny_lab" / "__init__.py").unlink()
    (site / "tiny_test-1.0.dist-info" / "RECORD").unlink()
    (site / "~iny_torch").mkdir()
    (venv / "course-setup.json").write_text("{ cut off in the midd")
    status, output, errors = tree.make("setup")
    assert (status, errors) == (0, [])
    assert "tiny_lab was installed only in part: installing it again.\n" in output
    assert "tiny_test was installed only in part: installing it again.\n" in output
    assert (site / "tiny_lab" / "__init__.py").exists()
    assert (site / "tiny_test-1.0.dist-info" / "RECORD").exists()
    assert not (site / "~iny_torch").exists()

    # New pins reach every extra, also through `make lab`, which by itself needs less.
    tree.pin("2.0")
    (tree.folder / "tools" / "lab.py").write_text("print('the lab opens')\n")
    status, output, errors = tree.make("lab")
    assert (status, errors) == (0, [])
    assert output.endswith(".venv is ready.\nthe lab opens\n")
    assert tree.versions() == {"course": "1.0", "torch": "2.0", "lab": "2.0", "test": "2.0"}

    # The settings of ruff and pytest decide nothing about what is installed.
    builds = tree.builds()
    with (tree.folder / "pyproject.toml").open("a") as pyproject:
        pyproject.write("[tool.ruff]\nline-length = 120\n")
    assert tree.make("setup") == (0, ".venv is up to date.\n", [])
    assert tree.builds() == builds

    # pip fails: said in one line after pip's own, and the next call tries again.
    tree.pin("3.0")
    status, output, errors = tree.make("setup")
    assert status != 0
    assert errors[-1].startswith("pip failed (")
    assert errors[-1].endswith("call it again: it goes on from here.")
    tree.pin("2.0")

    # The checkout moves: programs in .venv know the old place, so it is made anew, from within itself.
    moved = tree.folder.with_name("moved")
    tree.folder.rename(moved)
    old, tree.folder, venv = tree.folder, moved, moved / ".venv"
    status, output, errors = tree.make("setup")
    assert (status, errors) == (0, [])
    assert f"The checkout has moved from {old}: making .venv anew.\n" in output
    assert str(moved) in (venv / "bin" / "pip").read_text(encoding="utf-8")

    # The Python that .venv was made from has gone.
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/no/such/python3.11")
    status, output, errors = tree.make("setup")
    assert (status, errors) == (0, [])
    assert output.endswith(".venv is ready.\n")
    assert subprocess.run([venv / "bin" / "python", "-c", "import tiny_lab, tiny_test"]).returncode == 0

    # The libraries of the benchmarks come beside .venv: they see what it holds and leave it alone.
    before = sorted(path.name for path in venv.glob("lib/python3*/site-packages/*"))
    done = subprocess.run(
        [".venv/bin/python", "tools/make_env.py", "bench"],
        cwd=tree.folder,
        env={
            **os.environ,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": (moved / "wheels").as_uri(),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    bench = {path.name for path in (moved / ".venv-bench").glob("lib/python3*/site-packages/*.dist-info")}
    assert bench == {"tiny_bench-2.0.dist-info", "tiny_course-1.0.dist-info"}
    assert sorted(path.name for path in venv.glob("lib/python3*/site-packages/*")) == before


def test_a_folder_that_cannot_be_written_in_is_told_in_one_line(tree):
    # Root may write anywhere, so a file stands where .venv should be.
    (tree.folder / ".venv").touch()
    status, _, errors = tree.make("lab")
    assert status != 0
    assert len(errors) == 1
    assert errors[0].startswith(f"{tree.folder / '.venv'}")
    assert errors[0].endswith(
        ": Not a directory. The course needs a folder that you can write in, with 7 GB of room: put it into one, and "
        "call it there."
    )


def test_a_folder_with_a_colon_is_told_in_one_line(tree):
    tree.folder = tree.folder.rename(tree.folder.with_name("lesson 1: start"))
    status, _, errors = tree.make("setup")
    assert status != 0
    assert len(errors) == 1
    assert "contains the PATH separator" in errors[0]
    assert errors[0].endswith(" Rename the folder, and call it again.")


@pytest.mark.slow
def test_half_made_venv_is_made_anew(tree):
    # What is left when the making of .venv itself is cut off: a Python that starts, and half a pip.
    venv = tree.folder / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next(venv.glob("lib/python3*/site-packages"))
    (site / "pip").mkdir()
    (site / "pip" / "__init__.py").write_text("")
    status, output, errors = tree.make("setup")
    assert (status, errors) == (0, [])
    assert output.endswith(".venv is ready.\n")


@pytest.fixture
def listener():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def lab(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, ROOT / "tools" / "lab.py", *arguments], capture_output=True, text=True)


def test_taken_port_is_told_in_one_line(tree, listener):
    # What `make lab` passes on, shown by make itself; the message comes from the program that it calls.
    _, output, _ = tree.make("--dry-run", "lab", f"PORT={listener}")
    assert output.splitlines()[-1] == f'.venv/bin/python tools/lab.py --port "{listener}"'
    done = lab("--port", str(listener))
    assert done.returncode == 1
    assert done.stderr == f"Port {listener} is taken: name another one, as in  make lab PORT={listener % 65535 + 1}\n"


@pytest.mark.parametrize("port", ["abc", "0", "65536", "-1", "8888.5"])
def test_what_is_no_port_is_told_in_one_line(port):
    done = lab(f"--port={port}")
    assert done.returncode == 1
    assert done.stderr == f"A port is a whole number from 1 to 65535, got {port!r}.\n"


def test_a_language_is_installed_and_passed_on(tree):
    _, output, _ = tree.make("--dry-run", "lab", "LOCALE=zh_CN")
    assert re.search(r"tools/make_env\.py lab zh$", output, re.MULTILINE)
    assert output.splitlines()[-1] == '.venv/bin/python tools/lab.py --locale "zh_CN"'
    _, output, _ = tree.make("--dry-run", "lab")
    assert re.search(r"tools/make_env\.py lab$", output, re.MULTILINE)
    assert "--locale" not in output


def test_a_language_that_is_not_here_is_told_in_one_line():
    done = lab("--locale=fr")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "JupyterLab's menus come in en or zh_CN, got 'fr': try  make lab LOCALE=zh_CN\n"


def test_a_language_whose_words_are_missing_is_told(monkeypatch):
    monkeypatch.setattr(lab_tool.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"has no words for 'zh_CN':  make lab LOCALE=zh_CN  installs them"):
        lab_tool.speaking("zh_CN")


def test_the_settings_of_a_language_come_before_those_that_are_named_already(monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/a/folder")
    folder = ROOT / "tools" / "locales" / "en"
    assert lab_tool.speaking("en") == {"JUPYTER_CONFIG_PATH": f"{folder}{os.pathsep}/a/folder"}
    monkeypatch.delenv("JUPYTER_CONFIG_PATH")
    assert lab_tool.speaking("en") == {"JUPYTER_CONFIG_PATH": str(folder)}


def test_make_without_a_target_lists_every_target(tree):
    status, output, _ = tree.make()
    listed = [line.split()[1] for line in output.splitlines()]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = next(line for line in makefile.splitlines() if line.startswith(".PHONY:"))
    assert status == 0
    assert listed == phony.split()[1:]


def test_clean_leaves_the_learners_own_files(tree):
    for name in (".venv/bin", "artifacts", "course_utils/__pycache__", "learner"):
        (tree.folder / name).mkdir(parents=True)
    (tree.folder / "learner" / "predictions.json").write_text("{}")
    assert tree.make("clean")[0] == 0
    left = {path.name for path in tree.folder.iterdir()}
    assert {"learner", "course_utils", "Makefile"} <= left
    assert not left & {".venv", "artifacts"}
    assert not list((tree.folder / "course_utils").iterdir())
    assert (tree.folder / "learner" / "predictions.json").exists()
