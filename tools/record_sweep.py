"""Train the small CNN's sweeps that the course ships, and write them where the learning-rate lab looks for them.

    python tools/record_sweep.py [FOLDER]

They take most of a minute, which nobody should wait for at the first click. Four significant digits are kept: more
than a picture shows.
"""

import argparse
from pathlib import Path

import torch

from course_utils.experiments.recorded_sweeps import RECORDED, SweepConfig

DIGITS = 4
CONFIGS = (SweepConfig("cnn", "sgd"), SweepConfig("cnn", "momentum", momentum=0.9), SweepConfig("cnn", "adam"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=RECORDED, help="where to write (default: %(default)s)")
    folder = parser.parse_args().folder
    torch.set_num_threads(1)  # on several threads sums have another order, and a record would not repeat itself
    for config in CONFIGS:
        path = folder / config.file_name
        for sweep in config.train():
            print(f"\r{path.name}: step {sweep.steps_done} of {sweep.losses.shape[1]}", end="", flush=True)
        sweep.save(path, digits=DIGITS)
        print(f", {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
