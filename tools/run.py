"""Run what proves the course; every step runs, and the last lines say which one failed.

    python tools/run.py check    ruff, and whether the stored notebooks are fit to be committed
    python tools/run.py test     the same, then all tests
    python tools/run.py bench    every tests/benchmarks/bench_*.py

`make`, pre-commit and CI call this, so that all three mean the same; without make (on Windows) it
is called as it stands.
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
PYTEST = [PYTHON, "-m", "pytest"]

CHECK = {
    "ruff check": [PYTHON, "-m", "ruff", "check", "."],
    "ruff format": [PYTHON, "-m", "ruff", "format", "--check", "."],
    "stored notebooks": [PYTHON, "tools/notebooks.py", "--check", "notebooks"],
}
TEST = {
    **CHECK,
    # Two workers; a file stays with one of them, so that what its tests share is made once.
    "tests": [*PYTEST, "-n", "2", "--dist", "loadfile", "-m", "not browser"],
    # After the others: a page that is slow to answer fails a test sooner than a function does.
    "browser": [*PYTEST, "-n", "2", "--dist", "loadfile", "-m", "browser", "tests/browser"],
}


def benchmarks() -> dict[str, list[str]]:
    """List the benchmarks: each is a script of its own."""
    scripts = sorted((ROOT / "tests" / "benchmarks").glob("bench_*.py"))
    return {path.stem: [PYTHON, str(path.relative_to(ROOT))] for path in scripts}


def environment(task: str) -> dict[str, str]:
    """Make the environment of the steps: this Python's programs first, one thread for each worker."""
    changed = {
        "PATH": os.pathsep.join([str(Path(PYTHON).parent), os.environ.get("PATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    if task == "bench":
        # This Python stays the one that runs, so JupyterLab finds its own files; the libraries
        # that only the benchmarks need are added to what it can import.
        changed["PYTHONPATH"] = os.pathsep.join(str(path) for path in site_packages(BENCH))
    return {**os.environ, **changed}


def run(steps: dict[str, list[str]], env: dict[str, str]) -> Iterator[tuple[str, int, float]]:
    """Run the steps in order; give each one's name, exit status and seconds."""
    for name, command in steps.items():
        print(f"\n--- {name}", flush=True)
        start = time.monotonic()
        status = subprocess.run(command, cwd=ROOT, env=env).returncode
        yield name, status, time.monotonic() - start


def main(arguments: list[str]) -> int:
    tasks = {"check": CHECK, "test": TEST, "bench": benchmarks()}
    if len(arguments) != 1 or arguments[0] not in tasks:
        print(f"usage: python tools/run.py TASK  with a task out of: {', '.join(tasks)}", file=sys.stderr)
        return 2
    task = arguments[0]
    try:
        done = list(run(tasks[task], environment(task)))
    except KeyboardInterrupt:
        return 130
    print()
    for name, status, seconds in done:
        print(f"{'passed' if status == 0 else 'FAILED':7} {seconds:6.1f} s  {name}")
    return int(any(status for _, status, _ in done))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
