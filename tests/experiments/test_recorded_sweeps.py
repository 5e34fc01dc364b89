"""Sweeps that are trained once: their rates, their files, and one run at a rate between the others."""

import itertools

import pytest
import torch

from course_utils.experiments import recorded_sweeps
from course_utils.experiments.recorded_sweeps import RATES, RECORDED, SweepConfig


@pytest.fixture
def few_rates(monkeypatch):
    monkeypatch.setattr(recorded_sweeps, "RATES", [0.01, 0.1])


def test_the_rates_are_eight_per_decade_from_1e_5_to_10():
    assert (len(RATES), RATES[0], RATES[32], RATES[-1]) == (49, 1e-5, 0.1, 10)
    assert all(1.33 < high / low < 1.34 for low, high in itertools.pairwise(RATES))


def test_the_recorded_sweeps_are_found_by_their_configs():
    for path in RECORDED.glob("*.json"):
        model, optimizer, *momentum, batch_size, num_epochs, seed = path.stem.split("-")
        config = SweepConfig(model, optimizer, *map(float, momentum))
        assert (config.batch_size, config.num_epochs, config.seed) == (int(batch_size), int(num_epochs), int(seed))
        assert config.find([RECORDED]).optimizer == optimizer


def test_a_stored_sweep_is_found_in_the_first_folder_that_has_it(tmp_path, few_rates):
    config = SweepConfig(optimizer="momentum", momentum=0.5, num_epochs=1)
    *_, sweep = config.train()
    assert config.find([tmp_path]) is None
    sweep.save(tmp_path / config.file_name)
    found = config.find([tmp_path / "missing", tmp_path])
    assert torch.equal(found.losses, sweep.losses)
    assert found.options == {"momentum": 0.5}


def test_a_sweep_of_other_rates_is_refused(tmp_path, few_rates, monkeypatch):
    config = SweepConfig(num_epochs=1)
    *_, sweep = config.train()
    sweep.save(tmp_path / config.file_name)
    monkeypatch.setattr(recorded_sweeps, "RATES", [0.5])
    with pytest.raises(ValueError, match=r"mlp-sgd-64-1-0\.json' holds other learning rates than this lesson's"):
        config.find([tmp_path])


def test_one_run_equals_the_sweeps_run_at_its_rate(few_rates):
    config = SweepConfig(num_epochs=1)
    *_, sweep = config.train()
    history = config.train_once(0.1, lambda *_: None)
    assert [loss for _, loss in history.step_loss] == pytest.approx(sweep.losses[1].tolist(), rel=1e-4)
