"""Checkpoint files: whole or not there at all, refused in one line if damaged, in a folder that one run has."""

import contextlib
import errno
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections import namedtuple
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from course_utils.data import Batches
from course_utils.training import checkpoint
from course_utils.training.checkpoint import Checkpoints, run_folder
from course_utils.training.state import check_state

ROOT = Path(__file__).parents[2]
# A checkpoint that an earlier edition of this code wrote, after step 7 of 10.
EARLIER = Path(__file__).with_name("checkpoint_of_format_1.pt")
posix = pytest.mark.skipif(os.name == "nt", reason="a matter of POSIX")


def place(random_states):
    """A place in the data, as `Passes.state_dict` returns it."""
    start = {"random": None, "order": {}, "workers": False}
    return {"number": 1, "position": 2, "ended": False, "start": start, "now": random_states, "kept": None}


def state(step=1, **parts):
    """A whole state, with the weights `x`, whose bytes a test can find in a file."""
    figures = ("step_loss", "epoch_loss", "valid_loss", "valid_accuracy", "lr", "grad_norm", "samples_per_second")
    generators = {"generators": [], "python": random.Random(0).getstate(), "torch": torch.Generator().get_state()}
    return {
        "made_with": {"model": "Linear", "lr": 0.1, "betas": (0.9, 0.99)},
        "plan": {"num_steps": 20, "num_epochs": 4},
        "model": {"x": torch.full((100,), 7.0)},
        "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scaler": {},
        "step": step,
        "epoch": 1,
        "position": 2,
        "epoch_trained": False,
        "skipped_steps": 0,
        "means": {"window": [3.5, 8.0], "epoch": [0.0, 0.0]},
        "history": {name: [(5, 0.5), (7, 0.25)] for name in figures},
        "callbacks": [],
        "passes": [place(generators)],
    } | parts


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_state_comes_back_and_the_one_before_is_kept(tmp_path):
    assert checkpoint.load(tmp_path) is None
    for step in (1, 2, 3):
        checkpoint.save(state(step, callbacks=[{"a": [1, (2.5, None, "b")]}]), tmp_path)
    found = checkpoint.load(str(tmp_path))
    assert found.keys() == state().keys() | {"format"}
    assert found["step"] == 3
    assert torch.equal(found["model"]["x"], torch.full((100,), 7.0))
    assert found["callbacks"] == [{"a": [1, (2.5, None, "b")]}]
    assert names(tmp_path) == ["checkpoint.previous.pt", "checkpoint.pt"]
    (tmp_path / "checkpoint.pt").unlink()
    assert checkpoint.load(tmp_path)["step"] == 2


# Damaged files.


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    place = data.find(torch.full((100,), 7.0).numpy().tobytes())
    data[place + 10] ^= 1
    path.write_bytes(bytes(data))


def compress(path):
    """Compress the parts, which PyTorch reads, so that a few bytes could unfold to more than the memory holds."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def replace_by_text(path):
    path.write_text("not a checkpoint")


def replace_by_others_weights(path):
    torch.save({"weights": torch.zeros(3)}, path)


def replace_by_a_later_format(path):
    torch.save(state() | {"format": 3}, path)


def replace_by_a_trainers_state(path):
    found = state() | {"format": 2}
    del found["passes"]
    torch.save(found, path)


def take_a_part_out(path):
    found = state() | {"format": 2}
    del found["optimizer"]["param_groups"]
    torch.save(found, path)


def replace_by_a_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_a_pipe(path):
    path.unlink()
    os.mkfifo(path)


def replace_by_a_socket(path):
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):  # its name must be short
        server.bind(path.name)


def replace_by_a_device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def replace_by_a_loop(path):
    path.unlink()
    path.symlink_to(path.name)


def replace_by_a_link_to_nothing(path):
    path.unlink()
    path.symlink_to("gone.pt")


DAMAGES = [
    (truncate, "File is not a zip file|Truncated|Bad"),
    (empty, "File is not a zip file"),
    (flip_a_bit, r"its part \S+ does not match its checksum"),
    (compress, "its parts are compressed"),
    (replace_by_text, "File is not a zip file"),
    (replace_by_others_weights, "it does not hold a state of format 2 or earlier"),
    (replace_by_a_later_format, "it does not hold a state of format 2 or earlier"),
    (replace_by_a_trainers_state, "passes is missing: it is the state of a trainer, not a checkpoint"),
    (take_a_part_out, r"a run cannot continue from this state: optimizer\.param_groups is missing"),
    (replace_by_a_folder, "it is a folder, not a file"),
    pytest.param(replace_by_a_pipe, "it is a named pipe, not a file", marks=posix),
    pytest.param(replace_by_a_socket, "it is a socket, not a file", marks=posix),
    pytest.param(replace_by_a_device, "it is a device, not a file", marks=posix),
    pytest.param(replace_by_a_loop, "it is a link that leads nowhere", marks=posix),
    pytest.param(replace_by_a_link_to_nothing, "it is a link that leads nowhere", marks=posix),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_a_damaged_newest_file_gives_way_to_the_one_before_and_says_so(tmp_path, damage, reason):
    for step in (1, 2):
        checkpoint.save(state(step), tmp_path)
    damage(tmp_path / "checkpoint.pt")
    with pytest.warns(RuntimeWarning, match=rf"checkpoint\.pt cannot be read \((?:{reason}).*continuing from the prev"):
        assert checkpoint.load(tmp_path)["step"] == 1
    with pytest.raises(ValueError, match="holds another run"):
        Checkpoints(tmp_path).open(resume=False)
    damage(tmp_path / "checkpoint.previous.pt")
    message = r"checkpoint\.pt cannot be read .*; .*checkpoint\.previous\.pt cannot be read .*: start the run again"
    with pytest.raises(ValueError, match=message) as told:
        checkpoint.load(tmp_path)
    assert len(str(told.value).splitlines()) == 1
    assert "weights_only" not in str(told.value)


@pytest.mark.parametrize("damage", [truncate, pytest.param(replace_by_a_pipe, marks=posix)])
def test_after_a_damaged_file_the_next_saves_keep_good_ones(tmp_path, damage):
    for step in (1, 2):
        checkpoint.save(state(step), tmp_path)
    damage(tmp_path / "checkpoint.pt")
    with contextlib.closing(Checkpoints(tmp_path)) as keeper:
        with pytest.warns(RuntimeWarning, match=r"continuing from the previous one"):
            assert keeper.open(resume=True)["step"] == 1
        for step, before in ((3, 1), (4, 3)):
            keeper.save(state(step))
            assert checkpoint._read(tmp_path / "checkpoint.pt")["step"] == step
            assert checkpoint._read(tmp_path / "checkpoint.previous.pt")["step"] == before


def test_a_file_that_this_user_may_not_read_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    checkpoint.save(state(1), tmp_path)
    checkpoint.save(state(2), tmp_path)

    def refuse(path, mode):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: .*checkpoint\.pt"):
        checkpoint.load(tmp_path)


def test_an_error_of_the_disk_counts_as_damage(tmp_path, monkeypatch):
    checkpoint.save(state(1), tmp_path)

    def fail(path, mode):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(
        ValueError, match=r"checkpoint\.pt cannot be read \(\[Errno 5\] Input/output error.*start the run"
    ):
        checkpoint.load(tmp_path)


def loaded(folder):
    """The state in a folder or None, and the error or no text."""
    try:
        return checkpoint.load(folder), ""
    except ValueError as error:
        return None, str(error)


def test_wherever_a_file_is_cut_or_a_byte_differs_it_is_whole_or_refused(tmp_path):
    checkpoint.save(state(5), tmp_path)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 41):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        for content in (whole[:place], bytes(flipped)):
            path.write_bytes(content)
            found, error = loaded(tmp_path)
            refused += found is None
            assert "\n" not in error
            # Some bytes of a file say nothing, such as the dates of its parts.
            assert found is None or (found["step"] == 5 and found["model"]["x"].tolist() == [7.0] * 100)
    assert refused > len(whole) / 41 * 1.5


def with_program(path, change):
    """Write a file with whole checksums whose pickle, the program that makes the state, is changed."""
    buffer = path.with_name("good.pt")
    torch.save(state(5) | {"format": 2}, buffer)
    with zipfile.ZipFile(buffer) as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            bad.writestr(name, change(content) if name.endswith("data.pkl") else content)
    buffer.unlink()


def test_a_changed_program_in_a_file_with_whole_checksums_is_refused_or_gives_a_whole_state(tmp_path):
    numbers = random.Random(0)

    def change(program):
        changed = bytearray(program)
        for _ in range(numbers.randrange(1, 4)):
            changed[numbers.randrange(len(changed))] = numbers.randrange(256)
        return bytes(changed)

    refused = 0
    for _ in range(150):
        with_program(tmp_path / "checkpoint.pt", change)
        found, error = loaded(tmp_path)
        refused += found is None
        assert found is None or check_state(found) is None
        assert "\n" not in error
        assert "weights_only" not in error
    assert refused > 50


# Files from elsewhere.


def test_a_checkpoint_from_elsewhere_runs_no_code(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    torch.save({"format": 1, "model": Harmful()}, tmp_path / "checkpoint.previous.pt")
    sentence = (
        r"checkpoint\.previous\.pt cannot be read \(it asks for (posix|nt)\.mkdir, which no checkpoint of this course "
        r"does; none of it was run\): start the run again, in another folder$"
    )
    with pytest.raises(ValueError, match=sentence):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "harm").exists()
    with zipfile.ZipFile(tmp_path / "checkpoint.previous.pt") as archive:
        name = next(each for each in archive.namelist() if each.endswith("data.pkl"))
        assert b"mkdir" in archive.read(name)


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (b"\x80\x02.", r"it does not hold a state \(IndexError: "),
        (b"\x80\x02K\x01K\x02s.", r"it does not hold a state \((TypeError|IndexError|AssertionError|AttributeError): "),
        (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", r"it asks for os\.system, which no checkpoint"),
        (b"\x80\x02\xff.", "it holds more than tensors and plain values, unlike every checkpoint"),
        (b"\x80\x02}X\x06\x00\x00\x00formatK\x02s.", r"a run cannot continue from this state: made_with is missing; "),
        (b"\x80\x02}X\x06\x00\x00\x00format\x88s.", "it does not hold a state of format 2 or earlier"),
        (b"\x80\x02}X\x06\x00\x00\x00format]s.", "it does not hold a state of format 2 or earlier"),
    ],
)
def test_a_checkpoint_with_a_program_of_its_own_is_refused_in_one_line(tmp_path, program, why):
    with_program(tmp_path / "checkpoint.pt", lambda _: program)
    with pytest.raises(ValueError, match=why) as told:
        checkpoint.load(tmp_path)
    assert len(str(told.value).splitlines()) == 1


def test_a_program_for_torchscript_is_refused_without_advice_and_warnings(tmp_path):
    with zipfile.ZipFile(tmp_path / "checkpoint.pt", "w") as archive:
        for name, content in (("data.pkl", b"\x80\x02}."), ("constants.pkl", b"\x80\x02)."), ("version", b"3\n")):
            archive.writestr(f"archive/{name}", content)
    with pytest.raises(ValueError, match="it holds more than tensors and plain values, unlike every checkp") as told:
        checkpoint.load(tmp_path)
    assert "weights_only" not in str(told.value)


# Format 1.


def test_a_checkpoint_of_an_earlier_edition_is_read_in_the_present_form(tmp_path):
    shutil.copy(EARLIER, tmp_path / "checkpoint.pt")
    found, earlier = checkpoint.load(tmp_path), torch.load(EARLIER, weights_only=True)
    random_states = earlier.pop("random")[0]
    assert earlier.keys() - found.keys() == set()
    assert (found["format"], found["plan"], found["callbacks"]) == (2, None, [])
    assert {name: found[name] for name in ("step", "epoch", "position", "history", "means", "made_with")} == {
        name: earlier[name] for name in ("step", "epoch", "position", "history", "means", "made_with")
    }
    (place,) = found["passes"]
    assert (place["number"], place["position"], place["ended"], place["kept"]) == (1, 2, False, None)
    assert torch.equal(place["now"]["torch"], random_states["now"]["torch"])
    assert torch.equal(place["start"]["random"]["torch"], random_states["epoch"]["torch"])


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"epoch_trained": True, "position": 5}, (2, 0)),  # the pass is over, the epoch is not closed
        ({"position": 0}, (1, 0)),
        ({"model": {"0._orig_mod.weight": torch.ones(1)}}, (1, 2)),
    ],
)
def test_the_place_in_the_data_of_an_earlier_checkpoint(tmp_path, change, place):
    torch.save(torch.load(EARLIER, weights_only=True) | change, tmp_path / "checkpoint.pt")
    found = checkpoint.load(tmp_path)
    passes = found["passes"][0]
    assert (passes["number"], passes["position"]) == place
    assert (passes["start"]["random"] is None) == (place[1] == 0)
    assert "_orig_mod" not in "".join(found["model"])


@pytest.mark.parametrize("part", ["random", "epoch", "position", "model", "epoch_trained", "history"])
@pytest.mark.parametrize("value", [..., None, 3, [], [3], {3: 4}])
def test_an_earlier_checkpoint_with_a_hole_is_refused(tmp_path, part, value):
    found = torch.load(EARLIER, weights_only=True) | {part: value}
    if value is ...:
        del found[part]
    torch.save(found, tmp_path / "checkpoint.pt")
    if (part, value) in (("epoch", 3), ("position", 3)):
        assert checkpoint.load(tmp_path)[part] == 3
        return
    with pytest.raises(ValueError, match=r"cannot be read .*: start the run again"):
        checkpoint.load(tmp_path)


# What can be stored.


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"fn": names}, r"state\['callbacks'\]\['fn'\] is a function, which a checkpoint cannot hold"),
        ({"who": object()}, r"state\['callbacks'\]\['who'\] is a object, which"),
        ({"when": numpy.datetime64("2020")}, r"state\['callbacks'\]\['when'\] is a datetime64, which"),
        ({"array": numpy.ones(2)}, r"state\['callbacks'\]\['array'\] is a ndarray, which"),
        ({"tuple": (1, {2})}, r"state\['callbacks'\]\['tuple'\] is a set, which"),
        ({torch.float32: 1}, r"a key of state\['callbacks'\] is a dtype, which"),
        ({"pair": namedtuple("Pair", "a b")(1, print)}, r"state\['callbacks'\]\['pair'\] is a builtin_function"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_named_before_anything_is_written(tmp_path, part, message):
    for refuse in (partial(checkpoint.save, folder=tmp_path), checkpoint.check_storable):
        with pytest.raises(TypeError, match=message):
            refuse(state(callbacks=[part]))
    assert list(tmp_path.iterdir()) == []


def test_numpys_numbers_and_special_tuples_become_plain_values(tmp_path):
    kept = {"lr": numpy.float64(0.5), "pair": (numpy.int64(3), 1), "size": torch.Size([2]), numpy.int64(4): "four"}
    checkpoint.save(state(callbacks=[kept]), tmp_path)
    assert checkpoint.load(tmp_path)["callbacks"] == [{"lr": 0.5, "pair": (3, 1), "size": (2,), 4: "four"}]


def test_a_state_that_no_run_could_continue_from_is_refused_before_the_run():
    checkpoint.check_storable(state())
    with pytest.raises(ValueError, match=r"callbacks must be a list of dicts, is \[\[1\]\]"):
        checkpoint.check_storable(state(callbacks=[[1]]))


# Folders.


def test_a_folder_is_text_or_a_path_and_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert run_folder("~/runs/a") == run_folder(Path("~/runs/a")) == tmp_path / "runs" / "a"
    monkeypatch.chdir(tmp_path)
    assert run_folder("a") == tmp_path / "a"
    checkpoint.save(state(3), "~/runs/a")
    assert checkpoint.load(tmp_path / "runs" / "a")["step"] == 3
    keeper = Checkpoints("~/runs/a")
    assert keeper.folder == tmp_path / "runs" / "a"
    assert names(tmp_path) == ["runs"]


def test_a_program_that_changes_its_folder_saves_to_the_same_place(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(Checkpoints("run")) as keeper:
        keeper.open(resume=False)
        monkeypatch.chdir(tmp_path / "elsewhere")
        keeper.save(state(1))
    assert checkpoint.load(tmp_path / "run")["step"] == 1
    assert names(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("use", [Checkpoints, checkpoint.load, partial(checkpoint.save, {})])
@pytest.mark.parametrize(
    ("folder", "error", "message"),
    [
        ("", ValueError, r"run_dir '' names no folder: give a name such as 'runs/first'"),
        ("  ", ValueError, r"run_dir '  ' names no folder"),
        ("a\0b", ValueError, r"run_dir 'a\\x00b' names no folder"),
        ("\ud800", ValueError, r"run_dir '\\ud800' names no folder"),
        ("~nobody_of_this_name/a", ValueError, r"run_dir '~nobody_of_this_name/a' begins with a home folder that does"),
        (3, TypeError, r"run_dir must be the name of a folder, as text or as a Path, got 3"),
        (True, TypeError, r"run_dir must be .*, got True"),
        (b"a", TypeError, r"run_dir must be .*, got b'a'"),
        (["a"], TypeError, r"run_dir must be .*, got \['a'\]"),
    ],
)
def test_what_names_no_folder_is_refused(tmp_path, monkeypatch, use, folder, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        use(folder)
    assert names(tmp_path) == []


def test_a_checkpoint_needs_a_folder():
    for use in (checkpoint.load, partial(checkpoint.save, {})):
        with pytest.raises(TypeError, match=r"run_dir must be .*, got None"):
            use(None)
    with pytest.raises(ValueError, match=r"resume=True needs run_dir, the folder of the run to continue"):
        Checkpoints(None).open(resume=True)
    keeper = Checkpoints(None)
    assert keeper.open(resume=False) is None
    keeper.save(state())
    keeper.close()


def test_a_folder_that_cannot_be_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder, error, message in [
        (tmp_path / "file", NotADirectoryError, r"file' is a file: give the name of a folder"),
        (
            tmp_path / "file" / "a" / "b",
            OSError,
            r"b' cannot be written to \('.*/file' is a file\): choose another fol",
        ),
        (tmp_path / ("a" * 300), OSError, r"a' cannot be written to \(.*too long.*\): choose another folder"),
    ]:
        for resume in (False, True):
            with pytest.raises(error, match=message):
                Checkpoints(folder).open(resume=resume)
    if sys.platform == "linux":
        with pytest.raises(OSError, match=r"run_dir '/proc/.*' cannot be written to"):
            Checkpoints("/proc/run").open(resume=False)
    assert names(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_written_to_is_left_unlocked(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied", str(dir))

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", refuse)
        with pytest.raises(OSError, match=r"cannot be written to \(.*Permission denied"):
            Checkpoints(tmp_path).open(resume=False)
    with contextlib.closing(Checkpoints(tmp_path)) as keeper:
        keeper.open(resume=False)


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.previous.pt", "events.out.tfevents.1.host.2.0"])
def test_a_folder_with_another_run_is_refused_and_left_unlocked(tmp_path, name):
    (tmp_path / name).write_text("")
    for keeper in (Checkpoints(tmp_path), Checkpoints(tmp_path)):
        with pytest.raises(ValueError, match=r"holds another run: continue it \(resume=True, --resume\)"):
            keeper.open(resume=False)


def test_an_object_goes_on_with_its_own_run_but_not_with_what_another_made_of_it(tmp_path):
    with contextlib.closing(Checkpoints(tmp_path)) as keeper:
        assert keeper.open(resume=False) is None
        keeper.save(state(1))
        keeper.close()
        assert keeper.open(resume=False, own=True) is None
        keeper.save(state(2))
    with contextlib.closing(Checkpoints(tmp_path)) as other:
        assert other.open(resume=True)["step"] == 2
        other.close()
        assert other.open(resume=False, own=True) is None
        other.save(state(10))
    with pytest.raises(ValueError, match="holds another run"):
        keeper.open(resume=False, own=True)
    with contextlib.closing(keeper):
        assert keeper.open(resume=True, own=True)["step"] == 10
    for path in tmp_path.glob("checkpoint*"):
        path.unlink()
    with contextlib.closing(keeper):
        assert keeper.open(resume=False, own=True) is None


# One run per folder.


def test_the_lock_is_held_from_open_to_close_and_the_others_error_names_it(tmp_path):
    first, second = Checkpoints(tmp_path), Checkpoints(tmp_path)
    first.open(resume=False)
    for resume in (False, True):
        with pytest.raises(
            ValueError, match=r"is in use: another run holds the lock '.*run\.lock' until it ends\. Wait"
        ):
            second.open(resume=resume)
    with pytest.raises(ValueError, match="is in use"):
        first.open(resume=True)  # in another thread, for example; the first opening keeps the lock
    with pytest.raises(ValueError, match="is in use"):
        second.open(resume=True)
    first.close()
    first.close()
    assert second.open(resume=True) is None
    second.close()


def test_a_process_that_does_not_write_neither_takes_nor_needs_the_lock(tmp_path):
    folder = tmp_path / "run"
    reader = Checkpoints(folder, writes=False)
    assert reader.open(resume=False) is None
    assert not folder.exists()
    with contextlib.closing(Checkpoints(folder)) as writer:
        writer.open(resume=False)
        writer.save(state(4))
        assert reader.open(resume=True)["step"] == 4
        reader.save(state(5))
        assert checkpoint.load(folder)["step"] == 4
    assert (reader.folder_to_write, writer.folder_to_write) == (None, folder)
    assert not reader.due()


def test_of_two_threads_one_gets_the_folder(tmp_path):
    start, got, lost = threading.Barrier(2), [], []

    def run():
        keeper = Checkpoints(tmp_path)
        start.wait(60)
        try:
            keeper.open(resume=True)
            got.append(keeper)
        except ValueError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(got), len(lost)) == (1, 1)
    assert "run.lock" in lost[0]
    got[0].close()


def test_only_under_the_lock_is_removed_what_a_killed_writer_left(tmp_path, monkeypatch):
    leftover = tmp_path / ".checkpoint.pt.0a1b2c3d4e5f6071.tmp"
    leftover.write_text("")
    with contextlib.closing(Checkpoints(tmp_path)) as first:
        first.open(resume=False)
        assert not leftover.exists()
        leftover.write_text("")
        with pytest.raises(ValueError, match="is in use"):
            Checkpoints(tmp_path).open(resume=False)
        assert leftover.exists()
    # Where the file system has no locks, the file may be that of another run.
    monkeypatch.setattr(checkpoint, "take_lock", lambda *_, **__: None)
    with contextlib.closing(Checkpoints(tmp_path)) as first:
        first.open(resume=False)
        first.save(state(1))
    assert leftover.exists()
    assert checkpoint.load(tmp_path)["step"] == 1


# Opens the folder of a run when it reads a line, reports, and keeps it until its input ends. With "fork", it makes a
# child meanwhile, like the worker processes of a DataLoader, and reports its number when the child runs.
ONE_RUN = """
import os, sys
from course_utils.training.checkpoint import Checkpoints
keeper = Checkpoints(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    keeper.open(resume=True)
    child, (reads, writes) = "", os.pipe()
    if "fork" in sys.argv:
        child = os.fork()
        if child == 0:
            os.write(writes, b"runs")
            sys.stdin.read()
            os._exit(0)
        os.read(reads, 4)
    print("open", child, flush=True)
except ValueError as error:
    print("refused", error, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def one_run(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ONE_RUN, str(folder), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, bufsize=1
    ) as run:
        yield run


def test_of_two_processes_started_at_once_one_gets_the_folder(tmp_path):
    with one_run(tmp_path) as one, one_run(tmp_path) as other:
        for run in (one, other):
            assert run.stdout.readline() == "ready\n"
        for run in (one, other):
            run.stdin.write("go\n")
        answers = sorted(run.stdout.readline() for run in (one, other))
        assert answers[0] == "open \n"
        assert answers[1].startswith("refused run_dir")
        assert "run.lock" in answers[1]
        with pytest.raises(ValueError, match="is in use"):
            Checkpoints(tmp_path).open(resume=True)
        for run in (one, other):
            run.stdin.close()
            assert run.wait(60) == 0
    with contextlib.closing(Checkpoints(tmp_path)) as keeper:
        keeper.open(resume=True)


@posix
def test_the_system_frees_the_lock_of_a_killed_run_though_its_child_lives(tmp_path):
    with one_run(tmp_path, "fork") as run:
        assert run.stdout.readline() == "ready\n"
        run.stdin.write("go\n")
        answer, child = run.stdout.readline().split()
        assert answer == "open"
        run.kill()
        assert run.wait(60) == -signal.SIGKILL
        os.kill(int(child), 0)  # it is still there
        with contextlib.closing(Checkpoints(tmp_path)) as keeper:
            keeper.open(resume=True)


@posix
def test_a_folder_without_locks_is_used_without_one(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    for step in (1, 2):
        with contextlib.closing(Checkpoints(tmp_path)) as keeper:
            keeper.open(resume=True)
            keeper.save(state(step))
    assert checkpoint.load(tmp_path)["step"] == 2


@posix
def test_a_folder_in_the_place_of_the_lock_is_reported(tmp_path):
    (tmp_path / "run.lock").mkdir()
    with pytest.raises(OSError, match=r"cannot be written to \(.*run\.lock"):
        Checkpoints(tmp_path).open(resume=False)


# Saves that fail, and when they are due.


def test_a_failed_save_is_kept_as_the_error_until_one_succeeds(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")

    def no_room(*_, **__):
        raise full

    with contextlib.closing(Checkpoints(tmp_path)) as keeper:
        keeper.open(resume=False)
        keeper.save(state(1))
        assert keeper.error is None
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_atomically", no_room)
            with pytest.warns(RuntimeWarning, match=r"checkpoint of step 2 could not be written in .*No space.* kept"):
                keeper.save(state(2))
        assert keeper.error is full
        assert checkpoint.load(tmp_path)["step"] == 1
        keeper.close()
        assert keeper.error is full
        keeper.open(resume=False, own=True)
        assert keeper.error is None
        keeper.save(state(3))
        assert keeper.error is None


class Clock:
    """Time that a test moves on by hand."""

    now = 100.0

    def monotonic(self):
        return self.now


def test_saving_takes_a_small_part_of_the_time(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(checkpoint, "time", clock)
    seconds = iter([0.05, 30.0])

    def slow_save(state, folder, keep_previous):
        clock.now += next(seconds)

    monkeypatch.setattr(checkpoint, "save", slow_save)
    keeper = Checkpoints(tmp_path)
    assert keeper.due()
    for put_off in (0.05 * checkpoint.WAIT_FACTOR, checkpoint.LONGEST_WAIT):
        keeper.save({"step": 1})
        clock.now += put_off - 0.1
        assert not keeper.due()
        clock.now += 0.2
        assert keeper.due()
    assert not Checkpoints(tmp_path, writes=False).due()
    assert not Checkpoints(None).due()


def test_epochs_steps_and_seconds_between_checkpoints(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(checkpoint, "time", clock)
    by_epoch, by_step = Checkpoints(tmp_path, every=2), Checkpoints(tmp_path, every_steps=5)
    assert [epoch for epoch in range(1, 7) if by_epoch.due_after_epoch(epoch)] == [2, 4, 6]
    assert not any(by_epoch.due_after_step(step) for step in range(1, 20))
    assert [step for step in range(1, 16) if by_step.due_after_step(step)] == [5, 10, 15]
    # Each process knows it, also those that do not write.
    assert Checkpoints(tmp_path, writes=False, every_steps=5).due_after_step(5)
    assert not Checkpoints(None, every_steps=5).due_after_step(5)
    with contextlib.closing(Checkpoints(tmp_path, every_seconds=60)) as by_time:
        clock.now += 100
        by_time.open(resume=False)
        clock.now += 59
        assert not by_time.due_after_step(1)
        clock.now += 1
        assert by_time.due_after_step(2)
        by_time.save(state(2))
        assert not by_time.due_after_step(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "checkpoint_every must be a whole number of at least 1, got 0"),
        ({"every_steps": 0}, "checkpoint_every_steps must be a whole number of at least 1, got 0"),
        ({"every_seconds": -1.0}, r"checkpoint_every_seconds must be a finite number above 0, got -1\.0"),
    ],
)
def test_numbers_that_are_not_positive_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Checkpoints(None, **options)


# Compiled models.


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4)), nn.Linear(4, 2))


def compiled(model):
    return torch.compile(model, backend="eager")


def with_a_compiled_part(model):
    model[1] = compiled(model[1])
    return model


def twice_compiled(model):
    return compiled(with_a_compiled_part(model))


WAYS = [nn.Identity(), compiled, with_a_compiled_part, twice_compiled]


@pytest.mark.parametrize("after", WAYS)
@pytest.mark.parametrize("before", WAYS)
def test_weights_move_between_compiled_and_plain_models(before, after):
    plain, one, other = net(), before(net()), after(net())
    assert list(checkpoint.model_state(one)) == list(plain.state_dict())
    with torch.no_grad():
        for weight in one.parameters():
            weight.add_(1.0)
    saved = checkpoint.model_state(one)
    checkpoint.check_same_model(saved, checkpoint.model_state(other))
    checkpoint.load_model_state(other, saved)
    assert all(torch.equal(value, saved[name]) for name, value in checkpoint.model_state(other).items())
    assert not torch.equal(saved["0.weight"], plain.state_dict()["0.weight"])


def test_weights_of_another_model_do_not_load():
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict"):
        checkpoint.load_model_state(net(), {"0.weight": torch.zeros(4, 3)})


# What a run is compared by.


def described(model, loss_fn):
    return checkpoint.describe(model, torch.optim.SGD(model.parameters(), lr=0.1), None, loss_fn)


def test_a_description_names_the_original_of_what_is_compiled():
    one = described(net(), nn.CrossEntropyLoss())
    assert (one["model"], one["num_parameters"], one["loss_fn"]) == ("Sequential", 34, "CrossEntropyLoss")
    assert described(compiled(net()), compiled(nn.CrossEntropyLoss())) == one


def test_a_description_looks_into_partial_functions():
    one = described(net(), partial(F.cross_entropy, reduction="sum"))
    assert (one["loss_fn"], one["reduction"]) == ("cross_entropy", "sum")
    assert described(net(), F.cross_entropy)["reduction"] == "mean"
    assert described(net(), nn.MSELoss(reduction="sum"))["reduction"] == "sum"


def test_a_description_holds_plain_values():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.5), betas=(numpy.float64(0.5), 0.75))
    optimizer.defaults |= {"own": object(), "several": torch.ones(2)}
    one = checkpoint.describe(model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 3), F.mse_loss)
    assert (one["lr"], one["betas"], one["own"], one["several"]) == (0.5, (0.5, 0.75), "object", "Tensor")
    assert (one["scheduler"], one["loss_fn"]) == ("StepLR", "mse_loss")
    assert type(one["betas"][0]) is float
    assert "foreach" not in one


def test_other_settings_are_listed():
    checkpoint.check_same({"lr": 0.1}, {"lr": 0.1})
    with pytest.raises(ValueError, match=r"other settings or data: a was 1, is None; lr was 0\.1, is 0\.2\. Continue"):
        checkpoint.check_same({"lr": 0.1, "a": 1}, {"lr": 0.2})


def test_other_weights_are_listed_in_order():
    saved = {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2), "e": torch.ones(1)}
    mine = {"a": torch.ones(3), "b": torch.ones(2).double(), "c": torch.ones(2), "d": torch.ones(1)}
    message = (
        r"of another model: missing here e; missing in the checkpoint d; a has shape \(2,\) in the checkpoint, \(3,\) "
        r"here; b is torch\.float32 in the checkpoint, torch\.float64 here$"
    )
    with pytest.raises(ValueError, match=message):
        checkpoint.check_same_model(saved, mine)
    checkpoint.check_same_model({"a._extra_state": 3}, {"a._extra_state": {}})


def test_a_list_of_many_differing_keys_is_cut():
    saved = {f"layer{index}": torch.zeros(1) for index in range(30)}
    with pytest.raises(ValueError, match=r"missing here layer9; 20 more$"):
        checkpoint.check_same_model(saved, {})


def rows(count=40):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=generator), torch.randint(3, (count,), generator=generator)


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(*rows(), strict=True)


class Endless:
    """A loader of batches without a length."""

    def __iter__(self):
        while True:
            yield rows()


class WithoutLength(Dataset):
    """A data set whose length is not known, as PyTorch's base class has it."""

    def __len__(self):
        raise NotImplementedError


def test_data_are_told_apart_by_their_values_and_numbers():
    x, y = rows()
    fingerprint = checkpoint.fingerprint
    one = fingerprint([(x, y)])
    assert one == fingerprint([(x.clone(), y.clone())]) == fingerprint(((x, y),))
    assert one != fingerprint([(x + 1, y)])
    assert fingerprint([{"x": x, "more": [y]}]) != fingerprint([{"x": x + 1, "more": [y]}])
    loader = fingerprint(DataLoader(TensorDataset(x, y), batch_size=8))
    assert (loader["train_batches"], loader["train_rows"], loader["batch_size"]) == (5, 40, 8)
    assert loader["train_checksum"] != fingerprint(DataLoader(TensorDataset(x + 1, y), batch_size=8))["train_checksum"]
    assert fingerprint(Batches(x, y, batch_size=8, seed=3))["order_seed"] == 3
    assert fingerprint(DataLoader(TensorDataset(x.to_sparse(), y)))["train_batches"] == 40
    assert fingerprint([])["train_batches"] == 0


def test_data_without_a_length_have_none():
    numbers = dict.fromkeys(("train_batches", "train_rows", "order_seed"))
    assert checkpoint.fingerprint(Endless()) == numbers | {"batch_size": None, "train_checksum": 0}
    assert checkpoint.fingerprint(DataLoader(Stream(), batch_size=8)) == numbers | {
        "batch_size": 8,
        "train_checksum": 0,
    }
    loader = Endless()
    loader.dataset, loader.batch_size, loader.seed = WithoutLength(), numpy.int64(4), print
    found = checkpoint.fingerprint(loader)
    assert (found["train_rows"], found["batch_size"]) == (None, 4)
    assert found["order_seed"] == "builtin_function_or_method"
    checkpoint.check_storable(state(made_with=found))
