"""The writer's lab: what it shows is on the disk, what it calls lost is in no file, and its goal can be reached."""

import threading
import time
import xml.etree.ElementTree as ElementTree

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from course_utils.experiments.writer_process import TAG
from course_utils.labs import WriterLab
from course_utils.labs.writer import COLUMNS, ENOUGH, FIRST_POINTS, SLOW


@pytest.fixture
def lab():
    made = WriterLab()
    made.disk.value = 0
    made.settle(30)
    yield made
    made.close()


def numbers(lab):
    """What the picture says it shows: added, waiting, on disk, lost, files."""
    return [int(number) for number in ElementTree.fromstring(lab._drawn.value).get("data-shown").split()][:5]


def words(lab):
    """All words in the picture."""
    return [element.text for element in ElementTree.fromstring(lab._drawn.value).iter() if element.tag.endswith("text")]


def oracle(lab):
    """The steps that TensorBoard's accumulator finds in the lab's folder."""
    return {event.step for event in EventAccumulator(str(lab.session.folder)).Reload().Scalars(TAG)}


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def hold(lab):
    """Make the disk so slow that nothing more is written during the test."""
    lab.session.slow_disk(60)


def crash_with_points_waiting(lab, count=8):
    lab.count.value = count
    lab.disk.value = SLOW
    lab.settle(30)
    hold(lab)
    lab.add_points.click()
    until(lambda: lab.session.waiting == count)
    lab.crash.click()
    lab.settle(30)


def test_it_is_useful_before_any_click(lab):
    assert numbers(lab) == [FIRST_POINTS, 0, FIRST_POINTS, 0, 1]
    assert oracle(lab) == set(range(FIRST_POINTS))
    assert f"{lab.session.files[0].path.stat().st_size:,} B" in words(lab)
    assert "Goal: with a disk" in lab._words.value


def test_the_picture_shows_what_the_sliders_ask_for(lab):
    """Small dots for the points of the next click, and the time that each record will take."""

    def small():
        circles = [element for element in ElementTree.fromstring(lab._drawn.value).iter() if element.tag == "circle"]
        return sum(circle.get("r") == "2" for circle in circles) - 1  # one of them explains the others

    for count in (1, 7, COLUMNS):
        lab.count.value = count
        lab.settle(30)
        assert small() == count
    assert "0.35 s" not in words(lab)
    lab.disk.value = 350
    lab.settle(30)
    assert "0.35 s" in words(lab)


def test_added_points_come_to_the_disk_without_flush_or_close(lab):
    lab.count.value = 25
    lab.add_points.click()
    lab.settle(30)
    assert numbers(lab) == [FIRST_POINTS + 25, 0, FIRST_POINTS + 25, 0, 1]
    assert oracle(lab) == set(range(FIRST_POINTS + 25))
    assert "Nobody called flush or close" in lab._words.value


def test_points_wait_while_the_disk_is_slow_and_flush_waits_for_them(lab):
    lab.count.value, lab.disk.value = 20, 100
    lab.settle(30)
    lab.add_points.click()
    until(lambda: lab.session.waiting > 1)
    until(lambda: numbers(lab)[1] > 0)
    lab.flush_writer.click()
    lab.settle(30)
    assert numbers(lab) == [FIRST_POINTS + 20, 0, FIRST_POINTS + 20, 0, 1]
    assert "flush() has returned" in lab._words.value


def test_a_full_queue_is_told(lab):
    hold(lab)
    lab.count.value = 20
    lab.add_points.click()
    until(lambda: "The queue holds 10 records and is full" in lab._words.value)
    # Ten wait in the queue, and one is being written.
    assert numbers(lab) == [FIRST_POINTS + 11, 11, FIRST_POINTS, 0, 1]


def test_close_and_a_point_after_it_make_another_file(lab):
    lab.close_writer.click()
    lab.close_writer.click()
    lab.settle(30)
    assert numbers(lab)[-1] == 1
    assert "The next add_scalar opens another file" in lab._words.value
    lab.count.value = 1
    lab.add_points.click()
    lab.settle(30)
    assert numbers(lab) == [FIRST_POINTS + 1, 0, FIRST_POINTS + 1, 0, 2]
    assert "file 2" in words(lab)


def test_a_crash_takes_what_waits_and_the_next_writer_goes_on(lab):
    crash_with_points_waiting(lab, 8)
    assert numbers(lab) == [FIRST_POINTS + 8, 0, FIRST_POINTS, 8, 2]
    assert oracle(lab) == lab.session.on_disk == set(range(FIRST_POINTS))
    assert "8 points still waited, and nothing brings them back" in lab._words.value
    assert "First half done" in lab._words.value
    lab.disk.value = 0
    lab.add_points.click()
    lab.settle(30)
    assert numbers(lab) == [FIRST_POINTS + 16, 0, FIRST_POINTS + 8, 8, 2]
    assert oracle(lab) == set(range(FIRST_POINTS)) | set(range(FIRST_POINTS + 8, FIRST_POINTS + 16))


def test_the_goal_is_a_crash_with_loss_and_one_without(lab):
    crash_with_points_waiting(lab)
    assert not lab.reached
    lab.count.value = ENOUGH
    lab.add_points.click()
    lab.flush_writer.click()
    lab.settle(30)
    lab.crash.click()
    lab.settle(30)
    assert "no point is lost" in lab._words.value
    assert lab.reached
    assert "Goal reached ✓" in lab._words.value


@pytest.mark.parametrize(("disk", "count"), [(0, 20), (SLOW, ENOUGH - 1)])
def test_a_crash_of_a_quick_disk_or_of_few_points_does_not_count(lab, disk, count):
    lab.disk.value, lab.count.value = disk, count
    lab.add_points.click()
    lab.settle(30)
    lab.crash.click()
    lab.settle(30)
    assert numbers(lab)[3] == 0
    assert not lab.saved_from_a_crash
    assert "done ✓" not in lab._words.value


def test_starting_over_empties_the_folder(lab):
    before = lab.session.folder
    lab.add_points.click()
    lab.start_over.click()
    lab.settle(30)
    assert numbers(lab) == [0, 0, 0, 0, 1]
    assert lab.session.folder != before


def test_many_points_and_files_still_fit(lab):
    lab.count.value = 40
    for _ in range(6):
        lab.add_points.click()
        lab.close_writer.click()
        lab.settle(30)
    assert numbers(lab) == [FIRST_POINTS + 240, 0, FIRST_POINTS + 240, 0, 6]
    assert "points, from step 160 on" in words(lab)
    assert "the last 5 of 6 event files" in words(lab)
    drawn = ElementTree.fromstring(lab._drawn.value)
    heights = [float(element.get("cy")) for element in drawn.iter() if element.tag.endswith("circle")]
    assert max(heights) < 220


def test_a_process_that_dies_by_itself_is_told(lab):
    lab.session.process.kill()
    with pytest.raises(RuntimeError, match="has ended, so it cannot add: start another"):
        lab._add_points(3)
    lab.add_points.click()
    assert "start another" in lab._error_box.value
    lab.errors.clear()
    lab.start_over.click()
    lab.settle(30)
    assert lab._error_box.value == ""


def test_a_process_that_dies_while_points_are_awaited_is_told(lab):
    hold(lab)
    lab.add_points.click()
    lab.session.process.kill()
    with pytest.raises(RuntimeError, match="has ended by itself: press 'start over'"):
        lab.settle(30)


def test_an_error_of_the_writer_is_told(lab):
    lab.session.slow_disk("no number")
    lab.add_points.click()
    lab.flush_writer.click()
    with pytest.raises(RuntimeError, match="the writer's process raised TypeError"):
        lab.settle(30)


def test_clicks_from_several_threads_lose_nothing(lab):
    lab.count.value = 3
    threads = [threading.Thread(target=lab.add_points.click) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lab.settle(30)
    assert numbers(lab) == [FIRST_POINTS + 24, 0, FIRST_POINTS + 24, 0, 1]
    assert oracle(lab) == set(range(FIRST_POINTS + 24))


def test_closing_ends_the_process_and_takes_the_folder_away():
    lab = WriterLab()
    process, folder = lab.session.process, lab.session.folder
    lab.close()
    lab.close()
    assert not process.alive
    assert not folder.exists()


def test_the_still_picture_is_a_png_with_words(lab):
    data, metadata = lab.picture()
    assert data["image/png"].startswith(b"\x89PNG")
    assert "6 points were added; 0 wait in memory" in metadata["image/png"]["alt"]
