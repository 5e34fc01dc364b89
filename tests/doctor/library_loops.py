"""Training by libraries, each in its own way, with validation and logging, on the cases' tiny data.

    python tests/doctor/library_loops.py        all that are installed, under the doctor; prints a line of JSON

The libraries come with the `bench` extra; a process of its own keeps what they change on import away from the tests.
"""

import importlib.util
import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from case_parts import Classifier, adam, loader, rows, sgd
from loop_doctor import LoopDoctor
from torch import nn

RESULT = "RESULT "


def train_with_lightning(folder: Path) -> nn.Module:
    import lightning
    from lightning.pytorch.loggers import TensorBoardLogger

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.loss = Classifier(dropout=0.2), nn.CrossEntropyLoss()

        def training_step(self, batch, index):
            loss = self.loss(self.model(batch[0]), batch[1])
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

        def validation_step(self, batch, index):
            self.log("val_loss", self.loss(self.model(batch[0]), batch[1]))

        def configure_optimizers(self):
            optimizer = adam(self.model)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = Module()
    fitter = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=1,
        default_root_dir=folder,
        logger=TensorBoardLogger(folder),
        log_every_n_steps=1,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    fitter.fit(module, loader(), loader(40))
    return module.model


def manual_gan(folder: Path, *, leak: bool = False, twice: bool = False, clear: bool = True) -> nn.Module:
    """Train a GAN with Lightning's manual optimization, with one mistake or none."""
    import lightning

    class Gan(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.critic = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

        def training_step(self, batch, index):
            for_g, for_d = self.optimizers()
            real, fake = batch[0], self.generator(torch.randn(len(batch[0]), 4))
            self.train_generator(for_g, fake)
            self.train_critic(for_d, real, fake.detach())

        def train_generator(self, optimizer, fake):
            if not leak:
                self.toggle_optimizer(optimizer)
            loss = nn.functional.softplus(-self.critic(fake)).mean()
            if clear:
                optimizer.zero_grad()
            self.manual_backward(loss)  # <- missing-zero-grad
            self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
            optimizer.step()
            if not leak:
                self.untoggle_optimizer(optimizer)

        def train_critic(self, optimizer, real, fake):
            loss = nn.functional.softplus(-self.critic(real)).mean() + nn.functional.softplus(self.critic(fake)).mean()
            self.manual_backward(loss)  # <- gradients-leak-in
            optimizer.step()
            if twice:
                optimizer.step()  # <- repeated-step
            optimizer.zero_grad()

        def configure_optimizers(self):
            return adam(self.generator), adam(self.critic)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = Gan()
    fitter = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=1,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    fitter.fit(module, loader())
    return module


def manual_accumulation(folder: Path) -> nn.Module:
    """Accumulate over three micro-batches with Lightning's manual optimization."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization, self.model = False, Classifier()

        def training_step(self, batch, index):
            optimizer = self.optimizers()
            self.manual_backward(nn.functional.cross_entropy(self.model(batch[0]), batch[1]) / 3)
            if (index + 1) % 3 == 0:
                optimizer.step()
                optimizer.zero_grad()

        def configure_optimizers(self):
            return sgd(self.model)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = Module()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    fitter = lightning.Trainer(max_epochs=3, accelerator="cpu", default_root_dir=folder, devices=1, **options)
    fitter.fit(module, loader())
    return module.model


def train_with_ignite(folder: Path) -> nn.Module:
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.handlers.tensorboard_logger import TensorboardLogger, global_step_from_engine
    from ignite.metrics import Loss, RunningAverage

    model, criterion = Classifier(dropout=0.2), nn.CrossEntropyLoss()
    trainer = create_supervised_trainer(model, sgd(model), criterion)
    evaluator = create_supervised_evaluator(model, metrics={"loss": Loss(criterion)})
    RunningAverage(output_transform=lambda loss: loss).attach(trainer, "average")
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: evaluator.run(loader(40)))
    with TensorboardLogger(log_dir=folder) as logger:
        every = Events.ITERATION_COMPLETED(every=2)
        logger.attach_output_handler(
            trainer, every, "train", metric_names=["average"], output_transform=lambda x: {"loss": x}
        )
        # Without the trainer's step, all values of the evaluator would be at its own step, which is always 1.
        logger.attach_output_handler(
            evaluator,
            Events.EPOCH_COMPLETED,
            "valid",
            metric_names=["loss"],
            global_step_transform=global_step_from_engine(trainer),
        )
        trainer.run(loader(), max_epochs=3)
    return model


def train_with_skorch(folder: Path) -> nn.Module:
    from skorch import NeuralNetClassifier
    from skorch.callbacks import TensorBoard
    from torch.utils.tensorboard import SummaryWriter

    x, y = rows()
    net = NeuralNetClassifier(
        Classifier,
        module__dropout=0.2,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        lr=0.05,
        batch_size=16,
        max_epochs=3,
        verbose=0,
        callbacks=[("board", TensorBoard(SummaryWriter(folder)))],
    )
    net.fit(x, y)
    return net.module_


def train_with_accelerate(folder: Path) -> nn.Module:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = Classifier(dropout=0.2)
    optimizer = adam(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    model, optimizer, data, scheduler = accelerator.prepare(model, optimizer, loader(), scheduler)
    for _ in range(3):
        model.train()
        for x, y in data:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    accelerator.free_memory()
    return model


def train_with_fastai(folder: Path) -> nn.Module:
    from fastai.callback.progress import ProgressCallback
    from fastai.callback.schedule import Learner  # with fit_one_cycle
    from fastai.data.core import DataLoaders

    model = Classifier(dropout=0.2)
    learner = Learner(DataLoaders(loader(), loader(40)), model, loss_func=nn.CrossEntropyLoss(), path=folder)
    learner.remove_cbs(learner.cbs.filter(lambda each: isinstance(each, ProgressCallback)))
    with learner.no_logging():
        learner.fit_one_cycle(3, 1e-2)
    return model


# module: the function
LIBRARIES: dict[str, Callable[[Path], nn.Module]] = {
    "lightning": train_with_lightning,
    "ignite": train_with_ignite,
    "skorch": train_with_skorch,
    "accelerate": train_with_accelerate,
    "fastai": train_with_fastai,
}


# A name, the library that it needs, the loop, and the codes that must be found, each at the line marked with it.
OTHERS: dict[str, tuple[str, Callable[[Path], nn.Module], tuple[str, ...]]] = {
    "a GAN by hand": ("lightning", manual_gan, ()),
    "an accumulation by hand": ("lightning", manual_accumulation, ()),
    "a critic cleared too late": ("lightning", partial(manual_gan, leak=True), ("gradients-leak-in",)),
    "a critic stepped twice": ("lightning", partial(manual_gan, twice=True), ("repeated-step",)),
    "a generator never cleared": ("lightning", partial(manual_gan, clear=False), ("missing-zero-grad",)),
}


def installed() -> list[str]:
    return [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]


def weights_after(name: str, doctor: LoopDoctor | None) -> list[torch.Tensor]:
    """Train from the same seed, and return the weights."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they advise more worker processes, and warn about each other's releases
        train = LIBRARIES[name] if name in LIBRARIES else OTHERS[name][1]
        if doctor is None:
            model = train(Path(folder))
        else:
            with doctor:
                model = train(Path(folder))
    return [parameter.detach().clone() for parameter in model.parameters()]


def examine(name: str) -> dict:
    """Train with and without the doctor; return what it found, what it saw, and whether the weights are the same."""
    alone, doctor = weights_after(name, None), LoopDoctor()
    watched = weights_after(name, doctor)
    return {
        "codes": [finding.code for finding in doctor.findings],
        "places": [finding.where for finding in doctor.findings],
        "card": str(doctor),
        "same": all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True)),
    }


if __name__ == "__main__":
    others = [name for name, (library, _, _) in OTHERS.items() if library in installed()]
    found = {name: examine(name) for name in (*installed(), *others)}
    print(RESULT + json.dumps(found))
