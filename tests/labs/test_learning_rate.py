"""The learning-rate lab: what it shows is what was trained, at every position of every control."""

import itertools
import json
import math
import re
import xml.etree.ElementTree as ElementTree

import photograph
import pytest
import torch

from course_utils import data
from course_utils.labs import LearningRateLab, learning_rate
from course_utils.labs.learning_rate import RATES
from course_utils.lr import sweep_lr
from course_utils.models import MLP, make_model
from course_utils.optimizers import make_optimizer


@pytest.fixture(scope="module")
def lab():
    return LearningRateLab()


def shown(lab):
    return float(ElementTree.fromstring(lab._front.value).get("data-shown"))


def test_the_rates_are_eight_a_decade_from_1e_5_to_10():
    assert len(RATES) == 49
    assert RATES[0] == 1e-5
    assert RATES[-1] == 10
    assert RATES[32] == 0.1
    assert all(1.33 < high / low < 1.34 for low, high in itertools.pairwise(RATES))


def test_it_is_useful_before_any_click(lab):
    fresh = LearningRateLab()
    assert shown(fresh) == 0.3162
    assert "works" in fresh._words.value
    x, y = data.load("digits").train.dataset.tensors
    oracle = sweep_lr(MLP, x, y, RATES, optimizer="sgd", num_epochs=5, batch_size=64, seed=0)
    assert torch.equal(fresh.sweep.losses.nan_to_num(), oracle.losses.nan_to_num())


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
def test_another_optimizer_brings_its_own_sweep(lab, optimizer):
    before = lab.sweep
    lab.optimizer.value = optimizer
    lab.settle(60)
    assert lab.sweep is not before
    assert lab.sweep.optimizer == optimizer
    assert lab.sweep.steps_done == lab.sweep.losses.shape[1]
    assert lab.momentum.disabled == (optimizer != "momentum")


def test_momentum_and_batch_size_change_what_is_trained():
    lab = LearningRateLab(num_epochs=1)
    lab.optimizer.value = "momentum"
    lab.settle(60)
    usual = lab.sweep
    lab.momentum.value = 0.99
    lab.settle(60)
    assert not torch.equal(lab.sweep.losses.nan_to_num(), usual.losses.nan_to_num())
    lab.batch_size.value = 128
    lab.settle(60)
    assert lab.sweep.losses.shape[1] == math.ceil(1437 / 128)


def test_a_sweep_already_made_is_not_made_again(lab, monkeypatch):
    lab.optimizer.value = "adam"
    lab.settle(60)
    adam = lab.sweep
    lab.optimizer.value = "sgd"
    lab.settle(60)

    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(learning_rate, "iter_sweep_lr", never)
    lab.optimizer.value = "adam"
    lab.settle(60)
    assert lab.sweep is adam
    lab.optimizer.value = "sgd"
    lab.settle(60)


def test_changing_the_setting_again_and_again_ends_with_the_last():
    lab = LearningRateLab(num_epochs=2)
    for optimizer in ("momentum", "rmsprop", "adamw", "adam"):
        lab.optimizer.value = optimizer
    lab.settle(60)
    assert lab.sweep.optimizer == "adam"
    assert lab.sweep.steps_done == lab.sweep.losses.shape[1]


def test_a_sweep_fills_in_and_a_stopped_one_can_be_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path))
    monkeypatch.setattr(learning_rate, "REDRAW", 0.0)
    lab = LearningRateLab(num_epochs=1, seed=3)
    told = []
    monkeypatch.setattr(lab, "tell", lambda share, words: (told.append(share), len(told) == 4 and lab.stop()))
    lab.optimizer.value = "adam"
    lab.settle(60)
    assert told == sorted(told)
    assert len(told) == 4
    assert 0 < lab.sweep.steps_done < lab.sweep.losses.shape[1]
    assert "step" in lab._words.value
    assert lab._status.value == "stopped"
    lab.optimizer.value = "sgd"
    lab.settle(60)
    assert lab._status.value == ""
    lab.optimizer.value = "adam"
    lab.settle(60)
    assert lab.sweep.steps_done == lab.sweep.losses.shape[1]


def test_a_slow_sweep_is_kept_in_the_learners_folder_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path))
    monkeypatch.setattr(learning_rate, "KEEP_AFTER", 0.0)
    lab = LearningRateLab(num_epochs=1)
    kept = tmp_path / "sweeps" / "mlp-sgd-64-1-0.json"
    assert kept.exists()
    again = LearningRateLab(num_epochs=1)
    assert torch.allclose(again.sweep.losses, lab.sweep.losses, rtol=1e-3, equal_nan=True)


def test_a_damaged_kept_sweep_is_told_and_trained_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path))
    kept = tmp_path / "sweeps" / "mlp-sgd-64-1-0.json"
    kept.parent.mkdir()
    kept.write_text("{half")
    lab = LearningRateLab(num_epochs=1)
    assert lab.sweep.steps_done == lab.sweep.losses.shape[1]
    assert "mlp-sgd-64-1-0.json" in lab._status.value


def test_a_folder_that_cannot_be_written_is_told_and_the_lab_works(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path / "file" / "learner"))
    monkeypatch.setattr(learning_rate, "KEEP_AFTER", 0.0)
    lab = LearningRateLab(num_epochs=1)
    lab.settle()
    assert "cannot be written" in lab._status.value
    assert lab.sweep.steps_done == lab.sweep.losses.shape[1]


def test_the_exact_run_trains_with_torch_at_the_handles_own_rate(lab):
    lab.optimizer.value = "sgd"
    lab.settle(60)
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


def test_the_exact_run_can_be_stopped(monkeypatch):
    monkeypatch.setattr(learning_rate, "REDRAW", 0.0)
    lab = LearningRateLab(num_epochs=8)
    monkeypatch.setattr(lab, "tell", lambda share, words: share > 0.01 and lab.halt.click())
    lab.train.click()
    lab.settle(60)
    assert 0 < len(lab.exact[1]) < 8 * 23 // 2


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
