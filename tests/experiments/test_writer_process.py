"""A writer in a process of its own: real files, a real queue, a real death."""

import time

import pytest

from course_utils.experiments.event_files import read_folder
from course_utils.experiments.writer_process import TAG, WriterProcess


@pytest.fixture
def start(tmp_path):
    """Start a writer in the test's folder; none outlives the test."""
    started = []

    def begin(**options):
        process = WriterProcess(tmp_path, **options)
        started.append(process)
        assert process.messages(60) == [("ready", None)]
        return process

    yield begin
    for process in started:
        process.kill()


def hear(process, word, kind="done", timeout=60.0):
    """Listen until the process has said that it has done something, or added a step; return all that it said."""
    heard, end = [], time.monotonic() + timeout
    while (kind, word) not in heard:
        assert time.monotonic() < end, heard
        heard += process.messages(0.1)
    return heard


def steps(folder):
    return [step for step, _ in read_folder(folder).scalars.get(TAG, [])]


def test_points_are_added_and_flushed(start, tmp_path):
    process = start()
    process.add(range(3, 8))
    process.flush()
    assert hear(process, "flush")[:5] == [("added", step) for step in range(3, 8)]
    assert steps(tmp_path) == [3, 4, 5, 6, 7]
    assert read_folder(tmp_path).scalars[TAG][0][1] == pytest.approx(1 / 4)


def test_a_kill_takes_what_waits_and_leaves_what_is_on_disk(start, tmp_path):
    process = start()
    process.add(range(4))
    process.flush()
    hear(process, "flush")
    # Nothing more is written in this test's time.
    process.slow_disk(60)
    process.add(range(4, 9))
    hear(process, "add")
    process.kill()
    assert not process.alive
    assert steps(tmp_path) == [0, 1, 2, 3]
    assert process.messages() == []


def test_a_full_queue_holds_up_the_program(start, tmp_path):
    process = start(max_queue=3)
    process.slow_disk(60)
    hear(process, "slow_disk")
    process.add(range(10))
    # One record is being written, three wait, and the fifth call does not return.
    heard = hear(process, 3, kind="added")
    time.sleep(0.5)
    assert [*heard, *process.messages()] == [("added", step) for step in range(4)]
    assert steps(tmp_path) == []


def test_a_point_after_close_opens_another_file(start, tmp_path):
    process = start()
    for step in range(3):
        process.add(range(step, step + 1))
        process.close()
        process.close()
    process.flush()
    heard = hear(process, "flush")
    assert heard.count(("done", "close")) == 6
    assert len(read_folder(tmp_path).files) == 3
    assert sorted(steps(tmp_path)) == [0, 1, 2]


def test_a_dead_process_takes_no_more_commands(start):
    process = start()
    process.kill()
    with pytest.raises(RuntimeError, match="has ended, so it cannot flush: start another"):
        process.flush()


def test_an_error_in_the_process_is_told(start, tmp_path):
    process = start()
    process.slow_disk("no number")
    process.add(range(2))
    process.flush()
    end, heard = time.monotonic() + 60, []
    while not any(kind == "failed" for kind, _ in heard):
        assert time.monotonic() < end, heard
        heard += process.messages(0.1)
    assert any(kind == "failed" and "TypeError" in words for kind, words in heard)
