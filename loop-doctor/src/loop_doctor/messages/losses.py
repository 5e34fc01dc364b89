"""The words about the loss and its graph."""

from loop_doctor.messages.parts import Message, Plural

MESSAGES: dict[str, Message] = {
    "graph-kept-alive": Message(
        "Something keeps the tensors of past batches, and each of them keeps its graph. Memory grows with every batch.",
        {
            "loss": (
                "The graphs of {count:,} past losses were alive at the same time, and their number kept growing.",
            ),
            "again": (
                "One backward call went again through the graphs of {count:,} earlier outputs of the model, and their "
                "number kept growing.",
            ),
            "output": (
                "The graphs of {count:,} outputs of the model were alive at the same time.",
                "No backward call ever used them.",
            ),
            "used": (
                "{count:,} outputs of the model were alive with their graphs at the same time, after their backward "
                "calls, and their number kept growing.",
            ),
        },
        {
            "loss": "running_loss += loss.item()  # a number, without its graph",
            "output": "outputs.append(output.detach())  # the numbers, without their graph",
            "used": "outputs.append(output.detach())  # the numbers, without their graph",
            "again": "loss.backward()  # the loss of this batch alone; to add up losses, use loss.item()",
        },
        "06_item",
    ),
    "loss-not-finite": Message(
        "The loss became NaN or infinite. Nothing useful is learned after that.",
        {
            "": (
                "The loss of backward call {at} of {steps:,} was NaN or infinite.",
                Plural("count", "It happened once.", "It happened {count:,} times in all."),
            )
        },
        {
            "": "if not torch.isfinite(loss):  # before backward()\n"
            "    print(f'loss {{loss.item()}}, inputs from {{x.min().item()}} to {{x.max().item()}}')\n"
            "    continue"
        },
        "02_learning_rate",
    ),
    "learning-rate-too-high": Message(
        "The steps are too long: they drove the loss up instead of down.",
        {
            "finite": (
                "At lr = {lr:g}, ≈{count} single steps were more than half as long as the weights themselves (the "
                "longest: ≈{move:.4g} times as long).",
                "The loss rose from ≈{first:.4g} to ≈{largest:.4g} and did not come back down.",
            ),
            "nonfinite": (
                "At lr = {lr:g}, ≈{count} single steps were more than half as long as the weights themselves (the "
                "longest: ≈{move:.4g} times as long).",
                "The loss went from ≈{first:.4g} to NaN or infinity at backward call ≈{nonfinite_at}.",
            ),
        },
        {"": "lr = {lower_lr:g}  # {times:,.0f} times smaller, with newly initialized weights"},
        "02_learning_rate",
    ),
    "softmax-before-cross-entropy": Message(
        "The model ends with a softmax, and cross-entropy applies its own. Two in a row shrink the gradients: the "
        "network learns slowly and can never become confident.",
        {
            "": (
                "In {count:,} of {graphs:,} graphs that were examined, a softmax comes right before the log-softmax of "
                "the loss.",
            )
        },
        {"": "return logits  # without softmax; nn.CrossEntropyLoss() takes logits"},
        "08_the_whole_loop",
    ),
}
