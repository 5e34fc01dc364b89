"""The learner's record: kept on disk, never lost, in memory where the disk says no."""

import json

import pytest

from course_utils.progress import Progress, learner_folder, progress, write_atomically


def test_the_folder_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path / "mine"))
    assert learner_folder() == tmp_path / "mine"
    assert progress().path == tmp_path / "mine" / "progress.json"
    assert progress() is progress()


def test_without_the_environment_it_lies_beside_the_notebooks(monkeypatch):
    monkeypatch.delenv("COURSE_LEARNER_DIR")
    folder = learner_folder()
    assert folder.name == "learner"
    assert (folder.parent / "notebooks").is_dir()


def test_a_guess_and_its_outcome_are_kept_for_the_next_time(tmp_path):
    first = Progress(tmp_path)
    first.predict("02-x", "Which?", "a")
    assert first.reveal("02-x", "Which?", "b") == "a"
    again = Progress(tmp_path)
    assert again.guess("02-x") == "a"
    assert again.predictions() == {"02-x": {"question": "Which?", "guess": "a", "outcome": "b"}}


def test_a_guess_may_change_until_the_outcome_was_seen(tmp_path):
    record = Progress(tmp_path)
    record.predict("02-x", "Which?", "a")
    record.predict("02-x", "Which?", "b")
    assert record.guess("02-x") == "b"
    record.reveal("02-x", "Which?", "b")
    record.predict("02-x", "Which?", "a")
    assert record.guess("02-x") == "b"


def test_an_outcome_without_a_guess_is_no_guess(tmp_path):
    record = Progress(tmp_path)
    assert record.reveal("02-y", "Which?", "b") is None
    assert record.guess("02-y") is None


def test_a_solved_exercise_stays_solved(tmp_path):
    record = Progress(tmp_path)
    for passed in (False, True, False):
        record.solve("02-descend", passed)
    assert Progress(tmp_path).exercises() == {"02-descend": {"tries": 3, "solved": True}}


def test_a_folder_that_cannot_be_written_keeps_the_record_in_memory(tmp_path):
    (tmp_path / "file").write_text("in the way")
    record = Progress(tmp_path / "file" / "learner")
    record.predict("02-x", "Which?", "a")
    assert record.guess("02-x") == "a"
    assert "kept in memory" in record.trouble
    assert str(tmp_path / "file") in record.trouble


@pytest.mark.parametrize("content", ["{half", "[1]", '{"version": 0}', '{"version": 1, "predictions": []}'])
def test_a_damaged_or_old_record_is_set_aside_not_overwritten(tmp_path, content):
    (tmp_path / "progress.json").write_text(content)
    record = Progress(tmp_path)
    assert "moved to 'progress.unreadable.json'" in record.trouble
    assert (tmp_path / "progress.unreadable.json").read_text() == content
    record.predict("02-x", "Which?", "a")
    assert json.loads((tmp_path / "progress.json").read_text())["predictions"]["02-x"]["guess"] == "a"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_atomically(path, "old")

    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
