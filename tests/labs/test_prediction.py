"""Predictions: one click, kept in the learner's folder, shown beside the outcome."""

import json

import pytest

from course_utils.labs import Prediction
from course_utils.learner.record import LearnerRecord, progress


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path))
    return tmp_path


def ask():
    return Prediction("02-x", "Which <one>?", ["a", "b"])


def test_a_click_is_kept_and_readable_without_the_widget(folder):
    asked = ask()
    asked.choice.value = "b"
    asked.settle()
    kept = json.loads((folder / "progress.json").read_text())
    assert kept["predictions"]["02-x"] == {"question": "Which <one>?", "guess": "b"}
    assert "Your guess is kept: b" in asked._kept.value


def test_the_next_time_the_guess_is_already_chosen():
    ask().choice.value = "a"
    assert ask().choice.value == "a"


def test_the_outcome_stands_beside_the_guess():
    asked = ask()
    asked.choice.value = "a"
    assert repr(asked.reveal("b")) == "It turned out: b (you predicted: a)."
    assert LearnerRecord().predictions()["02-x"]["outcome"] == "b"
    other = Prediction("02-y", "And now?", ["a", "b"])
    other.choice.value = "b"
    assert repr(other.reveal("b")) == "It turned out: b (as you predicted)."


@pytest.mark.parametrize(("before", "said"), [("b", "your first guess stays: b."), (None, "you made no guess before.")])
def test_a_guess_after_the_outcome_is_told_that_it_does_not_count(before, said):
    asked = ask()
    asked.choice.value = before
    asked.reveal("a")
    asked.choice.value = "a"
    assert f"The outcome has been shown, so this one is not counted; {said}" in asked._kept.value
    assert progress().guess("02-x") == before
    if before:
        asked.choice.value = before
        assert "Your guess is kept: b." in asked._kept.value


def test_no_guess_is_fine():
    assert repr(ask().reveal("b")) == "It turned out: b. (You made no guess.)"


def test_the_question_is_escaped_and_readable_as_text():
    asked = ask()
    assert "Which &lt;one&gt;?" in asked.children[1].value
    data, _ = asked.picture()
    assert data["text/plain"] == "Predict. Which <one>?  [a | b]"


@pytest.mark.parametrize("options", [[], ["only"], ["a", "a"]])
def test_options_must_be_two_or_more_and_different(options):
    with pytest.raises(ValueError, match="at least two different answers"):
        Prediction("02-x", "Which?", options)


def test_an_outcome_must_be_one_of_the_options():
    with pytest.raises(ValueError, match=r"outcome must be one of the options .*, got 'c'"):
        ask().reveal("c")


def test_a_folder_that_cannot_be_written_is_told_in_the_widget(folder, monkeypatch):
    (folder / "file").write_text("in the way")
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(folder / "file" / "learner"))
    asked = ask()
    asked.choice.value = "a"
    assert "kept only in memory" in asked._kept.value
    assert progress().guess("02-x") == "a"
