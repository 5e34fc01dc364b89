"""The training lab: a real run that can be held, steered and ended, and that ends cleanly whatever happens to it."""

import re
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from jupyter_client.blocking.client import BlockingKernelClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import notebooks
from course_utils import data, models
from course_utils.labs import TrainingLab, base, training
from course_utils.labs.base import Lab
from course_utils.optimizers import make_optimizer
from course_utils.training import Trainer, checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A short lab at full speed, with a learner's folder of its own."""
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path / "learner"))
    lab = TrainingLab(num_epochs=3)
    lab.speed.value = 0.0
    yield lab
    lab.close()


def front(lab):
    return ElementTree.fromstring(lab._front.value)


def paths(lab):
    """The loss, the rate and the accuracy as they are drawn."""
    return [element.get("d") for element in front(lab).iter() if element.tag == "path"]


def run(lab, timeout=60):
    lab.start.click()
    lab.settle(timeout)


def oracle(lrs, seed=0):
    """The losses of a hand-written loop whose rate at step n is lrs[n], with the weights it ends with."""
    torch.manual_seed(seed)
    model, loss_fn, losses = models.MLP(), nn.CrossEntropyLoss(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=lrs[0])
    batches = data.Batches(*data.load("digits").train.dataset.tensors, batch_size=64, seed=seed)
    for _ in range(len(lrs) // len(batches)):
        for x, y in batches:
            optimizer.param_groups[0]["lr"] = lrs[len(losses)]
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, model


def at_step(lab, step, act, monkeypatch):
    """Have `act()` called in the training thread right after a step."""
    fit = lab._fit

    def watched(lr, *, follow, **options):
        def also(trainer, now, num_steps, history):
            if now == step and history.step_loss[-1][0] == step and not done:
                done.append(act())
            follow(trainer, now, num_steps, history)

        done = []
        return fit(lr, follow=also, **options)

    monkeypatch.setattr(lab, "_fit", watched)


# What is shown is what was trained.


def test_it_is_useful_before_any_click(lab):
    losses, _ = oracle([training.START_RATE] * 69)
    assert [value for _, value in lab.untouched.step_loss] == losses
    assert lab.state == "ready"
    assert "Ready" in lab._words.value
    assert "Goal" in lab._words.value
    words = [element.text for element in ElementTree.fromstring(lab._back.value).iter() if element.tag == "text"]
    assert {"Loss of each step", "Accuracy on images never seen", "goal: 97% at the end"} <= set(words)
    assert lab.run_dir is None, "nothing is written before Start is pressed"


def test_a_run_is_the_hand_written_loop_bit_for_bit(lab):
    lab.lr.value = 0.1
    run(lab)
    losses, model = oracle([lab.lr.value] * 69)
    assert lab.state == "finished"
    assert [value for _, value in lab.history.step_loss] == losses
    saved = checkpoint.load(lab.run_dir)["model"]
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


def test_the_rate_changes_while_it_runs_from_the_next_step_on(lab, monkeypatch):
    lab.lr.value = 0.1
    before = lab.lr.value
    at_step(lab, 30, lambda: setattr(lab.lr, "value", 1.0), monkeypatch)
    run(lab)
    rates = [value for _, value in lab.history.lr]
    assert rates == [before] * 30 + [1.0] * 39
    assert [value for _, value in lab.history.step_loss] == oracle(rates)[0]


def test_the_curves_are_those_of_the_history(lab):
    run(lab)
    loss, rate, accuracy = lab._panels()
    history = lab.history
    assert len(history.valid_accuracy) == 3
    assert paths(lab) == [
        panel.path(*zip(*points, strict=True))
        for panel, points in ((loss, history.step_loss), (rate, history.lr), (accuracy, history.valid_accuracy))
    ]
    assert front(lab).get("data-step") == "69"
    assert f"{history.valid_accuracy[-1][1]:.1%}" in lab._front.value
    assert f"the loss is {history.epoch_loss[-1][1]:.3f}" in lab._words.value


def test_a_long_path_is_thinned_and_keeps_its_end(lab, monkeypatch):
    monkeypatch.setattr(training, "MAX_POINTS", 10)
    points = [(step, step / 100) for step in range(1, 70)]
    panel = lab._panels()[0]
    drawn = training._path(panel, points)
    assert drawn.count("L") <= 11
    assert drawn.endswith(f"{panel.x(69):.1f} {panel.y(0.69):.1f}")
    assert training._path(panel, []) == ""


@pytest.mark.parametrize(("goal", "reached"), [(0.65, True), (1.0, False)])
def test_the_goal_is_the_accuracy_at_the_end(lab, monkeypatch, goal, reached):
    monkeypatch.setattr(training, "GOAL", goal)
    lab.lr.value = 0.3
    run(lab)
    first, *_, last = (share for _, share in lab.history.valid_accuracy)
    assert first < goal, "the first epoch does not decide"
    assert (last >= goal) == reached
    assert ("Goal reached ✓" in lab._words.value) == reached


def test_the_untouched_run_misses_the_goal_and_a_good_hand_reaches_it():
    """Large first, small at the end. A margin of two images, so only here, where the numbers are known."""
    lab = TrainingLab()
    try:
        assert lab.untouched.valid_accuracy[-1][1] < training.GOAL
        lab.speed.value = 0.0
        lab.lr.value = 10**-0.25
        at = {"act": lambda: setattr(lab.lr, "value", 10**-1.25)}
        with pytest.MonkeyPatch.context() as patch:
            at_step(lab, 300, at["act"], patch)
            run(lab)
        assert lab.history.valid_accuracy[-1][1] > 0.96
    finally:
        lab.close()


# Start, Pause, Stop.


def test_pause_holds_the_run_and_continue_goes_on_to_the_same_end(lab, monkeypatch):
    lab.lr.value = 0.1
    at_step(lab, 10, lab.pause.click, monkeypatch)
    run(lab)
    assert lab.state == "paused"
    assert lab.pause.description == "Continue"
    assert "Paused" in lab._words.value
    assert len(lab.history.step_loss) == 10
    lab.pause.click()
    lab.settle(60)
    assert lab.state == "finished"
    assert lab.pause.description == "Pause"
    assert lab.pause.disabled
    assert [value for _, value in lab.history.step_loss] == oracle([lab.lr.value] * 69)[0]


def test_settle_waits_until_the_pause_is_shown(lab, monkeypatch):
    def show_slowly(share, text):
        if "paused" in text:
            time.sleep(0.3)
        show(share, text)

    show = lab.show_progress
    monkeypatch.setattr(lab, "show_progress", show_slowly)
    at_step(lab, 10, lab.pause.click, monkeypatch)
    run(lab)
    assert "Paused" in lab._words.value


def test_the_rate_may_be_changed_while_it_rests(lab, monkeypatch):
    lab.lr.value = 0.1
    before = lab.lr.value
    at_step(lab, 10, lab.pause.click, monkeypatch)
    run(lab)
    lab.lr.value = 1.0
    lab.pause.click()
    lab.settle(60)
    # The step after the rest was already told its rate; the handle counts from the next one.
    assert [value for _, value in lab.history.lr] in ([before] * 10 + [1.0] * 59, [before] * 11 + [1.0] * 58)


def test_stop_ends_it_after_the_step_and_leaves_a_whole_checkpoint(lab, monkeypatch):
    at_step(lab, 20, lab.halt.click, monkeypatch)
    run(lab)
    assert lab.state == "stopped"
    assert "Stopped" in lab._words.value
    assert 20 <= len(lab.history.step_loss) <= 21
    assert checkpoint.load(lab.run_dir)["step"] == len(lab.history.step_loss)
    assert lab.halt.disabled
    assert lab.pause.disabled


def test_stop_ends_a_run_that_rests(lab, monkeypatch):
    at_step(lab, 20, lab.pause.click, monkeypatch)
    run(lab)
    lab.halt.click()
    lab.settle()
    assert lab.state == "stopped"
    assert not lab.computing.busy


def test_start_while_it_runs_or_rests_begins_anew_in_a_folder_of_its_own(lab, monkeypatch):
    at_step(lab, 20, lab.pause.click, monkeypatch)
    run(lab)
    first = lab.run_dir
    monkeypatch.undo()
    lab.start.click()
    lab.settle(60)
    assert lab.state == "finished"
    assert len(lab.history.step_loss) == 69
    assert lab.run_dir != first
    assert checkpoint.load(first)["step"] in (20, 21)


def test_pause_without_a_run_does_nothing(lab):
    lab.pause.click()
    lab.settle()
    assert lab.state == "ready"
    run(lab)
    lab.pause.click()
    assert not lab._pause_requested.is_set()
    assert lab.state == "finished"


def test_slow_motion_keeps_its_pace_and_the_thread_of_the_caller_stays_free(lab):
    lab.speed.value = 60.0
    began = time.perf_counter()
    lab.start.click()
    while (done := len(lab.history.step_loss)) < 20:
        time.sleep(0.01)
    assert done < 69, "this thread looks on while the run goes on"
    assert done <= 1 + 60 * (time.perf_counter() - began), "60 steps a second at most"
    lab.speed.value = 0.0
    lab.settle(60)
    assert lab.state == "finished"


def test_the_picture_is_drawn_while_it_runs(lab, monkeypatch):
    monkeypatch.setattr(base.Throttle, "due", lambda self: True)
    steps = []
    draw = lab._draw_front
    monkeypatch.setattr(lab, "_draw_front", lambda: (draw(), steps.append(int(front(lab).get("data-step")))))
    lab.speed.value = 60.0
    run(lab)
    assert len(set(steps)) > 10
    assert steps[-1] == 69


# What it leaves behind, and what it leaves alone.


def test_tensorboard_reads_the_run_in_the_learners_folder(lab, tmp_path):
    run(lab)
    assert lab.run_dir == tmp_path / "learner" / "runs" / "training-lab-1"
    assert "learner/runs/training-lab-1" in lab._words.value
    events = EventAccumulator(str(lab.run_dir)).Reload()
    for tag, points in {"loss/step": lab.history.step_loss, "accuracy/valid": lab.history.valid_accuracy}.items():
        assert [(event.step, event.value) for event in events.Scalars(tag)] == [
            (step, pytest.approx(value)) for step, value in points
        ]


def test_two_labs_in_one_learners_folder_share_no_files(lab):
    run(lab)
    other = TrainingLab(num_epochs=1)
    other.speed.value = 0.0
    run(other)
    assert {lab.run_dir.name, other.run_dir.name} == {"training-lab-1", "training-lab-2"}
    other.close()


def test_a_folder_that_cannot_be_written_is_told_and_the_run_goes_on_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path / "file" / "learner"))
    lab = TrainingLab(num_epochs=1)
    lab.speed.value = 0.0
    run(lab)
    assert lab.state == "finished"
    assert "cannot be written" in lab._status.value
    assert checkpoint.load(lab.run_dir)["step"] == 23
    lab.close()
    assert not lab.run_dir.exists()


def test_the_learners_random_numbers_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path))
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    lab = TrainingLab(num_epochs=1)
    lab.speed.value = 0.0
    run(lab)
    lab.close()
    assert torch.equal(torch.rand(3), expected)


# The end, whoever brings it about.


def test_making_another_lab_ends_the_run_of_the_one_before(lab):
    """The cell was run again: the old widget is off the page, and nobody could stop its run any more."""
    lab.speed.value = 60.0
    lab.start.click()
    while not lab.history.step_loss:
        time.sleep(0.01)
    other = TrainingLab(num_epochs=1)
    lab.settle()
    assert lab.state == "stopped"
    assert 0 < len(lab.history.step_loss) < 69
    other.close()


def test_closing_ends_the_run_and_waits_for_it(lab):
    lab.speed.value = 60.0
    lab.start.click()
    while not lab.history.step_loss:
        time.sleep(0.01)
    lab.close()
    assert not lab.computing.busy
    assert lab not in Lab.alive
    assert checkpoint.load(lab.run_dir)["step"] == len(lab.history.step_loss) < 69


def test_a_loss_that_is_not_finite_is_reported_and_ends_the_run(lab):
    with torch.no_grad():
        lab._model.classifier.bias[0] = 3e38
    lab.lr.value = 10.0
    run(lab)
    assert lab.state == "broken"
    assert "not a finite number anymore" in lab._words.value
    assert "loss" in lab._status.value
    lab.settle()


def test_an_error_in_the_run_is_shown_and_the_lab_goes_on(lab, monkeypatch):
    def fail():
        raise ValueError("no <step> today")

    with monkeypatch.context() as patch:
        at_step(lab, 5, fail, patch)
        lab.start.click()
        with pytest.raises(ValueError, match="no <step> today"):
            lab.settle(60)
    assert "no &lt;step&gt; today" in lab.children[-1].value
    assert lab.state == "stopped"
    run(lab)
    assert lab.state == "finished"


@pytest.mark.parametrize("num_epochs", [0, -1, 2.5, True])
def test_a_bad_number_of_epochs_is_refused(num_epochs):
    with pytest.raises(ValueError, match=f"num_epochs must be a whole number of at least 1, got {num_epochs}"):
        TrainingLab(num_epochs=num_epochs)


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match=rf"seed must be a whole number from 0 to 2\*\*63 - 1, got {seed}"):
        TrainingLab(seed=seed)


def test_the_still_picture_says_what_is_seen(lab):
    bundle, metadata = lab._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"].startswith("TrainingLab: run the cell, press Start")
    share = lab.untouched.valid_accuracy[-1][1]
    assert f"{share:.0%} at the end; the goal is 97%" in metadata["image/png"]["alt"]


def wait_until_ready(manager, client):
    """Wait for a kernel that has a living process: on a busy machine it may miss a heartbeat while it starts."""
    end = time.monotonic() + 100
    while True:
        try:
            client.wait_for_ready(timeout=60)
            return
        except RuntimeError:
            if not manager.is_alive() or time.monotonic() > end:
                raise


@pytest.fixture(scope="module")
def kernel():
    """A real kernel, as JupyterLab starts it, and `execute(code)` that returns what was printed."""
    with notebooks.running_kernel(ROOT) as manager:
        client = BlockingKernelClient()
        client.load_connection_info(manager.get_connection_info())
        client.start_channels()
        wait_until_ready(manager, client)

        def execute(code):
            printed = []

            def note(message):
                content = message["content"]
                assert message["msg_type"] != "error", content["evalue"]
                printed.append(content["text"] if message["msg_type"] == "stream" else "")

            client.execute_interactive(code, timeout=60, output_hook=note)
            return "".join(printed)

        yield manager, client, execute
        client.stop_channels()


BEGIN = """
import time
from course_utils.labs import TrainingLab
lab = TrainingLab()
lab.start.click()
while not lab.history.step_loss:
    time.sleep(0.01)
"""
WAIT = "lab.settle(); print(lab.state, len(lab.history.step_loss), len(lab.errors))"


def test_the_kernel_stays_free_and_its_own_stop_button_ends_the_run(kernel):
    manager, _, execute = kernel
    execute(BEGIN)
    look = "time.sleep(0.05); print(len(lab.history.step_loss))"
    begun = int(execute(look))
    assert any(int(execute(look)) > begun for _ in range(100)), "cells run while it trains"
    manager.interrupt_kernel()
    state, steps, errors = execute(WAIT).split()
    assert (state, errors) == ("stopped", "0")
    assert int(steps) < 460


def test_a_cell_run_again_ends_the_run_before(kernel):
    _, _, execute = kernel
    execute(BEGIN + "first = lab")
    execute(BEGIN)
    assert execute("first.settle(); print(first.state, lab.state)").split() == ["stopped", "running"]
    execute("lab.stop(); " + WAIT)


def test_a_restarted_kernel_leaves_whole_files_and_begins_anew(kernel):
    manager, client, execute = kernel
    # Two epochs and a little: there is a checkpoint.
    wait = "while len(lab.history.step_loss) < 60:\n    time.sleep(0.01)\n"
    folder = Path(execute(f"{BEGIN}{wait}print(lab.run_dir)").strip())
    manager.restart_kernel(now=False)
    wait_until_ready(manager, client)
    events = EventAccumulator(str(folder)).Reload()
    last = events.Scalars("loss/step")[-1].step
    assert 0 < last < 460
    assert checkpoint.load(folder)["step"] <= last
    again = Path(execute(BEGIN + "lab.stop(); lab.settle(); print(lab.run_dir)").strip())
    assert re.fullmatch(r"training-lab-\d+", again.name)
    assert again != folder
    model = models.MLP()
    trainer = Trainer(
        model,
        make_optimizer("sgd", model.parameters(), training.START_RATE),
        nn.CrossEntropyLoss(),
        device="cpu",
        run_dir=folder,
        log_every=1,
        progress=False,
    )
    digits = data.load("digits")
    history = trainer.fit(digits.train, digits.valid, num_epochs=20, resume=True)
    assert history.step_loss[-1][0] == 460, "the broken-off run can be gone on with"
