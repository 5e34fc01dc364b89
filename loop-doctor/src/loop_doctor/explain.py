"""Put a diagnosis into words: what was seen, with numbers, where, and how to fix it."""

import linecache
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loop_doctor.call_sites import Location
from loop_doctor.meanings import meaning_of
from loop_doctor.messages import CONSEQUENCE, HABITS, MESSAGES, SAME_MISTAKE, Plural, Sentence
from loop_doctor.rules.base import Diagnosis

MAX_NAMES = 4

IN_CELL = re.compile(r"ipykernel_\d+|<ipython-input")
NOWHERE = "not in your own code"
# By whether the line is in a notebook's cell, and whether it is in a function.
PLACES = {
    (True, True): "line {line} of its cell in {function}()",
    (True, False): "line {line} of its cell",
    (False, True): "{file}, line {line} in {function}()",
    (False, False): "{file}, line {line}",
}


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor found.

    Attributes:
        code: its short name, the same everywhere.
        level: "problem" or "hint".
        message: what is wrong and why it matters.
        evidence: what was seen, with numbers.
        fix: the fix, as code.
        lesson: the lesson of the course that explains it, by the name of its notebook.
        where: the file or cell, the line and its text.
        file: the full path of the file; None in a notebook's cell, or if the place is not known.
        line: the line in the file or cell, or None.
    """

    code: str
    level: str
    message: str
    evidence: str
    fix: str
    lesson: str
    where: str
    file: str | None = None
    line: int | None = None

    def __repr__(self) -> str:
        return f"{self.code} ({self.level}): {self.evidence}"


def explain(diagnosis: Diagnosis, consequences: list[Diagnosis]) -> Finding:
    """Put a diagnosis into words, together with what follows from it.

    Args:
        diagnosis: what holds.
        consequences: what holds only because of it; reported in the same finding.
    """
    message, fields = MESSAGES[diagnosis.code], _fields(diagnosis)
    evidence = [_evidence(diagnosis)]
    for after in consequences:
        evidence.append(CONSEQUENCE.format(code=after.code, evidence=_evidence(after)))
    return Finding(
        diagnosis.code,
        message.level,
        message.message,
        " ".join(evidence),
        message.fix[diagnosis.variant if diagnosis.variant in message.fix else ""].format(**fields),
        message.lesson,
        where(diagnosis.location),
        _file(diagnosis.location),
        diagnosis.location.line if diagnosis.location else None,
    )


def fill(sentence: Sentence, fields: dict[str, Any]) -> str:
    """Fill in a sentence, in the form that its number asks for."""
    if isinstance(sentence, Plural):
        sentence = sentence.one if fields[sentence.by] == 1 else sentence.many
    return sentence.format(**fields)


def _evidence(diagnosis: Diagnosis) -> str:
    evidence, fields = MESSAGES[diagnosis.code].evidence, _fields(diagnosis)
    sentences = evidence[diagnosis.variant if diagnosis.variant in evidence else ""]
    if fields.get("others"):
        sentences = (*sentences, SAME_MISTAKE)
    return " ".join(fill(sentence, fields) for sentence in sentences)


def _fields(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the fields of the messages: the count, the facts, and those facts that have to be put into words."""
    fields = {"count": diagnosis.count, **diagnosis.facts}
    if "names" in fields:
        fields["names"] = _list_of(fields["names"])
    if "reading" in fields:
        fields["meaning"] = meaning_of(fields["reading"])
    if "habits" in fields:
        fields["habits"] = " ".join(HABITS[habit] for habit in fields["habits"])
    return fields


def _list_of(names: list[str]) -> str:
    shown = [f"`{name}`" for name in names[:MAX_NAMES]]
    return ", ".join(shown if len(names) <= MAX_NAMES else [*shown, "…"])


def where(location: Location | None) -> str:
    """Return where a location is: the cell or file, the line, and its text."""
    if location is None:
        return NOWHERE
    in_cell = IN_CELL.search(location.file) is not None
    in_function = not location.function.startswith("<")
    place = PLACES[in_cell, in_function].format(
        file=_short(location.file), line=location.line, function=location.function
    )
    text = linecache.getline(location.file, location.line).strip()
    return f"{place}: {text}" if text else place


def _file(location: Location | None) -> str | None:
    if location is None or IN_CELL.search(location.file) or location.file.startswith("<"):
        return None
    return os.path.abspath(location.file)


def _short(file: str) -> str:
    path = Path(file)
    inside = os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else ""
    return inside or str(Path(*path.parts[-2:]))
