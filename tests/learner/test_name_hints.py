"""Where a missing name is defined: read from the lessons, shown below the error, and true for all of them."""

import ast
import builtins
import dis
import json
import re
import sys
import types
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from course_utils.learner import name_hints
from course_utils.learner.name_hints import Cell, explain, find_cell, names_bound, read_cells

LESSONS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
ABOVE = "click into this cell, choose Run > Run All Above Selected Cell, then run this cell again."


# Which names a cell defines.


@pytest.mark.parametrize(
    "source",
    [
        "a = b = 1\nc, (d, *e) = 1, (2, 3)\nf: int = 4",
        "g: int",  # an annotation alone defines nothing
        "import os.path\nimport json as j\nfrom math import pi, tau as t",
        "for i in range(2):\n    last = i",
        "while True:\n    once = 1\n    break",
        "from contextlib import nullcontext\nwith nullcontext(3) as opened, nullcontext((1, 2)) as (c, d):\n    x = 1",
        "if (n := 3) > 2:\n    big = True",
        "kept = [(inside := i) for i in range(3)]",
        "table = {i: (j := i) for i in range(3)}",
        "squares = sorted({i * i for i in range(3)}, key=lambda v: (w := v))",
        "def f(x, y=1):\n    z = x\n    return z\nclass C:\n    a = 1\nasync def g():\n    b = 1",
        "def fill():\n    global filled\n    filled = 1\nfill()",
        "match [1, {'k': 2, 'r': 3}]:\n    case [first, {'k': k, **rest}] as whole:\n        pass",
        "match [1, 2, 3]:\n    case [head, *tail]:\n        pass",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    caught = str(error)\nfinally:\n    done = 1",
        "old = 1\nnew = 2\ndel old",
        "box = [0]\nbox[0] = 1\nbox.__class__",
    ],
)
def test_names_bound_are_those_that_running_the_cell_defines(source):
    names = {}
    exec(source, names)
    assert names_bound(source) == names.keys() - {"__builtins__", "__annotations__"}


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("steps += 1", set()),
        ("%load_ext loop_doctor\na = 1\nnumbers = !echo 7\nb = %pwd", {"a", "numbers", "b"}),
        ("%%doctor\nmodel = 1\n%time x = 2", {"model"}),
        ("%%time\nx = 1", {"x"}),
        ("%%bash\nx=1", set()),
        ("await something()\na = 1", {"a"}),
        ("a = (1", set()),
        ("a = 1\n  b = 2", set()),
        ("'\x00'", set()),
        ("a = " + "(" * 5000 + ")" * 5000, set()),
        ("pattern = '\\d'", {"pattern"}),  # Python warns of this one when the cell is run
        ("", set()),
    ],
)
def test_names_bound_by_cells_that_are_not_plain_python(source, made):
    assert names_bound(source) == made


# What is read from a notebook.


def markdown(source):
    return {"cell_type": "markdown", "source": source}


def code(source, **more):
    return {"cell_type": "code", "source": source, **more}


def write(folder, *cells, name="lesson.ipynb"):
    path = folder / name
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return path


def test_each_cell_has_its_headings(tmp_path):
    path = write(
        tmp_path,
        markdown("# Title"),
        code("a = 1", id="one"),
        markdown(["words\n", "\n", "## 1. First ##\n", "```python\n", "## no heading\n", "```\n", "### Part\n"]),
        code(["b = 1\n", "c = 2"]),
        markdown("## 2. Exercises\n\n### Exercise 1. Add `it()` (5 minutes)\n~~~\n### Exercise 9. None\n~~~"),
        code("def add():\n    ..."),
        markdown("### Notes"),
        code("d = 1"),
        markdown("## End"),
        code("e = 1"),
    )
    assert read_cells(path) == [
        Cell("a = 1", "one"),
        Cell("b = 1\nc = 2", None, "1. First"),
        Cell("def add():\n    ...", None, "2. Exercises", "Exercise 1. Add `it()` (5 minutes)"),
        Cell("d = 1", None, "2. Exercises"),
        Cell("e = 1", None, "End"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"cells": 3}',
        b'{"cells": null}',
        b'{"worksheets": []}',
        b'{"cells": [1, null, {}, {"cell_type": "code"}, {"cell_type": "code", "source": [1]}]}',
        b'{"cells": [{"cell_type": "raw", "source": "a = 1"}, {"cell_type": ["code"], "source": "a = 1"}]}',
    ],
)
def test_a_file_that_is_not_a_notebook_has_no_cells(content, tmp_path):
    path = tmp_path / "broken.ipynb"
    path.write_bytes(content)
    assert read_cells(path) == []


def test_a_file_that_cannot_be_opened_has_no_cells(tmp_path):
    assert read_cells(tmp_path / "none.ipynb") == []
    assert read_cells(tmp_path) == []


# The sentences.

CELLS = [
    Cell("import torch", "c0"),
    Cell("losses = [1]", "c1", "1. One run"),
    Cell("losses = losses[:1]\nmean = 1", "c2", "2. What is `mean()`?"),
    Cell("print(mean)", "c3", "2. What is `mean()`?"),
    Cell("print(losses, torch)", "c4", "3. Two runs"),
    Cell("def write_it():\n    ...", "c5", "4. Exercises", "Exercise 1. Write `it()` (5 minutes)"),
    Cell("write_it()", "c6", "4. Exercises", "Exercise 1. Write `it()` (5 minutes)"),
    Cell("write_it()", "c7", "4. Exercises", "Exercise 2. Use it"),
    Cell("last = 1", "c8", "Afterwards"),
    Cell("print(last)", "c9", "5. End"),
]


@pytest.mark.parametrize(
    ("name", "at", "said"),
    [
        ("losses", 4, f"is defined in section 2, “What is `mean()`?”. Run that section first: {ABOVE}"),
        ("losses", 2, f"is defined in section 1, “One run”. Run that section first: {ABOVE}"),
        ("mean", 3, f"is defined further up in section 2, “What is `mean()`?”. Run the cells above first: {ABOVE}"),
        ("torch", 4, f"is defined in the cells above the first section. Run that section first: {ABOVE}"),
        ("write_it", 7, f"is what you write in Exercise 1, “Write `it()`”. Run that exercise first: {ABOVE}"),
        ("write_it", 6, f"is defined further up in Exercise 1, “Write `it()`”. Run the cells above first: {ABOVE}"),
        ("last", 9, f"is defined in the section “Afterwards”. Run that section first: {ABOVE}"),
        (
            "last",
            4,
            "is defined only further down, in the section “Afterwards”. Run that cell first, then run this one again.",
        ),
        (
            "losses",
            None,
            "is defined in section 1, “One run”. Run the lesson down to there first, then run this cell again.",
        ),
    ],
)
def test_a_missing_name_is_explained_by_its_section(name, at, said):
    assert explain(CELLS, name, at) == f"`{name}` {said}"


@pytest.mark.parametrize(("name", "at"), [("last", 8), ("lossses", 4), ("lossses", None), ("print", 4)])
def test_a_name_that_no_other_cell_defines_is_left_to_python(name, at):
    assert explain(CELLS, name, at) is None


def test_a_cell_is_found_by_its_id_or_by_its_code():
    assert find_cell(CELLS, "edited", "c3") == 3
    assert find_cell(CELLS, "print(mean)\n", "c9") == 9
    assert find_cell(CELLS, "print(mean)\n", "not-in-the-file") == 3
    assert find_cell(CELLS, "print(mean)\n") == 3
    assert find_cell(CELLS, "write_it()") == 7
    assert find_cell(CELLS, "edited") is None
    assert find_cell([Cell("a")], "edited", None) is None
    assert find_cell([], "a", "b") is None


# In all lessons. Python's own compiler is the oracle for what a cell defines and what it needs.


def plain(source):
    return TransformerManager().transform_cell(re.sub(r"\A%%doctor\n", "", source))


def names_by_use(code):
    """Return the names that compiled code reads and binds, including the code inside it."""
    found = {}
    for instruction in dis.get_instructions(code):
        found.setdefault(instruction.opname, set()).add(instruction.argval)
    own = found.get("STORE_NAME", set())
    inner = [names_by_use(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    read = found.get("LOAD_NAME", set()) - own
    read |= found.get("LOAD_GLOBAL", set()).union(*(reads for reads, *_ in inner))
    made_global = found.get("STORE_GLOBAL", set()).union(*(globals_ for _, _, globals_, _ in inner))
    return read, own, made_global, found.get("DELETE_NAME", set())


def made_and_needed(source):
    """Return the names that a cell defines and the names that it looks up, by the compiler's instructions."""
    read, own, made_global, gone = names_by_use(compile(source, "cell", "exec", dont_inherit=True))
    made = (own | made_global) - {"__annotations__"}
    return made - gone, read - made - set(dir(builtins)) - {"get_ipython", "__annotations__"}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_each_name_that_a_section_needs_is_explained_by_the_right_section(path):
    title, exercise, cells = "", "", []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            cells.append((source, title, exercise))
            continue
        for heading in re.findall(r"^##+ (.+)$", source, re.MULTILINE):
            if number := re.match(r"(\d+)\. (.+)", heading):
                title, exercise = f"section {number[1]}, “{number[2]}”", ""
            elif number := re.match(r"(Exercise \d+)\. (.+) \(\d+ minutes\)$", heading):
                exercise = f"{number[1]}, “{number[2]}”"
    found = read_cells(path)
    assert [cell.source for cell in found] == [source for source, *_ in cells]
    assert re.search(r"^name_hints\.guide\(\)", cells[0][0], re.MULTILINE)
    makers, needing = {}, set()
    for at, (source, title, exercise) in enumerate(cells):
        made, needed = made_and_needed(plain(source))
        assert names_bound(source) == made
        for name in needed:
            sentence = explain(found, name, at)
            if name not in makers:  # a function may be defined before the names that it looks up
                assert "is defined only further down" in sentence
                continue
            where = makers[name]
            assert sentence.startswith(f"`{name}` is ")
            assert sentence.endswith(ABOVE)
            assert f" in {where[1] or where[0]}. Run " in sentence
            assert ("further up" in sentence) == (where == (title, exercise) or (where[0] == title and not where[1]))
            needing |= {title} - {where[0]}
        makers |= dict.fromkeys(made, (title, exercise))
    # Every section needs something from another, except the first one and that of the imports in lesson 00.
    assert needing == {title for _, title, _ in cells} - {cells[0][1], makers["checks"][0]}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_section_can_be_run_again_after_those_that_follow_it(path):
    """Check that no name that a section takes from an earlier one is defined again by another section."""
    made, needed = {}, {}
    for cell in read_cells(path):
        here, missed = made.setdefault(cell.section, set()), needed.setdefault(cell.section, set())
        for statement in ast.parse(plain(cell.source)).body:
            makes, needs = made_and_needed(ast.unparse(statement))
            missed |= needs - here
            here |= makes
    titles = list(made)
    spoilt = []
    for at, title in enumerate(titles):
        for name in needed[title]:
            makers = [other for other in titles if name in made[other] and other != title]
            before = [other for other in titles[:at] if other in makers]
            if before and makers[-1] != before[-1]:
                spoilt.append(f"{title!r} needs the {name} of {before[-1]!r}; {makers[-1]!r} makes another")
    assert spoilt == []


# In IPython, below the error.

LESSON = (
    markdown("## 1. One run"),
    code("losses = [1, 2]", id="c1"),
    markdown("## 2. Its mean"),
    code("def mean():\n    return sum(losses) / len(losses)", id="c2"),
    markdown("## 3. Two runs"),
    code("print(losses)", id="c3"),
    code("print(lossses)", id="c4"),
)
SAID = f"`losses` is defined in section 1, “One run”. Run that section first: {ABOVE}\n"


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    shell = InteractiveShell.instance(
        config=Config({"HistoryManager": {"hist_file": ":memory:"}, "InteractiveShell": {"xmode": "Minimal"}})
    )
    name_hints.guide()
    yield shell
    InteractiveShell.clear_instance()


@pytest.fixture
def run(shell, capsys):
    """Return a function that runs a cell and returns what is shown below its error: the sentence, or nothing."""

    def run_cell(source, cell_id=None, raises=NameError):
        result = shell.run_cell(source, store_history=True, cell_id=cell_id)
        shown = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)  # without colors
        if raises is None:
            assert result.success
            return shown
        assert isinstance(result.error_in_exec or result.error_before_exec, raises)
        *_, below = re.split(rf"^{raises.__name__}: .*\n", shown, flags=re.MULTILINE)
        return re.sub(r"\A\s*", "", below)

    return run_cell


def test_the_sentence_is_shown_below_the_error(run, tmp_path):
    write(tmp_path, *LESSON)
    assert run("print(losses)") == SAID
    assert run("losses = [1, 2]", raises=None) == ""
    assert run("print(losses)", raises=None) == "[1, 2]\n"


@pytest.mark.parametrize(
    "source",
    [
        "def mean():\n    return sum(losses) / len(losses)\nmean()",
        "[1 for _ in losses]",
        "(lambda: losses)()",
        "class C:\n    a = losses",
        "sorted([2, 1], key=lambda value: losses[value])",
        "exec('print(losses)')",
        "del losses",
    ],
)
def test_the_name_may_be_missing_in_a_function_of_the_notebook(run, tmp_path, source):
    write(tmp_path, *LESSON)
    run("print(lossses)")
    said = (
        "`losses` is defined in section 1, “One run”. Run the lesson down to there first, then run this cell again.\n"
    )
    assert run(source) == said


@pytest.mark.parametrize(
    ("source", "raises"),
    [
        ("print(lossses)", NameError),
        ("def f():\n    print(losses)\n    losses = 1\nf()", UnboundLocalError),
        ("def f():\n    def g():\n        return losses\n    g()\n    losses = 1\nf()", NameError),
        ("raise NameError('losses')", NameError),
        ("exec('print(losses)', {})", NameError),
        ("losses = 1\nraise NameError('x', name='losses')", NameError),
        ("import losses", ModuleNotFoundError),
        ("losses = )", SyntaxError),
    ],
)
def test_another_error_is_left_alone(run, tmp_path, source, raises):
    write(tmp_path, *LESSON)
    assert run(source, raises=raises) == ""


def test_an_edited_cell_is_found_by_its_id_and_its_lesson_by_the_cells_before(run, tmp_path):
    write(tmp_path, *LESSON)
    assert run("print(losses, 'edited')", "c3") == SAID
    write(tmp_path, markdown("## 7. Other"), code("losses = 3"), name="other.ipynb")
    assert run("print(losses, 'edited')", "c3") == ""  # either lesson could be meant
    run("print(lossses)")
    assert run("print(losses, 'edited')", "c3") == SAID
    assert "section 1, “One run”" in run("print(losses, 'edited')")


def test_of_two_lessons_with_the_same_cell_the_one_that_was_run_is_used(run, tmp_path):
    write(tmp_path, *LESSON)
    write(
        tmp_path, code("first = 1"), markdown("## 7. Other"), code("losses = 3"), code("print(losses)"), name="b.ipynb"
    )
    assert run("print(losses)") == ""
    run("first = 1", raises=None)
    assert run("print(losses)").startswith("`losses` is defined further up in section 7, “Other”.")


def test_two_copies_of_a_lesson_show_one_sentence(run, tmp_path):
    write(tmp_path, *LESSON)
    write(tmp_path, *LESSON, name="lesson-Copy1.ipynb")
    assert run("print(losses)") == SAID


def test_the_front_end_may_name_the_notebook(run, shell, tmp_path, monkeypatch):
    mine = write(tmp_path, *LESSON)
    other = write(tmp_path, markdown("## 7. Other"), code("losses = 3"), code("print(losses)"), name="other.ipynb")
    monkeypatch.setenv("JPY_SESSION_NAME", str(mine))
    assert run("print(losses)") == SAID
    monkeypatch.setenv("JPY_SESSION_NAME", "folder/as/seen/by/the/server/lesson.ipynb")
    assert run("print(losses)") == SAID
    monkeypatch.setenv("JPY_SESSION_NAME", "moved.ipynb")
    assert run("print(losses)") == ""
    shell.user_ns["__vsc_ipynb_file__"] = str(mine)
    assert run("print(losses)") == SAID.replace("Run > Run All Above Selected Cell", name_hints.VS_CODE)
    shell.user_ns["__vsc_ipynb_file__"] = str(other)
    assert "section 7" in run("print(losses)")
    shell.user_ns["__vsc_ipynb_file__"] = 3
    assert run("print(losses)") == ""


def test_a_folder_with_broken_notebooks_or_with_none(run, tmp_path):
    assert run("print(losses)") == ""
    (tmp_path / "a.ipynb").write_text("{")
    (tmp_path / "folder.ipynb").mkdir()
    assert run("print(losses)") == ""
    write(tmp_path, *LESSON)
    assert run("print(losses)") == SAID


def test_loading_twice_shows_one_sentence(run, shell, tmp_path, capsys):
    write(tmp_path, *LESSON)
    name_hints.guide()
    shell.run_line_magic("load_ext", "course_utils.learner.name_hints")
    assert run("print(losses)") == SAID


def test_outside_ipython_nothing_happens(monkeypatch):
    name_hints.guide()
    monkeypatch.delitem(sys.modules, "IPython")
    name_hints.guide()
    assert "IPython" not in sys.modules
