"""What the doctor reports about logged values: every meaning, as Python numbers and 32-bit tensors, on any data."""

from collections import deque

import pytest
import torch
import torch.nn.functional as F
from case_parts import BATCH, BATCHES, ROWS, Classifier, batches, loader, network, rows, sgd
from correct_loops import penalty_added_in_place
from loop_doctor import LoopDoctor
from loop_doctor.meanings import UNKNOWN
from torch.utils.tensorboard import SummaryWriter

from course_utils.data import Batches

NUM_EPOCHS, VALID = 4, 40
BY_BATCHES, BY_SAMPLES = "(each batch counts the same)", "(each sample counts the same)"

# Each tag and what the doctor reports about it. The loop below logs them all.
MEANINGS = {
    "step": "this batch's loss",
    "last 5": f"the mean batch loss of the last 5 batches {BY_BATCHES}",
    "last 11, each 4 steps": f"the mean batch loss of the last 11 batches {BY_BATCHES}",
    "window of 4": f"the mean batch loss of the last 4 batches {BY_BATCHES}",
    "window sum": "the sum of the batch losses of the last 4 batches",
    "window / 8": "the sum of the batch losses of the last 4 batches, divided by 8: up to 2 times too small",
    "epoch": f"the mean batch loss of this epoch {BY_BATCHES}",
    "epoch so far": f"the mean batch loss of this epoch {BY_BATCHES}",
    "epoch by samples": f"the mean batch loss of this epoch {BY_SAMPLES}",
    "epoch sum": "the sum of the batch losses of this epoch",
    "epoch sum / samples": "the sum of the batch losses of this epoch, divided by the number of samples in one epoch "
    "(88): up to 14.7 times too small",
    "epoch weighted / batches": "the sum of the batch losses of this epoch, each times its batch size, divided by "
    "the number of batches: up to 14.7 times too large",
    "endless sum": "the sum of every batch loss since training began",
    "endless sum / batches": "the sum of every batch loss since training began, divided by the number of batches in "
    "one epoch (6): up to 4 times too large",
    "mean so far": f"the mean batch loss since training began {BY_BATCHES}",
    "mean so far by samples": f"the mean batch loss since training began {BY_SAMPLES}",
    "valid": f"the mean validation loss of this validation {BY_BATCHES}",
    "valid by samples": f"the mean validation loss of this validation {BY_SAMPLES}",
    "valid sum": "the sum of the validation losses of this validation",
    "valid / samples": "the sum of the validation losses of this validation, divided by the number of samples in one "
    "epoch (40): up to 13.3 times too small",
    "valid, last batch": "the validation loss of the last batch",
    "accuracy": UNKNOWN,
    "lr": UNKNOWN,
    "constant": UNKNOWN,
    "norm": UNKNOWN,
}
FOUND = {"loss-never-reset", "loss-not-averaged", "wrong-divisor"}

DATA = {
    "DataLoader": lambda: loader(shuffle=True),
    "Batches": lambda: Batches(*rows(), batch_size=BATCH),
    "list": batches,
    "generator": lambda: (batch for batch in batches()),
}
# What people add up: Python numbers, or tensors of 32 bits.
KINDS = {"number": lambda loss: loss.item(), "tensor": lambda loss: loss.detach().clone()}


def train(writer, make_data, value):
    """Train, and log under each tag what the table above describes."""
    model = Classifier(0.1)
    optimizer = sgd(model)
    zero = value(torch.zeros(()))
    last, long, window, total, seen, step = deque(maxlen=5), deque(maxlen=11), zero, zero, 0, 0
    total_by_samples = zero
    for epoch in range(NUM_EPOCHS):
        model.train()
        epoch_sum, weighted, count, samples = zero, zero, 0, 0
        for x, y in make_data():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            number = value(loss)
            step, count, samples, seen = step + 1, count + 1, samples + len(y), seen + len(y)
            last.append(number)
            long.append(number)
            epoch_sum, weighted = epoch_sum + number, weighted + number * len(y)
            window, total, total_by_samples = window + number, total + number, total_by_samples + number * len(y)
            writer.add_scalar("step", number, step)
            writer.add_scalar("last 5", sum(last) / len(last), step)
            writer.add_scalar("epoch so far", epoch_sum / count, step)
            writer.add_scalar("mean so far", total / step, step)
            writer.add_scalar("norm", norm, step)
            if step % 4 == 0:
                writer.add_scalar("window of 4", window / 4, step)
                writer.add_scalar("window sum", window, step)
                writer.add_scalar("window / 8", window / 8, step)
                writer.add_scalar("last 11, each 4 steps", sum(long) / len(long), step)
                window = zero
        writer.add_scalar("epoch", epoch_sum / count, epoch)
        writer.add_scalar("epoch by samples", weighted / samples, epoch)
        writer.add_scalar("epoch sum", epoch_sum, epoch)
        writer.add_scalar("epoch sum / samples", epoch_sum / ROWS, epoch)
        writer.add_scalar("epoch weighted / batches", weighted / count, epoch)
        writer.add_scalar("endless sum", total, epoch)
        writer.add_scalar("endless sum / batches", total / BATCHES, epoch)
        writer.add_scalar("mean so far by samples", total_by_samples / seen, epoch)
        writer.add_scalar("lr", optimizer.param_groups[0]["lr"], epoch)
        writer.add_scalar("constant", 1.0, epoch)
        model.eval()
        valid_sum, valid_weighted, count, right = zero, zero, 0, 0
        with torch.no_grad():
            for x, y in batches(VALID):
                logits = model(x)
                loss = F.cross_entropy(logits, y)
                number = value(loss)
                valid_sum, valid_weighted, count = valid_sum + number, valid_weighted + number * len(y), count + 1
                right += int((logits.argmax(1) == y).sum())
        writer.add_scalar("valid", valid_sum / count, epoch)
        writer.add_scalar("valid by samples", valid_weighted / VALID, epoch)
        writer.add_scalar("valid sum", valid_sum, epoch)
        writer.add_scalar("valid / samples", valid_sum / VALID, epoch)
        writer.add_scalar("valid, last batch", number, epoch)
        writer.add_scalar("accuracy", right / VALID, epoch)


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    """Return what the doctor reported, for each kind of data and of number."""
    said = {}

    def look(data, kind):
        if (data, kind) not in said:
            torch.manual_seed(0)
            with LoopDoctor() as doctor, SummaryWriter(tmp_path_factory.mktemp("curves")) as writer:
                train(writer, DATA[data], KINDS[kind])
            said[data, kind] = doctor.curves, {finding.code for finding in doctor.findings}
        return said[data, kind]

    return look


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", DATA)
def test_each_number_is_reported_for_what_it_is(curves, data, kind):
    said, codes = curves(data, kind)
    assert {tag: said[tag] for tag in MEANINGS} == MEANINGS
    assert said.keys() == MEANINGS.keys()
    assert codes == FOUND


# Losses that are sums over their batch.
SUMMED = {
    "step": "this batch's loss",
    "step by samples": "this batch's loss, divided by its samples",
    "epoch by samples": f"the mean batch loss of this epoch {BY_SAMPLES}",
    "epoch / 88": f"the mean batch loss of this epoch {BY_SAMPLES}",
    "epoch sum": "the sum of the batch losses of this epoch",
    "epoch by batches": f"the mean batch loss of this epoch {BY_BATCHES}",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", DATA)
def test_a_summed_loss_is_divided_by_samples_to_be_a_mean(data, kind, tmp_path):
    model, value = network(), KINDS[kind]
    optimizer = sgd(model, 0.005)
    with LoopDoctor() as doctor, SummaryWriter(tmp_path) as writer:
        step = 0
        for epoch in range(4):
            total, samples, count = value(torch.zeros(())), 0, 0
            for x, y in DATA[data]():
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y, reduction="sum")
                loss.backward()
                optimizer.step()
                total, samples, count, step = total + value(loss), samples + len(y), count + 1, step + 1
                writer.add_scalar("step", value(loss), step)
                writer.add_scalar("step by samples", value(loss) / len(y), step)
            writer.add_scalar("epoch by samples", total / samples, epoch)
            writer.add_scalar("epoch / 88", total / ROWS, epoch)
            writer.add_scalar("epoch sum", total, epoch)
            writer.add_scalar("epoch by batches", total / count, epoch)
    assert doctor.curves == SUMMED


def test_a_loss_that_no_function_of_torch_made_is_known_from_its_backward_call(tmp_path):
    model = network()
    optimizer = sgd(model)
    total = 0.0
    with LoopDoctor() as doctor, SummaryWriter(tmp_path) as writer:
        for epoch in range(3):
            for x, y in loader():
                target = torch.nn.functional.one_hot(y, 3).float()
                loss = (model(x) - target).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            writer.add_scalar("loss", total / BATCHES, epoch)
    assert doctor.curves == {
        "loss": "the sum of every batch loss since training began, divided by the number of batches in one epoch (6): "
        "up to 3 times too large"
    }


def test_the_parts_of_add_scalars_have_the_names_that_the_board_shows(tmp_path):
    model = network()
    optimizer = sgd(model)
    with LoopDoctor() as doctor, SummaryWriter(tmp_path) as writer:
        for step, (x, y) in enumerate(batches()):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            writer.add_scalars("loss", {"train": loss, "noise": torch.rand(())}, step)
    assert doctor.curves == {"loss/train": "this batch's loss", "loss/noise": UNKNOWN}


@pytest.mark.parametrize(
    ("scale", "meaning"),
    [
        (1 / 4, f"the mean batch loss of the last 4 batches {BY_BATCHES}"),
        (1 / 3, "the sum of the batch losses of the last 4 batches"),
    ],
)
def test_micro_batches_are_known_before_and_after_their_scaling(scale, meaning, tmp_path):
    model = network()
    optimizer = sgd(model)
    with LoopDoctor() as doctor, SummaryWriter(tmp_path) as writer:
        total = before = 0.0
        for i, (x, y) in enumerate(batches() * 4, 1):
            loss = F.cross_entropy(model(x), y)
            before += loss.item()
            loss = loss * scale
            loss.backward()
            total += loss.item()
            if i % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()
                writer.add_scalar("mean", before / 4, i)
                writer.add_scalar("scaled", total, i)
                total = before = 0.0
    assert doctor.curves == {"mean": f"the mean batch loss of the last 4 batches {BY_BATCHES}", "scaled": meaning}


def test_a_loss_that_is_changed_in_place_is_read_again(tmp_path):
    with LoopDoctor() as doctor:
        penalty_added_in_place(tmp_path)
    assert doctor.curves == {"loss": f"the mean batch loss of the last 5 batches {BY_BATCHES}"}
