"""The runner of the checks: it calls a function that may not be finished yet, and always returns a result.

A check is a function that calls the learner's function on a few cases and raises `Wrong` with the misconception behind
a wrong answer. The decorator `exercise` makes it public: it takes the learner's function and returns a `CheckResult`.
"""

import contextlib
import dis
import inspect
import io
import itertools
import sys
import traceback
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from course_utils.checks.time_limit import TimeLimit, TimeLimitExceeded
from course_utils.checks.values import Wrong, short
from course_utils.learner.record import progress

# A check takes well under a second. A function that takes more than this, in seconds, is stopped.
SECONDS = 10.0
# How many characters of what a learner's function prints are shown after the check.
MOST_PRINTED = 2000


@dataclass(frozen=True)
class CheckResult:
    """What a check found: whether the answer is right, and one or two sentences."""

    passed: bool
    message: str

    def __repr__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Exercise:
    """An exercise: its id in the learner's record, which begins with the lesson's number, and its title."""

    name: str
    title: str


EXERCISES: dict[str, Exercise] = {}


def exercise(
    name: str,
    title: str,
    *,
    praise: str,
    may_change: Collection[int] = (),
    returns_nothing: bool = False,
    starter: Callable[..., Any] | None = None,
) -> Callable[[Callable[["Answer"], None]], Callable[[Callable[..., Any]], CheckResult]]:
    """Turn a function that calls the learner's function and raises `Wrong` into the public check of an exercise.

    Args:
        name: the id in the learner's record: the lesson's number, a hyphen, words.
        title: the exercise's title, as in the lesson.
        praise: one sentence for a right answer.
        may_change: the positions, from 0, of the arguments that the learner's function may change.
        returns_nothing: whether the learner's function may return None.
        starter: the lines of the stub, if it has lines to fix instead of three dots; unchanged, they are
            "not attempted".

    Raises:
        ValueError: another exercise has this name.
    """
    if name in EXERCISES:
        raise ValueError(f"two exercises are named {name!r}: give each its own name")
    EXERCISES[name] = Exercise(name, title)

    def make(cases: Callable[[Answer], None]) -> Callable[[Callable[..., Any]], CheckResult]:
        def check(answer: Callable[..., Any]) -> CheckResult:
            return _run(
                name,
                answer,
                cases,
                praise,
                may_change=may_change,
                returns_nothing=returns_nothing,
                starter=starter,
            )

        # functools.wraps would show the signature of `cases`.
        check.__name__ = check.__qualname__ = cases.__name__
        check.__module__, check.__doc__ = cases.__module__, cases.__doc__
        return check

    return make


class Answer:
    """The learner's function as a check calls it: it must return something and leave its arguments unchanged.

    Attributes:
        function: the learner's function.
        value: what the last call returned.
        error: what the last call raised, or None.
    """

    def __init__(self, function: Callable[..., Any], printed: "_Printed", may_change: Collection[int], nothing: bool):
        self.function = function
        self.value: Any = None
        self.error: BaseException | None = None
        self._printed, self._may_change, self._returns_nothing = printed, may_change, nothing

    def __call__(self, *arguments: Any) -> Any:
        """Call the learner's function.

        Raises:
            Wrong: it does not take these arguments, changed one of them, or returned None.
            Exception: whatever it raised.
        """
        self._check_signature(arguments)
        before = [None if place in self._may_change else _snapshot(value) for place, value in enumerate(arguments)]
        printed_before = len(self._printed.kept)
        try:
            self.value = self.function(*arguments)
        except (Exception, SystemExit) as error:
            self.error = error
            raise
        for place, value in enumerate(arguments):
            if place not in self._may_change and not _equal(before[place], _snapshot(value)):
                raise Wrong(_mutation_message(self._parameter(place), value))
        if self.value is None and not self._returns_nothing:
            printed = self._printed.kept[printed_before:].strip()
            if printed:
                raise Wrong(
                    f"Your function printed {short(printed)} and returned None: print only shows a value, it does not "
                    "return it. End with a return."
                )
            raise Wrong("Your function returned None: end it with a return.")
        return self.value

    def _check_signature(self, arguments: Sequence[Any]) -> None:
        try:
            signature = inspect.signature(self.function)
        except ValueError:  # some functions written in C have no signature
            return
        try:
            signature.bind(*arguments)
        except TypeError:
            raise Wrong(
                f"Your function takes {signature}. The check calls it with another number of arguments, "
                f"{len(arguments)}: leave the first line of the stub as it was."
            ) from None

    def _parameter(self, place: int) -> str:
        with contextlib.suppress(ValueError, IndexError):
            parameter = list(inspect.signature(self.function).parameters.values())[place]
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                return f"`{parameter.name}`"
        return f"argument {place + 1}"


def _run(
    name: str,
    function: Any,
    cases: Callable[[Answer], None],
    praise: str,
    *,
    may_change: Collection[int],
    returns_nothing: bool,
    starter: Callable[..., Any] | None,
) -> CheckResult:
    """Run `cases` on the learner's function, turn what happens into a result and record the attempt."""
    if not callable(function):
        return CheckResult(False, f"Pass the function itself, without calling it; this is {short(function)}.")
    if _same_code(function, _empty_stub):
        return CheckResult(
            False, "Not attempted yet: write the body in place of the three dots, run the cell, then check again."
        )
    if starter is not None and _same_code(function, starter):
        return CheckResult(
            False, "Not attempted yet: these are the lines as they were given. Change them, then run the cell."
        )
    printed = _Printed()
    answer = Answer(function, printed, may_change, returns_nothing)
    limit = TimeLimit(SECONDS)
    stopped_at = None
    try:
        with _isolated(), contextlib.redirect_stdout(printed):
            limit.call(lambda: cases(answer))
        passed, message = True, f"Right. {praise}"
    except Wrong as wrong:
        passed, message = False, f"Not yet. {wrong}"
    except TimeLimitExceeded as error:
        stopped_at = _own_line(error, answer)
    except (Exception, SystemExit) as error:
        passed, message = False, _error_message(error, answer)
    if limit.fired:  # also if the learner's function caught the exception
        passed, message = False, _timeout_message(limit.seconds, stopped_at)
    sys.stdout.write(printed.text())
    progress().solve(name, passed)
    return CheckResult(passed, f"{message} {progress().news()}".strip())


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Start with known random numbers and with gradients on, and restore both afterwards."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(0)
        yield


class _Printed(io.TextIOBase):
    """Collects what is printed during a check, up to a limit, so that an endless loop that prints fills no memory."""

    def __init__(self) -> None:
        self.kept, self._more = "", False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._more = self._more or len(self.kept) + len(text) > MOST_PRINTED
        self.kept = (self.kept + text)[:MOST_PRINTED]
        return len(text)

    def text(self) -> str:
        """Return what was printed, or its beginning."""
        return f"{self.kept}\n… (more was printed)\n" if self._more else self.kept


# The messages for a function that does not reach its end.


def _own_frames(error: BaseException, answer: Answer) -> list[traceback.FrameSummary]:
    """Return the frames of a traceback that are in the file, or the notebook's cell, of the learner's function."""
    code = getattr(answer.function, "__code__", None)
    if code is None:
        return []
    # An endless recursion has a thousand frames, and the text of each would be looked up.
    frames = itertools.islice(traceback.walk_tb(error.__traceback__), 50)
    own = [(frame, line) for frame, line in frames if frame.f_code.co_filename == code.co_filename]
    return list(traceback.StackSummary.extract(iter(own)))


def _own_line(error: BaseException, answer: Answer) -> str | None:
    """Return the learner's own line in which an error was raised, as a sentence, or None if there is none."""
    frames = _own_frames(error, answer)
    return f"It was at your line {frames[-1].lineno}: {frames[-1].line}" if frames else None


def _paragraphs(*sentences: str | None) -> str:
    return "\n".join(sentence for sentence in sentences if sentence is not None)


def _timeout_message(seconds: float, own_line: str | None) -> str:
    return _paragraphs(
        f"Your function was still running after {seconds:g} s and was stopped.",
        own_line,
        "Look at its loop: can the condition become false? Does the list that it iterates over stop growing?",
    )


def _error_message(error: BaseException, answer: Answer) -> str:
    """Return one or two sentences for whatever a check raised that is not `Wrong`."""
    own_line, kind = _own_line(error, answer), type(error).__name__
    if error is not answer.error and own_line is None:
        return f"The check cannot read what your function returned, {short(answer.value)}: {kind}: {error}"
    advice = None
    if isinstance(error, UnboundLocalError):
        sentence = f"Your function uses a name before it has a value: {error}"
        advice = "Give it a start value inside the function, before the loop."
    elif isinstance(error, NameError) and error.name is not None:
        sentence = f"Run the cells above first: `{error.name}` is not defined yet ({kind})."
        advice = "If they have been run, look for a misspelled name."
    elif isinstance(error, RecursionError):
        sentence = f"Your function calls itself without end ({kind})."
        advice = "Write a loop, or add a case in which it returns without calling itself."
    elif isinstance(error, SystemExit):
        sentence = f"Your function ends Python itself ({kind})."
        advice = "Use return to leave a function."
    else:
        sentence = f"Your function stopped with {kind}: {error}"
    return _paragraphs(sentence, own_line, advice)


# Stubs.


def _empty_stub() -> None: ...


def _same_code(first: Any, second: Any) -> bool:
    """Return whether two functions have the same lines, apart from comments, blank lines and docstrings."""
    code, other = (getattr(function, "__code__", None) for function in (first, second))
    return code is not None and other is not None and _instructions(code) == _instructions(other)


def _instructions(code: types.CodeType) -> list[Any]:
    return [
        (step.opname, _instructions(step.argval) if isinstance(step.argval, types.CodeType) else step.argval)
        for step in dis.get_instructions(code)
        # These depend on where a line is and on how often it has run.
        if step.opname not in ("RESUME", "NOP", "CACHE", "EXTENDED_ARG")
    ]


# Arguments changed in place.


def _snapshot(value: Any) -> Any:
    """Copy the values of an argument, so that they can be compared later: tensors, lists, models and optimizers."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, list | tuple):
        return [_snapshot(item) for item in value]
    if isinstance(value, dict):
        return {key: _snapshot(item) for key, item in value.items()}
    if callable(getattr(value, "state_dict", None)):
        return _snapshot(value.state_dict())
    return value


def _equal(before: Any, now: Any) -> bool:
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        if before.dtype != now.dtype or before.shape != now.shape:
            return False
        # NaN differs from itself, but here it is unchanged.
        return bool(((before == now) | ((before != before) & (now != now))).all())
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_equal, before, now))
    if isinstance(before, dict) and isinstance(now, dict):
        return before.keys() == now.keys() and all(_equal(before[key], now[key]) for key in before)
    if before is now:
        return True
    return type(before) is type(now) and isinstance(now, int | float | str | bool | None) and before == now


def _mutation_message(parameter: str, value: Any) -> str:
    if isinstance(value, Tensor):
        return (
            f"Your function changed {parameter}, which belongs to its caller. Make a new tensor: "
            f"{parameter.strip('`')} * 2 makes one; *= and methods whose names end in _ change the old one."
        )
    if isinstance(value, list | dict):
        return (
            f"Your function changed {parameter}, which belongs to its caller. Work on a copy, list(…) or dict(…): "
            "append, pop, sort and assignments to an item change the original."
        )
    if callable(getattr(value, "state_dict", None)):
        return f"Your function changed {parameter}, which belongs to its caller. Work on copy.deepcopy of it."
    return f"Your function changed {parameter}, which belongs to its caller. Work on a copy."
