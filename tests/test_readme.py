"""What README and the documents promise: the code runs, the commands work, and the links lead somewhere."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from loop_doctor import command as doctor_command

from course_utils import data
from course_utils.__main__ import main
from course_utils.models import MLP

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for folder in (ROOT, ROOT / "docs", ROOT / "loop-doctor")
    for path in folder.glob("*.md")
)
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
TRAIN = """\
import sys
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(12 * int(sys.argv[sys.argv.index("--epochs") + 1])):
    loss = nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.randint(0, 2, (8,)))
    loss.backward()
    optimizer.step()
"""
# Each command, in this order: its exit status, and what it prints.
COMMANDS = {
    "find-lr": (0, r"--lr 0\.\d+, or from 0\.\d+ to 0\.\d+\n"),
    "train --lr 0.25 --run-dir runs/a": (0, r"done: 230 steps, best accuracy 0\.9\d+"),
    "train --lr 0.25 --epochs 20 --run-dir runs/a --resume": (
        0,
        r"(?s)^((?!step +23/460).)*step 253/460.*done: 460 steps, best accuracy 0\.9\d+",
    ),
}


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(text(document)) if found == language]


def test_the_commands_do_what_the_document_shows(tmp_path, monkeypatch, capsys):
    shown = [
        line.partition(" -m course_utils ")[2]
        for block in blocks("docs/commands.md", "sh")
        for line in block.splitlines()
        if line.startswith(".venv/bin/python -m course_utils ")
    ]
    assert shown == list(COMMANDS)
    monkeypatch.chdir(tmp_path)
    for command, (status, printed) in COMMANDS.items():
        assert main(shlex.split(command)) == status
        assert re.search(printed, capsys.readouterr().out), command
    assert (tmp_path / "runs" / "a" / "checkpoint.pt").is_file()
    (doctor,) = re.findall(r"^\.venv/bin/loop-doctor (.*)$", text("docs/commands.md"), re.MULTILINE)
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
    assert doctor_command.main(shlex.split(doctor)) == 1
    assert re.search(r"(?s)12 steps of SGD.*missing-zero-grad", capsys.readouterr().err)


def test_the_five_lines_train():
    torch.manual_seed(0)
    digits = data.load("digits")
    model, loss_fn = MLP(digits.shape), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = digits.train.dataset.tensors
    before = loss_fn(model(x), y).item()
    exec(
        blocks("README.md", "python")[0],
        {"train": digits.train, "model": model, "loss_fn": loss_fn, "optimizer": optimizer},
    )
    assert loss_fn(model(x), y).item() < 0.8 * before


def test_the_doctor_watches_a_loop_as_shown(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--epochs", "1"])
    exec(
        blocks("README.md", "python")[1],
        {"run_my_loop": lambda: exec(compile(TRAIN, "train.py", "exec"), {})},
    )
    assert "missing-zero-grad (problem)" in capsys.readouterr().out


def slug(heading: str) -> str:
    """Return the anchor that a heading gets on the web."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower().replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_pictures_of_documents_exist(document):
    for target in re.findall(r"\]\(([^)\s]+)\)|\bsrc(?:set)?=\"([^\"]+)\"", text(document)):
        name, _, anchor = (target[0] or target[1]).partition("#")
        if name.startswith(("https://", "http://")):
            continue
        path = (ROOT / document).parent / name if name else ROOT / document
        assert path.exists(), f"{document} links to {name}"
        if anchor and path.suffix == ".md":  # tests/test_index.py follows links into notebooks
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{document} links to {name}#{anchor}"


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "CHANGELOG.md"])
def test_documents_name_only_targets_that_make_has_and_one_lists_them_all(document):
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text(document), re.DOTALL))
    named = set(re.findall(r"\bmake ([a-z]+)", code))
    assert named == targets if document == "docs/commands.md" else named <= targets
