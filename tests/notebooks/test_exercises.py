"""Every exercise of every lesson: the stub as it stands is "not attempted", the folded solution passes its check."""

import itertools
import math
import re
from pathlib import Path

import nbformat
import pytest
import torch

from course_utils import checks

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
FENCE = re.compile(r"<summary>Solution</summary>\s*```python\n(.*?)```", re.DOTALL)


def exercises():
    """Each exercise as (lesson, name of the check, source of the stub's cell, source of the solution)."""
    found = []
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        for stub, after in itertools.pairwise(cells):
            check = re.search(r"^checks\.(\w+)\(\w+\)$", stub.source, re.MULTILINE)
            if stub.cell_type == "code" and check:
                solution = FENCE.search(after.source)
                found.append((path.stem, check.group(1), stub.source, solution and solution.group(1)))
    return found


EXERCISES = exercises()


def run(source, check):
    """Run a cell's lines, then its check on the function of the same name."""
    names = {"torch": torch, "math": math, "checks": checks}
    exec(compile(source, f"<{check}>", "exec"), names)
    return getattr(checks, check)(names[check])


def test_every_check_has_an_exercise_and_every_lesson_three():
    public = {
        name
        for name, value in vars(checks).items()
        if callable(value) and value.__module__ == checks.__name__ and not isinstance(value, type) and name[0] != "_"
    }
    assert {check for _, check, _, _ in EXERCISES} == public
    for path in NOTEBOOKS:
        assert sum(lesson == path.stem for lesson, *_ in EXERCISES) >= 3, path.stem


@pytest.mark.parametrize(("lesson", "check", "stub", "solution"), EXERCISES, ids=[check for _, check, *_ in EXERCISES])
def test_the_stub_is_not_attempted_and_the_solution_passes(lesson, check, stub, solution):
    assert "Not attempted yet" in repr(run(stub, check))
    assert solution, f"{lesson}: no folded solution behind the stub of {check}"
    verdict = run(solution, check)
    assert verdict.passed, verdict.message
