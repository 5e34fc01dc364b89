"""The words about logged values."""

from loop_doctor.messages.parts import Message, Plural

_CURVE = (
    "`{tag}` is {meaning}.",
    Plural("logs", "The one logged value agrees.", "All {logs:,} logged values agree."),
)
_DIVIDE = {
    "samples": "num_samples += len(x)  # next to running_loss += …\n"
    "writer.add_scalar({tag!r}, running_loss / num_samples, step)",
    "batches": "num_batches += 1  # next to running_loss += …\n"
    "writer.add_scalar({tag!r}, running_loss / num_batches, step)",
    "samples, printed": "num_samples += len(x)  # next to running_loss += …\nprint('loss', running_loss / num_samples)",
    "batches, printed": "num_batches += 1  # next to running_loss += …\nprint('loss', running_loss / num_batches)",
}

MESSAGES: dict[str, Message] = {
    "loss-never-reset": Message(
        "The sum is never reset. It grows from the first batch of the run to the last, whatever the model does.",
        {"": _CURVE},
        {"": "running_loss = 0.0  # at the beginning of each epoch"},
        "05_running_loss",
    ),
    "loss-not-averaged": Message(
        "The number is a sum. It depends on how many batches there are, so it cannot be compared with other runs.",
        {"": _CURVE},
        _DIVIDE,
        "05_running_loss",
    ),
    "wrong-divisor": Message(
        "The sum is divided by something other than the number of terms in it.",
        {"": _CURVE},
        _DIVIDE,
        "05_running_loss",
    ),
}
