"""nbval reproduces every stored text; what it cannot see is broken here on purpose, and seen by our own tests."""

import copy

import nbformat
import pytest
import samples
from driver import printed
from nbval.plugin import get_sanitize_patterns
from nbval_run import SANITIZE, nbval
from nbval_then_drive import read
from pictures import picture_changes
from samples import MEASURED, PICTURE_AT, RAISES, TEXT, WIDGET_AT

import notebooks

# Kernels start one after the other on each of two workers.
pytestmark = pytest.mark.timeout(400)


# Each change is made in one cell of a sound little lesson, named here, and in no other.


def _prints(text):
    def change(cell):
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []

    return change


def _another_error(cell):
    cell.outputs[0].evalue = "lr must be above 0, got -2"


def _an_error_by_accident(cell):
    cell.source = "1 / 0"


def _another_caption(cell):
    cell.outputs[0].data["text/plain"] = "a line stays flat"


SEEN = {
    "another text": (TEXT, _prints("loss 0.26\n"), "mismatch 'stdout'"),
    "a text less": (TEXT, _prints(""), "Unexpected output fields from running code"),
    "words beside a measurement": (MEASURED, _prints("it took ≈ 0.1 minutes\n"), "mismatch 'stdout'"),
    "a measurement that failed": (MEASURED, _prints("it took ≈ nan s\n"), "mismatch 'stdout'"),
    "another error": (RAISES, _another_error, "mismatch 'evalue'"),
    "an error less": (RAISES, _prints(""), "Unexpected output fields from running code"),
    "an error by accident": (TEXT, _an_error_by_accident, "ZeroDivisionError"),
    "another caption": (PICTURE_AT, _another_caption, "mismatch 'text/plain'"),
}


def _view_of_a_widget(cell):
    cell.outputs[0].data[notebooks.WIDGET_VIEW] = {"model_id": "1", "version_major": 2}


ACCEPTED = {
    "nothing changed": (PICTURE_AT, lambda cell: None),
    "another measurement": (MEASURED, _prints("it took ≈ 1,234.5 s\n")),
    "a view of a widget is stored": (WIDGET_AT, _view_of_a_widget),
}


def _never_run(cell):
    cell.execution_count, cell.outputs = None, []


def _nothing_raised(cell):
    cell.source, cell.outputs = "lr = 0.1", []


def _nothing_drawn(cell):
    cell.source = samples.PICTURE.replace('{"image/png": png, "text/plain": alt}', '{"text/plain": alt}')


def _another_picture(cell):
    cell.source = samples.PICTURE.replace("[0, 1, 0]", "[1, 0.5, 0.25, 0.12], linewidth=5")


def _callback_raises(cell):
    cell.source += "\nslider.observe(lambda change: 1 / 0, names='value');\nslider"


def _fails_when_run_again(cell):
    cell.source += "\nassert globals().setdefault('runs', 0) == 0, 'run once'\nruns += 1"


# True in the first run; in the second, fresh weights are others.
FIRST_WEIGHT = """
import torch
torch.manual_seed(0)
weight = torch.nn.Linear(1, 1).weight.item()
same = globals().setdefault("first", weight) == weight"""


def _fails_where_rounding_differs(cell):
    cell.source += f"{FIRST_WEIGHT}\nassert same, 'only here'"


def _prints_a_rounding_error(cell):
    cell.source = f"{FIRST_WEIGHT}\nprint('loss 0.25' if same else 'loss 0.26')"


def _by_the_stored_check(path, driven):
    return notebooks.problems(path)


def _by_the_pictures(path, driven):
    return picture_changes(nbformat.read(path, as_version=4), driven.notebook)


def _by_the_driver(path, driven):
    return driven.faults


def _by_what_is_printed_then(path, driven):
    return set(printed(driven.again)) - set(printed(nbformat.read(path, as_version=4)))


BLIND = {
    "never run": (MEASURED, _never_run, _by_the_stored_check, "1 of 5 code cells were never run"),
    "nothing raised": (RAISES, _nothing_raised, _by_the_stored_check, "tagged raises-exception and raised nothing"),
    "nothing drawn": (PICTURE_AT, _nothing_drawn, _by_the_pictures, "it draws ('Figure(') and shows no picture"),
    "another picture": (PICTURE_AT, _another_picture, _by_the_pictures, "draws another picture than the stored one"),
    "a callback raises": (WIDGET_AT, _callback_raises, _by_the_driver, "ZeroDivisionError: division by zero"),
    "a second run fails": (TEXT, _fails_when_run_again, _by_the_driver, "AssertionError: run once"),
    "a claim falls where rounding differs": (
        TEXT,
        _fails_where_rounding_differs,
        _by_the_driver,
        "AssertionError: only here",
    ),
    "a rounding error is printed": (TEXT, _prints_a_rounding_error, _by_what_is_printed_then, "loss 0.26"),
}


@pytest.fixture(scope="module")
def outcomes(_sound, tmp_path_factory):
    """One run of nbval over a few lessons that hold all changes: for each change its lesson's path, messages, drive.

    A kernel takes seconds to start, so changes in different cells share a lesson; the messages are those of one cell.
    """
    folder, driven = tmp_path_factory.mktemp("changed"), tmp_path_factory.mktemp("driven")
    lessons, place = [], {}
    for name, (index, change, *_) in {**SEEN, **ACCEPTED, **BLIND}.items():
        number = sum(index == taken for _, taken in place.values())
        if number == len(lessons):
            lessons.append(copy.deepcopy(_sound))
        change(lessons[number].cells[index])
        place[name] = number, index
    for number, lesson in enumerate(lessons):
        nbformat.write(lesson, folder / f"{number}.ipynb")
    found = nbval(folder, drive_into=driven)

    def outcome(name):
        number, index = place[name]
        messages = [line for line in found[f"{number}.ipynb"] if line.startswith(f"Cell {index}: ")]
        return folder / f"{number}.ipynb", messages, read(driven, str(number))

    return outcome


@pytest.mark.parametrize("name", SEEN)
def test_nbval_sees(outcomes, name):
    (message,) = outcomes(name)[1]
    assert SEEN[name][-1] in message


@pytest.mark.parametrize("name", ACCEPTED)
def test_nbval_accepts(outcomes, name):
    assert outcomes(name)[1] == []


@pytest.mark.parametrize("name", BLIND)
def test_nbval_is_blind_and_our_own_test_is_not(outcomes, name):
    path, messages, driven = outcomes(name)
    assert messages == [], "nbval learned to see this: our own test of it may go"
    *_, look, sentence = BLIND[name]
    told = look(path, driven)
    assert any(sentence in line for line in told), told


def test_nbval_that_compares_nothing_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="nbval ended with 5"):
        nbval(tmp_path)


def test_tool_and_nbval_agree_on_what_was_measured():
    ((pattern, _),) = get_sanitize_patterns(SANITIZE.read_text(encoding="ascii"))
    assert pattern == notebooks.MEASURED.pattern
