"""Measure in a real browser how long a picture takes to follow the slider: the course's lab beside `interact`.

    python tests/benchmarks/bench_latency.py [drags]

Both draw the same family of 49 loss curves in JupyterLab. A third notebook answers with a single dot: no picture can
come sooner on this machine at this moment. Each is measured in two rounds of opposite order, 40 drags a round; a drag
is timed from the event of the mouse's move to the frame that shows the new picture. Then three storms: 200 moves in
3.5 seconds, timed from the release to the last new picture.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "browser"))

from lab_page import NotebookPage
from latency import Hand, Latencies, Storm
from running import BROWSERS, find_browser, running_browser, running_server

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


def measure(browser, server, name: str, drags: int, seed: int) -> tuple[Latencies, list[Storm]]:
    """Open the variant's notebook afresh, run it, drag, and let the storms blow."""
    notebook = NotebookPage(browser, server, f"{name}.ipynb")
    try:
        notebook.run_all()
        notebook.page.wait_for_selector(VARIANTS[name][1])
        slider = notebook.page.locator(".widget-slider").first
        hand = Hand(notebook, slider, VARIANTS[name][1], seed=seed)
        # The first drag starts threads and fills caches.
        hand.drags(2)
        result = hand.drags(drags), [hand.storm() for _ in range(STORMS)]
        if notebook.faults:
            raise RuntimeError(f"{name}: {notebook.faults}")
        return result
    finally:
        notebook.close()


def main(arguments: list[str]) -> int:
    program = find_browser()
    if program is None:
        print(f"no browser on this machine (looked for {', '.join(BROWSERS)}): nothing was measured")
        return 0
    drags = int(arguments[0]) if arguments else DRAGS
    with tempfile.TemporaryDirectory() as folder, running_browser(program) as browser:
        for name, (source, _) in VARIANTS.items():
            made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
            made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
            nbformat.write(made, Path(folder) / f"{name}.ipynb")
        with running_server(Path(folder)) as server:
            busy = f"; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""
            print(f"milliseconds{busy}; {drags} drags and {STORMS} storms of 200 moves a round")
            print(f"{'round':5}  {'':26} {'median':>7} {'p95':>7}   {'storms: pictures':>16}   settled")
            everything: dict[str, list[tuple[Latencies, list[Storm]]]] = {name: [] for name in VARIANTS}
            for turn, order in enumerate([list(VARIANTS), list(reversed(VARIANTS))], start=1):
                for name in order:
                    latencies, storms = measure(browser, server, name, drags, seed=turn)
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
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
