"""Make .venv as pyproject.toml and constraints.txt describe it; do nothing if it is already so.

    python tools/make_env.py lab          what a learner needs, in .venv
    python tools/make_env.py lab test     and what the tests need
    python tools/make_env.py bench        the libraries that the benchmarks compare with, in .venv-bench

A stamp is written after pip has succeeded. A .venv without a stamp of this checkout and this Python is made again from
nothing, so an interruption at any moment does no harm. Only the standard library is used: nothing is installed yet.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from venv import EnvBuilder

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BENCH = ROOT / ".venv-bench"
STAMP = "course-setup.json"
EXTRAS = ("lab", "zh", "hub", "site", "test", "bench")
BEFORE_DOWNLOAD = """\
This takes minutes the first time: on Linux, PyTorch with its CUDA libraries is about 2.5 GB to download and 6 GB on
disk. No NVIDIA card? Press Ctrl-C, set PIP_EXTRA_INDEX_URL to the CPU index shown on PyTorch's "Get Started" page, then
run `make lab`."""
PIP_FAILED = """\
pip could not install the packages; its messages are above. If it reports that a connection failed, connect to the
network or check the proxy settings, then run the same command again. Once all is installed, no network is needed."""


def pip_arguments(extras: list[str]) -> list[str]:
    """Return the arguments of `pip install` for these extras; environment.yml has the same ones for `lab`."""
    return ["--constraint", "constraints.txt", "--editable", "./loop-doctor", "--editable", f".[{','.join(extras)}]"]


def python_of(venv: Path) -> Path:
    """Return the path of an environment's Python."""
    return venv / "bin" / "python"


def site_packages(venv: Path) -> list[Path]:
    """Return the folders in which an environment keeps its packages: one, or none if it has not been made."""
    return sorted(venv.glob("lib/python3*/site-packages"))


def projects() -> list[dict]:
    """Return the settings of both distributions, without those of ruff, pytest and the like."""
    texts = [(ROOT / folder / "pyproject.toml").read_text(encoding="utf-8") for folder in (".", "loop-doctor")]
    return [{**project, "tool": project["tool"]["setuptools"]} for project in map(tomllib.loads, texts)]


def stamp_for(extras: list[str]) -> dict:
    """Return the stamp of an environment: everything that decides whether it can stay as it is."""
    text = json.dumps([projects(), (ROOT / "constraints.txt").read_text(encoding="utf-8")])
    inputs, python = hashlib.sha256(text.encode()).hexdigest(), [*sys.version_info[:2], sys.base_prefix]
    return {"root": str(ROOT), "python": python, "inputs": inputs, "extras": extras}


def read_stamp(venv: Path) -> dict | None:
    """Return the stamp of an environment, or None if it has none, or belongs to another checkout or Python."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    expected = stamp_for([])
    if not isinstance(stamp, dict) or stamp.keys() != expected.keys():
        return None
    # Run by the environment's own Python, there is nothing to compare: that is the right one.
    same_python = Path(sys.prefix).resolve() == venv or stamp["python"] == expected["python"]
    return stamp if stamp["root"] == expected["root"] and same_python else None


def install(python: Path, venv: Path, extras: list[str], arguments: list[str]) -> None:
    """Run pip, then write the stamp. pip unpacks inside the environment: the system's temporary folder may be small."""
    (venv / STAMP).unlink(missing_ok=True)
    print(f"Installing {', '.join(extras)} into {venv.name}.", flush=True)
    with tempfile.TemporaryDirectory(dir=venv) as scratch:
        command = [python, "-m", "pip", "install", *arguments]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "TMPDIR": scratch}, check=True)
    (venv / STAMP).write_text(json.dumps(stamp_for(extras), indent=1), encoding="utf-8")
    print(f"{venv.name} is ready.", flush=True)


def ensure(extras: list[str]) -> None:
    """Make .venv, or install into it what the files newly ask for.

    Raises:
        subprocess.CalledProcessError: venv or pip failed; their messages are on the terminal.
        OSError, ValueError: there cannot be an environment in this folder.
        SystemExit: .venv is a link.
    """
    if VENV.is_symlink():
        sys.exit(f"{VENV} is a link to {VENV.resolve()}, and setup might empty that folder. Remove the link first.")
    stamp = read_stamp(VENV) if python_of(VENV).exists() else None
    if stamp and stamp["inputs"] == stamp_for([])["inputs"] and set(extras) <= set(stamp["extras"]):
        print(".venv is up to date.", flush=True)
        return
    if stamp is None:
        print(f"Making .venv with Python {'.'.join(map(str, sys.version_info[:3]))}.", flush=True)
        # This Python may be the one in .venv: it is loaded already, and the new one is made from the same base.
        EnvBuilder(clear=True, symlinks=True, with_pip=True).create(VENV)
        print(BEFORE_DOWNLOAD, flush=True)
    # New pins must reach every extra that is already installed.
    extras = [name for name in EXTRAS if name in extras or (stamp and name in stamp["extras"])]
    install(python_of(VENV), VENV, extras, pip_arguments(extras))


def ensure_bench() -> None:
    """Install the benchmarks' libraries beside .venv: pip leaves out what .venv has, and .venv stays as it is."""
    if read_stamp(BENCH) == stamp_for(["bench"]):
        print(".venv-bench is up to date.", flush=True)
        return
    shutil.rmtree(BENCH, ignore_errors=True)
    BENCH.mkdir()
    requirements = projects()[0]["project"]["optional-dependencies"]["bench"]
    arguments = ["--prefix", str(BENCH), "--constraint", "constraints.txt", *requirements]
    install(python_of(VENV), BENCH, ["bench"], arguments)


def main(extras: list[str]) -> int:
    """Make the environment for these extras; return 0, or 1 after a failure, 2 after bad input, 130 after Ctrl-C."""
    if not extras or set(extras) - set(EXTRAS):
        print(f"usage: python tools/make_env.py EXTRA ...  with extras out of: {', '.join(EXTRAS)}", file=sys.stderr)
        return 2
    try:
        if extras == ["bench"]:
            ensure_bench()
        else:
            ensure(extras)
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again: setup starts over with what pip has kept.", file=sys.stderr)
        return 130
    except subprocess.CalledProcessError:
        print(PIP_FAILED, file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"{error}\nSetup needs a writable folder with 7 GB of space and no colon in its path.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
