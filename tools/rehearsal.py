"""Rehearse a class: simulated learners log in at the same time, run lesson 02 and move its slider; measure them.

    python tools/rehearsal.py                    eight learners
    python tools/rehearsal.py --learners 20      twenty
    python tools/rehearsal.py --write            and put the figures into docs/class.md

The class is a real one, in a folder of its own that is taken away afterwards. The figures go to artifacts/class.json.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import classroom
import nbformat
import proxy
import psutil
from lab import ADDRESS, ROOT
from simulated_learner import Kernel, Learner, LearningRateSlider, Refused, together
from tornado.httpclient import HTTPClientError
from tqdm import tqdm

LESSON = "notebooks/02_learning_rate.ipynb"
FIGURES = ROOT / "artifacts" / "class.json"
DOCUMENT = ROOT / "docs" / "class.md"
MOVES = 50
# Between two moves of one hand, in seconds: everybody plays with the slider at the same time.
PAUSE = (0.1, 0.5)
START_TIMEOUT, END_TIMEOUT = 120, 90
MIB = 2**20
# What one learner needs while lesson 02 runs, in MiB, so that a machine that is too small is told so beforehand.
NEEDED = 700

VALUES = """\
hub:
  config:
    JupyterHub:
      authenticator_class: github  # or another one of oauthenticator, with its settings
proxy:
  https:
    enabled: true
    hosts: [HUB]
    letsencrypt:
      contactEmail: MAIL
singleuser:
  image:
    name: IMAGE
    tag: TAG
  memory:
    guarantee: {guarantee}M
    limit: {limit}M
  cpu:
    guarantee: 0.25
    limit: 2
  extraEnv:
    OMP_NUM_THREADS: "1"
  storage:
    capacity: 2Gi
  defaultUrl: /lab/tree/course/notebooks/00_start_here.ipynb
  lifecycleHooks:
    postStart:
      exec:
        command: [gitpuller, REPOSITORY, main, course]
cull:
  timeout: 3600
  every: 300
"""


class Shared(AssertionError):
    """Something that belongs to one learner reached another one."""


@dataclass
class Memory:
    """What one learner's processes hold, in MiB, after the lesson has run.

    Attributes:
        server, kernel: resident memory (RSS), as `top` shows it; pages that processes share count in each of them.
        server_share, kernel_share: the same with shared pages divided among those who share them (PSS); 0 where the
            system does not say.
        peak: the most that server and kernel together held at one moment while the lesson ran (RSS).
    """

    server: float = 0.0
    kernel: float = 0.0
    server_share: float = 0.0
    kernel_share: float = 0.0
    peak: float = 0.0


@dataclass
class Figures:
    """What a rehearsal measured; seconds unless said otherwise, one entry a learner.

    Attributes:
        logins: from the login page to the token.
        starts: from the wish for a server to its first answer.
        lessons: from the opening of the lesson to the end of its last cell.
        moves: for each learner, from each move of the slider to the picture that shows it.
        memory: what each learner's processes hold.
        hub, proxy: the memory (PSS, or RSS where there is none) of what all share, in MiB.
        cells: how many cells each learner ran.
        others: which share of the cores programs took meanwhile that are no part of the rehearsal, 0 to 1.
        machine: its processor's cores and what ran there.
    """

    logins: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    lessons: list[float] = field(default_factory=list)
    moves: list[list[float]] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    hub: float = 0.0
    proxy: float = 0.0
    cells: int = 0
    others: float = 0.0
    machine: str = ""


# The class, as a process.


@dataclass
class Class:
    """A class that runs as a process of its own.

    Attributes:
        process: JupyterHub.
        url: its address.
        folder: where it keeps its files.
        learners: their names.
        password: of all of them.
    """

    process: subprocess.Popen
    url: str
    folder: Path
    learners: list[str]
    password: str

    def everything(self) -> list[psutil.Process]:
        """List the hub's process and all below it: the proxy, the servers, the kernels and what they started."""
        hub = psutil.Process(self.process.pid)
        return [hub, *hub.children(recursive=True)]

    def end(self) -> list[psutil.Process]:
        """End the class as Ctrl-C does; give what is still alive although it should not be.

        Raises:
            subprocess.TimeoutExpired: the hub did not end; it is killed.
        """
        family = self.everything()
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(timeout=END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            _, alive = psutil.wait_procs(family, timeout=10)
        return alive


def free_port() -> int:
    """Find a port that is free, and the two after it."""
    while True:
        with socket.socket() as probe:
            probe.bind((ADDRESS, 0))
            port = probe.getsockname()[1]
        with contextlib.suppress(ValueError):
            return classroom.free_ports(str(port))


def start_class(folder: Path, learners: list[str], port: int) -> Class:
    """Start a class and wait until it answers.

    Raises:
        RuntimeError: it ended, or did not answer in time; the message holds what it wrote.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "tools" / "classroom.py"), "--learners", " ".join(learners)]
    command += ["--port", str(port), "--folder", str(folder)]
    written = folder / "class.log"
    with written.open("a") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    # The hub itself, then the proxy, which answers with errors of its own until the hub is there.
    awaited = [f"http://{ADDRESS}:{port + 2}/hub/health", f"http://{ADDRESS}:{port}/hub/health"]
    try:
        wait_for(awaited, process)
    except BaseException as error:
        # Half started, it listens to no Ctrl-C yet.
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        status = process.wait()
        if not isinstance(error, TimeoutError):
            raise
        raise RuntimeError(f"the class did not start (exit status {status}):\n{written.read_text()[-4000:]}") from error
    return Class(process, f"http://{ADDRESS}:{port}", folder, learners, classroom.password_in(folder))


def wait_for(addresses: list[str], process: subprocess.Popen) -> None:
    """Wait until each of the addresses has answered.

    Raises:
        TimeoutError: one did not, or the process has ended.
    """
    # Requests to this machine go through no proxy of the network.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_TIMEOUT
    for address in addresses:
        while True:
            with contextlib.suppress(OSError), opener.open(address, timeout=5):
                break
            if time.monotonic() > end or process.poll() is not None:
                raise TimeoutError(f"{address} does not answer")
            time.sleep(0.1)


@contextlib.contextmanager
def running_class(folder: Path, learners: list[str]) -> Iterator[Class]:
    """Run a class for the length of a block.

    Raises:
        RuntimeError: it did not start, or left processes behind.
    """
    running = start_class(folder, learners, free_port())
    try:
        yield running
    finally:
        if running.process.poll() is None:
            alive = running.end()
            for process in alive:
                process.kill()
            if alive:
                raise RuntimeError(f"the class has ended, and these processes had not: {alive}")


# What is measured.


def memory_of(process: psutil.Process) -> tuple[float, float]:
    """Give a process's resident memory (RSS) and its share of it (PSS; 0 where the system does not say), in MiB."""
    rss = process.memory_info().rss / MIB
    return rss, getattr(process.memory_full_info(), "pss", 0) / MIB


def processes_of(running: Class) -> dict[str, tuple[psutil.Process, list[psutil.Process]]]:
    """Find each learner's server, and the processes below it."""
    found = {}
    for process in psutil.Process(running.process.pid).children():
        with contextlib.suppress(psutil.Error):
            name = process.environ().get("JUPYTERHUB_USER")
            if name:
                found[name] = (process, process.children(recursive=True))
    return found


async def watch_peaks(running: Class, peaks: dict[str, float]) -> None:
    """Note, twice a second, the most that each learner's processes have held together, in MiB, until cancelled."""
    while True:
        for name, (server, below) in processes_of(running).items():
            with contextlib.suppress(psutil.NoSuchProcess):
                held = sum(process.memory_info().rss for process in (server, *below)) / MIB
                peaks[name] = max(peaks.get(name, 0.0), held)
        await asyncio.sleep(0.5)


class OtherPrograms:
    """Which share of the cores goes to programs that are no part of a class, from the making of this on."""

    def __init__(self, running: Class):
        self._running = running
        self._before = self._seconds()

    def _seconds(self) -> tuple[float, float, float]:
        """Give the time, the processor's busy seconds, and those of the class and of the simulated learners."""
        machine = psutil.cpu_times()
        busy = machine.user + machine.system + getattr(machine, "nice", 0.0)
        own = 0.0
        for process in (psutil.Process(), *self._running.everything()):
            with contextlib.suppress(psutil.NoSuchProcess):
                spent = process.cpu_times()
                own += spent.user + spent.system
        return time.monotonic(), busy, own

    def share(self) -> float:
        """Give the share so far, from 0 (they were idle) to 1 (they took all cores)."""
        passed, busy, own = (now - then for now, then in zip(self._seconds(), self._before, strict=True))
        return min(1.0, max(0.0, busy - own) / (passed * (os.cpu_count() or 1)))


def measure_memory(running: Class, peaks: dict[str, float], figures: Figures) -> None:
    """Measure what each learner's processes hold now, and the hub and the proxy."""
    for name, (server, below) in sorted(processes_of(running).items()):
        held = Memory(peak=peaks[name])
        held.server, held.server_share = memory_of(server)
        for process in below:
            rss, share = memory_of(process)
            held.kernel += rss
            held.kernel_share += share
        figures.memory.append(held)
    hub = psutil.Process(running.process.pid)
    helper = next(child for child in hub.children() if "configurable-http-proxy" in " ".join(child.cmdline()))
    figures.hub, figures.proxy = (share or rss for rss, share in map(memory_of, (hub, helper)))


def code_cells(content: dict) -> list[str]:
    """Give the code of a notebook's cells, in order."""
    return [cell["source"] for cell in content["cells"] if cell["cell_type"] == "code" and cell["source"].strip()]


async def take_part(
    learner: Learner, figures: Figures, choose: Callable[[list[str]], list[str]], done: Callable[[], None]
) -> Kernel:
    """Log in, start the server, open the lesson and run its cells; give the kernel."""
    began = time.monotonic()
    await learner.log_in()
    figures.logins.append(time.monotonic() - began)
    figures.starts.append(await learner.start_server())
    began = time.monotonic()
    cells = choose(code_cells(await learner.read(LESSON)))
    figures.cells = len(cells)
    kernel = await learner.open_kernel(LESSON)
    for cell in cells:
        await kernel.run(cell)
        done()
    figures.lessons.append(time.monotonic() - began)
    return kernel


async def play(kernel: Kernel, moves: int, seed: int, done: Callable[[], None]) -> list[float]:
    """Move the learning rate to and fro with pauses, as a hand does; give the seconds of each move."""
    slider, hand = LearningRateSlider(kernel), random.Random(seed)
    seconds = []
    for _ in range(moves):
        seconds.append(await slider.move(hand.choice(slider.elsewhere())))
        done()
        await asyncio.sleep(hand.uniform(*PAUSE))
    return seconds


# What must not be shared.


async def refused(doing: object, what: str) -> None:
    """Make sure that a request is refused as forbidden.

    Raises:
        Shared: it was answered, or refused for another reason.
    """
    try:
        await doing
    except Refused as error:
        status = error.status
    except HTTPClientError as error:
        status = error.code
    else:
        raise Shared(f"{what} was allowed")
    if status != 403:
        raise Shared(f"{what} was answered with {status}, not with 403")


async def check_nothing_is_shared(running: Class, learners: list[Learner], kernels: list[Kernel]) -> list[str]:
    """Let each learner try to reach the next one's things; give what was seen, one sentence each.

    Raises:
        Shared: something was reached.
    """
    last = learners[-1:] + learners[:-1]
    last_kernels = kernels[-1:] + kernels[:-1]
    for learner, kernel, other, others_kernel in zip(learners, kernels, last, last_kernels, strict=True):
        await refused(learner.read(LESSON, other.name), f"{learner.name}'s reading of {other.name}'s lesson")
        await refused(learner.write("from-a-neighbour.txt", "hello", other.name), f"{learner.name}'s writing there")
        kernels_there = learner.ask("GET", learner.at_server("kernels", other.name))
        await refused(kernels_there, f"{learner.name}'s look at {other.name}'s kernels")
        await refused(learner.connect(others_kernel.id, other.name), f"{learner.name}'s way to {other.name}'s kernel")
        own = [entry["id"] for entry in await learner.ask("GET", learner.at_server("kernels"))]
        if own != [kernel.id]:
            raise Shared(f"{learner.name}'s server shows the kernels {own}, not {kernel.id} alone")

        # What one writes, in a file, in the lesson's copy and in the record of progress, the others do not see.
        await learner.write("mine.txt", learner.name)
        changed = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"by {learner.name}")])
        await learner.ask("PUT", learner.at_server(f"contents/{LESSON}"), {"type": "notebook", "content": changed})
        await kernel.run(
            "from course_utils.learner.record import progress\n"
            f"progress().predict('rehearsal-{learner.name}', 'who are you?', {learner.name!r})"
        )
    for learner, kernel in zip(learners, kernels, strict=True):
        if await learner.read("mine.txt") != learner.name:
            raise Shared(f"{learner.name}'s file holds another one's words")
        if (await learner.read(LESSON))["cells"][0]["source"] != f"by {learner.name}":
            raise Shared(f"{learner.name}'s copy of the lesson is another one's")
        seen = await kernel.run(
            "import json\nfrom course_utils.learner.record import learner_folder, progress\n"
            "print(json.dumps([str(learner_folder()), sorted(progress().predictions())]))"
        )
        folder, entries = json.loads(seen)
        if Path(folder) != running.folder / "homes" / learner.name / "learner":
            raise Shared(f"{learner.name}'s progress goes to {folder}")
        if [entry for entry in entries if entry.startswith("rehearsal-")] != [f"rehearsal-{learner.name}"]:
            raise Shared(f"{learner.name}'s record holds {entries}")
    servers = processes_of(running)
    numbers = {server.pid for server, _ in servers.values()}
    if len(numbers) != len(learners):
        raise Shared(f"{len(learners)} learners have {len(servers)} servers, and {len(numbers)} processes")
    listening = {
        connection.laddr.ip
        for process in running.everything()
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    if listening != {ADDRESS}:
        raise Shared(f"something listens at {sorted(listening - {ADDRESS})}, where other machines can reach it")
    return [
        "each learner has a server and a kernel of their own, their own copy of the lessons and their own record",
        "reading and writing another one's files, and another one's kernel, is refused with 403",
        f"everything listens at {ADDRESS} alone",
    ]


# The rehearsal.


async def rehearse(
    running: Class, *, moves: int, choose: Callable[[list[str]], list[str]], quiet: bool = False
) -> tuple[Figures, list[str]]:
    """Let all learners of a class take part at the same time; give the figures, and what was seen not to be shared.

    Args:
        running: the class.
        moves: how often each learner moves the slider.
        choose: told the code of the lesson's cells; gives those to run.
        quiet: show no progress bars.

    Raises:
        Shared: something that belongs to one learner reached another one.
        RuntimeError: a request was refused, or a cell raised.
        TimeoutError: something took too long.
    """
    figures, peaks = Figures(), {}
    learners = [Learner(running.url, name, running.password) for name in running.learners]
    total = len(choose(code_cells(nbformat.read(ROOT / LESSON, as_version=4))))
    watching, others = asyncio.create_task(watch_peaks(running, peaks)), OtherPrograms(running)
    with tqdm(total=total * len(learners), desc="cells of lesson 02", disable=quiet) as bar:
        jobs = [take_part(learner, figures, choose, lambda: bar.update()) for learner in learners]
        kernels = await together(jobs)
    watching.cancel()
    measure_memory(running, peaks, figures)
    try:
        with tqdm(total=moves * len(learners), desc="moves of the slider", disable=quiet) as bar:
            jobs = [play(kernel, moves, seed, lambda: bar.update()) for seed, kernel in enumerate(kernels)]
            figures.moves = await together(jobs)
        figures.others = others.share()
        seen = await check_nothing_is_shared(running, learners, kernels)
    finally:
        for kernel in kernels:
            await kernel.close()
    figures.machine = machine()
    return figures, seen


def machine() -> str:
    """Say what the figures were measured on."""
    import jupyterhub
    import jupyterlab
    import torch

    return (
        f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__.split('+')[0]}, JupyterLab {jupyterlab.__version__}, "
        f"JupyterHub {jupyterhub.__version__}"
    )


def percentile(values: list[float], percent: int) -> float:
    """Give the value below which so many per cent of the values lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def markdown(figures: Figures) -> str:
    """Write the figures as a table and two sentences."""
    moves = [1000 * seconds for learner in figures.moves for seconds in learner]
    memory = figures.memory
    rows = [
        ("login, from the page to the token", "s", figures.logins),
        ("start of the server, until it answers", "s", figures.starts),
        (f"lesson 02 run whole, {figures.cells} cells, with the start of its kernel", "s", figures.lessons),
        ("memory of the server (RSS)", "MiB", [held.server for held in memory]),
        ("memory of the kernel (RSS)", "MiB", [held.kernel for held in memory]),
        ("both, shared pages divided (PSS)", "MiB", [held.server_share + held.kernel_share for held in memory]),
        ("both, at the highest moment of the lesson (RSS)", "MiB", [held.peak for held in memory]),
    ]
    lines = [f"| {len(memory)} learners at the same time | median | largest |", "| --- | ---: | ---: |"]
    for title, unit, values in rows:
        form = ".1f" if unit == "s" else ",.0f"
        lines.append(f"| {title} | {statistics.median(values):{form}} {unit} | {max(values):{form}} {unit} |")
    together = sum(held.server_share + held.kernel_share for held in memory) or sum(
        held.server + held.kernel for held in memory
    )
    lines += [
        "",
        f"The slider, from the message on the websocket to the picture that shows it, over {len(moves)} moves while "
        f"all {len(memory)} play at once: median {statistics.median(moves):.0f} ms, 95 % below "
        f"{percentile(moves, 95):.0f} ms, longest {max(moves):.0f} ms.",
        "",
        f"All together: {together + figures.hub + figures.proxy:,.0f} MiB, of which the hub {figures.hub:,.0f} and its "
        f"proxy {figures.proxy:,.0f}.",
        "",
        f"Measured on {figures.machine}; the simulated learners ran on the same cores. Other programs took "
        f"{100 * figures.others:.0f} % of the cores meanwhile.",
        "",
    ]
    return "\n".join(lines)


def values_yaml(figures: Figures) -> str:
    """Write a values.yaml for Zero to JupyterHub; its memory follows from what was measured.

    The guarantee is what a learner with one lesson needs at its highest moment, the limit what one with three lessons
    open needs; both with a quarter more, in steps of 128 MiB (M is 2²⁰ bytes to JupyterHub).
    """
    server = max(held.server for held in figures.memory)
    peak = max(held.peak for held in figures.memory)

    def rounded(mib: float) -> int:
        return 128 * math.ceil(1.25 * mib / 128)

    return VALUES.format(guarantee=rounded(peak), limit=rounded(server + 3 * (peak - server)))


def put(document: str, name: str, text: str) -> str:
    """Put a text between the two marks of its name in a document.

    Raises:
        ValueError: the marks are not there.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    if begin not in document or end not in document:
        raise ValueError(f"{DOCUMENT.name} has no marks {begin.strip()} and {end.strip()}: put them back")
    before, rest = document.split(begin, 1)
    return before + begin + text + end + rest.split(end, 1)[1]


def write(figures: Figures) -> None:
    """Put the figures, and what follows from them, into docs/class.md."""
    document = put(DOCUMENT.read_text(encoding="utf-8"), "class-figures", markdown(figures))
    document = put(document, "class-values", f"```yaml\n{values_yaml(figures)}```\n")
    DOCUMENT.write_text(document, encoding="utf-8")


def read_count(text: str) -> list[str]:
    """Read the number of simulated learners; give their names.

    Raises:
        ValueError: it is no number from 2, or there is not enough memory for them; the message says so.
    """
    # One learner alone has nobody to share with.
    if not text.isdecimal() or int(text) < 2:
        raise ValueError(f"A rehearsal needs a whole number of learners, 2 or more, got {text!r}.")
    names = classroom.read_learners(text)
    free = psutil.virtual_memory().available / MIB
    if len(names) * NEEDED > free:
        raise ValueError(
            f"{len(names)} learners need about {len(names) * NEEDED / 1024:.1f} GiB of memory, and "
            f"{free / 1024:.1f} GiB are free: rehearse with fewer, as in  make rehearsal LEARNERS=2 ."
        )
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learners", default=classroom.LEARNERS, help="how many (%(default)s)")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/class.md")
    chosen = parser.parse_args()
    try:
        classroom.refuse_windows()
        names = read_count(chosen.learners)
        proxy.ensure()
    except (ValueError, proxy.NodeMissing, proxy.NpmFailed) as error:
        sys.exit(str(error))
    print(f"A class of {len(names)} starts; this takes some minutes. Ctrl-C ends it.", flush=True)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="rehearsal-") as home,
            running_class(Path(home).resolve() / "class", names) as running,
        ):
            figures, seen = asyncio.run(rehearse(running, moves=MOVES, choose=lambda cells: cells))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the class has ended.")
    print(f"\n{markdown(figures)}")
    print("Seen: " + ";\n      ".join(seen) + ";\n      after Ctrl-C no process was left.")
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps(asdict(figures), indent=1) + "\n", encoding="utf-8")
    print(f"The figures are in {FIGURES.relative_to(ROOT)}.")
    if chosen.write:
        write(figures)
        print(f"{DOCUMENT.relative_to(ROOT)} holds them now.")


if __name__ == "__main__":
    main()
