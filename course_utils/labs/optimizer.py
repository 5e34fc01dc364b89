"""Lesson 01's lab: four of PyTorch's optimizers walk over the same surface while the hand moves their settings."""

import math
from functools import cache, lru_cache
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from course_utils import palette, plots
from course_utils.experiments.surfaces import SURFACES, WALKERS, Point, Surface, walk
from course_utils.labs import svg
from course_utils.labs.base import Lab, layers

WIDTH, HEIGHT = 880, 392
NUM_STEPS = 40
RING = 0.25
EXPONENTS = (-3, 0.5)
START = 10**-1.5
# How many of the four have to end in the ring with one setting. In the narrow valley plain SGD cannot, and in the
# bent one RMSprop's first step is too long before its later ones are long enough.
WANTED = {"narrow valley": 3, "round bowl": 4, "bent valley": 3, "saddle": 4}
COLOURS = {"SGD": "accent", "momentum": "second", "RMSprop": "good", "Adam": "fourth"}
MARKS = {"SGD": "●", "momentum": "■", "RMSprop": "▲", "Adam": "◆"}
# Lines that cross are told apart by their dashes too: a path that left the picture has no mark of its own at its end.
DASHES = {"SGD": "", "momentum": "7 3", "RMSprop": "2 3", "Adam": "9 3 2 3"}
# Contours: the share of the loss at the start at which each line stands.
SHARES = (0.004, 0.02, 0.06, 0.13, 0.25, 0.42, 0.65, 1.0, 1.5, 2.2, 3.2, 4.6, 7.0, 11.0, 17.0)
WIDE = widgets.Layout(width="98%")
# The hand goes back and forth, and a path walked once need not be walked again.
remembered_walk = lru_cache(maxsize=4096)(walk)


class OptimizerLab(Lab):
    """Drag learning rate and momentum and watch four classes of `torch.optim` walk 40 steps over a surface.

    On the left the paths from above, over the lines of equal loss; on the right the loss after each step.

    Attributes:
        lr, momentum, surface: the controls; `lab.lr.value = 0.1` moves the handle.
        optimizers: the on-and-off buttons by name: "SGD", "momentum" (SGD with it), "RMSprop", "Adam".
        paths: the points of each path that is shown, by the optimizer's name.
    """

    def __init__(self):
        style = {"description_width": "90px"}
        self.lr = widgets.FloatLogSlider(
            value=START,
            base=10,
            min=EXPONENTS[0],
            max=EXPONENTS[1],
            step=1 / 16,
            description="learning rate",
            readout_format=".3g",
            layout=WIDE,
            style=style,
            tooltip="learning rate of all four, from 0.001 to 3.16",
        )
        self.momentum = widgets.FloatSlider(
            value=0.9,
            min=0.0,
            max=0.99,
            step=0.01,
            description="momentum",
            layout=WIDE,
            style=style,
            tooltip="momentum of SGD with momentum, and the first beta of Adam",
        )
        self.surface = widgets.ToggleButtons(
            options=list(SURFACES),
            value="narrow valley",
            style={"button_width": "auto"},
            tooltips=[surface.formula for surface in SURFACES.values()],
        )
        self.optimizers = {
            name: widgets.ToggleButton(
                value=True,
                description=f"{MARKS[name]} {name}",
                tooltip=f"show or hide the path of {name}",
                layout=widgets.Layout(width="auto"),
            )
            for name in WALKERS
        }
        self._back, self._front, self._words = widgets.HTML(), widgets.HTML(), widgets.HTML()
        for part, name in ((self._back, "lab-back"), (self._front, "lab-front")):
            part.add_class(name)
        choosers = widgets.HBox(
            [self.surface, *self.optimizers.values()],
            layout=widgets.Layout(flex_flow="row wrap", justify_content="space-between"),
        )
        shown = {f"show {name}": button for name, button in self.optimizers.items()}
        controls = {"lr": self.lr, "momentum": self.momentum, "surface": self.surface, **shown}
        super().__init__(
            [self.lr, self.momentum, choosers, layers(self._back, self._front), self._words],
            controls=controls,
            css_class="optimizer-lab",
        )
        self.paths: dict[str, list[Point]] = {}
        self._surface_behind: str | None = None
        for control in controls.values():
            self.when(control, self._follow)
        self._draw()

    def _follow(self) -> None:
        self.clear_error()
        self.drawing.submit(lambda stale: self._draw())

    # What is drawn. The back changes with the surface, the front with the handles.

    def _draw(self) -> None:
        # Only the newest job is run, so whether the back is out of date is seen here and not by who asks.
        if self._surface_behind != self.surface.value:
            self._draw_back()
        self._draw_front()

    def _panels(self, surface: Surface) -> tuple[svg.Panel, svg.Panel]:
        lowest, highest = _loss_range(surface)
        seen = svg.Panel(54, 34, 408, 272, surface.x_range, surface.y_range)
        fall = svg.Panel(540, 34, 330, 272, (0, NUM_STEPS), (lowest, highest), log_y=True)
        return seen, fall

    def _draw_back(self) -> None:
        surface = SURFACES[self.surface.value]
        seen, fall = self._panels(surface)
        self._surface_behind = surface.name
        lowest, highest = _loss_range(surface)
        powers = range(math.ceil(math.log10(lowest)), math.floor(math.log10(highest)) + 1)
        powers = [power for power in powers if power % 2 == 0]
        x_ticks = [(x, str(x)) for x in range(-2, 3)]
        y_ticks = [(y, str(y)) for y in range(-2, 3)]
        step_ticks = [(step, str(step)) for step in range(0, NUM_STEPS + 1, 10)]
        loss_ticks = [(10.0**power, _power_text(power)) for power in powers]
        ring = RING * seen.width / (surface.x_range[1] - surface.x_range[0])
        body = [
            seen.axes(f"Seen from above: {surface.name}", "weight x", "weight y", x_ticks, y_ticks),
            *(
                svg.line(
                    "".join(seen.path(*zip(*line, strict=True)) for line in lines),
                    colour="faint",
                    width=0.7,
                    opacity=0.85,
                )
                for lines in contours(surface)
            ),
            *(
                f'<circle cx="{seen.x(x):.1f}" cy="{seen.y(y):.1f}" r="{ring:.1f}" fill="none" '
                'stroke="var(--lab-ink)" stroke-width="1.6" stroke-dasharray="4 3"/>'
                for x, y in surface.bottoms
            ),
            svg.text(seen.x(surface.start[0]), seen.y(surface.start[1]) - 9, "start", size=12, anchor="middle"),
            fall.axes("Loss after each step", "step", "loss (log scale)", step_ticks, loss_ticks),
        ]
        alt = f"Lines of equal loss of the surface {surface.formula}, with a ring around each lowest point."
        self._back.value = svg.picture(WIDTH, HEIGHT, "".join(body), alt=alt)

    def _draw_front(self) -> None:
        surface, lr, momentum = SURFACES[self.surface.value], self.lr.value, self.momentum.value
        seen, fall = self._panels(surface)
        self.paths = {
            name: remembered_walk(surface, name, lr, momentum if name in ("momentum", "Adam") else 0.0, NUM_STEPS)
            for name, button in self.optimizers.items()
            if button.value
        }
        body = []
        for number, (name, path) in enumerate(self.paths.items()):
            colour, dash = COLOURS[name], DASHES[name]
            xs, ys = zip(*path, strict=True)
            losses = [max(surface.loss(x, y), fall.y_range[0]) for x, y in path]
            body.append(svg.line(seen.path(xs, ys), colour=colour, width=1.3, opacity=0.85, dash=dash))
            # A line of no length with round ends is a dot: a path of forty points stays half a kilobyte.
            dots = "".join(f"M{seen.x(x):.1f} {seen.y(y):.1f}h0" for x, y in path)
            body.append(f'<path d="{dots}" stroke="var(--lab-{colour})" stroke-width="4.4" stroke-linecap="round"/>')
            end = MARKS[name] if surface.holds(*path[-1]) else "✕"
            body.append(_mark(seen.x(xs[-1]), seen.y(ys[-1]), end, colour, size=17))
            body.append(svg.line(fall.path(range(len(path)), losses), colour=colour, width=1.8, dash=dash))
            body.append(_mark(fall.x(len(path) - 1), fall.y(losses[-1]), end, colour, size=13))
            words = f"{MARKS[name]} {name}: {self._ended(surface, path)}"
            # Two columns of two lines, below the axes' own words.
            left, top = (54 if number % 2 == 0 else 474), 366 + 19 * (number // 2)
            body.append(svg.line(f"M{left} {top - 4}h30", colour=colour, width=1.8, dash=dash))
            body.append(svg.text(left + 38, top, words, colour=colour, weight="600"))
        shown, sentence = f"{lr:.4g}", self._sentence(surface)
        ends = [f"{name}: {self._ended(surface, path)}." for name, path in self.paths.items()]
        alt = " ".join([svg.plain(sentence.partition("<br>")[0]), *ends])
        self._front.value = svg.picture(WIDTH, HEIGHT, "".join(body), alt=alt, data_shown=shown)
        self._words.value = f'<div class="lab-words" aria-live="polite">{sentence}</div>'

    # What is said.

    def _ended(self, surface: Surface, path: list[Point]) -> str:
        """How a path ended, in a few words."""
        if not surface.holds(*path[-1]):
            return f"left the picture with step {len(path) - 1}"
        since = arrival(surface, path)
        if since is not None:
            return f"in the ring from step {since} on"
        return f"loss {surface.loss(*path[-1]):.3g} after {NUM_STEPS} steps"

    def _sentence(self, surface: Surface) -> str:
        """The setting, who is in the ring, and whether the goal is reached."""
        inside = [name for name, path in self.paths.items() if arrival(surface, path) is not None]
        who = f"In the ring: {', '.join(inside)}." if inside else "Nobody ends in the ring."
        setting = f"<b>Learning rate {plots.rate_text(self.lr.value)}, momentum {self.momentum.value:.2f}.</b> {who}"
        wanted = {3: "three", 4: "all four"}[WANTED[surface.name]]
        goal = f"Goal: one learning rate and one momentum with which {wanted} end in the ring."
        if surface.name == "narrow valley":
            goal += " (No rate brings plain SGD there.)"
        if len(inside) >= WANTED[surface.name]:
            goal = f"<b>Goal reached ✓</b> {wanted} with one setting. Try another surface."
        return f"{setting}<br>{goal}"

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        surface, lr, momentum = SURFACES[self.surface.value], self.lr.value, self.momentum.value
        seen, fall = plots.new_axes(2, width=4.8, height=3.4)
        plot_surface(surface, seen)
        for (name, path), colour, marker in zip(
            self.paths.items(), (plots.BLUE, plots.ORANGE, plots.GREEN, plots.PINK), "os^D", strict=False
        ):
            xs, ys = zip(*path, strict=True)
            seen.plot(xs, ys, color=colour, marker=marker, markersize=3, linewidth=1, label=name)
            losses = [max(surface.loss(x, y), _loss_range(surface)[0]) for x, y in path]
            fall.plot(losses, color=colour, marker=marker, markersize=3, linewidth=1.2, label=name)
        setting = f"lr {plots.rate_text(lr)}, momentum {momentum:g}"
        seen.set(title=f"Seen from above: {surface.name}", xlim=surface.x_range, ylim=surface.y_range)
        fall.set(title=f"Loss after each step ({setting})", xlabel="step", ylabel="loss (log scale)", yscale="log")
        if self.paths:
            fall.legend(frameon=False, fontsize=9)
        words = "OptimizerLab: run the cell, then drag learning rate and momentum"
        ends = "; ".join(f"{name}: {self._ended(surface, path)}" for name, path in self.paths.items())
        alt = (
            f"Left: the surface {surface.formula} from above, with the paths of {len(self.paths)} optimizers at "
            f"{setting}. Right: the loss after each step. {ends}."
        )
        return {"image/png": plots.png(seen), "text/plain": words}, {"image/png": {"alt": alt}}


def arrival(surface: Surface, path: list[Point]) -> int | None:
    """The step from which on a whole path stays in the ring around a bottom; None if it does not end there."""
    if len(path) <= NUM_STEPS:
        return None
    outside = [step for step, point in enumerate(path) if not surface.distance(*point) <= RING]
    since = outside[-1] + 1
    return since if since <= NUM_STEPS else None


def plot_surface(surface: Surface, ax: Axes) -> list[list[np.ndarray]]:
    """Draw the lines of equal loss and the rings; return the lines of each level as arrays (points, 2)."""
    xs, ys = np.linspace(*surface.x_range, 241), np.linspace(*surface.y_range, 161)
    heights = surface.loss(*np.meshgrid(xs, ys))
    top = surface.loss(*surface.start)
    drawn = ax.contour(
        xs, ys, heights, levels=[share * top for share in SHARES], colors=palette.LIGHT_GREY, linewidths=0.6
    )
    for bottom in surface.bottoms:
        ax.add_patch(Circle(bottom, RING, fill=False, linestyle="--", color="#222222", zorder=3))
    ax.set(xlabel="weight x", ylabel="weight y")
    ax.grid(visible=False)
    return drawn.allsegs


@cache
def contours(surface: Surface) -> list[list[list[Point]]]:
    """The lines of equal loss by level, thinned to what a small picture can show; each line is a row of points."""
    (ax,) = plots.new_axes()
    return [
        [[*line[:-1:3].tolist(), line[-1].tolist()] for line in level if len(line) > 1]
        for level in plot_surface(surface, ax)
    ]


def _loss_range(surface: Surface) -> tuple[float, float]:
    """The ends of the loss axis: a hundred-thousandth and four times the loss at the start."""
    top = surface.loss(*surface.start)
    return 1e-5 * top, 4 * top


def _power_text(power: int) -> str:
    return "1" if power == 0 else "10" + "".join("⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".index(sign)] for sign in str(power))


def _mark(x: float, y: float, mark: str, colour: str, *, size: int) -> str:
    """A sign whose middle is at the point, with a thin edge of the ground's colour."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" dominant-baseline="central" font-size="{size}" '
        f'fill="var(--lab-{colour})" stroke="var(--jp-layout-color0, white)" stroke-width=".6">{mark}</text>'
    )
