"""Look around a line that evaluates: is there a loader for it that the code never iterates over?"""

import ast
import inspect
import linecache
import re
from collections.abc import Iterator
from types import FrameType
from typing import Any

VALIDATION = re.compile(r"(^|_)(val|valid|validation|test|dev|eval|holdout)", re.IGNORECASE)
ASSIGNS = re.compile(r"^\s*[\w.]*(val|valid|test|dev|eval)\w*\s*(,[^=]*)?=[^=]", re.IGNORECASE)


def unused_loaders(frames: list[FrameType], kind: type) -> list[tuple[str, Any]]:
    """Return the names and loaders for validation that the code in these frames has at hand, and never reads.

    Asking for a loader's length does not count as reading: `total / len(val_loader)`.
    """
    found = []
    for frame in frames:
        tree = _parse(frame.f_code.co_filename)
        if tree is None:
            continue
        for name, value, local in _at_hand(frame):
            if isinstance(value, kind) and VALIDATION.search(name) and "train" not in name.lower():
                scope = _function(tree, frame) if local else tree
                if scope is not None and _meant(scope, frame, name, local=local):
                    found.append((name, value))
    return found


def _at_hand(frame: FrameType) -> Iterator[tuple[str, Any, bool]]:
    """Yield the variables that a frame's code can read, and whether they are local to a function."""
    code, values = frame.f_code, frame.f_locals
    inside = bool(code.co_flags & inspect.CO_OPTIMIZED)
    own = set(code.co_varnames + code.co_cellvars) if inside else set()
    for name, value in list(values.items()):
        yield name, value, name in own
    for name in code.co_names if inside else ():
        if name in frame.f_globals:
            yield name, frame.f_globals[name], False
    for name, value in list(getattr(values.get("self"), "__dict__", {}).items()):
        yield name, value, False


def _parse(file: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:  # a notebook's own commands
        return None


def _function(tree: ast.Module, frame: FrameType) -> ast.AST | None:
    first = frame.f_code.co_firstlineno
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            begins = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if begins == first and node.name == frame.f_code.co_name:
                return node
    return None


def _named(node: ast.AST, name: str) -> bool:
    """Return whether a node reads a variable or attribute of this name."""
    own = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
    return own == name and isinstance(getattr(node, "ctx", None), ast.Load)


def _meant(scope: ast.AST, frame: FrameType, name: str, *, local: bool) -> bool:
    """Return whether a loader was meant for this evaluation: it is asked for its length, or only passed in."""
    reads = {id(node) for node in ast.walk(scope) if _named(node, name)}
    lengths = set()
    for node in ast.walk(scope):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len" and node.args:
            asked = node.args[0]
            if isinstance(asked, ast.Attribute) and asked.attr in ("dataset", "batch_sampler", "sampler"):
                asked = asked.value
            lengths.add(id(asked))
    if reads - lengths:
        return False
    code = frame.f_code
    parameter = local and name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    line = linecache.getline(code.co_filename, frame.f_lineno)
    return bool(reads) or parameter or (local and ASSIGNS.search(line) is not None)
