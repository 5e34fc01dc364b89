"""Lesson 06's lab: one word in a loop, and what autograd keeps alive because of it, step by step."""

import html
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from course_utils import plots
from course_utils.experiments.loop_memory import NUM_STEPS, LoopVariant, MemoryTrace, measure
from course_utils.labs import svg
from course_utils.labs.base import (
    FIT,
    GOAL_REACHED,
    WRAP,
    Lab,
    Throttle,
    html_box,
    layers,
    sentences,
    slider_options,
    still_picture,
)

MODELS = {"small MLP": "small", "wide MLP": "wide", "small CNN": "cnn"}
ADDED = ["loss", "loss.detach()", "loss.item()"]
# The upper ends of the axes: one scale for all loops of a model, so that a flat line and a steep one compare.
TOP_BYTES = {"small": 12e6, "wide": 100e6, "cnn": 180e6}
TOP_NODES = 4000
HEIGHT = 320
BESIDE = widgets.Layout(width="auto", margin="2px 2px 2px 12px")
# The loops of the still picture, with their names in the legend.
STILL = {
    LoopVariant("small", "validation", "loss"): "validation, += loss",
    LoopVariant("small", "validation", "loss.item()"): "validation, += loss.item()",
    LoopVariant("small", "training", "loss"): "training, += loss",
}


class ItemLab(Lab):
    """Change one word in a loop and see what stays alive after each step: graph nodes, and the tensors they save.

    The source code in the box is what runs. Autograd itself reports what it keeps; a run stops before it keeps more
    than 150 MB, and frees all of it.

    Attributes:
        steps: the slider that chooses the step at which the numbers are read.
        keep, loop, no_grad, model: the other controls.
        again, halt: the buttons that measure again, and that stop.
        trace: what was measured for the setting shown.
        cures: the single changes found so far that keep the validation loop flat.
    """

    def __init__(self):
        self.steps = widgets.IntSlider(
            value=NUM_STEPS,
            min=2,
            max=NUM_STEPS,
            description="after step",
            tooltip="read the numbers after this many steps",
            **slider_options(),
        )
        self.loop = widgets.ToggleButtons(options=["validation", "training"], value="validation")
        self.keep = widgets.ToggleButtons(
            options=[(f"+= {added}", added) for added in ADDED], value="loss", layout=BESIDE
        )
        self.no_grad = widgets.ToggleButton(value=False, description="with torch.no_grad()", layout=BESIDE)
        self.model = widgets.Dropdown(options=MODELS, value="small", description="model", layout=FIT)
        for chooser in (self.loop, self.keep):
            chooser.style.button_width = "auto"
        self.again = widgets.Button(description="Run again", icon="play", tooltip="run this loop and measure it again")
        self._back, self._front, self._words, self._code = (
            html_box("lab-back"),
            html_box("lab-front"),
            html_box(),
            html_box(),
        )
        super().__init__(
            [
                self.steps,
                widgets.HBox([self.loop, self.keep, self.no_grad, self.model], layout=WRAP),
                self._code,
                layers(self._back, self._front),
                self._words,
            ],
            controls={
                "steps": self.steps,
                "loop": self.loop,
                "keep": self.keep,
                "no_grad": self.no_grad,
                "model": self.model,
                "again": self.again,
            },
            css_class="item-lab",
            buttons=[self.again],
        )
        self.trace = MemoryTrace()
        self.cures: list[str] = []
        self.on_change(self.steps, self.draw)
        for control in (self.loop, self.keep, self.no_grad, self.model):
            self.on_change(control, self._change)
        self.on_change(self.again, self._measure_again)
        # These are the still picture, and the first of them is what is seen before any click.
        self._measured = {variant: measure(variant) for variant in STILL}
        self._measure(lambda: False)
        self.settle(60)

    def _variant(self) -> LoopVariant:
        return LoopVariant(self.model.value, self.loop.value, self.keep.value, self.no_grad.value)

    def _change(self) -> None:
        self.clear_error()
        self.computing.submit(self._measure)

    def _measure_again(self) -> None:
        self._measured.pop(self._variant(), None)
        self._change()

    def _measure(self, cancelled: Callable[[], bool]) -> None:
        """Show the trace of the setting: at once if it was measured before, otherwise as it fills in."""
        variant = self._variant()
        if variant in self._measured:
            self.trace = self._measured[variant]
        else:
            self._measure_now(variant, cancelled)
        self._note_cure(variant)
        self.draw(back=True)

    def _measure_now(self, variant: LoopVariant, cancelled: Callable[[], bool]) -> None:
        redraw = Throttle()

        def follow(trace: MemoryTrace) -> None:
            if redraw.due():
                self.trace = trace
                self.show_progress(len(trace.points) / NUM_STEPS, f"step {len(trace.points)} of {NUM_STEPS}")
                self.draw(back=True)

        self.show_progress(0.0, "running")
        try:
            self.trace = measure(variant, cancelled=cancelled, follow=follow)
        finally:
            self.end_progress()
        if self.trace.outcome != "stopped":
            self._measured[variant] = self.trace

    def _note_cure(self, variant: LoopVariant) -> None:
        changes = [variant.added] if variant.added != "loss" else []
        changes += ["no_grad"] if variant.no_grad else []
        if variant.loop == "validation" and len(changes) == 1 and self.trace.flat and changes[0] not in self.cures:
            self.cures.append(changes[0])

    # Drawing: the back changes with the setting, the front with the slider.

    def _panels(self) -> tuple[svg.Panel, svg.Panel]:
        top = TOP_BYTES[self.model.value]
        kept = svg.Panel(60, 34, 362, 232, (0, NUM_STEPS), (0, top))
        return kept, svg.Panel(506, 34, 362, 232, (0, NUM_STEPS), (0, TOP_NODES))

    def _draw_back(self) -> None:
        left, right = self._panels()
        step_ticks = [(step, str(step)) for step in range(0, NUM_STEPS + 1, 100)]
        byte_ticks = [(left.y_range[1] * share / 4, f"{left.y_range[1] * share / 4e6:g}") for share in range(5)]
        node_ticks = [(count, f"{count:,}") for count in range(0, TOP_NODES + 1, 1000)]
        body = [
            left.axes("MB kept for backward", "step", "", step_ticks, byte_ticks),
            right.axes("Live nodes of the graph", "step", "", step_ticks, node_ticks),
        ]
        for variant, trace in list(self._measured.items()):
            if variant.model == self.model.value:
                # Every sixth step: these lines are straight, and the picture is sent again for each setting.
                faint = self._paths(trace.points, every=6)
                body += [svg.line(path, color="faint", width=1.0, opacity=0.85) for path in faint]
        self._back.value = svg.picture(HEIGHT, "".join(body), alt=self._alt())
        self._code.value = self._program()

    def _paths(self, points: list[tuple[int, int]], every: int = 1) -> tuple[str, str]:
        left, right = self._panels()
        steps, points = range(1, len(points) + 1, every), points[::every]
        return left.path(steps, [kept for _, kept in points]), right.path(steps, [count for count, _ in points])

    def _draw_front(self) -> None:
        points = self.trace.points[: self.steps.value]
        body = []
        for panel, path, end, words in zip(
            self._panels(),
            self._paths(points),
            reversed(points[-1]) if points else (),
            self._numbers(points),
            strict=False,
        ):
            x, y = panel.x(len(points)), panel.y(end)
            body.append(svg.line(path, color="accent", width=2.4))
            body.append(svg.dot(x, y, 5))
            body.append(svg.text(panel.left + 10, panel.top + 22, words, weight="600", color="accent"))
        sentence = self._sentence(points)
        alt = svg.plain(sentence.partition("<br>")[0])
        self._front.value = svg.picture(HEIGHT, "".join(body), alt=alt, data_shown=str(self.steps.value))
        self._words.value = sentences(sentence, min_height="5.9em")

    def _program(self) -> str:
        """Return the source code as HTML, with what the controls have changed in color."""
        variant = self._variant()
        text = html.escape(variant.source)
        for words in (f"+= {variant.added}", "with torch.no_grad():"):
            text = text.replace(words, f'<b style="color: var(--lab-accent)">{words}</b>')
        style = "min-height: 11em; margin: 4px 0; padding: 6px 12px; line-height: 1.35; border-left: 3px solid"
        return f'<pre style="{style} var(--lab-grid); color: var(--lab-ink)">{text}</pre>'

    # Sentences.

    def _numbers(self, points: list[tuple[int, int]]) -> tuple[str, str]:
        if not points:
            return "", ""
        return f"{_size(points[-1][1])} after step {len(points)}", f"{points[-1][0]:,} nodes after step {len(points)}"

    def _sentence(self, points: list[tuple[int, int]]) -> str:
        goal = "Goal: the validation loop piles up memory. Find three changes, each of which cures it alone."
        if self.cures:
            goal += f" Found so far: {', '.join(self.cures)}."
        if len(self.cures) == 3:
            goal = f"{GOAL_REACHED} .item(), .detach() and no_grad: each of the three keeps the loop flat alone."
        return f"{self._seen(points)}<br>{goal}"

    def _seen(self, points: list[tuple[int, int]]) -> str:
        trace = self.trace
        if not points:
            if not trace.outcome:
                return "The loop begins …"
            words = html.escape(trace.outcome)
            return f"<b>PyTorch refuses.</b> Under no_grad no graph is built, and backward() says: {words}"
        count, kept = points[-1]
        said = f"<b>After step {len(points)}, {count:,} nodes and {_size(kept)} are kept.</b> "
        new_nodes, new_bytes = (
            (now - first) / max(len(points) - 1, 1) for now, first in zip(points[-1], points[0], strict=True)
        )
        if new_nodes:
            said += f"Each step leaves {new_nodes:.3g} nodes and {_size(new_bytes)} behind. "
            if not new_bytes:
                said += "backward() has let the tensors go; the nodes hang on running_loss. "
        elif count:
            said += "That is the graph of the newest loss alone; the next step lets it go. "
        else:
            said += "No graph is built at all. "
        if trace.outcome == "full":
            said += f"The lab ended this loop after step {len(trace.points)}, before it could hurt your machine. "
        elif trace.outcome == "stopped":
            said += f"Stopped after step {len(trace.points)}. "
        if trace.outcome:
            said += (
                f"The whole process grew by about {max(trace.process_growth, 0) / 1e6:.0f} MB while it ran; "
                f"{_size(trace.bytes_left)} are kept now."
            )
        return said

    def _alt(self) -> str:
        variant, points = self._variant(), self.trace.points
        where = "under no_grad" if variant.no_grad else "with gradients on"
        if not points:
            return f"No lines: the {variant.loop} loop {where} took no step."
        return (
            f"Two lines against the step, for a {variant.loop} loop {where} that adds {variant.added}, "
            f"{self.model.label}. "
            f"Left, bytes kept for backward: from {_size(points[0][1])} to {_size(points[-1][1])}. "
            f"Right, live nodes of the graph: from {points[0][0]} to {points[-1][0]}."
        )

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        left, right = plots.new_axes(2)
        styles = zip(STILL.items(), (plots.RED, plots.BLUE, plots.ORANGE), plots.LINES, strict=False)
        for (variant, label), color, style in styles:
            points = self._measured[variant].points
            steps = range(1, len(points) + 1)
            left.plot(steps, [kept / 1e6 for _, kept in points], style, color=color, label=label)
            right.plot(steps, [count for count, _ in points], style, color=color, label=label)
        left.set(title="Kept for backward", xlabel="step", ylabel="MB")
        right.set(title="Live nodes of the graph", xlabel="step", ylabel="nodes")
        left.legend(frameon=False, fontsize=9)
        ends = {label: self._measured[variant].points[-1] for variant, label in STILL.items()}
        alt = "Left: megabytes kept for backward against the step. Right: live nodes of the graph. " + "; ".join(
            f"{label}: {_size(kept)} and {count:,} nodes" for label, (count, kept) in ends.items()
        )
        text = "ItemLab: run the cell, then change the loop and drag the step"
        return still_picture(left, text=text, alt=f"{alt}.")


def _size(num_bytes: float) -> str:
    """Format a number of bytes in MB, kB or bytes."""
    if num_bytes >= 1e6:
        return f"{num_bytes / 1e6:.1f} MB"
    return f"{num_bytes / 1e3:.1f} kB" if num_bytes >= 1e3 else f"{num_bytes:.0f} bytes"
