"""Figures of what the course measures: `plot_*(data, ax=None) -> ax`, without pyplot, so that any thread may draw.

All colors come from the palette and stand out from white; two lines of one figure also differ in dashes or markers.
"""

import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from PIL import Image

from course_utils.errors import unknown_name
from course_utils.experiments.surfaces import RING_RADIUS, Position, Surface
from course_utils.learner.calibration import BRACKETS, Calibration, total
from course_utils.lr import LRFinderResult, Sweep
from course_utils.palette import BLUE, GRAY, GREEN, INK, LIGHT_GRAY, ORANGE, PINK, RED, SKY, WORDS

LINES = ("-", "--", ":", "-.", "-")
ZONE_COLORS = {"too slow": ORANGE, "works": GREEN, "diverges": RED}
# A table's cells go from dark to light; above this loss (of at most 3), black text is easier to read than white.
DARK_INK_ABOVE = 1.4
# The levels of a surface's contours, as shares of the loss at the start.
CONTOUR_SHARES = (0.004, 0.02, 0.06, 0.13, 0.25, 0.42, 0.65, 1.0, 1.5, 2.2, 3.2, 4.6, 7.0, 11.0, 17.0)


def new_axes(columns: int = 1, *, width: float = 4.6, height: float = 3.3) -> list[Axes]:
    """Make a figure of `columns` axes in a row, each `width` × `height` inches, on an opaque white ground."""
    figure = Figure(figsize=(width * columns, height), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)
    return list(axes)


def png(ax: Axes) -> bytes:
    """Return the figure that `ax` belongs to as a PNG of 128 colors: enough for a chart, and a third of the size."""
    drawn, small = io.BytesIO(), io.BytesIO()
    cast(Figure, ax.figure).savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()


def show(ax: Axes | Sequence[Axes], alt: str) -> None:
    """Show a figure in a notebook, and below it a sentence that describes it.

    The sentence is stored with the picture as its alternative text too. JupyterLab ignores a picture's metadata, so
    screen readers there rely on the visible sentence.

    Args:
        ax: the axes, or several of one figure.
        alt: the sentence.

    Raises:
        ValueError: the sentence is empty.
    """
    from IPython.display import display

    if not alt.strip():
        raise ValueError(f"alt must describe the figure in a sentence, got {alt!r}")
    first = ax if isinstance(ax, Axes) else ax[0]
    display({"image/png": png(first), "text/plain": "[picture]"}, metadata={"image/png": {"alt": alt}}, raw=True)
    style = "max-width: 620px; margin: 0 0 6px; font-size: 90%; color: var(--jp-ui-font-color2, #555)"
    display({"text/html": f'<p style="{style}">{html.escape(alt)}</p>', "text/plain": alt}, raw=True)


def rate_text(lr: float) -> str:
    """Format a learning rate with three significant digits: 0.1, 0.0178, 1e-05."""
    return f"{lr:.3g}"


def _axes(ax: Axes | None) -> Axes:
    return new_axes()[0] if ax is None else ax


def _clip(values: Sequence[float], top: float) -> list[float]:
    """Clip a curve that runs away, so that it follows the upper edge of the picture."""
    return [top if value == math.inf else min(value, top) for value in values]


def plot_losses(sweep: Sweep, lr: float | None = None, ax: Axes | None = None) -> Axes:
    """Draw the loss of every step for every learning rate of a sweep, with the one nearest to `lr` in front."""
    ax = _axes(ax)
    top = ceiling(sweep)
    steps = range(1, sweep.losses.shape[1] + 1)
    for curve in sweep.losses.tolist():
        ax.plot(steps, _clip(curve, top), color=LIGHT_GRAY, linewidth=0.5, alpha=0.5)
    if lr is not None:
        index = sweep.nearest(lr)
        chosen, label = _clip(sweep.losses[index].tolist(), top), f"lr = {rate_text(sweep.lrs[index])}"
        ax.plot(steps, chosen, color=BLUE, linewidth=2, label=label)
        ax.legend(loc="upper right", frameon=False)
    ax.set(title="Loss at each step", xlabel="step", ylabel="loss of the batch (cross-entropy)", ylim=(0, top))
    return ax


def plot_final_losses(sweep: Sweep, lr: float | None = None, ax: Axes | None = None) -> Axes:
    """Draw the final loss against the learning rate, and label the zones "too slow", "works" and "diverges"."""
    ax = _axes(ax)
    top = ceiling(sweep)
    finals = _clip([value if math.isfinite(value) else math.inf for value in sweep.final_losses.tolist()], top)
    ax.plot(sweep.lrs, finals, color=GRAY, linewidth=1.2, marker="o", markersize=3)
    for zone, low, high in zone_spans(sweep):
        ax.axvspan(low, high, facecolor=(ZONE_COLORS[zone], 0.13), edgecolor=ZONE_COLORS[zone], linewidth=0.8)
        ax.text(math.sqrt(low * high), top * 0.96, zone, ha="center", va="top", fontsize=9)
    if lr is not None:
        index = sweep.nearest(lr)
        ax.plot(sweep.lrs[index], finals[index], "o", color=BLUE, markersize=9)
    ax.set_xscale("log")
    ax.set(
        title="Final loss against the learning rate",
        xlabel="learning rate (log scale)",
        ylabel="mean loss of the last epoch",
    )
    ax.set(xlim=(sweep.lrs[0], sweep.lrs[-1]), ylim=(0, top))
    return ax


def ceiling(sweep: Sweep) -> float:
    """Return the top of the loss axis: 1.7 times the loss at the start, rounded up to a multiple of 0.5."""
    start = sweep.losses[:, 0].nanmean().item()
    return math.ceil(1.7 * start * 2) / 2


def zone_spans(sweep: Sweep) -> list[tuple[str, float, float]]:
    """Return the zones of a sweep as (name, lowest lr, highest lr), meeting halfway between two learning rates."""
    spans: list[tuple[str, float, float]] = []
    zones = sweep.zones
    for index, (zone, lr) in enumerate(zip(zones, sweep.lrs, strict=True)):
        low = lr if index == 0 else math.sqrt(sweep.lrs[index - 1] * lr)
        high = lr if index == len(zones) - 1 else math.sqrt(lr * sweep.lrs[index + 1])
        if spans and spans[-1][0] == zone:
            spans[-1] = (zone, spans[-1][1], high)
        else:
            spans.append((zone, low, high))
    return spans


def plot_bowl(curvature: float, paths: Mapping[float, Sequence[float]], ax: Axes | None = None) -> Axes:
    """Draw the bowl ½ · curvature · w² and the first steps in it, one line for each learning rate."""
    ax = _axes(ax)
    edge = 1.6
    ws = [edge * (step / 50 - 1) for step in range(101)]
    ax.plot(ws, [0.5 * curvature * w * w for w in ws], color=GRAY, linewidth=1.2)
    for (lr, path), color, marker in zip(paths.items(), (ORANGE, GREEN, BLUE, RED, PINK, SKY), "os^vDP", strict=False):
        seen = [w for w in path if abs(w) <= edge]
        heights = [0.5 * curvature * w * w for w in seen]
        ax.plot(seen, heights, color=color, marker=marker, markersize=4, linewidth=1, label=f"lr = {rate_text(lr)}")
    ax.set(title=f"In a bowl of curvature {curvature:g}", xlabel="weight w", ylabel="loss ½ λ w²")
    return ax


def plot_surface(surface: Surface, ax: Axes | None = None) -> Axes:
    """Draw the contours of equal loss from above, and a ring around each minimum."""
    ax = _axes(ax)
    _contour(surface, ax)
    for minimum in surface.minima:
        ax.add_patch(Circle(minimum, RING_RADIUS, fill=False, linestyle="--", color=INK, zorder=3))
    ax.set(xlabel="weight x", ylabel="weight y")
    ax.grid(visible=False)
    return ax


def contour_lines(surface: Surface) -> list[list[list[Position]]]:
    """Return the contours of equal loss by level, thinned to what a small picture can show, as lists of points."""
    return [
        [[*line[:-1:3].tolist(), line[-1].tolist()] for line in level if len(line) > 1]
        for level in _contour(surface, new_axes()[0]).allsegs
    ]


def _contour(surface: Surface, ax: Axes) -> QuadContourSet:
    xs, ys = np.linspace(*surface.x_range, 241), np.linspace(*surface.y_range, 161)
    start = surface.loss(*surface.start)
    levels = [share * start for share in CONTOUR_SHARES]
    return ax.contour(xs, ys, surface.loss(*np.meshgrid(xs, ys)), levels=levels, colors=LIGHT_GRAY, linewidths=0.6)


def plot_descent(paths: Mapping[float, Sequence[float]], ax: Axes | None = None) -> Axes:
    """Draw the distance |w| from the minimum at each step, one line for each learning rate."""
    ax = _axes(ax)
    for (lr, path), color, marker in zip(paths.items(), (ORANGE, GREEN, BLUE, RED, PINK, SKY), "os^vDP", strict=False):
        distance = [max(abs(w), 1e-8) for w in path]
        ax.plot(distance, color=color, marker=marker, markersize=3, linewidth=1.2, label=f"lr = {rate_text(lr)}")
    ax.set_yscale("log")
    ax.set(title="Distance from the minimum", xlabel="step", ylabel="|w| (log scale; 0 on the lower edge)")
    ax.set_ylim(bottom=1e-8)
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    return ax


def plot_runs(
    runs: Mapping[str, Sequence[float]],
    ax: Axes | None = None,
    *,
    xs: Sequence[float] | None = None,
    top: float | None = None,
    title: str = "Loss at each step",
    x_label: str = "step",
) -> Axes:
    """Draw the batch losses of a few named runs.

    Args:
        runs: the losses of each run, by its name in the legend.
        ax: the axes to draw on; by default a new figure.
        xs: the distance that one step of each run covers on the x axis; by default 1.
        top: the upper end of the loss axis; losses above it follow the edge.
        title, x_label: the title and the label of the x axis.
    """
    ax = new_axes(width=6.0)[0] if ax is None else ax
    scales = [1.0] * len(runs) if xs is None else xs
    above = top is not None and any(max(losses) > top for losses in runs.values())
    for (name, losses), scale, color, style in zip(
        runs.items(), scales, (BLUE, ORANGE, RED, GREEN, PINK), LINES, strict=False
    ):
        shown = losses if top is None else _clip(losses, top)
        if top is not None and max(losses) > top:
            first = next(step for step, loss in enumerate(losses, start=1) if loss > top)
            words = f"↑ to {max(losses):,.0f} "
            ax.text(scale * first, top, words, color=WORDS[color], ha="left", va="bottom", fontsize=9)
        ax.plot(
            [scale * step for step in range(1, len(losses) + 1)], shown, style, color=color, linewidth=1.6, label=name
        )
    ax.set(xlabel=x_label, ylabel="loss of the batch (cross-entropy)")
    ax.set_title(title, pad=16 if above else None)  # room for how high a loss goes, between the edge and the title
    ax.set_ylim(0, top)
    ax.legend(frameon=False)
    return ax


def plot_table(
    rows: Mapping[str, Sequence[float]], ax: Axes | None = None, *, columns: Sequence[str], title: str, x_label: str
) -> Axes:
    """Draw a table of losses: the lower the darker, and the lowest of each row in bold with a frame."""
    ax = new_axes(width=7.2, height=0.42 * len(rows) + 1.1)[0] if ax is None else ax
    values = [[min(value, 3.0) for value in row] for row in rows.values()]
    ax.imshow(values, cmap="cividis", vmin=0, vmax=3, aspect="auto")
    ax.grid(visible=False)
    for row, losses in enumerate(rows.values()):
        for column, loss in enumerate(losses):
            best = loss == min(losses)
            words = f"{loss:.3f}" if loss < 100 else "above 100"
            ink = "black" if values[row][column] > DARK_INK_ABOVE else "white"
            ax.text(
                column, row, words, ha="center", va="center", color=ink, fontsize=9, weight="bold" if best else "normal"
            )
            if best:
                ax.add_patch(
                    Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, edgecolor="white", linewidth=2)
                )
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(title=title, xlabel=x_label)
    return ax


def plot_calibration(tallies: Sequence[Calibration], claimed: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw for each lesson how many guesses were right, how many were wrong, and how many questions had no guess.

    Args:
        tallies: the lessons, from `calibration.tally`.
        claimed: the learner's own estimate for all guesses together, one of `calibration.BRACKETS`, or None.
        ax: the axes to draw on; by default a new figure.

    Raises:
        ValueError: `claimed` is not one of `calibration.BRACKETS`.
    """
    if claimed is not None and claimed not in BRACKETS:
        raise unknown_name("share", claimed, BRACKETS)
    ax = new_axes(width=6.4, height=3.1)[0] if ax is None else ax
    places, bottoms = range(len(tallies)), [0] * len(tallies)
    parts = (
        ("right", "as guessed", BLUE, ""),
        ("wrong", "otherwise", ORANGE, "//"),
        ("unguessed", "no guess", "white", ""),
    )
    for name, label, color, hatch in parts:
        counts = [getattr(each, name) for each in tallies]
        edge = GRAY if color == "white" else "white"
        ax.bar(places, counts, bottom=bottoms, color=color, hatch=hatch, edgecolor=edge, label=label, width=0.7)
        bottoms = [low + count for low, count in zip(bottoms, counts, strict=True)]
    whole = total(list(tallies))
    if whole.share is None:
        title = "No guess is on record yet"
    else:
        title = f"{whole.right} of {whole.guessed} guesses came out as made ({whole.share:.0%})"
        title += f"\nyou said: {claimed}" if claimed is not None else ""
    ax.set(title=title, xlabel="lesson", ylabel="predictions", xlim=(-0.6, max(len(tallies), 3) - 0.4))
    ax.set_ylim(0, max([*bottoms, 4]) * 1.35)
    ax.set_xticks(places, [each.lesson for each in tallies])
    ax.legend(frameon=False, ncols=3, loc="upper center")
    return ax


def plot_finder(found: LRFinderResult, ax: Axes | None = None) -> Axes:
    """Draw what the finder measured: each loss, their centered mean, and the suggested range and point if any."""
    ax = new_axes(width=6.0)[0] if ax is None else ax
    start = max(found.smoothed[:1], default=1.0)
    low, high = min(found.losses, default=0.0), max(found.losses, default=1.0)
    # A loss that ran away would flatten the rest of the curve.
    top = min(high, start + 0.6 * max(start - low, abs(start) / 10)) + 0.05 * abs(start)
    ax.plot(found.lrs, _clip(found.losses, top), color=LIGHT_GRAY, linewidth=0.8, label="loss of the batch")
    ax.plot(found.lrs, _clip(found.smoothed, top), color=BLUE, linewidth=2, label="centred mean")
    title = "No suggestion"
    if found.suggestion is not None:
        point = found.suggestion.point
        low_rate, high_rate = found.suggestion.low, found.suggestion.high
        ax.axvspan(low_rate, high_rate, facecolor=(GREEN, 0.15), edgecolor=GREEN, linewidth=0.8, label="range")
        ax.axvline(point, color=GREEN, linewidth=1.5, linestyle="--", label=f"point, lr = {point:.2g}")
        title = "The finder's suggestion"
    ax.set_xscale("log")
    ax.set(title=title, xlabel="learning rate (log scale)", ylabel="loss of the batch before the step")
    ax.set_ylim(low - 0.1 * (top - low), top)
    ax.legend(frameon=False, fontsize=9, loc="lower left")
    return ax


def plot_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    ax: Axes | None = None,
    *,
    title: str,
    x_label: str = "step",
    y_label: str = "logged number",
) -> Axes:
    """Draw named curves of logged points `(step, value)`, with a dot for each point if there are few."""
    ax = new_axes(width=6.0)[0] if ax is None else ax
    for (name, points), color, style in zip(curves.items(), (BLUE, ORANGE, GREEN, RED, PINK), LINES, strict=False):
        marker = "o" if len(points) <= 40 else None
        steps, values = zip(*points, strict=True) if points else ((), ())
        ax.plot(steps, values, style, color=color, marker=marker, markersize=3, linewidth=1.6, label=name)
    ax.set(title=title, xlabel=x_label, ylabel=y_label)
    ax.legend(frameon=False, fontsize=9)
    return ax
