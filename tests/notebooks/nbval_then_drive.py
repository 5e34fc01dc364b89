"""Run nbval, then move the controls of each notebook and run its cells again, in the same kernel.

    python tests/notebooks/nbval_then_drive.py FOLDER repeat-all|sample [pytest's arguments]

Running a lesson is the most expensive thing that the tests do. So nbval's comparison, the pictures, the controls and
the second run share one kernel: this file is a plugin that takes over when nbval has finished a notebook.
"""

import copy
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from driver import Drive, go_on

FOLDER, HOW = "DRIVE_INTO", "DRIVE_HOW"
REPEAT_ALL, SAMPLE = "repeat-all", "sample"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give each kernel that nbval is about to start its own learner folder, because the driver makes predictions."""
    if isinstance(item, IPyNbCell) and item.parent.kernel is None:
        os.environ["COURSE_LEARNER_DIR"] = tempfile.mkdtemp(dir=os.environ[FOLDER]) + "/learner"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Take over after the last cell of a notebook, before nbval stops its kernel."""
    if isinstance(item, IPyNbCell) and (nextitem is None or nextitem.parent is not item.parent):
        write(drive_on(item.parent), Path(os.environ[FOLDER]), item.path.stem)


def drive_on(lesson: IPyNbFile) -> Drive:
    """Move the controls of a notebook that nbval has run, and run its cells again."""
    fresh = copy.deepcopy(lesson.nb)
    ran = [item for item in lesson.session.items if item.parent is lesson]
    for cell, item in zip((cell for cell in fresh.cells if cell.cell_type == "code"), ran, strict=True):
        cell.outputs = item.test_outputs or []
    if not lesson.kernel.is_alive():
        return Drive(fresh, faults=["the kernel had died before any control was moved"])
    return go_on(fresh, lesson.kernel.km, repeat_all=os.environ[HOW] == REPEAT_ALL)


def write(drive: Drive, folder: Path, name: str) -> None:
    parts = {field.name: getattr(drive, field.name) for field in dataclasses.fields(Drive)}
    (folder / f"{name}.json").write_text(json.dumps(parts), encoding="utf-8")


def read(folder: Path, name: str) -> Drive:
    parts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    runs = {run: nbformat.from_dict(parts.pop(run)) for run in ("notebook", "again") if parts[run] is not None}
    return Drive(**{**parts, **runs})


if __name__ == "__main__":
    os.environ[FOLDER], os.environ[HOW], *arguments = sys.argv[1:]
    sys.exit(pytest.main(["-p", Path(__file__).stem, *arguments]))
