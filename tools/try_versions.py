"""Run `make test` with another Python or another PyTorch, or many times over, in a clone of what is committed.

    python tools/try_versions.py --python python3.13 --torch 2.11
    python tools/try_versions.py --times 20    does it pass each time? An interrupted count goes on at the next call

The clone lies in build/ and has an environment of its own, another 6 GB; a second call goes on with both. `.venv` and
the working tree are left alone.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What PyTorch's releases come with, or allow a range of their own for: pip finds what fits another one.
STACK = re.compile(r"(?:torch|torchvision|triton|setuptools|(?:nvidia|cuda)-[\w-]+)==.*")


def call(*command: str | Path, cwd: Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=cwd, check=True, text=True, **options)


def clone(folder: Path) -> None:
    """Bring a clone to the commit that is checked out here; its environment stays."""
    if not folder.exists():
        call("git", "clone", "--quiet", ROOT, folder, cwd=ROOT)
    call("git", "fetch", "--quiet", ROOT, "HEAD", cwd=folder)
    call("git", "checkout", "--quiet", "--force", "--detach", "FETCH_HEAD", cwd=folder)


def without_stack(constraints: str) -> str:
    """Leave the pins of PyTorch, and of what comes with it, out of constraints.txt."""
    return "".join(line for line in constraints.splitlines(keepends=True) if not STACK.fullmatch(line.rstrip()))


def installed_stack(folder: Path) -> str:
    """Give the lines of constraints.txt for what pip has chosen to go with PyTorch."""
    command = [folder / ".venv" / "bin" / "python", "-m", "pip", "list", "--format", "json"]
    found = json.loads(call(*command, cwd=folder, stdout=subprocess.PIPE).stdout)
    lines = [f"{package['name']}=={package['version'].partition('+')[0]}" for package in found]
    return "".join(f"{line}\n" for line in lines if STACK.fullmatch(line))


def repeat(command: list[str], folder: Path, times: int) -> None:
    """Run the tests until there are `times` runs of this commit, each with what it said in a file of its own.

    Raises:
        subprocess.CalledProcessError: a run failed; the others were done all the same.
    """
    commit = call("git", "rev-parse", "--short", "HEAD", cwd=folder, stdout=subprocess.PIPE).stdout.strip()
    runs = folder.parent / f"{folder.name}-{commit}"
    runs.mkdir(exist_ok=True)
    for number in range(1, times + 1):
        if any(runs.glob(f"{number}-*.txt")):
            continue
        running = runs / f"{number}.txt"  # no run yet: if it is interrupted, the next call begins it anew
        print(f"run {number} of {times}, in {running.relative_to(ROOT)}: ", end="", flush=True)
        start = time.monotonic()
        with running.open("w", encoding="utf-8") as said:
            status = subprocess.run(command, cwd=folder, stdout=said, stderr=subprocess.STDOUT).returncode
        outcome = "FAILED" if status else "passed"
        running.rename(runs / f"{number}-{outcome}.txt")
        print(f"{outcome}, {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
    passed = sum(any(runs.glob(f"{number}-passed.txt")) for number in range(1, times + 1))
    print(f"{passed} of {times} runs passed; what each said is in {runs.relative_to(ROOT)}.", flush=True)
    if passed < times:
        raise subprocess.CalledProcessError(1, command)


def try_versions(python: str, torch: str, times: int) -> None:
    """Make the clone and its environment and run the tests there.

    Raises:
        subprocess.CalledProcessError: git, the installation or a test failed; what they said is on the terminal.
    """
    path = shutil.which(python) if python else None  # a relative path means another file in the clone
    words = [f"PYTHON={Path(path).absolute() if path else python}"] if python else []
    folder = ROOT / "build" / "-".join(["try", Path(python).name or "python", f"torch{torch or '-pinned'}"])
    clone(folder)
    if torch:
        constraints = folder / "constraints.txt"
        kept = without_stack(constraints.read_text(encoding="utf-8"))
        # A new environment may come with older build tools than this project asks for.
        build = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
        constraints.write_text("\n".join([f"{kept}torch=={torch}.*", *build, ""]), encoding="utf-8")
        call("make", "setup", *words, cwd=folder)
        # The tests compare what is installed with pins, so these now name it.
        constraints.write_text(kept + installed_stack(folder), encoding="utf-8")
    if times == 1:
        call("make", "test", *words, cwd=folder)
    else:
        repeat(["make", "test", *words], folder, times)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/try_versions.py", description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="", help="a Python, as `make setup PYTHON=…` takes it")
    parser.add_argument("--torch", default="", help="a release of PyTorch, as 2.11 (else the pinned one)")
    parser.add_argument("--times", type=int, default=1, help="how many runs, of which none may fail")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"(\d+(\.\d+)+)?", options.torch):
        parser.error(f"a release of PyTorch is a number as 2.11, got {options.torch!r}")
    if options.times < 1:
        parser.error(f"the tests run once or more, got {options.times} times")
    if call("git", "status", "--porcelain", cwd=ROOT, stdout=subprocess.PIPE).stdout:
        print("What is not committed is not tried.", flush=True)
    try:
        try_versions(options.python, options.torch, options.times)
    except subprocess.CalledProcessError as error:
        print(f"{error.cmd[0]} {error.cmd[1]} failed in build/.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
