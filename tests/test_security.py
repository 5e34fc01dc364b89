"""What others have written is data: no file of theirs is run, no name of theirs becomes HTML; and few packages come."""

import ast
import functools
import importlib.metadata
import json
import os
import pickle
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import hostile_page
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from torch import nn

from course_utils import __main__ as cli
from course_utils import data
from course_utils.experiments.event_files import read_folder
from course_utils.learner.record import LearnerRecord
from course_utils.lr import Sweep
from course_utils.training import Trainer

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What people run of this repository; the tests themselves may do more.
SHIPPED = [folder for folder in ("course_utils", "tools", "notebooks", "docs", "hub") if (ROOT / folder).is_dir()]


# What is written in the code.

# Ruff's rules on: code from a string; pickle and its like, marshal, yaml.load; shells; addresses of all interfaces;
# archives that are unpacked anywhere.
RULES = {
    "S102": "exec(text)",
    "S104": 'address = "0.0.0.0"',
    "S202": "import tarfile\ntarfile.open(name).extractall()",
    "S301": "import pickle\npickle.load(file)",
    "S302": "import marshal\nmarshal.loads(text)",
    "S306": "import tempfile\ntempfile.mktemp()",
    "S307": "eval(text)",
    "S506": "import yaml\nyaml.load(file)",
    "S602": "import subprocess\nsubprocess.run(text, shell=True)",
    "S605": "import os\nos.system(text)",
}
# The places that are there to run what the learner wrote, or the course itself.
MEANT = {
    ("course_utils/checks/start.py", "S102"),  # the five verbs of lesson 00, from the lines above it
    ("loop-doctor/src/loop_doctor/doctor.py", "S102"),  # the cell under the magic %%doctor
    ("course_utils/labs/item.py", "S102"),  # lesson 06's loop, made out of the lab's own controls
    ("notebooks/08_the_whole_loop.ipynb", "S102"),  # the learner's notes, which stand in the cell above
}


def ruff(*arguments: str, text: str | None = None) -> list[dict]:
    """What ruff finds by RULES, without regard to settings and to comments that silence it."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--ignore-noqa", "--no-cache", "--quiet"]
    command += ["--select", ",".join(RULES), "--output-format", "json", *arguments]
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_find_what_they_are_for(rule):
    assert [found["code"] for found in ruff("-", text=RULES[rule])] == [rule]


def test_code_from_strings_and_pickles_are_only_where_they_are_meant():
    found = {(Path(each["filename"]).relative_to(ROOT).as_posix(), each["code"]) for each in ruff(*SHIPPED)}
    assert found == MEANT


# What ruff has no rule for. A name stands for what comes from it, too: `torch.hub` for torch.hub.load(...).
NEVER = (
    "joblib",
    "dill",
    "cloudpickle",
    "shelve",
    "torch.hub",
    "torch.jit.load",
    "torch.package",
    "torch.export.load",
    "pandas.read_pickle",
    "numpy.lib.format",
    "runpy.run_module",
)


@functools.cache
def uses(source: str) -> list[tuple[str, ast.Call | None]]:
    """Give the full names of all that a program imports or calls, with the call."""
    tree, names, found = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                alias.asname or alias.name.partition(".")[0]: alias.name
                if alias.asname
                else alias.name.partition(".")[0]
                for alias in node.names
            }
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found += [(f"{node.module}.{alias.name}", None) for alias in node.names]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, _, rest = ast.unparse(node.func).partition(".")
            found.append((names.get(first, first) + (f".{rest}" if rest else ""), node))
    return found


def unsafe(source: str) -> list[str]:
    """Name what reads files so that they could run code."""
    found = []
    for name, call in uses(source):
        options = {} if call is None else {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if (
            any(name == never or name.startswith(never + ".") for never in NEVER)
            or (name == "torch.load" and call is not None and options.get("weights_only") != "True")
            or (name == "numpy.load" and call is not None and options.get("allow_pickle", "False") != "False")
            or (name in ("torch.load", "numpy.load") and None in options)
        ):
            found.append(name)
    return found


def programs() -> Iterator[tuple[str, str]]:
    """All that is shipped and is Python, by the name of its file; of notebooks, cell by cell."""
    for folder in SHIPPED:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        for path in sorted((ROOT / folder).glob("*.ipynb")):
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
            # A magic stands for its arguments, or for the cell below it.
            yield path.relative_to(ROOT).as_posix(), "\n".join(re.sub(r"(?m)^[%!].*$", "", cell) for cell in code)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\ntorch.load(f)", ["torch.load"]),
        ("import torch as t\nt.load(f, weights_only=False)", ["torch.load"]),
        ("from torch import load as read\nread(f, weights_only=wanted)", ["torch.load"]),
        ("import torch\ntorch.load(f, **options)", ["torch.load"]),
        ("import torch\ntorch.load(f, map_location='cpu', weights_only=True)", []),
        ("import numpy as np\nnp.load(f, allow_pickle=True)", ["numpy.load"]),
        ("import numpy as np\nnp.load(f, allow_pickle=False), np.load(f)", []),
        ("import joblib", ["joblib"]),
        ("from torch.hub import load", ["torch.hub.load"]),
        ("import torch\ntorch.jit.load(f)", ["torch.jit.load"]),
        ("import shelve\nshelve.open(f)", ["shelve", "shelve.open"]),
        ("from json import load\nload(f)", []),
    ],
)
def test_the_reader_of_programs_finds_what_it_is_for(source, found):
    assert unsafe(source) == found


def test_no_file_is_read_so_that_it_could_run_code():
    texts = dict(programs())
    assert {"course_utils/training/checkpoint.py", "tools/lab.py", "notebooks/07_summary_writer.ipynb"} <= texts.keys()
    assert {name: found for name, text in texts.items() if (found := unsafe(text))} == {}
    reads = [name for text in texts.values() for name, call in uses(text) if name == "torch.load" and call]
    assert reads, "the checkpoints are read by torch.load, so this test looks at the wrong thing"


# What happens with a file that means harm.


class Harm:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def harm(tmp_path) -> Iterator[Path]:
    """A folder that is never to be made; the file that makes it really does, where somebody unpickles it."""
    folder = tmp_path / "harm"
    pickle.loads(pickle.dumps(Harm(folder)))
    folder.rmdir()
    yield folder
    assert not folder.exists()


def trainer(run_dir: Path) -> Trainer:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return Trainer(
        model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), run_dir=run_dir, progress=False
    )


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.previous.pt"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "bare pickle"])
def test_a_run_does_not_go_on_from_a_hostile_checkpoint(tmp_path, harm, name, zipped):
    torch.save({"format": 1, "step": 3, "model": Harm(harm)}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    why = r"it asks for \w+\.mkdir, .* nothing of it was run" if zipped else "File is not a zip file"
    batches = data.load("digits")
    with pytest.raises(ValueError, match=rf"{name} can't be read \({why}\): start the run anew, in another folder"):
        trainer(tmp_path).fit(batches.train, batches.valid, num_epochs=1, resume=True)


def test_a_hostile_newest_checkpoint_gives_way_to_the_good_one_before(tmp_path, harm):
    batches = data.load("digits")
    trainer(tmp_path).fit(batches.train, batches.valid, num_epochs=1)
    os.replace(tmp_path / "checkpoint.pt", tmp_path / "checkpoint.previous.pt")
    torch.save({"format": 1, "model": Harm(harm)}, tmp_path / "checkpoint.pt")
    with pytest.warns(RuntimeWarning, match=r"nothing of it was run\): going on from the one before"):
        history = trainer(tmp_path).fit(batches.train, batches.valid, num_epochs=2, resume=True)
    assert history.epoch_loss[-1][0] == 2 * len(batches.train)


def test_the_command_refuses_a_hostile_checkpoint_in_one_line(tmp_path, harm, capsys):
    torch.save({"format": 1, "model": Harm(harm)}, tmp_path / "checkpoint.pt")
    assert cli.main(["train", "--lr", "0.1", "--epochs", "1", "--run-dir", str(tmp_path), "--resume", "--quiet"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert len(told.splitlines()) == 1
    assert "nothing of it was run" in told


def test_a_hostile_sweep_is_no_sweep(tmp_path, harm):
    path = tmp_path / "sweep.json"
    for content in (pickle.dumps(Harm(harm)), pickle.dumps(Harm(harm), protocol=0)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"."):
            Sweep.load(path)


def test_a_hostile_record_of_the_learner_is_moved_aside(tmp_path, harm):
    content = pickle.dumps(Harm(harm))
    (tmp_path / "progress.json").write_bytes(content)
    assert LearnerRecord(tmp_path).predictions() == {}
    assert (tmp_path / "progress.unreadable.json").read_bytes() == content


def test_a_hostile_event_file_holds_nothing(tmp_path, harm):
    (tmp_path / "events.out.tfevents.1.harm").write_bytes(pickle.dumps(Harm(harm)))
    found = read_folder(tmp_path)
    assert found.points == 0
    assert "0 of" in found.trouble


def test_a_hostile_file_of_a_data_set_is_refused_by_its_checksum(tmp_path, harm, monkeypatch):
    # CIFAR-10 comes as pickles; torchvision reads one only if its checksum is the one that torchvision knows.
    from torchvision import datasets

    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
        "batches.meta",
    ):
        (folder / name).write_bytes(pickle.dumps(Harm(harm)))
    with pytest.raises(RuntimeError, match=r"cifar10 could not be read from or downloaded into"):
        data.load("cifar10", root=tmp_path)


def test_the_doctor_says_that_it_runs_the_script(tmp_path, capsys):
    script = tmp_path / "train.py"
    script.write_text("print('the script ran')\n")
    assert cli.main(["doctor", str(script)]) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0] == f"running {script} under the loop doctor …"
    assert captured.out.startswith("the script ran\n")
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "The script really runs, with all that it does" in told


# What happens with strings that mean harm.

OURS = {
    "a",
    "b",
    "br",
    "circle",
    "code",
    "dd",
    "div",
    "dl",
    "dt",
    "h4",
    "iframe",
    "p",
    "pre",
    "span",
    "style",
    "svg",
    "table",
    "td",
    "text",
    "tr",
}


class Page(HTMLParser):
    """What a piece of HTML holds: its elements with their attributes, and all of its words."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.words = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.words += [value or "" for _, value in attrs]

    def handle_data(self, data):
        self.words.append(data)


def faults(text: str) -> list[tuple[str, dict]]:
    """The elements that are not the course's own, or that would run something."""
    return [
        (tag, attributes)
        for tag, attributes in Page(text).elements
        if tag not in OURS
        or any(name.startswith("on") or name == "srcdoc" for name in attributes)
        or "fixed" in (attributes.get("style") or "")
        or not re.match(r"https?://127\.0\.0\.1:\d+/|\d\d_\w+\.ipynb$", attributes.get("href", "00_x.ipynb"))
        or not re.match(r"http://127\.0\.0\.1:\d+/", attributes.get("src", "http://127.0.0.1:1/"))
    ]


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_LEARNER_DIR", str(folder / "a file" / hostile_page.IMAGE.replace("/", "")))
        patch.chdir(folder)
        yield hostile_page.pages(folder)


@pytest.mark.parametrize("harm", hostile_page.HARM)
def test_the_reader_of_pages_finds_what_it_is_for(harm):
    assert faults(f"<p>{harm}</p>" if harm != hostile_page.QUOTES else f'<p title="{harm}">')


def test_no_string_of_the_learner_becomes_an_element_or_an_attribute(pages):
    assert {name: found for name, text in pages.items() if (found := faults(text))} == {}


def test_the_strings_are_shown_as_they_are(pages):
    shown = {name: " ".join(Page(text).words) for name, text in pages.items()}
    everywhere = ("doctor", "svg", "Words", "Prediction", "MachineCard")
    assert everywhere == tuple(name for name in everywhere if name in shown)
    for name in everywhere:
        for harm in hostile_page.HARM:
            # The doctor sets what stands between backticks as code, and takes the backticks away.
            assert harm.strip("`") in shown[name], name
    assert "harmed" in shown["report"]
    assert hostile_page.QUOTES in shown["TensorBoardPanel"]


# What is installed, and why.


def described(requirements: list[str]) -> list[str]:
    """The names of requirements, in their order."""
    return [canonicalize_name(Requirement(requirement).name) for requirement in requirements]


def reasons() -> dict[str, str]:
    """The comment behind each requirement of pyproject.toml, by the package's name."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = re.findall(r'^    "([\w.-]+)[<>=][^"]*",[ ]*(?:# (.*))?$', text, re.MULTILINE)
    return {canonicalize_name(name): reason for name, reason in lines}


def test_each_requirement_has_a_reason():
    required = [
        *PROJECT["dependencies"],
        *(each for extra in PROJECT["optional-dependencies"].values() for each in extra),
    ]
    given = reasons()
    assert [name for name in described(required) if not given.get(name)] == []


def test_environment_yml_names_what_it_installs_and_why():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ +#   ([\w.-]+)  +(.+)$", text, re.MULTILINE)
    wanted = described([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["lab"]])
    assert listed == [(name, reasons()[name]) for name in wanted]
    commands = yaml.safe_load(text)["dependencies"]
    assert len(commands) == 3, "python, pip, and pip's part: a fourth one needs its reason here too"


# Packages that nobody imports, with a line of ours that would not work without them.
CALLED = {
    "jupyterlab": ("tools/lab.py", '"jupyterlab"'),
    "ipykernel": ("notebooks/00_start_here.ipynb", '"display_name": "Python 3 (ipykernel)"'),
    "nbval": ("tests/notebooks/test_notebooks_nbval.py", "--nbval"),
    "pre-commit": ("tests/test_house.py", '"pre_commit"'),
    "pytest-timeout": ("pyproject.toml", "timeout = 120"),
    "pytest-xdist": ("tools/run.py", '"--dist"'),
    "ruff": ("tools/run.py", '"ruff"'),
    "jupyterlab-language-pack-zh-cn": ("tools/lab.py", "jupyterlab_language_pack_"),
    "nbgitpuller": ("tools/classroom.py", "git-pull"),
    "myst-nb": ("docs/site/conf.py", '"myst_nb"'),
    "pydata-sphinx-theme": ("docs/site/conf.py", '"pydata_sphinx_theme"'),
}
# Where packages are imported by other names, and are not installed beside the tests.
MODULES = {"pytorch-ignite": "ignite", "torch-audit": "torch_audit", "torch-lr-finder": "torch_lr_finder"}


def test_each_requirement_is_needed():
    provides: dict[str, set[str]] = {}
    for module, names in importlib.metadata.packages_distributions().items():
        for name in names:
            provides.setdefault(canonicalize_name(name), set()).add(module)
    tests = [(path.name, path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("*.py")]
    imported = {
        name.partition(".")[0] for _, text in [*programs(), *tests] for name, call in uses(text) if call is None
    }
    required = [
        *PROJECT["dependencies"],
        *(each for extra in PROJECT["optional-dependencies"].values() for each in extra),
    ]
    idle = [
        name
        for name in described(required)
        if not ({MODULES.get(name, name), *provides.get(name, set())} & imported)
        and not (name in CALLED and CALLED[name][1] in (ROOT / CALLED[name][0]).read_text(encoding="utf-8"))
    ]
    assert idle == []
