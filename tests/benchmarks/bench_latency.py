"""Measure in a real browser how long a picture takes to follow the slider: the course's labs, one beside `interact`.

    python tests/benchmarks/bench_latency.py [drags]
    python tests/benchmarks/bench_latency.py labs [drags]    only every lab, in one round

Both draw the same family of 49 loss curves in JupyterLab. A third notebook answers with a single dot: no picture can
come sooner on this machine at this moment. Each is measured in two rounds of opposite order, 40 drags a round; a drag
is timed from the event of the mouse's move to the frame that shows the new picture. Then three storms: 200 moves in
3.5 seconds, timed from the release to the last new picture. At last every lab of the course, in one round.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from headless import BROWSERS, find_browser, running_browser, running_server
from latency import Hand, Latencies, Storm
from notebook_page import NotebookPage

DRAGS, STORMS = 40, 3
AIM_P95, AIM_SETTLED = 60.0, 200.0  # milliseconds, for the lab
LAB = """\
from course_utils.labs import LearningRateLab
lab = LearningRateLab()
lab"""
INTERACT = """\
%matplotlib inline
import math
import ipywidgets as widgets
import matplotlib.pyplot as plt
from course_utils.labs import LearningRateLab
sweep = LearningRateLab().sweep

def draw(lr):
    index = sweep.nearest(lr)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    left.plot(sweep.losses.T.clamp(max=4), color="0.6", linewidth=0.5)
    left.plot(sweep.losses[index].clamp(max=4), linewidth=2)
    right.semilogx(sweep.lrs, sweep.final_losses.clamp(max=4))
    right.plot(sweep.lrs[index], min(sweep.final_losses[index].item(), 4), "o")
    left.set_title(f"lr = {lr:.3g}")
    plt.show()

slider = widgets.FloatLogSlider(value=0.01, base=10, min=-5, max=1, step=1 / 8, description="lr")
widgets.interact(draw, lr=slider);"""
FLOOR = """\
import ipywidgets as widgets
slider = widgets.FloatLogSlider(value=0.01, base=10, min=-5, max=1, step=1 / 8, description="lr")
dot = widgets.HTML()
dot.add_class("dot")
def draw(_):
    dot.value = f'<svg data-shown="{slider.value:.4g}" width="40" height="40"><circle cx="20" cy="20" r="9"/></svg>'
slider.observe(draw, names="value")
draw(None)
widgets.VBox([slider, dot])"""
VARIANTS = {
    "one dot (floor)": (FLOOR, ".dot svg"),
    "LearningRateLab": (LAB, ".learning-rate-lab .lab-front svg"),
    "interact + inline pyplot": (INTERACT, ".widget-output img"),
}
# Each lab's first slider moves the picture in front.
LABS = [
    "OptimizerLab",
    "LearningRateLab",
    "QuadraticLab",
    "ScheduleLab",
    "ZeroGradLab",
    "RunningLossLab",
    "ItemLab",
    "WriterLab",
    "TrainingLab",
]
FRONT = ".course-lab .lab-front svg"


def write(folder: Path, name: str, source: str) -> None:
    """Write a notebook of one cell."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
    nbformat.write(made, folder / f"{name}.ipynb")


def measure(
    browser, server, name: str, picture: str, drags: int, seed: int, storms: int = STORMS
) -> tuple[Latencies, list[Storm]]:
    """Open a notebook afresh, run it, drag, and let the storms blow."""
    notebook = NotebookPage(browser, server, f"{name}.ipynb")
    try:
        notebook.run_all()
        notebook.page.wait_for_selector(picture)
        slider = notebook.page.locator(".widget-slider").first
        hand = Hand(notebook, slider, picture, seed=seed)
        # The first drag starts threads and fills caches.
        hand.drags(2)
        result = hand.drags(drags), [hand.storm() for _ in range(storms)]
        if notebook.faults:
            raise RuntimeError(f"{name}: {notebook.faults}")
        return result
    finally:
        notebook.close()


def measure_labs(program: str, drags: int) -> None:
    """Drag the first slider of every lab."""
    with tempfile.TemporaryDirectory() as folder, running_browser(program) as browser:
        for name in LABS:
            write(Path(folder), name, f"from course_utils.labs import {name}\nlab = {name}()\nlab")
        with running_server(Path(folder)) as server:
            print(f"{'every lab, milliseconds':26} {'median':>7} {'p95':>7}   aim {AIM_P95:.0f}")
            for name in LABS:
                latencies, _ = measure(browser, server, name, FRONT, drags, seed=1, storms=0)
                met = "met" if latencies.p95 <= AIM_P95 else "NOT met"
                print(f"{name:26} {latencies.median:7.0f} {latencies.p95:7.0f}   {met}", flush=True)


def main(arguments: list[str]) -> int:
    program = find_browser()
    if program is None:
        print(f"no browser on this machine (looked for {', '.join(BROWSERS)}): nothing was measured")
        return 0
    only_labs = arguments[:1] == ["labs"]
    drags = int(arguments[-1]) if arguments[only_labs:] else DRAGS
    if only_labs:
        measure_labs(program, drags)
        return 0
    with tempfile.TemporaryDirectory() as folder, running_browser(program) as browser:
        for name, (source, _) in VARIANTS.items():
            write(Path(folder), name, source)
        with running_server(Path(folder)) as server:
            busy = f"; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""
            print(f"milliseconds{busy}; {drags} drags and {STORMS} storms of 200 moves a round")
            print(f"{'round':5}  {'':26} {'median':>7} {'p95':>7}   {'storms: pictures':>16}   settled")
            everything: dict[str, list[tuple[Latencies, list[Storm]]]] = {name: [] for name in VARIANTS}
            for turn, order in enumerate([list(VARIANTS), list(reversed(VARIANTS))], start=1):
                for name in order:
                    latencies, storms = measure(browser, server, name, VARIANTS[name][1], drags, seed=turn)
                    everything[name].append((latencies, storms))
                    pictures = ", ".join(str(storm.pictures) for storm in storms)
                    settled = ", ".join(f"{storm.settled:.0f}" for storm in storms)
                    times = f"{latencies.median:7.0f} {latencies.p95:7.0f}"
                    print(f"{turn:5}  {name:26} {times}   {pictures:>16}   {settled}", flush=True)
    p95 = Latencies([value for latencies, _ in everything["LearningRateLab"] for value in latencies.values]).p95
    settled = [storm.settled for _, storms in everything["LearningRateLab"] for storm in storms]
    for what, value, aim in (
        ("p95 of all drags", p95, AIM_P95),
        ("settled after a storm, median", statistics.median(settled), AIM_SETTLED),
        ("settled after a storm, worst", max(settled), AIM_SETTLED),
    ):
        print(f"LearningRateLab, {what}: {value:.0f} ms, aim {aim:.0f} ms: {'met' if value <= aim else 'NOT met'}")
    measure_labs(program, drags)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
