"""The words about the order and the effect of zero_grad(), backward() and step()."""

from loop_doctor.messages.parts import Message, Plural

MESSAGES: dict[str, Message] = {
    "missing-zero-grad": Message(
        "The gradients are never cleared. backward() adds to what is already there, so each step uses the gradients of "
        "all batches so far. With a small learning rate, this even looks faster at first.",
        {
            "": (
                "The gradient of `{name}` still contained step {step}'s gradient when the next backward call added to "
                "it.",
                "{count:,} of {steps:,} steps used such a gradient.",
            )
        },
        {"": "optimizer.zero_grad()  # in every iteration, before loss.backward()"},
        "04_zero_grad",
    ),
    "zero-grad-before-step": Message(
        "The gradients are cleared between backward() and step(). Nothing is left for the step, so nothing is learned.",
        {
            "all": ("{count:,} times, the gradients that backward() computed were gone at step().",),
            "some": (
                "{count:,} times, the gradients of a backward() were cleared before any step.",
                "Each of the {steps:,} steps used only the last micro-batch.",
            ),
        },
        {"": "optimizer.zero_grad()\nloss.backward()\noptimizer.step()"},
        "04_zero_grad",
    ),
    "missing-step": Message(
        "Gradients are computed and never used: the weights stay as they were.",
        {
            "optimizer": ("The weights of {optimizer} received gradients {count:,} times, and none of them changed.",),
            "model": ("The weights of the model received gradients {count:,} times, and none of them changed.",),
        },
        {"": "loss.backward()\noptimizer.step()  # after backward()"},
        "01_optimizers",
    ),
    "missing-backward": Message(
        "step() is called, but no weight ever receives a gradient. In that case step() changes nothing and raises no "
        "error.",
        {
            "none": ("{count:,} times, a step found no gradient at all.", "backward() was never called."),
            "useless": (
                "{count:,} times, a step found no gradient at all.",
                Plural(
                    "backwards",
                    "backward() was called once, on a loss that does not depend on any weight.",
                    "backward() was called {backwards:,} times, on a loss that does not depend on any weight.",
                ),
            ),
            "cut": (
                "{count:,} times, a step found no gradient at all.",
                "backward() was called {backwards:,} times, but `{by}` in line {line} takes the model's output out of "
                "the graph, so no call reached the weights behind it: {names}.",
            ),
        },
        {
            "": "loss.backward()  # before optimizer.step(), on the loss exactly as the model produced it",
            "cut": "output = model(x)  # exactly as it is; the loss has to be computed from this tensor",
        },
        "01_optimizers",
    ),
    "repeated-step": Message(
        "The same gradients are used for two steps. The weights move farther than your learning rate suggests.",
        {"": ("{count:,} times, a step used the same gradients as the step before it.",)},
        {"": "optimizer.step()  # once for each backward()"},
        "01_optimizers",
    ),
    "optimizer-of-another-model": Message(
        "The optimizer holds the weights of another model, and the weights that receive gradients never change. This "
        "happens when the model is created again, or copied, after the optimizer.",
        {
            "": (
                "The weights of the optimizer received no gradient in {count:,} of {steps:,} steps.",
                "The gradients went to {names}.",
            )
        },
        {"": "optimizer = torch.optim.SGD(model.parameters(), lr=…)  # after the model is created"},
        "01_optimizers",
    ),
    "parameters-not-optimized": Message(
        "A part of the model receives gradients, but no optimizer holds it: it keeps its initial values.",
        {
            "": (
                "These parameters of {model}, {numbers:,} of its {all_numbers:,} numbers, received gradients and never "
                "changed: {names}.",
            )
        },
        {
            "": "optimizer = torch.optim.SGD(model.parameters(), lr=…)  # all of them\n"
            "# or, if that part is meant to stay as it is: part.requires_grad_(False)"
        },
        "01_optimizers",
    ),
    "scheduler-before-optimizer": Message(
        "The scheduler steps before the optimizer: the first learning rate of the schedule is never used.",
        {"": ("{name}.step() came before the first optimizer.step().",)},
        {"": "optimizer.step()\nscheduler.step()  # after it"},
        "03_choosing_the_learning_rate",
    ),
}
