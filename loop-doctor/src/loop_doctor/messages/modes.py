"""The words about train and eval mode."""

from loop_doctor.messages.parts import HINT, Message

MESSAGES: dict[str, Message] = {
    "eval-mode-while-training": Message(
        "The model is trained in eval mode: dropout is off, and batch norm uses its running averages.",
        {"": ("{count:,} of {steps:,} steps used outputs computed in eval mode.", "It affects {names}.")},
        {"": "model.train()  # at the beginning of each epoch, also after each validation"},
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
