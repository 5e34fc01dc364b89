"""The learning-rate lab: what it shows is what was trained, at every position of every control."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree

import photograph
import pytest
import torch

from course_utils import data
from course_utils.experiments.recorded_sweeps import RATES, SweepConfig
from course_utils.labs import LearningRateLab, base, learning_rate
from course_utils.lr import sweep_lr
from course_utils.models import MLP, make_model
from course_utils.optimizers import make_optimizer


@pytest.fixture(scope="module")
def lab():
    return LearningRateLab()


@pytest.fixture
def quick_lab(tmp_path, monkeypatch):
    """A lab of one epoch whose pictures are redrawn after each step, with a learner's folder of its own."""
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path))
    monkeypatch.setattr(base.Throttle, "due", lambda self: True)
    return LearningRateLab(num_epochs=1)


def shown(lab):
    return float(ElementTree.fromstring(lab._front.value).get("data-shown"))


def test_it_is_useful_before_any_click(lab):
    assert shown(lab) == 0.3162
    assert "works" in lab._words.value
    x, y = data.load("digits").train.dataset.tensors
    oracle = sweep_lr(MLP, x, y, RATES, optimizer="sgd", num_epochs=5, batch_size=64, seed=0)
    assert torch.equal(lab.sweep.losses.nan_to_num(), oracle.losses.nan_to_num())


def test_every_position_of_the_slider_shows_its_own_curve(lab):
    left, _ = lab._panels()
    for index, rate in enumerate(RATES):
        lab.lr.value = 10 ** (-5 + index / 8)
        lab.settle()
        assert shown(lab) == rate
        assert f"Learning rate {rate:.3g}: {lab.sweep.zones[index]}" in lab._words.value
        losses = lab.sweep.losses[index].tolist()
        assert left.path(range(1, len(losses) + 1), losses) == re.search(r'd="(M[^"]+)"', lab._front.value).group(1)


@pytest.mark.parametrize("value", [1e-9, 0.0213, 99.0])
def test_a_value_between_or_beyond_the_rates_shows_the_nearest(lab, value):
    lab.lr.value = value
    lab.settle()
    nearest = min(RATES, key=lambda rate: abs(math.log(rate / lab.lr.value)))
    assert shown(lab) == nearest


def test_the_goal_is_the_largest_rate_that_works(lab):
    works = [rate for rate, zone in zip(lab.sweep.lrs, lab.sweep.zones, strict=True) if zone == "works"]
    lab.lr.value = works[-1]
    lab.settle()
    assert "Goal reached" in lab._words.value
    lab.lr.value = works[-2]
    lab.settle()
    assert "Goal reached" not in lab._words.value


def test_it_still_says_what_it_says_in_readmes_film(lab):
    """Word for word; numbers may differ a little between machines, and those of a run that diverges by more."""
    number = re.compile(r"\d+(?:\.\d+)?")
    noted = json.loads(photograph.NOTES.read_text(encoding="utf-8"))["lab"]
    assert noted.keys() == {f"{RATES[place]:.3g}" for place in photograph.RESTS}
    for place in photograph.RESTS:
        lab.lr.value = RATES[place]
        lab.settle()
        today = "".join(re.sub(r"<[^>]+>", "", lab._words.value).split())
        then = "".join(noted[f"{RATES[place]:.3g}"].split())
        assert number.sub("#", today) == number.sub("#", then), "run `make pictures`"
        if place != photograph.DIVERGES:
            numbers = [[float(found) for found in number.findall(words)] for words in (today, then)]
            assert numbers[0] == pytest.approx(numbers[1], rel=0.05), "run `make pictures`"


def test_the_back_names_the_three_zones(lab):
    words = [element.text for element in ElementTree.fromstring(lab._back.value).iter() if element.tag == "text"]
    assert {"too slow", "works", "diverges"} <= set(words)


@pytest.mark.parametrize("optimizer", ["momentum", "rmsprop", "adam", "adamw", "sgd"])
def test_another_optimizer_brings_its_own_sweep(quick_lab, optimizer):
    quick_lab.optimizer.value = "adam" if optimizer == "sgd" else "sgd"
    quick_lab.optimizer.value = optimizer
    quick_lab.settle(60)
    assert quick_lab.sweep.optimizer == optimizer
    assert quick_lab.sweep.steps_done == quick_lab.sweep.losses.shape[1]
    assert quick_lab.momentum.disabled == (optimizer != "momentum")


def test_momentum_and_batch_size_change_what_is_trained(quick_lab):
    quick_lab.optimizer.value = "momentum"
    quick_lab.settle(60)
    usual = quick_lab.sweep
    quick_lab.momentum.value = 0.99
    quick_lab.settle(60)
    assert not torch.equal(quick_lab.sweep.losses.nan_to_num(), usual.losses.nan_to_num())
    quick_lab.batch_size.value = 128
    quick_lab.settle(60)
    assert quick_lab.sweep.losses.shape[1] == math.ceil(1437 / 128)


def test_a_sweep_already_made_is_not_made_again(quick_lab, monkeypatch):
    sgd = quick_lab.sweep
    quick_lab.optimizer.value = "adam"
    quick_lab.settle(60)
    monkeypatch.setattr(SweepConfig, "train", lambda self: pytest.fail("trained again"))
    quick_lab.optimizer.value = "sgd"
    quick_lab.settle(60)
    assert quick_lab.sweep is sgd


def test_changing_the_setting_again_and_again_ends_with_the_last(quick_lab):
    for optimizer in ("momentum", "rmsprop", "adamw", "adam"):
        quick_lab.optimizer.value = optimizer
    quick_lab.settle(60)
    assert quick_lab.sweep.optimizer == "adam"
    assert quick_lab.sweep.steps_done == quick_lab.sweep.losses.shape[1]


def test_a_sweep_fills_in_and_a_stopped_one_can_be_requested_again(quick_lab, monkeypatch):
    lab, shares = quick_lab, []
    monkeypatch.setattr(lab, "show_progress", lambda share, _: (shares.append(share), len(shares) == 4 and lab.stop()))
    lab.optimizer.value = "adam"
    lab.settle(60)
    assert shares == sorted(shares)
    assert len(shares) == 4
    assert 0 < lab.sweep.steps_done < lab.sweep.losses.shape[1]
    assert "step" in lab._words.value
    assert lab._status.value == "stopped"
    lab.optimizer.value = "sgd"
    lab.settle(60)
    assert lab._status.value == ""
    lab.optimizer.value = "adam"
    lab.settle(60)
    assert lab.sweep.steps_done == lab.sweep.losses.shape[1]


def test_a_slow_sweep_is_stored_in_the_learners_folder_and_found_again(tmp_path, quick_lab, monkeypatch):
    monkeypatch.setattr(learning_rate, "KEEP_AFTER", 0.0)
    quick_lab.optimizer.value = "adam"
    quick_lab.settle(60)
    assert (tmp_path / "sweeps" / "mlp-adam-64-1-0.json").exists()
    monkeypatch.setattr(SweepConfig, "train", lambda self: pytest.fail("trained again"))
    again, quick_lab._finished = quick_lab.sweep, {}
    quick_lab._change()
    quick_lab.settle(60)
    assert torch.equal(quick_lab.sweep.losses.nan_to_num(), again.losses.nan_to_num())


def test_a_damaged_stored_sweep_is_reported_and_trained_again(tmp_path, quick_lab):
    stored = tmp_path / "sweeps" / "mlp-adam-64-1-0.json"
    stored.parent.mkdir()
    stored.write_text("{half")
    quick_lab.optimizer.value = "adam"
    quick_lab.settle(60)
    assert quick_lab.sweep.steps_done == quick_lab.sweep.losses.shape[1]
    assert "could not be used and was trained again" in quick_lab._status.value
    assert "mlp-adam-64-1-0.json" in quick_lab._status.value


def test_a_folder_that_cannot_be_written_is_reported_and_the_lab_works(tmp_path, quick_lab, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path / "file" / "learner"))
    monkeypatch.setattr(learning_rate, "KEEP_AFTER", 0.0)
    quick_lab.optimizer.value = "adam"
    quick_lab.settle(60)
    assert "cannot be written" in quick_lab._status.value
    assert quick_lab.sweep.steps_done == quick_lab.sweep.losses.shape[1]


def test_the_exact_run_trains_with_torch_at_the_handles_own_rate(lab):
    lab.lr.value = 0.25
    lab.train.click()
    lab.settle(60)
    lr, losses = lab.exact
    torch.manual_seed(0)
    model, loss_fn = make_model("mlp"), torch.nn.CrossEntropyLoss()
    optimizer, oracle = make_optimizer("sgd", model.parameters(), 0.25), []
    batches = data.Batches(*data.load("digits").train.dataset.tensors, batch_size=64, seed=0)
    for _ in range(5):
        for x, y in batches:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            oracle.append(loss.item())
    assert lr == 0.25
    assert losses == oracle
    assert "trained at lr = 0.25" in lab._front.value


def test_the_exact_run_leaves_the_learners_random_numbers_alone(lab):
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    lab.train.click()
    lab.settle(60)
    assert torch.equal(torch.rand(3), expected)


def test_the_exact_run_can_be_stopped(quick_lab, monkeypatch):
    monkeypatch.setattr(quick_lab, "show_progress", lambda share, _: share > 0.1 and quick_lab.halt.click())
    quick_lab.train.click()
    quick_lab.settle(60)
    assert 0 < len(quick_lab.exact[1]) < 10


def test_a_rate_that_breaks_the_loss_does_not_break_the_lab(lab):
    lab.lr.value = 10.0
    lab.train.click()
    lab.settle(60)
    assert len(lab.exact[1]) > 0


def test_the_still_picture_says_what_is_seen(lab):
    bundle, metadata = lab._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"] == "LearningRateLab: run the cell, then drag the learning rate"
    alt = metadata["image/png"]["alt"]
    assert "too slow from" in alt
    assert "diverges from" in alt
