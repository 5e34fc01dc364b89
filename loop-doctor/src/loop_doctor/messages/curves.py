"""The words about logged values."""

import re
from typing import TypeVar

from loop_doctor.messages.parts import Message, Plural, Sentence

T = TypeVar("T")

_CURVE: tuple[Sentence, ...] = (
    "`{tag}` is {meaning}.",
    Plural("logs", "The one logged value agrees.", "All {logs:,} logged values agree."),
)
_GROWS: tuple[Sentence, ...] = (
    *_CURVE,
    "It grows from the first batch of the run to the last, whatever the model does.",
)
_LAGS: tuple[Sentence, ...] = (
    *_CURVE,
    "The last value was {last:.4g}, but the mean of that epoch alone was {alone:.4g}.",
)
_BY_BATCHES: tuple[Sentence, ...] = (
    *_CURVE,
    "The divisor was {used:,.6g} for a sum over {proper:,} batches, so the right divisor is {proper:,}.",
)
_BY_SAMPLES: tuple[Sentence, ...] = (
    *_CURVE,
    "The divisor was {used:,.6g} for a sum over {proper:,} samples, so the right divisor is {proper:,}.",
)

_METER = "# A meter is emptied there as well: losses.reset(), or a new AverageMeter().\n"
# The whole loop, because the counter belongs to the sum: by what is added up, and whether over an epoch or a window.
_EPOCH = {
    "batches": "running_loss, num_batches = 0.0, 0  # at the beginning of each epoch\n"
    "for x, y in loader:\n"
    "    …\n"
    "    running_loss += loss.item()\n"
    "    num_batches += 1\n"
    "writer.add_scalar({tag!r}, running_loss / num_batches, epoch)",
    "samples": "running_loss, num_samples = 0.0, 0  # at the beginning of each epoch\n"
    "for x, y in loader:\n"
    "    …\n"
    "    running_loss += loss.item() * len(x)  # the loss is a mean over the batch\n"
    "    num_samples += len(x)\n"
    "writer.add_scalar({tag!r}, running_loss / num_samples, epoch)",
    "sums": "running_loss, num_samples = 0.0, 0  # at the beginning of each epoch\n"
    "for x, y in loader:\n"
    "    …\n"
    "    running_loss += loss.item()  # the loss is a sum over the batch\n"
    "    num_samples += len(x)\n"
    "writer.add_scalar({tag!r}, running_loss / num_samples, epoch)",
}
_WINDOW = {
    "batches": "running_loss += loss.item()\n"
    "num_batches += 1  # starts at 0, next to running_loss\n"
    "if step % log_every == 0:\n"
    "    writer.add_scalar({tag!r}, running_loss / num_batches, step)\n"
    "    running_loss, num_batches = 0.0, 0",
    "samples": "running_loss += loss.item() * len(x)  # the loss is a mean over the batch\n"
    "num_samples += len(x)  # starts at 0, next to running_loss\n"
    "if step % log_every == 0:\n"
    "    writer.add_scalar({tag!r}, running_loss / num_samples, step)\n"
    "    running_loss, num_samples = 0.0, 0",
    "sums": "running_loss += loss.item()  # the loss is a sum over the batch\n"
    "num_samples += len(x)  # starts at 0, next to running_loss\n"
    "if step % log_every == 0:\n"
    "    writer.add_scalar({tag!r}, running_loss / num_samples, step)\n"
    "    running_loss, num_samples = 0.0, 0",
}
_MEAN = {
    **{f"{terms} of an epoch": fix for terms, fix in _EPOCH.items()},
    **{f"{terms} of a window": fix for terms, fix in _WINDOW.items()},
}


def _printed(texts: dict[str, T]) -> dict[str, T]:
    """Return the texts for logged values, and under names of their own for those that are only printed."""
    return {**texts, **{f"{variant}, printed": text for variant, text in texts.items()}}


def _fixes(fixes: dict[str, str]) -> dict[str, str]:
    """Return the fixes, which print where the user prints."""
    logged = re.compile(r"writer\.add_scalar\(\{tag!r\}, (.*), \w+\)")
    return {name: logged.sub(r"print('loss', \1)", fix) if "printed" in name else fix for name, fix in fixes.items()}


MESSAGES: dict[str, Message] = {
    "loss-never-reset": Message(
        "The running loss is never reset, so each logged value still contains every earlier loss. The curve does not "
        "show how good the model is now.",
        {"": _GROWS, **_printed({f"mean {terms} of an epoch": _LAGS for terms in _EPOCH})},
        _fixes(_printed({**_MEAN, **{f"mean {terms} of an epoch": _METER + fix for terms, fix in _EPOCH.items()}})),
        "05_running_loss",
    ),
    "loss-not-averaged": Message(
        "The number is a sum. It depends on how many batches there are, so it cannot be compared with other runs.",
        {"": _CURVE},
        _fixes(_printed(_MEAN)),
        "05_running_loss",
    ),
    "wrong-divisor": Message(
        "The sum is divided by something other than the number of terms in it, so the value is not a mean. It cannot "
        "be compared with other curves or other runs.",
        _printed(
            {
                f"{terms} of {span}": by
                for terms, by in (("batches", _BY_BATCHES), ("samples", _BY_SAMPLES), ("sums", _BY_SAMPLES))
                for span in ("an epoch", "a window")
            }
        ),
        _fixes(_printed(_MEAN)),
        "05_running_loss",
    ),
}
