"""Files that are whole or not there, and locks."""

import errno
import os
import secrets
import threading
import time

import pytest

from course_utils import files
from course_utils.files import exclusive_lock, remove_unfinished, take_lock, write_atomically


def test_a_file_is_written_in_a_new_folder_and_the_old_one_may_be_kept(tmp_path):
    path, previous = tmp_path / "new" / "record.json", tmp_path / "new" / "previous.json"
    write_atomically(path, "première", previous=previous)
    assert path.read_bytes() == "première".encode()
    assert not previous.exists()
    write_atomically(path, b"second", previous=previous)
    assert (path.read_bytes(), previous.read_text(encoding="utf-8")) == (b"second", "première")
    write_atomically(path, b"third")
    assert sorted(each.name for each in path.parent.iterdir()) == ["previous.json", "record.json"]


@pytest.mark.parametrize("call", ["os.fsync", "os.replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    path = tmp_path / "record.json"
    write_atomically(path, "old")

    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call, no_room)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_leaves_the_temporary_file_of_another_writer_alone(tmp_path, monkeypatch):
    path, theirs = tmp_path / "record.json", tmp_path / ".record.json.0a1b2c3d4e5f6071.tmp"
    theirs.write_text("theirs")
    monkeypatch.setattr(secrets, "token_hex", lambda count: "0a1b2c3d4e5f6071"[: 2 * count])
    with pytest.raises(FileExistsError, match=r"0a1b2c3d4e5f6071\.tmp"):
        write_atomically(path, "mine")
    assert theirs.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [theirs]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    for name in ("record.json", ".record.json.0a1b2c3d.tmp", ".other.json.0a1b2c3d.tmp"):
        (tmp_path / name).write_text("")
    remove_unfinished(tmp_path / "record.json")
    assert sorted(each.name for each in tmp_path.iterdir()) == [".other.json.0a1b2c3d.tmp", "record.json"]


def test_a_lock_keeps_the_second_waiting(tmp_path, monkeypatch):
    order, waiting, true_sleep = [], threading.Event(), time.sleep

    def sleep(seconds):
        waiting.set()
        true_sleep(seconds)

    def second():
        with exclusive_lock(tmp_path / "folder" / "lock"):
            order.append("second")

    monkeypatch.setattr(time, "sleep", sleep)
    with exclusive_lock(tmp_path / "folder" / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(60)  # the lock is polled
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def test_a_lock_that_stays_held_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.0)
    with (
        exclusive_lock(tmp_path / "lock"),
        pytest.raises(TimeoutError, match="another process has held the lock for 0 s"),
        exclusive_lock(tmp_path / "lock"),
    ):
        pytest.fail("two hold the lock")


def test_a_lock_is_tried_once_without_patience_and_comes_back_after_its_release(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waited"))
    path = tmp_path / "folder" / "lock"
    lock = take_lock(path, patience=0)
    with pytest.raises(TimeoutError, match="another process has held the lock for 0 s"):
        take_lock(path, patience=0)
    lock.release()
    again = take_lock(path, patience=0)
    thread = threading.Thread(target=again.release)  # another thread than the one that took it
    thread.start()
    thread.join(60)
    take_lock(path, patience=0).release()


@pytest.mark.skipif(os.name == "nt", reason="flock is a call of POSIX")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP])
def test_where_the_file_system_has_no_locks_there_is_none(tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    assert take_lock(tmp_path / "lock", patience=0) is None


@pytest.mark.skipif(os.name == "nt", reason="flock is a call of POSIX")
def test_a_folder_without_locks_is_used_without_one(tmp_path, monkeypatch):
    def fail(code):
        def flock(*_):
            raise OSError(code, os.strerror(code))

        return flock

    monkeypatch.setattr("fcntl.flock", fail(errno.ENOLCK))
    with exclusive_lock(tmp_path / "lock"):
        pass
    monkeypatch.setattr("fcntl.flock", fail(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), exclusive_lock(tmp_path / "lock"):
        pytest.fail("another error is an error")
