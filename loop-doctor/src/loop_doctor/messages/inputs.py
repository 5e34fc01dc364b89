"""The words about what goes into a loss."""

from loop_doctor.messages.parts import Message

MESSAGES: dict[str, Message] = {
    "wrong-loss-input": Message(
        "The loss function expects something else than what the model returns. It raises no error, and the gradients "
        "are wrong or very small.",
        {
            "sigmoid": (
                "In {count:,} of the losses that were examined, probabilities went into "
                "binary_cross_entropy_with_logits(), which applies a sigmoid of its own.",
            ),
            "probabilities": (
                "In {count:,} of the losses that were examined, probabilities went into nll_loss(), which expects "
                "their logarithms.",
            ),
            "logits": (
                "In {count:,} of the losses that were examined, logits went into nll_loss(), which expects logarithms "
                "of probabilities: some were greater than 0.",
            ),
            "divergence": (
                "In {count:,} losses, probabilities went into kl_div(), which expects their logarithms as its first "
                "argument.",
            ),
        },
        {
            "sigmoid": "return logits  # without sigmoid; BCEWithLogitsLoss() applies it",
            "probabilities": "return F.log_softmax(logits, dim=1)  # in place of softmax, for NLLLoss()",
            "logits": "loss = F.cross_entropy(logits, y)  # in place of nll_loss()",
            "divergence": "return F.log_softmax(logits, dim=1)  # in place of softmax, for kl_div()",
        },
        "08_the_whole_loop",
    ),
    "loss-shapes-broadcast": Message(
        "The shapes of the predictions and the targets differ, so PyTorch broadcasts them, and every prediction is "
        "compared with every target. The model learns to predict the mean.",
        {"": ("{count:,} times, {name} was computed between the shapes {one} and {two}, which gave {result}.",)},
        {"": "loss = F.mse_loss(model(x), y.view_as(model(x)))  # both of the same shape"},
        "08_the_whole_loop",
    ),
    "loss-term-without-gradient": Message(
        "One term of the loss has no gradient. It changes the number that you see, and the model does not learn from "
        "it.",
        {
            "": (
                "The term that is added here was computed from the model's outputs and lost its gradient in "
                "`{cut_by}`.",
                "It was seen in {count:,} losses, with different values.",
            )
        },
        {"": "…"},
        "08_the_whole_loop",
    ),
    "graph-cut": Message(
        "A part of the model is used at each step and never learns: this line takes its output out of the graph, so no "
        "gradient comes back to it.",
        {
            "": (
                "`{by}` took numbers out of the graph, and they went back into the model {count:,} times.",
                "These weights are in the optimizer and never received a gradient: {names}.",
            )
        },
        {"": "…"},
        "01_optimizers",
    ),
}
