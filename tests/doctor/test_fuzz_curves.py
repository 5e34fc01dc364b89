"""Random loops that log losses: the doctor is silent about numbers that are right, and names what is wrong."""

import itertools

import pytest
from fuzz_curves import MISTAKES, SEEDS, draw, run
from loop_doctor import LoopDoctor
from test_fuzz import same

SAMPLE = 20  # how many of the seeds `make test` runs


@pytest.mark.parametrize(
    "seeds", [range(SAMPLE), pytest.param(range(SAMPLE, SEEDS), marks=pytest.mark.proof)], ids=["sample", "rest"]
)
def test_nothing_is_reported_about_random_numbers_that_are_right(seeds, tmp_path):
    for seed in seeds:
        style = draw(seed)
        alone = run(style, tmp_path / f"{seed}-alone")
        with LoopDoctor() as doctor:
            watched = run(style, tmp_path / f"{seed}-watched")
        assert doctor.findings == [], f"{style}\n{doctor}"
        assert same(alone, watched), style


@pytest.mark.parametrize(
    "seeds", [range(2), pytest.param(range(2, 30), marks=pytest.mark.proof)], ids=["sample", "rest"]
)
def test_random_numbers_that_are_wrong_are_named(seeds, tmp_path):
    for seed, (mistake, code) in itertools.product(seeds, MISTAKES.items()):
        style = draw(seed, mistake)
        with LoopDoctor() as doctor:
            run(style, tmp_path / f"{seed}-{mistake}")
        assert [finding.code for finding in doctor.findings] == [code], f"{style}\n{doctor}"
