"""Run a script or a module under the doctor, as Python itself would run it."""

import builtins
import contextlib
import io
import os
import runpy
import sys
import types
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import TracebackType

from loop_doctor.doctor import LoopDoctor

_OWN = (os.path.dirname(os.path.abspath(__file__)) + os.sep, "<frozen runpy>", runpy.__file__)


def run_script(
    path: str, arguments: list[str], doctor: LoopDoctor | None = None
) -> tuple[LoopDoctor, BaseException | None]:
    """Run a Python script as `python SCRIPT ARGS` would, and watch it.

    Args:
        path: the script's file; its folder comes first in `sys.path`, as usual.
        arguments: what the script finds in `sys.argv` after its own name.
        doctor: the doctor that watches; a new one by default.

    Returns:
        The doctor, and what the script ended with: an error, a `SystemExit`, a `KeyboardInterrupt`, or None.

    Raises:
        FileNotFoundError: the file does not exist.
        SyntaxError: the file is not Python.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"the script {path!r} does not exist: pass the path of a Python file")
    file = os.path.abspath(path)
    with io.open_code(file) as source:
        code = compile(source.read(), file, "exec", dont_inherit=True)
    doctor, ended = doctor or LoopDoctor(), None
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=file, __builtins__=builtins, __loader__=SourceFileLoader("__main__", file))
    with _program([path, *arguments], str(Path(path).resolve().parent), main):
        try:
            with doctor:
                exec(code, main.__dict__)  # noqa: S102  the user's own script
        except BaseException as error:  # whatever it is, the caller reports it after the findings
            ended = _without_own_frames(error)
    return doctor, ended


def run_module(name: str, arguments: list[str], doctor: LoopDoctor) -> tuple[LoopDoctor, BaseException | None]:
    """Run a module as `python -m MODULE ARGS` would, and watch it; return the same as `run_script`.

    Raises:
        ModuleNotFoundError: the module does not exist.
    """
    ended = None
    with _program(["-m", *arguments], os.getcwd(), sys.modules["__main__"]):
        try:
            with doctor:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
        except BaseException as error:
            ended = _without_own_frames(error)
            if isinstance(error, ImportError) and error.__traceback__ is None:  # from runpy itself: nothing has run
                raise ModuleNotFoundError(f"the module {name!r} cannot be run: {error}") from None
    return doctor, ended


@contextlib.contextmanager
def _program(arguments: list[str], folder: str, main: types.ModuleType) -> Iterator[None]:
    """Set what a program finds in `sys`, and put it back."""
    before = sys.argv, sys.path[:], sys.modules["__main__"]
    sys.argv, sys.path[:0], sys.modules["__main__"] = arguments, [folder], main
    try:
        yield
    finally:
        sys.argv, sys.path[:], sys.modules["__main__"] = before


def _without_own_frames(error: BaseException) -> BaseException:
    """Return the error with a traceback that begins in the user's file, as Python would show it."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN):
        trace = trace.tb_next
    return error.with_traceback(trace)
