"""Colors that everyone can read: figures and labs use the palette only, with WCAG's contrast against their ground.

The figures are the real ones: their colors are read back from matplotlib's artists and from the labs' SVG, so a new
curve is checked without being named here.
"""

import json
import math
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
from loop_doctor import card
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba

from course_utils import data, labs, palette, plots
from course_utils.experiments import loop_memory
from course_utils.experiments.bookkeeping import record
from course_utils.experiments.surfaces import SURFACES
from course_utils.labs import base, item, writer
from course_utils.learner import calibration
from course_utils.lr import descend, sweep_lr
from course_utils.lr.finder import rising_rates, suggest
from course_utils.models import MLP

ROOT = Path(__file__).resolve().parents[1]
THEMES = Path(sys.prefix) / "share/jupyter/lab/themes/@jupyterlab"
# WCAG 2.2: a line that must be seen (1.4.11) and text that must be read (1.4.3), against what is behind them.
LINE, TEXT = 3.0, 4.5
WHITE, BLACK = "#ffffff", "#000000"
CHARTS = {value for name, value in vars(palette).items() if name.isupper() and isinstance(value, str)}

RGB = tuple[float, ...]


def luminance(color: RGB) -> float:
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in color[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: RGB, second: RGB) -> float:
    """Return WCAG's contrast ratio, from 1 to 21."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def over(color: RGB, ground: RGB, opacity: float = 1.0) -> RGB:
    """Return a color, with or without alpha, laid over its ground."""
    share = opacity * (color[3] if len(color) == 4 else 1.0)
    return tuple(share * value + (1 - share) * below for value, below in zip(color[:3], ground[:3], strict=True))


# The charts.


def test_colors_of_charts_stand_out_from_white():
    assert [color for color in CHARTS if contrast(to_rgba(color), to_rgba(WHITE)) < LINE] == []
    assert [color for color in palette.WORDS.values() if contrast(to_rgba(color), to_rgba(WHITE)) < TEXT] == []


def test_a_tables_numbers_stand_out_from_their_cells():
    values = [place / 20 for place in range(61)]
    ax = plots.plot_table({"all": values}, columns=list(map(str, values)), title="table", x_label="loss")
    (cells,) = ax.images
    for value, text in zip(values, ax.texts, strict=True):
        assert contrast(to_rgba(text.get_color()), cells.cmap(cells.norm(value))) >= TEXT


def faults_of(ax: Axes) -> list[str]:
    """Return what does not come from the palette, and the lines of one look; the grid and the frame are left out."""
    known, words = {*CHARTS, WHITE, BLACK}, {*palette.WORDS.values(), WHITE, BLACK}
    used = [line.get_color() for line in ax.get_lines()]
    used += [color for lines in ax.collections for color in lines.get_edgecolor()]
    used += [color for patch in ax.patches for color in (patch.get_facecolor(), patch.get_edgecolor())]
    visible = {to_hex(color) for color in used if to_rgba(color)[3] > 0}
    found = [f"{color} is not in the palette" for color in visible - known]
    found += [f"{color} is not for text" for color in {to_hex(text.get_color()) for text in ax.texts} - words]
    lines = [line for line in ax.get_lines() if line.get_label() and not line.get_label().startswith("_")]
    looks = [(line.get_linestyle(), line.get_marker(), line.get_linewidth()) for line in lines]
    return found + [f"two lines look like {look}" for look in {look for look in looks if looks.count(look) > 1}]


def charts() -> Iterator[tuple[str, Axes]]:
    """Each plot of the course once, with many curves."""
    sweep = sweep_lr(MLP, *data.load("digits").train.dataset.tensors, [1e-4, 1e-3, 0.1, 0.3, 3.0, 10.0], num_epochs=1)
    yield "losses", plots.plot_losses(sweep, 0.1)
    yield "final_losses", plots.plot_final_losses(sweep, 0.1)
    paths = {lr: descend(1.0, lr, 4.0, 20) for lr in (0.05, 0.1, 0.2, 0.25, 0.4, 0.45)}
    yield "bowl", plots.plot_bowl(4.0, paths)
    yield "descent", plots.plot_descent(paths)
    yield "surface", plots.plot_surface(SURFACES["saddle"])
    four = {name: [2.0, 1.5, 9.0, 1.0 + place / 10] for place, name in enumerate("abcd")}
    yield "runs", plots.plot_runs(four, top=4.0)
    yield "curves", plots.plot_curves({name: list(enumerate(ys)) for name, ys in four.items()}, title="curves")
    yield "table", plots.plot_table({"all": [1.0, 2.0]}, columns=["a", "b"], title="table", x_label="loss")
    yield "calibration", plots.plot_calibration([calibration.Calibration("01", 2, 1, 1)])
    losses = [2.3 - 1.5 * math.exp(-(((place - 40) / 12) ** 2)) for place in range(60)]
    yield "finder", plots.plot_finder(suggest(rising_rates(1e-3, 10.0, 60), losses))


def test_charts_use_the_palette_and_never_color_alone():
    drawn = dict(charts())
    assert {f"plot_{name}" for name in drawn} == {name for name in dir(plots) if name.startswith("plot_")}
    assert {name: faults_of(ax) for name, ax in drawn.items()} == {name: [] for name in drawn}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_lessons_draw_with_the_palette(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            assert not re.search(r"""colou?r=["'](?!none)|["']#[0-9a-fA-F]{3,8}["']""", source), source


# The labs, in both themes of JupyterLab.


def resolved(value: str, theme: str) -> RGB:
    """Return the color of a CSS value as a browser resolves it in a theme."""
    css = (THEMES / f"theme-{theme}-extension" / "index.css").read_text(encoding="utf-8")
    while named := re.fullmatch(r"var\((--[\w-]+)(?:, *([^()]+))?\)", value):
        own = re.search(rf"{named[1]}: *([^;}}]+)", css)
        value = own[1] if own else named[2]
    if numbers := re.fullmatch(r"rgba\((\d+), *(\d+), *(\d+), *([\d.]+)\)", value):
        return (*(int(number) / 255 for number in numbers.groups()[:3]), float(numbers[4]))
    return to_rgba(value)


def low_contrast(drawings: list[str], theme: str) -> list[str]:
    """Return the elements of SVG drawings that do not stand out from a cell's output, or whose color is unknown."""
    own, dark = re.search(r"\.course-lab \{(.*?)\}.*?\.course-lab \{(.*?)\}", base.STYLE, re.DOTALL).groups()
    known = dict(re.findall(r"--lab-(\w+): ([^;]+);", own + (dark if theme == "dark" else "")))
    ground, found = over(resolved("var(--jp-layout-color0)", theme), to_rgba(WHITE)), []
    for element in (element for drawing in drawings for element in ElementTree.fromstring(drawing).iter()):
        value = next((element.get(name) for name in ("stroke", "fill") if element.get(name, "none") != "none"), None)
        if element.tag == "text":
            value = element.get("fill")
        if value is None or value == "var(--lab-grid)":  # a group, or the grid, which only helps the eye
            continue
        opacity = float(element.get("opacity", 1))
        if element.get("d", "").count("M") > 20 and opacity < 0.5:  # a crowd of curves in the background
            continue
        color = over(resolved(known[re.fullmatch(r"var\(--lab-(\w+)\)", value)[1]], theme), ground, opacity)
        if contrast(color, ground) < (TEXT if element.tag == "text" else LINE):
            found.append(ElementTree.tostring(element, encoding="unicode"))
    return found


def drawings_of(lab: base.Lab) -> list[str]:
    """Return the SVG of each of a lab's layers."""
    found, waiting = [], list(lab.children)
    while waiting:
        widget = waiting.pop(0)
        waiting += getattr(widget, "children", ())
        found += re.findall(r"<svg.*?</svg>", str(getattr(widget, "value", "")), re.DOTALL)
    return found


LABS = {
    "optimizer": labs.OptimizerLab,
    "learning rate": lambda: labs.LearningRateLab(num_epochs=1),
    "bowl": labs.QuadraticLab,
    "schedule": lambda: labs.ScheduleLab(num_epochs=1),
    "zero_grad": lambda: labs.ZeroGradLab(num_epochs=1),
    "running loss": lambda: labs.RunningLossLab(record(1)),
    "item": labs.ItemLab,
    "training": lambda: labs.TrainingLab(num_epochs=1),
}


@pytest.mark.parametrize("name", LABS)
def test_a_lab_can_be_read_in_both_themes_and_has_alternative_texts(name, monkeypatch):
    monkeypatch.setattr(loop_memory, "NUM_STEPS", 30)
    monkeypatch.setattr(item, "NUM_STEPS", 30)
    figures = []
    monkeypatch.setattr(plots, "png", lambda ax: figures.append(ax.figure) or b"")
    lab = LABS[name]()
    try:
        drawings = drawings_of(lab)
        assert any(ElementTree.fromstring(drawing).get("aria-label") for drawing in drawings)
        assert {theme: low_contrast(drawings, theme) for theme in ("light", "dark")} == {"light": [], "dark": []}
        _, metadata = lab.picture()
        assert metadata["image/png"]["alt"]
        assert [fault for ax in figures[0].axes for fault in faults_of(ax)] == []
    finally:
        lab.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_writers_points_can_be_read(theme):
    """Its pieces are drawn directly, because the lab itself would start a process."""
    body = [writer._box(0, "queue", "3", "points wait"), writer._arrow(0), *writer._dots(9, {0, 1, 2}, {3, 4}, 3)]
    assert low_contrast([f"<svg>{''.join(body)}</svg>"], theme) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_borders_of_the_doctors_card_can_be_seen(theme):
    borders = re.findall(r"border-left(?:-color)?:[^;]*?(#[0-9a-f]{6})", card.STYLE)
    assert len(borders) == 3
    ground = over(resolved("var(--jp-layout-color0)", theme), to_rgba(WHITE))
    assert all(contrast(to_rgba(border), ground) >= LINE for border in borders)
