"""The zero-grad lab: what it shows is what torch trains, at every position of every control."""

import itertools
import re
import threading
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from course_utils import data
from course_utils.experiments.accumulation import AccumulationConfig, iter_runs
from course_utils.labs import ZeroGradLab, base, zero_grad
from course_utils.labs.zero_grad import CLEAR_EVERY, RATES
from course_utils.models import make_model


@pytest.fixture(scope="module")
def lab():
    lab = ZeroGradLab(num_epochs=2)
    lab.settle(60)
    yield lab
    lab.close()


@pytest.fixture
def quick_lab(monkeypatch):
    """A lab of one epoch with three rows, redrawn after each micro-batch; only the first row is trained at once."""
    monkeypatch.setattr(zero_grad, "RATES", [2**-6, 0.5, 1.0])
    monkeypatch.setattr(base.Throttle, "due", lambda self: True)
    lab = ZeroGradLab(num_epochs=1)
    yield lab
    lab.close()


def choose(lab, clear_every, step="every", scale=False, lr=2**-6):
    lab.clear_every.value, lab.step.value, lab.scale.value, lab.lr.value = clear_every, step, scale, lr
    lab.settle(60)


def shown(lab):
    return ElementTree.fromstring(lab._front.value).get("data-shown")


def drawn(lab):
    """The `d` attributes of the lines in front."""
    return re.findall(r'<path d="([^"]*)"', lab._front.value)


def torch_run(clear_every, step, scale, lr, num_epochs=2, batch_size=16):
    """The loop as the lesson writes it: losses and lengths at each backward."""
    torch.manual_seed(0)
    model, loss_fn = make_model("mlp"), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    x, y = (tensor[:1408] for tensor in data.load("digits").train.dataset.tensors)
    losses, lengths, count = [], [], 0
    batches = data.Batches(x, y, batch_size=batch_size, seed=0)
    for _ in range(num_epochs):
        for inputs, labels in batches:
            count += 1
            loss = loss_fn(model(inputs), labels)
            (loss / clear_every if scale else loss).backward()
            losses.append(loss.item())
            lengths.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())
            last = clear_every != "never" and count % clear_every == 0
            if step == "every" or last:
                optimizer.step()
            if last:
                optimizer.zero_grad()
    return torch.tensor(losses), torch.tensor(lengths)


@pytest.mark.parametrize(
    "setting",
    [
        (1, "every", False, 0.25),
        (4, "every", False, 2**-6),
        (8, "every", True, 0.125),
        ("never", "every", False, 2**-8),
        (4, "once", True, 0.25),
        (16, "once", False, 2**-6),
        ("never", "once", False, 1.0),
    ],
)
def test_a_setting_shows_the_loop_that_torch_runs(lab, setting):
    choose(lab, *setting)
    losses, lengths = torch_run(*setting)
    _, own_losses, own_lengths = lab._shown()
    torch.testing.assert_close(own_losses, losses, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(own_lengths, lengths, rtol=2e-2, atol=2e-3)


def test_the_dashed_line_is_the_loop_with_large_batches(lab):
    losses, lengths = torch_run(1, "every", False, 0.25, batch_size=64)
    torch.testing.assert_close(lab.goal.losses[0], losses, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(lab.goal.norms[0], lengths, rtol=1e-3, atol=1e-4)
    assert "stroke-dasharray" in lab._back.value


def test_it_is_useful_before_any_click(quick_lab):
    assert shown(quick_lab) == "never every unscaled 0.015625"
    assert "SGD with momentum 1" in quick_lab._words.value
    assert "The loss goes from" in quick_lab._words.value
    assert len(drawn(quick_lab)) == 2


def test_every_position_shows_its_own_run(lab):
    seen = set()
    for clear_every in CLEAR_EVERY:
        choose(lab, clear_every)
        assert shown(lab) == f"{clear_every} every unscaled 0.015625"
        config, losses, _ = lab._shown()
        assert config == AccumulationConfig(2**-6, None if clear_every == "never" else clear_every)
        left, _ = lab._panels()
        means = losses.view(-1, 4).mean(1).tolist()
        assert drawn(lab)[0] == left.path(range(4, 177, 4), means)
        seen.add(drawn(lab)[0])
    assert len(seen) == len(CLEAR_EVERY)
    for rate in RATES:
        choose(lab, 4, lr=rate)
        assert shown(lab) == f"4 every unscaled {rate:g}"
        seen.add(drawn(lab)[0])
    assert len(seen) == len(CLEAR_EVERY) + len(RATES) - 1


def test_only_what_a_step_uses_is_drawn_on_the_right(lab):
    choose(lab, 8, "once")
    _, right = lab._panels()
    _, _, norms = lab._shown()
    assert drawn(lab)[1] == right.path(range(8, 177, 8), norms[7::8].tolist())
    choose(lab, "never", "once")
    assert drawn(lab)[1] == ""
    assert "no step is ever taken" in lab._front.value


@pytest.mark.parametrize("value", [0.001, 0.02, 5.0])
def test_a_rate_between_or_beyond_the_rows_shows_the_nearest(lab, value):
    choose(lab, 2, lr=value)
    assert lab._shown()[0].lr in RATES
    assert shown(lab).endswith({0.001: "0.00390625", 0.02: "0.015625", 5.0: "1"}[value])


def test_the_goal_has_exactly_two_ways(lab):
    ways = set()
    for clear_every, step, scale, lr in itertools.product(CLEAR_EVERY, ("every", "once"), (False, True), RATES):
        lab.clear_every.value, lab.step.value, lab.scale.value, lab.lr.value = clear_every, step, scale, lr
        if lab.reached():
            ways.add((clear_every, step, scale, lr))
    lab.settle(60)
    assert ways == {(4, "once", True, 0.25), (4, "once", False, 0.0625)}


def test_reaching_the_goal_is_said_and_so_is_the_other_way(lab):
    choose(lab, 4, "once", True, 0.25)
    assert "Goal reached ✓" in lab._words.value
    assert "second way, without the division" in lab._words.value
    choose(lab, 4, "once", False, 0.0625)
    assert "Goal reached ✓" in lab._words.value
    assert "second way, with the division" in lab._words.value
    choose(lab, 4, "once", False, 0.125)
    assert "Goal reached" not in lab._words.value
    assert "Goal: lay your curve on the dashed one" in lab._words.value


WORDS = {
    (1, "every", False): "the ordinary loop with batches of 16",
    (1, "once", True): "the ordinary loop with batches of 16",
    (4, "every", False): "a step uses the last 1 to 4 gradients.",
    (4, "every", True): "a step uses the last 1 to 4 gradients, divided by 4",
    (8, "once", True): "8 micro-batches, one step, as with batches of 128",
    (8, "once", False): "8 times too long, as if lr were 0.125",
    ("never", "every", False): "SGD with momentum 1",
    ("never", "once", False): "nothing moves",
}


@pytest.mark.parametrize("setting", WORDS)
def test_the_words_say_what_the_controls_make_of_the_loop(lab, setting):
    choose(lab, *setting)
    assert WORDS[setting] in lab._words.value


def test_the_words_name_the_micro_batches_that_never_reach_a_step(lab):
    choose(lab, 64, "once")
    assert "The last 48 micro-batches never reach a step" in lab._words.value
    choose(lab, 64, "every")
    assert "never reach a step" not in lab._words.value
    choose(lab, 16, "once")
    assert "never reach a step" not in lab._words.value


def test_the_words_name_a_loss_that_rose_again(lab):
    choose(lab, "never", lr=0.25)
    _, losses, _ = lab._shown()
    means = losses.view(-1, 4).mean(1)
    assert means[-1] > means.min() + 0.5
    assert f"after {means.min():.2f} on the way" in lab._words.value


def test_without_clearing_there_is_nothing_to_divide_by(lab):
    choose(lab, "never", scale=True)
    assert lab.scale.disabled
    assert "unscaled" in shown(lab)
    choose(lab, 2, scale=True)
    assert not lab.scale.disabled
    assert " scaled" in shown(lab)


def test_a_row_that_is_asked_for_is_trained_first_and_fills_in(quick_lab, monkeypatch):
    lab = quick_lab
    lab.computing.cancel()
    lab.settle(60)
    lab.rows = {2**-6: lab.rows[2**-6]}
    words, draw = [], lab._draw_front
    monkeypatch.setattr(lab, "_draw_front", lambda: (draw(), words.append(lab._words.value)))
    lab.lr.value = 1.0
    lab.settle(60)
    assert list(lab.rows) == [2**-6, 1.0, 0.5]
    assert any("Training: " in text for text in words)
    assert "The loss goes from" in words[-1]


def test_rows_already_trained_are_not_trained_again(lab, monkeypatch):
    choose(lab, 2)

    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(zero_grad, "iter_runs", never)
    for rate in RATES:
        choose(lab, 2, lr=rate)


def test_closing_ends_the_training(quick_lab, monkeypatch):
    quick_lab.computing.cancel()
    quick_lab.settle(60)
    quick_lab.rows.pop(1.0, None)
    begun = threading.Event()

    def endless(*args, **options):
        runs = next(iter_runs(*args, **options))
        begun.set()
        while True:
            yield runs

    monkeypatch.setattr(zero_grad, "iter_runs", endless)
    quick_lab.lr.value = 1.0
    assert begun.wait(60)
    quick_lab.close()
    quick_lab.computing.settle(60)
    assert not quick_lab._finished(1.0)


def test_an_error_in_the_training_is_shown_and_raised(quick_lab, monkeypatch):
    lab = quick_lab
    lab.computing.cancel()
    lab.settle(60)
    lab.rows.pop(1.0, None)

    def fail(*_, **__):
        raise RuntimeError("no memory for this row")

    with monkeypatch.context() as patch:
        patch.setattr(zero_grad, "iter_runs", fail)
        lab.lr.value = 1.0
        with pytest.raises(RuntimeError, match="no memory for this row"):
            lab.settle(60)
        assert "RuntimeError: no memory for this row" in lab._error_box.value
    lab.lr.value = 0.5
    lab.settle(60)
    assert lab._error_box.value == ""


def test_the_learners_random_numbers_stay_as_they_were(monkeypatch):
    monkeypatch.setattr(zero_grad, "RATES", [2**-6, 1.0])
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    lab = ZeroGradLab(num_epochs=1)
    lab.settle(60)
    lab.close()
    assert torch.equal(torch.rand(3), expected)


def test_the_still_picture_says_what_is_seen(lab):
    choose(lab, 4)
    bundle, metadata = lab._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"] == "ZeroGradLab: run the cell, then choose how often the gradients are cleared"
    alt = metadata["image/png"]["alt"]
    assert "never cleared" in alt
    assert "at learning rate 0.0156" in alt
