"""The means against numbers computed by hand."""

import math

import pytest
import torch

from course_utils.training.history import History, LossMeter, Mean


def test_mean_weights_by_samples():
    mean = Mean(total=64 * 2.0 + 29 * 1.0, count=93)
    assert mean.value == pytest.approx((64 * 2.0 + 29 * 1.0) / 93)
    assert math.isnan(Mean().value)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_meter_gives_the_mean_per_sample_for_both_reductions(reduction):
    meter = LossMeter(reduction)
    per_sample, counts = [2.0, 1.0, 4.0], [4, 4, 2]
    for value, count in zip(per_sample, counts, strict=True):
        meter.add([torch.tensor(value if reduction == "mean" else value * count)], [count])
    raw = meter.read()
    assert raw == (per_sample if reduction == "mean" else [8.0, 4.0, 8.0])
    assert meter.window.value == meter.epoch.value == (8 + 4 + 8) / 10


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_micro_batches_of_a_step_are_joined(reduction):
    meter = LossMeter(reduction)
    losses = [torch.tensor(2.0), torch.tensor(5.0)] if reduction == "mean" else [torch.tensor(6.0), torch.tensor(5.0)]
    meter.add(losses, [3, 1])
    assert meter.read() == [pytest.approx(2.75 if reduction == "mean" else 11.0)]
    assert meter.epoch.value == pytest.approx(11 / 4)
    assert meter.epoch.count == 4


def test_window_and_epoch_are_reset_apart():
    meter = LossMeter()
    meter.add([torch.tensor(1.0)], [1])
    meter.read()
    meter.reset_window()
    meter.add([torch.tensor(3.0)], [1])
    meter.read()
    assert meter.window.value == 3.0
    assert meter.epoch.value == 2.0
    meter.reset_epoch()
    assert math.isnan(meter.epoch.value)
    assert meter.window.value == 3.0


def test_reading_often_or_seldom_gives_the_same_bits():
    losses = torch.rand(100, generator=torch.Generator().manual_seed(0))
    often, seldom = LossMeter(), LossMeter()
    for loss in losses:
        often.add([loss], [3])
        often.read()
        seldom.add([loss], [3])
    seldom.read()
    assert often.epoch == seldom.epoch
    assert seldom.read() == []


def test_a_loss_that_is_not_finite_spoils_no_mean():
    meter = LossMeter()
    meter.add([torch.tensor(1.0)], [2])
    meter.read()
    meter.add([torch.tensor(math.inf)], [2])
    assert meter.read() == [math.inf]
    assert meter.epoch.value == 1.0


def test_means_over_processes_are_weighted_too():
    meter = LossMeter()
    meter.add([torch.tensor(1.0)], [3])
    # The other process saw a loss of 5 over one sample.
    losses = meter.read(lambda rows: [[rows[0][0] + 5.0], [rows[1][0] + 1]])
    assert losses == [2.0]
    assert meter.window.value == 2.0


def test_history_goes_through_a_dict_and_compares_without_speed():
    history = History(step_loss=[(10, 1.5)], lr=[(10, 0.1)], samples_per_second=[(10, 1e5)])
    state = history.state_dict()
    history.step_loss.append((20, 1.0))
    copy = History.from_state_dict(state)
    assert copy == History(step_loss=[(10, 1.5)], lr=[(10, 0.1)])
    assert copy.samples_per_second == [(10, 1e5)]


def test_to_frame_has_a_row_a_step_or_says_what_is_missing(monkeypatch):
    history = History(step_loss=[(10, 1.5), (20, 1.0)], epoch_loss=[(20, 1.25)])
    try:
        import pandas  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"to_frame needs pandas: pip install pandas"):
            history.to_frame()
        return
    frame = history.to_frame()
    assert list(frame.index) == [10, 20]
    assert frame.loc[20, "epoch_loss"] == 1.25
    assert math.isnan(frame.loc[10, "epoch_loss"])
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_frame needs pandas: pip install pandas"):
        history.to_frame()
