"""The limit of time: it ends what does not end, and whenever it strikes, nothing later is struck."""

import random
import sys
import threading
import time

import pytest

from course_utils.checks import limit as module
from course_utils.checks.limit import Limit, TimeUp


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
    calls, limit = [], Limit(10.0)
    limit.call(lambda: calls.append(1))
    assert calls == [1]
    assert not limit.fired


def test_an_error_passes_through():
    limit = Limit(10.0)
    with pytest.raises(ZeroDivisionError):
        limit.call(lambda: 1 / 0)
    assert not limit.fired


@pytest.mark.parametrize("function", [spin, hide_all])
def test_what_does_not_end_is_ended(function):
    limit = Limit(0.1)
    began = time.perf_counter()
    with pytest.raises(TimeUp):
        limit.call(lambda: function(began + 60))
    assert limit.fired
    assert time.perf_counter() - began < 20


def test_nothing_is_struck_later_at_whatever_moment_the_time_is_over(monkeypatch):
    monkeypatch.setattr(module, "PLAIN", 2)
    chance, trace, fired = random.Random(0), sys.gettrace(), 0
    end = time.perf_counter() + 4.0
    while time.perf_counter() < end:
        limit, function = Limit(chance.random() * 0.01), chance.choice((hide_all, spin))
        stop = time.perf_counter() + chance.random() * 0.06
        try:
            limit.call(lambda function=function, stop=stop: function(stop))
        except TimeUp:
            assert limit.fired
        fired += limit.fired
        assert sys.gettrace() is trace
        for _ in range(100):
            sum(range(20))
    assert fired > 5
    assert [thread for thread in threading.enumerate() if thread.name == "check-clock"] == []


def test_ctrl_c_while_the_limit_ends_passes_through_and_leaves_nothing(monkeypatch):
    true_clear, strikes = module._clear, [KeyboardInterrupt, TimeUp]

    def struck(*arguments):
        if strikes:
            raise strikes.pop(0)
        true_clear(*arguments)

    monkeypatch.setattr(module, "_clear", struck)
    with pytest.raises(KeyboardInterrupt):
        Limit(10.0).call(lambda: None)
    assert [thread for thread in threading.enumerate() if thread.name == "check-clock"] == []
