"""What others have written is data: no file of theirs is run, and no name of theirs becomes HTML."""

import os
import pickle
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import hostile_page
import pytest
import torch
from loop_doctor import command as doctor_command
from torch import nn

from course_utils import __main__ as cli
from course_utils import data
from course_utils.experiments.event_files import read_folder
from course_utils.learner.record import LearnerRecord
from course_utils.lr import Sweep
from course_utils.training import Trainer

# What happens with a file that means harm.


class Harm:
    """Makes a folder when it is unpickled."""

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
    why = r"it asks for \w+\.mkdir, .* none of it was run" if zipped else "File is not a zip file"
    batches = data.load("digits")
    with pytest.raises(ValueError, match=rf"{name} cannot be read \({why}\): start the run again, in another folder"):
        trainer(tmp_path).fit(batches.train, batches.valid, num_epochs=1, resume=True)


def test_a_hostile_newest_checkpoint_gives_way_to_the_good_one_before(tmp_path, harm):
    batches = data.load("digits")
    trainer(tmp_path).fit(batches.train, batches.valid, num_epochs=1)
    os.replace(tmp_path / "checkpoint.pt", tmp_path / "checkpoint.previous.pt")
    torch.save({"format": 1, "model": Harm(harm)}, tmp_path / "checkpoint.pt")
    with pytest.warns(RuntimeWarning, match=r"none of it was run\): continuing from the previous one"):
        history = trainer(tmp_path).fit(batches.train, batches.valid, num_epochs=2, resume=True)
    assert history.epoch_loss[-1][0] == 2 * len(batches.train)


def test_the_command_refuses_a_hostile_checkpoint_in_one_line(tmp_path, harm, capsys):
    torch.save({"format": 1, "model": Harm(harm)}, tmp_path / "checkpoint.pt")
    assert cli.main(["train", "--lr", "0.1", "--epochs", "1", "--run-dir", str(tmp_path), "--resume", "--quiet"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert len(told.splitlines()) == 1
    assert "none of it was run" in told


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
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Harm(harm)))
    with pytest.raises(RuntimeError, match=r"cifar10 could not be read from or downloaded into"):
        data.load("cifar10", root=tmp_path)


def test_the_doctor_says_that_it_runs_the_script(tmp_path, capsys):
    script = tmp_path / "train.py"
    script.write_text("print('the script ran')\n")
    assert doctor_command.main(["run", str(script)]) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0] == f"loop-doctor: running {script}"
    assert captured.out.startswith("the script ran\n")
    with pytest.raises(SystemExit):
        doctor_command.main(["run", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "The script runs as usual: it trains, and it writes its files" in told


# What happens with strings that mean harm.

# The course's own elements.
OURS = re.compile("a|b|br|circle|code|dd|div|dl|dt|h4|iframe|p|pre|span|style|svg|table|td|text|tr")


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
        if not OURS.fullmatch(tag)
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
