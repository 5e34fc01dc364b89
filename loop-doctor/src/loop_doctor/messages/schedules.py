"""The words about learning-rate schedules."""

from loop_doctor.messages.parts import Message, Plural

_SEEN = (
    "{name} has {argument} = {number:,}.",
    "scheduler.step() was called {steps:,} times in {optimizer_steps:,} optimizer steps, which are {epochs:,} epochs "
    "of {batches:,} batches.",
)
_RATE = "The learning rate went from {highest:.3g} to {last:.3g}."
_LOW = (
    "The last {low:,} of {optimizer_steps:,} optimizer steps were made at less than a thousandth of the highest rate."
)
_CALLS = (
    "scheduler.step() of {name} was called {steps:,} times in {optimizer_steps:,} optimizer steps, which are "
    "{epochs:,} epochs of {batches:,} batches."
)

MESSAGES: dict[str, Message] = {
    "schedule-out-of-step": Message(
        "The learning-rate schedule does not fit the run: it is stepped too often or too seldom for its length. The "
        "model trains at rates that the schedule was not meant to give.",
        {
            "": (_CALLS, _RATE),
            "batch": (
                _CALLS,
                "Its numbers fit epochs, and it is stepped after each batch.",
                _RATE,
            ),
            "waves": (
                *_SEEN,
                "That number counts epochs, and step() is called after each batch, so the learning rate went down and "
                "up again {waves:.1f} times.",
            ),
            "epoch": (*_SEEN, "That number counts batches, and step() is called once per epoch.", _RATE),
            "function": (
                _CALLS,
                "The schedule is as long as all optimizer steps together, and step() is called once per epoch.",
                _RATE,
            ),
            "pass": (
                *_SEEN,
                "That number counts batches, and step() is called once per epoch.",
                _RATE,
            ),
            "micro": (
                "scheduler.step() of {name} was called {steps:,} times, at each micro-batch.",
                "The optimizer made only {optimizer_steps:,} steps, because {k} micro-batches make up one step.",
                _RATE,
            ),
            "past": (
                *_SEEN,
                "A cosine is at its lowest rate after {argument} steps and then rises again.",
                "It ended at {last:.3g}.",
            ),
            "ended": ("{name} was made for {number:,} steps, and step() was called once more, so it raised an error.",),
            "early": (_CALLS, _LOW),
            "decay": (_CALLS, _LOW),
        },
        {
            "": "scheduler.step()  # as often as the schedule expects",
            "batch": "scheduler.step()  # after the loop over the batches, once per epoch",
            "waves": "scheduler.step()  # after the loop over the batches, once per epoch",
            "epoch": "scheduler.step()  # after each optimizer.step(), because {argument} counts batches",
            "function": "scheduler.step()  # after each optimizer.step(), because the schedule counts batches",
            "pass": "{argument} = num_epochs  # step() is called once per epoch",
            "micro": "scheduler.step()  # right after optimizer.step(), not at every micro-batch",
            "past": "{argument} = {steps}  # as often as scheduler.step() is called",
            "ended": "{argument} = num_epochs * len(loader)  # as often as scheduler.step() is called",
            "early": "{argument} = {steps}  # as often as scheduler.step() is called",
            "decay": "gamma = {gamma:.4f}  # the rate ends at a hundredth of its start",
        },
        "03_choosing_the_learning_rate",
    ),
    "plateau-metric-reversed": Message(
        "ReduceLROnPlateau waits for its metric to move in the wrong direction. It takes each improvement for a "
        "plateau and lowers the learning rate.",
        {
            "": (
                "The scheduler has mode={mode!r}, and the metric went from {first:.4g} to {last:.4g}.",
                Plural(
                    "lowered",
                    "The learning rate was lowered once, to {rate:.3g}.",
                    "The learning rate was lowered {lowered:,} times, to {rate:.3g}.",
                ),
            ),
            "accuracy": (
                "The scheduler has mode='min', and it was given an accuracy, which went from {first:.4g} to "
                "{last:.4g} while the loss fell.",
                Plural(
                    "lowered",
                    "The learning rate was lowered once, to {rate:.3g}.",
                    "The learning rate was lowered {lowered:,} times, to {rate:.3g}.",
                ),
            ),
            "loss": ("The scheduler has mode='max', and it was given a loss, from {first:.4g} to {last:.4g}.",),
            "epoch": (
                "It was given the numbers {first:g} to {last:g}, one after the other: a counter and not a metric.",
            ),
        },
        {
            "": 'scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", …)',
            "loss": 'scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", …)',
            "epoch": "scheduler.step(val_loss)",
        },
        "03_choosing_the_learning_rate",
    ),
}
