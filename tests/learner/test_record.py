"""The learner's record: kept on disk, never lost, and in memory if the disk cannot be written."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils import files
from course_utils.learner.record import LearnerRecord, learner_folder, progress


def test_the_folder_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path / "mine"))
    assert learner_folder() == tmp_path / "mine"
    assert progress().path == tmp_path / "mine" / "progress.json"
    assert progress() is progress()


def test_without_the_environment_it_is_beside_the_notebooks(monkeypatch):
    monkeypatch.delenv("COURSE_LEARNER_DIR")
    folder = learner_folder()
    assert folder.name == "learner"
    assert (folder.parent / "notebooks").is_dir()


def test_a_guess_and_its_outcome_are_kept_for_the_next_time(tmp_path):
    first = LearnerRecord(tmp_path)
    first.predict("02-x", "Which?", "a")
    assert first.reveal("02-x", "Which?", "b") == "a"
    again = LearnerRecord(tmp_path)
    assert again.guess("02-x") == "a"
    assert again.predictions() == {"02-x": {"question": "Which?", "guess": "a", "outcome": "b"}}


def test_a_guess_may_change_until_the_outcome_was_seen(tmp_path):
    record = LearnerRecord(tmp_path)
    record.predict("02-x", "Which?", "a")
    record.predict("02-x", "Which?", "b")
    assert record.guess("02-x") == "b"
    record.reveal("02-x", "Which?", "b")
    record.predict("02-x", "Which?", "a")
    assert record.guess("02-x") == "b"


def test_an_outcome_without_a_guess_records_no_guess(tmp_path):
    record = LearnerRecord(tmp_path)
    assert record.reveal("02-y", "Which?", "b") is None
    assert record.guess("02-y") is None


def test_a_solved_exercise_stays_solved(tmp_path):
    record = LearnerRecord(tmp_path)
    for passed in (False, True, False):
        record.solve("02-descend", passed)
    assert LearnerRecord(tmp_path).exercises() == {"02-descend": {"tries": 3, "solved": True}}


def test_a_folder_that_cannot_be_written_keeps_the_record_in_memory_and_warns_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    record = LearnerRecord(tmp_path / "file" / "learner")
    assert record.news() == ""
    record.predict("02-x", "Which?", "a")
    news = record.news()
    assert "kept only in memory" in news
    assert str(tmp_path / "file") in news
    record.reveal("02-x", "Which?", "b")
    record.solve("02-descend", True)
    record.solve("02-descend", False)
    assert record.news() == ""
    assert record.guess("02-x") == "a"
    assert record.exercises() == {"02-descend": {"tries": 2, "solved": True}}


def test_a_temporary_file_that_cannot_be_created_is_reported_once(tmp_path, monkeypatch):
    record = LearnerRecord(tmp_path)

    refused = []

    def refuse(path, mode="r", *_, **__):
        refused.append(path)
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    for _ in range(3):
        record.solve("02-descend", False)
    assert len(set(refused)) == 3
    assert record.news().count("cannot be written (Permission denied)") == 1
    assert record.news() == ""


def test_changes_in_memory_are_written_as_soon_as_possible(tmp_path):
    (tmp_path / "learner").write_text("in the way")
    record = LearnerRecord(tmp_path / "learner")
    record.solve("02-descend", True)
    record.predict("02-x", "Which?", "a")
    (tmp_path / "learner").unlink()
    other = LearnerRecord(tmp_path / "learner")
    other.solve("02-descend", False)
    record.solve("05-window", False)
    assert LearnerRecord(tmp_path / "learner").exercises() == {
        "02-descend": {"tries": 2, "solved": True},
        "05-window": {"tries": 1, "solved": False},
    }
    assert LearnerRecord(tmp_path / "learner").guess("02-x") == "a"
    record.solve("05-window", False)
    assert other.exercises()["05-window"]["tries"] == 2


def test_a_file_that_cannot_be_read_is_left_alone(tmp_path):
    (tmp_path / "progress.json").mkdir()
    record = LearnerRecord(tmp_path)
    record.solve("02-descend", True)
    news = record.news()
    assert "cannot be read" in news
    assert "cannot be written" in news
    assert record.exercises()["02-descend"]["solved"]
    assert (tmp_path / "progress.json").is_dir()


DAMAGED = [
    "{half",
    "[1]",
    '{"version": 0}',
    '{"version": 1, "predictions": []}',
    '{"version": 1, "predictions": {}, "exercises": {"02-descend": {"tries": 1}}}',
    '{"version": 1, "predictions": {"02-x": "a"}, "exercises": {}}',
    "[" * 100_000,
    '{"version": 1, "predictions": {}, "exercises": {}, "more": ' + '{"a":' * 100_000,
    '{"version": 1, "predictions": {}, "exercises": {}, "more": 1}',
    '{"version": true, "predictions": {}, "exercises": {}}',
    '{"version": 1.0, "predictions": {}, "exercises": {}}',
    '{"version": 1, "predictions": {}, "exercises": {"02-descend": {"tries": ' + "9" * 5000 + ', "solved": true}}}',
    "null",
    "",
    "\0",
]
ENTRIES = [
    ("predictions", {"question": 3, "guess": "a"}),
    ("predictions", {"question": None, "guess": "a"}),
    ("predictions", {"question": "Which?", "guess": ["a"]}),
    ("predictions", {"question": "Which?", "guess": {"a": 1}}),
    ("predictions", {"question": "Which?", "guess": "a", "outcome": None}),
    ("predictions", {"question": "Which?", "guess": "a", "outcome": 1.5}),
    ("predictions", {"question": "Which?", "guess": "a", "more": [[[]]]}),
    ("predictions", {"question": "Which?", "guess": "\ud800"}),
    ("exercises", {"tries": "3", "solved": True}),
    ("exercises", {"tries": 3.0, "solved": True}),
    ("exercises", {"tries": True, "solved": True}),
    ("exercises", {"tries": -1, "solved": True}),
    ("exercises", {"tries": 10**12, "solved": True}),
    ("exercises", {"tries": float("nan"), "solved": True}),
    ("exercises", {"tries": 3, "solved": 1}),
    ("exercises", {"tries": 3, "solved": None}),
    ("exercises", [3, True]),
    ("exercises", None),
]
for part, entry in ENTRIES:
    DAMAGED.append(json.dumps({"version": 1, "predictions": {}, "exercises": {}} | {part: {"02-x": entry}}))


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_or_old_record_is_set_aside_not_overwritten(tmp_path, content):
    (tmp_path / "progress.json").write_text(content)
    record = LearnerRecord(tmp_path)
    assert "moved to 'progress.unreadable.json'" in record.news()
    assert (tmp_path / "progress.unreadable.json").read_text() == content
    record.predict("02-x", "Which?", "a")
    assert json.loads((tmp_path / "progress.json").read_text())["predictions"]["02-x"]["guess"] == "a"
    assert record.news() == ""


@pytest.mark.parametrize("entry", [{}, {"guess": None}, {"question": "Which?"}, {"outcome": "b"}])
def test_a_prediction_with_a_field_missing_is_damaged(tmp_path, entry):
    content = json.dumps({"version": 1, "predictions": {"02-x": entry}, "exercises": {}})
    (tmp_path / "progress.json").write_text(content)
    assert "could not be used (its entry '02-x' is damaged)" in LearnerRecord(tmp_path).news()


def test_a_huge_record_is_set_aside_and_never_held_in_memory(tmp_path):
    with (tmp_path / "progress.json").open("wb") as file:
        file.truncate(2**40)  # of holes, which take no space on the disk
    record = LearnerRecord(tmp_path)
    assert "could not be used (it has more than 16,777,216 bytes); it was moved to" in record.news()
    record.solve("02-descend", True)
    assert LearnerRecord(tmp_path).exercises()["02-descend"]["solved"]


def make_pipe(path):
    os.mkfifo(path)


def make_link_to_itself(path):
    path.symlink_to(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("make", [Path.mkdir, make_pipe, make_link_to_itself])
@pytest.mark.parametrize("name", ["progress.json", ".progress.lock"])
def test_what_is_no_file_is_left_alone_and_never_waited_for(tmp_path, make, name, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    make(tmp_path / name)
    before = os.lstat(tmp_path / name).st_mode
    record = LearnerRecord(tmp_path)
    record.solve("02-descend", True)
    assert record.exercises()["02-descend"]["solved"]
    assert os.lstat(tmp_path / name).st_mode == before
    if name == "progress.json":
        assert "your answers are kept only in memory" in record.news()


def test_the_home_folder_of_an_unknown_user_stays_a_name(monkeypatch):
    monkeypatch.setenv("COURSE_LEARNER_DIR", "~nobody-of-this-name/learner")
    assert learner_folder() == Path("~nobody-of-this-name/learner")


def test_a_second_foreign_record_does_not_replace_the_first(tmp_path):
    record = LearnerRecord(tmp_path)
    for content in ("first", "second", "third"):
        (tmp_path / "progress.json").write_text(content)
        record.solve("02-descend", True)
    assert [(tmp_path / f"progress.unreadable{end}.json").read_text() for end in ("", "-2", "-3")] == [
        "first",
        "second",
        "third",
    ]
    assert "'progress.unreadable-3.json'" in record.news()


def test_a_foreign_record_that_cannot_be_moved_stays_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "progress.json").write_text('{"version": 2}')

    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("os.replace", read_only)
    record = LearnerRecord(tmp_path)
    record.solve("02-descend", True)
    assert record.exercises()["02-descend"]["solved"]
    assert "can neither be used nor moved aside (Read-only file system)" in record.news()
    assert (tmp_path / "progress.json").read_text() == '{"version": 2}'


# Several lessons open at once.

WRITER = """
import sys
from course_utils.learner.record import LearnerRecord
record = LearnerRecord()
sys.stdin.readline()
for turn in range(int(sys.argv[2])):
    record.solve("02-descend", turn == 3)
    record.predict(f"{sys.argv[1]}-guess-{turn}", "Which?", "a")
    record.reveal(f"{sys.argv[1]}-guess-{turn}", "Which?", "b")
"""


def start(source, folder, *arguments):
    environment = {**os.environ, "COURSE_LEARNER_DIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("turns", [5, pytest.param(40, marks=pytest.mark.proof)])
def test_lessons_that_write_at_the_same_time_lose_no_entries(tmp_path, turns):
    # The lessons start with an old record, which one of them moves aside and the others must not touch again.
    (tmp_path / "progress.json").write_text('{"version": 0}')
    writers = [start(WRITER, tmp_path, lesson, str(turns)) for lesson in ("02", "05", "08")]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    ended = [(writer.communicate(timeout=60)[1], writer.returncode) for writer in writers]
    assert ended == [("", 0)] * 3
    record = LearnerRecord(tmp_path)
    assert record.exercises() == {"02-descend": {"tries": 3 * turns, "solved": True}}
    assert len(record.predictions()) == 3 * turns
    assert all(entry["guess"] == "a" and entry["outcome"] == "b" for entry in record.predictions().values())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".progress.lock",
        "progress.json",
        "progress.unreadable.json",
    ]


def test_what_another_lesson_wrote_is_seen(tmp_path):
    first, second = LearnerRecord(tmp_path), LearnerRecord(tmp_path)
    first.predict("02-x", "Which?", "a")
    assert second.guess("02-x") == "a"


HOLDER = """
import sys, time
from course_utils.files import exclusive_lock
from course_utils.learner.record import learner_folder
with exclusive_lock(learner_folder() / ".progress.lock"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_lesson_frees_its_lock_and_waiting_for_a_stuck_one_ends(tmp_path, monkeypatch):
    holder = start(HOLDER, tmp_path)
    try:
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(files, "PATIENCE", 0.2)
        record = LearnerRecord(tmp_path)
        record.solve("02-descend", True)
        assert "another process has held the lock for 0.2 s" in record.news()
        assert record.exercises()["02-descend"]["solved"]
        assert not (tmp_path / "progress.json").exists()
    finally:
        holder.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
        holder.communicate(timeout=30)
    record.solve("02-descend", True)
    assert LearnerRecord(tmp_path).exercises() == {"02-descend": {"tries": 2, "solved": True}}
