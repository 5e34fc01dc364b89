"""Find what keeps the tensors of past batches: a list, a dictionary, a running sum, and the line that adds to it."""

import ast
import linecache
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from torch import Tensor

from loop_doctor.call_sites import Location, is_user_file

MOST = 4096  # tensors of one container, or nodes of one sum, that are counted
SHORT = 256  # a deque that holds no more than this is a window, and memory stays within bounds
DEPTH = 4  # lists in dictionaries in lists
_SUMS = ("AddBackward0", "SubBackward0", "CatBackward0", "StackBackward0", "MulBackward0", "DivBackward0")
_COUNTED = ("AddBackward0", "SubBackward0", "CatBackward0")
_ADDERS = ("append", "appendleft", "extend", "insert", "add", "update", "setdefault", "__setitem__")


@dataclass(frozen=True)
class Holder:
    """What keeps tensors: a variable of the user's, or an attribute of one."""

    location: Location | None
    bounded: bool


def find_holder(frames: list[FrameType], number: int) -> Holder | None:
    """Return what keeps about this many tensors with their graphs, if the variables in these frames show it."""
    for frame in frames:
        for name, value in list(frame.f_locals.items()):
            if name.startswith("__"):
                continue
            for attribute, part in _parts(value):
                if _num_kept(part) >= number - 2:
                    bounded = isinstance(part, deque) and part.maxlen is not None and part.maxlen <= SHORT
                    return Holder(_line_that_adds(frame, name, attribute, value), bounded)
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield a variable itself, and the attributes of an object."""
    yield "", value
    if not isinstance(value, type | Tensor | ModuleType | FunctionType):
        try:
            attributes = object.__getattribute__(value, "__dict__")  # a user's own __getattr__ is not called
        except AttributeError:
            return
        yield from list(attributes.items())


def _num_kept(value: Any) -> int:
    """Return how many tensors with a graph a value keeps: those in a container, or the terms of a running sum."""
    return _num_terms(value) if isinstance(value, Tensor) else sum(islice(_with_graph(value, DEPTH), MOST))


def _with_graph(value: Any, depth: int) -> Iterator[bool]:
    """Yield for everything in a container whether it is a tensor with a graph."""
    if depth and isinstance(value, dict | list | tuple | deque):
        for part in list(dict.values(value)) if isinstance(value, dict) else islice(value, MOST):
            yield from _with_graph(part, depth - 1)
    else:
        yield isinstance(value, Tensor) and value.grad_fn is not None


def _num_terms(tensor: Tensor) -> int:
    """Return how many sums and concatenations in a row made a tensor."""
    waiting, count = [tensor.grad_fn], 0
    seen: set[Any] = set()
    while waiting and len(seen) < MOST:
        node = waiting.pop()
        if node is None or node in seen or node.name() not in _SUMS:
            continue
        seen.add(node)
        count += node.name() in _COUNTED
        waiting += [below for below, _ in node.next_functions]
    return count


def _line_that_adds(frame: FrameType, name: str, attribute: str, owner: Any) -> Location | None:
    """Return the only line that adds to a variable or attribute, or None if there is not exactly one."""
    here = [statement for statement in _statements(frame.f_code) if _adds(statement, name, attribute)]
    if here or not attribute:
        return _at(frame.f_code, here)
    inside = [
        (method.__code__, statement)
        for kind in type(owner).__mro__
        for method in vars(kind).values()
        if isinstance(method, FunctionType) and is_user_file(method.__code__.co_filename)
        for statement in _statements(method.__code__)
        if method.__code__.co_argcount and _adds(statement, method.__code__.co_varnames[0], attribute)
    ]
    if len(inside) != 1:
        return None
    code, statement = inside[0]
    given = set(code.co_varnames[1 : code.co_argcount])
    if any(isinstance(part, ast.Name) and part.id in given for part in ast.walk(statement)):
        # A meter adds up what it is given: the line that gives it a tensor is the one to change.
        calls = [statement for statement in _statements(frame.f_code) if _calls(statement, name, code.co_name)]
        return _at(frame.f_code, calls) or _at(code, [statement])
    return _at(code, [statement])


def _at(code: CodeType, statements: list[ast.stmt]) -> Location | None:
    lines = {statement.lineno for statement in statements}
    return Location(code.co_filename, lines.pop(), code.co_name) if len(lines) == 1 else None


def _statements(code: CodeType) -> Iterator[ast.stmt]:
    """Yield the statements of a function or a module."""
    lines = [line for _, _, line in code.co_lines() if line is not None]
    first, last = (0, sys.maxsize) if code.co_name == "<module>" else (code.co_firstlineno, max(lines, default=0))
    for statement in ast.walk(_parsed(code.co_filename)):
        if isinstance(statement, ast.stmt) and first <= statement.lineno <= last:
            yield statement


def _parsed(file: str) -> ast.AST:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):  # the text is not what runs, so it names no line
        return ast.Module([], [])


def _adds(statement: ast.stmt, name: str, attribute: str) -> bool:
    """Return whether a statement adds to a variable: `a += …`, `a = a + …`, `a[…] = …`, `a.append(…)`."""
    if isinstance(statement, ast.AugAssign):
        return _is(statement.target, name, attribute)
    if isinstance(statement, ast.Assign):
        return any(
            _is(target, name, attribute)
            and (
                isinstance(target, ast.Subscript)
                or any(_is(part, name, attribute) for part in ast.walk(statement.value))
            )
            for target in statement.targets
        )
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        function = statement.value.func
        return isinstance(function, ast.Attribute) and function.attr in _ADDERS and _is(function.value, name, attribute)
    return False


def _is(node: ast.AST, name: str, attribute: str) -> bool:
    """Return whether an expression is a variable or its attribute, or a part of it such as `a["loss"]`."""
    while True:
        if isinstance(node, ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _ADDERS:
            node = node.func.value
        else:
            break
    if attribute:
        return (
            isinstance(node, ast.Attribute)
            and node.attr == attribute
            and isinstance(node.value, ast.Name)
            and node.value.id == name
        )
    return isinstance(node, ast.Name) and node.id == name


def _calls(statement: ast.stmt, name: str, method: str) -> bool:
    """Return whether a statement is a call of an object's method."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.value.func, ast.Attribute)
        and statement.value.func.attr == method
        and isinstance(statement.value.func.value, ast.Name)
        and statement.value.func.value.id == name
    )
