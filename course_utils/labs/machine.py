"""Lesson 00's card of this machine: a widget, so that no stored output contains one machine's paths."""

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from course_utils.labs.base import Lab
from course_utils.learner.machine import MachineCheck

# Without a label, a screen reader would read out the names of these characters.
HERE, MISSING = (
    f'<span role="img" aria-label="{words}">{mark}</span>' for words, mark in (("here", "✓"), ("missing", "✗"))
)


class MachineCard(Lab):
    """Show what `machine.look()` found, one row per check, with advice if something is missing.

    Args:
        points: the results of the checks.
    """

    def __init__(self, points: Sequence[MachineCheck]):
        self._table = widgets.HTML(_table(points))
        super().__init__([self._table], controls={}, css_class="machine-card")

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"text/plain": "MachineCard: run the cell to see your own versions, device and folders"}, {}


def _table(points: Sequence[MachineCheck]) -> str:
    cell = 'style="text-align: left; padding: 2px 14px 2px 0"'
    rows = "".join(
        f"<tr><td {cell}>{HERE if point.ok else MISSING}</td><td {cell}>{html.escape(point.name)}</td>"
        f"<td {cell}>{html.escape(point.found)}</td><td {cell}>{html.escape(point.advice)}</td></tr>"
        for point in points
    )
    return f"<table>{rows}</table>"
