"""The words about the clipping of gradients."""

from loop_doctor.messages.parts import Message

IN_PLACE = "loss.backward()\ntorch.nn.utils.{call}(model.parameters(), {limit})\noptimizer.step()"

MESSAGES: dict[str, Message] = {
    "clipping-misplaced": Message(
        "The gradients are clipped at the wrong time, so your limit does not do what it is meant for. The right time "
        "is once for each step, after all gradients of the step are computed and before the step uses them.",
        {
            "late": (
                "{count:,} times, {call}() clipped gradients that a step had already used, and they were thrown away "
                "after that.",
                "No step used a clipped gradient.",
            ),
            "early": (
                "{count:,} times, {call}() was called before backward() had computed any gradients.",
                "No step used a clipped gradient.",
            ),
            "scaled": (
                "{count:,} times, {call}() clipped gradients that were still multiplied by the GradScaler's factor.",
                "Compared with those, {limit} is tiny, so nearly every gradient is cut down to almost nothing.",
            ),
            "micro": (
                "In {count:,} steps, {call}() was called after each of the {k} micro-batches.",
                "It clips the sum so far each time, so the first micro-batches count less than the last one.",
            ),
        },
        {
            "late": IN_PLACE,
            "early": IN_PLACE,
            "scaled": "scaler.unscale_(optimizer)\n"
            "torch.nn.utils.{call}(model.parameters(), {limit})\n"
            "scaler.step(optimizer)\nscaler.update()",
            "micro": "if (i + 1) % {k} == 0:\n"
            "    torch.nn.utils.{call}(model.parameters(), {limit})\n"
            "    optimizer.step()\n"
            "    optimizer.zero_grad()",
        },
        "01_optimizers",
    ),
}
