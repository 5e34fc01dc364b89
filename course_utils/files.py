"""Files that are written whole or not at all, and by one process at a time."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import filelock

# A learner's record is written within milliseconds; after this many seconds a lock counts as stuck.
PATIENCE = 5.0


def write_atomically(path: Path, content: str | bytes, *, previous: Path | None = None) -> None:
    """Write a file so that a reader, or a process that dies at any moment, leaves the old content or the new one.

    The content goes into a temporary file first and reaches the disk (`fsync`) before the file gets its name.

    Args:
        content: the whole content; text is written as UTF-8.
        previous: another name in the same folder, which the old file gets; None drops the old file.

    Raises:
        OSError: the folder or the file cannot be written; the old file is untouched.
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
        # The new names are on the disk only once their folder is.
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(path: Path) -> None:
    """Remove what writers of this file left behind when they were killed."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive file lock; the system frees it if the process dies.

    Raises:
        OSError: the lock file cannot be made, or another process held it for longer than `PATIENCE` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, timeout=PATIENCE, poll_interval=0.01)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        message = f"another process has held the lock for {PATIENCE:g} s"
        raise TimeoutError(errno.ETIMEDOUT, message, str(path)) from error
    except OSError as error:
        # Some network folders have no locks. Two entries written at the same instant may then lose one of them.
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    try:
        yield
    finally:
        lock.release()
