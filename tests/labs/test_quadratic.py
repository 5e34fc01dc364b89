"""The bowl's lab: real steps of torch.optim.SGD, and words that fit them."""

import pytest

from course_utils.labs import QuadraticLab


@pytest.fixture(scope="module")
def lab():
    return QuadraticLab()


@pytest.mark.parametrize(
    ("lr", "words"),
    [
        (0.1, "rolls down on its side"),
        (0.25, "lands on the bottom in one step"),
        (0.45, "jumps across the valley at each step and still comes down"),
        (0.5, "from side to side for ever"),
        (0.6, "it diverges"),
    ],
)
def test_the_words_fit_what_the_ball_does(lab, lr, words):
    lab.curvature.value = 4.0
    lab.lr.value = lr
    lab.settle()
    assert words in lab._words.value
    assert f'data-shown="{lr:.4g}"' in lab._drawn.value
    factor = 1 - lr * 4.0
    assert lab.path == pytest.approx([factor**step for step in range(31)], rel=1e-4, abs=1e-6)


def test_the_goal_is_reached_by_landing_in_one_step(lab):
    lab.curvature.value, lab.lr.value = 5.0, 0.2
    lab.settle()
    assert "Goal reached" in lab._words.value
    lab.lr.value = 0.21
    lab.settle()
    assert "Goal reached" not in lab._words.value


def test_every_edge_of_the_sliders_is_drawn(lab):
    for curvature in (lab.curvature.min, lab.curvature.max):
        for lr in (lab.lr.min, lab.lr.max):
            lab.curvature.value, lab.lr.value = curvature, lr
            lab.settle()
            assert f'data-shown="{lr:.4g}"' in lab._drawn.value
            assert "nan" not in lab._drawn.value


def test_the_still_picture_is_a_png_with_words(lab):
    data, metadata = lab.picture()
    assert data["image/png"].startswith(b"\x89PNG")
    assert "at four learning rates" in metadata["image/png"]["alt"]
