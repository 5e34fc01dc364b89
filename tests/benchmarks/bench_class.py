"""What a class costs: learners log in at the same time, run lesson 02 and move its slider, on a real `make class`.

    python tests/benchmarks/bench_class.py                 eight learners; prints the figures
    python tests/benchmarks/bench_class.py --learners 20   twenty
    python tests/benchmarks/bench_class.py --write         also puts the figures into docs/class.md

Each simulated learner does what a browser does: the login form, the start of a server, the lesson through the contents
interface, its cells and fifty moves of the learning-rate slider through the kernel's websocket. Then each tries to
reach another one's files and kernels, which must be refused. The class's folder is deleted afterwards.
"""

import argparse
import math
import os
import platform
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import psutil
from jupyter_kernel_client import KernelHttpManager

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from class_client import PATIENCE, ROOT, Learner, running_class

DOCUMENT = ROOT / "docs" / "class.md"
LESSON = "notebooks/02_learning_rate.ipynb"
MOVES = 50
MIB = 2**20
TIMES = {
    "login": "login, from the page to the token",
    "start": "start of the server, until it answers",
    "lesson": "lesson 02 run whole, with the start of its kernel",
}
MEMORY = {
    "rss": "memory of the server and the kernel (RSS)",
    "pss": "the same, shared pages divided (PSS)",
    "peak": "the same, each at its highest moment (RSS)",
}


class Kernel:
    """A kernel at the other end of a websocket; `widgets` is the state of its widgets, by their numbers."""

    def __init__(self, server: str, token: str, number: str):
        # JupyterHub takes no token from an address, and that is where the client writes it.
        options = {"timeout": PATIENCE, "headers": {"Authorization": f"token {token}"}}
        self.client = KernelHttpManager(server, token, kernel_id=number, client_kwargs=options).client
        self.client.start_channels()
        self.widgets: dict[str, dict] = {}

    def _note(self, message: dict) -> None:
        content = message["content"]
        if message["msg_type"] == "comm_open":
            self.widgets[content["comm_id"]] = content["data"]["state"]
        elif message["msg_type"] == "comm_msg" and content["data"]["method"] == "update":
            self.widgets[content["comm_id"]] |= content["data"]["state"]

    def run(self, code: str) -> None:
        """Run a cell and wait until it has ended."""
        reply = self.client.execute_interactive(code, timeout=PATIENCE, output_hook=self._note, allow_stdin=False)
        assert reply["content"]["status"] == "ok", f"{code.splitlines()[0]!r}: {reply['content']}"

    def inside(self, number: str) -> dict[str, dict]:
        """Return a widget and all widgets in it."""
        children = [self.inside(child.removeprefix("IPY_MODEL_")) for child in self.widgets[number].get("children", ())]
        return {number: self.widgets[number]} | {key: state for child in children for key, state in child.items()}

    def play(self, seed: int) -> list[float]:
        """Move the slider of the learning-rate lab as a hand does; return each move's seconds until its picture."""
        (lab,) = (key for key, state in self.widgets.items() if "learning-rate-lab" in state.get("_dom_classes", ()))
        parts, hand, seconds = self.inside(lab), random.Random(seed), []
        (slider,) = (key for key, state in parts.items() if state["_model_name"] == "FloatLogSliderModel")
        (picture,) = (key for key, state in parts.items() if "lab-front" in state.get("_dom_classes", ()))
        state = parts[slider]
        places = range(round((state["max"] - state["min"]) / state["step"]))
        # A move to where the slider is changes nothing, and no picture would follow.
        at = round((math.log(state["value"], state["base"]) - state["min"]) / state["step"])
        for _ in range(MOVES):
            at = hand.choice([place for place in places if place != at])
            seconds.append(self._move(slider, picture, state["base"] ** (state["min"] + at * state["step"])))
            time.sleep(hand.uniform(0.1, 0.5))
        return seconds

    def _move(self, slider: str, picture: str, rate: float) -> float:
        self.client.iopub_channel.get_msgs()
        data = {"method": "update", "state": {"value": rate}, "buffer_paths": []}
        message = self.client.session.msg("comm_msg", {"comm_id": slider, "data": data})
        began, shown = time.perf_counter(), ""
        self.client.shell_channel.send(message)
        while f'data-shown="{rate:.4g}"' not in shown:
            content = self.client.get_iopub_msg(timeout=PATIENCE)["content"]
            if content.get("comm_id") == picture:
                shown = content["data"].get("state", {}).get("value", "")
        return time.perf_counter() - began


def run_lesson(learner: Learner) -> Kernel:
    """Open the lesson and run its cells; return its kernel."""
    server = f"/user/{learner.name}"
    cells = learner.ask("GET", f"{server}/api/contents/{LESSON}").json()["content"]["cells"]
    wanted = {"path": LESSON, "name": LESSON, "type": "notebook", "kernel": {"name": "python3"}}
    number = learner.ask("POST", f"{server}/api/sessions", json=wanted).json()["kernel"]["id"]
    kernel = Kernel(learner.url + server, learner.token, number)
    for cell in cells:
        if cell["cell_type"] == "code":
            kernel.run(cell["source"])
    return kernel


def check_nothing_is_shared(hub: psutil.Process, learners: list[Learner]) -> None:
    """Assert that learners are refused at each other's servers, and that only this machine can reach the class."""
    for learner, other in zip(learners, learners[1:] + learners[:1], strict=True):
        there = f"/user/{other.name}/api"
        for method, path in (("GET", f"contents/{LESSON}"), ("PUT", "contents/mine.txt"), ("GET", "kernels")):
            assert learner.ask(method, f"{there}/{path}").status_code == 403, f"{learner.name}: {method} {there}/{path}"
    for process in (hub, *hub.children(recursive=True)):
        connections = process.net_connections(kind="tcp")
        assert {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN} <= {"127.0.0.1"}


def memory(process: psutil.Process) -> dict[str, float]:
    """Return a process's memory in MiB: resident, its share of it (PSS), and the most that was ever resident."""
    peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]
    found = process.memory_full_info()
    return {"rss": found.rss / MIB, "pss": found.pss / MIB, "peak": int(peak) * 1024 / MIB}


def measure(folder: Path, count: int) -> dict[str, list]:
    """Run a class; return what it took: an entry for each learner, and the processes that all share."""
    names, load = [f"learner{number}" for number in range(1, count + 1)], os.getloadavg()[0]
    with running_class(folder, names) as (process, url), ThreadPoolExecutor(count) as pool:
        hub, password = psutil.Process(process.pid), (folder / "password").read_text(encoding="utf-8").strip()
        learners = [Learner(url, name, password) for name in names]
        figures: dict[str, list] = {"load": [load]}

        def together(name: str, doing: Callable) -> list:
            def timed(learner):
                began = time.perf_counter()
                return doing(learner), time.perf_counter() - began

            results, figures[name] = zip(*pool.map(timed, learners), strict=True)
            return list(results)

        together("login", Learner.log_in)
        together("start", Learner.start_server)
        kernels = together("lesson", run_lesson)
        servers = [child for child in hub.children() if "JUPYTERHUB_USER" in child.environ()]
        figures["server"] = [memory(server) for server in servers]
        figures["kernel"] = [memory(kernel) for server in servers for kernel in server.children()]
        figures["shared"] = [memory(each) for each in (hub, *hub.children()) if each not in servers]
        figures["moves"] = list(pool.map(Kernel.play, kernels, range(count)))
        check_nothing_is_shared(hub, learners)
        for kernel in kernels:
            kernel.client.stop_channels()
    return figures


def markdown(figures: dict[str, list]) -> str:
    """Return the figures as a table and two sentences."""
    count, moves = len(figures["login"]), [1000 * seconds for learner in figures["moves"] for seconds in learner]
    both = {key: [a[key] + b[key] for a, b in zip(figures["server"], figures["kernel"], strict=True)] for key in MEMORY}
    rows = [(title, "s", ".1f", figures[name]) for name, title in TIMES.items()]
    rows += [(title, "MiB", ",.0f", both[key]) for key, title in MEMORY.items()]
    table = [f"| {t} | {statistics.median(v):{form}} {unit} | {max(v):{form}} {unit} |" for t, unit, form, v in rows]
    shared = sum(each["pss"] for each in figures["shared"])
    most = statistics.quantiles(moves, n=20, method="inclusive")[-1]
    software = ", ".join(f"{name} {version(name)}" for name in ("torch", "jupyterlab", "jupyterhub"))
    return f"""\
| {count} learners at the same time | median | largest |
| --- | ---: | ---: |
{chr(10).join(table)}

**While {count} learners move the slider at once, the picture follows within {statistics.median(moves):.0f} ms in the \
median, {most:.0f} ms in 95 % of {len(moves)} moves, and {max(moves):.0f} ms at most.**

All together: {sum(both["pss"]) + shared:,.0f} MiB, of which the hub and its proxy {shared:,.0f}.

Measured on {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {software}; the simulated \
learners ran on the same cores. The load average before the class was {figures["load"][0]:.1f}.
"""


def write(figures: dict[str, list]) -> None:
    """Put the figures, and the limits that follow from them, into docs/class.md."""
    peaks, servers = [each["peak"] for each in figures["kernel"]], [each["peak"] for each in figures["server"]]
    for limit, kernels in (("guarantee", 1), ("limit", 3)):  # a quarter more than one lesson needs, or three
        mib = 128 * math.ceil(1.25 * (max(servers) + kernels * max(peaks)) / 128)
        replace(rf"(?m)^    {limit}: \d+M$", f"    {limit}: {mib}M")
    replace(r"(?s)(?<=<!-- class-figures: begin -->\n).*(?=<!-- class-figures: end -->)", markdown(figures))


def replace(pattern: str, text: str) -> None:
    document, found = re.subn(pattern, lambda _: text, DOCUMENT.read_text(encoding="utf-8"))
    assert found == 1, f"{DOCUMENT.name} has {found} places for {pattern}"
    DOCUMENT.write_text(document, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learners", type=int, default=8, help="how many (%(default)s)")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/class.md")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        figures = measure(Path(home).resolve() / "class", chosen.learners)
    print(markdown(figures))
    if chosen.write:
        write(figures)


if __name__ == "__main__":
    main()
