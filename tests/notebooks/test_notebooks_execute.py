"""Running a lesson stores clean outputs, and running it again changes only what is new."""

import re

import nbformat
import pytest
import samples
from nbclient.exceptions import CellExecutionError

import notebooks


def test_a_second_run_changes_only_the_outputs_of_changed_cells(sound, write):
    sound.cells[samples.TEXT].source = 'print("loss 0.50")'
    path = write(sound)
    notebooks.execute(path)
    cells = nbformat.read(path, as_version=4).cells
    assert cells[samples.TEXT].outputs[0].text == "loss 0.50\n"
    assert cells[samples.TEXT + 1 :] == sound.cells[samples.TEXT + 1 :]


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


def test_a_cell_that_raises_leaves_the_file_as_it_was(write):
    path = write(samples.code("1 / 0"))
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="division by zero"):
        notebooks.execute(path)
    assert path.read_bytes() == before


def test_the_command_runs_a_folder_in_a_kernel_of_this_python_and_reports_what_a_run_cannot_fix(write, capsys):
    path = write(
        samples.code(
            "import os, sys\n"
            "print(sys.prefix, os.getcwd(), repr(os.environ['CUDA_VISIBLE_DEVICES']), sep='\\n')\n"
            "print(os.path.exists(os.environ['COURSE_LEARNER_DIR']))"
        ),
        samples.code("import sys\nprint('careful', file=sys.stderr)"),
        samples.code('import json\njson.loads("{")', "raises-exception"),
    )
    assert notebooks.main([str(path.parent)]) == 1
    where, warned, raised = nbformat.read(path, as_version=4).cells
    expected = [notebooks.sys.prefix, str(path.parent.resolve()), "''", "False"]
    assert where.outputs[0].text.splitlines() == expected
    assert warned.outputs[0].text == "careful\n"
    assert f"{path}: cell 1: stderr is stored: 'careful'\n" in capsys.readouterr().out
    # A traceback names the notebook's lines, and no file of this machine.
    (error,) = raised.outputs
    text = notebooks.ANSI.sub("", "\n".join(error.traceback))
    assert "decoder.py" not in text
    assert 'json.loads("{")' in text
    assert text.endswith(f"{error.ename}: {error.evalue}")
