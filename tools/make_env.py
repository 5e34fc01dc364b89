"""Make an environment as pyproject.toml and constraints.txt say; do nothing where it is so already.

    python tools/make_env.py lab          what a learner needs, in .venv
    python tools/make_env.py lab test     and what the tests need
    python tools/make_env.py bench        the libraries that the benchmarks compare with, in .venv-bench

It may be interrupted at any moment: the next call goes on from what it finds. Only the standard
library is used, because it runs before anything is installed.
"""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from venv import EnvBuilder

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BENCH = ROOT / ".venv-bench"
STAMP = "course-setup.json"
EXTRAS = ("lab", "zh", "hub", "site", "test", "bench")
# What pip says where an answer from the package index does not come. It says so several times, and ends with
# "no matching distribution", which sounds like a mistake of the course.
NO_ANSWER = "after connection broken by"


class NoNetwork(Exception):
    """pip got no answer from the package index."""


def pip_arguments(extras: list[str]) -> list[str]:
    """Give the arguments of `pip install` for these extras; environment.yml says the same for `lab`."""
    return ["--constraint", "constraints.txt", "--editable", "./loop-doctor", "--editable", f".[{','.join(extras)}]"]


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def site_packages(venv: Path) -> list[Path]:
    return sorted(venv.glob("lib/python3*/site-packages"))


def inputs() -> str:
    """Give a digest of all that decides what is installed. The settings of ruff and pytest do not."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    decides = [pyproject["build-system"], pyproject["project"], pyproject["tool"]["setuptools"]]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
    digest.update((ROOT / "constraints.txt").read_bytes())
    return digest.hexdigest()


def this_python() -> list[str]:
    return [f"{sys.version_info.major}.{sys.version_info.minor}", sys.base_prefix]


def read_stamp(venv: Path) -> dict:
    """Read what the last call left, or {} if there is nothing that can be read."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(venv: Path, stamp: dict) -> None:
    """Write the stamp in one move, so that an interruption leaves the old one or the new one."""
    scratch = venv / (STAMP + ".new")
    scratch.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    os.replace(scratch, venv / STAMP)


def runs(venv: Path) -> bool:
    """Say whether the environment's Python starts; it does not once the Python it was made from has gone."""
    try:
        return subprocess.run([python_of(venv), "-c", ""], capture_output=True).returncode == 0
    except OSError:
        return False


def is_whole(dist_info: Path) -> bool:
    """Say whether all files of an installed package are there, in the size that pip noted.

    pip writes RECORD last, but it counts a package as installed before that: a package whose
    installation was cut off would stay broken for ever.
    """
    try:
        rows = list(csv.reader((dist_info / "RECORD").read_text(encoding="utf-8").splitlines()))
    except OSError:
        return False
    for name, _, size in rows:
        try:
            found = (dist_info.parent / name).stat().st_size
        except OSError:
            # pip compiles after it has copied, and Python compiles again whatever is missing.
            if not name.endswith(".pyc"):
                return False
        else:
            if size and found != int(size):
                return False
    return True


def clear_half_installed(venv: Path) -> list[str]:
    """Take away what an interrupted pip left, so that pip installs it again; give the packages' names."""
    cleared = []
    for site in site_packages(venv):
        for leftover in site.glob("~*"):  # pip's own mark for a package that it was replacing
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for dist_info in site.glob("*.dist-info"):
            if not is_whole(dist_info):
                cleared.append(dist_info.name.split("-")[0])
                shutil.rmtree(dist_info)
    return cleared


def has_whole_pip(venv: Path) -> bool:
    return any(is_whole(found) for site in site_packages(venv) for found in site.glob("pip-*.dist-info"))


def make_venv(venv: Path, *, beside: Path | None) -> None:
    """Make an empty environment; `beside` names one whose packages it shall see as installed.

    Raises:
        SystemExit: no environment can lie in such a folder.
    """
    (venv / STAMP).unlink(missing_ok=True)
    # This Python may be the one of the environment that is cleared: it is loaded already, and the
    # new one is made from the Python that the old one was made from.
    try:
        EnvBuilder(clear=True, symlinks=True, with_pip=beside is None).create(venv)
    except ValueError as error:  # a colon in the path, which would cut PATH in two
        sys.exit(f"{error} Rename the folder, and call it again.")
    for site in site_packages(venv) if beside else []:
        # pip runs from there too, leaves those packages alone and adds only what is missing. The path
        # is relative because Python reads this file in the machine's own encoding.
        shared = [os.path.relpath(path, site) for path in site_packages(beside)]
        (site / "beside.pth").write_text("\n".join(shared) + "\n", encoding="utf-8")


def install(venv: Path, extras: list[str]) -> None:
    """Run pip, with its downloads kept inside the environment.

    The machine's folder for temporary files is often too small for PyTorch, and whatever a killed
    pip leaves there stays; here the next call finds and clears it.

    Raises:
        NoNetwork: pip failed, and the index had not answered.
        subprocess.CalledProcessError: pip failed otherwise.
    """
    scratch = venv / "pip-scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    command = [str(python_of(venv)), "-m", "pip", "install", *pip_arguments(extras)]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    unanswered = False
    # Only the warnings and errors are read on their way to the terminal: the progress bars need it to themselves.
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as pip:
        try:
            for line in pip.stderr:
                unanswered |= NO_ANSWER in line.decode(errors="replace")
                sys.stderr.buffer.write(line)
                sys.stderr.flush()
        except BaseException:
            pip.kill()
            raise
    if pip.returncode:
        raise NoNetwork if unanswered else subprocess.CalledProcessError(pip.returncode, command)
    shutil.rmtree(scratch, ignore_errors=True)


def ensure(venv: Path, extras: list[str], *, beside: Path | None = None) -> None:
    """Bring an environment to what the files say, or say that it is there already.

    Raises:
        NoNetwork, subprocess.CalledProcessError: venv or pip failed; what they said is on the terminal.
        OSError: the folder of the environment cannot be written in.
        SystemExit: no environment can lie in such a folder.
    """
    stamp = read_stamp(venv)
    # Called with the environment's own Python there is nothing to compare: it is the right one.
    same_python = Path(sys.prefix).resolve() == venv or stamp.get("python") == this_python()
    moved = stamp.get("root", str(ROOT)) != str(ROOT)
    usable = same_python and not moved and runs(venv)
    if usable and stamp.get("inputs") == inputs() and set(extras) <= set(stamp["extras"]):
        print(f"{venv.name} is up to date.", flush=True)
        return

    if not usable or not (beside or has_whole_pip(venv)):
        if moved:
            print(f"The checkout has moved from {stamp['root']}: making {venv.name} anew.", flush=True)
        make_venv(venv, beside=beside)
        stamp = {}
    # Pins that changed must reach every extra that is there already.
    extras = [name for name in EXTRAS if name in extras or name in stamp.get("extras", [])]
    stamp = {"root": str(ROOT), "python": this_python(), "inputs": None, "extras": extras}
    write_stamp(venv, stamp)
    for name in clear_half_installed(venv):
        print(f"{name} was installed only in part: installing it again.", flush=True)
    print(f"Installing {' and '.join(extras)} into {venv.name}.", flush=True)
    if not beside and not any((site / "torch").is_dir() for site in site_packages(venv)):
        print(
            "This takes minutes the first time: on Linux, PyTorch with its CUDA libraries is about 2.5 GB to download\n"
            "and 6 GB on disk. You can interrupt it; the next call goes on from there.",
            flush=True,
        )
    install(venv, extras)
    write_stamp(venv, {**stamp, "inputs": inputs()})
    print(f"{venv.name} is ready.", flush=True)


def main(extras: list[str]) -> int:
    if not extras or set(extras) - set(EXTRAS):
        print(f"usage: python tools/make_env.py EXTRA ...  with extras out of: {', '.join(EXTRAS)}", file=sys.stderr)
        return 2
    try:
        if extras == ["bench"]:
            ensure(BENCH, extras, beside=VENV)
        else:
            ensure(VENV, extras)
    except KeyboardInterrupt:
        print("\nInterrupted. Call it again: it goes on from here.", file=sys.stderr)
        return 130
    except NoNetwork:
        print(
            "The package index did not answer, so the packages that the course needs could not be downloaded. Connect "
            "to the network, or see to its proxy, and call it again: it goes on from here. Once all is installed, no "
            "network is needed.",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        print(
            f"{error.filename or ROOT}: {error.strerror}. The course needs a folder that you can write in, with 7 GB "
            "of room: put it into one, and call it there.",
            file=sys.stderr,
        )
        return 1
    except subprocess.CalledProcessError as error:
        what = "pip" if "install" in error.cmd else "making the empty environment"
        print(f"{what} failed ({error}); call it again: it goes on from here.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
