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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    new = temporary.open("xb")  # before the try block, which removes only what this call has created
    try:
        with new as file:
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
    """Remove the temporary files that killed writers of this file left; call it only where no other can be writing."""
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


def take_lock(path: Path, *, patience: float) -> filelock.BaseFileLock | None:
    """Take an exclusive file lock: `release()` frees it, and the system does if the process dies.

    Two takers in one process exclude each other too, and a forked process does not keep the lock. The empty file stays
    after the release, since removing it while others wait for it would let two of them in.

    Args:
        patience: how many seconds to wait for another holder; 0 tries once.

    Returns the lock, or None where the file system has no locks, as in some network folders.

    Raises:
        OSError: the lock file cannot be created.
        TimeoutError: another holder kept the lock for `patience` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, timeout=patience, poll_interval=0.01, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        message = f"another process has held the lock for {patience:g} s"
        raise TimeoutError(errno.ETIMEDOUT, message, str(path)) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise
        return None
    return lock


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive file lock; where the file system has none, of two writers at one instant one may be lost.

    Raises:
        OSError: the lock file cannot be created.
        TimeoutError: another process or thread held the lock for longer than `PATIENCE` seconds.
    """
    lock = take_lock(path, patience=PATIENCE)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
