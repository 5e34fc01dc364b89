"""Write constraints.txt afresh: the newest release of each package that pyproject.toml allows.

    python tools/pin.py

pip resolves the requirements without installing anything. The lines for other systems are kept.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from make_env import EXTRAS, ROOT

CONSTRAINTS = ROOT / "constraints.txt"
PROJECT = "training-loop-course"


def resolve() -> dict:
    """Let pip find the newest releases that fit together; give its report."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        project = f".[{','.join(EXTRAS)}]"
        subprocess.run([*command, "--report", str(report), "--editable", project], cwd=ROOT, check=True)
        return json.loads(report.read_text(encoding="utf-8"))


def pins(report: dict) -> list[str]:
    """Read the pins out of pip's report, in the order of their names."""
    found = [package["metadata"] for package in report["install"]]
    lines = [f"{package['name']}=={package['version']}" for package in found if package["name"] != PROJECT]
    return sorted(lines, key=str.lower)


def rewrite(text: str, lines: list[str]) -> str:
    """Put the pins into constraints.txt: they follow its last comment.

    Raises:
        ValueError: the file has no comment, so there is no place known.
    """
    old = text.splitlines()
    comments = [number for number, line in enumerate(old) if line.startswith("#")]
    if not comments:
        raise ValueError("constraints.txt has no comment above its pins: put back its head from git")
    return "\n".join([*old[: comments[-1] + 1], *lines]) + "\n"


if __name__ == "__main__":
    text = CONSTRAINTS.read_text(encoding="utf-8")
    CONSTRAINTS.write_text(rewrite(text, pins(resolve())), encoding="utf-8")
