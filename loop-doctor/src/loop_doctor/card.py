"""The card: all findings of one block, for a terminal and for a notebook."""

import html
import re
from pathlib import Path

from loop_doctor.explain import Finding, fill, where
from loop_doctor.messages import COURSE, PROBLEM, Plural
from loop_doctor.records import Ending, Record

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
# The same after an error.
ENDED_HEADLINES = {
    (0, 0): "Loop doctor: the block ended with {kind}",
    (0, 1): "Loop doctor: the block ended with {kind}, and there is 1 hint",
    (0, 2): "Loop doctor: the block ended with {kind}, and there are {hints:,} hints",
    (1, 0): "Loop doctor: the block ended with {kind}, and there is 1 problem",
    (1, 1): "Loop doctor: the block ended with {kind}, and there are 1 problem and 1 hint",
    (1, 2): "Loop doctor: the block ended with {kind}, and there are 1 problem and {hints:,} hints",
    (2, 0): "Loop doctor: the block ended with {kind}, and there are {problems:,} problems",
    (2, 1): "Loop doctor: the block ended with {kind}, and there are {problems:,} problems and 1 hint",
    (2, 2): "Loop doctor: the block ended with {kind}, and there are {problems:,} problems and {hints:,} hints",
}
ENDED = "The block ended with an error"
EXPLAINED = "The finding {code} above explains this error."
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
    lines = [_headline(findings, record.ending), *what_was_seen(record)]
    causes, others = _by_ending(findings, record.ending)
    for number, finding in enumerate(causes, 1):
        lines += _finding_as_text(number, finding)
    if record.ending is not None:
        lines += _ending_as_text(record.ending, causes)
    for number, finding in enumerate(others, len(causes) + 1):
        lines += _finding_as_text(number, finding)
    if curves:
        lines += ["", "What was logged:", *(f"   {tag}: {meaning}" for tag, meaning in curves.items())]
    return "\n".join(lines)


def as_html(findings: list[Finding], curves: dict[str, str], record: Record) -> str:
    """Return the card for a notebook; the user's own strings are escaped."""
    parts = [STYLE, '<div class="loop-doctor">', f"<h4>{html.escape(_headline(findings, record.ending))}</h4>"]
    parts.append(f'<p class="seen">{_inline(" ".join(what_was_seen(record)))}</p>')
    causes, others = _by_ending(findings, record.ending)
    parts += [_finding(finding) for finding in causes]
    if record.ending is not None:
        parts.append(_ending(record.ending, causes))
    parts += [_finding(finding) for finding in others]
    if not findings and record.num_backwards and record.ending is None:
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


def _headline(findings: list[Finding], ending: Ending | None) -> str:
    problems = sum(finding.level == PROBLEM for finding in findings)
    hints = len(findings) - problems
    headlines, kind = (HEADLINES, "") if ending is None else (ENDED_HEADLINES, ending.kind)
    return headlines[min(problems, 2), min(hints, 2)].format(problems=problems, hints=hints, kind=kind)


def _by_ending(findings: list[Finding], ending: Ending | None) -> tuple[list[Finding], list[Finding]]:
    """Return the findings that explain the error at the end, if there was one, and the others."""
    codes = () if ending is None else ending.explained_by
    causes = [finding for finding in findings if finding.code in codes]
    return causes, [finding for finding in findings if finding.code not in codes]


def _ending_rows(ending: Ending, causes: list[Finding]) -> list[tuple[str, str]]:
    """Return what is said about the error, without PyTorch's own message."""
    if causes:
        return [("Where", where(ending.location)), ("Why", EXPLAINED.format(code=causes[0].code))]
    rows = [("Where", where(ending.location))]
    if ending.explanation:
        rows += [("Why", ending.explanation), ("Fix", ending.fix)]
    return rows


def _ending_as_text(ending: Ending, causes: list[Finding]) -> list[str]:
    lines = ["", ENDED, f"   {ending.kind}: {ending.message}" if ending.message else f"   {ending.kind}"]
    for name, text in _ending_rows(ending, causes):
        lines += [f"   {f'{name}:' if not i else '':<7} {line}" for i, line in enumerate(text.splitlines())]
    return lines


def _finding_as_text(number: int, finding: Finding) -> list[str]:
    return [
        "",
        f"{number}. {finding.code} ({finding.level})",
        f"   {finding.message}",
        f"   Seen:   {finding.evidence}",
        f"   Where:  {finding.where}",
        *(f"   {'Fix:' if not i else '':<7} {line}" for i, line in enumerate(finding.fix.splitlines())),
        f"   Lesson: {LESSON.format(lesson=finding.lesson, course=COURSE)}",
    ]


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


def _ending(ending: Ending, causes: list[Finding]) -> str:
    shown = {"Where": "<code>{}</code>", "Why": "{}", "Fix": "<pre>{}</pre>"}
    body = "".join(
        f"<dt>{name.lower()}</dt><dd>{shown[name].format(_inline(text) if name == 'Why' else html.escape(text))}</dd>"
        for name, text in _ending_rows(ending, causes)
    )
    message = f"{ending.kind}: {ending.message}" if ending.message else ending.kind
    return (
        f'<div class="finding problem"><span class="code">{ENDED}</span><br><code>{html.escape(message)}</code>'
        f"<dl>{body}</dl></div>"
    )


def _lesson(lesson: str) -> str:
    """Return the lesson's name, as a link if its notebook is next to the one that runs, as in the course."""
    if Path(f"{lesson}.ipynb").is_file():
        return f'<a href="{lesson}.ipynb">{lesson}</a>'
    return LESSON.format(lesson=lesson, course=COURSE)


def _inline(text: str) -> str:
    """Escape a text, and set what is between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
