"""Pictures: what is drawn is what was handed in, with titles, units and words for those who do not see it."""

import itertools
import math

import pytest

from course_utils import plots
from course_utils.learner import calibration
from course_utils.lr import sweep_lr
from course_utils.lr.finder import rising_rates, suggest
from course_utils.models import MLP


@pytest.fixture(scope="module")
def sweep():
    from course_utils import data

    x, y = data.load("digits").train.dataset.tensors
    return sweep_lr(MLP, x, y, [1e-4, 0.1, 0.3, 3.0], num_epochs=2)


def test_the_chosen_curve_is_in_front_with_its_own_numbers(sweep):
    ax = plots.plot_losses(sweep, 0.29)
    front = ax.get_lines()[-1]
    assert front.get_label() == "lr = 0.3"
    assert front.get_ydata().tolist() == pytest.approx(sweep.losses[2].tolist())
    assert len(ax.get_lines()) == len(sweep.lrs) + 1


def test_final_losses_stand_over_their_rates_and_zones_are_named(sweep):
    ax = plots.plot_final_losses(sweep, 0.3)
    line = ax.get_lines()[0]
    assert list(line.get_xdata()) == sweep.lrs
    assert line.get_ydata()[2] == pytest.approx(sweep.final_losses[2].item())
    assert [words.get_text() for words in ax.texts] == [zone for zone, _, _ in plots.zone_spans(sweep)]
    assert ax.get_xscale() == "log"


def test_zones_meet_halfway_and_cover_every_rate(sweep):
    spans = plots.zone_spans(sweep)
    assert spans[0][1] == sweep.lrs[0]
    assert spans[-1][2] == sweep.lrs[-1]
    for (_, _, high), (_, low, _) in itertools.pairwise(spans):
        assert low == high


def test_runs_that_run_away_follow_the_edge():
    ax = plots.plot_runs({"a": [1.0, 9.0, 9.0], "b": [1.0, math.nan, 2.0]}, top=4)
    assert list(ax.get_lines()[0].get_ydata()) == [1.0, 4, 4]
    assert ax.get_ylim() == (0, 4)
    assert [words.get_text() for words in ax.texts] == ["↑ to 9 "]


def test_steps_may_be_scaled():
    ax = plots.plot_runs({"a": [1.0, 2.0]}, xs=[0.5])
    assert list(ax.get_lines()[0].get_xdata()) == [0.5, 1.0]


def test_a_table_shows_each_number_and_frames_the_best_of_each_row():
    ax = plots.plot_table({"x": [2.0, 0.5], "y": [0.25, 1e9]}, columns=["a", "b"], title="t", x_label="l")
    assert [words.get_text() for words in ax.texts] == ["2.000", "0.500", "0.250", "above 100"]
    assert [words.get_weight() for words in ax.texts] == ["normal", "bold", "bold", "normal"]
    assert len(ax.patches) == 2


def test_a_bowl_shows_the_steps_inside_it():
    ax = plots.plot_bowl(2.0, {0.1: [1.0, 0.8], 1.1: [1.0, -1.2, 1.44, -1.728]})
    assert list(ax.get_lines()[1].get_xdata()) == [1.0, 0.8]
    assert list(ax.get_lines()[2].get_xdata()) == [1.0, -1.2, 1.44]
    assert list(ax.get_lines()[1].get_ydata()) == pytest.approx([1.0, 0.64])


def test_a_descent_to_exactly_zero_has_a_place_on_the_log_scale():
    ax = plots.plot_descent({0.25: [1.0, 0.0], 0.1: [1.0, -0.6]})
    assert list(ax.get_lines()[0].get_ydata()) == [1.0, 1e-8]
    assert list(ax.get_lines()[1].get_ydata()) == [1.0, 0.6]


@pytest.mark.parametrize(
    "draw",
    [
        lambda sweep: plots.plot_losses(sweep),
        lambda sweep: plots.plot_final_losses(sweep),
        lambda sweep: plots.plot_runs({"a": [1.0]}),
        lambda sweep: plots.plot_descent({0.1: [1.0]}),
        lambda sweep: plots.plot_bowl(1.0, {0.1: [1.0]}),
    ],
)
def test_every_figure_has_a_title_and_named_axes(sweep, draw):
    ax = draw(sweep)
    assert ax.get_title()
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_it_draws_into_the_axes_that_it_is_given(sweep):
    left, right = plots.new_axes(2)
    assert plots.plot_losses(sweep, ax=left) is left
    assert plots.plot_final_losses(sweep, ax=right) is right


def test_the_same_picture_gives_the_same_bytes(sweep):
    assert plots.png(plots.plot_losses(sweep, 0.1)) == plots.png(plots.plot_losses(sweep, 0.1))


def test_a_figure_needs_words(sweep):
    with pytest.raises(ValueError, match="alt must describe the figure in a sentence, got ' '"):
        plots.show(plots.plot_losses(sweep), alt=" ")


def test_a_shown_figure_carries_its_words(sweep, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *args, **kwargs: shown.append((args, kwargs)))
    plots.show(plots.plot_losses(sweep), alt="four <curves>")
    ((picture,), options), ((caption,), _) = shown
    assert picture["image/png"].startswith(b"\x89PNG")
    assert options["metadata"] == {"image/png": {"alt": "four <curves>"}}
    assert caption["text/plain"] == "four <curves>"
    assert ">four &lt;curves&gt;</p>" in caption["text/html"]


def test_the_ceiling_leaves_room_above_the_start(sweep):
    assert plots.ceiling(sweep) == 4.0


def heights(ax):
    """The bars of a calibration as {label: height for each lesson}."""
    return {bars.get_label(): [bar.get_height() for bar in bars] for bars in ax.containers}


def test_calibration_shows_each_lessons_guesses():
    tallies = [calibration.Calibration("02", 3, 2, 1), calibration.Calibration("05", 0, 1, 4)]
    ax = plots.plot_calibration(tallies, "a half to three quarters")
    assert heights(ax) == {"as guessed": [3, 0], "otherwise": [2, 1], "no guess": [1, 4]}
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["02", "05"]
    assert ax.get_title() == "3 of 6 guesses came out as made (50%)\nyou said: a half to three quarters"
    tops = [bar.get_y() + bar.get_height() for bar in ax.containers[-1]]
    assert tops == [6, 5], "the parts stand on one another"
    assert ax.get_ylim()[1] > 6


@pytest.mark.parametrize("tallies", [[], [calibration.Calibration("08", 0, 0, 7)]])
def test_calibration_without_a_guess_says_so(tallies):
    ax = plots.plot_calibration(tallies)
    assert ax.get_title() == "No guess is on record yet"
    assert plots.png(ax).startswith(b"\x89PNG")


def test_a_claim_that_is_no_share_is_named():
    with pytest.raises(ValueError, match="unknown share 'half': known: fewer than a quarter"):
        plots.plot_calibration([], "half")


def test_the_finders_picture_shows_the_point_and_the_range():
    rates = rising_rates(1e-4, 1.0, 40)
    found = suggest(rates, [1.5 + 0.5 * (lr / 0.05 - 1) ** 2 if lr > 0.01 else 2.0 for lr in rates])
    assert found.suggestion is not None
    ax = plots.plot_finder(found)
    assert ax.get_xscale() == "log"
    raw, mean, point = ax.get_lines()
    assert list(raw.get_xdata()) == list(mean.get_xdata()) == found.lrs
    top = ax.get_ylim()[1]
    assert list(mean.get_ydata()) == [min(loss, top) for loss in found.smoothed]
    assert set(point.get_xdata()) == {found.suggestion.point}
    (span,) = ax.patches
    assert (span.get_x(), span.get_x() + span.get_width()) == (found.suggestion.low, found.suggestion.high)
    assert 2.0 < top < max(found.losses), "the start is in the picture, what ran away is not"
    axes = plots.new_axes()
    assert plots.plot_finder(found, ax=axes[0]) is axes[0]


@pytest.mark.parametrize("losses", [[2.0] * 40, [], [float("nan")] * 40])
def test_a_search_without_a_suggestion_is_drawn_all_the_same(losses):
    ax = plots.plot_finder(suggest(rising_rates(1e-4, 1.0, 40), losses))
    assert ax.get_title() == "No suggestion"
    assert len(ax.get_lines()) == 2
    assert plots.png(ax).startswith(b"\x89PNG")


def test_logged_curves_are_drawn_with_dots_where_points_are_few():
    long = [(step, 1.0) for step in range(50)]
    ax = plots.plot_curves({"few": [(23, 2.0), (46, 1.0)], "many": long, "none": []}, title="t")
    few, many, none = ax.get_lines()
    assert list(few.get_xdata()) == [23, 46]
    assert list(few.get_ydata()) == [2.0, 1.0]
    assert (few.get_marker(), many.get_marker()) == ("o", "None")
    assert len(none.get_xdata()) == 0
    assert [words.get_text() for words in ax.get_legend().get_texts()] == ["few", "many", "none"]
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("t", "step", "logged number")
