"""The words about the use of a GradScaler."""

from loop_doctor.messages.parts import Message, Plural

WHOLE = "scaler.scale(loss).backward()\nscaler.step(optimizer)\nscaler.update()"

MESSAGES: dict[str, Message] = {
    "scaler-misused": Message(
        "A GradScaler multiplies the loss by a large factor, removes it from the gradients before the step, and then "
        "adjusts it. If one of these calls is missing, repeated or out of order, the step uses gradients of the "
        "wrong size, or PyTorch stops with an error.",
        {
            "direct": (
                Plural(
                    "count",
                    "optimizer.step() was called once with gradients that still carried the factor.",
                    "{count:,} times, optimizer.step() was called with gradients that still carried the factor.",
                ),
                "Only scaler.step(optimizer) removes it.",
            ),
            "not-scaled": (
                Plural(
                    "count",
                    "scaler.step() was called once, but the loss had not been scaled.",
                    "{count:,} times, scaler.step() was called, but the loss had not been scaled.",
                ),
                "Its gradients are divided by a factor that they never had.",
            ),
            "not-updated": (
                "scaler.step() was called again for the same optimizer, and update() had not been called.",
            ),
            "twice": ("unscale_() was called twice for the same step, and the factor can only be removed once.",),
            "alone": ("update() was called, but no step had come before it.",),
            "early": (
                "{count:,} times, update() was called between backward() and the step that used its gradients.",
                "The step may then divide them by another factor than they were multiplied by.",
            ),
            "recreated": (
                "This line made {count:,} GradScalers that stepped the same optimizer one after another.",
                "Each one starts again from the first factor, and its first steps may be skipped.",
            ),
        },
        {
            "": WHOLE,
            "twice": "scaler.unscale_(optimizer)  # once, right before clipping and scaler.step()",
            "alone": "if (i + 1) % accumulation_steps == 0:\n"
            "    scaler.step(optimizer)\n"
            "    scaler.update()\n"
            "    optimizer.zero_grad()",
            "early": "scaler.step(optimizer)  # of every optimizer\nscaler.update()  # once, after all of them",
            "recreated": "scaler = torch.amp.GradScaler()  # once, before the loop\nfor epoch in range(num_epochs):",
        },
        "08_the_whole_loop",
    ),
}
