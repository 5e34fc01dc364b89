"""The card of the machine: every point has its row, and what is stored names nothing of the machine."""

from course_utils.labs import MachineCard
from course_utils.learner.machine import MachineCheck, look

POINTS = [
    MachineCheck("Python", True, "3.11.7"),
    MachineCheck("<b>", False, "not installed", "run `make lab` & restart"),
]


def test_each_point_has_its_row_with_what_to_do():
    value = MachineCard(POINTS)._table.value
    assert "✓</span></td>" in value
    assert "3.11.7" in value
    assert "✗</span></td>" in value
    assert "&lt;b&gt;" in value
    assert "run `make lab` &amp; restart" in value


def test_the_stored_text_is_the_same_on_every_machine():
    bundle, _ = MachineCard(POINTS)._repr_mimebundle_()
    other, _ = MachineCard(look())._repr_mimebundle_()
    assert bundle["text/plain"] == other["text/plain"]
    assert "3.11" not in bundle["text/plain"]
