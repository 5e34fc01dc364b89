"""Random correct loops: the doctor is silent, and the results are the same with it and without it."""

import pytest
import torch
from fuzz import draw, run
from loop_doctor import LoopDoctor
from loop_doctor.meanings import UNKNOWN

SEEDS = 200
BLOCKS = 8  # seeds are tested in blocks: a test each would cost more than the loops


def same(first, second) -> bool:
    """Compare two results to the last bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_correct_loops_are_left_in_peace(block, tmp_path):
    styles = set()
    for seed in range(block, SEEDS, BLOCKS):
        style = draw(seed)
        styles.add(style)
        alone = run(style, tmp_path / f"{seed}-alone")
        with LoopDoctor() as doctor:
            watched = run(style, tmp_path / f"{seed}-watched")
        assert doctor.findings == [], f"{style}\n{doctor}"
        assert same(alone, watched), style
        if style.log not in ("no", "accuracy"):
            assert UNKNOWN not in doctor.curves["loss"], f"{style}\n{doctor.curves}"
    assert len(styles) == SEEDS // BLOCKS
