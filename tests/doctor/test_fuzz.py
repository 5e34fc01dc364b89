"""Random correct loops: the doctor is silent, and the results are the same with it and without it."""

import pytest
import torch
from fuzz import SEEDS, draw, run
from loop_doctor import LoopDoctor
from loop_doctor.meanings import UNKNOWN

SAMPLE = 40  # how many of the seeds `make test` runs


def same(first, second) -> bool:
    """Compare two results to the last bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


# Seeds are tested in blocks: a test for each one would cost more than the loops.
@pytest.mark.parametrize(
    "seeds", [range(SAMPLE), pytest.param(range(SAMPLE, SEEDS), marks=pytest.mark.proof)], ids=["sample", "rest"]
)
def test_nothing_is_reported_on_random_correct_loops(seeds, tmp_path):
    styles = set()
    for seed in seeds:
        style = draw(seed)
        styles.add(style)
        alone = run(style, tmp_path / f"{seed}-alone")
        with LoopDoctor() as doctor:
            watched = run(style, tmp_path / f"{seed}-watched")
        assert doctor.findings == [], f"{style}\n{doctor}"
        assert same(alone, watched), style
        if style.log not in ("no", "accuracy"):
            assert UNKNOWN not in doctor.curves["loss"], f"{style}\n{doctor.curves}"
    assert len(styles) == len(seeds)
