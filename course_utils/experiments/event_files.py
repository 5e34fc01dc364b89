"""What TensorBoard's event files contain, as TensorBoard's own reader finds it, and how much can be read."""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from course_utils.files import open_regular

# Before its content, a record has its length (8 bytes) and the checksum of that (4 bytes); after it, another checksum.
HEAD, FRAME = 12, 16
# A longer record is not read: its checksum alone would take many seconds in Python.
LARGEST_RECORD = 2**26

ScalarsByTag = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class EventFile:
    """One event file.

    Attributes:
        path: the file.
        size: its length in bytes.
        readable: how many of these bytes are complete records, from the start of the file.
        scalars: (step, value) by tag, in the order of the file.
        images: (step, PNG) by tag.
        trouble: why the reader could not read the rest of the file, in one sentence, or "".
    """

    path: Path
    size: int
    readable: int
    scalars: ScalarsByTag
    images: dict[str, list[tuple[int, bytes]]]
    trouble: str

    @property
    def points(self) -> int:
        """The number of scalar points that the reader found."""
        return sum(len(points) for points in self.scalars.values())


@dataclass(frozen=True)
class EventFolder:
    """The event files of one run in the order of their names, which is the order in which TensorBoard reads them."""

    files: list[EventFile]

    @property
    def size(self) -> int:
        """The total length of the files in bytes."""
        return sum(file.size for file in self.files)

    @property
    def points(self) -> int:
        """The number of scalar points in all files."""
        return sum(file.points for file in self.files)

    @property
    def scalars(self) -> ScalarsByTag:
        """The points (step, value) by tag, one file after the other."""
        together: ScalarsByTag = {}
        for file in self.files:
            for tag, points in file.scalars.items():
                together.setdefault(tag, []).extend(points)
        return together

    @property
    def trouble(self) -> str:
        """Why the reader could not read some part of the files, or ""."""
        return "; ".join(file.trouble for file in self.files if file.trouble)


def event_paths(folder: str | Path) -> list[Path]:
    """Return the event files of a folder in the order of their names; a missing folder has none.

    A folder or a named pipe with such a name is not an event file.
    """
    return sorted(path for path in Path(folder).glob("*tfevents*") if path.is_file())


def read_folder(folder: str | Path) -> EventFolder:
    """Read the event files of one folder; its subfolders are left out.

    Raises:
        ImportError: tensorboard is not installed.
        OSError: a file cannot be read.
    """
    return EventFolder([read_file(path) for path in event_paths(folder)])


class _UnreadableError(Exception):
    """The rest of a file cannot be read; the message says why."""


def _next_record(file: BinaryIO, start: int, size: int, checksum: Callable[[bytes], int]) -> bytes:
    """Return the content of the record that starts at byte `start` of a file of `size` bytes."""
    cut_off = "then the file ends in the middle of a record"
    damaged = f"the record at byte {start} is damaged (its checksum does not match), and what follows is lost"
    head = file.read(HEAD)
    if len(head) == HEAD and checksum(head[:8]) != struct.unpack("<I", head[8:])[0]:
        raise _UnreadableError(damaged)
    if len(head) < HEAD or (length := struct.unpack("<Q", head[:8])[0]) > size - start - FRAME:
        raise _UnreadableError(cut_off)
    if length > LARGEST_RECORD:
        raise _UnreadableError(
            f"the record at byte {start} has {length:,} bytes, more than the {LARGEST_RECORD:,} that are read, and "
            "what follows is left out"
        )
    content = file.read(length + 4)
    if len(content) < length + 4:  # the file has become shorter since its size was read
        raise _UnreadableError(cut_off)
    if checksum(content[:length]) != struct.unpack("<I", content[length:])[0]:
        raise _UnreadableError(damaged)
    return content[:length]


def read_file(path: str | Path) -> EventFile:
    """Read one event file as far as TensorBoard's reader gets: up to the first record that is incomplete or damaged.

    TensorBoard itself reports nothing, because it treats such a file as one that is still being written. Records of
    more than `LARGEST_RECORD` bytes, and those that are not events, end the reading too.

    Raises:
        ImportError: tensorboard is not installed.
        OSError: the file cannot be read, or is not a regular file.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
    except ImportError as error:
        raise ImportError("reading event files needs TensorBoard: pip install tensorboard") from error
    path = Path(path)
    readable, trouble = 0, ""
    scalars: ScalarsByTag = {}
    images: dict[str, list[tuple[int, bytes]]] = {}
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size  # what is written from now on does not count as damage
        while readable < size:
            try:
                record = _next_record(file, readable, size, masked_crc32c)
                event = _parsed(Event, record, readable)
            except _UnreadableError as error:
                trouble = f"{path.name}: {readable} of {size} bytes could be read; {error}"
                break
            readable += FRAME + len(record)
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                if kind == "simple_value":
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
                elif kind == "image":
                    images.setdefault(value.tag, []).append((event.step, value.image.encoded_image_string))
                elif kind == "tensor" and value.metadata.plugin_data.plugin_name == "scalars":
                    number = _number(value.tensor)
                    if number is not None:
                        scalars.setdefault(value.tag, []).append((event.step, number))
    return EventFile(path, size, readable, scalars, images, trouble)


def _parsed(kind: Any, record: bytes, start: int) -> Any:
    """Return the event in a record."""
    try:
        return kind.FromString(record)
    except Exception as error:  # protobuf's DecodeError, which only protobuf itself could name
        raise _UnreadableError(f"the record at byte {start} is not an event, and what follows is left out") from error


def _number(tensor: Any) -> float | None:
    """Return the number in a protobuf tensor; None if it holds something else than one number."""
    from tensorboard.util.tensor_util import make_ndarray

    if any(dimension.size != 1 for dimension in tensor.tensor_shape.dim):
        return None  # before an array of this shape is made: a few bytes may name a shape of a billion numbers
    try:
        return float(make_ndarray(tensor).item())
    except (TypeError, ValueError):
        return None
