"""Callbacks: when they are called, early stopping, the best checkpoint, and two examples to copy: an EMA, a metric."""

import errno
import math
import zipfile
from functools import partial

import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassF1Score

from course_utils.data import Batches
from course_utils.training import Trainer, callbacks, checkpoint
from course_utils.training.callbacks import BestCheckpoint, Callback, EarlyStopping, check_callbacks, check_monitors
from course_utils.training.scheduling import Scheduling

# Two examples to copy.


class KeepAverage(Callback):
    """Keeps an exponential moving average of the weights, and validates it in place of them."""

    def __init__(self, model: nn.Module, decay: float = 0.999):
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def on_fit_start(self, trainer):
        self.average.to(trainer.device)

    def on_step_end(self, trainer):
        self.average.update_parameters(trainer.model)

    def on_validation_start(self, trainer):
        self.trained = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        trainer.model.load_state_dict(self.average.module.state_dict())

    def on_validation_end(self, trainer, figures):
        trainer.model.load_state_dict(self.trained)

    def state_dict(self):
        return self.average.state_dict()

    def load_state_dict(self, state):
        self.average.load_state_dict(state)


class AddMetric(Callback):
    """Adds a metric of torchmetrics to the figures of each epoch."""

    def __init__(self, name: str, metric: Metric):
        self.name, self.metric = name, metric

    def on_validation_start(self, trainer):
        self.metric.to(trainer.device).reset()

    def on_validation_batch(self, trainer, output, y):
        self.metric.update(output, y)

    def on_validation_end(self, trainer, figures):
        if figures:
            figures[self.name] = self.metric.compute().item()


# What the tests train.


def rows(count=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    return x, torch.randint(3, (count,), generator=generator)


def data(seed=0):
    return Batches(*rows(seed=seed), batch_size=8)


def small_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def make(callbacks, *, model=None, scheduler=None, **options):
    model = model or small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if scheduler is not None:
        options["scheduler"] = scheduler(optimizer)
    loss_fn = nn.CrossEntropyLoss()
    return Trainer(model, optimizer, loss_fn, device="cpu", progress=False, callbacks=callbacks, **options)


class Stage:
    """What a callback sees of a trainer, without the training."""

    def __init__(self, run_dir=None, model=None, step=0):
        self.run_dir, self.model, self.device = run_dir, model or small_model(), torch.device("cpu")
        self.step, self.stops = step, 0

    def stop(self):
        self.stops += 1


def play(callback, values, *, name="valid_loss", stage=None):
    """Give a callback epochs with these values until it stops the run, and return the number of epochs."""
    stage = stage or Stage()
    callback.on_fit_start(stage)
    first_step = stage.step
    for value in values:
        if stage.stops:
            break
        stage.step += 1
        callback.on_epoch_end(stage, {"epoch_loss": 9.0, name: value})
    return stage.step - first_step


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# The base class.


def test_the_base_class_does_nothing():
    base, stage, figures = Callback(), Stage(), {"valid_loss": 1.0}
    base.on_fit_start(stage)
    base.on_step_end(stage)
    base.on_validation_start(stage)
    base.on_validation_batch(stage, torch.zeros(2, 3), torch.zeros(2))
    base.on_validation_end(stage, figures)
    base.on_epoch_end(stage, figures)
    base.on_fit_end(stage)
    base.load_state_dict(base.state_dict())
    assert base.state_dict() == {}
    assert figures == {"valid_loss": 1.0}
    assert stage.stops == 0


def test_a_method_that_would_never_be_called_is_refused():
    with pytest.raises(
        ValueError, match=r"method of the callback Mine 'on_train_epoch_end': did you mean 'on_epoch_end'"
    ):

        class Mine(Callback):
            def on_train_epoch_end(self, trainer): ...


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (EarlyStopping(patience=1), r"callbacks must be a list of callbacks, got <.*EarlyStopping.*put even a single"),
        ("best", r"callbacks must be a list of callbacks, got 'best'"),
        (None, r"callbacks must be a list of callbacks, got None"),
        ([Callback(), EarlyStopping], r"callbacks\[1\] is the class EarlyStopping: make an instance, EarlyStopping\("),
        ([print], r"callbacks\[0\] is <built-in function print>: derive its class from course_utils\.training\.Callb"),
    ],
)
def test_what_is_not_a_list_of_callbacks_is_refused(given, message):
    with pytest.raises(TypeError, match=message):
        check_callbacks(given)


def test_one_callback_or_one_file_twice_is_refused():
    one = EarlyStopping(patience=1)
    assert check_callbacks([one, EarlyStopping(patience=1)])[0] is one
    with pytest.raises(
        ValueError, match=r"callbacks\[2\], EarlyStopping, is in the list twice and would be called twice"
    ):
        check_callbacks([one, Callback(), one])
    check_callbacks([BestCheckpoint(), BestCheckpoint("epoch_loss", file="trained.pt")])
    with pytest.raises(ValueError, match=r"2 callbacks would write 'best\.pt': give each another file="):
        check_callbacks([BestCheckpoint(), BestCheckpoint("epoch_loss")])


# The figures that a run needs.


def plateau(metric):
    optimizer = torch.optim.SGD(small_model().parameters(), lr=0.1)
    return Scheduling(torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), optimizer, metric=metric)


NO_SCHEDULE = Scheduling(None, torch.optim.SGD(small_model().parameters(), lr=0.1), metric="valid_accuracy")


def test_figures_that_an_epoch_will_have_are_taken():
    watching = [EarlyStopping("valid_accuracy", patience=1), BestCheckpoint("epoch_loss")]
    check_monitors(plateau("valid_loss"), watching, validates=True)
    check_monitors(plateau("epoch_loss"), [BestCheckpoint("epoch_loss")], validates=False)
    check_monitors(NO_SCHEDULE, [], validates=False)
    added = AddMetric("f1", MulticlassF1Score(num_classes=3))
    check_monitors(plateau("f1"), [EarlyStopping("f1", patience=1, mode="max"), added], validates=True)


@pytest.mark.parametrize(
    ("schedule", "watching", "validates", "message"),
    [
        (NO_SCHEDULE, [EarlyStopping(patience=1)], False, "monitor of EarlyStopping is 'valid_loss', which needs vali"),
        (plateau("valid_loss"), [], False, "scheduler_metric is 'valid_loss', which needs validation data: give fit"),
        (plateau("valid_los"), [], True, r"unknown scheduler_metric 'valid_los': did you mean 'valid_loss'\?"),
        (
            NO_SCHEDULE,
            [EarlyStopping(patience=1), BestCheckpoint("f1", mode="max")],
            True,
            "unknown monitor of BestCheckpoint 'f1': known: epoch_loss, valid_loss, valid_accuracy",
        ),
    ],
)
def test_a_figure_that_no_epoch_will_have_is_refused_before_the_first(schedule, watching, validates, message):
    with pytest.raises(ValueError, match=message):
        check_monitors(schedule, watching, validates=validates)


def test_a_figure_that_an_epoch_does_not_have_is_refused_with_those_that_it_has():
    stopping = EarlyStopping("f1", patience=1, mode="max")
    with pytest.raises(ValueError, match="unknown monitor of EarlyStopping 'f1': known: epoch_loss, valid_loss"):
        play(stopping, [1.0])


@pytest.mark.parametrize("kind", [lambda *args, **options: EarlyStopping(*args, patience=1, **options), BestCheckpoint])
def test_the_direction_is_known_or_asked_for(kind):
    assert kind("epoch_loss").mode == "min"
    assert kind("valid_accuracy").mode == "max"
    assert kind("f1", mode="max").mode == "max"
    with pytest.raises(
        ValueError, match=r"whether a larger or a smaller 'f1' is better is not known: add mode='max' or"
    ):
        kind("f1")
    with pytest.raises(
        ValueError, match="mode='min' would take the worst 'valid_accuracy' for the best: use mode='max'"
    ):
        kind("valid_accuracy", mode="min")
    with pytest.raises(ValueError, match=r"unknown mode 'maximum': did you mean 'max'\?"):
        kind("f1", mode="maximum")
    with pytest.raises(TypeError, match=r"monitor must be the name of a figure, such as 'valid_loss', got None"):
        kind(None)


# Early stopping.


@pytest.mark.parametrize(
    ("values", "options", "num_epochs"),
    [
        ([5, 4, 3, 2, 1], {"patience": 1}, 5),
        ([5, 4, 4, 3], {"patience": 1}, 3),
        ([5, 4, 6, 6, 3, 6, 6, 6, 0], {"patience": 3}, 8),
        ([5, 4.6, 4.2, 3.8], {"patience": 2, "min_delta": 0.5}, 4),  # 4.2 is better than 5 by more than 0.5
        ([5, 4.6, 4.5, 3.8], {"patience": 2, "min_delta": 0.5}, 3),  # 4.5 is not
        ([math.nan, math.nan, 1], {"patience": 2}, 2),
        ([5, math.nan, math.inf, 4], {"patience": 2}, 3),
        ([5, -math.inf, 4.9, 4.8], {"patience": 2}, 4),
    ],
)
def test_early_stopping_counts_epochs_without_improvement(values, options, num_epochs):
    assert play(EarlyStopping(**options), values) == num_epochs


def test_early_stopping_of_an_accuracy_waits_for_larger_values():
    assert play(EarlyStopping("valid_accuracy", patience=2), [0.5, 0.6, 0.6, 0.5, 0.9], name="valid_accuracy") == 4


def test_early_stopping_says_why_it_ended_the_run():
    stopping = EarlyStopping(patience=2)
    play(stopping, [0.5])
    assert stopping.reason is None
    play(stopping, [0.5, 0.25, 0.3, 0.3])
    assert stopping.reason == "valid_loss has not improved on 0.25 for 2 epochs"
    play(stopping, [math.nan] * 2)
    assert stopping.reason == "valid_loss was not finite in any of 2 epochs"


def test_a_run_that_was_ended_early_ends_again_at_once_unless_the_patience_grows():
    first = EarlyStopping(patience=2)
    play(first, [0.5, 0.6, 0.7])
    resumed, stage = EarlyStopping(patience=2), Stage(step=3)
    resumed.load_state_dict(first.state_dict())
    assert play(resumed, [0.1], stage=stage) == 0
    assert resumed.reason == first.reason
    longer = EarlyStopping(patience=3)
    longer.load_state_dict(first.state_dict())
    assert play(longer, [0.6, 0.6], stage=Stage(step=3)) == 1


def test_a_run_that_is_resumed_in_between_ends_after_the_same_epoch():
    values = [0.5, 0.6, 0.4, 0.5, 0.5, 0.5, 0.1]
    whole, first, second = (EarlyStopping(patience=3) for _ in range(3))
    assert play(whole, values) == 6
    play(first, values[:4])
    second.load_state_dict(first.state_dict())
    assert play(second, values[4:], stage=Stage(step=4)) == 2


def test_a_callback_forgets_the_run_of_another_trainer(tmp_path):
    stopping, best = EarlyStopping(patience=2), BestCheckpoint()
    play(stopping, [0.1, 0.2, 0.3])
    play(best, [0.1], stage=Stage(tmp_path / "one"))
    assert play(stopping, [0.9, 0.8, 0.7]) == 3
    play(best, [0.9], stage=Stage(tmp_path / "two"))
    assert best.best == 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience must be a whole number of at least 1, got 0"),
        ({"patience": 1.5}, "patience must be a whole number of at least 1, got 1.5"),
        ({"patience": 1, "min_delta": -1}, "min_delta must be a finite number of at least 0, got -1"),
        ({"patience": 1, "min_delta": math.nan}, "min_delta must be a finite number of at least 0, got nan"),
        ({"patience": 1, "min_delta": "small"}, "min_delta must be a finite number of at least 0, got 'small'"),
    ],
)
def test_arguments_of_early_stopping_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**options)


@pytest.mark.parametrize(
    "state",
    [
        {},
        BestCheckpoint().state_dict(),
        EarlyStopping("epoch_loss", patience=1).state_dict(),
        {"monitor": "valid_loss", "best": "0.5", "bad_epochs": 1},
        {"monitor": "valid_loss", "best": 0.5, "bad_epochs": None},
    ],
)
def test_the_state_of_another_callback_is_refused(state):
    with pytest.raises(
        ValueError, match=r"is not one of EarlyStopping\(monitor='valid_loss'\): give the Trainer the call"
    ):
        EarlyStopping(patience=1).load_state_dict(state)


# The best checkpoint.


def test_the_weights_of_the_best_epoch_are_kept(tmp_path):
    stage, best, weights = Stage(tmp_path), BestCheckpoint(), []
    best.on_fit_start(stage)
    for value in (0.5, math.nan, 0.3, 0.3, 0.4, -math.inf):
        stage.model = small_model(seed=len(weights))
        weights.append(copied(stage.model))
        best.on_epoch_end(stage, {"valid_loss": value})
    restored = small_model(seed=99)
    best.load_best(restored)
    assert same(copied(restored), weights[2])
    assert best.best == 0.3
    # In another program, without this callback.
    assert same(torch.load(tmp_path / "best.pt", weights_only=True), weights[2])
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_after_a_resume_only_a_better_epoch_replaces_the_file(tmp_path):
    first, second, stage = BestCheckpoint(file="good.pt"), BestCheckpoint(file="good.pt"), Stage(tmp_path)
    play(first, [0.5, 0.3], stage=stage)
    (tmp_path / ".good.pt.0000.tmp").touch()  # left by a process that was killed inside a save
    second.load_state_dict(first.state_dict())
    play(second, [0.4], stage=Stage(tmp_path, model=small_model(seed=1), step=2))
    restored = small_model(seed=2)
    second.load_best(restored)
    assert same(copied(restored), copied(stage.model))
    assert [path.name for path in tmp_path.iterdir()] == ["good.pt"]


def test_another_model_can_be_saved_instead(tmp_path):
    other = small_model(seed=5)
    play(BestCheckpoint(model=other), [0.5], stage=Stage(tmp_path))
    assert same(torch.load(tmp_path / "best.pt", weights_only=True), copied(other))


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks.distributed, "rank", lambda: 1)
    best = BestCheckpoint()
    play(best, [0.5], stage=Stage(tmp_path))
    assert best.best == 0.5
    assert not list(tmp_path.iterdir())


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch):
    best, stage = BestCheckpoint(), Stage(tmp_path)
    play(best, [0.5], stage=stage)

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(callbacks, "write_atomically", full)
    with pytest.warns(
        RuntimeWarning, match=r"weights after step 2 could not be written .* No space left .* older file rem"
    ):
        play(best, [0.3], stage=stage)
    assert best.best == 0.5
    best.load_best(small_model())


def test_best_checkpoint_needs_a_folder():
    with pytest.raises(
        ValueError, match=r"BestCheckpoint writes 'best\.pt' into the run's folder: give the Trainer run_dir"
    ):
        BestCheckpoint().on_fit_start(Stage())


@pytest.mark.parametrize("file", ["", "..", "a/b.pt", "/best.pt", "a\0.pt", "\ud800.pt", 3])
def test_a_name_that_leaves_the_folder_or_that_no_file_can_have_is_refused(file):
    with pytest.raises(ValueError, match=r"file must be a name without a folder, such as 'best\.pt', got "):
        BestCheckpoint(file=file)


@pytest.mark.parametrize("file", ["checkpoint.pt", "checkpoint.previous.pt", "run.lock", "events.out.tfevents.1"])
def test_a_name_that_belongs_to_the_run_is_refused(file):
    with pytest.raises(ValueError, match=rf"file '{file}' may be one of the run's own files, .*: choose another name"):
        BestCheckpoint(file=file)


def test_what_is_not_a_model_is_refused():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, or None for the trainer's, got 'ema'"):
        BestCheckpoint(model="ema")


def test_load_best_refuses_what_it_cannot_load(tmp_path):
    best, path = BestCheckpoint(), tmp_path / "best.pt"
    with pytest.raises(ValueError, match=r"'best\.pt' was not written yet: load_best needs a fit with at least one"):
        best.load_best(small_model())
    play(best, [0.5], stage=Stage(tmp_path))
    with pytest.raises(ValueError, match=r"the checkpoint is of another model: missing here 0\.weight"):
        best.load_best(nn.Linear(2, 2))
    whole, model = path.read_bytes(), small_model(seed=3)
    with zipfile.ZipFile(path) as archive:
        content = archive.read(max(archive.infolist(), key=lambda part: part.file_size))
    flipped = bytearray(whole)
    flipped[flipped.index(content)] ^= 1
    stranger = tmp_path / "stranger.pt"
    torch.save({"a": print}, stranger)
    other = tmp_path / "other.pt"
    torch.save([torch.zeros(1)], other)
    for damaged in (bytes(flipped), whole[:200], b"", stranger.read_bytes(), other.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"best\.pt cannot be read \(.+\), and nothing was loaded from it") as e:
            best.load_best(model)
        assert "weights_only" not in str(e.value)
    assert same(copied(model), copied(small_model(seed=3)))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        best.load_best(model)


# The examples.


def averaged_by_hand(weights, decay):
    average = {name: value.clone() for name, value in weights[0].items()}
    for each in weights[1:]:
        for name in average:
            average[name] = decay * average[name] + (1 - decay) * each[name]
    return average


def test_the_average_is_an_ema_and_is_evaluated_in_place_of_the_weights():
    stage = Stage()
    ema, weights = KeepAverage(stage.model, decay=0.9), []
    optimizer = torch.optim.SGD(stage.model.parameters(), lr=0.5)
    ema.on_fit_start(stage)
    for x, y in data():
        optimizer.zero_grad()
        nn.functional.cross_entropy(stage.model(x), y).backward()
        optimizer.step()
        ema.on_step_end(stage)
        weights.append({name: value.detach().clone() for name, value in stage.model.named_parameters()})
    trained = copied(stage.model)
    ema.on_validation_start(stage)
    evaluated = copied(stage.model)
    ema.on_validation_end(stage, {})
    expected = averaged_by_hand(weights, 0.9)
    for name, value in expected.items():
        torch.testing.assert_close(evaluated[name], value)
        assert not torch.equal(evaluated[name], weights[-1][name])
    assert same(copied(stage.model), trained)


def test_the_metric_is_that_of_all_validation_rows_at_once():
    stage, figures, predicted = Stage(), {"valid_loss": 1.0}, []
    metric = AddMetric("f1", MulticlassF1Score(num_classes=3, average="macro"))
    stage.model.eval()
    for _pass in range(2):  # a second pass begins at zero
        metric.on_validation_start(stage)
        for x, y in data():
            metric.on_validation_batch(stage, stage.model(x).detach(), y)
            predicted.append((stage.model(x).argmax(1), y))
        metric.on_validation_end(stage, figures)
    answers, labels = (torch.cat(each) for each in zip(*predicted[: len(predicted) // 2], strict=True))
    assert figures == {"valid_loss": 1.0, "f1": pytest.approx(f1_score(labels, answers, average="macro"))}


# With the trainer.


class Log(Callback):
    def __init__(self):
        self.calls = []

    def on_fit_start(self, trainer):
        self.calls.append(("fit starts", trainer.step))

    def on_step_end(self, trainer):
        self.calls.append(("step", trainer.step))

    def on_validation_start(self, trainer):
        self.calls.append(("validation starts", trainer.step))

    def on_validation_batch(self, trainer, output, y):
        self.calls.append(("batch", tuple(output.shape), len(y)))

    def on_validation_end(self, trainer, figures):
        self.calls.append(("validation ends", sorted(figures)))

    def on_epoch_end(self, trainer, figures):
        self.calls.append(("epoch ends", sorted(figures)))

    def on_fit_end(self, trainer):
        self.calls.append(("fit ends", trainer.step))


def test_a_trainer_calls_its_callbacks_in_order():
    log = Log()
    make([log]).fit(list(data())[:2], list(data())[:1], num_epochs=2)

    def epoch(first_step):
        return [
            ("step", first_step),
            ("step", first_step + 1),
            ("validation starts", first_step + 1),
            ("batch", (8, 3), 8),
            ("validation ends", ["valid_accuracy", "valid_loss"]),
            ("epoch ends", ["epoch_loss", "valid_accuracy", "valid_loss"]),
        ]

    assert log.calls == [("fit starts", 0), *epoch(1), *epoch(3), ("fit ends", 4)]


def test_without_validation_data_only_the_epoch_ends():
    log = Log()
    make([log]).fit(list(data())[:1], num_epochs=1)
    assert log.calls == [("fit starts", 0), ("step", 1), ("epoch ends", ["epoch_loss"]), ("fit ends", 1)]


def test_a_trainer_refuses_what_is_not_a_callback_and_figures_that_no_epoch_has():
    with pytest.raises(TypeError, match=r"callbacks\[0\] is the class EarlyStopping"):
        make([EarlyStopping])
    with pytest.raises(ValueError, match="monitor of EarlyStopping is 'valid_loss', which needs validation data"):
        make([EarlyStopping(patience=1)]).fit(data(), num_epochs=1)
    with pytest.raises(ValueError, match="give the Trainer run_dir"):
        make([BestCheckpoint()]).fit(data(), data(), num_epochs=1)


class Scripted(Callback):
    """Adds a figure with the given values, one after each epoch of six steps."""

    def __init__(self, *values):
        self.values = values

    def on_validation_end(self, trainer, figures):
        if figures:
            figures["score"] = self.values[trainer.step // 6 - 1]


def test_a_run_with_a_tensor_as_a_figure_is_resumed(tmp_path):
    scripted = Scripted(torch.tensor(1.0), torch.tensor([2.0]), torch.tensor(3.0, requires_grad=True))
    make([scripted], run_dir=tmp_path).fit(data(), data(seed=1), num_epochs=2)
    history = make([scripted], run_dir=tmp_path).fit(data(), data(seed=1), num_epochs=3, resume=True)
    assert history.metrics["score"] == [(6, 1.0), (12, 2.0), (18, 3.0)]


def test_a_figure_of_a_callback_is_recorded_and_can_stop_the_run(tmp_path):
    stopping = EarlyStopping("score", patience=2, mode="max")
    best = BestCheckpoint("score", mode="max")
    each = make([Scripted(1, 3, 2, 2, 9), stopping, best], run_dir=tmp_path)
    history = each.fit(data(), data(seed=1), num_epochs=5)
    assert history.metrics["score"] == [(6, 1), (12, 3), (18, 2), (24, 2)]
    assert stopping.reason == "score has not improved on 3 for 2 epochs"
    assert len(history.epoch_loss) == 4
    again = make([Scripted(1, 3, 2, 2, 9), stopping, best], run_dir=tmp_path)
    assert again.fit(data(), data(seed=1), num_epochs=5, resume=True) == history
    two_epochs, restored = small_model(), small_model(seed=1)
    make([], model=two_epochs).fit(data(), num_epochs=2)
    best.load_best(restored)
    assert same(copied(restored), copied(two_epochs))


def test_validating_the_average_leaves_the_training_as_it_is():
    plain, averaged = small_model(), small_model()
    without = make([], model=plain).fit(data(), data(seed=1), num_epochs=3)
    ema = KeepAverage(averaged, decay=0.9)
    history = make([ema], model=averaged).fit(data(), data(seed=1), num_epochs=3)
    assert same(copied(plain), copied(averaged))
    assert history.epoch_loss == without.epoch_loss
    assert history.valid_loss != without.valid_loss
    assert history.valid_loss[-1][1] == pytest.approx(make([], model=ema.average.module).evaluate(data(seed=1)).loss)


class StopAt(Callback):
    def __init__(self, step=None, *, in_validation=False):
        self.step, self.in_validation = step, in_validation

    def on_step_end(self, trainer):
        if trainer.step == self.step:
            trainer.stop()

    def on_validation_batch(self, trainer, output, y):
        if self.in_validation:
            trainer.stop()


@pytest.mark.parametrize("stop", [StopAt(8), StopAt(in_validation=True)])
def test_an_average_that_is_resumed_ends_as_without_a_break(stop, tmp_path):
    def run(*more, folder, resume=False):
        model = small_model()
        ema = KeepAverage(model, decay=0.9)
        history = make([ema, *more], model=model, run_dir=folder).fit(data(), data(seed=1), num_epochs=3, resume=resume)
        return copied(model), copied(ema.average), history

    weights, average, history = run(folder=tmp_path / "whole")
    run(stop, folder=tmp_path / "broken")
    assert checkpoint.load(tmp_path / "broken")["step"] in (6, 8)
    resumed_weights, resumed_average, resumed_history = run(Callback(), folder=tmp_path / "broken", resume=True)
    assert same(resumed_weights, weights)
    assert same(resumed_average, average)
    assert resumed_history == history


def test_a_plateau_lowers_the_rate_of_a_trainer():
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, mode="max", factor=0.5, patience=0)
    each = make([Scripted(1, 2, 2, 3)], scheduler=plateau, scheduler_metric="score", log_every=6)
    history = each.fit(data(), data(seed=1), num_epochs=4)
    assert [lr for _, lr in history.lr] == [0.1, 0.1, 0.1, 0.05]


@pytest.mark.parametrize(("every", "length"), [("step", 12), ("epoch", 2)])
def test_more_epochs_with_a_cosine_are_refused_in_the_same_process_and_after_a_restart(every, length, tmp_path):
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=length)
    first, second = (make([], scheduler=cosine, scheduler_every=every, run_dir=tmp_path) for _ in range(2))
    first.fit(data(), num_epochs=2)
    message = (
        r"planned with 2 epochs \(12 steps\) and would now have 4 epochs \(24 steps\), but CosineAnnealingLR has T_m"
    )
    with pytest.raises(ValueError, match=message):
        first.fit(data(), num_epochs=4)
    with pytest.raises(ValueError, match=message):
        second.fit(data(), num_epochs=4, resume=True)
