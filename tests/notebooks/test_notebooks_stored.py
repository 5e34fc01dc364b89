"""What is stored in the lessons is fit for a reader on the web, and the check that says so sees every fault."""

import ast
import base64
import io
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import samples
from matplotlib.image import imsave

import notebooks


def png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def test_there_are_lessons():
    assert notebooks.find([notebooks.ROOT / "notebooks"])


def test_lesson_is_fit_to_be_committed(stored):
    assert notebooks.problems(stored) == []


def test_sound_lesson_has_no_problem(sound, write):
    assert notebooks.problems(write(sound)) == []


def _never_run(lesson):
    for cell in lesson.cells:
        cell.execution_count, cell.outputs = None, []


def _run_out_of_order(lesson):
    lesson.cells[1].execution_count = 7


def _widget_state(lesson):
    lesson.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}


def _widget_view(lesson):
    lesson.cells[samples.WIDGET_AT].outputs[0].data[notebooks.WIDGET_VIEW] = {"model_id": "1"}


def _other_kernel(lesson):
    lesson.metadata.kernelspec.name = "my-env"


def _nothing_raised(lesson):
    lesson.cells[samples.RAISES].outputs = []


def _not_tagged(lesson):
    lesson.cells[samples.RAISES].metadata.tags = []


def _no_picture(lesson):
    lesson.cells[samples.PICTURE_AT].outputs = []


def _only_the_name_of_a_figure(lesson):
    cell = lesson.cells[samples.TEXT]
    cell.outputs = [nbformat.v4.new_output("display_data", {"text/plain": "<Figure size 640x480 with 1 Axes>"})]


def _only_the_name_of_a_widget(lesson):
    cell = lesson.cells[samples.TEXT]
    cell.outputs = [nbformat.v4.new_output("display_data", {"text/plain": "VBox(children=(FloatLogSlider(value=0.1,"})]


def _truncated(lesson):
    data = lesson.cells[samples.PICTURE_AT].outputs[0].data
    data["image/png"] = data["image/png"][: len(data["image/png"]) // 8 * 4]


def _empty(lesson):
    lesson.cells[samples.PICTURE_AT].outputs[0].data["image/png"] = ""


def _blank(lesson):
    lesson.cells[samples.PICTURE_AT].outputs[0].data["image/png"] = png(np.full((300, 400, 3), 255, dtype=np.uint8))


def _tiny(lesson):
    lesson.cells[samples.PICTURE_AT].outputs[0].data["image/png"] = png(np.eye(8))


def _no_alt_text(lesson):
    lesson.cells[samples.PICTURE_AT].outputs[0].metadata = nbformat.NotebookNode()


def _stderr(lesson):
    lesson.cells[samples.TEXT].outputs.append(nbformat.v4.new_output("stream", name="stderr", text="UserWarning: no"))


def _printed(text):
    def change(lesson):
        lesson.cells[samples.TEXT].outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]

    return change


def _said(text):
    def change(lesson):
        lesson.cells.append(nbformat.v4.new_markdown_cell(text))

    return change


def _too_large(lesson):
    _printed("0123456789" * 30_000)(lesson)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_never_run, "5 of 5 code cells were never run"),
        (_run_out_of_order, r"counts are [1, 7, 3, 4, 5]"),
        (_widget_state, "metadata.widgets is stored"),
        (_widget_view, "cell 4: a widget view is stored"),
        (_other_kernel, "the kernel is not python3"),
        (_nothing_raised, "cell 2: it is tagged raises-exception and raised nothing"),
        (_not_tagged, "cell 2: ValueError: lr must be above 0, got -1 was raised"),
        (_no_picture, "cell 3: it draws ('Figure(') and shows no picture"),
        (_only_the_name_of_a_figure, "cell 0: '<Figure size 640x480 with 1 Axes>' is all that a reader"),
        (_only_the_name_of_a_widget, "cell 0: 'VBox(children=(FloatLogSlider(value=0.1,' is all that a reader"),
        (_truncated, "cell 3: the picture is broken: not a whole PNG"),
        (_empty, "cell 3: the picture is broken: not a whole PNG"),
        (_blank, "cell 3: the picture is blank"),
        (_tiny, "cell 3: the picture is 8 x 8 pixels"),
        (_no_alt_text, "cell 3: the picture has no alt text"),
        (_stderr, "cell 0: stderr is stored: 'UserWarning: no'"),
        (_printed("<Net object at 0x7f3c5bd1a2e0>"), "cell 0: stdout holds a memory or network address"),
        (_printed("open http://localhost:8888/lab"), "cell 0: stdout holds a memory or network address"),
        (_printed("saved in /home/ada/course/runs"), "cell 0: stdout holds a path of one machine"),
        (_printed(r"saved in C:\Users\ada"), "cell 0: stdout holds a path of one machine"),
        (_printed(f"saved in {notebooks.ROOT / 'runs'}"), "cell 0: stdout holds a path of"),
        (_printed(f"python is {sys.prefix}"), "cell 0: stdout holds a path of"),
        (_said("![](loop.png)"), "cell 5: the image 'loop.png' has no alt text"),
        (_said('<img src="loop.png" alt=" ">'), "cell 5: <img src="),
        (_too_large, "300000 are too many"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_each_fault_is_told(sound, write, change, sentence):
    change(sound)
    told = notebooks.problems(write(sound))
    assert len(told) == 1, told
    assert sentence in told[0]


@pytest.mark.parametrize(
    "text", ["see ./data and ../../logs", "9/10 of the runs", "and/or", "https://pytorch.org/docs/x"]
)
def test_relative_paths_and_slashes_are_no_fault(sound, write, text):
    _printed(text)(sound)
    assert notebooks.problems(write(sound)) == []


@pytest.mark.parametrize("text", ["![the loop](loop.png)", '<img src="loop.png" alt="the loop">', "no image at all"])
def test_images_with_alt_text_are_no_fault(sound, write, text):
    _said(text)(sound)
    assert notebooks.problems(write(sound)) == []


def test_cell_that_only_prepares_a_picture_may_say_so(sound, write):
    _no_picture(sound)
    sound.cells[samples.PICTURE_AT].metadata["tags"] = ["no-picture"]
    assert notebooks.problems(write(sound)) == []


def test_defining_or_importing_a_plot_draws_nothing(sound, write):
    sound.cells[samples.TEXT].source = "from course_utils.plots import plot_losses\ndef plot_mine(ax): pass\n"
    assert notebooks.problems(write(sound)) == []


def test_check_exits_with_1_and_names_the_file(sound, write, capsys):
    _nothing_raised(sound)
    path = write(sound)
    before = path.read_bytes()
    assert notebooks.main(["--check", str(path.parent)]) == 1
    assert capsys.readouterr().out == f"{path}: cell 2: it is tagged raises-exception and raised nothing\n"
    assert path.read_bytes() == before, "--check must not write"


def test_check_of_a_sound_lesson_exits_with_0(sound, write, capsys):
    assert notebooks.main(["--check", str(write(sound))]) == 0
    assert capsys.readouterr().out == ""


def test_missing_notebook_and_empty_folder_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no such notebook or folder: .*nowhere.ipynb"):
        notebooks.find([tmp_path / "nowhere.ipynb"])
    with pytest.raises(FileNotFoundError, match="no notebook in the folder"):
        notebooks.find([tmp_path])


def test_copies_that_jupyter_keeps_are_no_lessons(tmp_path: Path):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for name in ("02_b.ipynb", "01_a.ipynb", ".ipynb_checkpoints/01_a-checkpoint.ipynb"):
        (tmp_path / name).write_text("{}")
    assert [path.name for path in notebooks.find([tmp_path])] == ["01_a.ipynb", "02_b.ipynb"]


def test_the_speeds_that_lesson_06_shows_are_those_of_the_document():
    lesson = nbformat.read(notebooks.ROOT / "notebooks" / "06_item.ipynb", as_version=4)
    (cell,) = (cell for cell in lesson.cells if "docs/cuda.md" in cell.source)
    (shown,) = (part.value for part in ast.parse(cell.source).body if isinstance(part, ast.Assign))
    document = (notebooks.ROOT / "docs" / "cuda.md").read_text(encoding="utf-8")
    speeds = ast.literal_eval(shown).values()
    assert len(speeds) == 4
    for median, smallest, largest in speeds:
        assert f"| {median:.2f} [{smallest:.2f}, {largest:.2f}] |" in document
