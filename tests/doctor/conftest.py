"""What every test of the doctor begins with."""

import sys

import pytest


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    """Forget what earlier tests compiled: in a process that has compiled something, the doctor looks less closely."""
    compiler = sys.modules.get("torch._dynamo")
    if compiler is not None and compiler.eval_frame.cached_backends:
        compiler.reset()
