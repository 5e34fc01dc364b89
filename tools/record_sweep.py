"""Train the small CNN's sweeps that the course ships, and write them where the learning-rate lab looks for them.

    python tools/record_sweep.py [FOLDER]

They take most of a minute, which nobody should wait for at the first click. Four significant digits are kept: more
than a picture shows.
"""

import argparse
from pathlib import Path

import torch

from course_utils import data, models
from course_utils.labs.learning_rate import RATES, RECORDED
from course_utils.lr import iter_sweep_lr

NUM_EPOCHS, BATCH_SIZE, SEED = 5, 64, 0
DIGITS = 4
# The name of each file says how its runs were trained: model, optimizer, momentum, batch size, epochs, seed.
SETTINGS = {
    f"cnn-sgd-{BATCH_SIZE}-{NUM_EPOCHS}-{SEED}.json": ("sgd", {}),
    f"cnn-momentum-0.9-{BATCH_SIZE}-{NUM_EPOCHS}-{SEED}.json": ("momentum", {"momentum": 0.9}),
    f"cnn-adam-{BATCH_SIZE}-{NUM_EPOCHS}-{SEED}.json": ("adam", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=RECORDED, help="where to write (default: %(default)s)")
    folder = parser.parse_args().folder
    torch.set_num_threads(1)  # on several threads sums have another order, and a record would not repeat itself
    x, y = data.load("digits").train.dataset.tensors
    for name, (optimizer, options) in SETTINGS.items():
        runs = iter_sweep_lr(
            models.CNN,
            x,
            y,
            RATES,
            optimizer=optimizer,
            num_epochs=NUM_EPOCHS,
            batch_size=BATCH_SIZE,
            seed=SEED,
            **options,
        )
        for sweep in runs:
            print(f"\r{name}: step {sweep.steps_done} of {sweep.losses.shape[1]}", end="", flush=True)
        sweep.save(folder / name, digits=DIGITS)
        print(f", {(folder / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
