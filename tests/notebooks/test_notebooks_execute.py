"""Running a lesson stores clean outputs, and running it again changes nothing."""

import re

import nbformat
import pytest
import samples
from nbclient.exceptions import CellExecutionError

import notebooks


def test_second_run_changes_no_byte(write):
    path = write(samples.lesson())
    notebooks.execute(path)
    first = path.read_bytes()
    notebooks.execute(path)
    assert path.read_bytes() == first


def test_changed_cell_gets_its_new_output(sound, write):
    sound.cells[samples.TEXT].source = 'print("loss 0.50")'
    sound.cells[samples.MEASURED].source = 'print("it took ≈ nan s")'
    path = write(sound)
    notebooks.execute(path)
    cells = nbformat.read(path, as_version=4).cells
    assert cells[samples.TEXT].outputs[0].text == "loss 0.50\n"
    # Not a number behind the sign is news: it must not hide behind yesterday's measurement.
    assert cells[samples.MEASURED].outputs[0].text == "it took ≈ nan s\n"
    unchanged = [samples.RAISES, samples.PICTURE_AT, samples.WIDGET_AT]
    assert [cells[index] for index in unchanged] == [sound.cells[index] for index in unchanged]


def test_what_is_stored_is_clean(sound):
    assert set(sound.metadata) == {"kernelspec", "language_info"}
    assert sound.metadata.kernelspec.name == "python3"
    assert sound.metadata.language_info == {"name": "python"}
    assert [cell.execution_count for cell in sound.cells] == [1, 2, 3, 4, 5]
    assert set(sound.cells[samples.WIDGET_AT].outputs[0].data) == {"image/png", "text/plain"}
    assert all("execution" not in cell.metadata for cell in sound.cells)


def test_ids_follow_the_content_and_are_unique():
    def ids(*sources):
        made = nbformat.v4.new_notebook(cells=[samples.code(source) for source in sources])
        notebooks.clean(made)
        return [cell.id for cell in made.cells]

    first = ids("a = 1", "a + 1", "a = 1")
    assert first == ids("a = 1", "a + 1", "a = 1")
    assert len(set(first)) == 3
    assert ids("new = 0", "a = 1", "a + 1", "a = 1")[1:] == first, "a new cell must not rename the others"
    assert all(re.fullmatch(r"[0-9a-f]{8}", name) for name in first)


def test_what_editors_leave_behind_is_dropped():
    cell = samples.code("1", "hide")
    cell.metadata.update({"scrolled": True, "ExecuteTime": {"end": "now"}, "execution": {"iopub": "now"}})
    made = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}, "toc": {}})
    notebooks.clean(made)
    assert made.cells[0].metadata == {"tags": ["hide"]}
    assert set(made.metadata) == {"kernelspec", "language_info"}


def test_stored_traceback_names_no_file(write):
    path = write(samples.code('import json\njson.loads("{")', "raises-exception"))
    notebooks.execute(path)
    (error,) = nbformat.read(path, as_version=4).cells[0].outputs
    text = notebooks.ANSI.sub("", "\n".join(error.traceback))
    assert "decoder.py" not in text
    assert 'json.loads("{")' in text
    assert text.endswith(f"{error.ename}: {error.evalue}")
    assert notebooks.problems(path) == []


def test_cell_that_raises_leaves_the_file_as_it_was(write):
    path = write(samples.code("1 / 0"))
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="division by zero"):
        notebooks.execute(path)
    assert path.read_bytes() == before


def test_kernel_is_this_python_in_the_notebooks_folder_without_a_card_and_with_an_empty_learner_folder(write):
    path = write(
        samples.code(
            "import os, sys\n"
            "print(sys.prefix, os.getcwd(), repr(os.environ['CUDA_VISIBLE_DEVICES']), sep='\\n')\n"
            "print(os.path.exists(os.environ['COURSE_LEARNER_DIR']))"
        )
    )
    notebooks.execute(path)
    lines = nbformat.read(path, as_version=4).cells[0].outputs[0].text.splitlines()
    assert lines == [notebooks.sys.prefix, str(path.parent.resolve()), "''", "False"]


def test_command_runs_a_folder_and_reports_what_a_run_cannot_cure(write, capsys):
    path = write(samples.code("import sys\nprint('careful', file=sys.stderr)"))
    assert notebooks.main([str(path.parent)]) == 1
    assert capsys.readouterr().out == f"{path}: running\n{path}: cell 0: stderr is stored: 'careful'\n"
