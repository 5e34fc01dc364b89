"""Loops that log with libraries of the `bench` extra, with the mistake and without, on the cases' tiny data.

    python tests/doctor/library_logs.py        all that are installed, under the doctor; prints a line of JSON

A process of its own keeps what the libraries change on import away from the tests.
"""

import importlib.util
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loop_doctor
import torch
import torch.nn.functional as F
from case_parts import Classifier, adam, batches, network, sgd
from loop_doctor import LoopDoctor

RESULT = "RESULT "


def wandb_run(folder: Path, **options: Any) -> Any:
    import wandb

    return wandb.init(project="doctor", mode="offline", dir=folder, settings=wandb.Settings(silent=True), **options)


def wandb_epoch_as_step(folder: Path) -> None:
    import wandb

    wandb_run(folder)
    model = network()
    optimizer = sgd(model)
    for epoch in range(3):
        for x, y in batches():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            wandb.log({"epoch": epoch, "train": {"loss": loss.item()}}, step=epoch)  # <- repeated-global-step
    wandb.finish()


def wandb_run_and_a_sum(folder: Path) -> None:
    with wandb_run(folder) as run:
        model = Classifier()
        optimizer, total = adam(model), 0.0
        for _ in range(3):
            for x, y in batches():
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                total += loss.item()
            run.log({"loss": total})  # <- loss-never-reset


def wandb_counts_by_itself(folder: Path) -> None:
    for number in range(2):
        with wandb_run(folder, reinit="finish_previous") as run:
            model = network()
            optimizer = sgd(model)
            for epoch in range(3):
                total = 0.0
                for x, y in batches():
                    optimizer.zero_grad()
                    loss = F.cross_entropy(model(x), y)
                    loss.backward()
                    optimizer.step()
                    total += loss.item()
                    run.log({"loss": loss}, commit=False)
                    run.log({"lr": 0.1})
                run.log({"epoch": epoch, "mean": total / len(batches()), "text": "done", "number": number})
        with wandb_run(folder, reinit="finish_previous") as run:
            run.log({"final": total / len(batches())}, step=0)


def mlflow_in(folder: Path) -> Any:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    import mlflow

    mlflow.set_tracking_uri((folder / "runs").as_uri())  # a new folder, which it fills itself
    return mlflow


def mlflow_without_step(folder: Path) -> None:
    mlflow = mlflow_in(folder)
    model = network()
    optimizer = sgd(model)
    with mlflow.start_run():
        for x, y in batches() * 3:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            mlflow.log_metric("loss", loss.item())  # <- repeated-global-step


def mlflow_metrics_at_the_epoch(folder: Path) -> None:
    from mlflow import log_metrics, start_run

    mlflow_in(folder)
    model = Classifier()
    optimizer = adam(model)
    with start_run():
        for epoch in range(3):
            for x, y in batches():
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                log_metrics({"loss": loss.item(), "lr": 1e-3}, step=epoch)  # <- repeated-global-step


def mlflow_with_steps(folder: Path) -> None:
    mlflow = mlflow_in(folder)
    for _ in range(3):
        model = network()
        optimizer = sgd(model)
        with mlflow.start_run():
            for step, (x, y) in enumerate(batches() * 2):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                mlflow.log_metric("loss", loss.item(), step=step)
            mlflow.log_metrics({"final": loss.item(), "score": 1.0})


def transformers_trainer(folder: Path) -> None:
    from transformers import Trainer, TrainingArguments
    from transformers.modeling_outputs import SequenceClassifierOutput

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = Classifier(0.1)

        def forward(self, x, labels):
            logits = self.inside(x)
            return SequenceClassifierOutput(loss=F.cross_entropy(logits, labels), logits=logits)

    x, y = batches(88, 88)[0]
    data = [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]
    arguments = TrainingArguments(
        str(folder / "out"),
        num_train_epochs=3,
        per_device_train_batch_size=16,
        logging_steps=2,
        eval_strategy="epoch",
        report_to=["tensorboard"],
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(Model(), arguments, train_dataset=data, eval_dataset=data[:40]).train()


# name: the library, the loop, and the code that has to be found
LOOPS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "wandb_epoch_as_step": ("wandb", wandb_epoch_as_step, "repeated-global-step"),
    "wandb_run_and_a_sum": ("wandb", wandb_run_and_a_sum, "loss-never-reset"),
    "wandb_counts_by_itself": ("wandb", wandb_counts_by_itself, ""),
    "mlflow_without_step": ("mlflow", mlflow_without_step, "repeated-global-step"),
    "mlflow_metrics_at_the_epoch": ("mlflow", mlflow_metrics_at_the_epoch, "repeated-global-step"),
    "mlflow_with_steps": ("mlflow", mlflow_with_steps, ""),
    "transformers_trainer": ("transformers", transformers_trainer, ""),
}


def installed() -> list[str]:
    return [name for name, (library, _, _) in LOOPS.items() if importlib.util.find_spec(library) is not None]


def replaced() -> list[str]:
    """Return what in the libraries still belongs to the doctor."""
    places = {"print": print}
    if "wandb" in sys.modules:
        places["wandb.Run._log"] = sys.modules["wandb"].Run._log
    if "mlflow" in sys.modules:
        client = sys.modules["mlflow"].MlflowClient
        places |= {"log_metric": client.log_metric, "log_batch": client.log_batch}
    inside = str(Path(loop_doctor.__file__).parent)
    return [
        name
        for name, place in places.items()
        if getattr(place, "__code__", None) and place.__code__.co_filename.startswith(inside)
    ]


def examine(name: str) -> dict:
    """Run a loop under the doctor; return what it found, and what it left in the libraries."""
    torch.manual_seed(0)
    doctor = LoopDoctor()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with doctor:
            LOOPS[name][1](Path(folder))
    return {
        "codes": [finding.code for finding in doctor.findings],
        "lines": [finding.where.partition("# <- ")[2] for finding in doctor.findings],
        "card": str(doctor),
        "replaced": replaced(),
    }


if __name__ == "__main__":
    found = {name: examine(name) for name in installed()}
    print(RESULT + json.dumps(found))
