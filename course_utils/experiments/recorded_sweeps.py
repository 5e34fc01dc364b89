"""Sweeps of the learning rate on the digits: trained once, stored in a file, and found again."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils import data, models
from course_utils.experiments.digits import Follow, fit_digits, seeded_model
from course_utils.lr import Sweep, iter_sweep_lr
from course_utils.optimizers import make_optimizer
from course_utils.training.history import History


def log_rates(low: int, high: int, per_decade: int) -> list[float]:
    """Return the learning rates from 10 to the power `low` to 10 to the power `high`, evenly spaced on a log scale.

    >>> log_rates(-2, 0, 2)
    [0.01, 0.03162, 0.1, 0.3162, 1.0]
    """
    return [float(f"{10 ** (low + index / per_decade):.4g}") for index in range((high - low) * per_decade + 1)]


RATES_PER_DECADE = 8
EXPONENTS = (-5, 1)
RATES = log_rates(*EXPONENTS, RATES_PER_DECADE)
RECORDED = Path(__file__).resolve().parents[1] / "recorded"


@dataclass(frozen=True)
class SweepConfig:
    """How the runs of a sweep are trained.

    Attributes:
        model: "mlp" or "cnn".
        optimizer: a name that `make_optimizer` knows.
        momentum: the momentum of the optimizer "momentum"; None for the others.
        batch_size, num_epochs: the size of a batch, and the passes over the 1,437 training images.
        seed: fixes the first weights and the order of the batches.
    """

    model: str = "mlp"
    optimizer: str = "sgd"
    momentum: float | None = None
    batch_size: int = 64
    num_epochs: int = 5
    seed: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """The optimizer's options beside the learning rate."""
        return {} if self.momentum is None else {"momentum": self.momentum}

    @property
    def file_name(self) -> str:
        """The file that the sweep is stored in.

        >>> SweepConfig("cnn", "momentum", 0.9).file_name
        'cnn-momentum-0.9-64-5-0.json'
        """
        parts = (self.model, self.optimizer, self.momentum, self.batch_size, self.num_epochs, self.seed)
        return "-".join(str(part) for part in parts if part is not None) + ".json"

    def train(self) -> Generator[Sweep, None, None]:
        """Train all `RATES` at once, and yield the same `Sweep` after each step, one more column filled in."""
        x, y = data.load("digits").train.dataset.tensors
        yield from iter_sweep_lr(
            lambda: models.make_model(self.model),
            x,
            y,
            RATES,
            optimizer=self.optimizer,
            num_epochs=self.num_epochs,
            batch_size=self.batch_size,
            seed=self.seed,
            **self.options,
        )

    def find(self, folders: Iterable[Path]) -> Sweep | None:
        """Load the sweep from the first folder that holds its file; return None if none does.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is damaged, or its learning rates are not `RATES`.
        """
        for folder in folders:
            path = folder / self.file_name
            if path.is_file():
                sweep = Sweep.load(path)
                if sweep.lrs != RATES:
                    raise ValueError(f"{str(path)!r} holds other learning rates than this lesson's: delete it")
                return sweep
        return None

    def train_once(self, lr: float, follow: Follow) -> History:
        """Train one run at exactly this learning rate with `Trainer`; see `fit_digits` for `follow`."""
        model = seeded_model(lambda: models.make_model(self.model), self.seed)
        return fit_digits(
            model,
            make_optimizer(self.optimizer, model.parameters(), lr, **self.options),
            num_epochs=self.num_epochs,
            batch_size=self.batch_size,
            seed=self.seed,
            follow=follow,
            on_nonfinite="skip",
        )
