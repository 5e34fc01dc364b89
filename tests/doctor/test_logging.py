"""Writers, runs and print() under the doctor: whoever logs is seen, and what is logged or printed stays the same."""

import builtins
import gc
import io
import logging
import sys
import threading
import weakref
from types import ModuleType

import pytest
import tensorboardX
import torch
import torch.nn.functional as F
from case_parts import BATCHES, batches, network, sgd
from cure_parts import Cure, run, with_fix
from loop_doctor import LoopDoctor
from loop_doctor.watchers import device_reads
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from test_cases import parts, the_same
from torch.utils.tensorboard import SummaryWriter

KINDS = {"torch": SummaryWriter, "tensorboardX": lambda folder: tensorboardX.SummaryWriter(str(folder))}


def codes(doctor):
    return [finding.code for finding in doctor.findings]


def events(folder):
    """Everything that the event files hold, without the time."""
    return [
        (file.parent.name if file.parent != folder else "", event.step, [str(value) for value in event.summary.value])
        for file in sorted(folder.rglob("events.*"))
        for event in LegacyEventFileLoader(str(file)).Load()
    ]


def train(*, epochs=3, after=lambda loss, epoch, step: None):
    torch.manual_seed(0)
    model = network()
    optimizer = sgd(model)
    for epoch in range(epochs):
        for step, (x, y) in enumerate(batches()):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            after(loss, epoch, step)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_event_files_are_the_same_with_and_without_the_doctor(kind, tmp_path):
    def log(folder):
        writer = KINDS[kind](folder)
        train(after=lambda loss, epoch, step: writer.add_scalar("loss", loss, epoch))
        writer.add_scalars("both", {"a": 1, "b": torch.ones(1)}, 3.7)
        writer.add_scalar("none", 2.0)
        writer.add_histogram("some", torch.ones(3), 1)
        writer.close()

    log(tmp_path / "plain")
    with LoopDoctor() as doctor:
        log(tmp_path / "watched")
    assert codes(doctor) == ["repeated-global-step"]
    assert len(events(tmp_path / "plain")) > 20
    assert events(tmp_path / "plain") == events(tmp_path / "watched")


def test_a_library_that_is_imported_inside_the_block_is_watched(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboardX"]:
        monkeypatch.delitem(sys.modules, name)
    with LoopDoctor() as doctor:
        from tensorboardX import SummaryWriter as Writer

        wrapped = Writer.add_scalar
        writer = Writer(str(tmp_path))
        train(after=lambda loss, epoch, step: writer.add_scalar("loss", loss, epoch))
    assert codes(doctor) == ["writer-left-open", "repeated-global-step"]
    writer.close()
    assert Writer.add_scalar is wrapped.__wrapped__
    assert "exec_module" not in vars(sys.modules["tensorboardX"].__loader__)


def test_an_import_that_fails_inside_the_block_fails_as_always(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("raise ValueError('broken')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with LoopDoctor() as doctor:
        for _ in range(2):
            with pytest.raises(ValueError, match="broken"):
                import wandb  # noqa: F401
        train()
    assert doctor.findings == []


@pytest.mark.parametrize("name", ["tensorboardX", "wandb", "mlflow", "tqdm.std"])
def test_another_module_of_that_name_does_no_harm(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with LoopDoctor() as doctor:
        train()
    assert doctor.findings == []
    assert "not watched" not in str(doctor)


def test_what_is_remembered_of_steps_does_not_grow():
    class Writer(SummaryWriter):
        def _get_file_writer(self):
            return self

        def add_summary(self, *_):
            pass

    with LoopDoctor() as doctor:
        for number in range(3):
            writer = Writer("nowhere")
            writer.all_writers = {}
            for step in range(400):
                for tag in range(20):
                    writer.add_scalar(f"{number} {tag}", float(step % 7), step)
            writer.close()
    logs = doctor._record.step_logs
    assert len(logs) == 60
    assert {len(log._seen) for log in logs} == {64}
    assert doctor.findings == []


def test_a_writer_dies_when_the_user_lets_it_go(tmp_path):
    with LoopDoctor() as doctor:
        writer = SummaryWriter(tmp_path)
        writer.add_scalar("loss", 1.0, 0)
        writer.close()
        known = weakref.ref(writer)
        del writer
        gc.collect()
        assert known() is None
    assert doctor.findings == []


# What is printed.


def test_print_prints_the_same_and_reads_the_numbers(capsys):
    def run():
        totals = []

        def after(loss, epoch, step):
            totals.append(loss.item())
            print("loss:", loss.item(), {"step": step, "again": loss}, sep="|")
            if step + 1 == BATCHES:
                print(epoch, sum(totals[-BATCHES:]) / BATCHES, end=";\n")
                print("total", sum(totals), file=io.StringIO())

        train(after=after)

    run()
    plain = capsys.readouterr().out
    with LoopDoctor() as doctor:
        run()
    assert capsys.readouterr().out == plain
    meanings = {name.partition(":")[0]: meaning for name, meaning in doctor.curves.items()}
    assert meanings == {
        "loss, printed at test_logging.py": "this batch's loss",
        "again, printed at test_logging.py": "this batch's loss",
        "printed at test_logging.py": "the mean batch loss of this epoch (each batch counts the same)",
        "total, printed at test_logging.py": "the sum of every batch loss since training began",
    }
    assert codes(doctor) == ["loss-never-reset"]
    assert 'print("total", sum(totals)' in doctor.findings[0].where


def test_the_fix_for_a_printed_sum_prints(capsys):
    total = 0.0

    def after(loss, epoch, step):
        nonlocal total
        total = loss.item() + (total if step else 0.0)
        if step + 1 == BATCHES:
            print("loss", total)

    with LoopDoctor() as doctor:
        train(after=after)
    assert codes(doctor) == ["loss-not-averaged"]
    assert "print('loss', running_loss / num_batches)" in doctor.findings[0].fix


def test_texts_counters_and_numbers_that_are_no_losses_are_no_curves():
    def after(loss, epoch, step):
        print(f"{loss.item()}", epoch, step, True, None, 0.5 * step, float("nan"), torch.ones(2), object())
        print("meta", torch.ones((), device="meta"), 1j, torch.ones((), dtype=torch.complex64))

    with LoopDoctor() as doctor:
        train(after=after)
    assert doctor.curves == {}
    assert doctor.findings == []


def test_what_another_thread_prints_is_not_looked_at(capsys):
    def after(loss, epoch, step):
        thread = threading.Thread(target=print, args=("loss", loss.item()))
        thread.start()
        thread.join()

    with LoopDoctor() as doctor:
        train(after=after)
    assert capsys.readouterr().out.count("loss") == 3 * BATCHES
    assert doctor.curves == {}


def test_a_print_of_the_users_own_stays():
    plain = builtins.print
    try:
        with LoopDoctor():
            watched = builtins.print

            def quiet(*args, **kwargs):
                watched(*args, file=io.StringIO())

            builtins.print = quiet
        assert builtins.print is quiet
        print("still prints")
    finally:
        builtins.print = plain


def test_print_is_given_back_after_an_error():
    plain, handle = builtins.print, logging.Logger.handle
    doctor = LoopDoctor()
    with pytest.raises(ZeroDivisionError), doctor:
        1 / (builtins.print is plain)
    assert builtins.print is plain
    assert logging.Logger.handle is handle


def test_a_log_message_keeps_its_line_and_its_text():
    log, stream = logging.Logger("training"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(filename)s %(funcName)s %(message)s"))
    log.addHandler(handler)

    def after(loss, epoch, step):
        log.info("%d%% done, loss %8.3f, lr %s", step, loss.item(), 0.05)
        log.info("%(loss).3f", {"loss": loss.item()})

    with LoopDoctor() as doctor:
        train(epochs=1, after=after)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("test_logging.py after 0% done, loss ")
    assert len(lines) == 2 * BATCHES
    assert list(doctor.curves.values()) == ["this batch's loss"] * 2
    assert [name.partition(",")[0] for name in doctor.curves] == ["loss", "loss"]


# The fix for reads from an accelerator, for which the CPU has to play one.

READS = Cure(
    "waits-every-step",
    """
model = network()
optimizer = sgd(model)
running_loss = 0.0
for step, (x, y) in enumerate(batches() * 3):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    # cure
    running_loss += loss.item()
    # end
result = model, running_loss
""",
    """
model = network()
optimizer = sgd(model)
losses = []
for x, y in batches() * 3:
    optimizer.zero_grad()
    losses.append(F.cross_entropy(model(x), y))
    losses[-1].backward()
    optimizer.step()
    losses[-1] = losses[-1].detach()
total = losses[0] + 0.0
for loss in losses[1:]:
    total = total + loss
result = model, total
""",
)


def test_the_fix_for_reads_at_every_step_makes_the_loop_right(tmp_path, monkeypatch):
    monkeypatch.setattr(device_reads, "DEVICES_THAT_WAIT", ("cpu",))
    doctor, _ = run(READS.faulty, tmp_path / "faulty")
    assert codes(doctor) == ["waits-every-step"]
    doctor, cured = run(with_fix(READS, doctor.findings[0].fix), tmp_path / "cured")
    assert doctor.findings == [], str(doctor)
    doctor, right = run(READS.right, tmp_path / "right")
    assert doctor.findings == [], str(doctor)
    assert the_same(list(parts(cured)), list(parts(right)))
