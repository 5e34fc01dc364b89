"""Schedules of a few parameters: their shapes, and the run that is trained under each."""

import pytest

from course_utils.experiments.scheduled_training import (
    CONSTANT_RATES,
    SHAPES,
    ScheduleConfig,
    ScheduledTraining,
    lr_factor,
)


def test_the_rates_are_eight_per_decade_from_0001_to_1():
    assert (len(CONSTANT_RATES), CONSTANT_RATES[0], CONSTANT_RATES[16], CONSTANT_RATES[-1]) == (25, 0.001, 0.1, 1.0)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "constant"])
@pytest.mark.parametrize("final", [0.001, 0.1, 1.0])
def test_every_shape_ends_at_its_final_share(shape, final):
    factors = [lr_factor(step, 200, shape=shape, warmup=0.1, final=final) for step in range(201)]
    assert factors[0] == 0.1
    assert factors[20] == 1.0
    assert factors[200] == pytest.approx(final)
    assert factors[20:] == sorted(factors[20:], reverse=True)


def test_a_constant_rate_ignores_the_final_share():
    assert set(ScheduleConfig("sgd", 0.1, "constant", 0.0, 0.001).rates(69)) == {0.1}


def test_a_run_fills_in_step_by_step_and_has_its_accuracy_at_the_end():
    training = ScheduledTraining(num_epochs=1)
    config = ScheduleConfig("momentum", 0.1, "linear", 0.0, 0.1)
    lengths = []
    for run in training.iter_run(config):
        lengths.append(len(run.losses))
        assert (run.accuracy >= 0) == (len(run.losses) == training.num_steps)
    assert lengths == list(range(1, 24))
    assert run.rates == config.rates(23)
    assert run.accuracy > 0.4
    assert training.final_loss(run.losses) == pytest.approx(sum(run.losses) / 23)
