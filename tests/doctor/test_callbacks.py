"""The callbacks for Lightning and Transformers: what they report, and that nothing stays patched."""

import functools
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from callback_loops import RESULT, RUNS
from make_env import BENCH, site_packages

SCRIPT = Path(__file__).with_name("callback_loops.py")


@functools.cache
def examine(library: str) -> dict:
    """What the runs of a library did, by their names."""
    path = [*filter(None, [os.environ.get("PYTHONPATH")]), *map(str, site_packages(BENCH))]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, SCRIPT, library], capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(RESULT))
    return json.loads(line.removeprefix(RESULT))


@pytest.mark.slow
@pytest.mark.timeout(660)
@pytest.mark.parametrize("name", RUNS)
def test_a_callback_watches_the_training_of_its_library(name):
    library, _, given, codes, error = RUNS[name]
    installed = importlib.util.find_spec(library) or any((each / library).is_dir() for each in site_packages(BENCH))
    if not installed:
        pytest.skip(f"{library} is not installed: it comes with `python tools/make_env.py bench`")
    found = examine(library)[name]
    assert found["codes"] == codes, found["cards"]
    assert found["patched"] == []
    assert found["doctors"] == len(codes)
    assert (error is None) == (found["error"] is None), found["error"]
    if error is not None:
        assert error in found["error"]
    assert found["cards"].count("Loop doctor: ") == sum(each is not None for each in codes)
    ignored = given.get("ignore")
    assert all(f". {code} (" in found["cards"] for each in codes for code in each or () if code != ignored)
    assert ignored is None or ignored not in found["cards"]
    for each, where in zip(codes[-1] or (), found["places"], strict=True):
        assert f"# <- {each}" in where


@pytest.mark.parametrize(
    ("module", "libraries"), [("lightning", ("lightning", "pytorch_lightning")), ("transformers", ("transformers",))]
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(module, libraries, monkeypatch):
    for name in list(sys.modules):
        if name.partition(".")[0] in libraries or name == f"loop_doctor.{module}":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(libraries), *sys.meta_path])
    with pytest.raises(ImportError, match=f"pip install {module}"):
        importlib.import_module(f"loop_doctor.{module}")


class Missing:
    """Finds none of these libraries, as in an environment without them."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
