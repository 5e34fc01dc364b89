"""A running loss reported in every way, beside sums that are written out and beside the loss of all samples at once."""

import math

import pytest
import torch
from torch import nn

from course_utils import data, models
from course_utils.experiments.bookkeeping import DIVISORS, LOGS, RESETS, Recording, meaning, plotted, record

# Two epochs of three batches, the last one short.
TINY = Recording([4.0, 2.0, 6.0, 3.0, 1.0, 5.0], [2, 2, 1, 2, 2, 1], 3)


@pytest.fixture(scope="module")
def run():
    return record(3)


@pytest.mark.parametrize(
    ("reset", "divisor", "log", "window", "points"),
    [
        ("never", "nothing", "each batch", 2, [(1, 4), (2, 6), (3, 12), (4, 15), (5, 16), (6, 21)]),
        ("each epoch", "nothing", "each batch", 2, [(1, 4), (2, 6), (3, 12), (4, 3), (5, 4), (6, 9)]),
        ("each epoch", "batches added", "each epoch", 2, [(3, 4), (6, 3)]),
        ("each epoch", "batches in an epoch", "each epoch", 2, [(3, 4), (6, 3)]),
        ("each epoch", "samples added", "each epoch", 2, [(3, 18 / 5), (6, 13 / 5)]),
        ("each epoch", "samples in an epoch", "each epoch", 2, [(3, 12 / 5), (6, 9 / 5)]),
        ("never", "batches added", "each epoch", 2, [(3, 4), (6, 3.5)]),
        ("each window", "window length", "each window", 2, [(2, 3), (5, 5)]),
        ("each window and epoch", "window length", "each window", 2, [(2, 3), (5, 2)]),
        ("each window", "batches in an epoch", "each epoch", 2, [(3, 2), (6, 5 / 3)]),
        ("each epoch", "window length", "each window", 1, [(1, 4), (2, 6), (3, 12), (4, 3), (5, 4), (6, 9)]),
        ("never", "nothing", "each window", 4, []),
    ],
)
def test_points_are_the_ones_worked_out_by_hand(reset, divisor, log, window, points):
    found = plotted(TINY, reset=reset, divisor=divisor, log=log, window=window)
    assert [step for step, _ in found] == [step for step, _ in points]
    assert [value for _, value in found] == pytest.approx([value for _, value in points])


def test_the_true_mean_of_a_model_that_stands_still_is_its_loss_on_all_samples():
    digits = data.load("digits", batch_size=64)
    torch.manual_seed(0)
    model, loss_fn = models.MLP().double(), nn.CrossEntropyLoss()
    with torch.no_grad():
        pairs = [(loss_fn(model(x.double()), y).item(), len(y)) for x, y in digits.train]
        x, y = digits.train.dataset.tensors
        whole = loss_fn(model(x.double()), y).item()
    recording = Recording([loss for loss, _ in pairs], [size for _, size in pairs], len(digits.train))
    assert recording.epoch_means() == pytest.approx([whole], rel=1e-12)
    by_batches = plotted(recording, reset="each epoch", divisor="batches added", log="each epoch")
    assert by_batches[0][1] != pytest.approx(whole, rel=1e-9)


def test_a_recorded_run_is_real_whole_and_the_same_each_time(run):
    assert (len(run.losses), run.epoch_length, run.samples) == (69, 23, 1437)
    assert set(run.sizes) == {64, 29}
    assert abs(run.losses[0] - math.log(10)) < 0.1
    assert run.epoch_means()[-1] < run.epoch_means()[0]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert record(3) == run
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("reset", "divisor", "words"),
    [
        ("never", "nothing", "the sum of all batch losses since training began"),
        ("never", "batches in an epoch", "since training began, divided by 3, the batches in an epoch"),
        ("each epoch", "samples in an epoch", "since the epoch began, divided by 5, the samples in an epoch"),
        ("each window", "window length", "since the last full window, divided by 2, the length of a window"),
        ("each epoch", "batches added", "the mean of all batch losses since the epoch began, each batch counted alike"),
        ("each window and epoch", "samples added", "the mean loss per sample since the last full window, or the epoch"),
    ],
)
def test_the_number_is_named(reset, divisor, words):
    assert words in meaning(TINY, reset=reset, divisor=divisor, window=2)


def test_every_combination_has_points_that_are_numbers_and_a_name():
    for reset in RESETS:
        for divisor in DIVISORS:
            assert meaning(TINY, reset=reset, divisor=divisor)
            for log in LOGS:
                points = plotted(TINY, reset=reset, divisor=divisor, log=log, window=1)
                assert points
                assert all(math.isfinite(value) for _, value in points)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reset": "each epochs"}, "unknown reset 'each epochs': did you mean 'each epoch'"),
        ({"divisor": "batch"}, "unknown divisor 'batch'"),
        ({"log": "sometimes"}, "unknown log 'sometimes'"),
        ({"window": 0}, "window must be a whole number of at least 1, got 0"),
    ],
)
def test_what_is_not_known_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        plotted(TINY, **{"reset": "never", "divisor": "nothing", "log": "each batch", **change})


@pytest.mark.parametrize(
    ("losses", "sizes", "epoch_length", "words"),
    [
        ([], [], 1, "at least 1, got 0 and 0"),
        ([1.0, 2.0], [4], 2, "at least 1, got 2 and 1"),
        ([1.0, 2.0, 3.0], [4, 4, 4], 2, "must be a multiple of epoch_length, got 3 losses and epoch_length 2"),
        ([1.0], [4], 0, "epoch_length must be a whole number of at least 1, got 0"),
    ],
)
def test_a_recording_that_does_not_fit_together_is_told(losses, sizes, epoch_length, words):
    with pytest.raises(ValueError, match=words):
        Recording(losses, sizes, epoch_length)


def test_a_number_of_epochs_that_is_none_is_told():
    with pytest.raises(ValueError, match="num_epochs must be a whole number of at least 1, got 0"):
        record(0)
