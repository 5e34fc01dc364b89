"""What a lesson's end shows: exercises by their state, predictions by how they came out."""

import pytest

from course_utils import checks
from course_utils.checks.runner import EXERCISES
from course_utils.learner.record import progress

FRESH = """\
Lesson 02: 0 of 3 exercises solved.
  1. Write this step  not attempted
  2. Find the wall    not attempted
  3. Read the curve   not attempted
You made no predictions."""


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path / "learner"))


def test_a_fresh_learner_sees_what_there_is_to_do():
    assert repr(checks.report("02")) == FRESH


def test_outcomes_without_a_guess_change_nothing():
    progress().reveal("02-zones", "Which?", "b")
    progress().predict("02-open", "Which?", "b")
    assert repr(checks.report("02")) == FRESH


def test_solved_tried_and_guesses_are_shown_for_this_lesson_alone():
    for name, passed in (("02-descend", False), ("02-descend", True), ("02-diagnose", False), ("05-window", True)):
        progress().solve(name, passed)
    for name, guess, outcome in (("02-a", "x", "x"), ("02-b", "x", "y"), ("05-a", "x", "x")):
        progress().predict(name, "Which?", guess)
        progress().reveal(name, "Which?", outcome)
    text = repr(checks.report("02"))
    assert text.startswith("Lesson 02: 1 of 3 exercises solved.\n  1. Write this step  solved\n")
    assert "3. Read the curve   tried\nYou made 2 predictions; 1 of them came out as you guessed." in text


@pytest.mark.parametrize(
    ("guess", "words"),
    [
        ("x", "You made one prediction; it came out as you guessed."),
        ("y", "You made one prediction; it did not come out as you guessed."),
    ],
)
def test_a_single_prediction_has_its_own_sentence(guess, words):
    progress().predict("02-a", "Which?", guess)
    progress().reveal("02-a", "Which?", "x")
    assert repr(checks.report("02")).endswith(words)


def test_the_html_report_has_the_same_content_escaped(tmp_path, monkeypatch):
    (tmp_path / "<b>file").write_text("in the way")
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path / "<b>file" / "learner"))
    progress().solve("02-descend", True)
    view = checks.report("02")._repr_html_()
    assert "1 of 3 exercises solved" in view
    assert "<td" in view
    assert "✓" in view
    assert "&lt;b&gt;file" in view
    assert "<b>file" not in view
    assert "kept only in memory" not in checks.report("02")._repr_html_()


def test_an_unknown_lesson_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"unknown lesson '2': did you mean '02'\? known: .*02"):
        checks.report("2")


def test_every_public_check_is_an_exercise_of_a_lesson_and_has_words():
    public = [getattr(checks, name) for name in checks.__all__ if name != "report"]
    assert len(public) == len(EXERCISES)
    assert all(check.__doc__ for check in public)
    assert all(name[:2].isdigit() and name[2] == "-" for name in EXERCISES)
    assert sorted(checks.__all__) == checks.__all__
