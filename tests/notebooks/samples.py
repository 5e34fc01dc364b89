"""A small sound lesson, and what can be broken in it."""

from pathlib import Path

import nbformat
from nbformat import NotebookNode


def code(source: str, *tags: str) -> NotebookNode:
    """Return a code cell that was not run, with its tags."""
    cell = nbformat.v4.new_code_cell(source)
    if tags:
        cell.metadata["tags"] = list(tags)
    return cell


PICTURE = """\
import base64, io
from IPython.display import display
from matplotlib.figure import Figure
figure = Figure(figsize=(4, 3), dpi=100)
figure.subplots().plot([0, 1, 0])
buffer = io.BytesIO()
figure.savefig(buffer, format="png")
png = base64.b64encode(buffer.getvalue()).decode()
alt = "a line goes up and comes down"
display({"image/png": png, "text/plain": alt}, metadata={"image/png": {"alt": alt}}, raw=True)"""
WIDGET = """\
import ipywidgets as widgets
class Slider(widgets.FloatLogSlider):
    def _repr_mimebundle_(self, **kwargs):
        view = super()._repr_mimebundle_(**kwargs)
        return {**view, "image/png": png, "text/plain": "a slider"}, {"image/png": {"alt": alt}}
slider = Slider(value=0.1, min=-3, max=0)
slider"""
TEXT, MEASURED, RAISES, PICTURE_AT, WIDGET_AT = range(5)


def lesson() -> NotebookNode:
    """Return a lesson with a text, a measured number, a wanted error, a picture, and a widget with a still picture."""
    return nbformat.v4.new_notebook(
        cells=[
            code('print("loss 0.25")'),
            code('import time\nprint(f"it took ≈ {time.perf_counter():.6f} s")'),
            code('raise ValueError("lr must be above 0, got -1")', "raises-exception"),
            code(PICTURE),
            code(WIDGET),
        ]
    )


def write(folder: Path, *cells: NotebookNode) -> Path:
    """Write a notebook, or one made of the given cells, into a folder and return its path."""
    whole = cells[0] if "cells" in cells[0] else nbformat.v4.new_notebook(cells=list(cells))
    path = folder / "lesson.ipynb"
    nbformat.write(whole, path)
    return path
