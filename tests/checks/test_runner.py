"""The runner of the checks: whatever an unfinished function does, the learner gets a sentence and can go on."""

import functools
import operator
import os
import signal
import sys
import threading
import time

import pytest
import torch
from torch import nn

from course_utils.checks import runner as module
from course_utils.checks.runner import EXERCISES, CheckResult, exercise
from course_utils.checks.values import Wrong, number
from course_utils.learner.record import progress


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    """Give each test its own record, and remove the exercises that it defines."""
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path / "learner"))
    known = dict(EXERCISES)
    yield
    EXERCISES.clear()
    EXERCISES.update(known)


def make(cases, **options):
    return exercise("99-x", "Try this", praise="That is it.", **options)(cases)


def double(answer):
    if number(answer(3.0)) != 6.0:
        raise Wrong("Multiply by 2.")


def message_for(function, cases=double, **options):
    result = make(cases, **options)(function)
    assert not result.passed
    return result.message


def tried():
    return progress().exercises().get("99-x", {}).get("tries", 0)


def test_right_and_wrong_answers_are_explained_and_recorded():
    check = make(double)
    assert check(lambda x: x + 1) == CheckResult(False, "Not yet. Multiply by 2.")
    assert repr(check(lambda x: 2 * x)) == "Right. That is it."
    assert progress().exercises() == {"99-x": {"tries": 2, "solved": True}}


def test_a_check_keeps_its_name_and_docstring_and_ids_are_unique():
    def cases(answer):
        """Check this."""

    check = make(cases)
    assert (check.__name__, check.__doc__, check.__module__) == ("cases", "Check this.", __name__)
    assert EXERCISES["99-x"].title == "Try this"
    with pytest.raises(ValueError, match="two exercises are named '99-x': give each its own name"):
        make(cases)


# Not attempted.


def stub(x): ...


def stub_with_words(x):
    """Return twice x."""
    # your lines here


def stub_that_passes(x):
    pass


@pytest.mark.parametrize("function", [stub, stub_with_words, stub_that_passes])
def test_a_stub_is_not_attempted_and_not_counted(function):
    assert "Not attempted yet: write the body" in message_for(function)
    assert tried() == 0


def starter(losses):
    total = 0.0
    for loss in losses:
        total += sum(other for other in [loss])
    return total


def copied_starter(losses):
    """The same lines."""

    # with a comment
    total = 0.0
    for loss in losses:
        total += sum(other for other in [loss])
    return total


def changed(losses):
    total = 0.0
    for loss in losses:
        total += sum(other + 0 for other in [loss])
    return total


def test_starter_code_is_not_attempted_until_it_changes():
    check = make(lambda answer: answer([1.0]), starter=starter)
    assert "Not attempted yet: these are the lines as they were given" in check(copied_starter).message
    assert tried() == 0
    assert check(changed).passed


@pytest.mark.parametrize("result", [3.0, [1.0, 0.5], None, torch.zeros(3, 4)])
def test_a_result_instead_of_the_function_is_explained(result):
    assert "Pass the function itself, without calling it" in message_for(result)
    assert tried() == 0


# What it returns.


def test_none_is_explained():
    assert message_for(lambda x: None if x else x) == "Not yet. Your function returned None: end it with a return."


def test_printing_instead_of_returning_is_explained_and_still_shown(capsys):
    message = message_for(lambda x: print("twice", x, "is", 2 * x))
    assert "Your function printed 'twice 3.0 is 6.0' and returned None" in message
    assert "print only shows a value" in message
    assert capsys.readouterr().out == "twice 3.0 is 6.0\n"


def test_printing_and_returning_passes_and_long_output_is_cut(capsys):
    def chatty(x):
        for turn in range(10_000):
            print("turn", turn)
        return 2 * x

    assert make(double)(chatty).passed
    shown = capsys.readouterr().out
    assert shown.startswith("turn 0\nturn 1\n")
    assert shown.endswith("… (more was printed)\n")
    assert len(shown) < 2100


def test_a_procedure_may_return_nothing():
    assert make(lambda answer: answer([1.0]), returns_nothing=True, may_change=[0])(lambda x: x.clear()).passed


def test_what_a_check_cannot_read_is_explained():
    def careless(answer):
        return answer(1)["loss"]

    message = message_for(functools.partial(operator.mul, (3.0, 3.0)), careless)
    assert message.startswith("The check cannot read what your function returned, (3.0, 3.0): TypeError:")


def test_wrong_parameters_are_explained():
    message = message_for(lambda: 6.0)
    assert "Your function takes (). The check calls it with another number of arguments, 1: leave the first" in message


@pytest.mark.parametrize("function", [functools.partial(operator.mul, 2), torch.nn.Hardtanh(6.0, 7.0)])
def test_anything_that_can_be_called_is_an_answer(function):
    def six(answer):
        assert answer.value is None
        if number(answer(torch.tensor(3.0))) != 6.0:
            raise Wrong("no")

    assert make(six)(function).passed


# What it does to its arguments.


def zero_first(x):
    x[0] = 0
    return 1.0


def grow(x):
    x.append(1.0)
    return 1.0


def deep(x):
    x["losses"][0].mul_(2)
    return 1.0


def train_it(model):
    with torch.no_grad():
        model.weight.add_(1)
    return 1.0


def step_it(optimizer):
    optimizer.param_groups[0]["lr"] = 1.0
    return 1.0


CHANGES = {
    "Make a new tensor: x * 2 makes one": (lambda: torch.ones(3), zero_first),
    "which belongs to its caller. Make a new tensor": (lambda: torch.tensor([1.0, float("nan")]), zero_first),
    "*= and methods whose names end in _ change the old one": (
        lambda: torch.ones(3, requires_grad=True).detach(),
        zero_first,
    ),
    "Work on a copy, list(…)": (lambda: [1.0, 2.0], zero_first),
    "Work on a copy, list(…) or dict(…)": (lambda: [1.0, 2.0], grow),
    "append, pop, sort and assignments to an item": (lambda: {"losses": [torch.ones(2)]}, deep),
    "Your function changed `x`, which belongs to its caller": (lambda: [torch.ones(2), 1], zero_first),
    "changed `model`": (lambda: nn.Linear(2, 2), train_it),
    "Work on copy.deepcopy of it": (lambda: torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), step_it),
}


@pytest.mark.parametrize("words", CHANGES)
def test_an_argument_changed_in_place_is_explained_unless_allowed(words):
    argument, function = CHANGES[words]
    assert words in message_for(function, lambda answer: answer(argument()))
    EXERCISES.pop("99-x")
    assert make(lambda answer: answer(argument()), may_change=[0])(function).passed


UNCHANGED = [
    lambda: torch.tensor([1.0, float("nan")]),
    lambda: torch.tensor([True, False]),
    lambda: [1, "a", None, [2.0], (3,)],
    lambda: nn.BatchNorm1d(2),
    lambda: torch.optim.Adam(nn.Linear(2, 2).parameters()),
    lambda: nn.functional.relu,
    lambda: iter([1, 2]),
]


@pytest.mark.parametrize("argument", UNCHANGED)
def test_an_argument_that_is_only_read_passes(argument):
    assert make(lambda answer: answer(argument()))(lambda x: 1.0).passed


def test_the_changed_argument_is_named_by_its_name_or_position():
    def pair(answer):
        answer(torch.ones(2), torch.ones(2))

    assert "changed `weights`," in message_for(lambda x, weights: weights.zero_(), pair)
    EXERCISES.pop("99-x")
    assert "changed argument 2," in message_for(lambda *both: both[1].zero_(), pair)


def test_random_numbers_gradient_mode_and_output_are_restored():
    def untidy(x):
        torch.manual_seed(7)
        torch.set_grad_enabled(False)
        return torch.rand(3).sum() * 0 + 2 * x

    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    stdout = sys.stdout
    assert make(double)(untidy).passed
    assert torch.equal(torch.rand(2), want)
    assert torch.is_grad_enabled()
    assert sys.stdout is stdout


def test_each_call_has_the_same_random_numbers_and_gradients_even_under_no_grad():
    seen = []

    def look(x):
        seen.append(torch.rand(1).item())
        assert torch.is_grad_enabled()
        return 2 * x

    check = make(double)
    with torch.no_grad():
        check(look)
    torch.rand(5)
    assert check(look).passed
    assert seen[0] == seen[1]


# What it raises.


def crash(x):
    values = [1.0]
    return values[5]


def not_defined(x):
    return digits_of_this_lesson  # noqa: F821


def no_start(x):
    running += x  # noqa: F821
    return running


def for_ever_deeper(x):
    return for_ever_deeper(x)


def leave(x):
    sys.exit(3)


def lazily(x):
    yield 1 / 0


CRASHES = {
    "Your function stopped with IndexError: list index out of range\nIt was at your line": (crash, "return values[5]"),
    "Run the cells above first: `digits_of_this_lesson` is not defined yet (NameError).\nIt was at your line": (
        not_defined,
        "return digits_of_this",
    ),
    "Your function uses a name before it has a value: cannot access local variable 'running'": (
        no_start,
        "running += x",
    ),
    "Your function calls itself without end (RecursionError).\nIt was at your line": (
        for_ever_deeper,
        "return for_ever_deeper",
    ),
    "Your function ends Python itself (SystemExit).\nIt was at your line": (leave, "sys.exit(3)"),
}


@pytest.mark.parametrize("words", CRASHES)
def test_a_crash_is_explained_with_the_learners_own_line(words):
    function, line = CRASHES[words]
    message = message_for(function)
    assert message.startswith(words)
    assert line in message
    assert f"line {function.__code__.co_firstlineno}" not in message
    assert tried() == 1


def test_a_crash_inside_pytorch_shows_the_learners_line_not_pytorchs():
    def mismatched(x):
        return nn.Linear(2, 2)(torch.ones(3))

    message = message_for(mismatched)
    assert message.startswith("Your function stopped with RuntimeError")
    assert message.endswith("return nn.Linear(2, 2)(torch.ones(3))")


def test_a_crash_in_a_generator_is_the_learners():
    message = message_for(lazily, lambda answer: list(answer(1.0)))
    assert message.startswith("Your function stopped with ZeroDivisionError")
    assert "yield 1 / 0" in message


def test_a_crash_without_source_is_explained_without_a_line():
    assert message_for(functools.partial(operator.truediv, 1.0, 0.0), lambda answer: answer()) == (
        "Your function stopped with ZeroDivisionError: float division by zero"
    )


# What does not end.


def spin(x):
    while True:
        x = x + 1


def spin_and_catch(x):
    while True:
        try:
            x = abs(x) + 1
        except Exception:
            x = 0


def spin_and_catch_all(x):
    while True:
        try:
            x = abs(x) + 1
        except:  # noqa: E722
            x = -x


def wait_and_catch_all(x):
    # All of the time is spent in one call, so that every TimeLimitExceeded comes there and is hidden.
    while True:
        try:
            time.sleep(0.01)
        except:  # noqa: E722
            x = -x


def catch_and_answer(x):
    try:
        while True:
            x = x + 1
    except BaseException:
        return 6.0


def catch_and_fail(x):
    try:
        while True:
            x = x + 1
    except BaseException:
        return "no number"


def spin_in_torch(x):
    total = torch.zeros(10)
    while total.sum() >= 0:
        total = total + 1


def print_for_ever(x):
    while True:
        print("loss", x)


ENDLESS = [
    spin,
    spin_and_catch,
    spin_and_catch_all,
    wait_and_catch_all,
    catch_and_answer,
    catch_and_fail,
    spin_in_torch,
    print_for_ever,
]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["main thread", "another thread"])
@pytest.mark.parametrize("function", ENDLESS)
def test_an_endless_loop_is_stopped_and_explained(function, elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(module, "SECONDS", 0.05)
    results, trace = [], sys.gettrace()
    if elsewhere:
        thread = threading.Thread(target=lambda: results.append(make(double)(function)), daemon=True)
        thread.start()
        thread.join(20)
    else:
        results.append(make(double)(function))
    message = results[0].message
    assert not results[0].passed
    assert message.startswith("Your function was still running after 0.05 s and was stopped.")
    assert "Look at its loop" in message
    if function in (spin, spin_in_torch):
        assert "at your line" in message
    assert tried() == 1
    assert [thread for thread in threading.enumerate() if thread.name == "check-clock"] == []
    assert sys.gettrace() is trace


def test_the_course_goes_on_after_an_endless_loop(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.05)
    check = make(double)
    for _ in range(3):
        assert "still running" in check(spin).message
    assert sum(range(1_000_000)) == 499_999_500_000  # nothing is raised any more
    monkeypatch.setattr(module, "SECONDS", 10.0)
    assert check(lambda x: 2 * x).passed


@pytest.mark.parametrize("trials", [4, pytest.param(60, marks=pytest.mark.proof)])
def test_a_time_that_is_over_at_the_very_end_raises_nothing_later(monkeypatch, trials):
    check = make(double)
    for trial in range(trials):
        monkeypatch.setattr(module, "SECONDS", 0.001 + 0.012 * trial / trials)
        message = check(lambda x: (time.sleep(0.007), 2 * x)[1]).message
        assert message.startswith(("Right.", "Your function was still running"))
        assert sum(range(1000)) == 499500


def test_a_keyboard_interrupt_passes_through_and_is_not_an_attempt():
    def interrupted(x):
        raise KeyboardInterrupt

    stdout = sys.stdout
    with pytest.raises(KeyboardInterrupt):
        make(double)(interrupted)
    assert tried() == 0
    assert sys.stdout is stdout
    assert [thread for thread in threading.enumerate() if thread.name == "check-clock"] == []


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
def test_ctrl_c_ends_a_check_that_waits():
    waiting = threading.Event()

    def wait(x):
        waiting.set()
        while True:
            time.sleep(0.01)

    def press():
        waiting.wait()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        make(double)(wait)
    thread.join()
    assert tried() == 0
    assert [thread for thread in threading.enumerate() if thread.name == "check-clock"] == []


def test_a_record_that_cannot_be_written_is_reported_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path / "file" / "learner"))
    check = make(double)
    assert "your answers are kept only in memory" in check(lambda x: 1.0).message
    assert check(lambda x: 2 * x).message == "Right. That is it."
    assert progress().exercises()["99-x"] == {"tries": 2, "solved": True}
