"""`make` in a small copy of the checkout: the real make, sh, venv and pip, but packages of a few bytes."""

import json
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
import make_env
import pytest
import tiny_backend

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ["find_python.sh", "make_env.py", "lab.py", "run.py"]
TINY = ("tiny-torch", "tiny-lab", "tiny-test", "tiny-bench")
BACKEND = """\
[build-system]
requires = []
build-backend = "tiny_backend"
backend-path = ["."]

[tool.setuptools]
"""
DOCTOR = f"""\
{BACKEND}
[project]
name = "tiny-doctor"
version = "1.0"
dependencies = ["tiny-torch>=1"]
optional-dependencies = {{}}
"""
PYPROJECT = f"""\
{BACKEND}
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
bench = ["tiny-bench>=1", "tiny-torch>=1"]
"""

needs_make = pytest.mark.skipif(
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
        for project, text in ((folder, PYPROJECT), (folder / "loop-doctor", DOCTOR)):
            project.mkdir(exist_ok=True)
            shutil.copy(tiny_backend.__file__, project)
            (project / "pyproject.toml").write_text(text, encoding="utf-8")
        self.pin("1.0")
        (folder / "wheels").mkdir()
        for name in TINY:
            for version in ("1.0", "2.0"):
                tiny_backend.write_wheel(folder / "wheels", name, version)
        # A Python by its usual name, whatever the machine calls it.
        self.programs = folder.parent / "programs"
        self.programs.mkdir()
        (self.programs / "python3.13").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")

    def pin(self, version: str) -> None:
        text = "".join(f"{name}=={version}\n" for name in TINY)
        (self.folder / "constraints.txt").write_text(text, encoding="utf-8")

    def environment(self, index: str | None = None) -> dict[str, str]:
        """Return an environment in which pip takes packages from the folder with wheels, or from an index."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "PYTHON"))}
        keep |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        if index is None:
            return keep | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": (self.folder / "wheels").as_uri()}
        return keep | {"PIP_INDEX_URL": index, "PIP_RETRIES": "0"}

    def start(self, *arguments: str, path: str | None = None, index: str | None = None) -> subprocess.Popen:
        """Start make."""
        return subprocess.Popen(
            [shutil.which("make"), "--no-print-directory", *arguments],
            cwd=self.folder,
            env={**self.environment(index), "PATH": path or f"{self.programs}{os.pathsep}{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def make(self, *arguments: str, **start: str | None) -> tuple[int, str, list[str]]:
        """Run make; return its status, its output, and the lines of its errors except make's own."""
        done = self.start(*arguments, **start)
        output, errors = done.communicate(timeout=100)
        return done.returncode, output, [line for line in errors.splitlines() if not line.startswith("make: ***")]

    def versions(self, venv: str = ".venv") -> dict[str, str]:
        found = (self.folder / venv).glob("lib/python3*/site-packages/tiny_*.dist-info")
        return dict(path.name.removeprefix("tiny_").removesuffix(".dist-info").split("-") for path in found)

    def interrupt_in_pip(self) -> str:
        """Start `make setup`, wait until pip is at work, and press Ctrl-C; return what it printed to stderr."""
        (self.folder / "pause").touch()
        log, running = self.folder / "builds.log", self.start("setup")
        deadline = time.monotonic() + 60
        while not log.exists():
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline, "pip never began to build"
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGINT)
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


@needs_make
def test_old_python_that_was_named_is_reported_in_one_line(tree):
    old = python_that(tree, "python3.9", OLD)
    status, output, errors = tree.make("setup", f"PYTHON={old}")
    assert status != 0
    assert output == ""
    assert errors == [
        f"PYTHON={old} is Python 3.9.18: name a Python 3.11 or newer, as in  make setup PYTHON=/path/to/python3.11"
    ]
    assert not (tree.folder / ".venv").exists()


@needs_make
def test_old_python_on_path_is_reported_in_one_line(tree):
    python_that(tree, "python3", OLD)
    status, _, errors = tree.make("lab", path=path_without_python(tree, "python3"))
    assert status != 0
    assert errors == [
        "Python 3.11 or newer is needed (python3 is Python 3.9.18): install one, or name one with  "
        "make setup PYTHON=/path/to/python3.11"
    ]


@needs_make
def test_missing_python_is_reported_in_one_line(tree):
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


@needs_make
def test_python_without_venv_is_reported_in_one_line(tree):
    bare = python_that(tree, "python3", 'sys.modules["ensurepip"] = None')
    status, _, errors = tree.make("setup", f"PYTHON={bare}")
    assert status != 0
    assert len(errors) == 1
    assert "without its venv module (Debian, Ubuntu: apt-get install python3-venv)" in errors[0]


@needs_make
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


UP_TO_DATE = (0, ".venv is up to date.\n", [])


@needs_make
@pytest.mark.slow
@pytest.mark.timeout(300)  # two environments are made, each by a fresh Python
def test_setup_survives_what_can_happen_to_it(tree):
    venv = tree.folder / ".venv"

    # Ctrl-C while pip is at work: one sentence, and no stamp.
    assert "Interrupted. Run the same command again" in tree.interrupt_in_pip()
    assert venv.exists()
    assert not (venv / make_env.STAMP).exists()
    (venv / "left over").touch()

    # The next call starts from nothing, with the Python of .venv; before the download it says how to avoid most of it.
    status, output, errors = tree.make("setup")
    assert (status, errors) == (0, [])
    assert output.startswith("Making .venv with Python ")
    assert f"{make_env.BEFORE_DOWNLOAD}\nInstalling lab, zh, hub, site, test into .venv.\n" in output
    assert output.endswith(".venv is ready.\n")
    assert tree.versions() == {"course": "1.0", "doctor": "1.0", "torch": "1.0", "lab": "1.0", "test": "1.0"}
    assert not (venv / "left over").exists()

    # Up to date: nothing runs, also for `make lab`'s part, with a Python by name, and without a network.
    nobody = "http://127.0.0.1:9/simple"  # nothing listens at this port
    assert tree.make("setup", "PYTHON=python3.13", index=nobody) == UP_TO_DATE
    (tree.folder / "tools" / "lab.py").write_text("print('the lab opens')\n")
    assert tree.make("lab", index=nobody) == (0, ".venv is up to date.\nthe lab opens\n", [])

    # New pins reach every extra, also through `make lab`, which by itself needs less; .venv is not made again.
    made = (venv / "pyvenv.cfg").stat().st_mtime_ns
    tree.pin("2.0")
    status, output, errors = tree.make("lab")
    assert (status, errors) == (0, [])
    assert output.endswith(".venv is ready.\nthe lab opens\n")
    assert tree.versions() == {"course": "1.0", "doctor": "1.0", "torch": "2.0", "lab": "2.0", "test": "2.0"}
    assert (venv / "pyvenv.cfg").stat().st_mtime_ns == made

    # The libraries of the benchmarks come beside .venv, which stays as it is.
    before, command = sorted(venv.rglob("*")), [".venv/bin/python", "-B", "tools/make_env.py", "bench"]
    for last_line in (".venv-bench is ready.", ".venv-bench is up to date."):
        done = subprocess.run(command, cwd=tree.folder, env=tree.environment(), capture_output=True, text=True)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, last_line), done.stderr
    assert tree.versions(".venv-bench") == {"bench": "2.0"}
    assert sorted(venv.rglob("*")) == before


@pytest.fixture
def stamped(tmp_path, monkeypatch):
    """An environment with a stamp; the list holds what is done to it: "made" or the arguments of pip."""
    done = []

    class Builder:
        def __init__(self, **options):
            assert options["clear"]

        def create(self, venv):
            done.append("made")

    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / make_env.STAMP).write_text(json.dumps(make_env.stamp_for(["lab"])))
    monkeypatch.setattr(make_env, "VENV", venv)
    monkeypatch.setattr(make_env, "EnvBuilder", Builder)
    monkeypatch.setattr(make_env.subprocess, "run", lambda command, **options: done.append(command[4:]))
    return venv, done


def test_a_good_environment_is_left_alone_and_a_new_extra_is_added(stamped):
    _, done = stamped
    assert make_env.main(["lab"]) == 0
    assert done == []
    assert make_env.main(["test"]) == 0
    assert done == [make_env.pip_arguments(["lab", "test"])]


@pytest.mark.parametrize("change", ["root", "python", "no stamp", "half a stamp", "{}", "[]", "its Python is gone"])
def test_an_environment_of_another_place_or_python_is_made_again(stamped, change):
    venv, done = stamped
    stamp = venv / make_env.STAMP
    if change == "no stamp":
        stamp.unlink()
    elif change == "half a stamp":
        stamp.write_text(stamp.read_text()[:20])
    elif change in ("{}", "[]"):
        stamp.write_text(change)
    elif change == "its Python is gone":
        (venv / "bin" / "python").unlink()
        (venv / "bin" / "python").symlink_to("/no/such/python3.11")
    else:
        stamp.write_text(json.dumps({**json.loads(stamp.read_text()), change: "another"}))
    assert make_env.main(["lab"]) == 0
    assert done == ["made", make_env.pip_arguments(["lab"])]


def test_without_a_network_setup_says_what_to_do_and_leaves_no_stamp(stamped, monkeypatch, capsys):
    venv, _ = stamped
    failing = [sys.executable, "-m", "pip", "download", "--retries=0", "--index-url=http://127.0.0.1:9/simple", "no"]
    monkeypatch.setattr(make_env.subprocess, "run", lambda command, **options: subprocess.check_call(failing))
    assert make_env.main(["test"]) == 1
    assert capsys.readouterr().err == make_env.PIP_FAILED + "\n"
    assert not (venv / make_env.STAMP).exists()


def test_an_environment_that_is_a_link_is_refused(stamped, tmp_path):
    venv, done = stamped
    venv.rename(tmp_path / "somebody's environment")
    venv.symlink_to(tmp_path / "somebody's environment")
    with pytest.raises(SystemExit, match=r"\.venv is a link to .*somebody's environment, and setup might empty"):
        make_env.main(["lab"])
    assert done == []


def test_the_settings_of_other_tools_decide_nothing_about_the_environment(monkeypatch, tmp_path):
    for name in ("pyproject.toml", "loop-doctor/pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(make_env, "ROOT", tmp_path)
    before = make_env.stamp_for(["lab"])
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(pyproject.read_text(encoding="utf-8") + "[tool.something]\nnew = 1\n", encoding="utf-8")
    assert make_env.stamp_for(["lab"]) == before
    doctor = tmp_path / "loop-doctor" / "pyproject.toml"
    doctor.write_text(doctor.read_text(encoding="utf-8").replace("torch>=", "torch>"), encoding="utf-8")
    assert make_env.stamp_for(["lab"]) != before


def test_our_pins_take_the_cpu_build_from_a_second_index(tmp_path):
    """README's advice for a machine without an NVIDIA card, with wheels of a few bytes."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^(torch|torchvision)==(\S+)$", constraints, re.MULTILINE))
    for index, suffix in (("plain", ""), ("cpu", "+cpu")):
        for name, version in pinned.items():
            folder = tmp_path / index / name
            folder.mkdir(parents=True)
            wheel = tiny_backend.write_wheel(folder, name, version + suffix)
            (folder / "index.html").write_text(f'<a href="{wheel.replace("+", "%2B")}">{wheel}</a>')
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--index-url", (tmp_path / "plain").as_uri(), "--report", "-", "--constraint", "constraints.txt"]
    for extra_index, suffix in (("", ""), ((tmp_path / "cpu").as_uri(), "+cpu")):
        env = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": extra_index}
        done = subprocess.run([*command, *pinned], cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        chosen = [package["metadata"] for package in json.loads(done.stdout)["install"]]
        assert {package["name"]: package["version"] for package in chosen} == {
            name: version + suffix for name, version in pinned.items()
        }


@needs_make
def test_a_folder_that_cannot_be_written_in_is_reported(tree):
    # Root may write anywhere, so there is a file in place of .venv.
    (tree.folder / ".venv").touch()
    status, _, errors = tree.make("lab")
    assert status != 0
    assert "Not a directory" in errors[0]
    assert errors[1:] == ["Setup needs a writable folder with 7 GB of space and no colon in its path."]


@needs_make
def test_a_folder_with_a_colon_is_reported(tree):
    tree.folder = tree.folder.rename(tree.folder.with_name("lesson 1: start"))
    status, _, errors = tree.make("setup")
    assert status != 0
    assert "contains the PATH separator" in errors[0]
    assert errors[1:] == ["Setup needs a writable folder with 7 GB of space and no colon in its path."]


@pytest.fixture
def listener():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def lab(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, ROOT / "tools" / "lab.py", *arguments], capture_output=True, text=True)


@needs_make
def test_taken_port_is_reported_in_one_line(tree, listener):
    # What `make lab` passes on, shown by make itself; the message comes from the program that it calls.
    _, output, _ = tree.make("--dry-run", "lab", f"PORT={listener}")
    assert output.splitlines()[-1] == f'.venv/bin/python tools/lab.py --port "{listener}"'
    done = lab("--port", str(listener))
    assert done.returncode == 1
    assert done.stderr == f"Port {listener} is taken. Name another one, as in: make lab PORT={listener % 65535 + 1}\n"


@pytest.mark.parametrize("port", ["abc", "0", "65536", "-1", "8888.5"])
def test_what_is_not_a_port_is_reported_in_one_line(port):
    done = lab(f"--port={port}")
    assert done.returncode == 1
    assert done.stderr == f"A port is a whole number from 1 to 65535, got {port!r}.\n"


@needs_make
def test_a_language_is_installed_and_passed_on(tree):
    _, output, _ = tree.make("--dry-run", "lab", "LOCALE=zh_CN")
    assert re.search(r"tools/make_env\.py lab zh$", output, re.MULTILINE)
    assert output.splitlines()[-1] == '.venv/bin/python tools/lab.py --locale "zh_CN"'
    _, output, _ = tree.make("--dry-run", "lab")
    assert re.search(r"tools/make_env\.py lab$", output, re.MULTILINE)
    assert "--locale" not in output


def test_a_language_that_is_missing_is_reported_in_one_line():
    done = lab("--locale=fr")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "JupyterLab's menus come in en or zh_CN, got 'fr'. Try: make lab LOCALE=zh_CN\n"


def test_a_language_whose_translation_is_missing_is_reported(monkeypatch):
    monkeypatch.setattr(lab_tool.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"has no translation for 'zh_CN'\. Install it: make lab LOCALE=zh_CN"):
        lab_tool.locale_variables("zh_CN")


def test_the_settings_of_a_language_come_before_those_that_are_named_already(monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/a/folder")
    folder = ROOT / "tools" / "locales" / "en"
    assert lab_tool.locale_variables("en") == {"JUPYTER_CONFIG_PATH": f"{folder}{os.pathsep}/a/folder"}
    monkeypatch.delenv("JUPYTER_CONFIG_PATH")
    assert lab_tool.locale_variables("en") == {"JUPYTER_CONFIG_PATH": str(folder)}


@needs_make
def test_make_without_a_target_lists_every_target(tree):
    status, output, _ = tree.make()
    listed = [line.split()[1] for line in output.splitlines()]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY:((?:.*\\\n)*.*)", makefile, re.MULTILINE)[1].replace("\\", "").split()
    assert status == 0
    assert listed == phony


@needs_make
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
