"""What every case is made of: a registry, and tiny data and models."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

ROWS, SIZE, CLASSES = 88, 8, 3
BATCH = 16
BATCHES = -(-ROWS // BATCH)  # five whole batches and one of eight rows


@dataclass(frozen=True)
class Case:
    """One small training loop.

    Attributes:
        name: the function's name.
        codes: what the doctor must find, and nothing else.
        style: how the loop is written.
        run: the loop; it receives an empty folder and returns what is to be compared.
        evidence: texts that must be part of the evidence.
        like: for a correct loop, the codes that a hasty reader would name.
        options: for `LoopDoctor`.
        raises: the error that the loop ends with, if it does.
        waits: whether the CPU plays an accelerator here, so that readings from it are waits.
    """

    name: str
    codes: tuple[str, ...]
    style: str
    run: Callable[[Path], Any]
    evidence: tuple[str, ...] = ()
    like: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    raises: type[BaseException] | None = None
    waits: bool = False


FAULTY: list[Case] = []
CORRECT: list[Case] = []


def faulty(
    *codes: str,
    style: str,
    evidence: tuple[str, ...] | str = (),
    raises: Any = None,
    waits: bool = False,
    **options: Any,
) -> Callable:
    """Register a loop with mistakes; the lines that the doctor must name are marked with `# <- code`."""
    texts = (evidence,) if isinstance(evidence, str) else evidence

    def register(run: Callable) -> Callable:
        case = Case(run.__name__, codes, style, run, texts, (), tuple(options.items()), raises, waits)
        FAULTY.append(case)
        return run

    return register


def correct(*like: str, style: str, raises: Any = None, waits: bool = False, **options: Any) -> Callable:
    """Register a correct loop that looks like one with these mistakes."""

    def register(run: Callable) -> Callable:
        CORRECT.append(Case(run.__name__, (), style, run, (), like, tuple(options.items()), raises, waits))
        return run

    return register


# Data: three clouds of points, a little mixed.


def rows(count: int = ROWS) -> tuple[Tensor, Tensor]:
    """Return inputs of shape (count, 8), and labels 0, 1, 2: always the same, on the default device."""
    drawn = {"generator": torch.Generator().manual_seed(1), "device": "cpu"}
    y = torch.randint(CLASSES, (count,), **drawn)
    centres = 1.5 * torch.randn(CLASSES, SIZE, **drawn)
    x = centres[y] + torch.randn(count, SIZE, **drawn)
    return x.to(torch.get_default_device()), y.to(torch.get_default_device())


def loader(count: int = ROWS, batch_size: int = BATCH, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(*rows(count)), batch_size, **options)


def batches(count: int = ROWS, batch_size: int = BATCH) -> list[tuple[Tensor, Tensor]]:
    x, y = rows(count)
    return list(zip(x.split(batch_size), y.split(batch_size), strict=True))


def stream(count: int = ROWS, batch_size: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end."""
    while True:
        yield from batches(count, batch_size)


# Models.


def network(*inside: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), *inside, nn.Linear(16, CLASSES))


class Classifier(nn.Module):
    """A base, dropout and a head."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.base = nn.Sequential(nn.Linear(SIZE, 16), nn.Tanh())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.base(x)))


def sgd(model: nn.Module, lr: float = 0.05, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


def adam(model: nn.Module, lr: float = 1e-3) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr=lr)


def accuracy(logits: Tensor, y: Tensor) -> float:
    return float((logits.argmax(1) == y).float().mean())
