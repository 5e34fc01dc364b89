"""The card: all findings of one block, for a terminal and for a notebook."""

import html
import re
from pathlib import Path

from loop_doctor.explain import Finding, fill
from loop_doctor.messages import COURSE, PROBLEM, Plural
from loop_doctor.records import Record

# By the number of problems and of hints: none, one, or more.
HEADLINES = {
    (0, 0): "Loop doctor: nothing wrong was seen",
    (0, 1): "Loop doctor: 1 hint",
    (0, 2): "Loop doctor: {hints:,} hints",
    (1, 0): "Loop doctor: 1 problem",
    (1, 1): "Loop doctor: 1 problem and 1 hint",
    (1, 2): "Loop doctor: 1 problem and {hints:,} hints",
    (2, 0): "Loop doctor: {problems:,} problems",
    (2, 1): "Loop doctor: {problems:,} problems and 1 hint",
    (2, 2): "Loop doctor: {problems:,} problems and {hints:,} hints",
}
STEPS = Plural("count", "1 step of {optimizer}", "{count:,} steps of {optimizer}")
BACKWARDS = Plural("count", "1 backward call", "{count:,} backward calls")
MODELS = Plural("count", "the model {models}", "the models {models}")
WRITERS = Plural("count", "1 writer", "{count:,} writers")
NO_OPTIMIZER, NO_MODEL = "no optimizer", "no model"
SEEN = "Seen: {parts}."
ALL_WELL = "The doctor found none of the mistakes that it knows in this loop."
LESSON = "{lesson} of “{course}”"

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
.loop-doctor dt { width: auto; color: var(--jp-ui-font-color2, #555); font-weight: normal; }
.loop-doctor dd { width: auto; margin: 0; min-width: 0; }
.loop-doctor pre { margin: 0; padding: 4px 8px; white-space: pre-wrap; font-size: 13px;
  background: var(--jp-layout-color2, #eee); color: inherit; }
.loop-doctor code { background: none; color: inherit; }
.loop-doctor a { color: var(--jp-content-link-color, #0072b2); }
</style>"""


def as_text(findings: list[Finding], curves: dict[str, str], record: Record) -> str:
    """Return the card for a terminal."""
    lines = [_headline(findings), *what_was_seen(record)]
    for number, finding in enumerate(findings, 1):
        lines += [
            "",
            f"{number}. {finding.code} ({finding.level})",
            f"   {finding.message}",
            f"   Seen:   {finding.evidence}",
            f"   Where:  {finding.where}",
            *(f"   {'Fix:' if not i else '':<7} {line}" for i, line in enumerate(finding.fix.splitlines())),
            f"   Lesson: {LESSON.format(lesson=finding.lesson, course=COURSE)}",
        ]
    if curves:
        lines += ["", "What was logged:", *(f"   {tag}: {meaning}" for tag, meaning in curves.items())]
    return "\n".join(lines)


def as_html(findings: list[Finding], curves: dict[str, str], record: Record) -> str:
    """Return the card for a notebook; the user's own strings are escaped."""
    parts = [STYLE, '<div class="loop-doctor">', f"<h4>{_headline(findings)}</h4>"]
    parts.append(f'<p class="seen">{_inline(" ".join(what_was_seen(record)))}</p>')
    parts += [_finding(finding) for finding in findings]
    if not findings and record.num_backwards:
        parts.append(f'<div class="finding well">{ALL_WELL}</div>')
    if curves:
        rows = "".join(
            f"<dt><code>{html.escape(tag)}</code></dt><dd>{_inline(meaning)}</dd>" for tag, meaning in curves.items()
        )
        parts.append(f"<b>What was logged</b><dl>{rows}</dl>")
    return "".join([*parts, "</div>"])


def what_was_seen(record: Record) -> list[str]:
    """Return what was seen at all, and what limits the findings, as sentences."""
    return [_seen(record), *_notes(record)]


def _headline(findings: list[Finding]) -> str:
    problems = sum(finding.level == PROBLEM for finding in findings)
    hints = len(findings) - problems
    return HEADLINES[min(problems, 2), min(hints, 2)].format(problems=problems, hints=hints)


def _seen(record: Record) -> str:
    """Return one sentence about what was seen at all."""
    steps: dict[str, int] = {}
    for optimizer in record.optimizers:
        steps[optimizer.name] = steps.get(optimizer.name, 0) + optimizer.num_steps
    models = sorted({model.name for model in record.models})
    parts = [fill(STEPS, {"count": count, "optimizer": name}) for name, count in steps.items()] or [NO_OPTIMIZER]
    parts.append(fill(BACKWARDS, {"count": record.num_backwards}))
    parts.append(fill(MODELS, {"count": len(models), "models": ", ".join(models)}) if models else NO_MODEL)
    if record.writers:
        parts.append(fill(WRITERS, {"count": len(record.writers)}))
    return SEEN.format(parts=", ".join(parts))


def _notes(record: Record) -> list[str]:
    """Return what limits the findings, if anything does."""
    found = []
    if not record.num_backwards and not record.num_gradients and not record.num_steps:
        found.append("The block made no backward call and no optimizer step, so there was no loop to examine.")
    if record.tensorboardx:
        found.append("The writer of tensorboardX is not watched; the one of torch.utils.tensorboard is.")
    if record.other_threads:
        found.append("Another thread trained too. Only the thread that opened the block is watched.")
    if record.interrupted:
        found.append("The block ended early; the findings cover what happened before that.")
    return found


def _finding(finding: Finding) -> str:
    rows = [
        ("seen", _inline(finding.evidence)),
        ("where", f"<code>{html.escape(finding.where)}</code>"),
        ("fix", f"<pre>{html.escape(finding.fix)}</pre>"),
        ("lesson", _lesson(finding.lesson)),
    ]
    body = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return (
        f'<div class="finding {finding.level}"><span class="code">{finding.code}</span> ({finding.level})<br>'
        f"{_inline(finding.message)}<dl>{body}</dl></div>"
    )


def _lesson(lesson: str) -> str:
    """Return the lesson's name, as a link if its notebook is next to the one that runs, as in the course."""
    if Path(f"{lesson}.ipynb").is_file():
        return f'<a href="{lesson}.ipynb">{lesson}</a>'
    return LESSON.format(lesson=lesson, course=COURSE)


def _inline(text: str) -> str:
    """Escape a text, and set what is between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
