"""The doctor as a distribution of its own: it needs PyTorch and nothing of the course, and its README is true."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

from loop_doctor.command import main
from loop_doctor.messages import MESSAGES
from loop_doctor.rules import RULES

README = (Path(__file__).resolve().parents[2] / "loop-doctor" / "README.md").read_text(encoding="utf-8")
# What `loop-doctor run train.py` shows, below its own line.
TRANSCRIPT = re.compile(r"```console\n\$ loop-doctor run train\.py\n(.*?)```", re.DOTALL)

IMPORT = """
import sys
import torch
before = set(sys.modules)
import loop_doctor
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - sys.stdlib_module_names - {"torch"}))
print(sorted(name for name in sys.modules if name.startswith("course_utils")))
"""


def test_importing_the_doctor_imports_torch_and_nothing_of_the_course():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.splitlines() == ["['loop_doctor']", "[]"]


def test_the_bug_in_the_readme_is_found_as_shown(tmp_path, monkeypatch, capsys):
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    shown = re.findall(r"```text\n(.*?)```", README, re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(code, encoding="utf-8")
    runpy.run_path("train.py")
    assert capsys.readouterr().out == shown


def test_the_readme_lists_every_rule():
    listed = re.findall(r"^\| `([a-z-]+)` \| (\w+) \| (.*) \|$", README, re.MULTILINE)
    assert listed == [(code, MESSAGES[code].level, " ".join(rule.summary.split())) for code, rule in RULES.items()]


def test_the_commands_transcript_in_the_readme_is_true(tmp_path, monkeypatch, capsys):
    code, shown = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0], TRANSCRIPT.search(README)[1]
    lines = [line.removeprefix("    ") for line in code.splitlines() if "doctor" not in line.lower()]
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(["run", "train.py"]) == 1
    assert capsys.readouterr().err == shown
