"""The files of the project agree with each other: versions, installations, and what `make check` and CI run."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import make_env
import pin
import pytest
import run
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def read_pins() -> dict[str, str]:
    lines = [line for line in text("constraints.txt").splitlines() if line and not line.startswith("#")]
    pins = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pins), "constraints.txt holds lines NAME==VERSION and comments"
    names = [canonicalize_name(name) for name, _ in pins]
    assert len(names) == len(set(names)), "constraints.txt pins a package twice"
    return dict(zip(names, (version for _, version in pins), strict=True))


PINS = read_pins()


# One set of versions, written in four files.


@pytest.mark.parametrize("extra", [None, "build-system", *PROJECT["optional-dependencies"]])
def test_every_requirement_is_pinned_inside_its_range(extra):
    if extra == "build-system":
        requirements = PYPROJECT["build-system"]["requires"]
    else:
        requirements = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    assert requirements
    for requirement in map(Requirement, requirements):
        pinned = PINS.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement.name} is not in constraints.txt: run `make pins`"
        assert requirement.specifier.contains(pinned), f"{requirement} does not allow the pin {pinned}"
        assert requirement.specifier, f"{requirement.name} has no lower bound in pyproject.toml"


def test_what_is_installed_here_has_the_pinned_version():
    installed = {canonicalize_name(dist.metadata["Name"]): dist.version for dist in importlib.metadata.distributions()}
    named = PINS.keys() & installed.keys()
    assert {"torch", "torchvision", "jupyterlab", "pytest"} <= named
    # A build of its own, such as 2.15.0+cpu, is the pinned release all the same.
    differ = {name: (installed[name], PINS[name]) for name in named if Version(installed[name]).public != PINS[name]}
    assert not differ, "installed, pinned: run `make setup`"


def pip_part() -> list[str]:
    return next(entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))


def test_environment_yml_leaves_all_but_python_to_pip():
    conda = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]
    assert [re.split("[=<>]", entry)[0] for entry in conda] == ["python", "pip"]
    assert [entry for entry in ENVIRONMENT["dependencies"] if not isinstance(entry, str)] == [{"pip": pip_part()}]


def test_environment_yml_installs_what_make_lab_installs():
    assert " ".join(pip_part()).split() == make_env.pip_arguments(["lab"])


def recipe(target: str) -> list[str]:
    lines = text("Makefile").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{target}:"))
    body = []
    for line in lines[start + 1 :]:
        if not line.startswith("\t"):
            break
        body.append(line.strip().removeprefix("@"))
    return body


def test_python_versions_agree():
    least = re.fullmatch(r">=(\d+\.\d+)", PROJECT["requires-python"])[1]
    jobs = {job for path in WORKFLOWS for job in re.findall(r'python: "([\d.]+)"', path.read_text(encoding="utf-8"))}
    conda = next(e for e in ENVIRONMENT["dependencies"] if str(e).startswith("python=")).removeprefix("python=")
    tried = set(re.findall(r"python(3\.\d+)", re.search(r"for candidate in (.*); do", text("tools/find_python.sh"))[1]))
    assert min(jobs, key=Version) == least
    assert conda in jobs
    assert jobs == tried
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + least.replace(".", "")


def test_pip_takes_environment_yml_as_conda_hands_it_over(tmp_path):
    # A requirements file beside environment.yml, and pip called from there.
    checkout = tmp_path / "a course 课程"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("course_utils", "loop-doctor"):
        shutil.copytree(ROOT / name, checkout / name, ignore=ignore)
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    (checkout / "condaenv.requirements.txt").write_text("\n".join(pip_part()) + "\n", encoding="utf-8")
    report = tmp_path / "report.json"
    # Whether the pins fit together is another test's: without an index, and without pip's minutes.
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--quiet", "--report", report, "--requirement", "condaenv.requirements.txt"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    packages = json.loads(report.read_text(encoding="utf-8"))["install"]
    extras = {package["metadata"]["name"]: package.get("requested_extras") for package in packages}
    assert extras == {"loop-doctor": None, PROJECT["name"]: ["lab"]}
    assert all(package["download_info"]["dir_info"] == {"editable": True} for package in packages)


def test_no_index_is_asked_for_the_loop_doctor():
    """It comes from its folder; on an index, a stranger could claim the name."""
    for required in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        assert "loop-doctor" not in {canonicalize_name(Requirement(requirement).name) for requirement in required}
    assert make_env.pip_arguments(["lab"])[2:4] == ["--editable", "./loop-doctor"]


def needed(requirements: list[Requirement]) -> dict[str, list[Requirement]]:
    """Return everything that these requirements bring along here, by name: each with what asks for it."""
    found: dict[str, list[Requirement]] = {}
    extras: dict[str, set[str]] = {}
    while requirements:
        requirement = requirements.pop()
        name = canonicalize_name(requirement.name)
        new = requirement.extras - extras.setdefault(name, set())
        if name not in found or new:
            extras[name] |= new
            wanted = map(Requirement, importlib.metadata.requires(name) or [])
            # Python's environment, with each extra that was asked for, and with none.
            asked = [{"extra": extra} for extra in ("", *extras[name])]
            requirements += [r for r in wanted if not r.marker or any(map(r.marker.evaluate, asked))]
        found.setdefault(name, []).append(requirement)
    return found


def test_the_pins_fit_together_and_leave_nothing_open():
    """What a learner installs: each package that is brought along is pinned, within what everyone asks of it."""
    extra = PROJECT["optional-dependencies"]["lab"]
    closure = needed([Requirement(requirement) for requirement in [*PROJECT["dependencies"], *extra]])
    assert {"torch", "sympy", "jupyterlab", "tornado", "matplotlib", "pillow"} <= closure.keys()
    assert "pytest" not in closure
    assert closure.keys() - PINS.keys() == set()
    refused = [(r, PINS[name]) for name, asked in closure.items() for r in asked if PINS[name] not in r.specifier]
    assert refused == []


def test_pins_are_rewritten_below_the_head():
    report = {
        "install": [
            {"metadata": {"name": "torch", "version": "2.15.0"}},
            {"metadata": {"name": "Jinja2", "version": "3.1.6"}},
            {"metadata": {"name": PROJECT["name"], "version": PROJECT["version"]}},
        ]
    }
    lines = pin.pins(report)
    local = {"install": [{"metadata": {"name": "torch", "version": "2.15.0+cpu"}}]}
    with pytest.raises(ValueError, match=r"torch==2\.15\.0\+cpu is a local build, .*unset PIP_EXTRA_INDEX_URL"):
        pin.pins(local)
    assert lines == ["Jinja2==3.1.6", "torch==2.15.0"]
    head = "# one\nappnope==1.0.0\n# two\n"
    assert pin.rewrite(head + "old==1\n", lines) == head + "Jinja2==3.1.6\ntorch==2.15.0\n"
    with pytest.raises(ValueError, match=r"constraints\.txt has no comment above its pins"):
        pin.rewrite("old==1\n", lines)
    assert text("constraints.txt") == pin.rewrite(
        text("constraints.txt"), text("constraints.txt").split("else.\n")[1].split()
    )


# One meaning of "it works" in three places.


def test_commit_hook_make_check_and_ci_mean_the_same():
    hooks = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    assert [hook["entry"] for repo in hooks for hook in repo["hooks"]] == ["make check"]
    assert recipe("check") == ["$(VENV_PYTHON) tools/run.py check"]
    assert recipe("test") == ["$(VENV_PYTHON) tools/run.py test"]
    assert run.CHECK.items() <= run.TEST.items()
    assert text(".ci/run").rstrip().splitlines()[-1] == "make test"
    workflow = text(".github/workflows/test.yml")
    steps = " ".join(make_env.pip_arguments(["lab", "zh", "site", "test"]))
    for step in ("bash .ci/run", f"python -m pip install {steps}", "python tools/run.py test"):
        assert f"- run: {step}\n" in workflow


def test_every_step_runs_and_one_failure_fails_the_whole(capfd, monkeypatch):
    steps = {"first": [sys.executable, "-c", "raise SystemExit(3)"], "second": [sys.executable, "-c", "print('ran')"]}
    monkeypatch.setattr(run, "CHECK", steps)
    assert run.main(["check"]) == 1
    output = capfd.readouterr().out
    assert "ran\n" in output
    assert re.search(r"^FAILED +[\d.]+ s  first\npassed +[\d.]+ s  second$", output, re.MULTILINE)
    monkeypatch.setattr(run, "CHECK", {"second": steps["second"]})
    assert run.main(["check"]) == 0


def test_one_benchmark_runs_alone_with_its_options(capfd, monkeypatch, tmp_path):
    # Without its libraries in .venv-bench, a benchmark could not even print its options.
    monkeypatch.setattr(run, "site_packages", lambda venv: [tmp_path])
    (tmp_path / "only_here.py").touch()
    step = [sys.executable, "-c", "import only_here, sys; print(sys.argv[1:])"]
    monkeypatch.setattr(run, "benchmarks", lambda: {"class": step, "other": [sys.executable, "-c", "1 / 0"]})
    assert run.main(["bench", "class", "--learners", "2", "--write"]) == 0
    assert "\n['--learners', '2', '--write']\n" in capfd.readouterr().out


def test_unknown_tasks_benchmarks_and_extras_are_named(capfd):
    usage = "usage: python tools/run.py TASK  with a task out of: check, test, proof, bench, coverage\n"
    for arguments in ([], ["tset"], ["test", "class"]):
        assert run.main(arguments) == 2
        assert capfd.readouterr().err == usage
    assert run.main(["bench", "clas"]) == 2
    assert "usage: python tools/run.py bench NAME  with a name out of: class, doctor, fi" in capfd.readouterr().err
    assert make_env.main(["labs"]) == 2
    assert "make_env.py EXTRA ...  with extras out of: lab, zh, hub, site, test, bench" in capfd.readouterr().err


SOURCES = sorted((ROOT / "course_utils").rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Return the names of the packages that a file imports, also inside its functions."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


def test_everything_that_is_imported_is_required():
    required = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["lab"]]
    required = {canonicalize_name(Requirement(requirement).name) for requirement in required}
    provides = importlib.metadata.packages_distributions()
    optional = {"pandas"}  # History.to_frame() says so where it is missing
    imported = set().union(*map(imports_of, SOURCES))
    foreign = imported - set(sys.stdlib_module_names) - {"course_utils", "loop_doctor"} - optional
    assert "torch" in foreign
    missing = {name for name in foreign if not {canonicalize_name(d) for d in provides.get(name, [])} & required}
    assert missing == set()


def test_importing_the_package_costs_torch_alone():
    heavy = ("IPython", "ipywidgets", "matplotlib", "pandas", "sklearn", "tensorboard", "torchvision", "tqdm")
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in SOURCES]
    light = [name for name in modules if not re.search(r"\.(labs|plots|__init__|__main__)\b", name)]
    assert "course_utils.training.trainer" in light
    # torch itself imports tqdm, so what it brings is not counted.
    code = "import sys, torch; free = set(sys.modules); import course_utils, " + ", ".join(light)
    code += f"; print(sorted(set({heavy!r}) & set(sys.modules) - free))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# What is published.


def published() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("this is no git checkout, so nobody knows which files are published")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


# The brackets keep a pattern from finding itself. Ada is the person in examples.
UNWANTED = {
    "a package registry's host": r"p[y]pi\.org|p[y]thonhosted\.org|registry\.npm[j]s|deb\.d[e]bian\.org",
    "a path of one machine": r"(?<![\w.~])/(?:ro[o]t|w[o]rk|opt/(?:whe[e]ls|p[y]pi))/|/(?:h[o]me|Us[e]rs)/(?!ada/)\w+/",
}


@pytest.mark.parametrize("what", UNWANTED)
def test_no_published_file_holds(what):
    found = []
    for path in published():
        content = path.read_bytes()
        if b"\0" not in content:
            for match in re.finditer(UNWANTED[what], content.decode("utf-8")):
                found.append(f"{path.relative_to(ROOT)}: {match[0]}")
    assert found == []
