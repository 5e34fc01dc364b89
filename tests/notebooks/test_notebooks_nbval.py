"""nbval reproduces every stored text; what it cannot see is broken here on purpose, and seen by our own tests."""

import copy

import nbformat
import pytest
import samples
from driver import drive
from nbval.plugin import get_sanitize_patterns
from nbval_run import SANITIZE, nbval
from pictures import picture_changes
from samples import MEASURED, PICTURE_AT, RAISES, TEXT, WIDGET_AT

import notebooks


@pytest.mark.timeout(900)
def test_every_stored_output_is_reproduced(cuda):
    """All lessons on the CPU, and once more with the graphics card where there is one."""
    found = nbval(notebooks.ROOT / "notebooks", cuda=cuda)
    assert found
    assert {name: messages for name, messages in found.items() if messages} == {}


def _print_at(index, text):
    def change(lesson):
        lesson.cells[index].outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []

    return change


def _another_error(lesson):
    lesson.cells[RAISES].outputs[0].evalue = "lr must be above 0, got -2"


def _an_error_by_accident(lesson):
    lesson.cells[TEXT].source = "1 / 0"


def _another_caption(lesson):
    lesson.cells[PICTURE_AT].outputs[0].data["text/plain"] = "a line stays flat"


SEEN = {
    "another text": (_print_at(TEXT, "loss 0.26\n"), "mismatch 'stdout'"),
    "a text less": (_print_at(TEXT, ""), "Unexpected output fields from running code"),
    "words beside a measurement": (_print_at(MEASURED, "it took ≈ 0.1 minutes\n"), "mismatch 'stdout'"),
    "a measurement that failed": (_print_at(MEASURED, "it took ≈ nan s\n"), "mismatch 'stdout'"),
    "another error": (_another_error, "mismatch 'evalue'"),
    "an error less": (_print_at(RAISES, ""), "Unexpected output fields from running code"),
    "an error by accident": (_an_error_by_accident, "ZeroDivisionError"),
    "another caption": (_another_caption, "mismatch 'text/plain'"),
}


def _view_of_a_widget(lesson):
    lesson.cells[WIDGET_AT].outputs[0].data[notebooks.WIDGET_VIEW] = {"model_id": "1", "version_major": 2}


ACCEPTED = {
    "nothing changed": lambda lesson: None,
    "another measurement": _print_at(MEASURED, "it took ≈ 1,234.5 s\n"),
    "a view of a widget is stored": _view_of_a_widget,
}


def _never_run(lesson):
    for cell in lesson.cells:
        cell.execution_count, cell.outputs = None, []


def _nothing_raised(lesson):
    lesson.cells[RAISES].source, lesson.cells[RAISES].outputs = "lr = 0.1", []


def _nothing_drawn(lesson):
    lesson.cells[PICTURE_AT].source = samples.PICTURE.replace(
        '{"image/png": png, "text/plain": alt}', '{"text/plain": alt}'
    )


def _another_picture(lesson):
    lesson.cells[PICTURE_AT].source = samples.PICTURE.replace("[0, 1, 0]", "[1, 0.5, 0.25, 0.12], linewidth=5")


def _callback_raises(lesson):
    lesson.cells[WIDGET_AT].source += "\nslider.observe(lambda change: 1 / 0, names='value');"
    lesson.cells[WIDGET_AT].source += "\nslider"


def _by_the_stored_check(path, lesson):
    return notebooks.problems(path)


def _by_the_pictures(path, lesson):
    return picture_changes(lesson, drive(path).notebook)


def _by_the_driver(path, lesson):
    return drive(path).faults


BLIND = {
    "never run": (_never_run, _by_the_stored_check, "5 of 5 code cells were never run"),
    "nothing raised": (_nothing_raised, _by_the_stored_check, "tagged raises-exception and raised nothing"),
    "nothing drawn": (_nothing_drawn, _by_the_pictures, "it draws ('Figure(') and shows no picture"),
    "another picture": (_another_picture, _by_the_pictures, "draws another picture than the stored one"),
    "a callback raises": (_callback_raises, _by_the_driver, "ZeroDivisionError: division by zero"),
}


def _file(name):
    return name.replace(" ", "_") + ".ipynb"


@pytest.fixture(scope="module")
def outcomes(_sound, tmp_path_factory):
    """One run of nbval over all the broken lessons: the folder, and the messages for each of them."""
    folder = tmp_path_factory.mktemp("broken")
    changes = {**{name: change for name, (change, *_) in {**SEEN, **BLIND}.items()}, **ACCEPTED}
    for name, change in changes.items():
        lesson = copy.deepcopy(_sound)
        change(lesson)
        nbformat.write(lesson, folder / _file(name))
    return folder, nbval(folder)


@pytest.mark.parametrize("name", SEEN)
def test_nbval_sees(outcomes, name):
    (message,) = outcomes[1][_file(name)]
    assert SEEN[name][1] in message


@pytest.mark.parametrize("name", ACCEPTED)
def test_nbval_accepts(outcomes, name):
    assert outcomes[1][_file(name)] == []


@pytest.mark.parametrize("name", BLIND)
def test_nbval_is_blind_and_our_own_test_is_not(outcomes, name):
    folder, messages = outcomes
    assert messages[_file(name)] == [], "nbval learned to see this: our own test of it may go"
    _, look, sentence = BLIND[name]
    path = folder / _file(name)
    told = look(path, nbformat.read(path, as_version=4))
    assert any(sentence in line for line in told), told


def test_nbval_that_compares_nothing_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="nbval ended with 5"):
        nbval(tmp_path)


def test_tool_and_nbval_agree_on_what_was_measured():
    ((pattern, _),) = get_sanitize_patterns(SANITIZE.read_text(encoding="ascii"))
    assert pattern == notebooks.MEASURED.pattern
