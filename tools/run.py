"""Run the project's checks, tests and benchmarks; every step runs, and the last lines report which ones failed.

    python tools/run.py check                  ruff, types, the direction of imports, and the stored notebooks
    python tools/run.py test                   the same, then all tests
    python tools/run.py proof                  the tests' repetitions and exhaustive sweeps
    python tools/run.py bench                  every tests/benchmarks/bench_*.py
    python tools/run.py bench class --write    only bench_class.py, with the options after its name
    python tools/run.py coverage               the quick tests, and the lines that none of them runs

`make`, pre-commit and CI call this, so that all three mean the same; without make (on Windows), call it directly.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from make_env import BENCH, site_packages

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
PYTEST = [PYTHON, "-m", "pytest", "--durations=20", "--durations-min=1"]
# Each of the two workers takes a whole file, so that what its tests share is made once; tests/conftest.py sorts them.
PYTEST_TWICE = [*PYTEST, "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]

CHECK = {
    "ruff check": [PYTHON, "-m", "ruff", "check", "."],
    "ruff format": [PYTHON, "-m", "ruff", "format", "--check", "."],
    "types": [PYTHON, "-m", "mypy"],
    "imports": [PYTHON, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
    "stored notebooks": [PYTHON, "tools/notebooks.py", "--check", "notebooks"],
}
TEST = {
    **CHECK,
    "tests": [*PYTEST_TWICE, "-m", "not browser and not proof"],
    "browser": [*PYTEST_TWICE, "-m", "browser and not proof", "tests/browser"],
}
PROOF = {"proof": [*PYTEST_TWICE, "-m", "proof"]}
COVERAGE = {
    "coverage": [
        *PYTEST_TWICE,
        *("-m", "not slow and not browser and not proof"),
        *("--cov", "--cov-report", "term-missing:skip-covered"),
    ],
}


def benchmarks() -> dict[str, list[str]]:
    """Return the command of each benchmark by its name: every one is a script of its own."""
    scripts = sorted((ROOT / "tests" / "benchmarks").glob("bench_*.py"))
    return {path.stem.removeprefix("bench_"): [PYTHON, str(path.relative_to(ROOT))] for path in scripts}


def environment(task: str) -> dict[str, str]:
    """Return the environment of the steps: this Python's programs first, one thread for each worker."""
    changed = {
        "PATH": os.pathsep.join([str(Path(PYTHON).parent), os.environ.get("PATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    if task == "bench":
        # The libraries that only the benchmarks need are added to what this Python can import.
        changed["PYTHONPATH"] = os.pathsep.join(str(path) for path in site_packages(BENCH))
    return {**os.environ, **changed}


def run(steps: dict[str, list[str]], env: dict[str, str]) -> Iterator[tuple[str, int, float]]:
    """Run the steps in order; yield each one's name, exit status and seconds."""
    for name, command in steps.items():
        print(f"\n--- {name}", flush=True)
        start = time.monotonic()
        status = subprocess.run(command, cwd=ROOT, env=env).returncode
        yield name, status, time.monotonic() - start


def main(arguments: list[str]) -> int:
    tasks = {"check": CHECK, "test": TEST, "proof": PROOF, "bench": benchmarks(), "coverage": COVERAGE}
    task, *rest = arguments or [""]
    if task not in tasks or (rest and task != "bench"):
        print(f"usage: python tools/run.py TASK  with a task out of: {', '.join(tasks)}", file=sys.stderr)
        return 2
    steps = tasks[task]
    if rest:
        name, *options = rest
        if name not in steps:
            print(f"usage: python tools/run.py bench NAME  with a name out of: {', '.join(steps)}", file=sys.stderr)
            return 2
        steps = {name: [*steps[name], *options]}
    try:
        done = list(run(steps, environment(task)))
    except KeyboardInterrupt:
        return 130
    print()
    for name, status, seconds in done:
        print(f"{'passed' if status == 0 else 'FAILED':7} {seconds:6.1f} s  {name}")
    return int(any(status for _, status, _ in done))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
