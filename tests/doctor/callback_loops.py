"""Training by Lightning and by Transformers with the doctor's callbacks, on the cases' tiny data.

    python tests/doctor/callback_loops.py LIBRARY      runs those of one library, and prints a line of JSON

A process of its own keeps what the libraries change on import away from the tests.
"""

import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from case_parts import Classifier, adam, loader, rows, sgd
from torch import nn

RESULT = "RESULT "


class Stopped(BaseException):
    """Ends a loop early, as Ctrl-C would."""


def lightning_run(
    folder: Path,
    library: str = "lightning.pytorch",
    *,
    clear: bool = True,
    softmax: bool = False,
    stop: type[BaseException] | None = None,
    fits: int = 1,
    **options: Any,
) -> dict:
    pl = import_module(library)
    from loop_doctor.lightning import DoctorCallback

    class Automatic(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.loss = Classifier(dropout=0.2), nn.CrossEntropyLoss()

        def training_step(self, batch, index):
            x, y = batch
            out = self.model(x)
            if softmax:
                out = out.softmax(-1)
            loss = self.loss(out, y)  # <- softmax-before-cross-entropy
            self.log("train_loss", loss)
            if stop is not None and index == 3:
                raise stop("enough")
            return loss

        def validation_step(self, batch, index):
            self.log("val_loss", self.loss(self.model(batch[0]), batch[1]))

        def configure_optimizers(self):
            optimizer = adam(self.model)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    class Manual(Automatic):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, index):
            optimizer = self.optimizers()
            loss = self.loss(self.model(batch[0]), batch[1])
            self.manual_backward(loss)  # <- missing-zero-grad
            optimizer.step()

        def configure_optimizers(self):
            return sgd(self.model)

    logging.getLogger(library).setLevel(logging.ERROR)
    callback, codes, cards = DoctorCallback(**options), [], StringIO()
    assert isinstance(callback, pl.Callback)
    doctors, error = [], None
    for _ in range(fits):
        module = Automatic() if clear else Manual()
        accumulate = {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0} if clear else {}
        trainer = pl.Trainer(
            max_epochs=3,
            accelerator="cpu",
            devices=1,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[callback],
            **accumulate,
        )
        with redirect_stdout(cards):
            try:
                trainer.fit(module, loader(), loader(40))
            except BaseException as ended:
                error = ended
        trainer.callbacks.clear()
        doctors.append(callback.doctor)
        codes.append([finding.code for finding in callback.doctor.findings])
    with redirect_stdout(cards), suppress(Stopped):
        trainer.validate(module, loader(40), verbose=False)
    return report(callback, codes, cards, error, len(set(map(id, doctors))), module)


def transformers_run(
    folder: Path,
    *,
    clear: bool = True,
    softmax: bool = False,
    stop: type[BaseException] | None = None,
    fits: int = 1,
    late: bool = False,
    **options: Any,
) -> dict:
    from loop_doctor.transformers import DoctorCallback
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.loss, self.calls = Classifier(dropout=0.2), nn.CrossEntropyLoss(), 0

        def forward(self, x, labels):
            self.calls += 1
            if stop is not None and self.calls == 4:
                raise stop("enough")
            logits = self.model(x)
            if softmax:
                logits = logits.softmax(-1)
            loss = self.loss(logits, labels)  # <- softmax-before-cross-entropy
            return {"loss": loss, "logits": logits}

    x, y = rows()
    data = [{"x": each, "labels": label} for each, label in zip(x, y, strict=True)]
    callback, codes, cards, error, doctors = DoctorCallback(**options), [], StringIO(), None, []
    for _ in range(fits):
        model = Model()
        arguments = TrainingArguments(
            str(folder),
            num_train_epochs=3,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            eval_strategy="epoch",
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        with redirect_stdout(cards):
            trainer = Trainer(
                model, arguments, train_dataset=data, eval_dataset=data[:40], callbacks=None if late else [callback]
            )
            if late:
                trainer.add_callback(callback)
            try:
                trainer.train()
            except BaseException as ended:
                error = ended
        doctors.append(callback.doctor)
        codes.append([finding.code for finding in callback.doctor.findings] if callback.doctor else None)
    return report(callback, codes, cards, error, len(set(map(id, doctors))), model)


def report(callback, codes, cards, error, num_doctors, model) -> dict:
    return {
        "codes": codes,
        "places": [finding.where for finding in callback.doctor.findings] if callback.doctor else [],
        "cards": cards.getvalue(),
        "error": None if error is None else f"{type(error).__name__}: {error}",
        "doctors": num_doctors,
        "patched": sorted(still_patched()),
    }


def still_patched() -> set[str]:
    """Return the functions of PyTorch that are the doctor's, and PyTorch's tables of hooks that are not empty."""
    owners = {
        "Tensor": torch.Tensor,
        "Module": nn.Module,
        "Optimizer": torch.optim.Optimizer,
        "SGD": torch.optim.SGD,
        "AdamW": torch.optim.AdamW,
        "autograd": torch.autograd,
        "functional": nn.functional,
        "clip": nn.utils,
    }
    functions = {f"{name}.{key}": value for name, owner in owners.items() for key, value in vars(owner).items()}
    found = {name for name, value in functions.items() if "loop_doctor" in code_file(value)}
    for module in (nn.modules.module, sys.modules["torch.optim.optimizer"]):
        found |= {name for name, value in vars(module).items() if name.startswith("_global_") and value}
    return found - {"_global_is_full_backward_hook"}


def code_file(function: Any) -> str:
    return getattr(getattr(function, "__code__", None), "co_filename", "")


LIGHTNING, HF = lightning_run, transformers_run
# A name, the module that it needs, the run, the codes of each fit, and a part of the error that ends it.
RUNS: dict[str, tuple[str, Callable[..., dict], dict, list[list[str] | None], str | None]] = {
    "lightning": ("lightning", LIGHTNING, {}, [[]], None),
    "pytorch_lightning": ("pytorch_lightning", LIGHTNING, {"library": "pytorch_lightning"}, [[]], None),
    "lightning, two fits": ("lightning", LIGHTNING, {"fits": 2}, [[], []], None),
    "lightning, no zero_grad": ("lightning", LIGHTNING, {"clear": False}, [["missing-zero-grad"]], None),
    "lightning, softmax": ("lightning", LIGHTNING, {"softmax": True}, [["softmax-before-cross-entropy"]], None),
    "lightning, an error": ("lightning", LIGHTNING, {"stop": ValueError}, [[]], "ValueError: enough"),
    "lightning, Ctrl-C": ("lightning", LIGHTNING, {"stop": KeyboardInterrupt}, [[]], "SystemExit: 1"),
    "lightning, fail_on": (
        "lightning",
        LIGHTNING,
        {"clear": False, "fail_on": "problem"},
        [["missing-zero-grad"]],
        "the loop doctor found missing-zero-grad",
    ),
    "transformers": ("transformers", HF, {}, [[]], None),
    "transformers, two runs": ("transformers", HF, {"fits": 2}, [[], []], None),
    "transformers, softmax": ("transformers", HF, {"softmax": True}, [["softmax-before-cross-entropy"]], None),
    "transformers, an error": ("transformers", HF, {"stop": ValueError}, [[]], "ValueError: enough"),
    "transformers, Ctrl-C": ("transformers", HF, {"stop": Stopped}, [[]], "Stopped: enough"),
    "transformers, added late": ("transformers", HF, {"late": True}, [None], "pass it to the constructor"),
    "transformers, ignored": (
        "transformers",
        HF,
        {"softmax": True, "ignore": "softmax-before-cross-entropy", "fail_on": "problem"},
        [["softmax-before-cross-entropy"]],
        None,
    ),
}


if __name__ == "__main__":
    library, results = sys.argv[1], {}
    import_module(library)
    for name, (needed, function, given, *_) in RUNS.items():
        if needed == library:
            torch.manual_seed(0)
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results[name] = function(Path(folder), **given)
    print(RESULT + json.dumps(results))
