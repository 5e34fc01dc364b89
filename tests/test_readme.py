"""Every command and every piece of code in README and CONTRIBUTING is run: here or by another test, or says why not."""

import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from loop_doctor.rules import JUDGES

from course_utils import data
from course_utils.__main__ import main
from course_utils.models import MLP

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# What stands in a line of text and is to be typed.
TYPED = re.compile(r"`((?:make|python|pip|conda|git|jupyter|\.venv/\S+) [^`\n]+)`")
MARK = re.compile(r"needs [^;()]+; not run by our tests")

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

# Typed here as they stand: how each ends, and what it says.
TYPED_HERE = {
    ".venv/bin/python -m course_utils doctor train.py --epochs 1": (1, r"(?s)12 steps of SGD.*missing-zero-grad"),
    ".venv/bin/python -m pytest tests/test_meters.py -k weigh": (0, r"\d+ passed, \d+ deselected"),
    ".venv/bin/pre-commit install": (0, r"pre-commit installed at \.git/hooks/pre-commit"),
}
# Given to the function that the command calls, in this order: a start of Python costs more than the run.
CALLED_HERE = {
    ".venv/bin/python -m course_utils find-lr": r"--lr 0\.\d+, or from 0\.\d+ to 0\.\d+\n",
    ".venv/bin/python -m course_utils train --lr 0.25 --run-dir runs/a": (r"done: 230 steps, best accuracy 0\.9\d+"),
    ".venv/bin/python -m course_utils train --lr 0.25 --epochs 20 --run-dir runs/a --resume": (
        r"(?s)^((?!step +23/460).)*step 253/460.*done: 460 steps, best accuracy 0\.9\d+"
    ),
}

# Run by another test, or by several.
MAKE, HOUSE = "tests/test_make.py::test_", "tests/test_house.py::test_"
SETUP = f"{MAKE}setup_survives_what_can_happen_to_it"
STEPS = [
    f"{HOUSE}commit_hook_make_check_and_ci_mean_the_same",
    f"{HOUSE}every_step_runs_and_one_failure_fails_the_whole",
]
ELSEWHERE = {
    "make lab": [SETUP, "tests/test_lab_tool.py::test_with_the_token_the_first_lesson_opens"],
    "make lab PORT=9000": [f"{MAKE}taken_port_is_told_in_one_line"],
    "make lab PYTHON=python3.12": [f"{MAKE}newer_python_is_found_behind_broken_and_old_ones"],
    "make lab LOCALE=zh_CN": [
        f"{MAKE}a_language_is_installed_and_passed_on",
        "tests/browser/test_browser_language.py::test_menus_are_chinese_where_that_is_asked_for",
    ],
    "make setup": [SETUP],
    "make test": [SETUP, *STEPS],
    "make check": [SETUP, *STEPS],
    "make notebooks": [
        "tests/notebooks/test_notebooks_execute.py",
        "tests/test_index.py::test_a_readme_that_is_out_of_date_is_told_and_made_anew",
    ],
    "make site": [
        "tests/test_site.py::test_make_site_installs_what_the_pages_need_and_builds_them",
        "tests/browser/test_browser_site.py::test_every_page_can_be_reached_by_links",
    ],
    "make pictures": ["tests/browser/test_browser_learning_rate.py::test_the_lab_is_filmed_while_the_mouse_drags"],
    "make class": ["tests/test_class_running.py::test_two_learners_run_the_lesson_and_move_its_slider"],
    "make class LEARNERS=20": [
        "tests/test_class.py::test_learners_are_counted_or_named",
        "tests/test_class_running.py::test_two_learners_run_the_lesson_and_move_its_slider",
    ],
    "make rehearsal": ["tests/test_class_running.py::test_two_learners_run_the_lesson_and_move_its_slider"],
    "make try": ["tests/test_try_versions.py"],
    "make record": ["tests/lr/test_sweep.py"],
    "make bench": [SETUP, f"{HOUSE}every_benchmark_is_run"],
    "make pins": [f"{HOUSE}pins_are_rewritten_below_the_head"],
    "make clean": [f"{MAKE}clean_leaves_the_learners_own_files"],
    "make help": [f"{MAKE}make_without_a_target_lists_every_target"],
    ".venv/bin/torchrun --standalone --nproc-per-node 2 -m course_utils train --run-dir runs/b": [
        "tests/test_distributed.py::test_a_killed_worker_ends_the_run_resume_goes_on_and_torchrun_restarts"
    ],
    ".venv/bin/python tools/rehearsal.py --write": [
        "tests/test_class.py::test_figures_are_written_as_they_were_measured"
    ],
    ".venv/bin/python -m pytest tests/test_meters.py": ["tests/test_meters.py"],
    ".venv/bin/tensorboard --logdir runs": ["tests/test_board.py::test_it_serves_the_curves_of_the_folder"],
}


@dataclass(frozen=True)
class Fence:
    """A block of code in a document.

    Attributes:
        language: what stands behind the opening fence.
        text: what stands inside.
        before: the paragraph above it.
    """

    document: str
    language: str
    text: str
    before: str


@dataclass(frozen=True)
class Command:
    """A line to be typed.

    Attributes:
        text: the line without its comment.
        marked: whether its comment, or the paragraph above its block, says that it is not run and what it needs.
    """

    text: str
    marked: bool


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def fences(document: str, content: str) -> list[Fence]:
    found = []
    for match in FENCE.finditer(content):
        before = content[: match.start()].rstrip().rsplit("\n\n", 1)[-1]
        found.append(Fence(document, match[1], match[2], before))
    return found


def commands(fence: Fence) -> list[Command]:
    """The lines of a block for the shell; one that goes on in the next line is one command."""
    found = []
    for line in fence.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            comment = line.partition(" #")[2]
            found.append(Command(line.partition(" #")[0].strip(), bool(MARK.search(comment + fence.before))))
    return found


FENCES = [fence for document in DOCUMENTS for fence in fences(document, text(document))]


def unknown(command: Command) -> bool:
    return not command.marked and command.text not in {**TYPED_HERE, **CALLED_HERE, **ELSEWHERE}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_is_run_or_says_why_not(document):
    blocks = [fence for fence in FENCES if fence.document == document and fence.language == "sh"]
    typed = [Command(found, False) for found in TYPED.findall(FENCE.sub("", text(document)))]
    every = [command for fence in blocks for command in commands(fence)] + typed
    assert len(every) > 5
    assert [command.text for command in every if unknown(command)] == [], (
        "run it in tests/test_readme.py, name the test that runs it, or mark it: (needs …; not run by our tests)"
    )


def test_a_block_is_code_for_the_shell_or_for_python_or_a_drawing():
    for fence in FENCES:
        assert fence.language in ("sh", "python", ""), f"{fence.document} has a block of {fence.language!r}"
        if not fence.language:
            typed = re.findall(r"^\$? *(?:make|python|pip|conda|git|\.venv/\S+) .*", fence.text, re.MULTILINE)
            assert typed == [], f"{fence.document}: a block with commands begins with ```sh"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Do this:\n\n```sh\nmake lab     # opens it\n```\n", [False]),
        ("Do this:\n\n```sh\nmake lba\n```\n", [True]),
        ("Do this\n(needs conda; not run by our tests):\n\n```sh\nconda run\npip x\n```\n", [False, False]),
        ("```sh\ngit x   # needs a network; not run by our tests\ngit y\n```\n", [False, True]),
        ("```sh\n# only a comment\nmake lab \\\n  PORT=1\n```\n", [True]),
    ],
)
def test_what_nobody_runs_would_be_found(content, expected):
    (fence,) = fences("README.md", content)
    assert [unknown(command) for command in commands(fence)] == expected


def test_what_no_document_says_is_not_kept_here():
    said = "\n".join(text(document) for document in DOCUMENTS)
    assert [command for command in [*TYPED_HERE, *CALLED_HERE, *ELSEWHERE] if command not in said] == []


@pytest.mark.parametrize("command", ELSEWHERE)
def test_the_test_that_is_said_to_run_a_command_is_there(command):
    for name in ELSEWHERE[command]:
        path, _, function = name.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
        assert tests
        assert not function or function in tests, name


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout in which commands can be typed: its files are links, its `.venv` is the environment of this Python."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name not in (".git", ".venv", ".venv-bench", ".pytest_cache", "runs", "learner", "artifacts"):
            (folder / path.name).symlink_to(path)
    (folder / ".venv").symlink_to(sys.prefix)
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    (folder / "train.py").write_text(TRAIN, encoding="utf-8")
    return folder


@pytest.mark.skipif(os.name == "nt", reason="the commands are those of a POSIX shell")
@pytest.mark.parametrize("command", TYPED_HERE)
def test_a_command_does_what_is_said_of_it(command, checkout):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(["sh", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True)
    status, words = TYPED_HERE[command]
    assert done.returncode == status, done.stdout + done.stderr
    assert re.search(words, done.stdout), done.stdout + done.stderr


def test_the_loop_as_a_command_does_what_is_said_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command, words in CALLED_HERE.items():
        program, arguments = command.split(" -m course_utils ")
        assert program == ".venv/bin/python"
        assert main(shlex.split(arguments)) == 0
        assert re.search(words, capsys.readouterr().out), command
    assert (tmp_path / "runs" / "a" / "checkpoint.pt").is_file()


# Code.


def the_five_lines(code: str) -> None:
    torch.manual_seed(0)
    digits = data.load("digits")
    model, loss_fn = MLP(digits.shape), torch.nn.CrossEntropyLoss()
    names = {
        "train": digits.train,
        "model": model,
        "loss_fn": loss_fn,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    }
    x, y = digits.train.dataset.tensors
    before = loss_fn(model(x), y).item()
    exec(code, names)
    assert loss_fn(model(x), y).item() < 0.8 * before
    assert [line.strip().split("(")[0] for line in code.splitlines()[1:]] == [
        "optimizer.zero_grad",
        "loss = loss_fn",
        "loss.backward",
        "optimizer.step",
    ]


def the_doctor_around_a_loop(code: str) -> None:
    names = {"run_my_loop": lambda: exec(compile(TRAIN, "train.py", "exec"), {})}
    exec(code, names)
    assert [finding.code for finding in names["doctor"].findings] == ["missing-zero-grad"]
    assert code.splitlines()[-1].startswith("print(doctor)")


PYTHON = {"for x, y in train:": the_five_lines, "from loop_doctor import LoopDoctor": the_doctor_around_a_loop}


def test_code_runs_as_it_stands(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--epochs", "1"])
    blocks = [fence for fence in FENCES if fence.language == "python" and not MARK.search(fence.before)]
    assert {fence.text.splitlines()[0] for fence in blocks} == PYTHON.keys()
    for fence in blocks:
        PYTHON[fence.text.splitlines()[0]](fence.text)
    assert "missing-zero-grad (problem)" in capsys.readouterr().out


# Pictures and numbers.


def test_every_picture_is_there_and_is_described():
    readme = text("README.md")
    pictures = re.findall(r"!\[([^\]]*)\]\((docs/[^)]+)\)", readme)
    pictures += [(alt, source) for source, alt in re.findall(r'<img src="([^"]+)" alt="([^"]*)"', readme)]
    assert len(pictures) == readme.count("<img ") + readme.count("](docs/trainer-benchmark.png)") >= 3
    for alt, source in pictures:
        assert (ROOT / source).is_file()
        assert len(alt.split()) > 15, f"{source}: say what is seen"
    for source in re.findall(r'srcset="([^"]+)"', readme):
        assert (ROOT / source).is_file(), source


def test_the_numbers_in_the_prose_are_those_of_the_project():
    readme = " ".join(text("README.md").split())
    assert f"names {len([code for code in JUDGES if code != 'harmless-here'])} mistakes" in readme
    assert "Nine lessons" in readme
    assert len(list((ROOT / "notebooks").glob("*.ipynb"))) == 9
    digits = data.load("digits")
    assert f"{len(digits.train.dataset) + len(digits.valid.dataset):,} small images" in readme
