"""nbval and our own comparisons see what a lesson must not do, each on one changed cell of a small lesson."""

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

# In the second run fresh weights are a rounding error away; this text depends on it.
ROUNDING = """\
import torch
torch.manual_seed(0)
weight = torch.nn.Linear(1, 1).weight.item()
same = globals().setdefault("first", weight) == weight
print('loss 0.25' if same else 'loss 0.26')"""


@pytest.fixture(scope="module")
def outcome(sound_lesson, tmp_path_factory):
    """The path of the changed lesson, the messages of nbval, and what the driver found."""
    folder, driven = tmp_path_factory.mktemp("changed"), tmp_path_factory.mktemp("driven")
    sound_lesson.cells[TEXT].source = ROUNDING
    sound_lesson.cells[MEASURED].outputs[0].text = "it took ≈ 1,234.5 s\n"
    sound_lesson.cells[RAISES].outputs[0].evalue = "lr must be above 0, got -2"
    sound_lesson.cells[PICTURE_AT].source = samples.PICTURE.replace("[0, 1, 0]", "[1, 0.5, 0.25, 0.12], linewidth=5")
    sound_lesson.cells[WIDGET_AT].source += "\nslider.observe(lambda change: 1 / 0, names='value');\nslider"
    path = folder / "changed.ipynb"
    nbformat.write(sound_lesson, path)
    return path, nbval(folder, drive_into=driven)[path.name], read(driven, path.stem)


def test_nbval_sees_another_text_and_accepts_another_measurement(outcome):
    (message,) = outcome[1]
    assert message.startswith(f"Cell {RAISES}: ")
    assert "mismatch 'evalue'" in message


def test_another_picture_is_seen(outcome):
    path, _, driven = outcome
    changes = picture_changes(nbformat.read(path, as_version=4), driven.notebook)
    assert changes[0].startswith(f"cell {PICTURE_AT}: a fresh run draws another picture than the stored one")


def test_a_callback_that_raises_is_seen(outcome):
    assert any("ZeroDivisionError: division by zero" in fault for fault in outcome[2].faults)


def test_a_text_that_depends_on_rounding_is_seen(outcome):
    path, _, driven = outcome
    before, after = printed(nbformat.read(path, as_version=4)), printed(driven.again)
    assert (before[TEXT], after[TEXT]) == ("loss 0.25\n", "loss 0.26\n")


def test_tool_and_nbval_agree_on_what_was_measured():
    ((pattern, _),) = get_sanitize_patterns(SANITIZE.read_text(encoding="ascii"))
    assert pattern == notebooks.MEASURED.pattern
