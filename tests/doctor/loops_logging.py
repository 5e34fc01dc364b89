"""Loops that log: the step at which each value is logged, and who logs it."""

import copy

import tensorboardX
import torch
import torch.nn.functional as F
from case_parts import *  # noqa: F403
from case_parts import BATCHES, Classifier, accuracy, adam, batches, correct, faulty, loader, network, sgd, stream
from torch.utils.tensorboard import SummaryWriter

# repeated-global-step


@faulty(
    "repeated-global-step",
    style="the epoch as the step, in the loop over batches",
    evidence=("`loss/train` received 6 different values at step 0", "Of the 18 values"),
)
def epoch_as_step(folder):
    model = network()
    optimizer = sgd(model)
    writer = SummaryWriter(folder)
    for epoch in range(3):
        for x, y in loader():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            writer.add_scalar("loss/train", loss.item(), epoch)  # <- repeated-global-step
    writer.close()
    return model, optimizer


@faulty("repeated-global-step", style="no step, class", evidence="`train/loss` was logged 12 times without a step")
def no_step_at_all(folder):
    class Trainer:
        def __init__(self):
            self.model = Classifier()
            self.optimizer = adam(self.model)

        def update(self, x, y, board):
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            board.add_scalar("train/loss", loss)  # <- repeated-global-step

    trainer = Trainer()
    with SummaryWriter(folder) as board:
        for x, y in batches() * 2:
            trainer.update(x, y, board)
    return trainer.model, trainer.optimizer


@faulty("repeated-global-step", style="tensorboardX, a counter that starts again in each epoch, functions")
def counter_starts_again(folder):
    model = network()
    optimizer = adam(model)

    def train_one_epoch(writer):
        for i, (x, y) in enumerate(batches()):
            loss = F.cross_entropy(model(x), y)
            model.zero_grad()
            loss.backward()
            optimizer.step()
            writer.add_scalar(tag="loss", scalar_value=loss.item(), global_step=i)  # <- repeated-global-step

    with tensorboardX.SummaryWriter(str(folder)) as writer:
        for _ in range(3):
            train_one_epoch(writer)
    return model, optimizer


@faulty("repeated-global-step", style="tensorboardX, each batch of the validation at the step of its epoch")
def each_validation_batch(folder):
    model = network()
    optimizer = sgd(model)
    board = tensorboardX.SummaryWriter(logdir=str(folder))
    for epoch in range(3):
        model.train()
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for x, y in batches(64, 16):
                board.add_scalar("valid/loss", F.cross_entropy(model(x), y), epoch)  # <- repeated-global-step
        board.flush()
    board.close()
    return model, optimizer


@faulty("repeated-global-step", style="a fraction of the epoch as the step, several curves, while loop")
def fraction_as_step(folder):
    model, data, done = network(), stream(), 0
    optimizer = sgd(model)
    with SummaryWriter(folder) as writer:
        while done < 3 * BATCHES:
            x, y = next(data)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            values = {"loss": loss.detach(), "half": loss.detach() / 2}
            writer.add_scalars("train", values, done / BATCHES)  # <- repeated-global-step
            done += 1
    return model, optimizer


@correct("repeated-global-step", "writer-left-open", style="one tag and the same steps in two folders")
def one_tag_in_two_folders(folder):
    model = network()
    optimizer = sgd(model)
    boards = {phase: SummaryWriter(folder / phase) for phase in ("train", "valid", "test")}
    for epoch in range(4):
        for phase, board in boards.items():
            model.train(phase == "train")
            total = 0.0
            with torch.set_grad_enabled(phase == "train"):
                for x, y in batches():
                    loss = F.cross_entropy(model(x), y)
                    if phase == "train":
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
                    total += loss.item()
            board.add_scalar("loss", total / BATCHES, epoch)
    for board in boards.values():
        board.close()
    return model, optimizer


@correct("repeated-global-step", style="a run that goes back to a checkpoint, and logs some steps again")
def resumed_from_a_checkpoint(folder):
    model = network(torch.nn.Dropout(0.2))
    optimizer = sgd(model)
    data, saved, writer = stream(), None, SummaryWriter(folder)

    def steps(first, last):
        nonlocal saved
        for step in range(first, last):
            x, y = next(data)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            writer.add_scalar("loss", loss.item(), step)
            if step == 5:
                saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))

    steps(0, 11)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    steps(6, 18)
    writer.close()
    writer = tensorboardX.SummaryWriter(str(folder), purge_step=6)
    for _ in range(3):
        steps(6, 8)
        writer.close()
        writer = tensorboardX.SummaryWriter(str(folder), purge_step=6)
    writer.close()
    return model, optimizer


@correct("repeated-global-step", style="what belongs to one moment, and final numbers without a step")
def several_numbers_of_one_moment(folder):
    model = Classifier(0.1)
    optimizer = torch.optim.SGD(
        [{"params": model.base.parameters(), "lr": 0.01}, {"params": model.head.parameters(), "lr": 0.1}]
    )
    with SummaryWriter(folder / "run") as writer:
        for epoch in range(4):
            for x, y in loader():
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                writer.add_scalar("classes", 3, epoch)
            for group in optimizer.param_groups * 2:
                writer.add_scalar("lr", group["lr"], epoch)
            for game in range(5):
                writer.add_scalar("return", float(game * epoch), epoch)
            writer.add_scalars("loss", {"now": loss.detach(), "twice": 2 * loss.detach()}, epoch)
            writer.add_histogram("bias", model.head.bias, 0)
    for number in range(3):
        with SummaryWriter(folder / str(number)) as writer:
            x, y = batches()[number]
            writer.add_scalar("final", accuracy(model(x), y))
            writer.add_hparams({"lr": 0.1}, {"score": number}, run_name="hparams")
    return model, optimizer


@correct("repeated-global-step", "writer-closed-early", style="tensorboardX, a counter over all epochs")
def counter_over_all_epochs(folder):
    model = network()
    optimizer = adam(model)
    with tensorboardX.SummaryWriter(str(folder)) as writer:
        for epoch in range(3):
            for i, (x, y) in enumerate(batches()):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                writer.add_scalar("loss", loss.item(), torch.tensor(epoch * BATCHES + i))
            writer.add_scalar("epoch/loss", loss.item(), epoch)
    return model, optimizer


# The writer of tensorboardX, in the other mistakes.


@faulty("writer-left-open", style="tensorboardX, never closed", evidence="6 records")
def tensorboardx_never_closed(folder):
    model = network()
    optimizer = sgd(model)
    writer = tensorboardX.SummaryWriter(str(folder))  # <- writer-left-open
    for step, (x, y) in enumerate(batches()):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        writer.add_scalar("loss", loss.item(), step)
    return model, optimizer


@faulty("writer-closed-early", style="tensorboardX, closed after each value")
def tensorboardx_closed_each_time(folder):
    model = network()
    optimizer = sgd(model)
    writer = tensorboardX.SummaryWriter(str(folder))
    for step, (x, y) in enumerate(batches()):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        writer.add_scalar("loss", loss.item(), step)
        writer.close()  # <- writer-closed-early
    return model, optimizer


# What is only printed.


@faulty("loss-not-averaged", style="a sum that is printed", evidence="`sum, printed at loops_logging.py:")
def printed_sum(folder):
    model = network()
    optimizer = sgd(model)
    for epoch in range(3):
        total = 0.0
        for x, y in loader():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(epoch, "sum:", total)  # <- loss-not-averaged
    return model, optimizer


@faulty("loss-never-reset", style="a sum in a message of the module logging")
def sum_in_a_log_message(folder):
    import logging

    log = logging.Logger("training")
    log.addHandler(logging.NullHandler())
    model = network()
    optimizer = sgd(model)
    running = 0.0
    for epoch in range(4):
        for x, y in loader():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            running += loss.item()
        log.info("epoch %d, loss %.4f", epoch, running)  # <- loss-never-reset
    return model, optimizer


@faulty("wrong-divisor", style="a postfix of tqdm, a tensor")
def postfix_of_tqdm(folder):
    import io

    from tqdm import tqdm

    model = network()
    optimizer = adam(model)
    epochs = tqdm(range(3), file=io.StringIO())
    for _ in epochs:
        total = torch.zeros((), dtype=torch.float64)
        for x, y in batches():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        epochs.set_postfix(loss=total / 88)  # <- wrong-divisor
    return model, optimizer


@correct("loss-not-averaged", "loss-never-reset", "wrong-divisor", style="means, texts and other numbers are printed")
def other_prints(folder):
    import logging
    import time

    from tqdm import tqdm

    log = logging.Logger("training")
    log.addHandler(logging.NullHandler())
    model = network()
    optimizer = sgd(model)
    start, whole = time.time(), 0.0
    bar = tqdm(total=3, disable=True)
    for epoch in range(3):
        total, right = 0.0, 0
        for x, y in loader():
            optimizer.zero_grad()
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
            whole += loss.item()
            right += (logits.argmax(1) == y).sum()
            print("step", loss, {"lr": 0.05, "right": right})
        print(f"{total} {whole}", str(total), [total, whole])
        print("epoch", epoch, "loss", total / 88, "time", time.time() - start)
        log.info("loss %s, accuracy %.2f%%", total / 88, 100 * right / 88)
        log.warning("nothing to add")
        bar.set_postfix({"loss": total / 88}, right=right)
        bar.set_postfix_str(f"{total}")
    bar.close()
    return model, optimizer
