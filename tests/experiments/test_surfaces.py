"""Surfaces of two weights: their gradients against autograd, and their paths against loops with autograd."""

import itertools
import math

import pytest
import torch

from course_utils.experiments.surfaces import NUM_STEPS, OPTIMIZERS, RING_RADIUS, SURFACES, walk

POINTS = [(-2.4, 0.8), (0.7, -0.3), (0.0, 0.0), (2.9, -1.9), (-0.01, 1.7)]


@pytest.mark.parametrize("surface", SURFACES.values(), ids=list(SURFACES))
def test_the_gradient_written_out_is_autograds(surface):
    for point in [*POINTS, surface.start, *surface.minima]:
        x, y = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in point)
        gradient = torch.autograd.grad(surface.loss(x, y), (x, y))
        assert surface.gradient(*point) == pytest.approx([part.item() for part in gradient], abs=1e-12)


@pytest.mark.parametrize("surface", SURFACES.values(), ids=list(SURFACES))
def test_the_minima_are_the_lowest_points_of_the_picture(surface):
    for minimum in surface.minima:
        assert surface.loss(*minimum) == pytest.approx(0, abs=1e-15)
        assert surface.gradient(*minimum) == pytest.approx((0, 0), abs=1e-15)
        assert surface.distance(*minimum) == 0
    grid = itertools.product(torch.linspace(-3, 3, 61).tolist(), torch.linspace(-2, 2, 41).tolist())
    assert all(surface.loss(x, y) > 0 or surface.distance(x, y) < 1e-6 for x, y in grid)
    assert surface.contains(*surface.start)


def with_autograd(surface, make, num_steps):
    w = torch.tensor(surface.start, dtype=torch.float64, requires_grad=True)
    optimizer, path = make([w]), [surface.start]
    for _ in range(num_steps):
        optimizer.zero_grad()
        surface.loss(w[0], w[1]).backward()
        optimizer.step()
        path.append(tuple(w.tolist()))
    return path


MAKERS = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.05),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.8),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=0.05),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.05, betas=(0.8, 0.999)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("surface", SURFACES.values(), ids=list(SURFACES))
def test_a_path_is_the_one_that_torch_takes_with_autograd(surface, optimizer):
    path = walk(surface, optimizer, lr=0.05, momentum=0.8)
    oracle = with_autograd(surface, MAKERS[optimizer], 40)
    assert len(path) == 41
    for point, right in zip(path, oracle, strict=True):
        assert point == pytest.approx(right, rel=1e-9, abs=1e-9)


def test_five_numbers_by_hand():
    x = -2.4
    assert walk(SURFACES["round bowl"], "SGD", lr=1.0, num_steps=4) == [
        (x, 1.2),
        (x / 2, 0.6),
        (x / 4, 0.3),
        (x / 8, 0.15),
        (x / 16, 0.075),
    ]


def test_a_path_ends_with_its_first_point_outside_the_picture():
    surface = SURFACES["narrow valley"]
    path = walk(surface, "SGD", lr=1.0)
    assert not surface.contains(*path[-1])
    assert all(surface.contains(*point) for point in path[:-1])
    assert len(path) < 41


def test_a_point_that_is_no_number_is_outside():
    surface = SURFACES["saddle"]
    assert not surface.contains(math.nan, 0.0)
    assert not surface.contains(0.0, math.inf)
    assert surface.contains(3.0, -2.0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm': did you mean 'Adam'"),
        ({"lr": 0.0}, r"lr must be a finite number above 0, got 0\.0"),
        ({"momentum": 1.0}, r"momentum must be at least 0 and below 1, got 1\.0"),
        ({"momentum": math.nan}, "momentum must be at least 0 and below 1, got nan"),
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, got 0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_quoted(wrong, words):
    with pytest.raises(ValueError, match=words):
        walk(SURFACES["saddle"], **{"optimizer": "SGD", "lr": 0.1, **wrong})


def test_arrival_is_the_step_from_which_on_a_path_stays():
    bowl = SURFACES["round bowl"]
    near, far = (RING_RADIUS / 2, 0.0), (2.0, 0.0)
    assert bowl.arrival([far] * 5 + [near] * (NUM_STEPS - 4)) == 5
    comes_back = [far] * 5 + [near] * 3 + [far] * 2 + [near] * (NUM_STEPS - 9)
    assert bowl.arrival(comes_back) == 10
    assert bowl.arrival([far] * 5 + [near] * (NUM_STEPS - 5) + [far]) is None
    assert bowl.arrival([far] * 5 + [near] * 15) is None
