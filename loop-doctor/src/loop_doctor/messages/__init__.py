"""The words for each code: whole sentences with named fields, so that they can be translated one by one."""

from loop_doctor.messages import (
    accumulation,
    carried,
    checkpoints,
    clipping,
    curves,
    data,
    harmless,
    inputs,
    losses,
    modes,
    scalers,
    schedules,
    steps,
    writers,
)
from loop_doctor.messages.harmless import HABITS
from loop_doctor.messages.parts import COURSE, HINT, PROBLEM, Message, Plural, Sentence

__all__ = [
    "CONSEQUENCE",
    "COURSE",
    "HABITS",
    "HINT",
    "MESSAGES",
    "PROBLEM",
    "SAME_MISTAKE",
    "Message",
    "Plural",
    "Sentence",
]

# The sentence about other tags with the same mistake.
SAME_MISTAKE = Plural("others", "One more tag is like it.", "{others:,} more tags are like it.")
# A consequence, reported with its cause.
CONSEQUENCE = "Consequence ({code}): {evidence}"

MESSAGES: dict[str, Message] = {
    code: message
    for group in (
        steps,
        accumulation,
        clipping,
        scalers,
        inputs,
        carried,
        losses,
        schedules,
        modes,
        data,
        checkpoints,
        writers,
        curves,
        harmless,
    )
    for code, message in group.MESSAGES.items()
}
