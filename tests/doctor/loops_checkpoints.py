"""Loops about checkpoints: weights that are kept, saved and loaded."""

import copy
import io

import torch
import torch.nn.functional as F
from case_parts import Classifier, adam, batches, correct, faulty, network, sgd


def epoch_of(model, optimizer):
    total = 0.0
    for x, y in batches():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total


# best-weights-not-copied


@faulty("best-weights-not-copied", style="early stopping", evidence=("18 more steps", "changed nothing"))
def best_state_is_a_reference(folder):
    model = network()
    optimizer = sgd(model)
    best = None
    for epoch in range(4):
        epoch_of(model, optimizer)
        if epoch == 0:
            best = model.state_dict()  # <- best-weights-not-copied
    model.load_state_dict(best)
    return model, optimizer


@faulty("best-weights-not-copied", style="a new dictionary of the same tensors, in a class")
def dictionary_of_the_same_tensors(folder):
    class Early:
        def keep(self, model):
            self.weights = {k: v.cpu() for k, v in model.state_dict().items()}  # <- best-weights-not-copied

    model, early = Classifier(), Early()
    optimizer = adam(model)
    epoch_of(model, optimizer)
    early.keep(model)
    epoch_of(model, optimizer)
    model.load_state_dict(early.weights)
    return model, optimizer


@faulty("best-weights-not-copied", style="saved at the end", evidence="before they were saved")
def reference_saved_at_the_end(folder):
    model = network()
    optimizer = sgd(model, momentum=0.9)
    for epoch in range(3):
        loss = epoch_of(model, optimizer)
        if epoch == 1:
            best = {"epoch": epoch, "loss": loss, "model": copy.copy(model.state_dict())}  # <- best-weights-not-copied
    torch.save(best, folder / "best.pt")
    return model, optimizer


@correct("best-weights-not-copied", style="deep copies and clones")
def best_state_is_a_copy(folder):
    model = network()
    optimizer = sgd(model)
    for _ in range(3):
        epoch_of(model, optimizer)
        best = copy.deepcopy(model.state_dict())
        cloned = {name: value.clone() for name, value in model.state_dict().items()}
        epoch_of(model, optimizer)
    model.load_state_dict(best)
    model.load_state_dict(cloned)
    return model, optimizer


@correct("best-weights-not-copied", style="target network and weights saved at once")
def state_used_at_once(folder):
    model, target = network(), network()
    optimizer = sgd(model)
    for _ in range(3):
        epoch_of(model, optimizer)
        target.load_state_dict(model.state_dict())
        model.load_state_dict(model.state_dict())
        torch.save({"model": model.state_dict()}, folder / "last.pt")
    return model, target, optimizer


@correct("best-weights-not-copied", style="checkpoints in memory")
def checkpoint_in_memory(folder):
    model = network()
    optimizer = sgd(model)
    epoch_of(model, optimizer)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    epoch_of(model, optimizer)
    buffer.seek(0)
    model.load_state_dict(torch.load(buffer))
    return model, optimizer


# resumed-without-optimizer-state


def saved(folder, epochs=3):
    model = network()
    optimizer = adam(model)
    for _ in range(epochs):
        epoch_of(model, optimizer)
    path = folder / "checkpoint.pt"
    torch.save({"epoch": epochs, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return path


@faulty("resumed-without-optimizer-state", style="plain loop", evidence=("`epoch` = 3", "Adam"))
def resumed_with_a_new_optimizer(folder):
    checkpoint = torch.load(saved(folder))
    model = network()
    model.load_state_dict(checkpoint["model"])  # <- resumed-without-optimizer-state
    optimizer = adam(model)
    for _epoch in range(checkpoint["epoch"], 5):
        epoch_of(model, optimizer)
    return model, optimizer


@faulty("resumed-without-optimizer-state", style="class with a method that resumes")
def resumed_in_a_class(folder):
    class Trainer:
        def __init__(self):
            self.model = network()
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

        def resume(self, path):
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])  # <- resumed-without-optimizer-state
            return state["epoch"] + 1

        def fit(self, start_epoch):
            epoch = start_epoch
            while epoch < start_epoch + 2:
                epoch_of(self.model, self.optimizer)
                epoch += 1

    trainer = Trainer()
    trainer.fit(trainer.resume(saved(folder)))
    return trainer.model, trainer.optimizer


@faulty("resumed-without-optimizer-state", style="momentum, and a counter of steps", evidence="`global_step` = 12")
def resumed_by_steps(folder):
    first = network()
    optimizer = sgd(first, momentum=0.9)
    epoch_of(first, optimizer)
    epoch_of(first, optimizer)
    state = {"net": first.state_dict(), "opt": optimizer.state_dict(), "global_step": 12}
    torch.save(state, folder / "last.pt")
    loaded = torch.load(folder / "last.pt")
    model = network()
    model.load_state_dict(loaded["net"], strict=True)  # <- resumed-without-optimizer-state
    optimizer = sgd(model, momentum=0.9)
    step = loaded["global_step"]
    for x, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        step += 1
    return model, optimizer


@correct("resumed-without-optimizer-state", style="everything is loaded")
def resumed_with_everything(folder):
    checkpoint = torch.load(saved(folder))
    model = network()
    optimizer = adam(model)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    for _epoch in range(checkpoint["epoch"], 5):
        epoch_of(model, optimizer)
    return model, optimizer


@correct("resumed-without-optimizer-state", style="fine-tuning, counted from zero")
def fine_tuned_from_a_checkpoint(folder):
    checkpoint = torch.load(saved(folder))
    model = network()
    model.load_state_dict(checkpoint["model"])
    optimizer = adam(model, 1e-4)
    for _epoch in range(2):
        epoch_of(model, optimizer)
    return model, optimizer


@correct("resumed-without-optimizer-state", style="the best weights again, and a teacher")
def weights_for_a_teacher(folder):
    checkpoint = torch.load(saved(folder, 2))
    teacher, model = network(), network()
    teacher.load_state_dict(checkpoint["model"])
    optimizer = adam(model)
    for _epoch in range(2, 5):
        epoch_of(model, optimizer)
    model.load_state_dict(checkpoint["model"])
    return model, teacher, optimizer


@correct("resumed-without-optimizer-state", style="another optimizer goes on")
def another_optimizer_goes_on(folder):
    checkpoint = torch.load(saved(folder))
    model = network()
    model.load_state_dict(checkpoint["model"])
    optimizer = sgd(model)
    for _epoch in range(checkpoint["epoch"], 5):
        epoch_of(model, optimizer)
    return model, optimizer
