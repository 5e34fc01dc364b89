"""What TensorBoard's event files contain, as TensorBoard's own reader finds it, and how much it could read."""

import struct
from dataclasses import dataclass
from pathlib import Path

# Around its content, a record has its length (8 bytes) and two checksums (4 bytes each).
FRAME = 16

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
    """Return the event files of a folder in the order of their names; a missing folder has none."""
    return sorted(Path(folder).glob("*tfevents*"))


def read_folder(folder: str | Path) -> EventFolder:
    """Read the event files of one folder; its subfolders are left out.

    Raises:
        ImportError: tensorboard is not installed.
        OSError: a file cannot be read.
    """
    return EventFolder([read_file(path) for path in event_paths(folder)])


def read_file(path: str | Path) -> EventFile:
    """Read one event file as far as TensorBoard's reader gets: it stops at the first incomplete record.

    TensorBoard itself reports nothing, because it treats such a file as one that is still being written.

    Raises:
        ImportError: tensorboard is not installed.
        OSError: the file cannot be read.
    """
    try:
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise ImportError("reading event files needs TensorBoard: pip install tensorboard") from error
    path = Path(path)
    content = path.read_bytes()  # before the reader starts, so that bytes written meanwhile do not count as damage
    readable = 0
    scalars: ScalarsByTag = {}
    images: dict[str, list[tuple[int, bytes]]] = {}
    for record in RawEventFileLoader(str(path)).Load():
        readable += FRAME + len(record)
        event = Event.FromString(record)
        for value in event.summary.value:
            kind = value.WhichOneof("value")
            if kind == "simple_value":
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
            elif kind == "image":
                images.setdefault(value.tag, []).append((event.step, value.image.encoded_image_string))
            elif kind == "tensor" and value.metadata.plugin_data.plugin_name == "scalars":
                scalars.setdefault(value.tag, []).append((event.step, float(make_ndarray(value.tensor))))
    size = max(len(content), readable)
    rest, trouble = content[readable:], ""
    if rest:
        length_is_valid = len(rest) >= 12 and masked_crc32c(rest[:8]) == struct.unpack("<I", rest[8:12])[0]
        if len(rest) < 12 or (length_is_valid and len(rest) < FRAME + struct.unpack("<Q", rest[:8])[0]):
            trouble = (
                f"{path.name}: {readable} of {len(content)} bytes could be read; "
                "then the file ends in the middle of a record"
            )
        else:
            trouble = (
                f"{path.name}: {readable} of {len(content)} bytes could be read; the record at byte {readable} is "
                "damaged (its checksum does not match), and what follows is lost"
            )
    return EventFile(path, size, readable, scalars, images, trouble)
