"""Lesson 06's lab: one word in a loop, and what autograd keeps alive because of it, step by step."""

import html
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ipywidgets as widgets
import psutil
import torch
from torch import Tensor, nn

from course_utils import data, models, plots
from course_utils.experiments.autograd_graph import KeptTensors, nodes
from course_utils.labs import svg
from course_utils.labs.base import Lab, layers

NUM_STEPS = 300
MODELS = {"small MLP": "small", "wide MLP": "wide", "small CNN": "cnn"}
MAKERS: dict[str, Callable[[], nn.Module]] = {
    "small": models.MLP,
    "wide": lambda: models.MLP(hidden=(512, 512)),
    "cnn": models.CNN,
}
KEEPS = ["loss", "loss.detach()", "loss.item()"]
# A loop is ended before its graphs hold more than this, or more than a quarter of the memory that is free.
MOST_BYTES = 150_000_000
# The upper ends of the axes: one scale for all loops of a model, so that a flat line and a steep one compare.
TOP_BYTES = {"small": 12e6, "wide": 100e6, "cnn": 180e6}
TOP_NODES = 4000
WIDTH, HEIGHT = 880, 320
# A run that fills in is drawn again this often, in seconds.
REDRAW = 0.1
WIDE = widgets.Layout(width="98%")
CHOOSER = widgets.Layout(width="auto")
BESIDE = widgets.Layout(width="auto", margin="2px 2px 2px 12px")
Setting = tuple[str, str, str, bool]


def program(loop: str, keep: str, no_grad: bool) -> str:
    """Write the loop of a setting. The lab shows this text, and this text is what it runs."""
    steps = ["loss = loss_fn(model(x), y)"]
    if loop == "training":
        steps += ["optimizer.zero_grad()", "loss.backward()", "optimizer.step()"]
    steps.append(f"running_loss += {keep}")
    lines = ["for x, y in batches:", *(f"    {line}" for line in steps)]
    if no_grad:
        lines = ["with torch.no_grad():", *(f"    {line}" for line in lines)]
    return "\n".join(["running_loss = 0.0", *lines])


@dataclass
class Run:
    """One loop as it was measured.

    Attributes:
        points: after each step the number of live graph nodes and the bytes kept for backward.
        ended: "" while it runs, then "whole", "stopped", "full" or the error's text.
        process: by how many bytes the whole process has grown, as the operating system says.
        left: the bytes that were still kept after the loop's names were dropped.
    """

    points: list[tuple[int, int]] = field(default_factory=list)
    ended: str = ""
    process: int = 0
    left: int = 0

    @property
    def flat(self) -> bool:
        """Whether the last step left no more behind than the first one."""
        return self.ended == "whole" and self.points[-1][0] == self.points[0][0]


def measure(setting: Setting, stale: Callable[[], bool], follow: Callable[[Run], None]) -> Run:
    """Run the loop of a setting and count, after each step, what autograd keeps alive.

    Args:
        setting: model, "training" or "validation", what is added up, whether under no_grad.
        stale: asked after each step; the loop ends when it answers true.
        follow: called with the unfinished run after each step.
    """
    model, loop, keep, no_grad = setting
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MAKERS[model]()
    images, labels = data.load("digits").train.dataset.tensors
    batches = [pair for pair in zip(images.split(64), labels.split(64), strict=True) if len(pair[0]) == 64]
    loss_fn, run, names = nn.CrossEntropyLoss(), Run(), {}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    # The first use of all this loads libraries into the process; that is not the loop's memory.
    torch.autograd.grad(loss_fn(net(batches[0][0]), batches[0][1]), list(net.parameters()))
    process = psutil.Process()
    most = min(MOST_BYTES, psutil.virtual_memory().available // 4)
    began = process.memory_info().rss
    kept = KeptTensors([*net.parameters(), images, labels])

    def watched() -> Iterator[tuple[Tensor, Tensor]]:
        in_sum, known, before = 0, set(), 0
        for step in range(NUM_STEPS):
            yield batches[step % len(batches)]
            # Here the step is done. Only what it added is walked through; all else was counted before.
            total, new = names["running_loss"], set()
            if isinstance(total, Tensor) and total.grad_fn is not None:
                new = nodes(total, stop=known)
                in_sum += len(new)
                known = {total.grad_fn} | {node for node in known | new if not node.next_functions}
            run.points.append((in_sum + len(nodes(names["loss"], stop=new | known)), kept.bytes))
            if stale():
                run.ended = "stopped"
                return
            if 2 * kept.bytes - before > most:  # one more step like this one would be too much
                run.ended = "full"
                return
            before = kept.bytes
            follow(run)
        run.ended = "whole"

    names.update(torch=torch, model=net, loss_fn=loss_fn, optimizer=optimizer, batches=watched())
    with kept:
        try:
            exec(program(loop, keep, no_grad), names)
        except RuntimeError as error:
            if not (no_grad and loop == "training"):
                raise
            run.ended = str(error)  # backward() finds no graph, which is a thing to see and no fault
    run.process = process.memory_info().rss - began
    names.clear()
    run.left = kept.bytes
    return run


class ItemLab(Lab):
    """Change one word in a loop and see what stays alive: graph nodes, and the tensors they hold, after each step.

    The loop in the box is run as it stands there. Autograd itself is asked what it keeps; a run ends before it keeps
    more than 150 MB, and gives all of it back.

    Attributes:
        steps: the slider: after how many steps the numbers are read.
        keep, loop, no_grad, model: the other controls.
        again, halt: the buttons that measure anew, and that stop.
        run: what was measured for the setting shown.
        cures: the single changes found so far that keep the validation loop flat.
    """

    def __init__(self):
        self.steps = widgets.IntSlider(
            value=NUM_STEPS,
            min=2,
            max=NUM_STEPS,
            description="after step",
            layout=WIDE,
            style={"description_width": "90px"},
            tooltip="read the numbers after this many steps",
        )
        self.loop = widgets.ToggleButtons(options=["validation", "training"], value="validation")
        self.keep = widgets.ToggleButtons(options=[(f"+= {keep}", keep) for keep in KEEPS], value="loss", layout=BESIDE)
        self.no_grad = widgets.ToggleButton(value=False, description="with torch.no_grad()", layout=BESIDE)
        self.model = widgets.Dropdown(options=MODELS, value="small", description="model", layout=CHOOSER)
        for chooser in (self.loop, self.keep):
            chooser.style.button_width = "auto"
        self.again = widgets.Button(
            description="Run again", icon="play", tooltip="run this loop once more and measure it anew"
        )
        self._code, self._back, self._front, self._words = (widgets.HTML() for _ in range(4))
        self._back.add_class("lab-back")
        self._front.add_class("lab-front")
        row = widgets.Layout(flex_flow="row wrap")
        super().__init__(
            [
                self.steps,
                widgets.HBox([self.loop, self.keep, self.no_grad, self.model], layout=row),
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
        self.run = Run()
        self.cures: list[str] = []
        self._measured: dict[Setting, Run] = {}
        self.when(self.steps, lambda: self.draw())
        for control in (self.loop, self.keep, self.no_grad, self.model):
            self.when(control, self._change)
        self.when(self.again, self._once_more)
        # These three are the still picture, and the first of them is what is seen before any click.
        for setting in (*STILL, self._setting()):
            self._measured[setting] = self._measured.get(setting) or measure(setting, lambda: False, lambda run: None)
        self._measure(lambda: False)
        self.settle(60)

    def _setting(self) -> Setting:
        return self.model.value, self.loop.value, self.keep.value, self.no_grad.value

    def _change(self) -> None:
        self.clear_error()
        self.computing.submit(self._measure)

    def _once_more(self) -> None:
        self._measured.pop(self._setting(), None)
        self._change()

    def _measure(self, stale: Callable[[], bool]) -> None:
        """Show the run of the setting: at once if it was measured before, else as it goes on."""
        setting = self._setting()
        if setting not in self._measured:
            self._measured_now(setting, stale)
        else:
            self.run = self._measured[setting]
        self._note_cure(setting)
        self.draw(back=True)

    def _measured_now(self, setting: Setting, stale: Callable[[], bool]) -> None:
        drawn = time.monotonic()

        def follow(run: Run) -> None:
            nonlocal drawn
            if time.monotonic() - drawn > REDRAW:
                drawn = time.monotonic()
                self.run = run
                self.tell(len(run.points) / NUM_STEPS, f"step {len(run.points)} of {NUM_STEPS}")
                self.draw(back=True)

        self.tell(0.0, "running")
        try:
            self.run = measure(setting, stale, follow)
        finally:
            self.told()
        if self.run.ended != "stopped":
            self._measured[setting] = self.run

    def _note_cure(self, setting: Setting) -> None:
        _, loop, keep, no_grad = setting
        changes = [name for name, made in ((keep, keep != "loss"), ("no_grad", no_grad)) if made]
        if loop == "validation" and len(changes) == 1 and self.run.flat and changes[0] not in self.cures:
            self.cures.append(changes[0])

    # What is drawn. The back changes with the setting, the front with the slider.

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
        for (model, *_), run in list(self._measured.items()):
            if model == self.model.value:
                # Every sixth step: these lines are straight, and the picture is sent anew for each setting.
                faint = self._paths(run.points, every=6)
                body += [svg.line(path, colour="faint", width=1.0, opacity=0.85) for path in faint]
        self._back.value = svg.picture(WIDTH, HEIGHT, "".join(body), alt=self._alt())
        self._code.value = self._program()

    def _paths(self, points: list[tuple[int, int]], every: int = 1) -> tuple[str, str]:
        left, right = self._panels()
        steps, points = range(1, len(points) + 1, every), points[::every]
        return left.path(steps, [kept for _, kept in points]), right.path(steps, [count for count, _ in points])

    def _draw_front(self) -> None:
        points = self.run.points[: self.steps.value]
        body = []
        for panel, path, end, words in zip(
            self._panels(),
            self._paths(points),
            reversed(points[-1]) if points else (),
            self._numbers(points),
            strict=False,
        ):
            x, y = panel.x(len(points)), panel.y(end)
            body.append(svg.line(path, colour="accent", width=2.4))
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="var(--lab-accent)"/>')
            body.append(svg.text(panel.left + 10, panel.top + 22, words, weight="600", colour="accent"))
        sentence = self._sentence(points)
        alt = svg.plain(sentence.partition("<br>")[0])
        self._front.value = svg.picture(WIDTH, HEIGHT, "".join(body), alt=alt, data_shown=str(self.steps.value))
        style = "min-height: 5.9em"
        self._words.value = f'<div class="lab-words" style="{style}" aria-live="polite">{sentence}</div>'

    def _program(self) -> str:
        """The loop as text, the words that the controls have changed in colour."""
        _, loop, keep, no_grad = self._setting()
        text = html.escape(program(loop, keep, no_grad))
        for words in (f"+= {keep}", "with torch.no_grad():"):
            text = text.replace(words, f'<b style="color: var(--lab-accent)">{words}</b>')
        style = "min-height: 11em; margin: 4px 0; padding: 6px 12px; line-height: 1.35; border-left: 3px solid"
        return f'<pre style="{style} var(--lab-grid); color: var(--lab-ink)">{text}</pre>'

    # What is said.

    def _numbers(self, points: list[tuple[int, int]]) -> tuple[str, str]:
        if not points:
            return "", ""
        return f"{_size(points[-1][1])} after step {len(points)}", f"{points[-1][0]:,} nodes after step {len(points)}"

    def _sentence(self, points: list[tuple[int, int]]) -> str:
        goal = "Goal: the validation loop piles up memory. Find three changes, each of which cures it alone."
        if self.cures:
            goal += f" Found so far: {', '.join(self.cures)}."
        if len(self.cures) == 3:
            goal = "<b>Goal reached ✓</b> .item(), .detach() and no_grad: each of the three keeps the loop flat alone."
        return f"{self._seen(points)}<br>{goal}"

    def _seen(self, points: list[tuple[int, int]]) -> str:
        run = self.run
        if not points:
            if not run.ended:
                return "The loop begins …"
            words = html.escape(run.ended)
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
        if run.ended == "full":
            said += f"The lab ended this loop after step {len(run.points)}, before it could hurt your machine. "
        elif run.ended == "stopped":
            said += f"Stopped after step {len(run.points)}. "
        if run.ended:
            said += (
                f"The whole process grew by about {max(run.process, 0) / 1e6:.0f} MB while it ran; "
                f"{_size(run.left)} are kept now."
            )
        return said

    def _alt(self) -> str:
        _, loop, keep, no_grad = self._setting()
        where = "under no_grad" if no_grad else "with gradients on"
        points = self.run.points
        if not points:
            return f"No lines: the {loop} loop {where} took no step."
        return (
            f"Two lines against the step, for a {loop} loop {where} that adds {keep}, {self.model.label}. "
            f"Left, bytes kept for backward: from {_size(points[0][1])} to {_size(points[-1][1])}. "
            f"Right, live nodes of the graph: from {points[0][0]} to {points[-1][0]}."
        )

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        left, right = plots.new_axes(2)
        styles = zip(STILL.items(), (plots.RED, plots.BLUE, plots.ORANGE), plots.LINES, strict=False)
        for (setting, words), colour, style in styles:
            points = self._measured[setting].points
            steps = range(1, len(points) + 1)
            left.plot(steps, [kept / 1e6 for _, kept in points], style, color=colour, label=words)
            right.plot(steps, [count for count, _ in points], style, color=colour, label=words)
        left.set(title="Kept for backward", xlabel="step", ylabel="MB")
        right.set(title="Live nodes of the graph", xlabel="step", ylabel="nodes")
        left.legend(frameon=False, fontsize=9)
        ends = {words: self._measured[setting].points[-1] for setting, words in STILL.items()}
        alt = "Left: megabytes kept for backward against the step. Right: live nodes of the graph. " + "; ".join(
            f"{words}: {_size(kept)} and {count:,} nodes" for words, (count, kept) in ends.items()
        )
        words = "ItemLab: run the cell, then change the loop and drag the step"
        return {"image/png": plots.png(left), "text/plain": words}, {"image/png": {"alt": f"{alt}."}}


STILL: dict[Setting, str] = {
    ("small", "validation", "loss", False): "validation, += loss",
    ("small", "validation", "loss.item()", False): "validation, += loss.item()",
    ("small", "training", "loss", False): "training, += loss",
}


def _size(num_bytes: float) -> str:
    """Bytes in the unit that a person would choose."""
    if num_bytes >= 1e6:
        return f"{num_bytes / 1e6:.1f} MB"
    return f"{num_bytes / 1e3:.1f} kB" if num_bytes >= 1e3 else f"{num_bytes:.0f} bytes"
