"""Runs that clear, scale and step in their own way: each is the loop that PyTorch runs when it is written down."""

import pytest
import torch
from torch import nn

from course_utils import data, models
from course_utils.experiments.accumulation import AccumulationConfig, iter_runs

CONFIGS = [
    AccumulationConfig(0.1),
    AccumulationConfig(0.1, 4),
    AccumulationConfig(0.1, None),
    AccumulationConfig(0.2, 4, step_once=True),
    AccumulationConfig(0.2, 4, step_once=True, scaled=True),
    AccumulationConfig(0.2, 5, scaled=True),
    AccumulationConfig(0.3, 3, step_once=True),
    AccumulationConfig(0.3, None, step_once=True),
    AccumulationConfig(0.05, None, scaled=True),
]


@pytest.fixture
def batches():
    x, y = data.load("digits").train.dataset.tensors
    return data.Batches(x[:160], y[:160], batch_size=16, seed=3)


def make_mlp():
    torch.manual_seed(0)
    return models.MLP(hidden=(12,))


def make_cnn():
    torch.manual_seed(0)
    return models.CNN(channels=(2, 3))


def make_dropout_free_residual():
    """A model whose layers a stack cannot run one by one, so that it takes the way by vmap."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.out = nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, x):
            h = x.flatten(1)
            return self.out(h + self.inner(h).tanh())

    torch.manual_seed(0)
    return Residual()


def written_down(model, batches, config, num_epochs):
    """The loop as a lesson writes it, with torch.optim.SGD."""
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), lr=config.lr), nn.CrossEntropyLoss()
    losses, norms, count = [], [], 0
    for epoch in range(num_epochs):
        batches.set_epoch(epoch)
        for x, y in batches:
            count += 1
            loss = loss_fn(model(x), y)
            (loss / config.clear_every if config.scaled and config.clear_every else loss).backward()
            losses.append(loss.item())
            norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())
            clear = config.clear_every is not None and count % config.clear_every == 0
            if clear or not config.step_once:
                optimizer.step()
            if clear:
                optimizer.zero_grad()
    return torch.tensor(losses), torch.tensor(norms)


@pytest.mark.parametrize("make_model", [make_mlp, make_cnn, make_dropout_free_residual])
def test_each_run_is_the_loop_written_down(batches, make_model):
    *_, runs = iter_runs(make_model(), batches, CONFIGS, num_epochs=2)
    assert runs.done == 20
    assert runs.configs == CONFIGS
    for row, config in enumerate(CONFIGS):
        losses, norms = written_down(make_model(), batches, config, 2)
        torch.testing.assert_close(runs.losses[row], losses, rtol=1e-3, atol=1e-4, msg=str(config))
        torch.testing.assert_close(runs.norms[row], norms, rtol=1e-3, atol=1e-4, msg=str(config))


def test_runs_fill_in_and_are_nan_beyond(batches):
    seen = []
    for runs in iter_runs(make_mlp(), batches, CONFIGS[:2], num_epochs=1):
        seen.append(runs.done)
        assert runs.losses[:, : runs.done].isfinite().all()
        assert runs.losses[:, runs.done :].isnan().all()
        assert runs.norms[:, runs.done :].isnan().all()
    assert seen == list(range(1, 11))


def test_four_scaled_micro_batches_are_one_large_batch(batches):
    x, y = batches.dataset.tensors
    large = data.Batches(x[:128], y[:128], batch_size=64, seed=0)
    small = data.Batches(x[:128], y[:128], batch_size=16, seed=0)
    *_, one = iter_runs(make_mlp(), large, [AccumulationConfig(0.3)], num_epochs=4)
    configs = [AccumulationConfig(0.3, 4, step_once=True, scaled=True), AccumulationConfig(0.075, 4, step_once=True)]
    *_, four = iter_runs(make_mlp(), small, configs, num_epochs=4)
    for row in four.losses:
        torch.testing.assert_close(row.view(-1, 4).mean(1), one.losses[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(four.norms[0, 3::4], one.norms[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(four.norms[1, 3::4], 4 * one.norms[0], rtol=1e-3, atol=1e-4)


def test_a_run_that_breaks_leaves_the_others_alone(batches):
    configs = [AccumulationConfig(0.1), AccumulationConfig(1e30), AccumulationConfig(1e30, 3, step_once=True)]
    *_, runs = iter_runs(make_mlp(), batches, configs, num_epochs=1)
    *_, alone = iter_runs(make_mlp(), batches, configs[:1], num_epochs=1)
    assert not runs.losses[1].isfinite().all()
    assert runs.losses[2, :3].isfinite().all(), "no step has been taken before the third micro-batch"
    torch.testing.assert_close(runs.losses[0], alone.losses[0], rtol=1e-4, atol=1e-5)


def test_a_gradient_that_overflows_moves_nothing_before_its_step():
    """0 × infinity would be NaN, and the weights with it."""
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5], [-0.5]]))
    batches = data.Batches(torch.full((4, 1), 3e38), torch.ones(4, dtype=torch.int64), batch_size=1)
    *_, runs = iter_runs(model, batches, [AccumulationConfig(0.1, 4, step_once=True)], num_epochs=1)
    assert runs.norms[0, 1:].isinf().all()
    assert torch.equal(runs.losses[0], runs.losses[0, :1].expand(4))
    assert runs.losses.isfinite().all()


def test_the_model_and_the_random_numbers_stay_as_they_were(batches):
    model = make_mlp()
    before = [weight.clone() for weight in model.parameters()]
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    list(iter_runs(model, batches, CONFIGS, num_epochs=1))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.rand(2), expected)


def test_a_frozen_weight_stays(batches):
    model = make_mlp()
    for weight in model.base.parameters():
        weight.requires_grad_(False)
    *_, runs = iter_runs(model, batches, [AccumulationConfig(0.2), AccumulationConfig(0.2, None)], num_epochs=1)
    optimizer = torch.optim.SGD(model.classifier.parameters(), lr=0.2)
    batches.set_epoch(0)
    for count, (x, y) in enumerate(batches):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        assert runs.losses[0, count].item() == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("value", [0, -0.1, float("nan"), "0.1", True])
def test_a_rate_that_is_no_positive_number_is_refused(value):
    with pytest.raises(ValueError, match=r"lr must be a finite number above 0, got .*" + str(value)):
        AccumulationConfig(value)


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_a_count_that_makes_no_sense_is_refused(value):
    with pytest.raises(ValueError, match="clear_every must be a whole number of at least 1, got"):
        AccumulationConfig(0.1, value)


def test_no_configs_are_refused(batches):
    with pytest.raises(ValueError, match=r"configs must describe at least one run, got \[\]"):
        next(iter_runs(make_mlp(), batches, [], num_epochs=1))


def test_no_epochs_are_refused(batches):
    with pytest.raises(ValueError, match="num_epochs must be a whole number of at least 1, got 0"):
        next(iter_runs(make_mlp(), batches, [AccumulationConfig(0.1)], num_epochs=0))


def test_when_a_config_clears_and_steps():
    every, once, never = (
        AccumulationConfig(0.1, 3),
        AccumulationConfig(0.1, 3, step_once=True),
        AccumulationConfig(0.1, None, step_once=True),
    )
    counts = range(1, 7)
    assert [every.clears(count) for count in counts] == [False, False, True] * 2
    assert all(every.steps(count) for count in counts)
    assert [once.steps(count) for count in counts] == [False, False, True] * 2
    assert not any(never.steps(count) or never.clears(count) for count in counts)
    assert AccumulationConfig(0.1, 4, scaled=True).factor == 0.25
    assert AccumulationConfig(0.1, 4).factor == AccumulationConfig(0.1, None, scaled=True).factor == 1.0
