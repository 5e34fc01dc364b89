"""Every exercise of every lesson: the stub is "not attempted", and the folded solution passes its check."""

import itertools
import re
from pathlib import Path

import nbformat
import pytest

from course_utils import checks
from course_utils.checks import runner

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
IMPORTS = re.compile(r"^from course_utils import .*\bchecks\b", re.MULTILINE)
FENCE = re.compile(r"<summary>Solution</summary>\s*```python\n(.*?)```", re.DOTALL)


def exercises():
    """Return each exercise as (lesson, cell of the imports, name of the check, cell of the stub, solution)."""
    found = []
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        # Lesson 00 checks the machine before it imports what may be missing.
        first = next(cell.source for cell in cells if cell.cell_type == "code" and IMPORTS.search(cell.source))
        for stub, after in itertools.pairwise(cells):
            check = re.search(r"^checks\.(\w+)\(\w+\)$", stub.source, re.MULTILINE)
            if stub.cell_type == "code" and check:
                solution = FENCE.search(after.source)
                found.append((path.stem, first, check.group(1), stub.source, solution and solution.group(1)))
    return found


EXERCISES = exercises()


def run(first, source, check):
    """Run the lesson's imports and an answer's lines, and return what its check returns."""
    names = {}
    for place, lines in enumerate((first, source)):
        exec(compile(lines, f"<{check} {place}>", "exec"), names)
    return getattr(checks, check)(names[check])


def test_every_check_has_an_exercise_and_every_lesson_at_least_three():
    public = set(checks.__all__) - {"report"}
    assert sorted(check for *_, check, _, _ in EXERCISES) == sorted(public)
    for path in NOTEBOOKS:
        assert sum(lesson == path.stem for lesson, *_ in EXERCISES) >= 3, path.stem


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_report_lists_the_exercises_with_the_titles_and_in_the_order_of_the_lesson(path):
    cells = nbformat.read(path, as_version=4).cells
    number = path.stem[:2]
    assert [cell.source for cell in cells if cell.cell_type == "code"][-1] == f'checks.report("{number}")'
    headings = re.findall(
        r"^### Exercise (\d+)\. (.+?) \(\d+ minutes\)$", "\n".join(c.source for c in cells), re.MULTILINE
    )
    known = [exercise.title for exercise in runner.EXERCISES.values() if exercise.name.startswith(f"{number}-")]
    assert headings == [(str(place), title) for place, title in enumerate(known, start=1)]
    assert len(known) == sum(lesson == path.stem for lesson, *_ in EXERCISES)


@pytest.mark.parametrize(("lesson", "first", "check", "stub", "solution"), EXERCISES, ids=[e[2] for e in EXERCISES])
def test_the_stub_is_not_attempted_and_the_solution_passes(lesson, first, check, stub, solution):
    assert "Not attempted yet" in repr(run(first, stub, check))
    assert solution, f"{lesson}: no folded solution behind the stub of {check}"
    result = run(first, solution, check)
    assert result.passed, result.message
