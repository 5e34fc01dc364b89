"""The driver moves every control on both threads, and no fault of a callback stays unseen."""

import pytest
from driver import drive, moves
from samples import code

SLIDER = """\
import threading
import ipywidgets as widgets
slider = widgets.FloatLogSlider(value=0.1, min=-3, max=0, description="lr")
button = widgets.Button(description="Train")
seen = widgets.Label()
def note(*_):
    seen.value = f"{slider.value:g}"
slider.observe(note, names="value")
button.on_click(note)"""
SHOW = "widgets.VBox([slider, button, seen])"
LAB = """\
from course_utils.labs.base import Lab
class SmallLab(Lab):
    def __init__(self):
        self.lr = widgets.FloatSlider(value=0.5, min=0.1, max=0.9)
        super().__init__([self.lr], controls={"lr": self.lr}, css_class="small-lab")
        self.on_change(self.lr, self.follow)
    def follow(self):
        self.drawing.submit(self.draw)
    def draw(self, stale):
        pass
    def picture(self):
        return {"text/plain": "SmallLab"}, {}
lab = SmallLab()"""


def test_lesson_that_does_not_run_twice_has_a_fault(write):
    path = write(code("first = globals().setdefault('runs', 0) == 0\nruns += 1"), code("assert first, 'run once'"))
    assert drive(path).faults == []
    (fault,) = drive(path, again=True).faults
    assert fault.startswith("when all cells were run once more, ")
    assert "AssertionError: run once" in fault


def test_healthy_controls_are_moved_to_their_ends_on_both_threads(write):
    record = (
        "def record(what):\n"
        "    thread = 'main' if threading.current_thread() is threading.main_thread() else 'other'\n"
        "    with open('moved.txt', 'a') as file:\n"
        "        print(thread, what, file=file)\n"
        "slider.observe(lambda change: record(change.new), names='value')\n"
        "button.on_click(lambda _: record('click'))"
    )
    path = write(code(SLIDER), code(record), code(SHOW))
    result = drive(path)
    assert result.faults == []
    assert len(result.moved) == 8
    moved = (path.parent / "moved.txt").read_text().splitlines()
    assert moved == [f"{thread} {what}" for thread in ("main", "other") for what in (0.001, 1.0, 0.1, "click")]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("slider.observe(lambda change: 1 / 0, names='value')", "ZeroDivisionError: division by zero"),
        ("button.on_click(lambda _: 1 / 0)", "ZeroDivisionError: division by zero"),
        (
            "slider.observe(lambda change: threading.Thread(target=lambda: 1 / 0).start(), names='value')",
            "stderr: Exception in thread",
        ),
        (
            "import sys\nslider.observe(lambda change: print('careful', file=sys.stderr), names='value')",
            "stderr: careful",
        ),
        (
            "import logging\nslider.observe(lambda change: logging.warning('careful'), names='value')",
            "stderr: WARNING:root:careful",
        ),
        # Only one end of the slider is broken, and only away from the main thread.
        (
            "def late(change):\n"
            "    if change.new == 1.0 and threading.current_thread() is not threading.main_thread():\n"
            "        raise KeyError('top')\n"
            "slider.observe(late, names='value')",
            "FloatLogSliderModel 'lr' 1.0 on ",
        ),
    ],
    ids=["observe", "button", "thread", "stderr", "log", "one end on a subshell"],
)
def test_fault_of_a_callback_is_found(write, fault, sentence):
    result = drive(write(code(SLIDER), code(fault), code(SHOW)))
    assert any(sentence in line for line in result.faults), result.faults


def test_fault_on_the_subshell_alone_is_found_there_alone(write):
    fault = (
        "def late(change):\n"
        "    if threading.current_thread() is not threading.main_thread():\n"
        "        raise KeyError('top')\n"
        "slider.observe(late, names='value')"
    )
    result = drive(write(code(SLIDER), code(fault), code(SHOW)))
    assert len(result.faults) == 3, result.faults
    assert not any("on the main thread" in line for line in result.faults)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("", None),
        ("    def draw(self, stale):\n        raise ValueError('no curve for this rate')\n", "no curve for this rate"),
        ("    def follow(self):\n        raise ValueError('no such control')\n", "no such control"),
    ],
    ids=["healthy", "worker raises", "callback raises"],
)
def test_fault_that_a_lab_keeps_to_itself_is_found(write, fault, sentence):
    broken = f"class BrokenLab(SmallLab):\n{fault or '    pass'}\nlab = BrokenLab()"
    result = drive(write(code(SLIDER), code(LAB), code(broken), code("lab")))
    if sentence is None:
        assert result.faults == []
    else:
        assert [line for line in result.faults if f"ValueError: {sentence}" in line], result.faults


def test_widgets_made_by_a_click_are_moved_too(write):
    born = (
        "def bear(_):\n"
        "    child = widgets.IntSlider(description='child')\n"
        "    child.observe(lambda change: 1 / 0, names='value')\n"
        "button.on_click(bear)"
    )
    result = drive(write(code(SLIDER), code(born), code(SHOW)))
    assert any("'child'" in line and "ZeroDivisionError" in line for line in result.faults), result.faults


def test_control_is_moved_when_another_has_enabled_it(write):
    later = (
        "stop = widgets.Button(description='Stop', disabled=True)\n"
        "never = widgets.Checkbox(description='never', disabled=True)\n"
        "def train(_):\n"
        "    stop.disabled = False\n"
        "    stop.disabled = True\n"
        "button.on_click(train)\n"
        "stop.on_click(lambda _: 1 / 0)"
    )
    hidden = "hidden = widgets.Button(description='not on the page', disabled=True)"
    show = "widgets.VBox([widgets.HBox([slider, button, stop, never]), seen])"
    result = drive(write(code(SLIDER), code(later), code(hidden), code(show)))
    assert any("'Stop' clicked" in line and "ZeroDivisionError" in line for line in result.faults), result.faults
    assert result.unmoved == ["CheckboxModel 'never'"]


def test_unknown_kind_of_control_is_an_error():
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


def test_each_option_is_chosen():
    choices = values(model="DropdownModel", index=1, _options_labels=["sgd", "adam", "adamw"])
    assert choices == [{"index": index} for index in (0, 1, 2, 1)]
    assert values(model="SelectModel", index=None, _options_labels=["sgd"]) == [{"index": 0}]


def test_displays_stay():
    assert moves({"model": "HTMLModel", "disabled": None}) == []
    assert moves({"model": "SliderStyleModel", "disabled": None}) == []
