"""The means against numbers computed by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course_utils.training.history import History, LossMeter, Mean, as_numbers


def test_mean_weights_by_samples():
    mean = Mean(total=64 * 2.0 + 29 * 1.0, count=93)
    assert mean.value == pytest.approx((64 * 2.0 + 29 * 1.0) / 93)
    assert math.isnan(Mean().value)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_meter_gives_the_mean_per_sample_for_both_reductions(reduction):
    meter = LossMeter(reduction)
    per_sample, counts = [2.0, 1.0, 4.0], [4, 4, 2]
    for value, count in zip(per_sample, counts, strict=True):
        meter.add([torch.tensor(value if reduction == "mean" else value * count)], [count], count)
    raw = meter.read()
    assert raw == (per_sample if reduction == "mean" else [8.0, 4.0, 8.0])
    assert meter.window.value == meter.epoch.value == (8 + 4 + 8) / 10


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_micro_batches_of_a_step_are_joined(reduction):
    meter = LossMeter(reduction)
    losses = [torch.tensor(2.0), torch.tensor(5.0)] if reduction == "mean" else [torch.tensor(6.0), torch.tensor(5.0)]
    meter.add(losses, [3, 1], 4)
    assert meter.read() == [pytest.approx(2.75 if reduction == "mean" else 11.0)]
    assert meter.epoch.value == pytest.approx(11 / 4)
    assert meter.epoch.count == 4


def test_window_and_epoch_are_reset_apart():
    meter = LossMeter()
    meter.add([torch.tensor(1.0)], [1], 1)
    meter.read()
    meter.reset_window()
    meter.add([torch.tensor(3.0)], [1], 1)
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
        often.add([loss], [3], 3)
        often.read()
        seldom.add([loss], [3], 3)
    seldom.read()
    assert often.epoch == seldom.epoch
    assert seldom.read() == []


def test_a_loss_that_is_not_finite_spoils_no_mean():
    meter = LossMeter()
    meter.add([torch.tensor(1.0)], [2], 2)
    meter.read()
    meter.add([torch.tensor(math.inf)], [2], 2)
    assert meter.read() == [math.inf]
    assert meter.epoch.value == 1.0


@pytest.mark.parametrize("as_count", [float, torch.tensor], ids=["numbers", "tensors"])
@pytest.mark.parametrize("counts", [(3, 1, 4), (0, 1, 4), (3, 0, 0)], ids=str)
def test_micro_batches_are_joined_by_what_their_means_divide_by(as_count, counts):
    y = torch.tensor([0, 1, 2, 0, 1, 1, 0, 2, 1, 2, 1, 0])
    for part, count in enumerate(counts):
        y[4 * part + count : 4 * part + 4] = -100
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = [F.cross_entropy(*part) for part in zip(logits.split(4), y.split(4), strict=True)]
    meter = LossMeter()
    meter.add(losses, [as_count(count) for count in counts], 12)
    expected = F.cross_entropy(logits, y).item()
    assert meter.read() == [pytest.approx(expected)]
    assert meter.window.value == pytest.approx(expected)
    assert (meter.window.count, meter.rows) == (sum(counts), 12)


@pytest.mark.parametrize("as_count", [float, torch.tensor], ids=["numbers", "tensors"])
def test_a_step_of_ignored_labels_only_is_nan_as_in_pytorch(as_count):
    for losses in ([torch.tensor(math.nan)], [torch.tensor(math.nan)] * 2):
        meter = LossMeter()
        meter.add([torch.tensor(1.0)], [as_count(2)], 2)
        meter.add(losses, [as_count(0)] * len(losses), 8)
        assert str(meter.read()) == "[1.0, nan]"
        assert math.isnan(meter.epoch.value)


def test_numbers_and_tensors_may_follow_each_other():
    meter = LossMeter()
    meter.add([torch.tensor(1.0), torch.tensor(4.0)], [2, torch.tensor(1)], 3)
    meter.add([torch.tensor(8.0)], [3], 3)
    assert meter.read() == [2.0, 8.0]
    assert meter.epoch.value == 5.0


def test_rows_are_counted_since_the_window_began():
    meter = LossMeter()
    meter.add([torch.tensor(1.0)], [40], 8)
    meter.add([torch.tensor(1.0)], [40], 8)
    assert meter.rows == 0
    meter.read()
    meter.add([torch.tensor(1.0)], [20], 4)
    meter.read(lambda rows: [[2 * number for number in row] for row in rows])
    assert meter.rows == 24
    meter.reset_window()
    assert meter.rows == 0


def test_means_over_processes_are_weighted_too():
    meter = LossMeter()
    meter.add([torch.tensor(1.0)], [3], 5)
    # The other process saw a loss of 5 over one sample.
    losses = meter.read(lambda rows: [[rows[0][0] + 5.0], [rows[1][0] + 1], [rows[2][0] + 5]])
    assert losses == [2.0]
    assert meter.window.value == 2.0
    assert meter.rows == 10


def test_a_process_whose_labels_are_all_ignored_adds_nothing():
    meter = LossMeter()
    meter.add([torch.tensor(math.nan)], [torch.tensor(0)], 4)
    assert meter.read(lambda rows: [[rows[0][0] + 6.0], [rows[1][0] + 3], [8]]) == [2.0]
    assert meter.window.value == 2.0


def test_means_go_through_a_dict():
    meter, other = LossMeter(), LossMeter()
    meter.add([torch.tensor(1.5)], [2], 2)
    meter.read()
    other.load_state_dict(meter.state_dict())
    assert (other.window, other.epoch) == (meter.window, meter.epoch)
    assert meter.state_dict() == {"window": [3.0, 2.0], "epoch": [3.0, 2.0]}


def test_history_goes_through_a_dict_and_compares_without_speed():
    history = History(step_loss=[(10, 1.5)], lr=[(10, 0.1)], samples_per_second=[(10, 1e5)], interrupted=True)
    history.add(20, {"step_loss": 1.25, "f1": 0.5})
    state = history.state_dict()
    history.add(30, {"step_loss": 1.0, "f1": 0.75})
    copy = History.from_state_dict(state)
    assert copy == History(step_loss=[(10, 1.5), (20, 1.25)], lr=[(10, 0.1)], metrics={"f1": [(20, 0.5)]})
    assert copy.samples_per_second == [(10, 1e5)]
    assert not copy.interrupted
    del state["metrics"]  # an earlier edition had none
    assert History.from_state_dict(state).metrics == {}


@pytest.mark.parametrize("name", ["metrics", "interrupted", "lr", "step_loss"])
def test_a_figure_of_an_epoch_has_no_name_of_another_attribute(name):
    with pytest.raises(ValueError, match=rf"cannot be called '{name}', which is another attribute"):
        as_numbers({"epoch_loss": 1.0, name: 1.0})


def test_the_figures_of_an_epoch_become_plain_numbers():
    given = {"valid_loss": 2, "f1": torch.tensor([0.5], requires_grad=True), "auc": np.float32(0.25), "all": True}
    assert as_numbers(given) == {"valid_loss": 2.0, "f1": 0.5, "auc": 0.25, "all": 1.0}
    assert {type(value) for value in as_numbers(given).values()} == {float}


@pytest.mark.parametrize("value", ["high", None, torch.ones(2), torch.tensor(1j), [0.5]])
def test_a_figure_that_is_not_one_number_is_an_error(value):
    with pytest.raises(TypeError, match=r"the figure 'f1' must be one number, got "):
        as_numbers({"f1": value})
    with pytest.raises(TypeError, match=r"the name of a figure must be text, got 3"):
        as_numbers({3: 1.0})


def test_to_frame_has_a_row_a_step_or_says_what_is_missing(monkeypatch):
    history = History(step_loss=[(10, 1.5), (20, 1.0)], epoch_loss=[(20, 1.25)], metrics={"f1": [(10, 0.5)]})
    try:
        import pandas  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"to_frame needs pandas: pip install pandas"):
            history.to_frame()
        return
    frame = history.to_frame()
    assert list(frame.index) == [10, 20]
    assert frame.loc[20, "epoch_loss"] == 1.25
    assert frame.loc[10, "f1"] == 0.5
    assert math.isnan(frame.loc[10, "epoch_loss"])
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_frame needs pandas: pip install pandas"):
        history.to_frame()
