"""The words for each code: whole sentences with named fields, so that they can be translated one by one."""

from dataclasses import dataclass

PROBLEM, HINT = "problem", "hint"
COURSE = "The Training Loop, Line by Line"


@dataclass(frozen=True)
class Plural:
    """One sentence in two forms; the field named `by` decides between them."""

    by: str
    one: str
    many: str


Sentence = str | Plural


@dataclass(frozen=True)
class Message:
    """What is said about one code.

    Attributes:
        message: what is wrong and why it matters.
        evidence: for each variant of the diagnosis, the sentences that show what was seen; "" is any other variant.
        fix: for each variant, the fix as code.
        lesson: the lesson of the course that explains it, by the name of its notebook.
        level: PROBLEM or HINT.
    """

    message: str
    evidence: dict[str, tuple[Sentence, ...]]
    fix: dict[str, str]
    lesson: str
    level: str = PROBLEM


_CURVE = (
    "`{tag}` is {meaning}.",
    Plural("logs", "The one logged value agrees.", "All {logs:,} logged values agree."),
)
_DIVIDE = {
    "samples": "num_samples += len(x)  # next to running_loss += …\n"
    "writer.add_scalar({tag!r}, running_loss / num_samples, step)",
    "batches": "num_batches += 1  # next to running_loss += …\n"
    "writer.add_scalar({tag!r}, running_loss / num_batches, step)",
}

_WRITTEN_AFTER_CLOSE = Plural(
    "count", "Something was written once after close().", "Something was written {count:,} times after close()."
)

# The sentence about other tags with the same mistake.
SAME_MISTAKE = Plural("others", "One more tag is like it.", "{others:,} more tags are like it.")
# A consequence, reported with its cause.
CONSEQUENCE = "Consequence ({code}): {evidence}"

HABITS = {
    "zero-grad-after-step": "zero_grad() comes after step() instead of before backward(); the gradients are cleared in "
    "time.",
    "no-eval-mode": "Validation runs without eval(); this model has neither dropout nor batch norm, so its outputs are "
    "the same.",
    "closed-twice": "close() is called on a writer that is already closed; the second call does nothing.",
}

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
        },
        {"": "loss.backward()  # before optimizer.step(), on the loss exactly as the model produced it"},
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
    "accumulation-not-scaled": Message(
        "The gradients of several micro-batches are added and not divided by their number: the step is that many times "
        "longer than the step of one large batch.",
        {"": ("{k} backward calls make up one step, and their losses are not scaled: {count:,} of {steps:,} steps.",)},
        {"": "(loss / {k}).backward()  # {k} micro-batches make up a step"},
        "04_zero_grad",
        HINT,
    ),
    "accumulation-tail-dropped": Message(
        "The micro-batches at the end do not fill a step. Their gradients are lost, or they leak into the next epoch.",
        {
            "cleared": (
                "{k} micro-batches make up a step.",
                Plural(
                    "count",
                    "Once, gradients left over at the end ({left} of {k}) were cleared without a step.",
                    "{count:,} times, gradients left over at the end ({left} of {k}) were cleared without a step.",
                ),
            ),
            "mixed": (
                "{k} micro-batches make up a step.",
                Plural(
                    "count",
                    "Once, gradients left over at the end of an epoch ({left} of {k}) leaked into the next step.",
                    "{count:,} times, gradients left over at the end of an epoch ({left} of {k}) leaked into the next "
                    "step.",
                ),
            ),
            "end": (
                "{k} micro-batches make up a step.",
                Plural("left", "The last one never reached a step.", "The last {left} never reached a step."),
            ),
        },
        {"": "if (i + 1) % accumulation_steps == 0 or i + 1 == len(loader):\n    optimizer.step()"},
        "04_zero_grad",
    ),
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
        },
        {
            "loss": "running_loss += loss.item()  # a number, without its graph",
            "output": "outputs.append(output.detach())  # the numbers, without their graph",
            "again": "state = state.detach()  # before the next batch; then backward() needs no retain_graph",
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
        {"": "if not torch.isfinite(loss):\n    raise RuntimeError(f'loss is {{loss.item()}}')"},
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
        {"": "lr = {lower_lr:g}  # ten times smaller, with newly initialized weights"},
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
        {"": "with SummaryWriter(…) as writer:  # closes once, at the end\n    train(writer)"},
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
        {"": "with SummaryWriter(…) as writer:  # closes at the end, also after an error\n    train(writer)"},
        "07_summary_writer",
    ),
    "scalar-as-image": Message(
        "add_image received a single number. It expects an image and raises an error.",
        {"": (Plural("count", "`{tag}` was a number, once.", "`{tag}` was a number, {count:,} times."),)},
        {"": "writer.add_scalar({tag!r}, value, step)"},
        "07_summary_writer",
    ),
    "waits-every-step": Message(
        "The program reads a number from the accelerator at every step, and waits for it every time.",
        {"": ("It read {waits:,} numbers in {steps:,} steps.",)},
        {"": "running_loss += loss.detach()  # on the device\nif step % 100 == 0:\n    value = running_loss.item()"},
        "06_item",
        HINT,
    ),
    "loss-never-reset": Message(
        "The sum is never reset. It grows from the first batch of the run to the last, whatever the model does.",
        {"": _CURVE},
        {"": "running_loss = 0.0  # at the beginning of each epoch"},
        "05_running_loss",
    ),
    "loss-not-averaged": Message(
        "The number is a sum. It depends on how many batches there are, so it cannot be compared with other runs.",
        {"": _CURVE},
        _DIVIDE,
        "05_running_loss",
    ),
    "wrong-divisor": Message(
        "The sum is divided by something other than the number of terms in it.",
        {"": _CURVE},
        _DIVIDE,
        "05_running_loss",
    ),
    "harmless-here": Message(
        "This is often reported as a mistake. In this loop it changes nothing.",
        {"": ("{habits}",)},
        {"": "# nothing to do"},
        "08_the_whole_loop",
        HINT,
    ),
}
