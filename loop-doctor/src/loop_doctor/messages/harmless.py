"""The words about what does no harm."""

from loop_doctor.messages.parts import HINT, Message

HABITS = {
    "zero-grad-after-step": "zero_grad() comes after step() instead of before backward(); the gradients are cleared in "
    "time.",
    "no-eval-mode": "Validation runs without eval(); this model has neither dropout nor batch norm, so its outputs are "
    "the same.",
    "closed-twice": "close() is called on a writer that is already closed; the second call does nothing.",
}

MESSAGES: dict[str, Message] = {
    "harmless-here": Message(
        "This is often reported as a mistake. In this loop it changes nothing.",
        {"": ("{habits}",)},
        {"": "# nothing to do"},
        "08_the_whole_loop",
        HINT,
    ),
}
