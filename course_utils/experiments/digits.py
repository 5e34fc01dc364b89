"""What the experiments on the handwritten digits share: weights fixed by a seed, and one run of `Trainer`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from course_utils import data
from course_utils.devices import seed_everything
from course_utils.training import Trainer
from course_utils.training.history import History

Follow = Callable[[Trainer, int, int, History], None]


def seeded_model(make_model: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return `make_model()` with weights drawn from `seed`; the caller's random number generator keeps its state."""
    with torch.random.fork_rng(devices=[]):
        seed_everything(seed)
        return make_model()


def fit_digits(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    num_epochs: int,
    batch_size: int = 64,
    seed: int = 0,
    validate: bool = False,
    follow: Follow | None = None,
    **options: Any,
) -> History:
    """Train on the digits with `Trainer` on the CPU, and return a history with the loss of every step.

    Args:
        seed: fixes the order of the batches.
        validate: whether to evaluate on the validation images after each epoch.
        follow: called after each step, and again after each epoch, as `follow(trainer, step, num_steps, history)`.
        options: passed on to `Trainer`.
    """

    def progress(step: int, num_steps: int, history: History) -> None:
        if follow is not None:
            follow(trainer, step, num_steps, history)

    digits = data.load("digits", batch_size=batch_size, seed=seed)
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), device="cpu", log_every=1, progress=progress, **options)
    return trainer.fit(digits.train, digits.valid if validate else None, num_epochs=num_epochs)
