"""The words about forward passes that a later backward call goes through again."""

from loop_doctor.messages.parts import Message, Plural

MESSAGES: dict[str, Message] = {
    "hidden-state-not-detached": Message(
        "A state that is carried from one batch to the next keeps its graph, so each backward call also goes through "
        "the batches before. Training becomes slower and needs more memory with every batch, or stops with an error.",
        {
            "grows": (
                "One backward call went through the forward passes of {count:,} batches, each built on the one "
                "before, although the weights had been updated between them.",
            ),
            "fails": (
                "The backward call that failed went through the forward pass of an earlier batch again, because this "
                "batch began with the state of that one.",
            ),
        },
        {
            "": "# before the next batch\n"
            "hidden = tuple(h.detach() for h in hidden) if isinstance(hidden, tuple) else hidden.detach()"
        },
        "06_item",
    ),
    "closure-does-not-recompute": Message(
        "The closure does not compute the loss again. The optimizer changes the weights and calls the closure to learn "
        "the loss and the gradients at the new weights, but it gets those of the old ones.",
        {
            "": (
                Plural(
                    "count",
                    "In 1 backward call inside the closure, the whole forward pass was older than the last change of "
                    "the weights.",
                    "In {count:,} backward calls inside the closure, the whole forward pass was older than the last "
                    "change of the weights.",
                ),
            ),
            "stored": (
                Plural(
                    "count",
                    "Once, the closure returned the same loss again after the weights had changed, without a backward "
                    "call.",
                    "The closure returned the same loss again {count:,} times after the weights had changed, without a "
                    "backward call.",
                ),
            ),
        },
        {
            "": "def closure():\n"
            "    optimizer.zero_grad()\n"
            "    loss = loss_fn(model(x), y)  # the prediction is made here, not before\n"
            "    loss.backward()\n"
            "    return loss"
        },
        "08_the_whole_loop",
    ),
}
