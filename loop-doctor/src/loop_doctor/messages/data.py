"""The words about the data."""

from loop_doctor.messages.parts import HINT, Message

MESSAGES: dict[str, Message] = {
    "same-batch-again": Message(
        "The loop uses the same batch again and again. A new iterator begins with the first batch each time, so the "
        "rest of the data is never seen.",
        {
            "train": (
                "{count:,} times, this line began a new iterator and the loop trained on its first batch.",
                "The loader has {batches:,} batches in a fixed order, and the loop never trained on a second one.",
            ),
            "valid": (
                "{count:,} times, this line began a new iterator and the model was called on its first batch.",
                "The loader has {batches:,} batches in a fixed order, and the loop never took a second one.",
            ),
        },
        {
            "train": "for x, y in train_loader:",
            "valid": "for x, y in val_loader:",
        },
        "08_the_whole_loop",
    ),
    "not-shuffled": Message(
        "The training data is sorted by class and is not shuffled. For many steps in a row the model sees one class "
        "only, and forgets the others.",
        {
            "": (
                "In {rows:,} rows, all rows of each of the {classes:,} classes came one after the other.",
                "The loop went through them in this order {count:,} times.",
            )
        },
        {"": "train_loader = DataLoader(dataset, batch_size={batch_size}, shuffle=True)"},
        "08_the_whole_loop",
        HINT,
    ),
    "evaluated-on-training-data": Message(
        "The model is evaluated on the data it is trained on. The result looks good even if the model only memorizes "
        "its data, so overfitting stays hidden.",
        {
            "": (
                "{count:,} evaluations went through the training data ({batches:,} batches in all).",
                "Nothing ever iterates over `{unused}`.",
            )
        },
        {"": "for x, y in {unused}:"},
        "08_the_whole_loop",
    ),
}
