"""The words about checkpoints."""

from loop_doctor.messages.parts import HINT, Message, Plural

MESSAGES: dict[str, Message] = {
    "best-weights-not-copied": Message(
        "The kept weights are not a copy. state_dict() returns references to the weights of the model, and they change "
        "with every further step: at the end, the best weights are simply the last ones.",
        {
            "loaded": (
                Plural(
                    "steps",
                    "One more step changed the kept weights before they were loaded.",
                    "{steps:,} more steps changed the kept weights before they were loaded.",
                ),
                "Loading them changed nothing.",
            ),
            "saved": (
                Plural(
                    "steps",
                    "One more step changed the kept weights before they were saved.",
                    "{steps:,} more steps changed the kept weights before they were saved.",
                ),
            ),
        },
        {"": "best_state = {{name: value.clone() for name, value in model.state_dict().items()}}"},
        "08_the_whole_loop",
    ),
    "resumed-without-optimizer-state": Message(
        "Training resumes from a checkpoint, but the optimizer starts from nothing. Its momentum and averages are "
        "lost, and the loss may jump.",
        {
            "": (
                "The checkpoint contains `{counter}` = {value:,}, from which the loop goes on, and the state of an "
                "optimizer.",
                "No optimizer loaded it before the first step of {optimizer}.",
            )
        },
        {"": 'optimizer.load_state_dict(checkpoint["optimizer"])'},
        "08_the_whole_loop",
        HINT,
    ),
}
