"""The words about TensorBoard writers, and reads from an accelerator."""

from loop_doctor.messages.parts import HINT, Message, Plural

_WRITTEN_AFTER_CLOSE = Plural(
    "count", "Something was written once after close().", "Something was written {count:,} times after close()."
)

_ALL_EPOCHS = "\n    for epoch in range(num_epochs):\n        train(writer)"
_AT_ONE_STEP = (
    "`{tag}` received {most:,} different values at step {step:,}.",
    "Of the {logs:,} values that were compared, {count:,} came at a step that already had another value.",
)
_COUNT = "global_step += 1  # global_step = 0 before the first epoch, and never again\n"

MESSAGES: dict[str, Message] = {
    "writer-closed-early": Message(
        "The writer is closed inside the loop. This raises no error: every later value opens a new event file, "
        "TensorBoard may show only some of them, and it takes time.",
        {
            "inside": (
                _WRITTEN_AFTER_CLOSE,
                Plural("closes", "The writer was closed once.", "The writer was closed {closes:,} times in all."),
                "Every write after a close() started a new event file.",
            ),
            "before": (_WRITTEN_AFTER_CLOSE, "The writer was closed before the block that was watched."),
        },
        {"": "with SummaryWriter(…) as writer:  # closes once, at the end" + _ALL_EPOCHS},
        "07_summary_writer",
    ),
    "writer-left-open": Message(
        "The writer is still open. What it has not written to disk yet is lost if the program ends now.",
        {
            "": (
                Plural(
                    "written",
                    "The writer of `{folder}` received 1 record and was not closed.",
                    "The writer of `{folder}` received {written:,} records and was not closed.",
                ),
            )
        },
        {"": "with SummaryWriter(…) as writer:  # closes at the end, also after an error" + _ALL_EPOCHS},
        "07_summary_writer",
    ),
    "scalar-as-image": Message(
        "add_image received a single number. It expects an image and raises an error.",
        {"": (Plural("count", "`{tag}` was a number, once.", "`{tag}` was a number, {count:,} times."),)},
        {"": "writer.add_scalar({tag!r}, value, step)"},
        "07_summary_writer",
    ),
    "repeated-global-step": Message(
        "Several values are logged under one name at the same step. The curve turns into vertical lines or runs back "
        "and forth, or only the last value of each step is kept.",
        {
            "": _AT_ONE_STEP,
            "without": ("`{tag}` was logged {logs:,} times without a step. All of its values are at step 0.",),
        },
        {
            "": _COUNT + "writer.add_scalar({tag!r}, loss.item(), global_step)",
            "wandb": _COUNT + "wandb.log({{{tag!r}: loss.item()}}, step=global_step)",
            "mlflow": _COUNT + "mlflow.log_metric({tag!r}, loss.item(), step=global_step)",
        },
        "07_summary_writer",
    ),
    "waits-every-step": Message(
        "The program reads a number from the accelerator at every step, and waits for it every time.",
        {"": ("It read {waits:,} numbers in {steps:,} steps.",)},
        {"": "running_loss += loss.detach()  # on the device\nif step % 100 == 0:\n    value = running_loss.item()"},
        "06_item",
        HINT,
    ),
}
