"""A run's TensorBoard files, read back with TensorBoard's own reader."""

import builtins
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from torch import nn

from course_utils.data import Batches
from course_utils.training import Trainer, checkpoint
from course_utils.training import tracking as tracking_module
from course_utils.training.history import History
from course_utils.training.tracking import TAGS, Tracking, reporting


def read(folder):
    """Each tag's `(step, value)`, as TensorBoard would show them."""
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def batches(count=40, **options):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, generator=generator)
    return Batches(x, torch.randint(3, (count,), generator=generator), batch_size=4, **options)


def make(run_dir=None, **options):
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"log_every": 4, "progress": False, "device": "cpu"} | options
    return Trainer(model, optimizer, nn.CrossEntropyLoss(), run_dir=run_dir, **options)


def assert_shows(folder, history):
    """The files show the history's figures: each step once, in order."""
    shown = read(folder)
    for name, tag in TAGS.items():
        points = getattr(history, name)
        assert [step for step, _ in shown.get(tag, [])] == [step for step, _ in points], tag
        assert [value for _, value in shown.get(tag, [])] == pytest.approx([value for _, value in points], rel=1e-6)


def test_every_figure_of_the_history_is_there_once(tmp_path):
    history = make(tmp_path, track_grad_norm=True).fit(batches(), batches(), num_epochs=3)
    assert all(getattr(history, name) for name in TAGS)
    assert_shows(tmp_path, history)
    assert len(list(tmp_path.glob("events.*"))) == 1


def test_steps_after_the_checkpoint_are_crossed_out_on_resume(tmp_path):
    with Tracking(tmp_path, first_step=1, made_with={}) as tracking:
        for step in (10, 20, 30):
            tracking.write(step, {"step_loss": float(step)})
    # The checkpoint was of step 20; the run broke off after 30.
    with Tracking(tmp_path, first_step=21, made_with={}) as tracking:
        for step in (30, 40):
            tracking.write(step, {"step_loss": step + 0.5})
    assert read(tmp_path) == {"loss/step": [(10, 10.0), (20, 20.0), (30, 30.5), (40, 40.5)]}


def test_files_of_the_same_second_are_read_in_order(tmp_path):
    # The names hold the second, the machine, the process: this one sorts last among those of its second.
    with Tracking(tmp_path, first_step=1, made_with={}) as tracking:
        tracking.write(10, {"step_loss": 1.0})
        tracking.write(20, {"step_loss": 2.0})
    (path,) = tmp_path.glob("events.*")
    parts = path.name.split(".")
    path.rename(tmp_path / ".".join([*parts[:4], "zzz", *parts[5:]]))
    with Tracking(tmp_path, first_step=11, made_with={}) as tracking:
        tracking.write(20, {"step_loss": 3.0})
    assert len(list(tmp_path.glob("events.*"))) == 2
    assert read(tmp_path) == {"loss/step": [(10, 1.0), (20, 3.0)]}


def test_a_resumed_run_shows_as_one(tmp_path):
    whole = make(tmp_path / "whole").fit(batches(), batches(), num_epochs=4)
    first = make(tmp_path / "run")
    first.progress = lambda step, num_steps, history: first.stop() if step == 24 else None
    first.fit(batches(), batches(), num_epochs=4)
    resumed = make(tmp_path / "run").fit(batches(), batches(), num_epochs=4, resume=True)
    assert resumed == whole
    assert_shows(tmp_path / "run", resumed)


def test_figures_of_slow_steps_are_on_the_disk_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking_module, "HOLD", 0.0)
    seen = []
    each = make(tmp_path)
    each.progress = lambda step, num_steps, history: seen.append(read(tmp_path).get("loss/step", [])[-1:])
    history = each.fit(batches(), num_epochs=1)
    assert [point[0][0] for point in seen] == [4, 8, 8]
    assert len(history.step_loss) == 2


def test_figures_of_fast_steps_wait_for_a_flush(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking_module, "HOLD", 3600.0)
    with Tracking(tmp_path, first_step=1, made_with={}) as tracking:
        tracking.write(1, {"lr": 0.5})  # the first goes at once
        tracking.write(2, {"lr": 0.25})
        assert read(tmp_path) == {"lr": [(1, 0.5)]}
        tracking.flush()
        assert read(tmp_path) == {"lr": [(1, 0.5), (2, 0.25)]}
        tracking.write(3, {"lr": 0.125})
    assert read(tmp_path) == {"lr": [(1, 0.5), (2, 0.25), (3, 0.125)]}


def test_a_checkpoint_never_gets_ahead_of_the_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking_module, "HOLD", 3600.0)
    monkeypatch.setattr(checkpoint, "WAIT_FACTOR", 0)
    behind = []

    def look(step, num_steps, history):
        saved = checkpoint.load(tmp_path)
        shown = read(tmp_path).get("loss/epoch", [(0, 0.0)])[-1][0]
        behind.append(saved is not None and shown < saved["step"])

    make(tmp_path, progress=look).fit(batches(), num_epochs=3)
    assert len(behind) > 5
    assert not any(behind)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_files_are_closed_whatever_happens(tmp_path, error):
    threads = threading.active_count()

    def fail(step, num_steps, history):
        assert threading.active_count() == threads + 1
        raise error("on purpose")

    each = make(tmp_path, progress=fail)
    if error is KeyboardInterrupt:
        assert len(each.fit(batches(), num_epochs=2).step_loss) == 1
    else:
        with pytest.raises(RuntimeError, match="on purpose"):
            each.fit(batches(), num_epochs=2)
    assert threading.active_count() == threads
    assert [step for step, _ in read(tmp_path)["loss/step"]] == [4]


def test_closing_twice_and_writing_nowhere_do_no_harm(tmp_path):
    tracking = Tracking(tmp_path, first_step=1, made_with={})
    tracking.close()
    tracking.close()
    tracking.write(1, {"lr": 0.1})
    with Tracking(None, first_step=1, made_with={}) as nowhere:
        nowhere.write(1, {"lr": 0.1})
    assert read(tmp_path) == {}


def test_hyperparameters_are_kept_for_the_hparams_page(tmp_path):
    make(tmp_path, max_grad_norm=2.0).fit(batches(), num_epochs=1)
    make(tmp_path, max_grad_norm=2.0).fit(batches(), num_epochs=2, resume=True)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    kept = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    for word in (b"optimizer", b"SGD", b"lr", b"max_grad_norm", b"batch_size", b"train_rows"):
        assert word in kept


def test_without_tensorboard_the_error_says_what_to_install(tmp_path, monkeypatch):
    inner = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            raise ImportError(name)
        return inner(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        ImportError, match=r"run_dir keeps TensorBoard files, which need tensorboard: pip install tensorboard, or leave"
    ):
        make(tmp_path).fit(batches(), num_epochs=1)
    make().fit(batches(), num_epochs=1)


@pytest.fixture
def failing_thread(monkeypatch):
    """Take in what the writer's own thread prints of its error before it hands it on, until that thread has ended."""
    before, printed = threading.active_count(), []
    monkeypatch.setattr(threading, "excepthook", printed.append)
    yield printed
    end = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert [type(each.exc_value) for each in printed if not isinstance(each.exc_value, OSError)] == []


@pytest.mark.usefixtures("failing_thread")
@pytest.mark.skipif(os.name == "nt", reason="sets a limit on the size of files")
def test_files_that_can_not_be_written_are_told_and_end_nothing(tmp_path, monkeypatch):
    import resource

    monkeypatch.setattr(tracking_module, "HOLD", 0.0)

    tracking = Tracking(tmp_path, first_step=1, made_with={})
    (path,) = tmp_path.glob("events.*")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write_until_full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 150, before[1]))
        try:
            for step in range(1, 10):
                tracking.write(step, {"step_loss": 1.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with pytest.warns(RuntimeWarning, match=r"files in .* cannot be written \(.*too large.*continues without them"):
        write_until_full()
    tracking.write(11, {"step_loss": 1.0})
    tracking.close()
    steps = [step for step, _ in read(tmp_path)["loss/step"]]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) < 9


def test_a_folder_that_vanished_is_told(tmp_path):
    with pytest.warns(RuntimeWarning, match=r"cannot be written .*: training continues without them"):
        tracking = Tracking("/proc/run", first_step=1, made_with={})
    tracking.write(1, {"lr": 0.1})
    tracking.close()


def test_a_bar_counts_from_where_the_run_goes_on(capsys):
    history = History(step_loss=[(50, 1.25)])
    with reporting(True, 40, 100) as report:
        report(50, history)
    shown = capsys.readouterr().err
    assert "40/100" in shown
    assert "50/100" in shown
    assert "step_loss 1.25" in shown


def test_a_notebook_is_not_needed_and_the_package_imports_without_tensorboard():
    code = (
        "import sys, course_utils\n"
        "names = ('tensorboard', 'matplotlib', 'sklearn', 'ipywidgets', 'torchvision', 'pandas')\n"
        "print([name for name in names if name in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert io.StringIO(done.stderr).read() == ""
