"""Lesson 07's checks: right answers pass, and each typical wrong one is explained by its misconception."""

import threading

import pytest
from torch.utils.tensorboard import SummaryWriter

from course_utils import checks
from course_utils.checks import writer as module

from . import message_for


def mean(values):
    return sum(values) / len(values)


def stub(*arguments): ...


@pytest.mark.parametrize("check", [checks.log_losses, checks.log_image, checks.survivors, checks.train_and_log])
def test_a_stub_is_not_attempted(check):
    assert "Not attempted yet" in repr(check(stub))


# Exercise 1.


def losses_logged(
    step=lambda step, epoch, batch: step + 1,
    epoch_step=lambda epoch, done: epoch + 1,
    epoch_value=lambda losses, all_losses, total: mean(losses),
    tags=("loss/step", "loss/epoch"),
):
    """An answer that differs from the right one in one place."""

    def answer(writer, epochs):
        done, seen, total = 0, [], sum(map(len, epochs))
        for epoch, losses in enumerate(epochs):
            for batch, loss in enumerate(losses):
                writer.add_scalar(tags[0], loss, step(done, epoch, batch))
                done += 1
                seen.append(loss)
            writer.add_scalar(tags[1], epoch_value(losses, seen, total), epoch_step(epoch, done))

    return answer


def closes_in_the_loop(writer, epochs):
    losses_logged()(writer, epochs)
    writer.close()
    writer.add_scalar("more", 1.0, 1)


def closes_at_the_end(writer, epochs):
    losses_logged()(writer, epochs)
    writer.close()


def a_point_for_every_batch(writer, epochs):
    step = 0
    for epoch, losses in enumerate(epochs, 1):
        for batch, loss in enumerate(losses):
            step += 1
            writer.add_scalar("loss/step", loss, step)
            writer.add_scalar("loss/epoch", mean(losses[: batch + 1]), epoch)


def last_alone(writer, epochs):
    for epoch, losses in enumerate(epochs, 1):
        writer.add_scalar("loss/epoch", mean(losses), epoch)
    writer.add_scalar("loss/step", losses[-1], epoch)


def a_number_as_an_image(writer, epochs):
    writer.add_image("loss/epoch", epochs[0][0], 1)


WRONG_LOGS = {
    "global_step, the third argument, is missing": losses_logged(step=lambda *_: None),
    "count before you log": losses_logged(step=lambda step, *_: step),
    "at the number of the epoch": losses_logged(step=lambda step, epoch, batch: epoch),
    "at the number of the epoch, so all its batches are": losses_logged(step=lambda step, epoch, batch: epoch + 1),
    "the curve goes back": losses_logged(step=lambda step, epoch, batch: batch),
    "Set it once, before the loop": losses_logged(step=lambda step, epoch, batch: batch + 1),
    "only the last loss": last_alone,
    "the sum of the epoch": losses_logged(epoch_value=lambda losses, *_: sum(losses)),
    "Here the epochs count from 1": losses_logged(epoch_step=lambda epoch, done: epoch),
    "at the number of the step": losses_logged(epoch_step=lambda epoch, done: done),
    "pass the epoch's number": losses_logged(epoch_step=lambda *_: None),
    "a point for every batch": a_point_for_every_batch,
    "the mean since the start of the run": losses_logged(epoch_value=lambda losses, seen, total: mean(seen)),
    "holds the epochs before as well": losses_logged(epoch_value=lambda losses, seen, total: sum(seen) / len(losses)),
    "divide by the number of all batches of the run": losses_logged(
        epoch_value=lambda losses, seen, total: sum(losses) / total
    ),
    "the last batch's loss": losses_logged(epoch_value=lambda losses, *_: losses[-1]),
    "no curve with the tag 'loss/step'; its tags are 'Loss/step'": losses_logged(tags=("Loss/step", "loss/epoch")),
    "The file holds no curves": lambda writer, epochs: print(end=""),
    "You closed the writer": closes_at_the_end,
    "There are 2 event files": closes_in_the_loop,
    "AssertionError": a_number_as_an_image,
    "should be at step": losses_logged(epoch_value=lambda losses, *_: 7.0),
    "'loss/step' has": lambda writer, epochs: [losses_logged()(writer, epochs) for _ in range(2)],
}


def test_losses_on_their_steps_pass():
    assert checks.log_losses(losses_logged()).passed


@pytest.mark.parametrize("words", WRONG_LOGS)
def test_losses_on_other_steps_are_explained(words):
    assert words in message_for(checks.log_losses, WRONG_LOGS[words])


# Exercise 2.


def shown_as(change, tag="input", step=lambda step: step, **options):
    return lambda writer, image, given: writer.add_image(tag, change(image), step(given), **options)


def right_image(image):
    return (image + 1) / 2


WRONG_IMAGES = {
    "became black: add_image takes 0 to 1": shown_as(lambda image: image),
    "Halving leaves the negative values": shown_as(lambda image: image / 2),
    "ranges from 0 to 2": shown_as(lambda image: image + 1),
    "With abs()": shown_as(lambda image: image.abs()),
    "stretched the contrast": shown_as(lambda image: (image - image.min()) / (image.max() - image.min())),
    "itself multiplies floats by 255": shown_as(lambda image: (image + 1) / 2 * 255),
    "swapped black and white": shown_as(lambda image: 1 - right_image(image)),
    "swapped height and width: your picture": shown_as(lambda image: right_image(image).transpose(1, 2)),
    "You swapped height and width.": lambda writer, image, step: writer.add_image(
        "input", right_image(image).transpose(1, 2) if image.shape[1] != image.shape[2] else right_image(image), step
    ),
    "Your picture is 7 pixels high and 8 wide": shown_as(lambda image: right_image(image)[:, 1:]),
    "Is global_step, the third argument, missing?": shown_as(right_image, step=lambda step: None),
    "is at step 4": shown_as(right_image, step=lambda step: step + 1),
    "no image with the tag 'input'; its tags are 'digit'": shown_as(right_image, tag="digit"),
    "holds no image: call": lambda writer, image, step: writer.add_scalar("input", image.mean(), step),
    "2 images with the tag": lambda writer, image, step: [
        writer.add_image("input", right_image(image), step) for _ in range(2)
    ],
    "TypeError": shown_as(right_image, dataformats="HWC"),
    "AssertionError": shown_as(lambda image: right_image(image)[0]),
    "should be shown as": shown_as(lambda image: right_image(image) ** 2),
    "changed `image`": lambda writer, image, step: writer.add_image("input", image.add_(1).div_(2), step),
}


def test_an_image_that_looks_right_passes_in_each_of_its_forms():
    assert checks.log_image(shown_as(right_image)).passed
    assert checks.log_image(shown_as(lambda image: right_image(image)[0], dataformats="HW")).passed
    assert checks.log_image(shown_as(lambda image: (right_image(image) * 255).byte())).passed
    assert checks.log_image(
        lambda writer, image, step: writer.add_images("input", right_image(image)[None], step)
    ).passed


@pytest.mark.parametrize("words", WRONG_IMAGES)
def test_an_image_that_looks_wrong_is_explained(words):
    assert words in message_for(checks.log_image, WRONG_IMAGES[words])


# Exercise 3.


def in_the_inner_loop(folder, epochs):
    steps = 0
    with SummaryWriter(folder) as writer:
        for epoch, losses in enumerate(epochs):
            for batch in range(len(losses)):
                steps += 1
                writer.add_scalar("epoch_loss", mean(losses[: batch + 1]), epoch)
                if steps % 3 == 0:
                    window = [loss for earlier in epochs[: epoch + 1] for loss in earlier][steps - 3 : steps]
                    writer.add_scalar("step_loss", mean(window), steps)


def fixed(
    divide=3,
    every_batch=True,
    inside=False,
    reset_each_epoch=False,
    close_in_loop=False,
    ending="with",
    reset=True,
    epoch_value=mean,
    epoch_from=0,
    step_at=lambda steps, epoch: steps,
):
    """Return the fixed loop with one mistake left in it."""

    def lines(writer, epochs):
        steps, window = 0, 0.0

        def report(epoch):
            nonlocal window
            if steps % 3 == 0:
                writer.add_scalar("step_loss", window / divide, step_at(steps, epoch))
                window = 0.0 if reset else window
                if close_in_loop:
                    writer.close()
                return True
            return False

        for epoch, losses in enumerate(epochs):
            reported = False
            window = 0.0 if reset_each_epoch else window
            for loss in losses:
                window += loss
                if every_batch:
                    steps += 1
                    reported = report(epoch)
            if not every_batch:
                steps += 1
                reported = report(epoch)
            if reported or not inside:
                writer.add_scalar("epoch_loss", epoch_value(losses), epoch + epoch_from)

    def answer(folder, epochs):
        writer = SummaryWriter(folder)
        if ending == "with":
            with writer:
                lines(writer, epochs)
        elif ending == "hidden":
            with writer:
                try:
                    lines(writer, epochs)
                except Exception:
                    print(end="")
        else:
            lines(writer, epochs)
            if ending == "last line":
                writer.close()

    return answer


WRONG_FIXES = {
    "the points before the failure are not on disk": lambda folder, epochs: fixed()(folder, list(epochs)),
    "`steps` counts epochs, while the sum": fixed(every_batch=False),
    "holds sums. Divide by the 3": fixed(divide=1),
    "never reset": fixed(reset=False),
    "You reset the sum of 'step_loss' at each new epoch": fixed(reset_each_epoch=True),
    "it is in the loop over the batches": in_the_inner_loop,
    "is at the number of the epoch": fixed(step_at=lambda steps, epoch: epoch),
    "it is inside the `if`": fixed(inside=True),
    "'epoch_loss' holds sums": fixed(epoch_value=sum),
    "shifted 'epoch_loss' by one": fixed(epoch_from=1),
    "event files: each add_scalar after a close()": fixed(close_in_loop=True),
    "still open when the function had returned": fixed(ending="never"),
    "still open when training failed halfway": fixed(ending="last line"),
    "hid the error": fixed(ending="hidden"),
    "The file holds no curves. Log one with the tag 'step_loss'": lambda folder, epochs: SummaryWriter(folder).close(),
    "should be at step": fixed(epoch_value=max),
}


def test_the_fixed_loop_passes():
    assert checks.train_and_log(fixed()).passed


def test_the_starter_loop_is_not_attempted_and_wrong(monkeypatch):
    monkeypatch.setattr(module, "SummaryWriter", SummaryWriter, raising=False)
    assert "the lines as they were given" in repr(checks.train_and_log(module._starter_loop))

    def attempted(folder, epochs):
        return module._starter_loop(folder, epochs)

    assert "`steps` counts epochs" in repr(checks.train_and_log(attempted))


@pytest.mark.parametrize("words", WRONG_FIXES)
def test_a_loop_that_is_still_wrong_is_explained(words):
    threads = threading.active_count()
    assert words in message_for(checks.train_and_log, WRONG_FIXES[words])
    assert threading.active_count() == threads


# Exercise 4.


def predicted(actions, sure_by=("flush", "close"), files_by="add after close", first=1):
    files, points, waiting, closed = first, 0, 0, False
    for action in actions:
        if action == "add":
            if closed and files_by == "add after close":
                files += 1
            closed = False
            waiting += 1
        if action == "close":
            closed = True
            files += files_by == "close"
        if action in sure_by:
            points, waiting = points + waiting, 0
    return files, points


def since_the_last(actions):
    """Return a prediction that starts again at 0 after each flush or close."""
    ends = [place for place, action in enumerate(actions) if action != "add"]
    first = ends[-2] if len(ends) > 1 else 0
    return predicted(actions)[0], actions[first : ends[-1]].count("add") if ends else 0


def first_alone(actions):
    end = next((place for place, action in enumerate(actions) if action != "add"), 0)
    return predicted(actions)[0], end


WRONG_PREDICTIONS = {
    "you call all 3 points sure": lambda actions: (predicted(actions)[0], actions.count("add")),
    "close() writes points to disk, as flush() does": lambda actions: predicted(actions, sure_by=("flush",)),
    "not at the first": first_alone,
    "do not start again at 0": since_the_last,
    "The first one exists as soon as": lambda actions: (actions.count("close"), predicted(actions)[1]),
    "close() opens none": lambda actions: predicted(actions, files_by="close"),
    "an add after a close opens another": lambda actions: (1, predicted(actions)[1]),
    "a real writer left": lambda actions: (9, 9),
    "It should return two numbers": lambda actions: 3,
}


def test_the_right_prediction_passes():
    assert checks.survivors(predicted).passed


@pytest.mark.parametrize("words", WRONG_PREDICTIONS)
def test_a_wrong_prediction_is_explained(words):
    assert words in message_for(checks.survivors, WRONG_PREDICTIONS[words])
