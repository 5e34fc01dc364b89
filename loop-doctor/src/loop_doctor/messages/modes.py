"""The words about train and eval mode."""

from loop_doctor.messages.parts import HINT, Message, Plural

MESSAGES: dict[str, Message] = {
    "eval-mode-while-training": Message(
        "The model is trained in eval mode: dropout is off, and batch norm uses its running averages.",
        {"": ("{count:,} of {steps:,} steps used outputs computed in eval mode.", "It affects {names}.")},
        {"": "model.train()  # at the beginning of each epoch, also after each validation"},
        "08_the_whole_loop",
    ),
    "train-mode-while-evaluating": Message(
        "The model is evaluated in train mode. Dropout then removes values at random, and batch norm uses the averages "
        "of each evaluation batch and takes them into its running averages. The numbers are wrong, and with batch norm "
        "the trained model changes too.",
        {
            "": (
                "{calls:,} times, the model was called in train mode without gradients and with no backward() "
                "between, to compute losses or predictions.",
                "It affects {names}.",
            )
        },
        {"": "model.eval()\nwith torch.no_grad():\n    …  # the evaluation\nmodel.train()  # back to training"},
        "08_the_whole_loop",
    ),
    "frozen-norm-still-learns": Message(
        "Frozen batch norm layers are in train mode. requires_grad = False stops their weights, but not their running "
        "averages: the frozen part of the model keeps changing.",
        {
            "": (
                Plural(
                    "count",
                    "One batch norm layer with frozen weights took in each training batch: {names}.",
                    "{count:,} batch norm layers with frozen weights took in each training batch: {names}.",
                ),
            )
        },
        {
            "part": "model.train()\n{part}.eval()  # the frozen part, each time after train()",
            "": "model.train()\n"
            "for layer in model.modules():\n"
            "    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not layer.weight.requires_grad:\n"
            "        layer.eval()  # each time after train()",
        },
        "08_the_whole_loop",
    ),
    "validation-builds-graph": Message(
        "Validation builds graphs that are never used. They cost memory and time.",
        {"": ("{count:,} times, the model was called in eval mode with gradients on, and no backward() followed.",)},
        {"": "with torch.no_grad():\n    …  # the validation loop"},
        "06_item",
        HINT,
    ),
}
