"""Small SVG pictures for the labs: a panel with axes, and the paths in it.

A browser shows an inline SVG of a kilobyte within two frames; a matplotlib figure takes three to thirteen times as
long. Colors are the lab's CSS variables, so a picture follows the theme without a redraw.
"""

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

# The width of every lab's picture, in pixels of the picture.
WIDTH = 880

Ticks = Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Panel:
    """A rectangle of the picture, with a scale for each axis.

    Attributes:
        left, top, width, height: the rectangle, in pixels of the picture.
        x_range, y_range: the values at its edges.
        log_x, log_y: whether that axis is logarithmic (base 10).
    """

    left: float
    top: float
    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log_x: bool = False
    log_y: bool = False

    def x(self, value: float) -> float:
        """Return the pixel of an x value, kept inside the panel."""
        return self.left + self.width * _share(value, *self.x_range, self.log_x)

    def y(self, value: float) -> float:
        """Return the pixel of a y value, kept inside the panel: a loss that runs away follows the upper edge."""
        return self.top + self.height * (1 - _share(value, *self.y_range, self.log_y))

    def path(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        """Return the `d` attribute of a line through the points up to the first NaN; infinity is at the upper edge."""
        points = []
        for x, y in zip(xs, ys, strict=True):
            if math.isnan(y):
                break
            points.append(f"{self.x(x):.1f} {self.y(y):.1f}")
        return "M" + "L".join(points) if points else ""

    def axes(self, title: str, x_label: str, y_label: str, x_ticks: Ticks, y_ticks: Ticks) -> str:
        """Draw the frame, a title, both labels, and ticks given as (value, text)."""
        right, bottom = self.left + self.width, self.top + self.height
        # The y label is left of the widest tick: about 7 pixels a character, and never nearer than 38.
        beside = self.left - max(38, 13 + 7 * max((len(label) for _, label in y_ticks), default=0))
        parts = [
            f'<rect x="{self.left}" y="{self.top}" width="{self.width}" height="{self.height}" fill="none" '
            'stroke="var(--lab-grid)"/>',
            text(self.left, self.top - 12, title, size=14, weight="600"),
            text(self.left + self.width / 2, bottom + 36, x_label, anchor="middle"),
            f'<g transform="rotate(-90 {beside} {self.top + self.height / 2})">'
            f"{text(beside, self.top + self.height / 2, y_label, anchor='middle')}</g>",
        ]
        for value, label in x_ticks:
            x = self.x(value)
            parts.append(f'<path d="M{x:.1f} {self.top}V{bottom}" stroke="var(--lab-grid)" stroke-width=".5"/>')
            parts.append(text(x, bottom + 17, label, anchor="middle", size=12))
        for value, label in y_ticks:
            y = self.y(value)
            parts.append(f'<path d="M{self.left} {y:.1f}H{right}" stroke="var(--lab-grid)" stroke-width=".5"/>')
            parts.append(text(self.left - 7, y + 4, label, anchor="end", size=12))
        return "".join(parts)


def _share(value: float, low: float, high: float, log: bool) -> float:
    """Return the position of `value` between `low` (0) and `high` (1), clamped to this range."""
    if log:
        value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
    return min(max((value - low) / (high - low), 0.0), 1.0)


def text(
    x: float, y: float, words: str, *, anchor: str = "start", size: int = 13, weight: str = "400", color: str = "ink"
) -> str:
    """Draw text, escaped, in one of the lab's colors."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="var(--lab-{color})">{html.escape(words)}</text>'
    )


def line(d: str, *, color: str, width: float, opacity: float = 1.0, dash: str = "") -> str:
    """Draw a line along the path `d` in one of the lab's colors."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<path d="{d}" fill="none" stroke="var(--lab-{color})" stroke-width="{width}" opacity="{opacity}"{dashes} '
        'stroke-linejoin="round"/>'
    )


def dot(x: float, y: float, radius: float, *, color: str = "accent") -> str:
    """Draw a filled circle in one of the lab's colors."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="var(--lab-{color})"/>'


def decades(low: int, high: int, step: int = 1) -> list[tuple[float, str]]:
    """Return ticks at powers of ten for a log axis; short numbers are written out, others as powers.

    >>> [text for _, text in decades(-4, 4, 2)]
    ['10⁻⁴', '0.01', '1', '100', '10⁴']
    """
    return [(10.0**power, _power(power)) for power in range(low, high + 1, step)]


def _power(power: int) -> str:
    if -3 <= power <= 3:
        return f"{10.0**power:g}"
    return "10" + "".join("⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".index(sign)] for sign in str(power))


def plain(words: str) -> str:
    """Return text without its HTML, on one line, as a picture's `alt` needs it."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", words.replace("<br>", " "))).split())


def picture(height: int, body: str, *, alt: str, **attributes: str) -> str:
    """Return the whole SVG element; an empty `alt` marks a layer that another layer's text already describes."""
    role = f'role="img" aria-label="{html.escape(alt, quote=True)}"' if alt else 'aria-hidden="true"'
    more = "".join(
        f' {name.replace("_", "-")}="{html.escape(value, quote=True)}"' for name, value in attributes.items()
    )
    return f'<svg viewBox="0 0 {WIDTH} {height}" {role}{more}>{body}</svg>'
