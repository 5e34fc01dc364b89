"""Checkpoints: whole or not there at all, and a resumed run that ends as one that was never broken off."""

import contextlib
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from course_utils.data import Batches
from course_utils.training import NonFiniteError, RunCompleteError, Trainer, checkpoint, reading, recorder


def rows(count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    return x, torch.randint(3, (count,), generator=generator)


def batches(count=40, batch_size=4, **options):
    return Batches(*rows(count), batch_size=batch_size, **options)


def make(run_dir=None, *, lr=0.05, width=8, optimizer=torch.optim.Adam, scheduled=True, label_smoothing=0.0, **options):
    torch.manual_seed(0), random.seed(0), numpy.random.seed(0)
    model = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 3))
    optimizer = optimizer(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=200) if scheduled else None
    if options.pop("epochs", False):
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    options = {"log_every": 4, "progress": False, "device": "cpu"} | options
    loss_fn = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    return Trainer(model, optimizer, loss_fn, scheduler=scheduler, run_dir=run_dir, **options)


def stop_at(trainer, step):
    """Stop a run at the first window or epoch end from this step on."""
    trainer.progress = lambda now, num_steps, history: trainer.stop() if now >= step else None


def scramble():
    """Draw random numbers everywhere, as whatever ran in between would."""
    torch.rand(17), random.random(), numpy.random.rand(3)


def everything(trainer):
    """All that training changes, for an exact comparison."""
    optimizer = trainer.optimizer.state_dict()
    state = {f"{key} {name}": value for key, each in optimizer["state"].items() for name, value in each.items()}
    tensors = dict(trainer.model.state_dict()) | state
    counts = (trainer.step, trainer.epoch, trainer.position, trainer.history, optimizer["param_groups"])
    return tensors, counts


def assert_same_end(one, other):
    (tensors, counts), (others, other_counts) = everything(one), everything(other)
    assert tensors.keys() == others.keys()
    assert [name for name, value in tensors.items() if not torch.equal(value, others[name])] == []
    assert counts == other_counts


def test_an_interrupt_that_the_data_raises_saves_the_last_whole_step(tmp_path):
    class Interrupted(list):
        def __iter__(self):
            yield from list(batches())[:7]
            raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match=r"cannot repeat the order of the data exactly: Interrupted may keep"):
        history = make(tmp_path).fit(Interrupted(list(batches())), num_epochs=2)
    assert history.interrupted
    assert [step for step, _ in history.step_loss] == [4]
    state = checkpoint.load(tmp_path)
    assert (state["step"], state["position"]) == (7, 7)


# A checkpoint that an earlier edition of this code wrote, after step 7 of 10.
EARLIER = Path(__file__).with_name("checkpoint_of_format_1.pt")
# The weights and the bias after step 10. Every number on the way is a sum of few powers of two, so no processor rounds.
EARLIER_END = ["0x1.8eb42df000000p-3", "0x1.d597f45800000p-2", "-0x1.f7bd747800000p-2", "0x1.383898f000000p-3"]


def make_exact(run_dir=None):
    """The run of the earlier checkpoint: linear regression on small integers, at rates that are powers of two."""
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(-1, 2, (20, 3), generator=generator).double()
    y = torch.randint(-4, 5, (20, 1), generator=generator).double()
    loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
    model = nn.Linear(3, 1, dtype=torch.float64)
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 6, gamma=0.5)
    options = {"log_every": 1, "progress": False, "device": "cpu"}
    return Trainer(model, optimizer, nn.MSELoss(), scheduler=scheduler, run_dir=run_dir, **options), loader


def test_a_checkpoint_of_an_earlier_edition_goes_on_to_the_last_bit(tmp_path):
    whole, loader = make_exact()
    history = whole.fit(loader, num_epochs=2)
    shutil.copy(EARLIER, tmp_path / "checkpoint.pt")
    resumed, loader = make_exact(tmp_path)
    scramble()
    assert resumed.fit(loader, num_epochs=2, resume=True) == history
    assert [rate for _, rate in history.lr] == [0.25] * 6 + [0.125] * 4
    assert_same_end(resumed, whole)
    weights = torch.cat([weight.detach().flatten() for weight in resumed.model.parameters()])
    assert [weight.hex() for weight in weights.tolist()] == EARLIER_END
    assert torch.load(EARLIER, weights_only=True)["made_with"].items() <= checkpoint.load(tmp_path)["made_with"].items()


# The state of a trainer.


def test_a_state_moves_a_run_into_another_trainer():
    one, other = make(track_grad_norm=True), make(track_grad_norm=True)
    one.fit(batches(), batches(), num_epochs=2)
    scramble()
    other.load_state_dict(one.state_dict())
    assert_same_end(other, one)
    assert other.scheduler.state_dict() == one.scheduler.state_dict()
    assert other.recorder.state_dict() == one.recorder.state_dict()
    assert other.made_with == one.made_with


def test_a_state_from_a_run_folder_fits_a_trainer_that_has_seen_no_data(tmp_path):
    one = make(tmp_path)
    one.fit(batches(), num_epochs=1)
    other = make()
    other.load_state_dict(checkpoint.load(tmp_path))
    assert_same_end(other, one)


def another_width():
    return make(width=9).state_dict()


def another_rate():
    return make(lr=0.1).state_dict()


def other_groups():
    other = make()
    other.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    return other.state_dict()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (another_width, r"of another model: 0\.weight has shape"),
        (another_rate, r"lr was 0\.1, is 0\.05"),
        (other_groups, "different number of parameter groups"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(other, message):
    each = make()
    each.fit(batches(), num_epochs=1)
    tensors, counts = everything(each)
    tensors = {name: value.clone() for name, value in tensors.items()}
    with pytest.raises(ValueError, match=message):
        each.load_state_dict(other())
    after, after_counts = everything(each)
    assert after_counts == counts
    assert all(torch.equal(value, after[name]) for name, value in tensors.items())


# The files.


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_a_run_goes_on_from_the_file_before_a_damaged_one(tmp_path):
    first = make(tmp_path)
    stop_at(first, 20)
    first.fit(batches(), num_epochs=4)
    truncate(tmp_path / "checkpoint.pt")
    second = make(tmp_path)
    with pytest.warns(RuntimeWarning, match=r"continuing from the previous one"):
        second.fit(batches(), num_epochs=4, resume=True)
    whole = make()
    whole.fit(batches(), num_epochs=4)
    assert_same_end(second, whole)
    assert checkpoint.load(tmp_path)["epoch"] == 4


@contextlib.contextmanager
def small_disk(folder):
    """A disk of 300 kB; where none can be mounted, a limit on the size of a file, which fails with an OSError too."""
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mount.returncode == 0:
        try:
            yield
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(os.name == "nt", reason="neither mount nor limits on files")
def test_a_full_disk_is_told_and_the_run_goes_on(tmp_path):
    with small_disk(tmp_path / "disk"):
        folder = tmp_path / "disk" / "run"
        small = make(folder, width=8)
        stop_at(small, 10)
        small.fit(batches(), num_epochs=3)
        kept = (folder / "checkpoint.pt").read_bytes()
        # A state of some 400 kB has no room on this disk.
        big = {"step": 11, "x": torch.zeros(100_000)}
        keeper = checkpoint.Checkpoints(folder)
        with pytest.warns(RuntimeWarning, match=r"checkpoint of step 11 could not be written .*(No space|too large)"):
            keeper.save(big)
        assert (folder / "checkpoint.pt").read_bytes() == kept
        assert not (folder / "checkpoint.pt.tmp").exists()
        on_big = make(tmp_path / "disk" / "other", width=8000, scheduled=False)
        with pytest.warns(RuntimeWarning, match=r"training continues, and the previous checkpoint is kept"):
            history = on_big.fit(batches(), num_epochs=2)
        assert [step for step, _ in history.epoch_loss] == [10, 20]


@pytest.mark.parametrize(("every", "expected"), [(1, [10, 20, 30, 40, 50]), (2, [20, 40, 50])])
def test_a_checkpoint_is_written_every_so_many_epochs_and_at_the_end(tmp_path, monkeypatch, every, expected):
    monkeypatch.setattr(checkpoint, "WAIT_FACTOR", 0)
    saved = []
    inner = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda state, *a, **k: saved.append(state["step"]) or inner(state, *a, **k))
    make(tmp_path, checkpoint_every=every).fit(batches(), num_epochs=5)
    assert saved == expected
    assert reading.read_checkpoint(tmp_path / "checkpoint.previous.pt")["step"] == expected[-2]


# Exact resume.


class Noisy(Dataset):
    """Rows with noise from each source of random numbers."""

    def __init__(self):
        self.x, self.y = rows()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        noise = random.random() + float(numpy.random.rand()) + torch.rand(()).item()
        return self.x[index] + 0.1 * noise, self.y[index]


def from_batches():
    return batches(seed=3), batches(shuffle=False)


def from_a_loader():
    loader = DataLoader(TensorDataset(*rows()), batch_size=4, shuffle=True)
    return loader, DataLoader(TensorDataset(*rows()), batch_size=16)


def from_a_loader_with_its_own_generator():
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(*rows()), batch_size=4, shuffle=True, generator=generator)
    return loader, DataLoader(TensorDataset(*rows()), batch_size=16, shuffle=True, generator=generator)


def from_noisy_rows():
    return DataLoader(Noisy(), batch_size=4, shuffle=True), None


def from_a_list():
    x, y = rows()
    return list(zip(x.split(4), y.split(4), strict=True)), None


SOURCES = [from_batches, from_a_loader, from_a_loader_with_its_own_generator, from_noisy_rows, from_a_list]


# 10 batches an epoch: within the first, at an epoch's end, within a window, within the last. Each source and each step
# once, and every pair of them as a proof.
STOPS = [4, 10, 12, 24, 34]
BREAKS = [
    pytest.param(source, step, marks=[] if step == STOPS[index] else pytest.mark.proof)
    for index, source in enumerate(SOURCES)
    for step in STOPS
]


@pytest.mark.parametrize(("source", "step"), BREAKS)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, source, step):
    whole = make(tmp_path / "whole")
    whole.fit(*source(), num_epochs=4)
    first = make(tmp_path / "run")
    stop_at(first, step)
    first.fit(*source(), num_epochs=4)
    assert step <= first.step < 40
    scramble()
    second = make(tmp_path / "run")
    scramble()
    second.fit(*source(), num_epochs=4, resume=True)
    assert_same_end(second, whole)


def test_many_stops_and_accumulated_micro_batches_end_the_same(tmp_path):
    options = {"accumulation_steps": 3, "max_grad_norm": 0.5, "track_grad_norm": True, "precision": "bf16"}
    whole = make(**options)
    whole.fit(*from_batches(), num_epochs=5)
    assert whole.step == 20
    # The run without a folder drew the same random numbers.
    for stop in range(4, 20, 4):
        each = make(tmp_path, **options)
        stop_at(each, stop)
        each.fit(*from_batches(), num_epochs=5, resume=True)
        scramble()
    last = make(tmp_path, **options)
    last.fit(*from_batches(), num_epochs=5, resume=True)
    assert_same_end(last, whole)


class Ticks:
    """A clock that moves on by a second each time that it is asked."""

    now = 0.0

    def perf_counter(self):
        self.now += 1.0
        return self.now


def test_samples_per_second_count_from_the_resume(tmp_path, monkeypatch):
    first = make(tmp_path)
    first.model.register_forward_hook(lambda *_: first.stop() if first.step == 5 else None)
    first.fit(batches(), num_epochs=2)
    assert first.step == 6
    monkeypatch.setattr(recorder, "time", Ticks())
    history = make(tmp_path).fit(batches(), num_epochs=1, resume=True)
    # The window of steps 5 to 8 was half done: 2 batches of 4 rows in the one second since the resume.
    assert history.samples_per_second[1] == (8, 8.0)


def test_a_longer_run_goes_on_where_the_shorter_one_ended(tmp_path):
    whole = make()
    whole.fit(*from_a_loader(), num_epochs=5)
    make(tmp_path).fit(*from_a_loader(), num_epochs=2)
    scramble()
    longer = make(tmp_path)
    longer.fit(*from_a_loader(), num_epochs=5, resume=True)
    assert_same_end(longer, whole)


@pytest.mark.parametrize("source", [from_a_loader, from_a_loader_with_its_own_generator])
def test_a_stop_during_validation_is_made_up_for(tmp_path, source):
    whole = make()
    whole.fit(*source(), num_epochs=3)
    first = make(tmp_path)

    def stop_in_validation(module, args, output):
        if not module.training and first.step == 20:
            first.stop()

    handle = first.model.register_forward_hook(stop_in_validation)
    history = first.fit(*source(), num_epochs=3)
    handle.remove()
    assert (first.step, first.epoch, first.position) == (20, 1, 10)
    assert [step for step, _ in history.valid_loss] == [10]
    scramble()
    second = make(tmp_path)
    second.fit(*source(), num_epochs=3, resume=True)
    assert_same_end(second, whole)


def test_a_data_loader_of_several_processes_is_resumed(tmp_path):
    def loader():
        return DataLoader(TensorDataset(*rows()), batch_size=4, shuffle=True, num_workers=1)

    whole = make()
    whole.fit(loader(), num_epochs=2)
    first = make(tmp_path)
    stop_at(first, 12)
    first.fit(loader(), num_epochs=2)
    scramble()
    second = make(tmp_path)
    second.fit(loader(), num_epochs=2, resume=True)
    assert_same_end(second, whole)


def test_resume_begins_where_no_checkpoint_is_yet(tmp_path):
    whole, resumed = make(), make(tmp_path / "new")
    whole.fit(batches(), num_epochs=1)
    torch.manual_seed(0)
    resumed = make(tmp_path / "new")
    resumed.fit(batches(), num_epochs=1, resume=True)
    assert_same_end(resumed, whole)


# What is refused.


def test_a_run_that_has_its_epochs_is_complete(tmp_path):
    make(tmp_path).fit(batches(), num_epochs=2)
    for asked in (2, 1):
        with pytest.raises(RunCompleteError, match=rf"already has 2 epochs and num_epochs={asked} asks for no more"):
            make(tmp_path).fit(batches(), num_epochs=asked, resume=True)


def test_an_epoch_that_was_begun_keeps_its_length(tmp_path):
    first = make(tmp_path, scheduled=False)
    stop_at(first, 8)
    first.fit(batches(), num_epochs=2)
    assert first.position > 0
    with pytest.raises(ValueError, match=r"stopped within an epoch of 10 steps, which would now have 5: end the epoch"):
        make(tmp_path, scheduled=False).fit(batches(), num_epochs=2, steps_per_epoch=5, resume=True)


def test_a_schedule_per_epoch_goes_on_from_the_end_of_an_epoch_without_a_warning(tmp_path):
    def run(folder, stop):
        each = make(folder, scheduled=False, scheduler_every="epoch", epochs=True)
        if stop:
            each.model.register_forward_hook(
                lambda module, *_: each.stop() if each.step == 10 and not module.training else None
            )
        each.fit(batches(), batches(shuffle=False), num_epochs=2, resume=folder is not None)
        return each

    whole = run(None, stop=False)
    first = run(tmp_path, stop=True)
    assert (first.epoch, first.epoch_trained) == (0, True)
    assert_same_end(run(tmp_path, stop=False), whole)


def test_a_checkpoint_of_another_model_is_refused_with_the_keys(tmp_path):
    make(tmp_path, width=8).fit(batches(), num_epochs=1)
    with pytest.raises(
        ValueError, match=r"of another model: 0\.weight has shape \(8, 6\) in the checkpoint, \(9, 6\) h"
    ):
        make(tmp_path, width=9).fit(batches(), num_epochs=2, resume=True)
    other = make(tmp_path)
    other.model.append(nn.Linear(3, 3))
    other.model[0] = nn.Identity()
    with pytest.raises(
        ValueError, match=r"missing here 0\.weight; missing here 0\.bias; missing in the checkpoint 4\.w"
    ):
        other.fit(batches(), num_epochs=2, resume=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optimizer": torch.optim.AdamW}, r"optimizer was 'Adam', is 'AdamW'"),
        ({"lr": 0.1}, r"lr was 0\.05, is 0\.1"),
        ({"scheduled": False}, r"scheduler was 'OneCycleLR', is None"),
        ({"accumulation_steps": 2}, r"accumulation_steps was 1, is 2"),
        ({"precision": "bf16"}, r"precision was 'fp32', is 'bf16'"),
        ({"label_smoothing": 0.1}, r"loss_settings was .*label_smoothing=0\.0\", is .*label_smoothing=0\.1\""),
    ],
)
def test_other_settings_are_refused_with_their_names(tmp_path, changed, message):
    make(tmp_path).fit(batches(), num_epochs=1)
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **changed).fit(batches(), num_epochs=2, resume=True)


def other_values():
    x, y = rows()
    return TensorDataset(x.clone().index_put((torch.tensor(3), torch.tensor(2)), torch.tensor(9.0)), y)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda: batches(60), r"train_batches was 10, is 15; .*train_rows was 40, is 60"),
        (lambda: batches(20), r"train_batches was 10, is 5; .*train_rows was 40, is 20"),
        (lambda: Batches(*other_values().tensors, batch_size=4), r"data: train_checksum was \d+, is \d+"),
        (lambda: batches(seed=1), r"order_seed was 0, is 1"),
        (lambda: DataLoader(TensorDataset(*rows()), batch_size=4), r"sampler was None, is 'SequentialSampler'"),
    ],
)
def test_other_data_is_refused(tmp_path, loader, message):
    make(tmp_path).fit(batches(), num_epochs=1)
    with pytest.raises(ValueError, match=message):
        make(tmp_path).fit(loader(), num_epochs=2, resume=True)


def test_a_folder_with_another_run_is_refused(tmp_path):
    make(tmp_path).fit(batches(), num_epochs=1)
    with pytest.raises(ValueError, match=r"holds another run: continue it \(resume=True, --resume\)"):
        make(tmp_path).fit(batches(), num_epochs=2)
    for path in tmp_path.glob("checkpoint*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"holds another run"):
        make(tmp_path).fit(batches(), num_epochs=2)


def test_a_folder_that_is_none_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(NotADirectoryError, match=r"file' is a file: give the name of a folder"):
        make(file).fit(batches(), num_epochs=1)
    with pytest.raises(OSError, match=r"file/run' cannot be written to .*: choose another folder"):
        make(file / "run").fit(batches(), num_epochs=1)
    if sys.platform == "linux":
        with pytest.raises(OSError, match=r"run_dir '/proc/.*' cannot be written to"):
            make("/proc/run").fit(batches(), num_epochs=1)
    with pytest.raises(ValueError, match=r"resume=True needs run_dir"):
        make().fit(batches(), num_epochs=1, resume=True)


def test_a_state_that_no_checkpoint_can_hold_is_refused_before_the_first_step(tmp_path):
    each = make(tmp_path, scheduled=False)
    each.optimizer.param_groups[0]["hook"] = print
    with pytest.raises(TypeError, match=r"\['param_groups'\]\['hook'\] is a builtin.*which a checkpoint cannot hold"):
        each.fit(batches(), num_epochs=1)
    assert each.step == 0


# What is not finite is never saved.


def test_the_last_good_checkpoint_stays_after_a_loss_that_is_not_finite(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WAIT_FACTOR", 0)

    def poison(step, num_steps, history):
        if len(history.epoch_loss) == 2:
            with torch.no_grad():
                each.model[0].weight.fill_(float("nan"))

    each = make(tmp_path, progress=poison)
    with pytest.raises(NonFiniteError, match=r"loss of step 21 is nan"):
        each.fit(batches(), num_epochs=5)
    state = checkpoint.load(tmp_path)
    assert (state["step"], state["epoch"]) == (20, 2)
    assert all(value.isfinite().all() for value in state["model"].values())


def test_weights_that_are_not_finite_are_not_saved_though_the_loss_was(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WAIT_FACTOR", 0)

    def explode(step, num_steps, history):
        if step == 10:
            each.optimizer.param_groups[0]["lr"] = float("inf")

    # One batch an epoch: the step that breaks the weights is the epoch's last, and its loss was fine.
    data = [rows(8)]
    each = make(tmp_path, optimizer=torch.optim.SGD, scheduled=False, progress=explode)
    with pytest.raises(NonFiniteError, match=r"weights are not finite after step 11 at lr inf, though its loss was"):
        each.fit(data, num_epochs=20)
    assert checkpoint.load(tmp_path)["step"] == 10


def test_pickles_of_the_state_hold_plain_values_only(tmp_path):
    make(tmp_path).fit(batches(), batches(), num_epochs=2)
    state = checkpoint.load(tmp_path)
    assert {"model", "optimizer", "scheduler", "scaler", "step", "epoch", "position", "passes", "history"} <= set(state)
    assert state["made_with"]["optimizer"] == "Adam"
    assert pickle.loads(pickle.dumps(state["history"])) == state["history"]
