"""The files of the project agree with each other, and the package is built the way CONTRIBUTING draws it."""

import ast
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from urllib.parse import unquote

import index
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
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/class.md"]


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


# One set of versions, said in four files.


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


def test_make_and_the_conda_workflow_install_through_the_same_words():
    assert recipe("lab")[0] == "$(MAKE_ENV) lab$(if $(filter zh%,$(LOCALE)), zh)"
    assert recipe("setup") == ["$(MAKE_ENV) lab zh hub site test"]
    steps = " ".join(make_env.pip_arguments(["lab", "zh", "site", "test"]))
    assert f"- run: python -m pip install {steps}\n" in text(".github/workflows/test.yml")


def test_pip_gets_the_words_that_are_compared(monkeypatch, tmp_path):
    called = []

    class Pip(contextlib.nullcontext):
        stderr, returncode = (), 0

        def __init__(self, command, **options):
            super().__init__(self)
            called.append((command, options["cwd"]))

    monkeypatch.setattr(make_env.subprocess, "Popen", Pip)
    make_env.install(tmp_path, ["lab"])
    (command, folder) = called[0]
    assert command[1:] == ["-m", "pip", "install", *make_env.pip_arguments(["lab"])]
    assert folder == ROOT


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
    checkout.mkdir()
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    shutil.copytree(ROOT / "course_utils", checkout / "course_utils", ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "condaenv.requirements.txt").write_text("\n".join(pip_part()) + "\n", encoding="utf-8")
    report = tmp_path / "report.json"
    # Whether the pins fit together is asked below: without an index, and without pip's minutes.
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--quiet", "--report", report, "--requirement", "condaenv.requirements.txt"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (package,) = json.loads(report.read_text(encoding="utf-8"))["install"]
    assert (package["metadata"]["name"], package["metadata"]["version"]) == (PROJECT["name"], PROJECT["version"])
    assert package["requested_extras"] == ["lab"]
    assert package["download_info"]["dir_info"] == {"editable": True}


def needed(requirements: list[Requirement]) -> dict[str, list[Requirement]]:
    """Give all that these requirements bring along here, by name: each with what asks for it."""
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
    assert lines == ["Jinja2==3.1.6", "torch==2.15.0"]
    head = "# one\nappnope==1.0.0\n# two\n"
    assert pin.rewrite(head + "old==1\n", lines) == head + "Jinja2==3.1.6\ntorch==2.15.0\n"
    with pytest.raises(ValueError, match=r"constraints\.txt has no comment above its pins"):
        pin.rewrite("old==1\n", lines)
    assert text("constraints.txt") == pin.rewrite(
        text("constraints.txt"), text("constraints.txt").split("else.\n")[1].split()
    )


# One meaning of "it works", said in three places.


def test_commit_hook_make_check_and_ci_mean_the_same():
    hooks = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    assert [(repo["repo"], hook["entry"], hook["language"]) for repo in hooks for hook in repo["hooks"]] == [
        ("local", "make check", "system")
    ]
    assert recipe("check") == ["$(VENV_PYTHON) tools/run.py check"]
    assert recipe("test") == ["$(VENV_PYTHON) tools/run.py test"]
    assert run.CHECK.items() <= run.TEST.items()
    assert text(".ci/run").rstrip().splitlines()[-1] == "make test"
    workflow = text(".github/workflows/test.yml")
    assert "- run: bash .ci/run\n" in workflow
    assert "- run: python tools/run.py test\n" in workflow


def test_pre_commit_accepts_its_configuration():
    command = [sys.executable, "-m", "pre_commit", "validate-config", ".pre-commit-config.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actions_are_pinned_to_major_versions():
    used = [name for path in WORKFLOWS for name in re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8"))]
    assert used
    assert [name for name in used if not re.fullmatch(r"[\w-]+/[\w-]+@v\d+", name)] == []


def test_ci_looks_for_the_browsers_that_the_tests_know(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "browser")
    from running import BROWSERS

    looked_for = re.search(r"for name in (.*); do", text(".ci/run"))[1].split()
    assert looked_for == list(BROWSERS)


def test_every_step_runs_and_one_failure_fails_the_whole(capfd, monkeypatch):
    steps = {"first": [sys.executable, "-c", "raise SystemExit(3)"], "second": [sys.executable, "-c", "print('ran')"]}
    monkeypatch.setattr(run, "CHECK", steps)
    assert run.main(["check"]) == 1
    output = capfd.readouterr().out
    assert "ran\n" in output
    assert re.search(r"^FAILED +[\d.]+ s  first\npassed +[\d.]+ s  second$", output, re.MULTILINE)
    monkeypatch.setattr(run, "CHECK", {"second": steps["second"]})
    assert run.main(["check"]) == 0


def test_unknown_task_and_unknown_extra_are_named(capfd):
    assert run.main(["tset"]) == 2
    assert "usage: python tools/run.py TASK  with a task out of: check, test, bench" in capfd.readouterr().err
    assert make_env.main(["labs"]) == 2
    assert "make_env.py EXTRA ...  with extras out of: lab, zh, hub, site, test, bench" in capfd.readouterr().err


def test_every_benchmark_is_run():
    folder = ROOT / "tests" / "benchmarks"
    assert {command[1] for command in run.benchmarks().values()} == {
        str(path.relative_to(ROOT)) for path in folder.glob("bench_*.py")
    }
    assert run.environment("bench")["PYTHONPATH"] == os.pathsep.join(map(str, make_env.site_packages(make_env.BENCH)))


# The house.

# From the parts up. Whatever is not named here is a part: it may import other parts, but nothing from upstairs.
UPSTAIRS = ["training", "lr", "plots", "labs", "__main__"]
# These judge any loop, the learner's own too, so they know nothing of the course's loop and its parts.
ASIDE = {"checks": {"errors", "progress"}, "doctor": {"errors", "progress"}}
SOURCES = sorted((ROOT / "course_utils").rglob("*.py"))


def module_of(path: Path) -> str:
    """Give the first part of a module's name below course_utils: labs/svg.py belongs to labs."""
    return path.relative_to(ROOT / "course_utils").with_suffix("").parts[0]


def imports_of(path: Path) -> set[str]:
    """Give the full names of all that a file imports, also inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports name the package"
            assert all(alias.name != "*" for alias in node.names), f"{path.name}: a star import hides names"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(path: Path) -> set[str]:
    """Give the modules of course_utils that a file imports."""
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("course_utils.")}


def floor_of(module: str) -> int:
    return UPSTAIRS.index(module) + 1 if module in UPSTAIRS else 0


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    module = module_of(path)
    imported = rooms(path) - {module}
    if module == "__init__":
        assert not imported & {"plots", "labs"}
    elif module in ASIDE:
        assert imported <= ASIDE[module]
    else:
        assert not imported & ASIDE.keys() or module == "__main__"
        assert [name for name in imported if floor_of(name) > floor_of(module)] == []


def test_no_modules_import_each_other():
    graph = {}
    for path in SOURCES:
        graph.setdefault(module_of(path), set()).update(rooms(path) - {module_of(path)})
    assert graph["training"]
    assert graph["errors"] == set()
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_labs_import_widgets(path):
    if module_of(path) != "labs":
        assert {name.split(".")[0] for name in imports_of(path)} & {"ipywidgets", "traitlets"} == set()


def test_everything_that_is_imported_is_required():
    required = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["lab"]]
    required = {canonicalize_name(Requirement(requirement).name) for requirement in required}
    provides = importlib.metadata.packages_distributions()
    optional = {"pandas"}  # History.to_frame() says so where it is missing
    imported = {name.split(".")[0] for path in SOURCES for name in imports_of(path)}
    foreign = imported - set(sys.stdlib_module_names) - {"course_utils"} - optional
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
    "a paper of the workshop": r"\b(?:FACT[S]|DESIG[N]|COURS[E]|BRIE[F])\.md\b|\bissues sho[w]\b",
    "a tool that wrote it": r"(?i)\bcl[a]ude\b|\banthro[p]ic\b|\bcopi[l]ot\b|\bsub-?ag[e]nts?\b",
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


@pytest.mark.parametrize(
    ("what", "example"),
    [
        ("a package registry's host", "https://files.p" + "ythonhosted.org/packages"),
        ("a path of one machine", "open('/ro" + "ot/.cache')"),
        ("a path of one machine", "/ho" + "me/somebody/course"),
        ("a paper of the workshop", "see FACT" + "S.md"),
        ("a tool that wrote it", "Cl" + "aude"),
    ],
)
def test_what_must_not_be_published_would_be_found(what, example):
    assert re.search(UNWANTED[what], example)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))


def commands(document: str) -> str:
    """Give all that a document sets as code, in a line or in a block."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text(document), re.DOTALL))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_only_targets_that_make_has(document):
    named = set(re.findall(r"\bmake ([a-z]+)", commands(document)))
    assert named <= targets()


def test_readme_and_contributing_name_every_target():
    named = set(re.findall(r"\bmake ([a-z]+)", commands("README.md") + commands("CONTRIBUTING.md")))
    assert named == targets()


def slug(heading: str) -> str:
    """Give the anchor that a heading gets on the web."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower().replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_of_documents_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)|\bsrc=\"([^\"]+)\"", text(document)):
        link = target[0] or target[1]
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        assert path.exists(), f"{document} links to {link}"
        if anchor:
            if path.suffix == ".ipynb":  # tests/test_index.py follows these
                continue
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{document} links to {link}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_repository_has_one_address(document):
    """Badges, clone commands and launch links carry the address in pyproject.toml; while it is empty there are none."""
    address = PYPROJECT["tool"]["course"]["repository"]
    assert address == "" or re.fullmatch(r"https://\S+[^/]", address)
    path = re.sub(r"^https://[^/]+/", "", address)
    services = r"https?://[^\s)]*(?:shields\.io|mybinder\.org|colab\.research|/actions/|/badge)[^\s)]*|git clone \S+"
    for link in re.findall(services, text(document)):
        assert path, f"{document} names {link}, but pyproject.toml has no repository yet"
        found = path in unquote(link) or link in index.BADGES.values()
        assert found, f"{document} names {link}, but the repository is {address}"


def test_both_licences_are_there():
    licence = text("LICENSE")
    assert "Permission is hereby granted, free of charge" in licence
    assert 'THE SOFTWARE IS PROVIDED "AS IS"' in licence
    assert "https://creativecommons.org/licenses/by/4.0/legalcode" in licence
    assert PROJECT["license"] == "MIT AND CC-BY-4.0"


def test_changelog_has_the_version_to_come():
    assert re.search(r"^## \[Unreleased\]$", text("CHANGELOG.md"), re.MULTILINE)
