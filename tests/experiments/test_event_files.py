"""What event files hold: compared with TensorBoard's own accumulator, also where a file is cut or damaged."""

import builtins
import os
import struct

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from torch.utils.tensorboard import SummaryWriter

from course_utils.experiments.event_files import FRAME, LARGEST_RECORD, event_paths, read_file, read_folder

POINTS = 20


def write(folder, points=POINTS):
    with SummaryWriter(str(folder)) as writer:
        for step in range(points):
            writer.add_scalar("loss", 1 / (step + 1), step)
    return event_paths(folder)[-1]


def oracle(folder, tag="loss"):
    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


def test_a_whole_file_is_read_to_its_last_byte(tmp_path):
    file = read_file(write(tmp_path))
    assert file.scalars == {"loss": oracle(tmp_path)}
    assert file.points == POINTS
    assert file.size == file.readable == file.path.stat().st_size
    assert file.trouble == ""


def test_both_styles_of_scalars_and_images_are_read(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("new", 0.25, 3, new_style=True)
        writer.add_image("picture", torch.zeros(1, 4, 4), 5)
        writer.add_histogram("ignored", torch.arange(4), 1)
    found = read_folder(tmp_path)
    assert found.scalars == {"new": [(3, 0.25)]}
    ((step, png),) = found.files[0].images["picture"]
    assert step == 5
    assert png.startswith(b"\x89PNG")


def test_several_files_are_read_in_the_order_of_their_names(tmp_path):
    writer = SummaryWriter(str(tmp_path))
    for step in range(12):
        writer.add_scalar("loss", float(step), step)
        writer.close()
    found = read_folder(tmp_path)
    assert len(found.files) == 12
    assert found.points == 12
    assert [file.path for file in found.files] == sorted(file.path for file in found.files)
    assert found.scalars["loss"] == oracle(tmp_path)
    assert found.size == sum(path.stat().st_size for path in event_paths(tmp_path))


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    found = read_folder(tmp_path / "nowhere")
    assert (found.files, found.points, found.size, found.scalars, found.trouble) == ([], 0, 0, {}, "")


@pytest.mark.parametrize("cut", [1, 5, FRAME, 30])
def test_a_file_that_was_cut_is_read_as_far_as_it_goes(tmp_path, cut):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    file = read_file(path)
    assert file.scalars == {"loss": oracle(tmp_path)}
    assert file.points == POINTS - 1
    assert file.readable < file.size == path.stat().st_size
    assert f"{file.readable} of {file.size} bytes could be read; then the file ends in the middle" in file.trouble
    assert read_folder(tmp_path).trouble == file.trouble


@pytest.mark.parametrize("part", ["length", "checksum of the length", "content", "checksum of the content"])
def test_a_damaged_byte_ends_the_reading_there(tmp_path, part):
    path = write(tmp_path)
    content, record = bytearray(path.read_bytes()), 0
    for _ in range(8):
        last, record = record, record + FRAME + struct.unpack("<Q", content[record : record + 8])[0]
    places = {"length": 1, "checksum of the length": 9, "content": 20, "checksum of the content": -2}
    content[(record if places[part] < 0 else last) + places[part]] ^= 255
    path.write_bytes(content)
    file = read_file(path)
    assert file.scalars == {"loss": oracle(tmp_path)}
    assert file.points == 6
    assert file.readable == last
    assert f"the record at byte {file.readable} is damaged" in file.trouble


def test_a_file_that_is_no_event_file_is_told(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(b"this is no event file, but a text with a long first line")
    file = read_file(path)
    assert file.points == 0
    assert "0 of 56 bytes could be read" in file.trouble


# Foreign and hostile files.


def head(length):
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", masked_crc32c(packed))


def framed(content):
    return head(len(content)) + content + struct.pack("<I", masked_crc32c(content))


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 2**31])
def test_a_length_that_no_file_has_counts_as_a_record_that_is_still_being_written(tmp_path, length):
    path = write(tmp_path)
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(head(length) + b"a few bytes")
    file = read_file(path)
    assert (file.points, file.readable) == (POINTS, whole)
    assert f"{whole} of {whole + 23} bytes could be read; then the file ends in the middle" in file.trouble


def test_a_record_that_would_fill_the_memory_is_not_read(tmp_path):
    path = write(tmp_path)
    whole, length = path.stat().st_size, 2**40
    with path.open("ab") as file:
        file.write(head(length))
        file.truncate(whole + FRAME + length)  # of holes, which take no space on the disk
    file = read_file(path)
    assert (file.points, file.readable) == (POINTS, whole)
    assert f"the record at byte {whole} has {length:,} bytes, more than the {LARGEST_RECORD:,} that" in file.trouble


@pytest.mark.parametrize("content", [b"this is no event", b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f"])
def test_a_record_that_is_no_event_ends_the_reading_there(tmp_path, content):
    path = write(tmp_path)
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(framed(content) + framed(Event(step=3).SerializeToString()))
    file = read_file(path)
    assert (file.points, file.readable) == (POINTS, whole)
    assert f"the record at byte {whole} is not an event, and what follows is left out" in file.trouble


def scalar(sizes=(), **tensor):
    event = Event(step=3)
    value = event.summary.value.add(tag="loss", tensor=TensorProto(**tensor))
    value.metadata.plugin_data.plugin_name = "scalars"
    for size in sizes:
        value.tensor.tensor_shape.dim.add(size=size)
    return framed(event.SerializeToString())


@pytest.mark.parametrize(
    ("tensor", "points"),
    [
        ({"dtype": 1, "float_val": [0.5]}, [(3, 0.5)]),
        ({"dtype": 1, "float_val": [0.5], "sizes": [1, 1]}, [(3, 0.5)]),
        ({"dtype": 1, "float_val": [0.5], "sizes": [10**6, 10**6]}, None),
        ({"dtype": 1, "float_val": [0.5], "sizes": [-1, -1]}, None),
        ({"dtype": 1, "float_val": [0.5, 0.25]}, None),
        ({"dtype": 1, "tensor_content": b"abc"}, None),
        ({"dtype": 7, "string_val": [b"text"]}, None),
        ({"dtype": 99, "float_val": [0.5]}, None),
        ({}, None),
    ],
)
def test_a_tensor_that_is_no_single_number_is_left_out(tmp_path, tensor, points):
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(scalar(**tensor))
    file = read_file(path)
    assert file.scalars == ({"loss": points} if points else {})
    assert file.trouble == ""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_and_a_folder_are_no_event_files(tmp_path):
    path = write(tmp_path)
    os.mkfifo(tmp_path / "events.out.tfevents.pipe")
    (tmp_path / "events.out.tfevents.folder").mkdir()
    (tmp_path / "events.out.tfevents.link").symlink_to("events.out.tfevents.link")
    assert event_paths(tmp_path) == [path]
    assert read_folder(tmp_path).points == POINTS
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match=f"It is not a regular file.*{name}"):
            read_file(tmp_path / f"events.out.tfevents.{name}")


def test_an_empty_file_has_no_trouble(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    path.touch()
    assert read_file(path).trouble == ""


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(OSError, match="missing"):
        read_file(tmp_path / "missing")


def test_without_tensorboard_the_error_says_what_to_install(tmp_path, monkeypatch):
    inner = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("tensorboard"):
            raise ImportError(name)
        return inner(name, *args, **kwargs)

    path = write(tmp_path)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"reading event files needs TensorBoard: pip install tensorboard"):
        read_file(path)
