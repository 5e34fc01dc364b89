"""How much faster a sweep is than the same runs one by one. Run: python tests/benchmarks/bench_sweep.py

Both sides train on one core, on the digits, with the same batches from memory (`Batches`, no DataLoader), and keep
the loss of every step. Every pair times both, in changing order, and its ratio is taken by itself, because the
machine's speed drifts. Times are CPU seconds of this process; the table gives the median [smallest, largest] of the
pairs' ratios, and the shortest time of a sweep.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from course_utils import data, models
from course_utils.lr import sweep_lr
from course_utils.optimizers import make_optimizer

RATES = torch.logspace(-5, 1, 48, dtype=torch.float64).tolist()
BATCH_SIZE, SEED = 64, 0


class FunctionalMLP(models.MLP):
    """The same MLP with a forward that a stack does not know by its layers: it goes through vmap."""

    def forward(self, x):
        return self.classifier(F.relu(self.base[3](F.relu(self.base[1](x.flatten(1))))))


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def train_one(make_model: Callable[[], nn.Module], x, y, lr: float, optimizer: str, num_epochs: int) -> list[float]:
    """The loop that a learner would write, for one rate."""
    torch.manual_seed(SEED)
    model = make_model()
    opt = make_optimizer(optimizer, model.parameters(), lr)
    losses = []
    batches = data.Batches(x, y, batch_size=BATCH_SIZE, seed=SEED)
    for _ in range(num_epochs):
        for xb, yb in batches:
            opt.zero_grad()
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            opt.step()
            losses.append(loss.item())
    return losses


def bench(name: str, make_model: Callable[[], nn.Module], optimizer: str, num_epochs: int, pairs: int) -> None:
    x, y = data.load(batch_size=BATCH_SIZE).train.dataset.tensors

    def together() -> float:
        return cpu_seconds(
            lambda: sweep_lr(
                make_model, x, y, RATES, optimizer=optimizer, num_epochs=num_epochs, batch_size=BATCH_SIZE, seed=SEED
            )
        )

    def one_by_one() -> float:
        return cpu_seconds(lambda: [train_one(make_model, x, y, lr, optimizer, num_epochs) for lr in RATES])

    together()  # the first call pays for what is loaded late
    ratios, sweeps = [], []
    for pair in range(pairs):
        if pair % 2:
            single, stacked = one_by_one(), together()
        else:
            stacked, single = together(), one_by_one()
        ratios.append(single / stacked)
        sweeps.append(stacked)
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(
        f"{name:24}{optimizer:10}{num_epochs:3}   {middle:5.2f} [{low:.2f}, {high:.2f}]   {min(sweeps):6.2f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9, help="timed pairs in each row of the table")
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    print(f"{len(RATES)} rates, batches of {BATCH_SIZE}, torch {torch.__version__}, {pairs} pairs a row")
    print(f"{'model':24}{'optimizer':10}epochs  one by one / sweep    best sweep")
    for optimizer in ("sgd", "momentum", "rmsprop", "adam", "adamw"):
        bench("MLP, layers", models.MLP, optimizer, 5, pairs)
    for optimizer in ("sgd", "adam"):
        bench("MLP, vmap", FunctionalMLP, optimizer, 5, pairs)
    for optimizer in ("sgd", "adam"):
        bench("CNN, layers", models.CNN, optimizer, 1, pairs)


if __name__ == "__main__":
    main()
