"""The words about the order and the effect of zero_grad(), backward() and step()."""

from loop_doctor.messages.parts import Message, Plural

MESSAGES: dict[str, Message] = {
    "missing-zero-grad": Message(
        "The gradients are not cleared after a step. backward() adds to what is already there, so the next steps use "
        "the gradients of earlier batches again. With a small learning rate, this even looks faster at first.",
        {
            "": (
                "The gradient of `{name}` still contained step {step}'s gradient when the next backward call added to "
                "it.",
                "{count:,} of {steps:,} steps used such a gradient.",
            ),
            "accumulation": (
                "The loss is divided, and the gradients are cleared every {k} iterations, as in an accumulation over "
                "{k} micro-batches, but a step is taken in every iteration.",
                "{count:,} of {steps:,} steps used gradients that an earlier step had used.",
            ),
        },
        {
            "": "optimizer.zero_grad()  # in every iteration, before loss.backward()",
            "accumulation": "if (i + 1) % {k} == 0:\n    optimizer.step()\n    optimizer.zero_grad()",
        },
        "04_zero_grad",
    ),
    "zero-grad-before-step": Message(
        "Gradients are cleared between backward() and step(). A step uses only what is left then, and nothing is "
        "learned from the gradients that are gone.",
        {
            "all": ("{count:,} times, all gradients that backward() had computed were gone at step().",),
            "some": (
                "{count:,} times, the gradients of a backward() were cleared before any step.",
                "Each of the {steps:,} steps used only the last micro-batch.",
            ),
        },
        {
            "": "optimizer.zero_grad()\nloss.backward()\noptimizer.step()",
            "some": "loss.backward()\n"
            "if (i + 1) % {k} == 0:\n"
            "    optimizer.step()\n"
            "    optimizer.zero_grad()  # only after a step",
        },
        "04_zero_grad",
    ),
    "gradients-leak-in": Message(
        "Another loss leaves gradients in weights that it is not meant to train, and the next step of those weights "
        "uses them. In a GAN, the generator's loss then trains the discriminator to be fooled.",
        {
            "": (
                "A loss that trains another optimizer's weights went back through {name} and left gradients there.",
                "They were not cleared before this backward() added to them, and {count:,} of {steps:,} steps used the "
                "sum.",
            )
        },
        {"": "optimizer.zero_grad()  # the optimizer of these weights, right before this backward()"},
        "04_zero_grad",
    ),
    "optimizer-recreated": Message(
        "A new optimizer is created again and again for the same weights. What the last one had gathered, such as "
        "momentum or Adam's averages, is lost each time, and the first steps of each new one are poor.",
        {
            "": (
                "This line created {count:,} {name} optimizers for the same {weights:,} parameters, one after another.",
            )
        },
        {"": "optimizer = {kind}(model.parameters(), lr=…)  # once, before the loop\nfor epoch in range(num_epochs):"},
        "01_optimizers",
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
        "Some weights receive gradients, but no optimizer holds them, so they keep their initial values.",
        {
            "frozen": (
                "Every weight that the optimizer holds is frozen (`requires_grad` is False), so none of its {steps:,} "
                "steps changed anything.",
                "These weights are not frozen, and no optimizer holds them: {names}.",
            ),
            "list": (
                "These parameters, {numbers:,} numbers, received gradients and never changed: {names}.",
                "{model} keeps them in a Python list or dictionary, and model.parameters() does not look into one.",
            ),
            "module": (
                "All {numbers:,} numbers of {model} received gradients from the same losses as the weights that are "
                "trained, and never changed: {names}.",
            ),
            "": (
                "These parameters of {model}, {numbers:,} of its {all_numbers:,} numbers, received gradients and never "
                "changed: {names}.",
            ),
        },
        {
            "frozen": "for p in model.parameters():\n"
            "    p.requires_grad_(True)  # or only those that you want to train\n"
            "optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=…)",
            "list": "{lists}  # in __init__",
            "module": "optimizer = torch.optim.SGD([*model.parameters(), *part.parameters()], lr=…)  # both of them\n"
            "# or, if that part is meant to stay as it is: part.requires_grad_(False)",
            "": "optimizer = torch.optim.SGD(model.parameters(), lr=…)  # all of them\n"
            "# or, if that part is meant to stay as it is: part.requires_grad_(False)",
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
