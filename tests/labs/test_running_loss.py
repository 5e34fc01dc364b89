"""The running-loss lab: the curve is the one that torch's own loop gives, and the words say what it is."""

import itertools
import math
import re

import pytest

from course_utils.experiments.bookkeeping import DIVISORS, LOGS, RESETS, Recording, record
from course_utils.labs import RunningLossLab


@pytest.fixture(scope="module")
def lab():
    return RunningLossLab()


@pytest.fixture(scope="module")
def recording():
    return record()


def choose(lab, reset, divisor, log, window=10):
    lab.reset.value, lab.divisor.value, lab.logged.value, lab.window.value = reset, divisor, log, window
    lab.settle()
    return re.sub(r"<[^>]+>", "", lab._words.value)


def test_it_starts_with_the_lines_of_the_notes_and_before_any_click(recording):
    lab = RunningLossLab()
    assert (lab.reset.value, lab.divisor.value, lab.logged.value, lab.window.value) == (
        "each epoch",
        "window length",
        "each window",
        10,
    )
    # By hand, for the first epoch: ten losses over ten, then twenty losses over ten.
    assert lab.points[:2] == [
        (10, pytest.approx(sum(recording.losses[:10]) / 10)),
        (20, pytest.approx(sum(recording.losses[:20]) / 10)),
    ]
    assert "<svg" in lab._drawn.value
    assert "divided by 10, the length of a window" in lab._words.value


def test_a_sum_that_is_never_reset_is_told_with_its_factor(lab, recording):
    words = choose(lab, "never", "nothing", "each batch")
    total, truth = sum(recording.losses), recording.epoch_means()[-1]
    assert lab.points[-1] == (230, pytest.approx(total))
    assert "the sum of all batch losses since training began" in words
    assert f"says {total:.3g}; the true mean of that epoch is {truth:.3g}" in words
    assert f"It is {total / truth:,.0f} times too large." in words
    assert "ends higher than it began, and the loss fell" in words


def test_a_division_by_the_samples_is_told_as_too_small(lab, recording):
    words = choose(lab, "each epoch", "samples in an epoch", "each epoch")
    truth, value = recording.epoch_means()[-1], sum(recording.losses[-23:]) / 1437
    assert lab.points[-1][1] == pytest.approx(value)
    assert f"It is {truth / value:.3g} times too small." in words
    assert "ends higher" not in words


def test_the_goal_is_reached_only_by_the_mean_over_samples(lab):
    assert "Goal reached" not in choose(lab, "each epoch", "batches added", "each epoch")
    assert re.search(r"It is off by \d\.\d%", lab._words.value)
    words = choose(lab, "each epoch", "samples added", "each epoch")
    assert "They are the same." in words
    assert "Goal reached ✓" in words
    assert "Goal reached" not in choose(lab, "each epoch", "samples added", "each batch")
    assert "Goal reached" not in choose(lab, "never", "samples added", "each epoch")


def test_a_window_longer_than_an_epoch_logs_nothing_and_says_why(lab):
    words = choose(lab, "each epoch", "window length", "each window", 24)
    assert lab.points == []
    assert "No point at all" in words
    assert "an epoch has only 23 batches, so batch 24 of an epoch never comes" in words
    assert "Goal reached" not in words


def test_every_setting_is_drawn_without_nan_and_named(lab):
    for reset, divisor, log in itertools.product(RESETS, DIVISORS, LOGS):
        for window in (lab.window.min, lab.window.max):
            words = choose(lab, reset, divisor, log, window)
            assert "Goal" in words
            assert "nan" not in lab._drawn.value
            assert f'data-shown="{window}"' in lab._drawn.value


def test_a_run_of_ones_own_is_shown():
    lab = RunningLossLab(Recording([2.0, 1.0, 1.0, 0.5], [8, 4, 8, 4], 2))
    words = choose(lab, "never", "batches added", "each epoch")
    assert lab.points == [(2, 1.5), (4, 1.125)]
    assert "says 1.12; the true mean of that epoch is 0.833" in words
    lab.close()


@pytest.mark.parametrize(("losses", "shown"), [([1.0, -3.0], "-1.0"), ([math.nan, 1.0], "nan")])
def test_means_that_nothing_can_be_compared_with_are_refused(losses, shown):
    with pytest.raises(ValueError, match=f"the mean loss of epoch 1 is {shown}: .* must be a finite number above 0"):
        RunningLossLab(Recording(losses, [1, 1], 2))


def test_an_error_in_drawing_is_shown_and_fails_a_test(lab, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no such curve")

    monkeypatch.setattr("course_utils.labs.running_loss.plotted", fail)
    lab.window.value = 7 if lab.window.value != 7 else 8
    with pytest.raises(ValueError, match="no such curve"):
        lab.settle()
    assert "ValueError: no such curve" in lab._error_box.value
    monkeypatch.undo()
    choose(lab, "each epoch", "batches added", "each epoch", 5)
    assert lab._error_box.value == ""


def test_the_still_picture_is_a_png_with_words(lab):
    data, metadata = lab.picture()
    assert data["image/png"].startswith(b"\x89PNG")
    assert "sawtooth" in metadata["image/png"]["alt"]
    assert data["text/plain"].startswith("RunningLossLab: run the cell")
