"""What the loop doctor finds, what it wrongly finds, and what it costs; beside other checkers.

    python tests/benchmarks/bench_doctor.py             everything; writes docs/doctor-benchmark.md
    python tests/benchmarks/bench_doctor.py --quick     every fifth case, few repeats, 20,000 steps; writes nothing

The cases are those of tests/doctor: faulty loops and correct ones that look like them, real mistakes and real styles
from public repositories, random correct loops, and the training of whole libraries. A case counts as found if its
mistake is named by its code. Anything reported on a correct loop is a false alarm; so is a second code on a faulty one.

torch-audit is given, by its own `autopatch`, each model at its first call and the optimizer that holds its weights, and
audits each step. Its rules cover other things too, so it is scored generously: a mistake counts as found if any of the
rules in `RELATED` reports something. torch-preflight reads the source of each loop and runs nothing; `PREFLIGHT`
matches its rules. The static rule is an AST rule of our own, after gradient-clear-pytorch (W5517) of dslinter, which
needs releases of pylint that do not work with today's packages; TorchFix does not have such a rule.

The cost is CPU time on one core, with and without the doctor in turn, as a ratio; the memory is the process's.
"""

import argparse
import ast
import contextlib
import functools
import gc
import importlib.metadata
import importlib.util
import inspect
import io
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from bench_trainer import WORKLOADS, middle, processor, stay_on_one_core
from loop_doctor import LoopDoctor
from loop_doctor.messages import MESSAGES
from loop_doctor.watchers import device_reads
from peers import hand_written, loss_fn, make_optimizer
from torch import nn

from course_utils import data

ROOT = Path(__file__).resolve().parents[2]
DOCTOR_TESTS = ROOT / "tests" / "doctor"
sys.path.insert(0, str(DOCTOR_TESTS))

import cases  # noqa: E402
import fuzz  # noqa: E402
import gallery  # noqa: E402
import library_loops  # noqa: E402

TABLE = ROOT / "docs/doctor-benchmark.md"
PAIRS, QUICK_PAIRS = 41, 5
EPOCHS = {"mlp": 20, "cnn": 6}
LIMITS = {"mlp": 1.60, "cnn": 1.15}
KINDS = {"mlp": "a tiny MLP with a DataLoader", "cnn": "the course's CNN"}
MEMORY_STEPS, MEMORY_FROM = 100_000, 10_000
MEMORY_LIMIT = 1.0  # MiB
# The rules of torch-audit that cover what a code means, or its direct consequence.
RELATED = {
    "loss-not-finite": {"TA100", "TA102"},
    "learning-rate-too-high": {"TA100", "TA102"},
    "missing-backward": {"TA103", "TA104"},
    "zero-grad-before-step": {"TA103", "TA104"},
    "missing-step": {"TA103", "TA104"},
    "optimizer-of-another-model": {"TA103", "TA104", "TA500"},
    "parameters-not-optimized": {"TA104", "TA500"},
    "missing-zero-grad": {"TA102"},
}

# The rules of torch-preflight, and the codes of the same mistakes.
PREFLIGHT = {
    "TG001": "graph-kept-alive",
    "TG002": "validation-builds-graph",
    "TG003": "missing-zero-grad",
    "TG005": "softmax-before-cross-entropy",
    "TG006": "wrong-loss-input",
    "TG007": "waits-every-step",
    "TG011": "eval-mode-while-training",
    "TG014": "accumulation-not-scaled",
}
# What a loop's file imports; a function's own source lacks it.
IMPORTS = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"


@dataclass(frozen=True)
class Loop:
    """One case: what runs, what is wrong with it, and the source that a static rule reads."""

    name: str
    codes: tuple[str, ...]
    run: Callable[[Path], object]
    source: Callable | None
    options: tuple = ()
    raises: type[BaseException] | None = None
    waits: bool = False


@dataclass
class Score:
    """What one checker did on one group of loops."""

    found: Counter = field(default_factory=Counter)  # by code
    missed: list[str] = field(default_factory=list)
    misnamed: list[str] = field(default_factory=list)  # faulty loops with another name than the right one, or a second
    alarms: list[str] = field(default_factory=list)
    others: int = 0  # correct loops in which it warned about something that is not a mistake of the loop


def groups() -> dict[str, list[Loop]]:
    """All loops, by where they come from."""

    def loops(found: list[cases.Case]) -> list[Loop]:
        return [Loop(c.name, c.codes, c.run, c.run, c.options, c.raises, c.waits) for c in found]

    def drawn(seed: int) -> Loop:
        style = fuzz.draw(seed)
        return Loop(f"seed {seed}", (), functools.partial(fuzz.run, style), None)

    libraries = [Loop(name, (), library_loops.LIBRARIES[name], None) for name in library_loops.installed()]
    return {
        "faulty loops": loops(cases.FAULTY),
        "real mistakes": loops(gallery.BUGS),
        "correct loops": loops(cases.CORRECT),
        "real styles": loops(gallery.STYLES),
        "random correct loops": [drawn(seed) for seed in range(fuzz.SEEDS)],
        "libraries": libraries,
    }


def run_loop(loop: Loop, around: contextlib.AbstractContextManager) -> None:
    """Run a loop from the same seeds inside `around`; its own expected error ends it."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    devices = ("cpu",) if loop.waits else device_reads.DEVICES_THAT_WAIT
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(device_reads, "DEVICES_THAT_WAIT", devices),
        warnings.catch_warnings(),
        contextlib.suppress(*[loop.raises] if loop.raises else []),
        contextlib.redirect_stdout(io.StringIO()),
        around,
    ):
        warnings.simplefilter("ignore")
        loop.run(Path(folder))


# The three checkers: each gives the codes that it sees in a loop, and how many other warnings it has.


def by_doctor(loop: Loop) -> tuple[set[str], int]:
    doctor = LoopDoctor(**dict(loop.options))
    run_loop(loop, doctor)
    return {finding.code for finding in doctor.findings}, 0


@contextlib.contextmanager
def audited(found: list) -> Iterator[None]:
    """Give each model that is called to torch-audit, with the optimizer that holds its weights."""
    from torch_audit import autopatch

    auditors, optimizers, depth = {}, [], [0]
    make = torch.optim.Optimizer.__init__

    @functools.wraps(make)
    def init(optimizer, *args, **kwargs):
        make(optimizer, *args, **kwargs)
        optimizers.append(optimizer)

    def before(module: nn.Module, inputs: tuple) -> None:
        depth[0] += 1
        if depth[0] > 1 or id(module) in auditors or next(module.parameters(), None) is None:
            return
        own = {id(parameter) for parameter in module.parameters()}
        holders = [o for o in optimizers if any(id(p) in own for g in o.param_groups for p in g["params"])]
        optimizer = holders[0] if holders else None
        auditors[id(module)] = autopatch(
            module, optimizer=optimizer, every_n_steps=1, patch_optimizer=optimizer is not None
        )

    def after(module: nn.Module, inputs: tuple, output: object) -> None:
        depth[0] -= 1

    handles = [
        nn.modules.module.register_module_forward_pre_hook(before),
        nn.modules.module.register_module_forward_hook(after, always_call=True),
    ]
    torch.optim.Optimizer.__init__ = init
    try:
        yield
    finally:
        torch.optim.Optimizer.__init__ = make
        for handle in handles:
            handle.remove()
        for auditor in auditors.values():
            found += auditor.finish().findings
            auditor.unpatch()


def by_torch_audit(loop: Loop) -> tuple[set[str], int]:
    findings: list = []
    try:
        run_loop(loop, audited(findings))
    except Exception as error:  # its checks run inside the model's forward, and so break some loops
        return {f"it stops the loop with {type(error).__name__}"}, 0
    rules = {finding.rule_id for finding in findings if finding.severity.value != "INFO"}
    codes = {code for code, related in RELATED.items() if related & rules}
    return codes, len(rules - set().union(*RELATED.values()))


def by_static_rule(loop: Loop) -> tuple[set[str], int]:
    """A loop that calls backward() and step(), and zero_grad() nowhere inside."""
    if loop.source is None:
        return set(), 0
    tree = ast.parse(textwrap.dedent(inspect.getsource(loop.source)))
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.While):
            called = {
                call.func.attr
                for call in ast.walk(node)
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
            }
            if {"backward", "step"} <= called and "zero_grad" not in called:
                return {"missing-zero-grad"}, 0
    return set(), 0


def by_torch_preflight(loop: Loop) -> tuple[set[str], int]:
    """What torch-preflight finds in the source of a loop."""
    from torch_preflight import check_source

    if loop.source is None:
        return set(), 0
    found, _ = check_source(f"{loop.name}.py", IMPORTS + textwrap.dedent(inspect.getsource(loop.source)))
    codes = {PREFLIGHT[each.code] for each in found if each.code in PREFLIGHT}
    return codes, sum(each.code not in PREFLIGHT for each in found)


CHECKERS = {
    "doctor": by_doctor,
    "torch-audit": by_torch_audit,
    "torch-preflight": by_torch_preflight,
    "static rule": by_static_rule,
}
# The package that a checker needs, if it is not ours.
PACKAGES = {"torch-audit": "torch_audit", "torch-preflight": "torch_preflight"}
READS_SOURCE = ("torch-preflight", "static rule")


def check(loops: list[Loop], checker: Callable[[Loop], tuple[set[str], int]]) -> Score:
    """Let one checker see all loops of a group."""
    score = Score()
    for loop in loops:
        codes, others = checker(loop)
        for code in loop.codes:
            if code in codes:
                score.found[code] += 1
            else:
                score.missed.append(f"{loop.name}: {code}")
        wrong = codes - set(loop.codes)
        if wrong:
            (score.misnamed if loop.codes else score.alarms).append(f"{loop.name}: {', '.join(sorted(wrong))}")
        score.others += bool(others and not loop.codes)
    return score


# What it costs.


def epoch_pairs(key: str, pairs: int) -> list[float]:
    """CPU time under the doctor as a ratio to the time without it, each pair from the same weights and batches."""
    workload, loader = WORKLOADS[key], data.load(batch_size=64, seed=0).train
    x, y = loader.dataset.tensors
    dataset = torch.utils.data.TensorDataset(x, y)

    def train(around: contextlib.AbstractContextManager) -> tuple[float, nn.Module]:
        torch.manual_seed(0)
        model = workload.make_model()
        batches = torch.utils.data.DataLoader(dataset, 64, shuffle=True)
        with around:
            start = time.process_time()
            hand_written(model, batches, EPOCHS[key])
            return time.process_time() - start, model

    train(contextlib.nullcontext())
    train(LoopDoctor())
    ratios = []
    for pair in range(pairs):
        gc.collect()
        done = {}
        for watched in (False, True) if pair % 2 else (True, False):
            done[watched] = train(LoopDoctor() if watched else contextlib.nullcontext())
        for a, b in zip(done[True][1].parameters(), done[False][1].parameters(), strict=True):
            if not torch.equal(a, b):
                raise RuntimeError(f"{workload.title}: the weights differ under the doctor")
        ratios.append(done[True][0] / done[False][0])
    return ratios


def measure_memory(num_steps: int) -> tuple[float, float]:
    """MiB of the process after 10,000 steps under the doctor, and after all of them."""
    import psutil

    process, sizes, step = psutil.Process(), [], 0
    batches = [(x, y) for x, y in data.load(batch_size=16, seed=0).train][:50]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    optimizer = make_optimizer(model)
    with LoopDoctor():
        while step < num_steps:
            running_loss = 0.0
            for x, y in batches:
                optimizer.zero_grad()
                loss = loss_fn(model(x), y)
                loss.backward()
                optimizer.step()
                running_loss += loss.item()
                step += 1
                if step in (MEMORY_FROM, num_steps):
                    gc.collect()
                    sizes.append(process.memory_info().rss / 2**20)
    return sizes[0], sizes[-1]


def cost(pairs: int, num_steps: int) -> dict:
    """Measure in a process of its own, on one core."""
    command = [sys.executable, __file__, "--cost", str(pairs), str(num_steps)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = [line for line in done.stdout.splitlines() if line.startswith(library_loops.RESULT)]
    if done.returncode or not lines:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(lines[-1].removeprefix(library_loops.RESULT))


# What comes out.


def share(found: int, every: int) -> str:
    return f"{found} of {every}"


def headline(loops: dict[str, list[Loop]], scores: dict[str, Score], measured: dict) -> str:
    """Return the sentence that README shows, in bold."""
    every = [loop for group in loops.values() for loop in group]
    mistakes, correct = sum(len(loop.codes) for loop in every), sum(not loop.codes for loop in every)
    found = sum(sum(score.found.values()) for score in scores.values())
    alarms = sum(len(score.alarms) for score in scores.values())
    return (
        f"**The loop doctor names {found} of {mistakes} mistakes in the test loops, with {alarms} false alarms in "
        f"{correct} correct ones. Under it, the course's CNN takes {statistics.median(measured['cnn']):.2f} times the "
        "CPU time.**"
    )


def summary(loops: dict[str, list[Loop]], scores: dict[str, dict[str, Score]]) -> list[str]:
    """The short table: a row a group, a column a checker."""
    titles = {
        "doctor": "**the loop doctor**",
        "torch-audit": "torch-audit",
        "torch-preflight": "torch-preflight",
        "static rule": "static rule",
    }
    head = [titles[name] for name in scores]
    lines = [f"| | {' | '.join(head)} |", f"| --- |{' ---: |' * len(head)}"]
    for group, every in loops.items():
        mistakes = sum(len(loop.codes) for loop in every)
        cells = []
        for name in scores:
            score = scores[name][group]
            if mistakes:
                wrong = f", {len(score.misnamed)} wrongly named" if score.misnamed else ""
                cells.append(share(sum(score.found.values()), mistakes) + wrong)
            elif name in READS_SOURCE and not any(loop.source for loop in every):
                cells.append("–")
            else:
                others = f" (and {score.others} other warnings)" if score.others else ""
                cells.append(f"{len(score.alarms)}{others}")
        what = f"{group}: found, of {mistakes}" if mistakes else f"{len(every)} {group}: false alarms"
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return lines


def by_code(loops: dict[str, list[Loop]], scores: dict[str, dict[str, Score]]) -> list[str]:
    """The long table: a row a code."""
    every = Counter(code for group in loops.values() for loop in group for code in loop.codes)
    lines = [f"| code | mistakes | {' | '.join(scores)} |", f"| --- | ---: |{' ---: |' * len(scores)}"]
    for code in MESSAGES:
        found = [sum(score.found[code] for score in each.values()) for each in scores.values()]
        lines.append(f"| `{code}` | {every[code]} | {' | '.join(map(str, found))} |")
    return lines


def costs(measured: dict) -> list[str]:
    first, last = measured["memory"]
    mlp, cnn = (
        f"{middle(measured[key])} for {what} (the aim: at most {LIMITS[key]:.2f})" for key, what in KINDS.items()
    )
    return [
        "CPU time under the doctor, as a ratio to the same training without it, on one core, the median of "
        f"{len(measured['mlp'])} pairs [smallest, largest]: {mlp}, {cnn}. The weights are equal to the last bit.",
        "",
        f"Memory of the process: {first:.1f} MiB after {MEMORY_FROM:,} steps, {last:.1f} MiB after "
        f"{measured['steps']:,} ({last - first:+.2f} MiB).",
    ]


def first_words(run: Callable) -> str:
    """A docstring's sentences on one line."""
    return " ".join(inspect.getdoc(run).split())


def limits(scores: dict[str, dict[str, Score]]) -> list[str]:
    """What the doctor is not built for."""
    lines = ["Real mistakes that the doctor does not find:", ""]
    lines += [f"- {first_words(case.run)}" for case in gallery.LIMITS]
    lines += [
        "",
        "It watches the thread that opened the block, PyTorch's own optimizers and writer, and steps that run in "
        "Python. A replayed CUDA graph has no events, and a number that is printed as part of a text is not read. It "
        "knows mistakes in the loop, but few in the data and none in the architecture.",
    ]
    for group, score in scores["doctor"].items():
        lines += [f"- not found ({group}): {name}" for name in score.missed]
        lines += [f"- wrongly named ({group}): {name}" for name in score.misnamed]
        lines += [f"- false alarm ({group}): {name}" for name in score.alarms]
    return lines


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in (
        "torch",
        "torch-audit",
        "torch-preflight",
        "lightning",
        "pytorch-ignite",
        "skorch",
        "accelerate",
        "fastai",
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found)


def aims(scores: dict[str, dict[str, Score]], measured: dict) -> list[tuple[str, bool]]:
    """What is to be reached, as sentences with the figures, and whether it is."""
    alarms = sum(len(score.alarms) for score in scores["doctor"].values())
    missed = sum(len(score.missed) for score in scores["doctor"].values())
    first, last = measured["memory"]
    ratios = {key: statistics.median(measured[key]) for key in EPOCHS}
    return [
        (f"false alarms {alarms}, aim 0", alarms == 0),
        (f"mistakes that were not found {missed}, aim 0", missed == 0),
        *(
            (f"{WORKLOADS[key].title}: {ratios[key]:.2f}, aim {limit:.2f}", ratios[key] <= limit)
            for key, limit in LIMITS.items()
        ),
        (f"memory {last - first:+.2f} MiB, aim {MEMORY_LIMIT:.1f}", last - first <= MEMORY_LIMIT),
    ]


HOW = (
    "A mistake counts as found if its name is reported; anything reported about a correct loop is a false alarm. "
    "torch-audit also checks other things (data ranges, dead units, weight decay): any of its rules that is close to a "
    "mistake counts as found, and warnings that have nothing to do with the loop are counted separately. "
    "torch-preflight reads the source and runs nothing; its other rules (seeds, workers, memory) are counted "
    "separately too. The static rule looks for a loop that calls backward() and step() but never zero_grad(). A faulty "
    "loop is wrongly named if another mistake than its own is reported, alone or beside it."
)
WHERE_FROM = (
    "Faulty and correct loops are in `tests/doctor` (`faulty_loops.py`, `correct_loops.py`, `loops_*.py`), real ones "
    "in `gallery.py`, random ones in `fuzz.py` and the libraries in `library_loops.py`. torch-audit is given each "
    "model with its optimizer and audits each step. The static rule is ours, after gradient-clear-pytorch of dslinter, "
    "which needs a pylint too old for today's packages. These rules of torch-audit count for a code: "
    + "; ".join(f"{', '.join(sorted(rules))} for `{code}`" for code, rules in RELATED.items())
    + "."
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="every fifth case, few repeats; writes nothing")
    parser.add_argument("--cost", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    stay_on_one_core()
    if arguments.cost:
        pairs, steps = arguments.cost
        measured = {key: epoch_pairs(key, pairs) for key in EPOCHS}
        print(library_loops.RESULT + json.dumps({**measured, "memory": measure_memory(steps), "steps": steps}))
        return 0

    loops = groups()
    if arguments.quick:
        loops = {name: every[::5] for name, every in loops.items()}
    checkers = {
        name: checker
        for name, checker in CHECKERS.items()
        if name not in PACKAGES or importlib.util.find_spec(PACKAGES[name]) is not None
    }
    scores = {
        name: {group: check(every, checker) for group, every in loops.items()} for name, checker in checkers.items()
    }
    measured = cost(*((QUICK_PAIRS, 20_000) if arguments.quick else (PAIRS, MEMORY_STEPS)))

    absent = [name for name in library_loops.LIBRARIES if name not in library_loops.installed()]
    absent += [name for name in CHECKERS if name not in checkers]
    note = [f"Not installed, so not measured: {', '.join(absent)}.", ""] if absent else []
    table = summary(loops, scores)
    last = ["", *costs(measured), "", f"Measured on one core of {processor()} with {versions()}."]
    alarms = [
        f"- {name}, {group}: {alarm}"
        for name in scores
        if name != "doctor"
        for group, score in scores[name].items()
        for alarm in score.alarms
    ]
    long = ["# What the loop doctor finds and costs, compared with other checkers", ""]
    long += [headline(loops, scores["doctor"], measured), "", *table, "", HOW, "", WHERE_FROM, ""]
    long += [
        *note,
        "## By code",
        "",
        *by_code(loops, scores),
        "",
        "## Cost",
        *last,
        "",
        "## Limits",
        "",
        *limits(scores),
    ]
    long += ["", "## False alarms of the others", "", *alarms]
    print("\n".join(long))
    print()
    for sentence, reached in aims(scores, measured):
        print(f"{sentence}: {'met' if reached else 'NOT met'}")
    if not arguments.quick:
        TABLE.write_text("\n".join(long) + "\n", encoding="utf-8")
        print(f"\nwritten: {TABLE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
