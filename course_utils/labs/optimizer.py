"""Lesson 01's lab: four of PyTorch's optimizers on the same surface, with a learning rate and momentum to drag."""

import math
from functools import cache, lru_cache
from typing import Any

import ipywidgets as widgets

from course_utils import plots
from course_utils.experiments.surfaces import NUM_STEPS, OPTIMIZERS, RING_RADIUS, SURFACES, Position, Surface, walk
from course_utils.labs import svg
from course_utils.labs.base import (
    FIT,
    GOAL_REACHED,
    Lab,
    html_box,
    layers,
    log_slider,
    sentences,
    slider_options,
    still_picture,
)

HEIGHT = 392
EXPONENTS = (-3, 0.5)
START = 10**-1.5
# How many of the four must end in a ring with one setting. In the narrow valley plain SGD cannot, and in the bent one
# RMSprop's first step is too long before its later ones are long enough.
WANTED = {"narrow valley": 3, "round bowl": 4, "bent valley": 3, "saddle": 4}
COLORS = {"SGD": "accent", "momentum": "second", "RMSprop": "good", "Adam": "fourth"}
MARKS = {"SGD": "●", "momentum": "■", "RMSprop": "▲", "Adam": "◆"}
# Lines that cross also differ in their dashes: a path that left the picture has no mark of its own at its end.
DASHES = {"SGD": "", "momentum": "7 3", "RMSprop": "2 3", "Adam": "9 3 2 3"}
# The sliders move back and forth, so a path that was computed once is kept.
cached_walk = lru_cache(maxsize=4096)(walk)
cached_contours = cache(plots.contour_lines)


class OptimizerLab(Lab):
    """Drag the learning rate and momentum, and watch four classes of `torch.optim` take 40 steps over a surface.

    The left panel shows the paths from above, over the contours of the loss; the right panel the loss after each step.

    Attributes:
        lr, momentum, surface: the controls; `lab.lr.value = 0.1` moves the handle.
        optimizers: the toggle buttons by name: "SGD", "momentum" (SGD with momentum), "RMSprop", "Adam".
        paths: the points of each path that is shown, by the optimizer's name.
    """

    def __init__(self):
        self.lr = log_slider(
            "learning rate",
            value=START,
            exponents=EXPONENTS,
            step=1 / 16,
            tooltip="learning rate of all four, from 0.001 to 3.16",
        )
        self.momentum = widgets.FloatSlider(
            value=0.9,
            min=0.0,
            max=0.99,
            step=0.01,
            description="momentum",
            tooltip="momentum of SGD with momentum, and the first beta of Adam",
            **slider_options(),
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
                layout=FIT,
            )
            for name in OPTIMIZERS
        }
        self._back, self._front, self._words = html_box("lab-back"), html_box("lab-front"), html_box()
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
        self.paths: dict[str, list[Position]] = {}
        for control in controls.values():
            self.on_change(control, self.follow)
        self.on_change(self.surface, lambda: self.draw(back=True))
        self._draw_back()
        self._draw_front()

    # Drawing: the back changes with the surface, the front with the sliders.

    def _panels(self, surface: Surface) -> tuple[svg.Panel, svg.Panel]:
        lowest, highest = _loss_range(surface)
        seen = svg.Panel(54, 34, 408, 272, surface.x_range, surface.y_range)
        fall = svg.Panel(540, 34, 330, 272, (0, NUM_STEPS), (lowest, highest), log_y=True)
        return seen, fall

    def _draw_back(self) -> None:
        surface = SURFACES[self.surface.value]
        seen, fall = self._panels(surface)
        lowest, highest = _loss_range(surface)
        loss_ticks = svg.decades(2 * math.ceil(math.log10(lowest) / 2), math.floor(math.log10(highest)), 2)
        x_ticks = [(x, str(x)) for x in range(-2, 3)]
        y_ticks = [(y, str(y)) for y in range(-2, 3)]
        step_ticks = [(step, str(step)) for step in range(0, NUM_STEPS + 1, 10)]
        ring = RING_RADIUS * seen.width / (surface.x_range[1] - surface.x_range[0])
        body = [
            seen.axes(f"Seen from above: {surface.name}", "weight x", "weight y", x_ticks, y_ticks),
            *(
                svg.line(
                    "".join(seen.path(*zip(*line, strict=True)) for line in lines),
                    color="faint",
                    width=0.7,
                    opacity=0.85,
                )
                for lines in cached_contours(surface)
            ),
            *(
                f'<circle cx="{seen.x(x):.1f}" cy="{seen.y(y):.1f}" r="{ring:.1f}" fill="none" '
                'stroke="var(--lab-ink)" stroke-width="1.6" stroke-dasharray="4 3"/>'
                for x, y in surface.minima
            ),
            svg.text(seen.x(surface.start[0]), seen.y(surface.start[1]) - 9, "start", size=12, anchor="middle"),
            fall.axes("Loss after each step", "step", "loss (log scale)", step_ticks, loss_ticks),
        ]
        alt = f"Lines of equal loss of the surface {surface.formula}, with a ring around each lowest point."
        self._back.value = svg.picture(HEIGHT, "".join(body), alt=alt)

    def _draw_front(self) -> None:
        surface, lr, momentum = SURFACES[self.surface.value], self.lr.value, self.momentum.value
        seen, fall = self._panels(surface)
        self.paths = {
            name: cached_walk(surface, name, lr, momentum if name in ("momentum", "Adam") else 0.0, NUM_STEPS)
            for name, button in self.optimizers.items()
            if button.value
        }
        body = []
        for number, (name, path) in enumerate(self.paths.items()):
            color, dash = COLORS[name], DASHES[name]
            xs, ys = zip(*path, strict=True)
            losses = [max(surface.loss(x, y), fall.y_range[0]) for x, y in path]
            body.append(svg.line(seen.path(xs, ys), color=color, width=1.3, opacity=0.85, dash=dash))
            # A line of length 0 with round ends is a dot: this way a path of forty points takes half a kilobyte.
            dots = "".join(f"M{seen.x(x):.1f} {seen.y(y):.1f}h0" for x, y in path)
            body.append(f'<path d="{dots}" stroke="var(--lab-{color})" stroke-width="4.4" stroke-linecap="round"/>')
            end = MARKS[name] if surface.contains(*path[-1]) else "✕"
            body.append(_mark(seen.x(xs[-1]), seen.y(ys[-1]), end, color, size=17))
            body.append(svg.line(fall.path(range(len(path)), losses), color=color, width=1.8, dash=dash))
            body.append(_mark(fall.x(len(path) - 1), fall.y(losses[-1]), end, color, size=13))
            words = f"{MARKS[name]} {name}: {self._ended(surface, path)}"
            # Two columns of two lines, below the labels of the axes.
            left, top = (54 if number % 2 == 0 else 474), 366 + 19 * (number // 2)
            body.append(svg.line(f"M{left} {top - 4}h30", color=color, width=1.8, dash=dash))
            body.append(svg.text(left + 38, top, words, color=color, weight="600"))
        shown, sentence = f"{lr:.4g}", self._sentence(surface)
        ends = [f"{name}: {self._ended(surface, path)}." for name, path in self.paths.items()]
        alt = " ".join([svg.plain(sentence.partition("<br>")[0]), *ends])
        self._front.value = svg.picture(HEIGHT, "".join(body), alt=alt, data_shown=shown)
        self._words.value = sentences(sentence)

    # Sentences.

    def _ended(self, surface: Surface, path: list[Position]) -> str:
        """Describe in a few words how a path ended."""
        if not surface.contains(*path[-1]):
            return f"left the picture with step {len(path) - 1}"
        since = surface.arrival(path)
        if since is not None:
            return f"in the ring from step {since} on"
        return f"loss {surface.loss(*path[-1]):.3g} after {NUM_STEPS} steps"

    def _sentence(self, surface: Surface) -> str:
        """Describe the setting, which optimizers end in a ring, and whether the goal is reached."""
        inside = [name for name, path in self.paths.items() if surface.arrival(path) is not None]
        who = f"In the ring: {', '.join(inside)}." if inside else "Nobody ends in the ring."
        setting = f"<b>Learning rate {plots.rate_text(self.lr.value)}, momentum {self.momentum.value:.2f}.</b> {who}"
        wanted = {3: "three", 4: "all four"}[WANTED[surface.name]]
        goal = f"Goal: one learning rate and one momentum with which {wanted} end in the ring."
        if surface.name == "narrow valley":
            goal += " (No rate brings plain SGD there.)"
        if len(inside) >= WANTED[surface.name]:
            goal = f"{GOAL_REACHED} {wanted} with one setting. Try another surface."
        return f"{setting}<br>{goal}"

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        surface, lr, momentum = SURFACES[self.surface.value], self.lr.value, self.momentum.value
        seen, fall = plots.new_axes(2, width=4.8, height=3.4)
        plots.plot_surface(surface, seen)
        for (name, path), color, marker in zip(
            self.paths.items(), (plots.BLUE, plots.ORANGE, plots.GREEN, plots.PINK), "os^D", strict=False
        ):
            xs, ys = zip(*path, strict=True)
            seen.plot(xs, ys, color=color, marker=marker, markersize=3, linewidth=1, label=name)
            losses = [max(surface.loss(x, y), _loss_range(surface)[0]) for x, y in path]
            fall.plot(losses, color=color, marker=marker, markersize=3, linewidth=1.2, label=name)
        setting = f"lr {plots.rate_text(lr)}, momentum {momentum:g}"
        seen.set(title=f"Seen from above: {surface.name}", xlim=surface.x_range, ylim=surface.y_range)
        fall.set(title=f"Loss after each step ({setting})", xlabel="step", ylabel="loss (log scale)", yscale="log")
        if self.paths:
            fall.legend(frameon=False, fontsize=9)
        text = "OptimizerLab: run the cell, then drag learning rate and momentum"
        ends = "; ".join(f"{name}: {self._ended(surface, path)}" for name, path in self.paths.items())
        alt = (
            f"Left: the surface {surface.formula} from above, with the paths of {len(self.paths)} optimizers at "
            f"{setting}. Right: the loss after each step. {ends}."
        )
        return still_picture(seen, text=text, alt=alt)


def _loss_range(surface: Surface) -> tuple[float, float]:
    """Return the ends of the loss axis: a hundred-thousandth of the loss at the start, and four times that loss."""
    top = surface.loss(*surface.start)
    return 1e-5 * top, 4 * top


def _mark(x: float, y: float, mark: str, color: str, *, size: int) -> str:
    """Draw a character centered on the point, with a thin outline in the background's color."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" dominant-baseline="central" font-size="{size}" '
        f'fill="var(--lab-{color})" stroke="var(--jp-layout-color0, white)" stroke-width=".6">{mark}</text>'
    )
