"""The words: what a verdict means, how it was seen, where, why it matters, how to cure it, which lesson tells more."""

import html
import linecache
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loop_doctor.ledger import BATCHES, FIXED, SAMPLES, Reading
from loop_doctor.record import Place, Record
from loop_doctor.rules import Diagnosis

PROBLEM, HINT = "problem", "hint"


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor found.

    Attributes:
        code: its short name, the same everywhere in the course.
        level: "problem" or "hint".
        message: what is wrong and why it matters.
        evidence: what was seen, with numbers.
        fix: the cure, as code.
        lesson: the lesson that explains it, by the name of its notebook.
        where: the file or cell, the line and its text.
    """

    code: str
    level: str
    message: str
    evidence: str
    fix: str
    lesson: str
    where: str

    def __repr__(self) -> str:
        return f"{self.code} ({self.level}): {self.evidence}"


@dataclass(frozen=True)
class _Text:
    message: str
    evidence: Callable[[Diagnosis], str]
    fix: str | Callable[[Diagnosis], str]
    lesson: str
    level: str = PROBLEM


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count:,} times"


def _of_steps(verdict: Diagnosis, key: str = "steps") -> str:
    return f"{verdict.count:,} of {verdict.facts[key]:,} steps"


def _names(names: list[str], most: int = 4) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _number(value: float) -> str:
    return f"≈{value:.4g}" if math.isfinite(value) else "not a finite number"


def _kept(verdict: Diagnosis) -> str:
    if verdict.facts["what"] == "loss":
        return f"the graphs of {verdict.count:,} past losses were alive at the same time, and they became more and more"
    if verdict.facts["what"] == "again":
        return (
            f"one backward call went again through the graphs of {verdict.count:,} earlier outputs of the model, and "
            "they became more and more"
        )
    return (
        f"the graphs behind {verdict.count:,} outputs of the model were alive at the same time; no backward call ever "
        "came for them"
    )


def _let_go(verdict: Diagnosis) -> str:
    return {
        "loss": "running_loss += loss.item()  # a number, without its graph",
        "output": "outputs.append(output.detach())  # the numbers, without their graph",
        "again": "state = state.detach()  # before the next batch; then backward() needs no retain_graph",
    }[verdict.facts["what"]]


def _missing_step(verdict: Diagnosis) -> str:
    weights = f"{verdict.facts['optimizer']}'s weights" if verdict.facts["optimizer"] else "the model's weights"
    return f"gradients came into {weights} {_times(verdict.count)}, and not one of those weights changed"


def _no_gradient(verdict: Diagnosis) -> str:
    text = f"{_times(verdict.count)} a step found no gradient at all, and backward() was "
    if not verdict.facts["backwards"]:
        return text + "never called"
    return text + f"called {_times(verdict.facts['backwards'])} on a loss that no weight had a part in"


def _gone(verdict: Diagnosis) -> str:
    if verdict.facts["lost"] == "some":
        return (
            f"{_times(verdict.count)} the gradients of a backward() were cleared before any step: each of the "
            f"{verdict.facts['steps']:,} steps used the last micro-batch alone"
        )
    return f"gradients came with backward() and were gone at step(): {_times(verdict.count)}"


def _stale(verdict: Diagnosis) -> str:
    facts = verdict.facts
    return (
        f"the gradient of `{facts['name']}` still held step {facts['step']}'s gradient when the next backward call "
        f"added to it; so it was in {_of_steps(verdict)}"
    )


def _not_finite(verdict: Diagnosis) -> str:
    facts = verdict.facts
    total = f"{_times(verdict.count)} in all"
    return f"the loss of backward call {facts['at']} of {facts['steps']:,} was NaN or infinite, {total}"


def _too_high(verdict: Diagnosis) -> str:
    facts = verdict.facts
    text = (
        f"at lr = {facts['lr']:g}, ≈{verdict.count} times a single step was more than half as long as the weights "
        f"themselves (the longest {_number(facts['move'])} times as long); the loss went from "
        f"{_number(facts['first'])} "
    )
    if facts["nonfinite_at"]:
        return text + f"to NaN or infinity at backward call ≈{facts['nonfinite_at']}"
    return text + f"up to {_number(facts['largest'])} and did not come back"


def _dropped(verdict: Diagnosis) -> str:
    k, left, how = (verdict.facts[key] for key in ("k", "left", "how"))
    start = f"{k} micro-batches make a step; "
    if how == "cleared":
        return start + f"{_times(verdict.count)}, {left} left over at the end were cleared without a step"
    if how == "mixed":
        return start + f"{_times(verdict.count)}, {left} left over at the end of an epoch went into the next one's step"
    return start + f"the last {left} never reached one"


def _closed(verdict: Diagnosis) -> str:
    closes = verdict.facts["closes"]
    return (
        f"{_times(verdict.count)} something was written after close(); the writer was closed {_times(closes)} in all, "
        "and each writing after a close() began a new event file"
    )


def _curve(verdict: Diagnosis) -> str:
    tag, others = verdict.facts["tag"], len(verdict.facts["tags"]) - 1
    more = f" ({others} more tag{'s' * (others > 1)} like it)" if others else ""
    logs = verdict.facts["logs"]
    agree = "the one logged number agrees" if logs == 1 else f"{logs:,} of {logs:,} logged numbers agree"
    return f"`{tag}` is {words(verdict.facts['reading'])}; {agree}{more}"


def _divide_fix(verdict: Diagnosis) -> str:
    tag, reading = verdict.facts["tag"], verdict.facts["reading"]
    samples = reading.weighted or reading.series.reduction == "sum"
    count = "num_samples" if samples else "num_batches"
    added = "len(x)" if samples else "1"
    return f"{count} += {added}  # beside running_loss += …\nwriter.add_scalar({tag!r}, running_loss / {count}, step)"


HABITS = {
    "zero-grad-after-step": "zero_grad() after step() instead of before backward(): the gradients are clear in time",
    "no-eval-mode": "no eval() for validation: this model has neither dropout nor batch norm, so it answers the same",
    "closed-twice": "close() on a writer that is closed already: the second one does nothing",
}

TEXTS: dict[str, _Text] = {
    "missing-zero-grad": _Text(
        "The gradients are never cleared. backward() adds to what is there, so each step uses the gradients of all "
        "batches so far. At a small learning rate this even looks faster at first.",
        _stale,
        "optimizer.zero_grad()  # in each turn, before loss.backward()",
        "04_zero_grad",
    ),
    "zero-grad-before-step": _Text(
        "The gradients are cleared between backward() and step(). Nothing is left for the step, so nothing is learned.",
        _gone,
        "optimizer.zero_grad()\nloss.backward()\noptimizer.step()",
        "04_zero_grad",
    ),
    "missing-step": _Text(
        "Gradients are computed and never used: the weights stay as they were.",
        _missing_step,
        "loss.backward()\noptimizer.step()  # after backward()",
        "01_optimizers",
    ),
    "missing-backward": _Text(
        "step() is called, but no gradient ever came to a weight. step() says nothing and changes nothing then.",
        _no_gradient,
        "loss.backward()  # before optimizer.step(), on the loss as the model made it",
        "01_optimizers",
    ),
    "repeated-step": _Text(
        "The same gradients are used for two steps. That is a larger step than your learning rate says.",
        lambda v: f"{_times(v.count)} a step found the gradients that the step before had used",
        "optimizer.step()  # once for each backward()",
        "01_optimizers",
    ),
    "optimizer-of-another-model": _Text(
        "The optimizer holds weights of another model: those that get the gradients never change. This happens when "
        "the model is made anew, or copied, after the optimizer.",
        lambda v: f"its weights got no gradient in {_of_steps(v)}; the gradients went to {_names(v.facts['names'])}",
        "optimizer = torch.optim.SGD(model.parameters(), lr=…)  # after the model is made",
        "01_optimizers",
    ),
    "parameters-not-optimized": _Text(
        "A part of the model gets gradients, and no optimizer holds it: it stays as it was made.",
        lambda v: (
            f"{_names(v.facts['names'])} of {v.facts['model']} ({v.facts['numbers']:,} of its "
            f"{v.facts['all_numbers']:,} numbers) got gradients and never changed"
        ),
        "optimizer = torch.optim.SGD(model.parameters(), lr=…)  # all of them\n"
        "# or, if that part shall stay as it is: part.requires_grad_(False)",
        "01_optimizers",
    ),
    "scheduler-before-optimizer": _Text(
        "The scheduler steps before the optimizer: the first learning rate of the schedule is never used.",
        lambda v: f"{v.facts['name']}.step() came before the first optimizer.step()",
        "optimizer.step()\nscheduler.step()  # after it",
        "03_choosing_the_learning_rate",
    ),
    "accumulation-not-scaled": _Text(
        "The gradients of several micro-batches are added and not divided: the step is that many times longer than "
        "one large batch would make it.",
        lambda v: f"{v.facts['k']} backward calls make one step, and their losses went in as they are: {_of_steps(v)}",
        lambda v: f"(loss / {v.facts['k']}).backward()  # {v.facts['k']} micro-batches make a step",
        "04_zero_grad",
        HINT,
    ),
    "accumulation-tail-dropped": _Text(
        "The micro-batches at the end do not fill a step. Their gradients are lost, or they mix into the next epoch.",
        _dropped,
        "if (i + 1) % accumulation_steps == 0 or i + 1 == len(loader):\n    optimizer.step()",
        "04_zero_grad",
    ),
    "graph-kept-alive": _Text(
        "Something keeps the tensors of past batches, and each of them keeps its graph. Memory grows with every batch.",
        _kept,
        _let_go,
        "06_item",
    ),
    "loss-not-finite": _Text(
        "The loss became NaN or infinite. From there on nothing useful is learned.",
        _not_finite,
        "if not torch.isfinite(loss):\n    raise RuntimeError(f'loss is {loss.item()}')",
        "02_learning_rate",
    ),
    "learning-rate-too-high": _Text(
        "The steps are too long: they threw the loss up instead of down.",
        _too_high,
        lambda v: f"lr = {v.facts['lr'] / 10:g}  # ten times smaller, from fresh weights",
        "02_learning_rate",
    ),
    "softmax-before-cross-entropy": _Text(
        "The model ends with a softmax, and cross-entropy applies its own. Two of them squeeze the gradients: the "
        "network learns slowly and cannot become sure.",
        lambda v: (
            f"in {v.count:,} of {v.facts['graphs']:,} graphs looked at, a softmax stood right before the "
            "log-softmax of the loss"
        ),
        "return logits  # without softmax; nn.CrossEntropyLoss() takes logits",
        "08_the_whole_loop",
    ),
    "eval-mode-while-training": _Text(
        "The model is trained in eval mode: dropout is off and batch norm uses old averages.",
        lambda v: f"{_of_steps(v)} used outputs made in eval mode; it matters for {_names(v.facts['layers'], 2)}",
        "model.train()  # at the beginning of each epoch, also after each validation",
        "08_the_whole_loop",
    ),
    "validation-builds-graph": _Text(
        "Validation builds graphs that nobody needs. It costs memory and time.",
        lambda v: f"{_times(v.count)} the model was called in eval mode with gradients on, and no backward() followed",
        "with torch.no_grad():\n    …  # the validation loop",
        "06_item",
        HINT,
    ),
    "writer-closed-early": _Text(
        "The writer is closed in the loop. That raises no error: each further point opens a new event file, "
        "TensorBoard may show only some of them, and it costs time.",
        _closed,
        "with SummaryWriter(…) as writer:  # closes once, at the end\n    train(writer)",
        "07_summary_writer",
    ),
    "writer-left-open": _Text(
        "The writer is still open. What it has not written yet is lost if the program ends now.",
        lambda v: f"the writer of `{v.facts['folder']}` was given {v.facts['written']:,} records and was not closed",
        "with SummaryWriter(…) as writer:  # closes at the end, also after an error\n    train(writer)",
        "07_summary_writer",
    ),
    "scalar-as-image": _Text(
        "add_image was given a number. It takes pictures and stops with an error here.",
        lambda v: f"`{v.facts['tag']}` was a single number, {_times(v.count)}",
        lambda v: f"writer.add_scalar({v.facts['tag']!r}, value, step)",
        "07_summary_writer",
    ),
    "waits-every-step": _Text(
        "The program reads a number from the accelerator in each step, and waits for it each time.",
        lambda v: f"{v.facts['waits']:,} readings in {v.facts['steps']:,} steps",
        "running_loss += loss.detach()  # on the device\nif step % 100 == 0:\n    value = running_loss.item()",
        "06_item",
        HINT,
    ),
    "loss-never-reset": _Text(
        "The sum is never reset. It grows from the first batch of the run to the last, whatever the model does.",
        _curve,
        "running_loss = 0.0  # at the beginning of each epoch",
        "05_running_loss",
    ),
    "loss-not-averaged": _Text(
        "The number is a sum. Its height depends on how many batches there are, so it can be compared with nothing.",
        _curve,
        _divide_fix,
        "05_running_loss",
    ),
    "wrong-divisor": _Text(
        "The sum is divided by something else than what was added.",
        _curve,
        _divide_fix,
        "05_running_loss",
    ),
    "harmless-here": _Text(
        "This is often reported as a mistake. Here it changes nothing.",
        lambda v: "; ".join(HABITS[habit] for habit in v.facts["habits"]),
        "# nothing to do",
        "08_the_whole_loop",
        HINT,
    ),
}


def words(reading: Reading | None) -> str:
    """Say what a tag's numbers are.

    Args:
        reading: the plainest reading that fits all of them, or None.
    """
    if reading is None:
        return "no loss that was seen; left alone"
    valid = reading.series.phase == "valid"
    low, high = reading.counts
    if reading.origin == "batch" or high == 1:
        by = ", divided by its samples" if reading.divisor == SAMPLES and not reading.weighted else ""
        return ("the validation loss of the last batch" if valid else "this batch's loss") + by
    span = {
        "epoch": "of this validation" if valid else "of this epoch",
        "window": f"of the last {reading.window} batches",
        "log": f"of the last {high} batches" if low == high else "since it was logged last",
        "start": "since training began",
    }[reading.origin]
    losses = "validation loss" if valid else "batch loss"
    if reading.divisor == FIXED:
        every = "every " if reading.origin == "start" else "the "
        plural = losses if every == "every " else losses + "es"
        total = f"the sum of {every}{plural} {span}" + (", each times its batch size" if reading.weighted else "")
        return total if reading.fixed == 1 else f"{total}, divided by {_divisor(reading)}{_factor(reading)}"
    if reading.weighted and reading.divisor == BATCHES:
        by = f"divided by the number of batches{_factor(reading)}"
        return f"the sum of the {losses}es times their batch sizes {span}, {by}"
    if not reading.weighted and reading.divisor == SAMPLES and reading.series.reduction != "sum":
        return f"the sum of the {losses}es {span}, divided by the number of samples{_factor(reading)}"
    each = "each sample counts the same" if reading.divisor == SAMPLES else "each batch counts the same"
    return f"the mean {losses} {span} ({each})"


def _divisor(reading: Reading) -> str:
    fixed, epoch = int(reading.fixed), reading.series.epoch_size
    now = reading.series.now
    if fixed in (epoch.count, now.count if reading.series.num_epochs == 1 else -1):
        return f"the number of batches in one epoch ({fixed:,})"
    if fixed in (epoch.samples, now.samples if reading.series.num_epochs == 1 else -1):
        return f"the number of samples in one epoch ({fixed:,})"
    return f"{fixed:,}"


def _factor(reading: Reading) -> str:
    factor = reading.farthest
    if abs(factor - 1) < 1e-9:
        return ""
    times = factor if factor > 1 else 1 / factor
    return f": up to {times:.3g} times too {'large' if factor > 1 else 'small'}"


def finding_of(verdict: Diagnosis, after: list[Diagnosis]) -> Finding:
    """Put a verdict, and what follows from it, into words.

    Args:
        verdict: what holds.
        after: what holds only because of it; told as one story.
    """
    text = TEXTS[verdict.code]
    evidence = text.evidence(verdict)
    for consequence in after:
        evidence += f". It follows ({consequence.code}): {TEXTS[consequence.code].evidence(consequence)}"
    fix = text.fix if isinstance(text.fix, str) else text.fix(verdict)
    return Finding(verdict.code, text.level, text.message, evidence, fix, text.lesson, where(verdict.place))


def where(place: Place | None) -> str:
    """Say where a place is: the cell or file, the line, and its text."""
    if place is None:
        return "not in the learner's own lines"
    line = linecache.getline(place.file, place.line).strip()
    function = "" if place.function.startswith("<") else f" in {place.function}()"
    if re.search(r"ipykernel_\d+|<ipython-input", place.file):
        spot = f"line {place.line} of its cell"
    else:
        spot = f"{_short(place.file)}, line {place.line}"
    return f"{spot}{function}: {line}" if line else f"{spot}{function}"


def _short(file: str) -> str:
    path = Path(file)
    inside = os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else ""
    return inside or str(Path(*path.parts[-2:]))


def seen(record: Record) -> str:
    """Say in one sentence what was seen at all."""
    steps: dict[str, int] = {}
    for optimizer in record.optimizers:
        steps[optimizer.name] = steps.get(optimizer.name, 0) + optimizer.num_steps
    parts = [f"{_plural(count, 'step')} of {name}" for name, count in steps.items()] or ["no optimizer"]
    parts.append(_plural(record.num_backwards, "backward call"))
    models = sorted({root.name for root in record.roots})
    parts.append(f"the model{'s' * (len(models) > 1)} {', '.join(models)}" if models else "no model")
    if record.writers:
        parts.append(_plural(len(record.writers), "writer"))
    return "Seen: " + ", ".join(parts) + "."


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def notes(record: Record) -> list[str]:
    """What limits the findings, if anything does."""
    found = []
    if not record.num_backwards and not record.num_gradients and not record.num_steps:
        found.append("No backward call and no optimizer step came inside the block, so there was no loop to judge.")
    if record.tensorboardx:
        found.append("tensorboardX's writer is not watched; torch.utils.tensorboard's is.")
    if record.other_threads:
        found.append("Another thread trained too. Only the thread that opened the block is watched.")
    if record.interrupted:
        found.append("The block ended early, so the findings tell what happened up to there.")
    return found


def as_text(findings: list[Finding], curves: dict[str, str], record: Record) -> str:
    """The card for a terminal."""
    lines = [f"Loop doctor: {_headline(findings)}", seen(record), *notes(record)]
    for number, finding in enumerate(findings, 1):
        lines += [
            "",
            f"{number}. {finding.code} ({finding.level})",
            f"   {finding.message}",
            f"   Seen:   {finding.evidence}.",
            f"   Where:  {finding.where}",
            *(f"   {'Cure:' if not i else '':<7} {line}" for i, line in enumerate(finding.fix.splitlines())),
            f"   Lesson: {finding.lesson}",
        ]
    if curves:
        lines += ["", "What was logged:", *(f"   {tag}: {meaning}" for tag, meaning in curves.items())]
    return "\n".join(lines)


def _headline(findings: list[Finding]) -> str:
    problems = sum(finding.level == PROBLEM for finding in findings)
    hints = len(findings) - problems
    if not findings:
        return "nothing wrong was seen"
    return " and ".join(_plural(count, noun) for count, noun in ((problems, "problem"), (hints, "hint")) if count)


STYLE = """<style>
.loop-doctor { max-width: 860px; color: var(--jp-ui-font-color1, #222); line-height: 1.5; font-size: 14px;
  font-family: var(--jp-ui-font-family, sans-serif); }
.loop-doctor h4 { margin: 0 0 4px; font-size: 16px; }
.loop-doctor .seen { color: var(--jp-ui-font-color2, #555); margin: 0 0 8px; }
.loop-doctor .finding { border: 1px solid var(--jp-border-color2, #ccc); border-left: 5px solid #b34e00;
  border-radius: 4px; padding: 8px 14px 10px; margin: 0 0 10px; }
.loop-doctor .hint { border-left-color: #0072b2; }
.loop-doctor .well { border-left-color: #00795a; }
.loop-doctor .code { font-weight: 600; }
.loop-doctor dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 14px; margin: 6px 0 0; }
.loop-doctor dt { color: var(--jp-ui-font-color2, #555); font-weight: normal; }
.loop-doctor dd { margin: 0; min-width: 0; }
.loop-doctor pre { margin: 0; padding: 4px 8px; white-space: pre-wrap; font-size: 13px;
  background: var(--jp-layout-color2, #eee); color: inherit; }
.loop-doctor code { background: none; color: inherit; }
.loop-doctor a { color: var(--jp-content-link-color, #0072b2); }
</style>"""


def as_html(findings: list[Finding], curves: dict[str, str], record: Record) -> str:
    """The card for a notebook; the learner's own strings are escaped."""
    parts = [STYLE, '<div class="loop-doctor">', f"<h4>Loop doctor: {_headline(findings)}</h4>"]
    parts.append(f'<p class="seen">{_inline(" ".join([seen(record), *notes(record)]))}</p>')
    parts += [_card(finding) for finding in findings]
    if not findings and record.num_backwards:
        parts.append('<div class="finding well">None of the mistakes that the doctor knows is in this loop.</div>')
    if curves:
        rows = "".join(
            f"<dt><code>{html.escape(tag)}</code></dt><dd>{_inline(meaning)}</dd>" for tag, meaning in curves.items()
        )
        parts.append(f"<b>What was logged</b><dl>{rows}</dl>")
    return "".join([*parts, "</div>"])


def _card(finding: Finding) -> str:
    rows: list[tuple[str, Any]] = [
        ("seen", _inline(finding.evidence) + "."),
        ("where", f"<code>{html.escape(finding.where)}</code>"),
        ("cure", f"<pre>{html.escape(finding.fix)}</pre>"),
        ("lesson", f'<a href="{finding.lesson}.ipynb">{finding.lesson}</a>'),
    ]
    body = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return (
        f'<div class="finding {finding.level}"><span class="code">{finding.code}</span> ({finding.level})<br>'
        f"{_inline(finding.message)}<dl>{body}</dl></div>"
    )


def _inline(text: str) -> str:
    """Escape a text and set what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
