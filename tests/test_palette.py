"""Colours that everyone can read: each figure is looked at as people with other eyes see it, and in grey.

The figures are the real ones. What is drawn in them is read back, from matplotlib's artists and from the labs' SVG, so
a new curve is measured without being named here.
"""

import ast
import itertools
import json
import math
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pytest
from loop_doctor import card
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from course_utils import labs, palette, plots
from course_utils.labs import base, writer
from course_utils.learner import calibration
from course_utils.lr import descend, sweep_lr
from course_utils.lr.finder import judge, rising_rates
from course_utils.models import MLP

ROOT = Path(__file__).resolve().parents[1]
THEMES = Path(sys.prefix) / "share/jupyter/lab/themes/@jupyterlab"
# Two colours of one figure are this far apart, or something else tells them apart. A difference of 1 is just seen where
# two large fields touch; thin lines that do not touch need several times as much.
APART = 10.0
# WCAG 2.2: a line that must be seen (1.4.11) and a word that must be read (1.4.3), against what lies behind them.
LINE, WORD = 3.0, 4.5

RGB = tuple[float, float, float]

# How colours are measured.

# Machado, Oliveira & Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE
# Transactions on Visualization and Computer Graphics 15 (2009), severity 1.0; they multiply linear sRGB.
EYES = {
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
    "as usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "in grey": ((0.2126, 0.7152, 0.0722),) * 3,
}
TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
WHITE_POINT = (0.95047, 1.0, 1.08883)  # D65


def times(matrix: Iterable[RGB], values: RGB) -> RGB:
    return tuple(sum(factor * value for factor, value in zip(row, values, strict=True)) for row in matrix)


def linear(colour: RGB) -> RGB:
    """IEC 61966-2-1: sRGB as a screen gets it, to amounts of light."""
    return tuple(share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in colour)


def seen(colour: RGB, eyes: str) -> RGB:
    """What a colour is to these eyes, in CIELAB."""
    light = [min(max(share, 0.0), 1.0) for share in times(EYES[eyes], linear(colour))]
    ratios = [value / white for value, white in zip(times(TO_XYZ, tuple(light)), WHITE_POINT, strict=True)]
    x, y, z = (r ** (1 / 3) if r > (6 / 29) ** 3 else r / (3 * (6 / 29) ** 2) + 4 / 29 for r in ratios)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def ciede2000(first: RGB, second: RGB) -> float:
    """The difference of two CIELAB colours: Sharma, Wu & Dalal, Color Research and Application 30 (2005), 21-30."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    mean = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * math.sqrt(mean**7 / (mean**7 + 25**7))
    c1, c2 = math.hypot(stretch * a1, b1), math.hypot(stretch * a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, stretch * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    hue = h1 + h2 if not c1 * c2 else (h1 + h2 + (360 if abs(h1 - h2) > 180 else 0)) / 2 % 360
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    weight = 1.0
    for share, multiple, shift in ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63)):
        weight += share * math.cos(math.radians(multiple * hue + shift))
    for_lightness = 1 + 0.015 * (lightness - 50) ** 2 / math.sqrt(20 + (lightness - 50) ** 2)
    by_lightness = (l2 - l1) / for_lightness
    by_chroma = (c2 - c1) / (1 + 0.045 * chroma)
    by_hue = 2 * math.sqrt(c1 * c2) * math.sin(math.radians(turn / 2)) / (1 + 0.015 * chroma * weight)
    rotation = 2 * math.sqrt(chroma**7 / (chroma**7 + 25**7))
    rotation *= -math.sin(math.radians(60 * math.exp(-(((hue - 275) / 25) ** 2))))
    return math.sqrt(by_lightness**2 + by_chroma**2 + by_hue**2 + rotation * by_chroma * by_hue)


def contrast(first: RGB, second: RGB) -> float:
    """WCAG's contrast ratio, from 1 to 21."""
    low, high = sorted(times((EYES["in grey"][0],), linear(colour))[0] for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def over(colour: tuple[float, ...], ground: RGB, opacity: float = 1.0) -> RGB:
    """A colour, as (r, g, b) or (r, g, b, a), laid over its ground."""
    share = opacity * (colour[3] if len(colour) == 4 else 1.0)
    return tuple(share * value + (1 - share) * below for value, below in zip(colour[:3], ground, strict=True))


# From the table of Sharma, Wu & Dalal, which is made to find mistakes in programs.
SHARMA = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, 2.8361, -74.0200), (50.0, 0.0, -82.7485), 3.4412),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, 2.5, 0.0), (50.0, 0.0, -2.5), 4.3065),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((50.0, 2.5, 0.0), (61.0, -5.0, 29.0), 22.8977),
    ((50.0, 2.5, 0.0), (56.0, -27.0, -3.0), 31.9030),
    ((50.0, 2.5, 0.0), (58.0, 24.0, 15.0), 19.4535),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((63.0109, -31.0961, -5.8663), (62.8187, -29.7946, -4.0864), 1.2630),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("first", "second", "published"), SHARMA)
def test_the_distance_is_the_published_one(first, second, published):
    assert ciede2000(first, second) == pytest.approx(published, abs=5e-5)
    assert ciede2000(second, first) == pytest.approx(published, abs=5e-5)


def test_light_and_contrast_are_the_published_ones():
    assert seen(to_rgba("#ff0000")[:3], "as usual") == pytest.approx((53.24, 80.09, 67.20), abs=0.01)
    assert seen((1.0, 1.0, 1.0), "as usual") == pytest.approx((100, 0, 0), abs=0.01)
    assert contrast((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) == pytest.approx(21)
    # The lightest grey for words, and the lightest for lines, that WCAG lets stand on white.
    assert contrast(to_rgba("#767676")[:3], (1.0, 1.0, 1.0)) == pytest.approx(4.54, abs=0.005)
    assert contrast(to_rgba("#949494")[:3], (1.0, 1.0, 1.0)) == pytest.approx(3.03, abs=0.005)


def test_other_eyes_keep_greys_and_confuse_what_they_are_known_for():
    for eyes in EYES:
        for share in (0.2, 0.6, 1.0):
            assert seen((share,) * 3, eyes)[1:] == pytest.approx((0, 0), abs=0.05)
    red_and_green = to_rgba("#b05050")[:3], to_rgba("#708000")[:3]
    blue_and_green = to_rgba("#0072b2")[:3], to_rgba("#008070")[:3]

    def distances(pair):
        return {eyes: ciede2000(*(seen(colour, eyes) for colour in pair)) for eyes in EYES}

    assert distances(red_and_green)["deuteranopia"] < distances(red_and_green)["as usual"] / 2
    assert distances(red_and_green)["protanopia"] < distances(red_and_green)["as usual"] / 2
    assert distances(blue_and_green)["tritanopia"] < distances(blue_and_green)["as usual"] / 2


# What is drawn, whoever drew it.


@dataclass(frozen=True)
class Mark:
    """One thing in a figure.

    Attributes:
        what: what it is, for the message of a failure.
        kind: "line", "dot", "ring", "sign", "band", "bar" or "words".
        paint: as (r, g, b) or (r, g, b, a).
        ground: what lies behind it.
        style: whatever else tells it from another of its kind: dashes, markers, hatching, a name in it.
        width: of its line, or of the dot.
        aside: part of a crowd in the background, of which nothing needs to be read by itself.
    """

    what: str
    kind: str
    paint: tuple[float, ...]
    ground: RGB
    style: tuple[object, ...] = ()
    width: float = 1.0
    aside: bool = False

    @property
    def colour(self) -> RGB:
        """As it is seen over its ground."""
        return over(self.paint, self.ground)


def told_apart(first: list[Mark], second: list[Mark]) -> bool:
    """Whether all that one colour draws differs from all that another draws, by more than colour or for every eye."""
    looks = [{(mark.kind, *mark.style) for mark in marks} for marks in (first, second)]
    if looks[0] != looks[1]:
        return True
    widths = [max(mark.width for mark in marks) for marks in (first, second)]
    if max(widths) >= 1.5 * min(widths):
        return True
    pairs = list(itertools.product(*({mark.colour for mark in marks} for marks in (first, second))))
    return all(ciede2000(seen(a, eyes), seen(b, eyes)) >= APART for a, b in pairs for eyes in EYES)


def faults_of(panels: Iterable[list[Mark]]) -> list[str]:
    """What somebody could not see or not tell apart, in sentences."""
    found = []
    for marks in panels:
        by_hue: dict[tuple[float, ...], list[Mark]] = {}
        for mark in marks:
            needed, has = WORD if mark.kind == "words" else LINE, contrast(mark.colour, mark.ground)
            if has < needed and not mark.aside:
                found.append(f"{mark.what}: contrast {has:.2f}, needed {needed}")
            if mark.kind != "words":
                by_hue.setdefault(mark.paint[:3], []).append(mark)
        for first, second in itertools.combinations(by_hue.values(), 2):
            if not told_apart(first, second):
                found.append(f"{first[0].what} and {second[0].what} differ in colour alone")
    return found


# matplotlib's figures, always on white.

WHITE = (1.0, 1.0, 1.0)


def hidden(label: str) -> bool:
    return not label or label.startswith("_")


def marks_on(ax: Axes) -> list[Mark]:
    """Everything that a plot put on its axes; the grid and the frame are matplotlib's."""
    ax.get_xlim(), ax.get_ylim()  # matplotlib puts off what these ask for
    title, marks = ax.get_title(), []
    for line in ax.get_lines():
        colour = to_rgba(line.get_color(), line.get_alpha())
        marker = str(line.get_marker())
        kind = "dot" if str(line.get_linestyle()) == "None" else "line"
        marks.append(
            Mark(
                f"{title!r}: {line.get_label()!r}",
                kind,
                colour,
                WHITE,
                (str(line.get_linestyle()), marker),
                line.get_linewidth() if kind == "line" else line.get_markersize(),
                aside=line.get_alpha() is not None and hidden(line.get_label()),
            )
        )
    for lines in ax.collections:
        marks += [
            Mark(f"{title!r}: lines of {lines.get_label()!r}", "line", tuple(colour), WHITE, ("lines",))
            for colour in lines.get_edgecolor()
        ]
    bars = [patch for container in ax.containers for patch in container.patches]
    places = [words.get_text() for words in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    for container in ax.containers:
        for number, bar in enumerate(container.patches):
            face, edge = to_rgba(bar.get_facecolor()), to_rgba(bar.get_edgecolor())
            # Where each bar has its own word on the axis, that tells bars of one container apart.
            own = number if len({to_rgba(bar.get_facecolor()) for bar in container.patches}) > 1 else None
            assert own is None or len(set(places)) >= len(container.patches), f"{title!r}: bars without names"
            best = max((face, edge), key=lambda colour: contrast(over(colour, WHITE), WHITE))
            what = f"{title!r}: bar {container.get_label()!r}"
            marks.append(Mark(what, "bar", best, WHITE, (bar.get_hatch(), own, face == (*WHITE, 1.0))))
    for patch in ax.patches:
        if patch not in bars:
            name = _name_within(ax, patch) if hidden(patch.get_label()) else patch.get_label()
            # In a table the ground is the cell that the patch lies on.
            middle = ax.transData.inverted().transform(patch.get_extents().get_points().mean(0))
            ground = _below(ax, middle) if ax.images else WHITE
            marks.append(Mark(f"{title!r}: band {name!r}", "band", to_rgba(patch.get_edgecolor()), ground, (name,)))
    for words in ax.texts:
        ground = _below(ax, words.get_position())
        marks.append(Mark(f"{title!r}: {words.get_text()!r}", "words", to_rgba(words.get_color()), ground))
    return marks


def _name_within(ax: Axes, patch: matplotlib.patches.Patch) -> str:
    """The word that is written into a patch, or "" if there is none."""
    low, high = patch.get_extents().intervalx
    inside = [words for words in ax.texts if low <= ax.transData.transform(words.get_position())[0] <= high]
    return inside[0].get_text() if inside else ""


def _below(ax: Axes, place: tuple[float, float]) -> RGB:
    """The colour of what lies behind a word: a cell of a table, a band, or white."""
    for image in ax.images:
        value = image.get_array()[round(place[1])][round(place[0])]
        return tuple(image.cmap(image.norm(value))[:3])
    pixels = ax.transData.transform(place)
    behind = [patch for patch in ax.patches if patch.get_extents().x0 <= pixels[0] <= patch.get_extents().x1]
    return over(to_rgba(behind[0].get_facecolor()), WHITE) if behind else WHITE


@pytest.fixture(scope="module")
def digits():
    from course_utils import data

    return data.load("digits").train.dataset.tensors


@pytest.fixture(scope="module")
def sweep(digits):
    return sweep_lr(MLP, *digits, [1e-4, 1e-3, 0.1, 0.3, 3.0, 10.0], num_epochs=1)


FIVE = {name: [2.0, 1.5, 9.0, 1.0 + place / 10] for place, name in enumerate("abcde")}


def charts(sweep) -> Iterator[tuple[str, Axes]]:
    """Each plot of the course once, with as many curves as it takes."""
    yield "losses", plots.plot_losses(sweep, 0.1)
    yield "final losses", plots.plot_final_losses(sweep, 0.1)
    paths = {lr: descend(1.0, lr, 4.0, 20) for lr in (0.05, 0.1, 0.2, 0.25, 0.4, 0.45)}
    yield "bowl", plots.plot_bowl(4.0, paths)
    yield "descent", plots.plot_descent(paths)
    yield "runs", plots.plot_runs(FIVE, top=4.0)
    yield "curves", plots.plot_curves({name: list(enumerate(ys)) for name, ys in FIVE.items()}, title="curves")
    values = [place / 20 for place in range(61)]
    yield "table", plots.plot_table({"all": values}, columns=list(map(str, values)), title="table", x_label="loss")
    tallies = [calibration.Calibration("01", 2, 1, 1)]
    yield "calibration", plots.plot_calibration(tallies)
    rates = rising_rates(1e-3, 10.0, 60)
    found = judge(rates, [2.3 - 1.5 * math.exp(-(((place - 40) / 12) ** 2)) for place in range(60)])
    assert found.suggestion is not None
    yield "finder", plots.plot_finder(found)


def test_every_plot_of_the_course_is_looked_at(sweep):
    drawn = {f"plot_{name.replace(' ', '_')}" for name, _ in charts(sweep)}
    assert drawn == {name for name in dir(plots) if name.startswith("plot_")}


def test_charts_can_be_read_by_everyone(sweep):
    for name, ax in charts(sweep):
        marks = marks_on(ax)
        assert marks, name
        assert faults_of([marks]) == [], name


# The labs' pictures, in both themes.


def variables(theme: str) -> dict[str, tuple[float, ...]]:
    """The labs' colours as a browser resolves them: from their own style, and from JupyterLab's theme."""
    light, dark = re.search(
        r"\.course-lab \{([^}]*)\}\s*body\[[^]]*false[^]]*\] \.course-lab \{([^}]*)\}", base.STYLE
    ).groups()
    css = light + dark if theme == "dark" else light
    found = dict(re.findall(r"--lab-(\w+): ([^;]+);", css))
    return {name: _resolved(value, theme) for name, value in found.items()}


def _resolved(value: str, theme: str) -> tuple[float, ...]:
    css = (THEMES / f"theme-{theme}-extension" / "index.css").read_text(encoding="utf-8")
    while named := re.fullmatch(r"var\((--[\w-]+)(?:, *([^()]+))?\)", value):
        own = re.search(rf"{named[1]}: *([^;}}]+)", css)
        value = own[1] if own else named[2]
    numbers = re.fullmatch(r"rgba\((\d+), *(\d+), *(\d+), *([\d.]+)\)", value)
    if numbers:
        return (*(int(numbers[place]) / 255 for place in (1, 2, 3)), float(numbers[4]))
    return to_rgba(value)


def ground_of(theme: str) -> RGB:
    """What lies behind a cell's output."""
    return over(_resolved("var(--jp-layout-color0)", theme), WHITE)


def panels_of(layers: list[str], theme: str) -> list[list[Mark]]:
    """What a lab's layers draw, by the panel it lies in; the last list is what lies outside of all panels."""
    roots = [ElementTree.fromstring(layer) for layer in layers]
    known, ground = variables(theme), ground_of(theme)
    frames = [
        tuple(float(element.get(name)) for name in ("x", "y", "width", "height"))
        for root in roots
        for element in root.iter("rect")
        if element.get("fill") == "none"
    ]
    bands = [element for root in roots for element in root.iter("rect") if element.get("fill") != "none"]
    panels = [[] for _ in range(len(frames) + 1)]
    for element in (element for root in roots for element in root.iter()):
        mark = _mark(element, known, ground, bands)
        if mark is not None:
            panels[_panel(element, frames)].append(mark)
    return panels


def _place(element: ElementTree.Element) -> tuple[float, float]:
    if element.tag == "path":
        return tuple(float(number) for number in re.findall(r"-?[\d.]+", element.get("d"))[:2])
    x, y = ("cx", "cy") if element.tag == "circle" else ("x", "y")
    return float(element.get(x)), float(element.get(y))


def _panel(element: ElementTree.Element, frames: list[tuple[float, ...]]) -> int:
    x, y = _place(element)
    inside = [
        left - 0.5 <= x <= left + width + 0.5 and top - 0.5 <= y <= top + height + 0.5
        for left, top, width, height in frames
    ]
    return inside.index(True) if any(inside) else len(frames)


def _mark(
    element: ElementTree.Element, known: dict[str, tuple[float, ...]], ground: RGB, bands: list[ElementTree.Element]
) -> Mark | None:
    fill, stroke = (re.fullmatch(r"var\(--lab-(\w+)\)", element.get(name, "")) for name in ("fill", "stroke"))
    opacity, width = float(element.get("opacity", 1)), float(element.get("stroke-width", 1))

    def paint(name: re.Match) -> tuple[float, ...]:
        *colour, share = (*known[name[1]], 1.0)[:4]
        return (*colour, share * opacity)

    if element.tag == "text":
        behind = [
            band
            for band in bands
            if 0 <= _place(element)[0] - _place(band)[0] <= float(band.get("width"))
            and 0 <= _place(element)[1] - _place(band)[1] <= float(band.get("height"))
        ]
        if behind:
            tint = re.fullmatch(r"var\(--lab-(\w+)\)", behind[0].get("fill"))[1]
            ground = over(known[tint], ground, float(behind[0].get("fill-opacity")))
        kind = "sign" if element.text in {"●", "■", "▲", "◆", "✕"} else "words"
        return Mark(repr(element.text), kind, known[fill[1]], ground, (element.text,))
    if stroke is not None and stroke[1] == "grid":  # frames and the grid, which only help the eye along
        return None
    if element.tag == "circle":
        kind, name = ("ring", stroke) if element.get("fill") == "none" else ("dot", fill)
        style = (element.get("stroke-dasharray"),)
        return Mark(f"a {kind} in {name[1]}", kind, paint(name), ground, style, float(element.get("r")))
    if element.tag == "rect":
        return Mark(f"the band {fill[1]}", "band", paint(stroke), ground, (fill[1],))
    if element.tag == "path" and element.get("d"):
        dots = element.get("stroke-linecap") == "round"
        style = ("dots" if dots else "", element.get("stroke-dasharray"), _shape(element.get("d")))
        # A crowd of curves in the background: what it says is said by the panel beside it.
        crowd = element.get("d").count("M") > 20 and opacity < 0.5
        return Mark(f"a line in {stroke[1]}", "line", paint(stroke), ground, style, width, crowd)
    return None


def _shape(d: str) -> str:
    """A cross or an arrow is known by its shape; a curve is a curve."""
    return re.sub(r"[-\d. ]+", "", d) if len(d) < 60 and re.search(r"[lm]", d) else "curve"


def layers_of(lab: base.Lab) -> list[str]:
    """The SVG of each of a lab's layers."""
    found, waiting = [], list(lab.children)
    while waiting:
        widget = waiting.pop(0)
        waiting = [*getattr(widget, "children", ()), *waiting]
        found += re.findall(r"<svg.*?</svg>", str(getattr(widget, "value", "")), re.DOTALL)
    return found


def optimizers() -> Iterator[labs.OptimizerLab]:
    lab = labs.OptimizerLab()
    yield lab
    lab.lr.value = 1.0  # some paths leave the picture
    lab.settle()
    yield lab


def rates() -> Iterator[labs.LearningRateLab]:
    lab = labs.LearningRateLab(num_epochs=1)
    lab.exact = (0.1, lab.sweep.losses[20].tolist())
    lab._draw_front()
    yield lab


def bowl() -> Iterator[labs.QuadraticLab]:
    yield labs.QuadraticLab()


def schedule() -> Iterator[labs.ScheduleLab]:
    yield labs.ScheduleLab(num_epochs=1)


def gradients() -> Iterator[labs.ZeroGradLab]:
    yield labs.ZeroGradLab(num_epochs=1)


def running_loss() -> Iterator[labs.RunningLossLab]:
    yield labs.RunningLossLab()


def item() -> Iterator[labs.ItemLab]:
    yield labs.ItemLab()


def training() -> Iterator[labs.TrainingLab]:
    lab = labs.TrainingLab(num_epochs=2)
    lab.history = lab.untouched
    lab._draw_front()
    yield lab


@pytest.mark.parametrize("states", [optimizers, rates, bowl, schedule, gradients, running_loss, item, training])
def test_labs_can_be_read_by_everyone(states, monkeypatch):
    for lab in states():
        layers = layers_of(lab)
        assert layers
        for theme in ("light", "dark"):
            panels = panels_of(layers, theme)
            assert sum(map(len, panels)) > 10
            assert faults_of(panels) == [], theme
    figures = []
    monkeypatch.setattr(plots, "png", lambda ax: figures.append(ax.figure) or b"")
    lab.picture()
    (figure,) = figures
    assert faults_of([marks_on(ax) for ax in figure.axes]) == []
    lab.close()


def test_the_writers_points_can_be_read_by_everyone():
    """Its pieces are drawn by hand: the lab itself would start a process."""
    points = writer._dots(9, {0, 1, 2}, {3, 4}, 3)
    body = [writer._box(0, "queue", "3", "points wait"), writer._arrow(0), *points]
    drawn = f"<svg>{''.join(body)}</svg>"
    for theme in ("light", "dark"):
        panels = panels_of([drawn], theme)
        kinds = {mark.kind for marks in panels for mark in marks}
        assert {"dot", "ring", "line", "words"} <= kinds
        assert faults_of(panels) == [], theme


def test_the_doctors_card_can_be_read_by_everyone():
    """The border of a finding says again what stands beside it in words: "problem" or "hint"."""
    borders = re.findall(r"border-left(?:-color)?:[^;]*?(#[0-9a-f]{6})", card.STYLE)
    assert len(borders) == 3
    for theme in ("light", "dark"):
        for border in borders:
            assert contrast(to_rgba(border)[:3], ground_of(theme)) >= LINE


# The lessons' own figures.

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COLOURS = {name for name in dir(palette) if name.isupper() and isinstance(getattr(palette, name), str)}
SECOND = {"linestyle", "marker", "hatch", "linewidth", "markersize"}


def cells_of(path: Path) -> Iterator[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def alone_in_colour(source: str) -> bool:
    """Whether a cell draws with several colours and gives nothing else to tell them apart."""
    tree = ast.walk(ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source)))
    colours, second = set(), False
    for node in tree:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "plots":
            colours |= {node.attr} & COLOURS
            second |= node.attr == "LINES"
        elif isinstance(node, ast.Call):
            second |= bool({keyword.arg for keyword in node.keywords} & SECOND)
            # Bars have their names on the axis.
            second |= isinstance(node.func, ast.Attribute) and node.func.attr in {"bar", "barh"}
        elif isinstance(node, ast.Constant):
            second |= node.value in {"--", ":", "-.", "o", "s", "^"}
    return len(colours) > 1 and not second


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_lessons_draw_with_the_palette_and_never_by_colour_alone(path):
    for source in cells_of(path):
        assert not alone_in_colour(source), source
        assert not re.search(r"""colou?r=["'](?!none)|["']#[0-9a-fA-F]{3,8}["']""", source), source


# Each of these would be found.


def test_two_lines_of_one_look_are_found():
    (ax,) = plots.new_axes()
    ax.plot([1, 2], color=palette.GREY, label="a")
    ax.plot([2, 1], color=palette.BLUE, label="b")
    assert faults_of([marks_on(ax)]) == ["'': 'a' and '': 'b' differ in colour alone"]
    ax.get_lines()[1].set_linestyle("--")
    assert faults_of([marks_on(ax)]) == []


def test_pale_lines_and_pale_words_are_found():
    (ax,) = plots.new_axes()
    ax.plot([1, 2], color="#e69f00", label="Okabe and Ito's orange")
    ax.text(0, 1, "pale", color=palette.ORANGE)
    assert faults_of([marks_on(ax)]) == [
        "'': \"Okabe and Ito's orange\": contrast 2.25, needed 3.0",
        "'': 'pale': contrast 3.10, needed 4.5",
    ]


def test_a_lab_that_tells_two_things_by_colour_alone_is_found():
    frame = '<rect x="0" y="0" width="9" height="9" fill="none" stroke="var(--lab-grid)"/>'
    lines = [f'<path d="M1 1L2 2L3 1" stroke="var(--lab-{name})" stroke-width="2"/>' for name in ("second", "slow")]
    (panel, outside) = panels_of([f"<svg>{frame}{''.join(lines)}</svg>"], "light")
    assert outside == []
    assert faults_of([panel]) == ["a line in second and a line in slow differ in colour alone"]


def test_a_cell_that_draws_by_colour_alone_is_found():
    two = "for ys, colour in zip(curves, (plots.GREY, plots.BLUE)):\n    ax.plot(ys, color=colour)"
    assert alone_in_colour(two)
    assert not alone_in_colour(two.replace("(ys,", "(ys, '--',"))
    assert not alone_in_colour("ax.plot(ys, color=plots.BLUE)")
