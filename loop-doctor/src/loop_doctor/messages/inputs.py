"""The words about what goes into a loss."""

from loop_doctor.messages.parts import Message

MESSAGES: dict[str, Message] = {
    "wrong-loss-input": Message(
        "The loss function expects something other than what it receives. PyTorch raises no error, but the gradients "
        "are wrong or very small, so the model learns badly.",
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
                "In {count:,} of the losses that were examined, the output of a layer went into nll_loss(), which "
                "expects logarithms of probabilities. Such logarithms are never greater than 0, and some of these "
                "numbers were.",
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
        "The predictions and the targets have different shapes, so PyTorch broadcasts them and compares every "
        "prediction with every target. The model learns to predict the mean of the targets for every input.",
        {"": ("{count:,} times, {name} was computed between the shapes {one} and {two}, which gave {result}.",)},
        {"": "y = y.view_as(prediction)  # before the loss, so that both have the same shape"},
        "08_the_whole_loop",
    ),
    "loss-term-without-gradient": Message(
        "One term of the loss has no gradient. It changes the number that you see, but the model does not learn from "
        "it.",
        {
            "": (
                "The term was computed from the model's outputs and lost its gradient at `{by}`.",
                "It was seen in {count:,} of the losses that were examined, with values from {one:.4g} to {other:.4g}.",
            )
        },
        {
            "detached": "loss = loss + term  # without detach() or .data",
            "number": "loss = loss + term  # the tensor itself; item() is only for what you log",
            "no_grad": "term = …  # outside of torch.no_grad()\nloss = loss + term",
            "choice": (
                "probabilities = logits.softmax(dim=1)  # they have a gradient; `{by}` has none\n"
                "term = 1 - probabilities.gather(1, y[:, None]).mean()  # the expected share of mistakes"
            ),
        },
        "08_the_whole_loop",
    ),
    "graph-cut": Message(
        "A part of the model is used at each step and never learns: this line takes its output out of the graph, so no "
        "gradient comes back to it.",
        {
            "": (
                "`{by}` took numbers out of the graph, and in the steps that were examined, they went back into the "
                "model {count:,} times.",
                "These weights are in the optimizer and never received a gradient: {names}.",
            )
        },
        {
            "detached": "features = encoder(x)  # without detach() or .data",
            "number": "features = encoder(x)  # the tensor itself; NumPy and Python numbers have no gradient",
            "no_grad": "features = encoder(x)  # outside of torch.no_grad()",
            "choice": (
                "one_hot = F.gumbel_softmax(logits, hard=True)  # has a gradient; `{by}` has none\n"
                "features = one_hot @ embedding.weight  # in place of embedding(choice)"
            ),
        },
        "01_optimizers",
    ),
}
