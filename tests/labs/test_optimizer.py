"""The optimizers' lab: the paths are torch's, the sentences fit them, and each goal can be reached."""

import re
import threading
import xml.etree.ElementTree as ElementTree

import pytest

from course_utils.experiments.surfaces import NUM_STEPS, OPTIMIZERS, SURFACES, walk
from course_utils.labs import OptimizerLab, optimizer
from course_utils.labs.optimizer import WANTED, cached_contours

RATES = [10 ** (-3 + index / 16) for index in range(57)]
# One setting for each surface with which its goal is reached, and one beside it with which it is not.
REACHED = {
    "narrow valley": (10**-0.75, 0.8),
    "round bowl": (10**-0.75, 0.5),
    "bent valley": (10**-0.5, 0.8),
    "saddle": (10**-0.75, 0.8),
}


@pytest.fixture
def lab():
    made = OptimizerLab()
    yield made
    made.close()


def set_to(lab, lr, momentum, surface="narrow valley"):
    lab.surface.value, lab.lr.value, lab.momentum.value = surface, lr, momentum
    lab.settle()


def front(lab):
    return ElementTree.fromstring(lab._front.value)


def test_it_is_useful_before_any_click(lab):
    assert lab.lr.value == pytest.approx(0.0316, rel=1e-3)
    assert set(lab.paths) == {"SGD", "momentum", "RMSprop", "Adam"}
    assert all(len(path) == NUM_STEPS + 1 for path in lab.paths.values())
    assert "In the ring: RMSprop." in lab._words.value
    assert "Goal reached" not in lab._words.value


@pytest.mark.parametrize("surface", SURFACES)
def test_what_is_drawn_is_what_torch_walks(lab, surface):
    set_to(lab, 0.1, 0.7, surface)
    seen, _ = lab._panels(SURFACES[surface])
    lines = [path.get("d") for path in front(lab).iter("path")]
    for name in OPTIMIZERS:
        path = walk(SURFACES[surface], name, lab.lr.value, 0.7, NUM_STEPS)
        assert lab.paths[name] == path
        assert seen.path(*zip(*path, strict=True)) in lines
        dots = next(line for line in lines if line.count("h0") == len(path) and line.startswith(dot(seen, path[0])))
        assert dots


def dot(panel, point):
    return f"M{panel.x(point[0]):.1f} {panel.y(point[1]):.1f}h0"


def test_every_control_is_named(lab):
    assert list(lab.controls.values()) == [lab.lr, lab.momentum, lab.surface, *lab.optimizers.values()]


def test_momentum_moves_only_the_two_that_have_it(lab):
    set_to(lab, 0.05, 0.3)
    before = dict(lab.paths)
    set_to(lab, 0.05, 0.9)
    changed = {name for name in before if before[name] != lab.paths[name]}
    assert changed == {"momentum", "Adam"}


def test_without_momentum_sgd_and_sgd_with_momentum_are_one(lab):
    set_to(lab, 0.1, 0.0)
    assert lab.paths["momentum"] == lab.paths["SGD"]


@pytest.mark.parametrize("surface", SURFACES)
def test_the_goal_of_each_surface_can_be_reached_and_missed(lab, surface):
    set_to(lab, *REACHED[surface], surface)
    assert "Goal reached ✓" in lab._words.value
    # The setting is one that the sliders can be moved to.
    assert min(abs(lab.lr.value / rate - 1) for rate in RATES) < 1e-9
    set_to(lab, 0.001, 0.9, surface)
    assert "Goal reached" not in lab._words.value
    assert "Nobody ends in the ring." in lab._words.value


def test_no_rate_brings_plain_sgd_into_the_ring_of_the_narrow_valley():
    valley = SURFACES["narrow valley"]
    assert [rate for rate in RATES if valley.arrival(walk(valley, "SGD", rate)) is not None] == []
    assert WANTED["narrow valley"] == 3


def test_hidden_optimizers_are_neither_drawn_nor_counted(lab):
    set_to(lab, *REACHED["saddle"], "saddle")
    assert "Goal reached" in lab._words.value
    lab.optimizers["Adam"].value = False
    lab.settle()
    assert set(lab.paths) == {"SGD", "momentum", "RMSprop"}
    assert "Goal reached" not in lab._words.value
    assert "Adam" not in "".join(front(lab).itertext())


def test_nobody_is_shown_without_an_error(lab):
    for button in lab.optimizers.values():
        button.value = False
    lab.settle()
    assert lab.paths == {}
    assert "Nobody ends in the ring." in lab._words.value
    assert lab.picture()[0]["image/png"].startswith(b"\x89PNG")


def test_a_path_that_leaves_the_picture_is_told_and_marked(lab):
    set_to(lab, 10**0.5, 0.9)
    words = "".join(front(lab).itertext())
    steps = len(lab.paths["SGD"]) - 1
    assert f"SGD: left the picture with step {steps}" in words
    assert "✕" in words
    assert not re.search(r"\bnan\b", lab._front.value)


def test_every_edge_of_the_sliders_is_drawn(lab):
    for surface in SURFACES:
        for lr in (10**lab.lr.min, 10**lab.lr.max):
            for momentum in (lab.momentum.min, lab.momentum.max):
                set_to(lab, lr, momentum, surface)
                assert f'data-shown="{lr:.4g}"' in lab._front.value
                assert f"momentum {momentum:.2f}" in lab._words.value
                assert not re.search(r"\bnan\b", lab._front.value)


@pytest.mark.parametrize("surface", SURFACES)
def test_the_back_has_lines_of_equal_loss_and_a_ring_at_each_bottom(lab, surface):
    set_to(lab, 0.1, 0.9, surface)
    picture = ElementTree.fromstring(re.sub("<style>.*?</style>", "", lab._back.value))
    assert len(list(picture.iter("circle"))) == len(SURFACES[surface].minima)
    levels = [lines for lines in cached_contours(SURFACES[surface]) if lines]
    assert len(levels) >= 8
    for lines in levels:
        heights = [SURFACES[surface].loss(x, y) for line in lines for x, y in line]
        assert max(heights) - min(heights) < 0.1 * max(heights) + 0.02


def test_the_back_is_not_drawn_again_while_the_hand_moves(lab, monkeypatch):
    monkeypatch.setattr(OptimizerLab, "_draw_back", lambda self: pytest.fail("the back was drawn again"))
    set_to(lab, 0.2, 0.5)
    assert 'data-shown="0.2' in lab._front.value


def test_a_new_surface_is_not_lost_when_the_next_move_comes_before_it_is_drawn(lab):
    held = threading.Event()
    lab.drawing.submit(lambda stale: held.wait(60))
    lab.surface.value = "saddle"
    lab.lr.value = 0.1
    held.set()
    lab.settle()
    assert "saddle" in lab._back.value
    assert 'data-shown="0.1"' in lab._front.value


def test_a_path_once_walked_is_not_walked_again(lab):
    set_to(lab, 0.123, 0.45)
    first = lab.paths["Adam"]
    set_to(lab, 0.3, 0.45)
    set_to(lab, 0.123, 0.45)
    assert lab.paths["Adam"] is first


def test_an_error_is_shown_and_fails_the_test(lab, monkeypatch):
    def fail(*_):
        raise ValueError("no path over this surface")

    monkeypatch.setattr(optimizer, "cached_walk", fail)
    lab.lr.value = 0.2
    with pytest.raises(ValueError, match="no path over this surface"):
        lab.settle()
    assert "ValueError: no path over this surface" in lab._error_box.value
    monkeypatch.undo()
    set_to(lab, 0.3, 0.9)
    assert lab._error_box.value == ""


def test_the_still_picture_is_a_png_with_words(lab):
    bundle, metadata = lab._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"] == "OptimizerLab: run the cell, then drag learning rate and momentum"
    alt = metadata["image/png"]["alt"]
    assert "0.05 x² + 3 y²" in alt
    assert "RMSprop: in the ring from step" in alt
