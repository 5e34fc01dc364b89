"""The labs' small pictures: pixels computed by hand, words escaped."""

import math
import xml.etree.ElementTree as ElementTree

from course_utils.labs import svg

LINEAR = svg.Panel(left=10, top=20, width=100, height=50, x_range=(0, 10), y_range=(0, 5))


def test_values_land_on_the_pixels_computed_by_hand():
    assert LINEAR.x(0) == 10
    assert LINEAR.x(5) == 60
    assert LINEAR.y(0) == 70
    assert LINEAR.y(5) == 20


def test_a_log_axis_gives_each_decade_the_same_room():
    panel = svg.Panel(0, 0, 300, 100, (1e-2, 10), (1, 100), log_x=True, log_y=True)
    assert [round(panel.x(value), 6) for value in (0.01, 0.1, 1, 10)] == [0, 100, 200, 300]
    assert panel.y(10) == 50


def test_what_runs_away_follows_the_edge():
    assert LINEAR.y(99) == LINEAR.y(math.inf) == 20
    assert LINEAR.y(-3) == 70
    assert svg.Panel(0, 0, 10, 10, (1, 10), (1, 10), log_y=True).y(0.0) == 10


def test_a_path_ends_at_the_first_nan():
    assert LINEAR.path([0, 5, 10], [0, 5, 0]) == "M10.0 70.0L60.0 20.0L110.0 70.0"
    assert LINEAR.path([0, 5, 10], [0, math.nan, 0]) == "M10.0 70.0"
    assert LINEAR.path([0], [math.nan]) == ""


def test_words_are_escaped():
    drawn = svg.picture(80, svg.text(1, 2, "a < b & c"), alt='he said "<b>"', data_shown="0.1")
    root = ElementTree.fromstring(drawn)
    assert root[0].text == "a < b & c"
    assert root.get("aria-label") == 'he said "<b>"'
    assert root.get("data-shown") == "0.1"


def test_a_layer_without_words_is_hidden_from_screen_readers():
    assert ElementTree.fromstring(svg.picture(1, "", alt="")).get("aria-hidden") == "true"


def test_plain_words_have_no_tags_and_no_entities():
    words = "<b>lr = 0.1:</b> it <i>works</i>,<br>1 &lt; 2&nbsp;&amp; more"
    assert svg.plain(words) == "lr = 0.1: it works, 1 < 2 & more"


def test_axes_are_well_formed_and_hold_their_words():
    drawn = svg.picture(100, LINEAR.axes("T<1", "x", "y", [(0, "0"), (10, "10")], [(5, "5")]), alt="a")
    words = [element.text for element in ElementTree.fromstring(drawn).iter() if element.tag == "text"]
    assert words == ["T<1", "x", "y", "0", "10", "5"]
