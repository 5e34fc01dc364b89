"""What a search for the learning rate costs, and what it finds: `find_lr`, a hand-written finder, three libraries.

    python tests/benchmarks/bench_finder.py            everything; writes docs/finder-benchmark.md
    python tests/benchmarks/bench_finder.py --quick    few repeats; writes nothing

Cost: 100 steps on the digits in batches of 64 from a DataLoader, SGD with momentum 0.9, rates up to 0.1, where no loss
runs away and nobody stops early. Each contestant has a process of its own, on one core, in which it and the
hand-written finder search in turn from the same weights; who begins changes with each repeat. The time is that of the
whole call, with whatever the library needs to be built for it, and until everything is given back that it gives back.
After each search the weights must be the ones from before, to the last bit.

Worth: each searches from 1e-6 to 10, with its own defaults, on data and models that had no part in choosing
`find_lr`'s rule (that was done on the digits, with the course's MLP and CNN). A fresh model then trains eight epochs at
the rate that was suggested, and it trains well if its loss has halved at least.
"""

import argparse
import contextlib
import copy
import io
import itertools
import json
import logging
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from bench_trainer import (
    RESULT,
    ROOT,
    WORKLOADS,
    in_own_process,
    middle,
    processor,
    stay_on_one_core,
    versions,
)
from peers import Contestant
from sklearn.datasets import load_breast_cancer, load_wine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from course_utils import data, models
from course_utils.lr import find_lr

TABLE = ROOT / "docs/finder-benchmark.md"
BATCH_SIZE, NUM_STEPS, START = 64, 100, 1e-6
COST_END, WORTH_END = 0.1, 10.0
REPEATS, QUICK_REPEATS = 15, 5
SEEDS, NUM_EPOCHS = (20, 21, 22), 8
loss_fn = nn.CrossEntropyLoss()
OPTIMIZERS = {
    "momentum": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=0.01),
}


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    return data.load().train.dataset.tensors


def table(load: Callable[..., tuple]) -> tuple[torch.Tensor, torch.Tensor]:
    """One of scikit-learn's tables, each column with mean 0 and deviation 1."""
    x, y = load(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0), torch.tensor(y)


def tanh_and_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.BatchNorm1d(48), nn.Tanh(), nn.Linear(48, 10))


# name: the model, its data, the batch size
HELD_OUT = {
    "breast cancer, MLP": (partial(models.MLP, (30,), 2, (32,)), partial(table, load_breast_cancer), 32),
    "wine, linear": (partial(models.MLP, (13,), 3, ()), partial(table, load_wine), 16),
    "digits, tanh and batch norm": (tanh_and_batch_norm, digits, 128),
    "digits, five layers": (partial(models.MLP, hidden=(64,) * 5), digits, 16),
}


def by_hand(model: nn.Module, loader: Iterable, end: float, folder: Path, kind: str) -> float | None:
    """The finder that a learner would write: the steepest place of an exponential mean, weights and state put back."""
    optimizer = OPTIMIZERS[kind](model.parameters())
    before = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    rates = [START * (end / START) ** (step / (NUM_STEPS - 1)) for step in range(NUM_STEPS)]
    means, mean = [], 0.0
    try:
        for step, (x, y) in enumerate(itertools.islice(_endless(loader), NUM_STEPS), start=1):
            optimizer.param_groups[0]["lr"] = rates[step - 1]
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            mean = 0.95 * mean + 0.05 * loss.item()
            means.append(mean / (1 - 0.95**step))
            if not math.isfinite(mean) or means[-1] > 4 * min(means):
                break
    finally:
        model.load_state_dict(before[0])
        optimizer.load_state_dict(before[1])
    slopes = [after - before for before, after in itertools.pairwise(means)]
    return rates[slopes.index(min(slopes))]


def _endless(loader: Iterable) -> Iterable:
    while True:
        yield from loader


def ours(model: nn.Module, loader: Iterable, end: float, folder: Path, kind: str) -> float | None:
    optimizer = OPTIMIZERS[kind](model.parameters())
    found = find_lr(model, optimizer, loss_fn, loader, start=START, end=end, num_steps=NUM_STEPS)
    return None if found.suggestion is None else found.suggestion.point


def torch_lr_finder(model: nn.Module, loader: Iterable, end: float, folder: Path, kind: str) -> float | None:
    import torch_lr_finder

    optimizer = OPTIMIZERS[kind](model.parameters(), lr=START)
    finder = torch_lr_finder.LRFinder(model, optimizer, loss_fn, device="cpu")
    finder.range_test(loader, end_lr=end, num_iter=NUM_STEPS)
    finder.reset()
    # What its plot() suggests, without the picture: it leaves out the first 10 and the last 5.
    rates, losses = finder.history["lr"][10:-5], finder.history["loss"][10:-5]
    import numpy

    return rates[numpy.gradient(numpy.array(losses)).argmin()]


def lightning(model: nn.Module, loader: Iterable, end: float, folder: Path, kind: str) -> float | None:
    import lightning
    from lightning.pytorch.tuner import Tuner

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.lr = model, START

        def training_step(self, batch, batch_index):
            x, y = batch
            return loss_fn(self.model(x), y)

        def configure_optimizers(self):
            return OPTIMIZERS[kind](self.model.parameters(), lr=self.lr)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")  # it advises more worker processes for the data
    off = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", devices=1, max_epochs=-1, default_root_dir=folder, **off)
    found = Tuner(trainer).lr_find(
        Module(), train_dataloaders=loader, min_lr=START, max_lr=end, num_training=NUM_STEPS, update_attr=False
    )
    return found.suggestion()


def fastai(model: nn.Module, loader: Iterable, end: float, folder: Path, kind: str) -> float | None:
    from fastai.callback.progress import ProgressCallback
    from fastai.callback.schedule import valley
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import SGD, Adam

    own = {"momentum": partial(SGD, mom=0.9), "adam": Adam}[kind]
    learner = Learner(DataLoaders(loader, []), model, loss_func=loss_fn, opt_func=own, path=folder)
    learner.remove_cbs(learner.cbs.filter(lambda each: isinstance(each, ProgressCallback)))
    with learner.no_logging():
        found = learner.lr_find(START, end, NUM_STEPS, show_plot=False, suggest_funcs=(valley,))
    return found.valley


CONTESTANTS = {
    "hand": Contestant("the same finder again", by_hand),
    "ours": Contestant("find_lr", ours, ours=True),
    "torch-lr-finder": Contestant("torch-lr-finder", torch_lr_finder, "torch_lr_finder"),
    "lightning": Contestant("Lightning", lightning, "lightning"),
    "fastai": Contestant("fastai", fastai, "fastai"),
}


def search(
    contestant: Contestant,
    make_model: Callable[[], nn.Module],
    tensors: tuple[torch.Tensor, torch.Tensor],
    seed: int,
    *,
    end: float,
    batch_size: int = BATCH_SIZE,
    kind: str = "momentum",
) -> tuple[float, int, float | None]:
    """Search once from fresh weights: CPU seconds, forward passes, and what is suggested.

    Raises:
        RuntimeError: the weights are not the ones from before.
    """
    torch.manual_seed(seed)
    model = make_model()
    kept = copy.deepcopy(model.state_dict())
    passes = []
    handle = model.register_forward_pre_hook(lambda *_: passes.append(1))
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(TensorDataset(*tensors), batch_size, shuffle=True, generator=generator)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        began = time.process_time()
        suggested = contestant.train(model, loader, end, Path(folder), kind)
        seconds = time.process_time() - began
    handle.remove()
    if not all(torch.equal(kept[key], value) for key, value in model.state_dict().items()):
        raise RuntimeError(f"{contestant.title} did not give the weights back")
    return seconds, len(passes), None if suggested is None else float(suggested)


def measure_cost(name: str, repeats: int) -> dict[str, list[list[float]]]:
    """For each workload pairs of CPU seconds, [the hand-written finder, the contestant]."""
    pairs: dict[str, list[list[float]]] = {}
    tensors = digits()
    for workload, each in WORKLOADS.items():
        pairs[workload] = []
        for repeat in range(repeats + 1):
            sides = [CONTESTANTS["hand"], CONTESTANTS[name]]
            done = {}
            for side in (0, 1) if repeat % 2 else (1, 0):
                done[side] = search(sides[side], each.make_model, tensors, repeat, end=COST_END)
                if done[side][1] < NUM_STEPS:
                    raise RuntimeError(f"{sides[side].title} took {done[side][1]} steps, {NUM_STEPS} were asked for")
            if repeat:  # the first pair pays for what is loaded late
                pairs[workload].append([done[0][0], done[1][0]])
    return pairs


def measure_worth(name: str) -> dict[str, list[str]]:
    """For each setting that is held out what came of its searches: "trains", "nothing" (no suggestion) or "fails"."""
    came: dict[str, list[str]] = {}
    for setting, (make_model, load, batch_size) in HELD_OUT.items():
        tensors = load()
        came[setting] = []
        for kind, seed in itertools.product(OPTIMIZERS, SEEDS):
            options = {"end": WORTH_END, "batch_size": batch_size, "kind": kind}
            try:
                _, _, rate = search(CONTESTANTS[name], make_model, tensors, seed, **options)
            except IndexError:  # fastai, where its curve has no valley
                rate = None
            trains = rate is not None and _halves_its_loss(make_model, tensors, batch_size, kind, rate, seed)
            came[setting].append("nothing" if rate is None else "trains" if trains else "fails")
    return came


def _halves_its_loss(
    make_model: Callable[[], nn.Module],
    tensors: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    kind: str,
    rate: float,
    seed: int,
) -> bool:
    torch.manual_seed(seed)
    model = make_model()
    optimizer = OPTIMIZERS[kind](model.parameters(), lr=rate)
    batches = data.Batches(*tensors, batch_size=batch_size, seed=seed)
    losses = []
    for x, y in (batch for _ in range(NUM_EPOCHS) for batch in batches):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return statistics.fmean(losses[-len(batches) :]) <= losses[0] / 2


def work(arguments: list[str]) -> object:
    """Do one measurement in this process."""
    match arguments:
        case ["cost", name, repeats]:
            return measure_cost(name, int(repeats))
        case ["worth", name]:
            return measure_worth(name)
    raise ValueError(f"unknown measurement {arguments!r}")


Costs = dict[str, dict[str, list[list[float]]]]
Worths = dict[str, dict[str, list[str]]]


def ratios(pairs: list[list[float]]) -> list[float]:
    return [own / hand for hand, own in pairs]


def headline(costs: Costs, worths: Worths) -> str:
    """Return the sentence that README shows, in bold."""
    came = [each for setting in worths["ours"].values() for each in setting]
    trains, nothing, fails = (came.count(what) for what in ("trains", "nothing", "fails"))
    cost = statistics.median(ratios(costs["ours"]["mlp"]))
    return (
        f"**Of {len(came)} searches with `find_lr`, {trains} suggest a rate that trains well, {nothing} suggest "
        f"nothing and {fails} suggest a rate that does not train. A search takes {cost:.2f} times the CPU time of a "
        "finder written by hand.**"
    )


def markdown(costs: Costs, worths: Worths, missing: list[str], repeats: int) -> str:
    """Return the document with the table."""
    titles = [each.title for each in WORKLOADS.values()]
    head = [f"{title}: CPU time" for title in titles] + ["trains well", "suggests nothing", "does not train"]
    lines = [
        "# What a search for a learning rate costs and finds, compared with a hand-written finder and three libraries",
        "",
        headline(costs, worths),
        "",
        f"| | {' | '.join(head)} |",
        f"| --- |{' ---: |' * len(head)}",
    ]
    for name, pairs in costs.items():
        cells = [middle(ratios(pairs[workload])) for workload in WORKLOADS]
        came = [each for setting in worths[name].values() for each in setting]
        cells += [f"{came.count(what)} of {len(came)}" for what in ("trains", "nothing", "fails")]
        title = "a finder written by hand" if name == "hand" else CONTESTANTS[name].title
        lines.append(f"| {f'**{title}**' if CONTESTANTS[name].ours else title} | {' | '.join(cells)} |")
    hands = [
        f"{1e3 * statistics.median(hand for hand, _ in costs['hand'][key]):.0f} ms ({each.title})"
        for key, each in WORKLOADS.items()
    ]
    notes = [
        f"CPU time of {NUM_STEPS} steps and everything around them, as a ratio to a finder written by hand (1.00), "
        f"which takes {' and '.join(hands)}: the median of {repeats} pairs [smallest, largest], on one core. Its own "
        "row compares it with itself. All finders search on the digits in batches of 64 from a DataLoader, with SGD "
        "and momentum 0.9, and restore the weights to the last bit.",
        f"The other columns: searches from {START:g} to {WORTH_END:g}, with each finder's own defaults, on "
        f"{'; '.join(HELD_OUT)}; SGD with momentum and Adam, {len(SEEDS)} seeds each. None of these were used to "
        f"choose find_lr's rule. A rate trains well if the mean loss of epoch {NUM_EPOCHS} is at most half of the "
        "first loss.",
        f"Measured on one core of {processor()} with {versions()}.",
    ]
    if missing:
        notes.append(f"Not installed, so not measured: {', '.join(missing)}.")
    return "\n".join([*lines, "", *(line for note in notes for line in (note, ""))]).rstrip() + "\n"


def aims(costs: Costs) -> list[tuple[str, bool]]:
    """What is to be reached, as sentences with the figures, and whether it is."""
    judged = []
    for key, workload in WORKLOADS.items():
        own = statistics.median(ratios(costs["ours"][key]))
        judged.append((f"{workload.title}: find_lr {own:.3f} of the hand-written finder, aim 1.05", own <= 1.05))
        for name in costs.keys() - {"hand", "ours"}:
            other = statistics.median(ratios(costs[name][key]))
            judged.append((f"{workload.title}: find_lr {own:.3f}, {CONTESTANTS[name].title} {other:.3f}", own < other))
    return judged


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REPEATS} repeats instead of {REPEATS}")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--one-core", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        if arguments.one_core:
            stay_on_one_core()
        with contextlib.redirect_stdout(io.StringIO()):
            result = work(arguments.work)
        print(RESULT + json.dumps(result), flush=True)
        return 0
    repeats = QUICK_REPEATS if arguments.quick else REPEATS
    costs: Costs = {}
    worths: Worths = {}
    missing = []
    for name, contestant in CONTESTANTS.items():
        if not contestant.is_installed():
            print(f"{contestant.title:24} skipped: {contestant.module} is not installed (tools/make_env.py bench)")
            missing.append(contestant.title)
            continue
        costs[name] = in_own_process("cost", name, str(repeats), script=__file__)
        worths[name] = in_own_process("worth", name, script=__file__)
        shown = "   ".join(f"{each.title} {middle(ratios(costs[name][key]))}" for key, each in WORKLOADS.items())
        came = [each for setting in worths[name].values() for each in setting]
        counts = ", ".join(f"{what} {came.count(what)}" for what in ("trains", "nothing", "fails"))
        print(f"{contestant.title:24} {shown}   {counts}", flush=True)
    print()
    for sentence, met in aims(costs):
        print(f"{sentence}: {'met' if met else 'NOT met'}")
    if not arguments.quick:
        text = markdown(costs, worths, missing, repeats)
        TABLE.write_text(text, encoding="utf-8")
        print(f"\nwritten: {TABLE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
