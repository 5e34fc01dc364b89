"""The driver moves every control on both threads, and no fault of a callback stays unseen."""

import pytest
from driver import drive, moves
from samples import code, write

# Healthy controls that write down who moved them where.
SLIDER = """\
import logging
import sys
import threading
import ipywidgets as widgets
from course_utils.labs.base import Lab

def thread():
    return 'main' if threading.current_thread() is threading.main_thread() else 'other'

def record(what):
    with open('moved.txt', 'a') as file:
        print(thread(), what, file=file)

slider = widgets.FloatLogSlider(value=0.1, min=-3, max=0, description="lr")
button = widgets.Button(description="Train")
slider.observe(lambda change: record(change.new), names='value')
button.on_click(lambda _: record('click'))
widgets.VBox([slider, button])"""
# One control for each fault, with the fault's name as its description.
FAULTS = """\
def broken(name, fault, kind=widgets.IntSlider):
    control = kind(description=name)
    if kind is widgets.IntSlider:
        control.observe(fault, names='value')
    else:
        control.on_click(fault)
    return control

def at_the_top_of_the_subshell(change):
    if change.new == 100 and thread() == 'other':
        raise KeyError('top')

def bear(_):
    child = widgets.IntSlider(description='child')
    child.observe(lambda change: 1 / 0, names='value')

widgets.VBox([
    broken('observe', lambda change: 1 / 0),
    broken('button', lambda _: 1 / 0, widgets.Button),
    broken('thread', lambda change: threading.Thread(target=lambda: 1 / 0).start()),
    broken('stderr', lambda change: print('careful', file=sys.stderr)),
    broken('log', lambda change: logging.warning('careful')),
    broken('subshell', at_the_top_of_the_subshell),
    broken('mother', bear, widgets.Button),
])"""
LABS = """\
class SmallLab(Lab):
    def __init__(self, name):
        self.lr = widgets.FloatSlider(value=0.5, min=0.1, max=0.9, description=name)
        super().__init__([self.lr], controls={"lr": self.lr}, css_class="small-lab")
        self.on_change(self.lr, self.follow)
    def follow(self):
        self.drawing.submit(self.draw)
    def draw(self, stale):
        pass
    def picture(self):
        return {"text/plain": "SmallLab"}, {}

class WorkerRaises(SmallLab):
    def draw(self, stale):
        raise ValueError('no curve for this rate')

class CallbackRaises(SmallLab):
    def follow(self):
        raise ValueError('no such control')

healthy, worker, callback = SmallLab('healthy'), WorkerRaises('worker'), CallbackRaises('callback')"""
LATER = """\
stop = widgets.Button(description='Stop', disabled=True)
never = widgets.Checkbox(description='never', disabled=True)
hidden = widgets.Button(description='not on the page', disabled=True)
start = widgets.Button(description='Start')
def run(_):
    stop.disabled = False
    stop.disabled = True
start.on_click(run)
stop.on_click(lambda _: 1 / 0)
widgets.VBox([widgets.HBox([start, stop, never])])"""
ONCE = "assert globals().setdefault('runs', 0) == 0, 'run once'\nruns += 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("driven")


@pytest.fixture(scope="module")
def driven(folder):
    """One kernel for all of it: a kernel takes seconds to start."""
    return drive(write(folder, *(code(source) for source in (SLIDER, FAULTS, LABS, LATER, ONCE))))


def about(driven, control):
    return [fault for fault in driven.faults if f"'{control}'" in fault]


def test_healthy_controls_are_moved_to_their_ends_on_both_threads(driven, folder):
    moved = (folder / "moved.txt").read_text().splitlines()
    assert moved == [f"{thread} {what}" for thread in ("main", "other") for what in (0.001, 1.0, 0.1, "click")]
    assert len([line for line in driven.moved if "'lr'" in line or "'Train'" in line]) == 8
    assert about(driven, "lr") == about(driven, "Train") == about(driven, "healthy") == []


@pytest.mark.parametrize(
    ("control", "sentence"),
    [
        ("observe", "ZeroDivisionError: division by zero"),
        ("button", "ZeroDivisionError: division by zero"),
        ("thread", "stderr: Exception in thread"),
        ("stderr", "stderr: careful"),
        ("log", "stderr: WARNING:root:careful"),
        ("child", "ZeroDivisionError: division by zero"),
        ("worker", "ValueError: no curve for this rate"),
        ("callback", "ValueError: no such control"),
        ("Stop", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_fault_of_a_callback_is_found(driven, control, sentence):
    assert any(sentence in fault for fault in about(driven, control)), driven.faults


def test_a_fault_at_one_end_on_the_subshell_alone_is_found(driven):
    (fault,) = about(driven, "subshell")
    assert "IntSliderModel 'subshell' 100 on " in fault
    assert "on the main thread" not in fault


def test_a_control_that_stays_disabled_is_reported_if_it_is_on_the_page(driven):
    assert driven.unmoved == ["CheckboxModel 'never'"]


def test_a_lesson_that_does_not_run_twice_has_a_fault(driven):
    (fault,) = [fault for fault in driven.faults if fault.startswith("in the second run, ")]
    assert "AssertionError: run once" in fault


def test_an_unknown_kind_of_control_is_an_error():
    with pytest.raises(ValueError, match="unknown control 'KnobModel': teach the driver"):
        moves({"model": "KnobModel", "value": 1, "min": 0, "max": 2, "disabled": False})


def values(**state):
    return [
        message["state"] for _, message in moves({"disabled": False, "min": None, "max": None, "value": None, **state})
    ]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"model": "FloatSliderModel", "min": 0, "max": 2, "value": 1}, [0, 2, 1]),
        ({"model": "IntRangeSliderModel", "min": 0, "max": 9, "value": [2, 3]}, [[0, 0], [9, 9], [0, 9], [2, 3]]),
        ({"model": "CheckboxModel", "value": True}, [False, True]),
        ({"model": "TextModel", "value": "x"}, ["", "some words <b>&amp;</b>", "x"]),
    ],
)
def test_moves_end_where_they_began(state, expected):
    assert values(**state) == [{"value": value} for value in expected]
