"""How often the learner's guesses were right, counted from the record."""

import pytest

from course_utils.learner.calibration import BRACKETS, Calibration, bracket, surprises, tally, total
from course_utils.learner.record import LearnerRecord


def entry(guess, outcome=None, question="How many?"):
    return {"question": question, "guess": guess} | ({} if outcome is None else {"outcome": outcome})


RECORD = {
    "04-sum": entry("one", "one"),
    "02-flat": entry("two", "all three", "How many are flat?"),
    "02-bold": entry("SGD", "SGD"),
    "02-three": entry(None, "only 6"),
    "08-not-seen": entry("none"),
    "08-claim": entry("more than three quarters", "a half to three quarters", "Which share?"),
}


def test_an_empty_record_has_no_lessons_and_no_share():
    assert tally({}) == []
    assert total([]) == Calibration("all", 0, 0, 0)
    assert total([]).share is None
    assert surprises({}) == []


def test_guesses_are_counted_by_lesson_and_unseen_outcomes_do_not_count():
    assert tally(RECORD, leave_out=["08-claim"]) == [Calibration("02", 1, 1, 1), Calibration("04", 1, 0, 0)]
    whole = total(tally(RECORD, leave_out=["08-claim"]))
    assert (whole.guessed, whole.share) == (3, 2 / 3)


def test_nothing_is_left_out_unless_it_is_named():
    assert tally(RECORD)[-1] == Calibration("08", 0, 1, 0)


def test_surprises_are_the_wrong_guesses_in_the_order_of_the_lessons():
    assert surprises(RECORD) == [
        ("02", "How many are flat?", "two", "all three"),
        ("08", "Which share?", "more than three quarters", "a half to three quarters"),
    ]
    assert surprises(RECORD, leave_out=["08-claim"]) == [("02", "How many are flat?", "two", "all three")]


def test_the_learners_own_record_is_understood(tmp_path):
    record = LearnerRecord(tmp_path)
    record.predict("01-first", "What?", "this")
    record.predict("01-second", "What else?", "this")
    record.predict("01-third", "And then?", "that")
    record.reveal("01-first", "What?", "this")
    record.reveal("01-second", "What else?", "that")
    record.reveal("02-other", "Who?", "nobody")
    assert tally(record.predictions()) == [Calibration("01", 1, 1, 0), Calibration("02", 0, 0, 1)]


@pytest.mark.parametrize(
    ("share", "words"),
    [(0, 0), (0.24, 0), (0.25, 1), (0.49, 1), (0.5, 2), (0.75, 3), (1, 3)],
)
def test_each_share_has_one_bracket(share, words):
    assert bracket(share) == list(BRACKETS)[words]


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match=f"a share must be between 0 and 1, got {share}"):
        bracket(share)


def test_the_brackets_meet_and_cover_all():
    spans = list(BRACKETS.values())
    assert [low for low, _ in spans] + [1.0] == [0.0] + [high for _, high in spans]
