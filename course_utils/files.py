"""Files that are written whole or not at all, and locks that one process holds at a time."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import filelock

# A learner's record is written within milliseconds, so a lock that is held for this many seconds counts as stuck.
PATIENCE = 5.0


def write_atomically(path: Path, content: str | bytes, *, previous: Path | None = None) -> None:
    """Write a file so that it holds the old content or the new one at any moment, even if the process dies.

    The content is written to a temporary file first and reaches the disk (`fsync`) before the file is renamed. With
    `previous`, the old file is renamed to that name first: a process that dies at that moment leaves no file at `path`,
    and the old content in `previous`.

    Args:
        content: the whole content; text is written as UTF-8.
        previous: a name in the same folder for the old file; None drops the old file.

    Raises:
        OSError: the folder or the file cannot be written; the old content is kept, at `path` or in `previous`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        # The new names are on the disk only after their folder has been written too.
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(path: Path) -> None:
    """Remove the temporary files that writers of this file left when they were killed."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read its bytes; unlike `open`, never wait for a named pipe.

    Raises:
        OSError: the path is missing or cannot be read, or it is a folder, a pipe, a socket or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "It is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive file lock; the system frees it if the process dies.

    Raises:
        OSError: the lock file cannot be created.
        TimeoutError: another process held the lock for longer than `PATIENCE` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, timeout=PATIENCE, poll_interval=0.01)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        message = f"another process has held the lock for {PATIENCE:g} s"
        raise TimeoutError(errno.ETIMEDOUT, message, str(path)) from error
    except OSError as error:
        # Some network folders do not support locks. Of two entries written at the same instant, one may be lost there.
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise
    try:
        yield
    finally:
        lock.release()
