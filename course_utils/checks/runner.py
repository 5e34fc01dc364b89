"""What every check stands on: a verdict, and the runner that looks after a function which is not finished yet.

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

# A check takes well below a second. A function that needs more than this, in seconds, does not end.
SECONDS = 10.0
# What a learner's function prints is shown after the check, up to this many characters.
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
    """An exercise: its key in the learner's record, which begins with the lesson's number, and its title."""

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
    given: Callable[..., Any] | None = None,
) -> Callable[[Callable[["Answer"], None]], Callable[[Callable[..., Any]], CheckResult]]:
    """Make the public check of an exercise out of a function that asks the learner's function and raises `Wrong`.

    Args:
        name: the key in the learner's record: the lesson's number, a hyphen, words.
        title: the exercise's title as it stands in the lesson.
        praise: what is said when all is right, one sentence.
        may_change: the places, from 0, of the arguments that the learner's function may change.
        returns_nothing: whether the learner's function need not give anything back.
        given: where the stub is not three dots but lines to be cured, the same lines: they are "not attempted".

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
                given=given,
            )

        # Not functools.wraps, which would show the signature of `cases`.
        check.__name__ = check.__qualname__ = cases.__name__
        check.__module__, check.__doc__ = cases.__module__, cases.__doc__
        return check

    return make


class Answer:
    """The learner's function as a check calls it: what it was given must come back unchanged, and something with it.

    Attributes:
        value: what the last call gave back.
    """

    def __init__(self, function: Callable[..., Any], printed: "_Printed", may_change: Collection[int], nothing: bool):
        self.function, self.value = function, None
        self._printed, self._may_change, self._returns_nothing = printed, may_change, nothing
        self.error: BaseException | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Call the learner's function.

        Raises:
            Wrong: it does not take these arguments, changed one of them, or gave back None.
            Exception: whatever it raised.
        """
        self._fits(arguments)
        before = [None if place in self._may_change else _taken_down(value) for place, value in enumerate(arguments)]
        told = len(self._printed.kept)
        try:
            self.value = self.function(*arguments)
        except (Exception, SystemExit) as error:
            self.error = error
            raise
        for place, value in enumerate(arguments):
            if place not in self._may_change and not _equal(before[place], _taken_down(value)):
                raise Wrong(_changed(self._parameter(place), value))
        if self.value is None and not self._returns_nothing:
            told = self._printed.kept[told:].strip()
            if told:
                raise Wrong(
                    f"Your function printed {short(told)} and gave back None: print only shows a value, it does not "
                    "hand it back. End with a return."
                )
            raise Wrong("Your function gave back None: end it with a return.")
        return self.value

    def _fits(self, arguments: Sequence[Any]) -> None:
        try:
            signature = inspect.signature(self.function)
        except ValueError:  # a function written in C may not tell
            return
        try:
            signature.bind(*arguments)
        except TypeError:
            raise Wrong(
                f"Your function takes {signature}, but is called with {len(arguments)} "
                f"argument{'s' * (len(arguments) != 1)}: leave the first line of the stub as it was."
            ) from None

    def _parameter(self, place: int) -> str:
        with contextlib.suppress(ValueError, IndexError):
            parameter = list(inspect.signature(self.function).parameters.values())[place]
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                return f"`{parameter.name}`"
        return f"argument number {place + 1}"


def _run(
    name: str,
    answer: Any,
    cases: Callable[[Answer], None],
    praise: str,
    *,
    may_change: Collection[int],
    returns_nothing: bool,
    given: Callable[..., Any] | None,
) -> CheckResult:
    """Run `cases` on the learner's function, turn what happens into a verdict and record the attempt."""
    if not callable(answer):
        return CheckResult(False, f"Pass the function itself, without calling it; this is {short(answer)}.")
    if _same_lines(answer, _untouched):
        return CheckResult(
            False, "Not attempted yet: write the body in place of the three dots, run the cell, then check again."
        )
    if given is not None and _same_lines(answer, given):
        return CheckResult(
            False, "Not attempted yet: these are the lines as they were given. Change them, then run the cell."
        )
    printed = _Printed()
    asked = Answer(answer, printed, may_change, returns_nothing)
    limit = TimeLimit(SECONDS)
    where = ""
    try:
        with _as_before(), contextlib.redirect_stdout(printed):
            limit.call(lambda: cases(asked))
        passed, said = True, f"Right. {praise}"
    except Wrong as wrong:
        passed, said = False, f"Not yet. {wrong}"
    except TimeLimitExceeded as up:
        where = _where(up, asked)
    except (Exception, SystemExit) as error:
        passed, said = False, _stopped(error, asked)
    if limit.fired:  # also where the learner's function caught it
        passed, said = False, _endless(limit.seconds, where)
    sys.stdout.write(printed.text())
    progress().solve(name, passed)
    return CheckResult(passed, f"{said} {progress().news()}".strip())


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Start with known random numbers and with gradients, and put back what the learner's function may have turned."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(0)
        yield


class _Printed(io.TextIOBase):
    """Where print goes during a check: kept up to a limit, so that an endless loop that prints fills nothing."""

    def __init__(self) -> None:
        self.kept, self._more = "", False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._more = self._more or len(self.kept) + len(text) > MOST_PRINTED
        self.kept = (self.kept + text)[:MOST_PRINTED]
        return len(text)

    def text(self) -> str:
        """What was printed, or its beginning."""
        return f"{self.kept}\n… (more was printed)\n" if self._more else self.kept


# What is said when a function does not come to its end.


def _own_frames(error: BaseException, answer: Answer) -> list[traceback.FrameSummary]:
    """The frames of a traceback that lie in the file, or in the notebook's cell, of the learner's function."""
    code = getattr(answer.function, "__code__", None)
    if code is None:
        return []
    # An endless recursion has a thousand frames, and the text of each would be looked up.
    frames = itertools.islice(traceback.walk_tb(error.__traceback__), 50)
    own = [(frame, line) for frame, line in frames if frame.f_code.co_filename == code.co_filename]
    return list(traceback.StackSummary.extract(iter(own)))


def _where(error: BaseException, answer: Answer) -> str:
    frames = _own_frames(error, answer)
    return f" at your line {frames[-1].lineno}: {frames[-1].line}" if frames else ""


def _endless(seconds: float, where: str) -> str:
    return (
        f"Your function was still running after {seconds:g} s and was stopped{where}\nLook at its loop: can the "
        "condition become false, and does a list that it walks over stay as long as it is?"
    )


def _stopped(error: BaseException, answer: Answer) -> str:
    """One or two sentences for whatever a check raised that is not `Wrong`."""
    if error is not answer.error and not _own_frames(error, answer):
        return (
            f"The check cannot read what your function gave back, {short(answer.value)}: {type(error).__name__}: "
            f"{error}"
        )
    where, kind = _where(error, answer), type(error).__name__
    if isinstance(error, UnboundLocalError):
        return (
            f"Your function uses a name before it has a value: {error}{where}\nGive it a start value inside the "
            "function, before the loop."
        )
    if isinstance(error, NameError) and error.name is not None:
        return (
            f"Run the cells above first: `{error.name}` is not defined yet ({kind}){where}\nIf they did run, look for "
            "a misspelt name."
        )
    if isinstance(error, RecursionError):
        return (
            f"Your function calls itself without end ({kind}){where}\nWrite a loop, or give it a case in which it ends."
        )
    if isinstance(error, SystemExit):
        return f"Your function ends Python itself ({kind}){where}\nUse return to leave a function."
    return f"Your function stopped with {kind}: {error}{where}"


# Stubs.


def _untouched() -> None: ...


def _same_lines(first: Any, second: Any) -> bool:
    """Whether two functions have the same lines; comments, blank lines and docstrings do not count."""
    codes = [getattr(function, "__code__", None) for function in (first, second)]
    return None not in codes and _lines(codes[0]) == _lines(codes[1])


def _lines(code: types.CodeType) -> list[Any]:
    return [
        (step.opname, _lines(step.argval) if isinstance(step.argval, types.CodeType) else step.argval)
        for step in dis.get_instructions(code)
        # Where a line stands, and how warm it is, changes nothing.
        if step.opname not in ("RESUME", "NOP", "CACHE", "EXTENDED_ARG")
    ]


# Arguments that were changed in place.


def _taken_down(value: Any) -> Any:
    """A copy of an argument to compare with later: tensors, lists, models and optimizers by their values."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, list | tuple):
        return [_taken_down(item) for item in value]
    if isinstance(value, dict):
        return {key: _taken_down(item) for key, item in value.items()}
    if callable(getattr(value, "state_dict", None)):
        return _taken_down(value.state_dict())
    return value


def _equal(before: Any, now: Any) -> bool:
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        alike = before.dtype == now.dtype and before.shape == now.shape
        # NaN differs from itself; here it is the same.
        return alike and bool(((before == now) | ((before != before) & (now != now))).all())
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_equal, before, now))
    if isinstance(before, dict) and isinstance(now, dict):
        return before.keys() == now.keys() and all(_equal(before[key], now[key]) for key in before)
    if before is now:
        return True
    return type(before) is type(now) and isinstance(now, int | float | str | bool | None) and before == now


def _changed(parameter: str, value: Any) -> str:
    if isinstance(value, Tensor):
        cure = f"make a new tensor ({parameter.strip('`')} * 2, and not *= or a name that ends with _)"
    elif isinstance(value, list | dict):
        cure = "work on a copy (list(…) or dict(…)), without append, pop, sort or an assignment to one of its items"
    elif callable(getattr(value, "state_dict", None)):
        cure = "work on copy.deepcopy of it"
    else:
        cure = "work on a copy"
    return (
        f"Your function changed {parameter}, which is not its own: whoever called it still needs it. Instead, {cure}."
    )
