"""Each lesson: nbval reproduces its texts, its pictures look alike, its controls answer, and it runs twice.

The second run begins with weights that are a rounding error away, as they are after a step on another processor: what
a lesson claims must hold there, too. It leaves out the few cells tagged `run-once`, except in `make proof`.

One kernel for each lesson serves all of these, on the CPU and again with a graphics card if there is one.
"""

import functools

import nbformat
import pytest
import torch
from driver import printed
from nbval_run import nbval
from nbval_then_drive import read
from pictures import picture_changes

import notebooks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function that runs all lessons, each way once."""

    @functools.cache
    def run_lessons(way):
        folder = tmp_path_factory.mktemp("driven")
        lessons = notebooks.ROOT / "notebooks"
        return nbval(lessons, drive_into=folder, cuda=way == "cuda", repeat_all=way == "in-full"), folder

    return run_lessons


@pytest.fixture
def ran(run, way):
    """What nbval reported about each lesson, and the folder with what the driver found."""
    return run(way)


@pytest.fixture
def driven(stored, ran):
    return read(ran[1], stored.stem)


def test_each_stored_text_is_reproduced(stored, ran):
    assert ran[0][stored.name] == []


def test_each_lesson_answers_its_controls_and_runs_twice_in_one_kernel(driven):
    assert driven.faults == []


def test_each_lesson_draws_the_pictures_that_are_stored(stored, driven):
    assert picture_changes(nbformat.read(stored, as_version=4), driven.notebook) == []


def test_each_lesson_draws_and_prints_the_same_with_other_rounding(stored, driven):
    lesson = nbformat.read(stored, as_version=4)
    assert picture_changes(lesson, driven.again) == []
    assert printed(lesson) == printed(driven.again)


def test_each_control_could_be_moved(driven):
    assert driven.unmoved == []


def test_each_lab_has_a_slider_that_was_moved(driven):
    """A driver that finds nothing to move would always pass."""
    labs = [cell for cell in driven.notebook.cells if cell.cell_type == "code" and "Lab(" in cell.source]
    assert sum("Slider" in line and "on the main thread" in line for line in driven.moved) >= len(labs)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_each_lesson_holds_with_its_device_set_to_the_card(stored):
    """Each assert holds there, too, as the lessons promise when they choose a device."""
    lesson = nbformat.read(stored, as_version=4)
    (choice,) = (cell for cell in lesson.cells if cell.cell_type == "code" and 'device = "cpu"' in cell.source)
    choice.source = choice.source.replace('device = "cpu"', 'device = "cuda"')
    with notebooks.running_kernel(stored.parent, cuda=True) as kernel:
        notebooks.run_cells(lesson, kernel)  # a cell that raises ends the run with its error
