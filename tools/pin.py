"""Write constraints.txt again: the newest release of each package that the two pyproject.toml allow.

    python tools/pin.py

pip resolves the requirements without installing anything. The lines for other systems are kept.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from make_env import EXTRAS, ROOT, projects

CONSTRAINTS = ROOT / "constraints.txt"


def resolve() -> dict:
    """Return pip's report on the newest releases that fit together."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--report", str(report)]
        command += ["--editable", "./loop-doctor", "--editable", f".[{','.join(EXTRAS)}]"]
        subprocess.run(command, cwd=ROOT, check=True)
        return json.loads(report.read_text(encoding="utf-8"))


def pins(report: dict) -> list[str]:
    """Return the pins from pip's report, in the order of their names.

    Raises:
        ValueError: a version is a local one, as those of PyTorch's own indexes are; the message quotes it.
    """
    own = {project["project"]["name"] for project in projects()}
    found = [package["metadata"] for package in report["install"]]
    lines = [f"{package['name']}=={package['version']}" for package in found if package["name"] not in own]
    for line in lines:
        if "+" in line:
            raise ValueError(
                f"{line} is a local build, which constraints.txt cannot pin for everyone: unset PIP_EXTRA_INDEX_URL, "
                "then run `make pins` again"
            )
    return sorted(lines, key=str.lower)


def rewrite(text: str, lines: list[str]) -> str:
    """Return the text of constraints.txt with these pins after its last comment.

    Raises:
        ValueError: the file has no comment.
    """
    old = text.splitlines()
    comments = [number for number, line in enumerate(old) if line.startswith("#")]
    if not comments:
        raise ValueError("constraints.txt has no comment above its pins: put back its head from git")
    return "\n".join([*old[: comments[-1] + 1], *lines]) + "\n"


if __name__ == "__main__":
    text = CONSTRAINTS.read_text(encoding="utf-8")
    try:
        CONSTRAINTS.write_text(rewrite(text, pins(resolve())), encoding="utf-8")
    except ValueError as error:
        sys.exit(str(error))
