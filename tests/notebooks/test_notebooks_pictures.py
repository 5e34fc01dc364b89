"""The comparison of pictures forgives noise and sees another curve."""

import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from pictures import MOVED_INK, moved_ink

STEPS = np.arange(115)
LOSSES = 2.3 * np.exp(-STEPS / 30) + 0.1 * np.sin(STEPS)


def drawn(losses: np.ndarray, width: float = 4.6) -> np.ndarray:
    figure = Figure(figsize=(width, 3.3), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    ax.plot(losses)
    ax.set_xlabel("step")
    ax.grid(color="#dddddd")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return imread(io.BytesIO(buffer.getvalue()))


def test_same_picture_moves_no_ink():
    assert moved_ink(drawn(LOSSES), drawn(LOSSES)) == 0.0


def test_rounding_noise_is_forgiven():
    noise = 0.01 * np.random.default_rng(0).normal(size=LOSSES.size)
    assert 0 < moved_ink(drawn(LOSSES), drawn(LOSSES + noise)) < MOVED_INK / 2


@pytest.mark.parametrize(
    "other", [2.3 * np.exp(-STEPS / 60), np.full(115, 2.3), 2.3 * np.exp(STEPS / 30), np.full(115, np.nan)]
)
def test_another_curve_is_seen(other):
    assert moved_ink(drawn(LOSSES), drawn(other)) > 2 * MOVED_INK


def test_another_size_is_another_picture():
    assert moved_ink(drawn(LOSSES), drawn(LOSSES, width=9.2)) == 1.0


def test_two_blank_pictures_have_no_ink_to_move():
    assert moved_ink(np.ones((80, 80, 3)), np.ones((80, 80, 3))) == 0.0
