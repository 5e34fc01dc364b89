"""Say where a missing name is made, when a cell of a lesson is run before the section that it needs.

A lesson's first code cell calls `guide()`. When a cell then ends with Python's NameError, the lesson's file is read,
and below the error stands the section in which another cell makes the name. Where no cell makes it, the learner has
mistyped it: Python itself suggests names that look alike, so nothing is added.
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
# Magics that run the rest of the cell as Python in the notebook's own names.
WHOLE_CELL = re.compile(r"\A\s*%%(?:capture|doctor|time)\b.*\n")

# The words of the menus in which all cells above one cell are run.
JUPYTERLAB = "Run > Run All Above Selected Cell"
VS_CODE = "Execute Above Cells, in the bar of the cell"


@dataclass(frozen=True)
class Cell:
    """A code cell of a notebook.

    Attributes:
        source: its code.
        id: its id in the file, or None where the file has none.
        section: the heading `## …` that it stands under, without the marks; "" above the first one.
        exercise: the heading `### Exercise …` that it stands under, or "".
    """

    source: str
    id: str | None = None
    section: str = ""
    exercise: str = ""


def guide() -> None:
    """From now on, let each cell of this kernel that ends with a NameError say where the name is made.

    Called twice, it says so once. Outside of IPython nothing happens.
    """
    if "IPython" in sys.modules:
        from IPython import get_ipython

        if (shell := get_ipython()) is not None:
            load_ipython_extension(shell)


def load_ipython_extension(shell: Any) -> None:
    """Do what `guide()` does, for `%load_ext course_utils.learner.name_hints`."""
    shell.events.register("post_run_cell", _after_a_cell)  # IPython takes the same function in once


def unload_ipython_extension(shell: Any) -> None:
    """Undo `guide()`."""
    if _after_a_cell in shell.events.callbacks["post_run_cell"]:
        shell.events.unregister("post_run_cell", _after_a_cell)


def read_cells(path: Path) -> list[Cell]:
    """Read the code cells of a notebook, each with the headings that it stands under; none where it cannot be read."""
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
    """The headings of a cell of text, each with its level; a comment in a block of code is none."""
    fence = None
    for line in markdown.splitlines():
        if mark := FENCE.match(line):
            fence = mark[1] if fence is None else None if fence == mark[1] else fence
        elif fence is None and (heading := HEADING.match(line)):
            yield len(heading[1]), heading[2]


@functools.lru_cache(maxsize=1000)
def names_made(source: str) -> frozenset[str]:
    """The names that a cell makes for the cells after it; none where it cannot be parsed.

    What it only changes (`steps += 1`) or takes away (`del`, and the name after `except … as`) is not made by it, nor
    is what lives inside its functions.
    """
    try:
        with warnings.catch_warnings():  # about a learner's string, say, of which Python has spoken already
            warnings.simplefilter("ignore")
            tree = ast.parse(_plain(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # all that Python's parser raises
        return frozenset()
    names = _Names()
    names.visit(tree)
    return frozenset(names.made - names.gone)


def _plain(source: str) -> str:
    """A cell as Python: with its magics and shell commands put into the words that IPython runs."""
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(WHOLE_CELL.sub("", source, count=1))


class _Names(ast.NodeVisitor):
    """Gathers the names that the statements of a module bind."""

    def __init__(self) -> None:
        self.made: set[str] = set()
        self.gone: set[str] = set()

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.made.add(node.id)
        elif isinstance(node.ctx, ast.Del):
            self.gone.add(node.id)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self.made.add(node.name)
        # What a function binds is its own, apart from what it declares global.
        self.made.update(name for inner in ast.walk(node) if isinstance(inner, ast.Global) for name in inner.names)

    visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.made.update(alias.asname or alias.name.split(".")[0] for alias in node.names)

    visit_ImportFrom = visit_Import

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """A lambda keeps its names."""

    def visit_ListComp(self, node: ast.AST) -> None:
        """A comprehension keeps its names, all but those of `:=`."""
        self.made.update(inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:  # `x: int` alone only says what x will be
            self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self.generic_visit(node)
        if node.name:
            self.gone.add(node.name)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> None:
        self.generic_visit(node)
        if node.name:
            self.made.add(node.name)

    visit_MatchStar = visit_MatchAs

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self.generic_visit(node)
        if node.rest:
            self.made.add(node.rest)


def place_of(cells: list[Cell], source: str, cell_id: str | None = None) -> int | None:
    """Find the cell that was run among a notebook's code cells: by its id, or by its code; None where it is not there.

    The id finds a cell that was edited since. It is the front end's, so it may be missing.
    """
    by_id = [at for at, cell in enumerate(cells) if cell_id is not None and cell.id == cell_id]
    by_code = [at for at, cell in enumerate(cells) if cell.source.strip() == source.strip()]
    return max(by_id or by_code, default=None)


def explain(cells: list[Cell], name: str, at: int | None, menu: str = JUPYTERLAB) -> str | None:
    """Say in which section a name is made and what to do, or give None where no other cell makes it.

    Args:
        cells: the code cells of the lesson.
        name: the name that was missing.
        at: the index of the cell in which it was missing, or None where that is not known.
        menu: where the front end runs all cells above one.
    """
    makers = [place for place, cell in enumerate(cells) if place != at and name in names_made(cell.source)]
    if not makers:
        return None
    if at is None:
        maker = cells[makers[0]]
        return f"`{name}` is made in {_title(maker)}. Run the lesson down to there first, then run this cell again."
    above = [place for place in makers if place < at]
    if not above:
        maker = cells[makers[0]]
        return f"`{name}` is made only further down, in {_title(maker)}. Run that cell first, then run this one again."
    maker = cells[above[-1]]
    if maker.exercise and maker.exercise != cells[at].exercise:
        where = f"`{name}` is what you write in {_title(maker)}. Run that exercise first"
    elif maker.section == cells[at].section:
        where = f"`{name}` is made further up in {_title(maker)}. Run the cells above first"
    else:
        where = f"`{name}` is made in {_title(maker)}. Run that section first"
    return f"{where}: click into this cell, choose {menu}, then run this cell again."


def _title(cell: Cell) -> str:
    if cell.exercise and (exercise := EXERCISE.match(cell.exercise)):
        return f"{exercise[1]}, “{exercise[2]}”"
    if numbered := NUMBERED.match(cell.section):
        return f"section {numbered[1]}, “{numbered[2]}”"
    return f"the section “{cell.section}”" if cell.section else "the cells above the first section"


def _after_a_cell(result: Any) -> None:
    """Look at how a cell ended, and show where the name is made that it missed."""
    from IPython import get_ipython
    from IPython.display import display

    shell, run = get_ipython(), result.info
    name = _missing_name(result.error_in_exec, shell.user_ns)
    if name is None:
        return
    menu = VS_CODE if "__vsc_ipynb_file__" in shell.user_ns else JUPYTERLAB
    sources = {run.raw_cell, *shell.history_manager.input_hist_raw}
    sentences = {
        explain(cells, name, place_of(cells, run.raw_cell, run.cell_id), menu)
        for cells in _likeliest(_notebooks(shell.user_ns), sources)
    } - {None}
    if len(sentences) == 1:  # two copies of a lesson say the same; of two lessons that differ, one would be wrong
        (sentence,) = sentences
        display({"text/markdown": sentence, "text/plain": sentence}, raw=True)


def _missing_name(error: BaseException | None, namespace: dict[str, Any]) -> str | None:
    """The global name of the notebook that an error says is missing, or None where it says something else."""
    # Python names neither a local variable that has no value yet nor what a learner raises by hand.
    if not isinstance(error, NameError) or error.name is None or error.name in namespace:
        return None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        innermost = frame
    if innermost.f_globals is not namespace or error.name in innermost.f_code.co_freevars:
        return None  # a name that a library misses, or a variable of the function around a function
    return error.name


def _notebooks(namespace: dict[str, Any]) -> list[list[Cell]]:
    """The code cells of the notebook that this kernel belongs to, or of all in its folder where nobody names it."""
    for named in (os.environ.get("JPY_SESSION_NAME"), namespace.get("__vsc_ipynb_file__")):
        # The server may name it as seen from its own folder; the kernel runs in the notebook's.
        for path in (Path(named), Path(Path(named).name)) if isinstance(named, str) else ():
            if path.suffix == ".ipynb" and path.is_file():
                return [read_cells(path)]
    return [read_cells(path) for path in sorted(Path().glob("*.ipynb"))]


def _likeliest(notebooks: list[list[Cell]], sources: set[str]) -> list[list[Cell]]:
    """Those notebooks that hold the most of the cells that were run: the lesson, and copies of it."""
    run = {source.strip() for source in sources}
    held = [len(run & {cell.source.strip() for cell in cells}) for cells in notebooks]
    return [cells for cells, count in zip(notebooks, held, strict=True) if count == max(held)]
