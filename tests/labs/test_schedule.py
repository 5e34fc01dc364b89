"""The schedule lab: the curve that is drawn is the one that is trained, by PyTorch and for real."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from torch.optim import lr_scheduler

from course_utils import data
from course_utils.experiments import scheduled_training
from course_utils.experiments.scheduled_training import CONSTANT_RATES, SHAPES, ScheduledRun
from course_utils.labs import ScheduleLab, base
from course_utils.labs.schedule import OPTIMIZERS
from course_utils.models import make_model
from course_utils.optimizers import make_optimizer


@pytest.fixture(scope="module")
def lab():
    return ScheduleLab(num_epochs=3)


def choose(lab, **values):
    for name, value in values.items():
        getattr(lab, name).value = value
    lab.settle(60)


def line(part):
    return re.findall(r'<path d="(M[^"]+L[^"]+)"', part.value)[-1]


def test_it_is_useful_before_any_click(lab):
    assert ElementTree.fromstring(lab._curve.value).get("data-shown") == "0.1"
    assert len(lab.run.losses) == 69
    assert "the mean loss of the last epoch is" in lab._words.value
    assert "Goal: end below" in lab._words.value


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_what_is_drawn_is_what_is_trained(lab, shape, warmup):
    choose(lab, optimizer="momentum", lr=0.1, shape=shape, warmup=warmup, final=0.1)
    rates, losses = lab.run.rates, lab.run.losses
    assert rates == lab.rates
    assert len(losses) == len(rates) == 69
    left, right = lab._panels()
    assert line(lab._curve) == left.path(range(69), rates)
    assert line(lab._loss) == right.path(range(1, 70), losses)
    assert max(rates) == pytest.approx(0.1)
    assert rates[0] == pytest.approx(0.01 if warmup else 0.1)


def test_a_handle_that_comes_back_to_its_place_shows_the_run_that_it_showed(lab):
    """Keys may leave it a rounding error away, and the number of warm-up steps is rounded down."""
    place = {"lr": 10**-0.5, "warmup": 0.1, "final": 0.1}
    choose(lab, optimizer="momentum", shape="cosine", **place)
    trained, drawn = lab.run, lab._curve.value
    assert lab.rates[5] < lab.rates[6] == max(lab.rates)
    for towards in (0.0, 1.0):
        choose(lab, **{name: math.nextafter(value, towards) for name, value in place.items()})
        assert lab.run == trained
        assert lab._curve.value == drawn


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values())
def test_the_run_is_pytorchs_own(lab, optimizer):
    """The same losses, to the last bit where the rates are, from PyTorch's own cosine in a loop written out."""
    choose(lab, optimizer=optimizer, lr=0.03, shape="cosine", warmup=0.0, final=0.001)
    torch.manual_seed(0)
    model, loss_fn, losses = make_model("mlp"), torch.nn.CrossEntropyLoss(), []
    own = make_optimizer(optimizer, model.parameters(), lab.lr.value)
    scheduler = lr_scheduler.CosineAnnealingLR(own, 69, eta_min=0.001 * lab.lr.value)
    batches = data.load("digits").train
    for _ in range(3):
        for x, y in batches:
            own.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            own.step()
            scheduler.step()
            losses.append(loss.item())
    assert lab.run.losses == pytest.approx(losses, rel=1e-3)
    said = float(re.search(r"the mean loss of the last epoch is ([\d.]+),", lab._words.value)[1])
    assert said == pytest.approx(sum(losses[-23:]) / 23, rel=0.01)


@pytest.mark.parametrize(("final", "reached"), [(0.81, False), (0.79, True), (math.nan, False)])
def test_the_goal_is_a_fifth_below_the_best_constant_rate(lab, final, reached):
    choose(lab, optimizer="momentum", lr=0.1)
    trained, rates = lab.run, lab.rates
    lab.run = ScheduledRun(rates, [final * lab.best.final_loss] * lab.num_steps, 0.5)
    assert lab.reached == reached
    assert ("Goal reached" in lab._sentence()) == reached
    lab.run = ScheduledRun(rates, [0.0] * 5)
    assert not lab.reached, "a run under way has reached nothing"
    lab.run = trained


def test_the_goal_can_be_reached_and_not_with_a_constant_rate():
    lab = ScheduleLab()
    for rate in (0.1, 0.2, 0.3):
        choose(lab, lr=rate)
        assert "Goal: end below" in lab._words.value
    choose(lab, shape="linear", warmup=0.1)
    assert lab.lr.value == pytest.approx(0.3, rel=0.2)
    assert "Goal reached ✓" in lab._words.value
    assert lab.reached


def test_the_best_constant_rate_is_the_best_of_the_row(lab):
    choose(lab, optimizer="sgd", shape="constant", warmup=0.0)
    rate, losses, final = lab.best.lr, lab.best.losses, lab.best.final_loss
    choose(lab, lr=rate)
    assert lab.run.losses == pytest.approx(losses, rel=0.05)
    for other in (rate / 10**0.5, 1.0):
        choose(lab, lr=other)
        assert lab._training.final_loss(lab.run.losses) > final


def test_a_change_during_a_run_ends_with_the_last(lab):
    for rate in CONSTANT_RATES[::3]:
        lab.lr.value = rate
    lab.settle(60)
    assert lab.run.rates[0] == pytest.approx(CONSTANT_RATES[24] * lab._config().factor(0, 69))
    assert "at the start" in lab._words.value


def test_a_run_under_way_is_shown_as_such(lab, monkeypatch):
    monkeypatch.setattr(base.Throttle, "due", lambda self: True)
    seen = []
    draw = lab._draw_loss
    monkeypatch.setattr(lab, "_draw_loss", lambda run: (seen.append(len(run.losses)), draw(run)))
    monkeypatch.setattr(lab.drawing, "submit", lambda job: job(lambda: False))
    lab.lr.value = 0.2
    lab.computing.settle(60)
    assert seen == [23, 46, 69]
    assert lab._trained_with.lr == pytest.approx(lab.lr.value)


def test_words_of_the_run_before_are_not_said_of_this_one(lab):
    choose(lab, lr=0.1)
    with lab.lr.hold_trait_notifications():
        lab.lr.value = 0.5
        assert "Training for real" in lab._sentence()
        lab.lr.value = 0.1
    lab.settle(60)


def test_a_rate_that_breaks_training_is_drawn_and_said(lab):
    choose(lab, optimizer="adam", shape="constant", lr=1.0, warmup=0.0)
    assert "at the start" in lab._words.value
    assert "nan" not in lab._loss.value
    choose(lab, optimizer="momentum")


def test_the_learners_random_numbers_are_left_alone(lab):
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    ScheduleLab(num_epochs=1)
    choose(lab, lr=0.02)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("edge", ["min", "max"])
def test_every_edge_of_the_sliders_is_drawn(lab, edge):
    for slider in (lab.lr, lab.warmup, lab.final):
        value = getattr(slider, edge)
        choose(lab, shape="exponential")
        slider.value = value if slider is lab.warmup else 10.0**value
        lab.settle(60)
        assert "nan" not in lab._curve.value + lab._loss.value
        assert len(lab.run.losses) == 69


def test_an_error_in_the_training_is_shown(lab, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no optimizer today")

    monkeypatch.setattr(scheduled_training, "make_optimizer", fail)
    lab.lr.value = 0.05
    with pytest.raises(ValueError, match="no optimizer today"):
        lab.settle(60)
    assert "no optimizer today" in lab._error_box.value
    monkeypatch.undo()
    choose(lab, lr=0.1)
    assert lab._error_box.value == ""


def test_the_still_picture_says_what_is_seen(lab):
    choose(lab, optimizer="momentum", shape="cosine", lr=0.1)
    bundle, metadata = lab._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"] == "ScheduleLab: run the cell, then draw a schedule with the sliders"
    assert re.search(r"of 69 steps, cosine, from 0\.\d+ to", metadata["image/png"]["alt"])
