"""What a training step costs in `Trainer` and in five libraries, beside the loop written by hand.

    python tests/benchmarks/bench_trainer.py             everything; writes docs/trainer-benchmark.md and .png
    python tests/benchmarks/bench_trainer.py --quick     few repeats; writes nothing
    python tests/benchmarks/bench_trainer.py --peer NAME [--peer NAME …]    only these; writes nothing

Two workloads on the digits, batches of 64: an MLP 64-32-10 and the CNN. Every contestant has a process of its own, on
one core, in which the hand-written loop with a DataLoader and the contestant train in turn, an epoch each, so that
what slows the machine for a while slows both; who begins changes with each repeat. Both start from the same weights and
take the same batches in the same order. Their final weights must be equal to the last bit: the ratios compare identical
training. The time runs from the start of the second epoch to the start of the last: what begins and ends a run is left
out, what ends an epoch is in.
"""

import argparse
import functools
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from peers import CONTESTANTS, LOG_EVERY, Contestant, hand_written, loss_fn, make_optimizer
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from course_utils import data, models
from course_utils.training import Trainer, checkpoint, tracking

ROOT = Path(__file__).resolve().parents[2]
TABLE, PICTURE = ROOT / "docs/trainer-benchmark.md", ROOT / "docs/trainer-benchmark.png"
BATCH_SIZE, SEED = 64, 0
REPEATS, QUICK_REPEATS = 9, 3
MEMORY_STEPS, MEMORY_EVERY = 20_000, 2_000
RESULT = "RESULT "
ALT = (
    "Bars of the CPU time of a training run, as a ratio to the hand-written loop with a DataLoader, for an MLP and a "
    "CNN. Trainer is a little above 1, Trainer on Batches is below 1, and most libraries are above Trainer."
)


@dataclass(frozen=True)
class Workload:
    """A model to train on the digits, and for how many timed epochs: some 900 and 400 steps."""

    title: str
    make_model: Callable[[], nn.Module]
    num_epochs: int
    embedded_aim: float  # for Trainer on Batches with everything on


WORKLOADS = {
    "mlp": Workload("MLP", functools.partial(models.MLP, hidden=(32,)), 40, 0.60),
    "cnn": Workload("CNN", models.CNN, 16, 0.90),
}


class Turns:
    """Lets two threads run in turn, an epoch each: what slows the machine for a while slows both."""

    def __init__(self):
        self.gates = (threading.Semaphore(1), threading.Semaphore(0))
        self.one_has_left = False

    def wait(self, side: int) -> None:
        if not self.one_has_left:
            self.gates[side].acquire()

    def hand_over(self, side: int) -> None:
        self.gates[1 - side].release()

    def leave(self, side: int) -> None:
        self.one_has_left = True
        self.hand_over(side)


class Clock:
    """Notes what each pass over the data took, and which checkpoint lay in the folder then.

    Args:
        folder: the run's folder.
        turns, side: who else runs; the time in which the other side runs is not counted.
    """

    def __init__(self, folder: Path, turns: Turns | None = None, side: int = 0):
        self.checkpoint, self.turns, self.side = folder / "checkpoint.pt", turns, side
        self.cpu: list[float] = []
        self.wall: list[float] = []
        self.saves: list[int] = []

    def start(self) -> None:
        """Begin, when it is this side's turn."""
        if self.turns is not None:
            self.turns.wait(self.side)
        self._began = time.process_time(), time.perf_counter()

    def elapsed(self) -> float:
        """Seconds of wall time in which this side ran."""
        return sum(self.wall) + time.perf_counter() - self._began[1]

    def note(self) -> None:
        """Note what began with the last `start`."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        cpu, wall = self._began
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)
        self.saves.append(self.checkpoint.stat().st_mtime_ns if self.checkpoint.exists() else 0)

    def split(self) -> None:
        """End an epoch, let the other side run, and begin the next epoch."""
        self.note()
        if self.turns is not None:
            self.turns.hand_over(self.side)
        self.start()

    def end(self) -> None:
        """End the run."""
        self.note()
        if self.turns is not None:
            self.turns.leave(self.side)


class NotedSampler(Sampler[int]):
    """The order of `data.Batches`, one row after the other as DataLoader's own sampler gives it; passes are noted."""

    def __init__(self, num_rows: int, clock: Clock):
        self.num_rows, self.clock, self.epoch = num_rows, clock, 0

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        self.clock.split()
        generator = torch.Generator().manual_seed(SEED + self.epoch)
        self.epoch += 1
        yield from torch.randperm(self.num_rows, generator=generator).tolist()


class NotedBatches(data.Batches):
    """`data.Batches` whose passes are noted."""

    def __init__(self, *tensors: torch.Tensor, clock: Clock, batch_size: int = BATCH_SIZE):
        super().__init__(*tensors, batch_size=batch_size, seed=SEED)
        self.clock = clock

    def order(self, epoch: int) -> torch.Tensor:
        self.clock.split()
        return super().order(epoch)


@dataclass(frozen=True)
class Span:
    """What one training took: seconds of CPU and of wall time for the timed epochs, and CPU seconds around them."""

    cpu: float
    wall: float
    around: float
    saves: int


def train_in_turn(
    contestant: Contestant, make_model: Callable[[], nn.Module], num_epochs: int, *, loop_first: bool = True
) -> list[tuple[Span, nn.Module]]:
    """Train a fresh model with the hand-written loop and one with the contestant, an epoch each in turn.

    Both train for `num_epochs` timed epochs, one before them and one after. The loop's result comes first.
    """
    turns, x, y = Turns(), *data.load().train.dataset.tensors

    def run(train: Callable, model: nn.Module, loader: Iterable, clock: Clock) -> Span:
        clock.start()
        try:
            train(model, loader, num_epochs + 2, clock.checkpoint.parent)
        finally:
            clock.end()
        # What comes before the first pass, then the passes, of which the last ends with the run.
        before, first, *timed, last = clock.cpu
        if len(timed) != num_epochs:
            raise RuntimeError(f"{len(timed) + 2} passes over the data, {num_epochs + 2} were asked for")
        cpu = sum(timed)
        around = before + first + last - 2 * cpu / num_epochs
        return Span(cpu, sum(clock.wall[2:-1]), around, len(set(clock.saves[1:-1])) - 1)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as threads:
        parts = []
        for side, (train, embedded) in enumerate([(hand_written, False), (contestant.train, contestant.embedded)]):
            torch.manual_seed(SEED)
            clock = Clock(Path(folder, str(side)), turns, side if loop_first else 1 - side)
            if embedded:
                loader = NotedBatches(x, y, clock=clock)
            else:
                loader = DataLoader(TensorDataset(x, y), BATCH_SIZE, sampler=NotedSampler(len(x), clock))
            parts.append((train, make_model(), loader, clock))
        gc.collect()
        gc.freeze()  # what is loaded already need not be searched for garbage, on neither side
        # Trainer goes by the time when it saves and writes: its clock stands still while the loop runs.
        own_time = SimpleNamespace(**(vars(time) | {"monotonic": clock.elapsed}))
        with mock.patch.object(checkpoint, "time", own_time), mock.patch.object(tracking, "time", own_time):
            runs = [threads.submit(run, *part) for part in parts]
            return [(each.result(), model) for each, (_, model, _, _) in zip(runs, parts, strict=True)]


@dataclass
class Row:
    """A contestant's pairs on one workload, each beside the hand-written loop of the same repeat."""

    loops: list[Span] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    num_steps: int = 0

    def ratios(self, kind: str) -> list[float]:
        return [getattr(a, kind) / getattr(b, kind) for a, b in zip(self.spans, self.loops, strict=True)]

    @property
    def microseconds_more(self) -> float:
        """CPU time a step beyond the hand-written loop's, the median of the pairs."""
        pairs = zip(self.spans, self.loops, strict=True)
        return 1e6 * statistics.median(a.cpu - b.cpu for a, b in pairs) / self.num_steps


def measure(contestant: Contestant, workload: Workload, repeats: int) -> Row:
    """Train in turn, the hand-written loop and the contestant, and compare their weights each time.

    Raises:
        RuntimeError: the weights differ.
    """
    num_epochs = workload.num_epochs * contestant.stretch
    train_in_turn(contestant, workload.make_model, 2)  # pays for what is loaded late
    row = Row(num_steps=num_epochs * len(data.load(batch_size=BATCH_SIZE).train))
    for repeat in range(repeats):
        done = train_in_turn(contestant, workload.make_model, num_epochs, loop_first=bool(repeat % 2))
        (expected_span, expected), (span, model) = done
        for key, weights in expected.state_dict().items():
            if not torch.equal(weights, model.state_dict()[key]):
                worst = (weights - model.state_dict()[key]).abs().max()
                raise RuntimeError(f"{contestant.title}: {key} differs from the hand-written loop's by {worst:.3g}")
        row.loops.append(expected_span)
        row.spans.append(span)
    return row


def measure_memory() -> list[tuple[int, float]]:
    """Train for 20,000 steps with everything on, and read the process's memory every 2,000: `(step, MiB)`."""
    import psutil

    process, points = psutil.Process(), []

    def watch(step: int, num_steps: int, history: object) -> None:
        if step % MEMORY_EVERY == 0 and (not points or points[-1][0] != step):
            points.append((step, process.memory_info().rss / 2**20))

    torch.manual_seed(SEED)
    model = WORKLOADS["mlp"].make_model()
    loader = data.load(batch_size=BATCH_SIZE, seed=SEED).train
    with tempfile.TemporaryDirectory() as folder:
        run = Trainer(
            model, make_optimizer(model), loss_fn, device="cpu", run_dir=folder, log_every=LOG_EVERY, progress=watch
        )
        run.fit(loader, num_epochs=-(-MEMORY_STEPS // len(loader)))
    return points


# With CUDA: samples a second.


def loop_on_device(
    model: nn.Module, loader: Iterable, num_epochs: int, device: torch.device, *, item: bool, precision: str = "fp32"
) -> None:
    """The hand-written loop with the batches moved to the device; its running loss is read each step or each epoch."""
    model.to(device)
    optimizer = make_optimizer(model)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    for _ in range(num_epochs):
        running_loss = 0.0
        for x, y in loader:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            optimizer.zero_grad()
            with autocast:
                loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            running_loss += loss.item() if item else loss.detach()
        float(running_loss)


def trainer_on_device(
    model: nn.Module, loader: Iterable, num_epochs: int, device: torch.device, *, precision: str = "fp32"
) -> None:
    optimizer = make_optimizer(model.to(device))
    trainer = Trainer(
        model, optimizer, loss_fn, device=device, precision=precision, log_every=LOG_EVERY, progress=False
    )
    trainer.fit(loader, num_epochs=num_epochs)


def wide_data() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise in the shape of color images: the speed depends on the shapes alone."""
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(8192, 3, 32, 32, generator=generator)
    return x, torch.randint(10, (len(x),), generator=generator)


def digits_data() -> tuple[torch.Tensor, torch.Tensor]:
    return data.load().train.dataset.tensors


# name: the model, its data, the batch size, timed epochs
DEVICE_WORKLOADS = {
    "MLP 64-32-10, batches of 64": (WORKLOADS["mlp"].make_model, digits_data, BATCH_SIZE, 20),
    "CNN, batches of 64": (WORKLOADS["cnn"].make_model, digits_data, BATCH_SIZE, 20),
    "CNN 3×32×32, 128 and 256 channels, batches of 512": (
        functools.partial(models.CNN, (3, 32, 32), channels=(128, 256)),
        wide_data,
        512,
        8,
    ),
}
# name: the function, its options, whether the data lies on the device
DEVICE_CONTESTANTS = {
    "loop, DataLoader, .item() each step": (loop_on_device, {"item": True}, False),
    "loop, DataLoader": (loop_on_device, {"item": False}, False),
    "loop on Batches, .item() each step": (loop_on_device, {"item": True}, True),
    "loop on Batches": (loop_on_device, {"item": False}, True),
    "loop on Batches, bf16": (loop_on_device, {"item": False, "precision": "bf16"}, True),
    "Trainer, DataLoader": (trainer_on_device, {}, False),
    "Trainer on Batches": (trainer_on_device, {}, True),
    "Trainer on Batches, bf16": (trainer_on_device, {"precision": "bf16"}, True),
}


def device_rate(device: torch.device, contestant: str, workload: str, num_epochs: int) -> float:
    """Samples a second of wall time, over whole epochs, with the device waited for at their start."""
    train, options, embedded = DEVICE_CONTESTANTS[contestant]
    make_model, make_data, batch_size, _ = DEVICE_WORKLOADS[workload]
    x, y = make_data()
    torch.manual_seed(SEED)
    model = make_model()
    clock = Clock(Path())
    clock.start()
    if embedded:
        loader = NotedBatches(x.to(device), y.to(device), clock=clock, batch_size=batch_size)
    else:
        pinned = device.type == "cuda"
        loader = DataLoader(TensorDataset(x, y), batch_size, sampler=NotedSampler(len(x), clock), pin_memory=pinned)
    train(model, loader, num_epochs + 2, device, **options)
    return num_epochs * len(x) / sum(clock.wall[2:])


def measure_device(device: torch.device, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Samples a second of each contestant on each workload; the order turns by one in each repeat."""
    rates: dict[str, dict[str, list[float]]] = {}
    names = list(DEVICE_CONTESTANTS)
    for workload, (_, _, _, num_epochs) in DEVICE_WORKLOADS.items():
        for name in names:
            device_rate(device, name, workload, 1)
        rates[workload] = {name: [] for name in names}
        for repeat in range(repeats):
            turn = repeat % len(names)
            for name in names[turn:] + names[:turn]:
                rates[workload][name].append(device_rate(device, name, workload, num_epochs))
    return rates


# Processes: each measurement runs in its own, and its result comes back as one line of JSON.


def work(arguments: list[str]) -> object:
    """Do one measurement in this process."""
    match arguments:
        case ["pairs", contestant, repeats]:
            each = CONTESTANTS[contestant]
            return {key: asdict(measure(each, workload, int(repeats))) for key, workload in WORKLOADS.items()}
        case ["memory"]:
            return measure_memory()
        case ["device", device, repeats]:
            return measure_device(torch.device(device), int(repeats))
    raise ValueError(f"unknown measurement {arguments!r}")


def in_own_process(*arguments: str, one_core: bool = True, script: str = __file__) -> object:
    """Do one measurement in a process of its own, on one core where the system can.

    Raises:
        RuntimeError: it failed; the message holds what it said.
    """
    command = [sys.executable, script, "--work", *arguments]
    if one_core:
        command.append("--one-core")
    # One arena: else glibc gives each thread its own, and which thread got which decided up to 8 % of its speed.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    lines = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if done.returncode or not lines:
        # What libraries say when the process ends comes after the reason.
        reason = done.stderr[max(done.stderr.rfind("Traceback (most recent call last)"), 0) :]
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{reason[:3000]}")
    return json.loads(lines[-1].removeprefix(RESULT))


def stay_on_one_core() -> None:
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


# What comes out.


def middle(values: list[float], digits: int = 2) -> str:
    """The median [smallest, largest]."""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def processor() -> str:
    """The processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> str:
    """The releases that are compared, as far as they are installed."""
    named = {"torch": "torch", "Lightning": "lightning", "fastai": "fastai", "Ignite": "pytorch-ignite"}
    named |= {"skorch": "skorch", "Accelerate": "accelerate", "torch-lr-finder": "torch-lr-finder"}
    found = [f"Python {platform.python_version()}"]
    for title, package in named.items():
        try:
            found.append(f"{title} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


Table = dict[str, dict[str, Row]]  # contestant, then workload


def aims(table: Table) -> list[tuple[str, bool]]:
    """What is to be reached, as sentences with the figures, and whether it is; CPU time decides."""

    def ratio(name: str, workload: str) -> float:
        return statistics.median(table[name][workload].ratios("cpu"))

    judged = []
    for key, workload in WORKLOADS.items():
        for name, limit in (("trainer", 1.06), ("trainer-full", 1.10), ("trainer-batches-full", workload.embedded_aim)):
            if key in table.get(name, {}):
                value = ratio(name, key)
                sentence = f"{workload.title}: {CONTESTANTS[name].title} {value:.3f}, aim {limit:.2f}"
                if CONTESTANTS[name].embedded and "loop-batches" in table:
                    sentence += f" (the bare loop on Batches {ratio('loop-batches', key):.3f})"
                judged.append((sentence, value <= limit))
        rivals = [name for name, each in CONTESTANTS.items() if each.module and key in table.get(name, {})]
        for own in ("trainer", "trainer-full", "trainer-batches-full"):
            if rivals and key in table.get(own, {}):
                nearest = min(rivals, key=lambda name: ratio(name, key))
                sentence = (
                    f"{workload.title}: {CONTESTANTS[own].title} {ratio(own, key):.3f} ahead of every library, "
                    f"the nearest {CONTESTANTS[nearest].title} {ratio(nearest, key):.3f}"
                )
                judged.append((sentence, ratio(own, key) < ratio(nearest, key)))
    return judged


def headline(table: Table) -> str:
    """Return the sentence that README shows, in bold."""
    ours = [statistics.median(table["trainer"][key].ratios("cpu")) for key in WORKLOADS]
    rivals = [
        statistics.median(row.ratios("cpu"))
        for name, rows in table.items()
        if CONTESTANTS[name].module
        for row in rows.values()
    ]
    own = f"`Trainer` takes {ours[0]:.2f} (MLP) and {ours[1]:.2f} (CNN) times the CPU time of a loop written by hand"
    return f"**{own}; libraries take {min(rivals):.2f} to {max(rivals):.2f} times.**" if rivals else f"**{own}.**"


def markdown(table: Table, notes: list[str]) -> str:
    """Return the document with the table."""
    head = [f"{each.title}: {kind}" for each in WORKLOADS.values() for kind in ("CPU time", "wall time", "µs a step")]
    lines = [
        "# What the training loop costs, compared with a hand-written loop and five libraries",
        "",
        headline(table),
        "",
        f"![{ALT}]({PICTURE.name})",
        "",
        f"| | {' | '.join(head)} |",
        f"| --- |{' ---: |' * len(head)}",
    ]
    for name, rows in table.items():
        cells = []
        for key in WORKLOADS:
            row = rows[key]
            cells += [middle(row.ratios("cpu")), middle(row.ratios("wall")), f"{row.microseconds_more:+.0f}"]
        title = CONTESTANTS[name].title
        lines.append(f"| {f'**{title}**' if CONTESTANTS[name].ours else title} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *notes]) + "\n"


def notes_on(table: Table, memory: list[tuple[int, float]], missing: list[str], repeats: int) -> list[str]:
    """The sentences below the table."""
    loops = {
        each.title: 1e6 * statistics.median(span.cpu for span in rows[key].loops) / rows[key].num_steps
        for key, each in WORKLOADS.items()
        for rows in [table["loop"]]
    }
    around = {
        CONTESTANTS[name].title: 1e3 * statistics.median(span.around for row in rows.values() for span in row.spans)
        for name, rows in table.items()
    }
    long = [f"{title}: {value:.0f} ms" for title, value in around.items() if value >= 5]
    saves = {
        each.title: statistics.median(span.saves for span in table["trainer-full"][key].spans)
        for key, each in WORKLOADS.items()
    }
    (first_step, first_size), (last_step, last_size) = memory[0], memory[-1]
    text = [
        "Time as a ratio to the hand-written loop with a DataLoader (1.00), the median of "
        f"{repeats} pairs [smallest, largest]. µs a step: CPU time beyond that loop's, which takes "
        + " and ".join(f"{value:.0f} µs ({title})" for title, value in loops.items())
        + ". All train on the digits in batches of 64, on one core, from the same weights and with the same batches; "
        "their final weights are equal to the last bit. Libraries run with everything switched off that can be, unless "
        'the title differs. "Everything on" is TensorBoard, checkpoints and the progress bar. In Trainer\'s runs '
        + " and ".join(f"{value:.0f} ({title})" for title, value in saves.items())
        + " checkpoints were saved in the timed epochs; libraries that save do so at each epoch.",
        f"The start and end of a run are left out. CPU time of both together, if 5 ms or more: {'; '.join(long)}."
        if long
        else "The start and end of a run are left out. They take less than 5 ms of CPU time.",
        f"Memory with everything on: {first_size:.1f} MiB after {first_step:,} steps, {last_size:.1f} MiB after "
        f"{last_step:,} ({last_size - first_size:+.2f} MiB).",
        f"Measured on one core of {processor()} with {versions()}.",
    ]
    if missing:
        text.append(f"Not installed, so not measured: {', '.join(missing)}.")
    return [line for paragraph in text for line in (paragraph, "")][:-1]


def draw(table: Table, path: Path) -> None:
    """Draw the CPU ratios as bars, a panel a workload."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    names = [name for name in table if name != "loop"]
    for axes, (key, workload) in zip(figure.subplots(1, 2, sharey=True), WORKLOADS.items(), strict=True):
        for place, name in enumerate(names):
            ratios = table[name][key].ratios("cpu")
            value = statistics.median(ratios)
            color = "#1f77b4" if CONTESTANTS[name].ours else "#b0b0b0"
            spread = [[value - min(ratios)], [max(ratios) - value]]
            axes.barh(place, value, color=color, xerr=spread, ecolor="#404040", capsize=2)
            where = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.annotate(f"{value:.2f}", (max(ratios), place), bbox=box, **where)
        axes.axvline(1, color="black", linewidth=1)
        axes.set_xlim(0, 1.15 * max(max(table[name][key].ratios("cpu")) for name in names))
        axes.set_yticks(range(len(names)), [CONTESTANTS[name].title for name in names])
        axes.set_title(f"{workload.title} on the digits")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].invert_yaxis()
    figure.supxlabel("CPU time, median and range; 1 is the hand-written loop with a DataLoader", fontsize=10)
    figure.savefig(path, dpi=120)


def write(text: str, table: Table) -> None:
    """Write the document and its picture."""
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(text, encoding="utf-8")
    draw(table, PICTURE)
    print(f"\nwritten: {TABLE.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")


def device_notes(repeats: int) -> list[str]:
    """Samples a second on CUDA as a table, each beside the loop that reads the loss at each step."""
    if not torch.cuda.is_available():
        return ["Measured without a CUDA device; for samples per second on one, see [On a CUDA device](cuda.md)."]
    lines = [
        f"On {torch.cuda.get_device_name()}: thousand samples a second of wall time, the median of {repeats} runs "
        "[smallest, largest], and the ratio to the loop with `.item()` each step on the same data."
    ]
    for workload, rates in in_own_process("device", "cuda", str(repeats), one_core=False).items():
        lines += ["", f"| {workload} | thousand samples a second | ratio |", "| --- | ---: | ---: |"]
        for name, values in rates.items():
            _, _, embedded = DEVICE_CONTESTANTS[name]
            base = rates["loop on Batches, .item() each step" if embedded else "loop, DataLoader, .item() each step"]
            ratios = [value / other for value, other in zip(values, base, strict=True)]
            lines.append(f"| {name} | {middle([value / 1e3 for value in values], 1)} | {middle(ratios)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REPEATS} repeats instead of {REPEATS}")
    parser.add_argument("--peer", action="append", choices=CONTESTANTS, help="only this one; may be given again")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--one-core", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        if arguments.one_core:
            stay_on_one_core()
        print(RESULT + json.dumps(work(arguments.work)), flush=True)
        return 0

    repeats = QUICK_REPEATS if arguments.quick else REPEATS
    whole = not arguments.quick and not arguments.peer
    table: Table = {}
    missing = []
    print(
        f"{repeats} pairs a row; ratio to the hand-written loop with a DataLoader; µs: CPU time a step beyond its own"
    )
    print(f"{'':34} {'workload':8}  {'CPU time':20} {'wall time':20} {'µs':>6}  checkpoints")
    for name in arguments.peer or CONTESTANTS:
        contestant = CONTESTANTS[name]
        if not contestant.is_installed():
            print(f"{contestant.title:34} skipped: {contestant.module} is not installed (tools/make_env.py bench)")
            missing.append(contestant.title)
            continue
        table[name] = {}
        for key, result in in_own_process("pairs", name, str(repeats)).items():
            workload = WORKLOADS[key]
            loops, spans = ([Span(**each) for each in result[side]] for side in ("loops", "spans"))
            row = table[name][key] = Row(loops, spans, result["num_steps"])
            saves = statistics.median(span.saves for span in spans)
            print(
                f"{contestant.title:34} {workload.title:8}  {middle(row.ratios('cpu')):20} "
                f"{middle(row.ratios('wall')):20} {row.microseconds_more:+6.0f}  {saves:.0f}",
                flush=True,
            )
    memory, device = [], []
    if not arguments.peer:
        memory = in_own_process("memory")
        print(f"\nmemory with everything on, MiB: {', '.join(f'{step:,}: {mib:.1f}' for step, mib in memory)}")
        device = device_notes(repeats)
        print("", *device, sep="\n")
    print()
    for sentence, met in aims(table):
        print(f"{sentence}: {'met' if met else 'NOT met'}")
    if whole:
        write(markdown(table, [*notes_on(table, memory, missing, repeats), "", *device]), table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
