"""Report where a missing name is defined when a cell of a lesson is run before the section that it needs.

A lesson's first code cell calls `guide()`. When a later cell ends with Python's NameError, the lesson's file is read,
and a sentence below the error names the section in which another cell defines the name. If no cell defines it, the
learner has mistyped it: Python itself suggests similar names, so nothing is added.
"""

import ast
import functools
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEADING = re.compile(r"(#{1,6})\s+(.+?)[\s#]*$")
NUMBERED = re.compile(r"(\d+)\.\s+(.+)")
EXERCISE = re.compile(r"(Exercise \d+)\.\s+(.+?)(?:\s+\([^()]*\))?$")
FENCE = re.compile(r"\s{0,3}(```|~~~)")
# Magics that run the rest of the cell as Python in the notebook's own namespace.
WHOLE_CELL = re.compile(r"\A\s*%%(?:capture|doctor|time)\b.*\n")

# The menu entries that run all cells above a cell.
JUPYTERLAB = "Run > Run All Above Selected Cell"
VS_CODE = "Execute Above Cells, in the bar of the cell"


@dataclass(frozen=True)
class Cell:
    """A code cell of a notebook.

    Attributes:
        source: its code.
        id: its id in the file, or None if the file has none.
        section: the heading `## …` above it, without the marks, or "".
        exercise: the heading `### Exercise …` above it, or "".
    """

    source: str
    id: str | None = None
    section: str = ""
    exercise: str = ""


def guide() -> None:
    """Report where the name is defined, from now on, whenever a cell of this kernel ends with a NameError.

    Calling it twice changes nothing. Outside IPython it does nothing.
    """
    if "IPython" in sys.modules:
        from IPython import get_ipython

        if (shell := get_ipython()) is not None:
            load_ipython_extension(shell)


def load_ipython_extension(shell: Any) -> None:
    """Do what `guide()` does, for `%load_ext course_utils.learner.name_hints`."""
    shell.events.register("post_run_cell", _on_post_run_cell)  # IPython registers the same function only once


def read_cells(path: Path) -> list[Cell]:
    """Return the code cells of a notebook, each with the headings above it; none if it cannot be read."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    found: list[Cell] = []
    section = exercise = ""
    for cell in cells if isinstance(cells, list) else []:
        if not isinstance(cell, dict):
            continue
        source = cell.get("source")
        if isinstance(source, list) and all(isinstance(line, str) for line in source):
            source = "".join(source)
        if not isinstance(source, str):
            continue
        if cell.get("cell_type") == "code":
            name = cell.get("id")
            found.append(Cell(source, name if isinstance(name, str) else None, section, exercise))
        elif cell.get("cell_type") == "markdown":
            for level, title in _headings(source):
                if level <= 2:
                    section, exercise = (title if level == 2 else ""), ""
                elif level == 3:
                    exercise = title if EXERCISE.match(title) else ""
    return found


def _headings(markdown: str) -> Iterator[tuple[int, str]]:
    """Yield the headings of a Markdown cell, each with its level; comments in a code block are not headings."""
    fence = None
    for line in markdown.splitlines():
        if mark := FENCE.match(line):
            fence = mark[1] if fence is None else None if fence == mark[1] else fence
        elif fence is None and (heading := HEADING.match(line)):
            yield len(heading[1]), heading[2]


@functools.lru_cache(maxsize=1000)
def names_bound(source: str) -> frozenset[str]:
    """Return the names that a cell defines for the cells after it; none if it cannot be parsed.

    Names that it only changes (`steps += 1`) or deletes (`del`, and the name after `except … as`) do not count, nor
    do the local names of its functions.
    """
    try:
        with warnings.catch_warnings():  # Python has already issued them, about a string of the learner's, for example
            warnings.simplefilter("ignore")
            tree = ast.parse(_to_python(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # all that Python's parser raises
        return frozenset()
    names = _BoundNames()
    names.visit(tree)
    return frozenset(names.bound - names.deleted)


def _to_python(source: str) -> str:
    """Return a cell as Python, with its magics and shell commands as IPython runs them."""
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(WHOLE_CELL.sub("", source, count=1))


class _BoundNames(ast.NodeVisitor):
    """Collects the names that the statements of a module bind."""

    def __init__(self) -> None:
        self.bound: set[str] = set()
        self.deleted: set[str] = set()

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.bound.add(node.id)
        elif isinstance(node.ctx, ast.Del):
            self.deleted.add(node.id)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self.bound.add(node.name)
        # The names that a function binds are its own, except those that it declares global.
        self.bound.update(name for inner in ast.walk(node) if isinstance(inner, ast.Global) for name in inner.names)

    visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.bound.update(alias.asname or alias.name.split(".")[0] for alias in node.names)

    visit_ImportFrom = visit_Import

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Ignore a lambda: its names are its own."""

    def visit_ListComp(self, node: ast.AST) -> None:
        """Collect only the names of `:=`: the others are the comprehension's own."""
        self.bound.update(inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:  # `x: int` alone does not bind x
            self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self.generic_visit(node)
        if node.name:
            self.deleted.add(node.name)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> None:
        self.generic_visit(node)
        if node.name:
            self.bound.add(node.name)

    visit_MatchStar = visit_MatchAs

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self.generic_visit(node)
        if node.rest:
            self.bound.add(node.rest)


def find_cell(cells: list[Cell], source: str, cell_id: str | None = None) -> int | None:
    """Return the index of the cell that was run among a notebook's code cells, found by id or by code, or None.

    The id also finds a cell that has been edited since. It comes from the front end, so it may be missing.
    """
    by_id = [at for at, cell in enumerate(cells) if cell_id is not None and cell.id == cell_id]
    by_code = [at for at, cell in enumerate(cells) if cell.source.strip() == source.strip()]
    return max(by_id or by_code, default=None)


def explain(cells: list[Cell], name: str, at: int | None, menu: str = JUPYTERLAB) -> str | None:
    """Return in which section a name is defined and what to do, or None if no other cell defines it.

    Args:
        cells: the code cells of the lesson.
        name: the name that was missing.
        at: the index of the cell in which it was missing, or None if that is not known.
        menu: the front end's menu entry that runs all cells above a cell.
    """
    defining = [place for place, cell in enumerate(cells) if place != at and name in names_bound(cell.source)]
    if not defining:
        return None
    if at is None:
        title = _title(cells[defining[0]])
        return f"`{name}` is defined in {title}. Run the lesson down to there first, then run this cell again."
    above = [place for place in defining if place < at]
    if not above:
        title = _title(cells[defining[0]])
        return f"`{name}` is defined only further down, in {title}. Run that cell first, then run this one again."
    cell = cells[above[-1]]
    title = _title(cell)
    if cell.exercise and cell.exercise != cells[at].exercise:
        return (
            f"`{name}` is what you write in {title}. Run that exercise first: click into this cell, choose {menu}, "
            "then run this cell again."
        )
    if cell.section == cells[at].section:
        return (
            f"`{name}` is defined further up in {title}. Run the cells above first: click into this cell, choose "
            f"{menu}, then run this cell again."
        )
    return (
        f"`{name}` is defined in {title}. Run that section first: click into this cell, choose {menu}, "
        "then run this cell again."
    )


def _title(cell: Cell) -> str:
    if cell.exercise and (exercise := EXERCISE.match(cell.exercise)):
        return f"{exercise[1]}, “{exercise[2]}”"
    if numbered := NUMBERED.match(cell.section):
        return f"section {numbered[1]}, “{numbered[2]}”"
    return f"the section “{cell.section}”" if cell.section else "the cells above the first section"


def _on_post_run_cell(result: Any) -> None:
    """Show where the missing name is defined if a cell ended with a NameError."""
    from IPython import get_ipython
    from IPython.display import display

    shell, run = get_ipython(), result.info
    name = _missing_name(result.error_in_exec, shell.user_ns)
    if name is None:
        return
    menu = VS_CODE if "__vsc_ipynb_file__" in shell.user_ns else JUPYTERLAB
    sources = {run.raw_cell, *shell.history_manager.input_hist_raw}
    sentences = {
        explain(cells, name, find_cell(cells, run.raw_cell, run.cell_id), menu)
        for cells in _best_matches(_notebooks(shell.user_ns), sources)
    } - {None}
    if len(sentences) == 1:  # two copies of a lesson agree; of two lessons that differ, one would be wrong
        (sentence,) = sentences
        display({"text/markdown": sentence, "text/plain": sentence}, raw=True)


def _missing_name(error: BaseException | None, namespace: dict[str, Any]) -> str | None:
    """Return the global name of the notebook that an error reports as missing, or None."""
    # error.name is None for a local variable that has no value yet, and for an error that a learner raises.
    if not isinstance(error, NameError) or error.name is None or error.name in namespace:
        return None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        innermost = frame
    if innermost.f_globals is not namespace or error.name in innermost.f_code.co_freevars:
        return None  # a name missing in a library, or a variable of an enclosing function
    return error.name


def _notebooks(namespace: dict[str, Any]) -> list[list[Cell]]:
    """Return the code cells of this kernel's notebook, or of all notebooks in its folder if it is not known."""
    for named in (os.environ.get("JPY_SESSION_NAME"), namespace.get("__vsc_ipynb_file__")):
        # The path may be relative to the server's folder; the kernel runs in the notebook's.
        for path in (Path(named), Path(Path(named).name)) if isinstance(named, str) else ():
            if path.suffix == ".ipynb" and path.is_file():
                return [read_cells(path)]
    return [read_cells(path) for path in sorted(Path().glob("*.ipynb")) if path.is_file()]  # reading a pipe would wait


def _best_matches(notebooks: list[list[Cell]], sources: set[str]) -> list[list[Cell]]:
    """Return the notebooks that hold most of the cells that were run: the lesson, and copies of it."""
    run = {source.strip() for source in sources}
    held = [len(run & {cell.source.strip() for cell in cells}) for cells in notebooks]
    return [cells for cells, count in zip(notebooks, held, strict=True) if count == max(held)]
