"""The same training, written for the hand-written loop, for Trainer and for five libraries.

Each contestant trains a model in place: `contestant(model, loader, num_epochs, folder)`, with `make_optimizer(model)`
and `loss_fn`, on the CPU. Whatever a library shows or keeps by default is switched off by its own options, unless the
contestant's title says otherwise; what it must write goes into `folder`.
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from course_utils.training import Trainer

LR = 0.1
LOG_EVERY = 50
loss_fn = nn.CrossEntropyLoss()


def make_optimizer(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LR)


def hand_written(model: nn.Module, loader: Iterable, num_epochs: int, folder: Path | None = None) -> list[float]:
    """The loop that a learner would write; it gives back the mean of each epoch's losses."""
    optimizer = make_optimizer(model)
    means = []
    for _ in range(num_epochs):
        running_loss = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        means.append(running_loss / len(loader))
    return means


def trainer(model: nn.Module, loader: Iterable, num_epochs: int, folder: Path) -> None:
    Trainer(model, make_optimizer(model), loss_fn, device="cpu", progress=False).fit(loader, num_epochs=num_epochs)


def trainer_with_everything(model: nn.Module, loader: Iterable, num_epochs: int, folder: Path) -> None:
    """TensorBoard, checkpoints and the progress bar are on, as by default with a `run_dir`."""
    tracked = Trainer(model, make_optimizer(model), loss_fn, device="cpu", run_dir=folder, log_every=LOG_EVERY)
    tracked.fit(loader, num_epochs=num_epochs)


def ignite(model: nn.Module, loader: Iterable, num_epochs: int, folder: Path, *, everything: bool = False) -> None:
    """With `everything`, a bar and the loss in TensorBoard move each 50 steps, and each epoch is saved."""
    from ignite.engine import Events, create_supervised_trainer

    optimizer = make_optimizer(model)
    engine = create_supervised_trainer(model, optimizer, loss_fn)
    if not everything:
        engine.run(loader, max_epochs=num_epochs)
        return
    from ignite.handlers import ModelCheckpoint, ProgressBar
    from ignite.handlers.tensorboard_logger import TensorboardLogger

    window = Events.ITERATION_COMPLETED(every=LOG_EVERY)
    ProgressBar().attach(engine, event_name=window)
    saved = {"model": model, "optimizer": optimizer}
    engine.add_event_handler(Events.EPOCH_COMPLETED, ModelCheckpoint(folder, n_saved=2, create_dir=True), saved)
    with TensorboardLogger(log_dir=folder) as logger:
        logger.attach_output_handler(engine, window, tag="loss", output_transform=lambda loss: {"step": loss})
        engine.run(loader, max_epochs=num_epochs)


def skorch(model: nn.Module, loader: Iterable, num_epochs: int, folder: Path) -> None:
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(
        model,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        lr=LR,
        max_epochs=num_epochs,
        train_split=None,
        iterator_train=lambda dataset, **options: loader,
        callbacks="disable",
        verbose=0,
    )
    net.fit(loader.dataset, y=None)


def accelerate(model: nn.Module, loader: Iterable, num_epochs: int, folder: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(model, make_optimizer(model), loader)
    for _ in range(num_epochs):
        running_loss = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            running_loss += loss.item()
    accelerator.free_memory()


def lightning(model: nn.Module, loader: Iterable, num_epochs: int, folder: Path, *, defaults: bool = False) -> None:
    """With `defaults`, its bar, checkpoints and model summary are on, and each loss goes to its TensorBoard logger."""
    import lightning
    from lightning.pytorch.loggers import TensorBoardLogger

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, batch_index):
            x, y = batch
            loss = loss_fn(self.model(x), y)
            if defaults:
                self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return make_optimizer(self.model)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    # It advises more worker processes for the data and, with fewer batches than log_every_n_steps, fewer steps a line.
    warnings.filterwarnings("ignore", module="lightning")
    options = (
        {"logger": TensorBoardLogger(folder), "log_every_n_steps": LOG_EVERY}
        if defaults
        else {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
    )
    fitter = lightning.Trainer(max_epochs=num_epochs, accelerator="cpu", devices=1, default_root_dir=folder, **options)
    fitter.fit(Module(), loader)


def fastai(model: nn.Module, loader: Iterable, num_epochs: int, folder: Path) -> None:
    from fastai.callback.progress import ProgressCallback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import SGD

    # Its own SGD is faster in it than PyTorch's. Validation on no data: its loop insists on a second loader.
    learner = Learner(DataLoaders(loader, []), model, loss_func=loss_fn, opt_func=SGD, path=folder)
    learner.remove_cbs(learner.cbs.filter(lambda each: isinstance(each, ProgressCallback)))
    with learner.no_logging():
        learner.fit(num_epochs, lr=LR, wd=0.0)


@dataclass(frozen=True)
class Contestant:
    """One way to train.

    Attributes:
        title: how the table calls it.
        train: the function; see this module's docstring.
        module: the library that must be installed, or None.
        embedded: whether it trains on `data.Batches` in place of the DataLoader.
        ours: whether it is the course's own.
        stretch: times as many epochs, for one that does some things only now and then.
    """

    title: str
    train: Callable
    module: str | None = None
    embedded: bool = False
    ours: bool = False
    stretch: int = 1

    def is_installed(self) -> bool:
        return self.module is None or importlib.util.find_spec(self.module) is not None


CONTESTANTS = {
    "loop": Contestant("the same loop again", hand_written),
    "trainer": Contestant("Trainer", trainer, ours=True),
    "trainer-full": Contestant("Trainer, everything on", trainer_with_everything, ours=True, stretch=4),
    "loop-batches": Contestant("loop on Batches", hand_written, embedded=True),
    "trainer-batches": Contestant("Trainer on Batches", trainer, embedded=True, ours=True),
    "trainer-batches-full": Contestant(
        "Trainer on Batches, everything on", trainer_with_everything, embedded=True, ours=True, stretch=4
    ),
    "ignite": Contestant("Ignite", ignite, "ignite"),
    "ignite-full": Contestant("Ignite, everything on", partial(ignite, everything=True), "ignite"),
    "skorch": Contestant("skorch", skorch, "skorch"),
    "accelerate": Contestant("Accelerate", accelerate, "accelerate"),
    "lightning": Contestant("Lightning, all off", lightning, "lightning"),
    "lightning-defaults": Contestant("Lightning, its defaults", partial(lightning, defaults=True), "lightning"),
    "fastai": Contestant("fastai", fastai, "fastai"),
}
