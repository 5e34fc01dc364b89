"""The words about the accumulation of gradients."""

from loop_doctor.messages.parts import HINT, Message, Plural

MESSAGES: dict[str, Message] = {
    "accumulation-not-scaled": Message(
        "The gradients of several micro-batches are added and not divided by their number: the step is that many times "
        "longer than the step of one large batch.",
        {"": ("{k} backward calls make up one step, and their losses are not scaled: {count:,} of {steps:,} steps.",)},
        {"": "(loss / {k}).backward()  # {k} micro-batches make up a step"},
        "04_zero_grad",
        HINT,
    ),
    "accumulation-tail-dropped": Message(
        "The micro-batches at the end do not fill a step. Their gradients are lost, or they leak into the next epoch.",
        {
            "cleared": (
                "{k} micro-batches make up a step.",
                Plural(
                    "count",
                    "Once, gradients left over at the end ({left} of {k}) were cleared without a step.",
                    "{count:,} times, gradients left over at the end ({left} of {k}) were cleared without a step.",
                ),
            ),
            "mixed": (
                "{k} micro-batches make up a step.",
                Plural(
                    "count",
                    "Once, gradients left over at the end of an epoch ({left} of {k}) leaked into the next step.",
                    "{count:,} times, gradients left over at the end of an epoch ({left} of {k}) leaked into the next "
                    "step.",
                ),
            ),
            "end": (
                "{k} micro-batches make up a step.",
                Plural("left", "The last one never reached a step.", "The last {left} never reached a step."),
            ),
        },
        {"": "if (i + 1) % accumulation_steps == 0 or i + 1 == len(loader):\n    optimizer.step()"},
        "04_zero_grad",
    ),
}
