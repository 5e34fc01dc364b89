"""The time limit: it stops what does not end, and raises nothing after the call."""

import contextlib
import importlib
import random
import subprocess
import sys
import threading
import time

import pytest

from course_utils.checks import time_limit as module
from course_utils.checks.time_limit import TimeLimit, TimeLimitExceeded


def hide_all(stop):
    while time.perf_counter() < stop:
        try:
            time.sleep(0.0003)
        except:  # noqa: E722
            stop += 0.0


def spin(stop):
    while time.perf_counter() < stop:
        sum(range(10))


def test_a_function_that_ends_is_called_once_and_nothing_fires():
    calls, limit = [], TimeLimit(10.0)
    limit.call(lambda: calls.append(1))
    assert calls == [1]
    assert not limit.fired


def test_an_error_passes_through():
    limit = TimeLimit(10.0)
    with pytest.raises(ZeroDivisionError):
        limit.call(lambda: 1 / 0)
    assert not limit.fired


@pytest.mark.parametrize("function", [spin, hide_all])
def test_an_endless_function_is_stopped(function):
    limit = TimeLimit(0.1)
    began = time.perf_counter()
    with pytest.raises(TimeLimitExceeded):
        limit.call(lambda: function(began + 60))
    assert limit.fired
    assert time.perf_counter() - began < 20


@pytest.fixture
def slow_module(tmp_path, monkeypatch):
    """Return a function that writes a module which takes this many seconds to import, and returns its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(seconds):
        (tmp_path / "loads_slowly.py").write_text(
            f"import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end:\n    time.sleep(0.001)\n"
        )
        return "loads_slowly"

    yield write
    sys.modules.pop("loads_slowly", None)


def test_an_import_is_not_interrupted_and_its_time_does_not_count(slow_module):
    name, limit, done = slow_module(0.4), TimeLimit(0.1), []
    limit.call(lambda: done.append(importlib.import_module(name)))
    assert not limit.fired
    assert done[0].end > 0
    assert sys.modules[name] is done[0]
    # The time used before the import still counts.
    sys.modules.pop(name)
    limit = TimeLimit(0.1)
    with pytest.raises(TimeLimitExceeded):
        limit.call(lambda: (spin(time.perf_counter() + 0.06), importlib.import_module(name), spin(float("inf"))))
    assert limit.fired
    assert name in sys.modules


def test_an_endless_import_is_stopped(slow_module, monkeypatch):
    monkeypatch.setattr(module, "IMPORTS", 0.2)
    name = slow_module(60.0)
    with pytest.raises(TimeLimitExceeded):
        TimeLimit(0.2).call(lambda: importlib.import_module(name))


def test_a_loop_of_imports_that_are_done_is_stopped():
    def again_and_again():
        while True:
            from xml.etree import ElementTree  # noqa: F401

    with pytest.raises(TimeLimitExceeded):
        TimeLimit(0.1).call(again_and_again)


def watchers():
    return [thread for thread in threading.enumerate() if thread.name == "check-clock"]


def test_the_clock_starts_with_the_call_however_long_its_watcher_takes_to_start(monkeypatch):
    class SlowThread(threading.Thread):
        def start(self):
            super().start()
            end = time.perf_counter() + 0.1
            while time.perf_counter() < end:  # An exception here would not be in the learner's function.
                pass

    monkeypatch.setattr(module.threading, "Thread", SlowThread)
    limit, begun = TimeLimit(0.001), []
    with pytest.raises(TimeLimitExceeded):
        limit.call(lambda: (begun.append(True), spin(float("inf"))))
    assert begun == [True]
    assert watchers() == []


def end_at_the_limit(limit, catch, delay):
    """Run until the watcher asks for the first exception, and then for up to `delay` turns."""
    while not limit.fired:
        if catch:
            hide_all(time.perf_counter() + 0.0005)
        else:
            sum(range(10))
    for _ in range(delay):
        sum(range(10))


@pytest.mark.parametrize("trials", [20, pytest.param(2000, marks=pytest.mark.proof)])
def test_nothing_is_raised_after_the_call_at_whatever_moment_the_time_is_over(monkeypatch, trials):
    monkeypatch.setattr(module, "PLAIN", 2)
    chance, trace = random.Random(0), sys.gettrace()
    for trial in range(trials):
        limit = TimeLimit(chance.random() * 0.004)
        with contextlib.suppress(TimeLimitExceeded):
            limit.call(lambda limit=limit, trial=trial: end_at_the_limit(limit, trial % 2, chance.randrange(500)))
        assert limit.fired
        assert sys.gettrace() is trace
        for _ in range(100):
            sum(range(20))
    assert watchers() == []


def test_ctrl_c_while_the_limit_is_cleared_passes_through(monkeypatch):
    true_clear, errors = module._clear, [KeyboardInterrupt, TimeLimitExceeded]

    def interrupted(*arguments):
        if errors:
            raise errors.pop(0)
        true_clear(*arguments)

    monkeypatch.setattr(module, "_clear", interrupted)
    with pytest.raises(KeyboardInterrupt):
        TimeLimit(10.0).call(lambda: None)
    assert watchers() == []


TRACED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("course_utils.checks.time_limit", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
def spin():
    while True:
        pass
def end():
    pass
for function, seconds in ((end, 10.0), (spin, 0.01)):
    try:
        module.TimeLimit(seconds).call(function)
    except module.TimeLimitExceeded:
        print("stopped")
    sys.settrace(lambda *event: None)
    end()
    sys.settrace(None)
"""


def test_a_debugger_can_trace_functions_after_the_call():
    # In a process of its own, because a function that hangs there cannot be interrupted.
    command = [sys.executable, "-c", TRACED, module.__file__]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "stopped\n"
