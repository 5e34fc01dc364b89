"""Lesson 02's checks: the right answer passes, and each typical wrong one is explained by its misconception."""

import math

import pytest
import torch

from course_utils import checks
from course_utils.learner.record import progress

from . import message_for


def stub(start, lr, curvature, num_steps): ...


def walk(change):
    def answer(start, lr, curvature, num_steps):
        path = [start]
        for _ in range(num_steps):
            path.append(path[-1] + change(path[-1], lr, curvature))
        return path

    return answer


right_walk = walk(lambda w, lr, c: -lr * c * w)
WRONG_WALKS = {
    "climbs": walk(lambda w, lr, c: lr * c * w),
    "gradient is w,": walk(lambda w, lr, c: -lr * w),
    "lr × loss": walk(lambda w, lr, c: -lr * 0.5 * c * w * w),
    "is 2 λ w": walk(lambda w, lr, c: -lr * 2 * c * w),
    "is ½ λ w.": walk(lambda w, lr, c: -lr * 0.5 * c * w),
    "Subtract the step from the old w": walk(lambda w, lr, c: lr * c * w - w),
    "gradient at the start": lambda s, lr, c, n: [s, *[s - lr * c * s * k for k in range(1, n + 1)]],
    "takes one step and then stays": lambda s, lr, c, n: [s, *[s - lr * c * s] * n],
    "The first value is missing": lambda s, lr, c, n: right_walk(s, lr, c, n)[1:],
    "The last value is missing": lambda s, lr, c, n: right_walk(s, lr, c, n)[:-1],
    "returned one number": lambda s, lr, c, n: right_walk(s, lr, c, n)[-1],
    "returned one number, tensor": lambda s, lr, c, n: torch.tensor(right_walk(s, lr, c, n)[-1]),
    "one value per step make": lambda s, lr, c, n: right_walk(s, lr, c, n + 2),
    "returned None": lambda s, lr, c, n: print(end=""),
    "step 1 should lead to": walk(lambda w, lr, c: -lr),
    "step 2 should lead to": lambda s, lr, c, n: [*right_walk(s, lr, c, n)[:2], *[9.0] * (n - 1)],
    "ZeroDivisionError": lambda s, lr, c, n: 1 / 0,
}


def test_the_right_path_passes_also_as_a_tensor():
    assert checks.descend(right_walk).passed
    assert checks.descend(lambda *case: torch.tensor(right_walk(*case), dtype=torch.float64)).passed


@pytest.mark.parametrize("words", WRONG_WALKS)
def test_a_wrong_path_is_explained(words):
    assert words in message_for(checks.descend, WRONG_WALKS[words])


def hessian(x):
    return 2 / len(x) * x.T @ x


def top(matrix):
    return torch.linalg.eigvalsh(matrix)[-1].item()


WRONG_RATES = {
    "largest curvature λ itself": lambda x: top(hessian(x)),
    "reaches the minimum in one step": lambda x: 1 / top(hessian(x)),
    "smallest curvature": lambda x: 2 / torch.linalg.eigvalsh(hessian(x))[0].item(),
    "sum of all curvatures": lambda x: 2 / torch.linalg.eigvalsh(hessian(x)).sum().item(),
    "2 times too high": lambda x: 2 / top(x.T @ x / len(x)),
    "40 times too low": lambda x: 2 / top(2 * x.T @ x),
    "20 times too low": lambda x: 2 / top(x.T @ x),
    "4 times too high": lambda x: 2 / top(0.5 * x.T @ x / len(x)),
    "not by all numbers in x": lambda x: 2 / top(2 * x.T @ x / x.numel()),
    "returned 3 numbers": lambda x: 2 / torch.linalg.eigvalsh(hessian(x)),
    "singular value": lambda x: 2 / torch.linalg.svdvals(x)[0].item(),
    "the limit is": lambda x: 0.1,
    "returned None": lambda x: print(end=""),
}


def test_the_right_rate_passes():
    assert checks.largest_rate(lambda x: 2 / top(hessian(x))).passed


@pytest.mark.parametrize("words", WRONG_RATES)
def test_a_wrong_rate_is_explained(words):
    assert words in message_for(checks.largest_rate, WRONG_RATES[words])


def classify(losses):
    if not all(math.isfinite(loss) for loss in losses):
        return "diverges"
    if sum(losses[-20:]) / 20 < 0.7 * losses[0]:
        return "works"
    return "diverges" if max(losses) > 1.5 * losses[0] else "too slow"


def blind_to_nan(losses):
    if sum(losses[-20:]) / 20 < 0.7 * losses[0]:
        return "works"
    return "diverges" if max(losses) > 1.5 * losses[0] else "too slow"


WRONG_DIAGNOSES = {
    "for every list": lambda losses: "works",
    "should return 'too slow', 'works' or 'diverges'": lambda losses: "bad",
    "The end alone": lambda losses: "works" if sum(losses[-20:]) / 20 < 1.5 else "too slow",
    "A comparison with NaN": blind_to_nan,
    "unlucky last batch": lambda losses: classify([*losses[:-20], *[losses[-1]] * 20]),
    "Noise decides nothing here": lambda losses: "works" if classify(losses) == "too slow" else classify(losses),
    "with the very first loss": lambda losses: (
        classify(losses) if losses[2] < 20 or math.isnan(losses[-1]) else "works"
    ),
    "a jump alone": lambda losses: "diverges" if any(not loss < 3 for loss in losses) else classify(losses),
    "One lucky batch": lambda losses: "works" if min(losses) < 0.7 * losses[0] else classify(losses),
    "the run works": lambda losses: "works" if classify(losses) == "too slow" else "too slow",
    "returned None": lambda losses: print(end=""),
}


def test_the_right_diagnosis_passes():
    assert checks.diagnose(classify).passed


@pytest.mark.parametrize("words", WRONG_DIAGNOSES)
def test_a_wrong_diagnosis_is_explained(words):
    assert words in message_for(checks.diagnose, WRONG_DIAGNOSES[words])


@pytest.mark.parametrize("check", [checks.descend, checks.largest_rate, checks.diagnose])
def test_a_stub_is_not_attempted_and_not_counted(check):
    before = progress().exercises()
    assert "Not attempted yet" in message_for(check, stub)
    assert progress().exercises() == before


def test_a_result_instead_of_the_function_is_explained():
    assert "Pass the function itself" in repr(checks.descend([1.0, 0.5]))


def test_a_crash_shows_the_learners_own_line():
    def answer(start, lr, curvature, num_steps):
        return undefined_name  # noqa: F821

    message = repr(checks.descend(answer))
    assert "NameError" in message
    assert "return undefined_name" in message


def test_attempts_are_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path))
    checks.descend(WRONG_WALKS["climbs"])
    checks.descend(right_walk)
    assert progress().exercises() == {"02-descend": {"tries": 2, "solved": True}}
