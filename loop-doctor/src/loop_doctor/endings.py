"""Read the error that ended a block: what it was, which line of the user's code raised it, and what it means."""

import os
import re
import traceback
from types import TracebackType

from loop_doctor.call_sites import Location, is_user_file
from loop_doctor.messages.endings import (
    CHANGED_IN_PLACE,
    GRAPHS_PILED_UP,
    KNOWN,
    OUT_OF_MEMORY,
    STEPPED_BEFORE_BACKWARD,
    Known,
)
from loop_doctor.parameters import Parameter
from loop_doctor.records import Ending, Record

LONGEST = 160  # characters of a message that are quoted
SCANNED = 4000  # characters of a message that are read
# Files that belong to no user: an error inside them is reported at the line that called them.
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}", os.path.dirname(os.__file__) + os.sep)
# What a tensor is called that the backward pass needs and that is only another view of a weight.
_VIEWS_OF_WEIGHTS = ("AsStrided", "T", "Transpose", "Permute", "View", "Unsqueeze")


def ending_of(error: BaseException, trace: TracebackType | None, record: Record, weights: list[Parameter]) -> Ending:
    """Describe an error by texts and numbers only: the error itself would keep the user's frames and tensors alive."""
    kind = type(error).__name__
    # Unlike str(error), this cannot fail for an error whose own __str__ does.
    text = "".join(traceback.format_exception_only(error)).strip()
    message = re.sub(rf"^(?:[\w.]+\.)?{re.escape(kind)}(?:: |$)", "", text)[:SCANNED]
    location, quoted = _location(trace), _quote(message)
    for known in KNOWN:
        found = known.pattern.search(message)
        if found is not None:
            explanation, fix = _words(known, found, record, weights)
            return Ending(kind, quoted, location, explanation, fix, known.explained_by)
    return Ending(kind, quoted, location)


def _words(known: Known, found: re.Match[str], record: Record, weights: list[Parameter]) -> tuple[str, str]:
    """Return the explanation and the fix, with the numbers from the message and from what was seen."""
    # One name with a number behind it for each form of a message.
    fields = {name.rstrip("0123456789"): text for name, text in found.groupdict().items() if text is not None}
    explanation, fix = known.explanation, known.fix
    growing = (record.losses_kept, record.outputs_kept, record.outputs_kept.used, record.passed_again)
    graphs = max(kept.lasting if kept.grows() else 0 for kept in growing)
    if known is OUT_OF_MEMORY and graphs:
        explanation, fix = GRAPHS_PILED_UP
        return explanation.format(graphs=graphs), fix
    if known is CHANGED_IN_PLACE:
        weight = _stepped_weight(found, weights)
        if weight is not None:
            explanation, fix = STEPPED_BEFORE_BACKWARD
            fields |= {"name": weight.name, "optimizer": weight.optimizers[0].name}
    return explanation.format(**fields), fix.format(**fields)


def _stepped_weight(found: re.Match[str], weights: list[Parameter]) -> Parameter | None:
    """Return the weight that an optimizer changed between a forward pass and its backward pass, if that is sure."""
    source = re.search(r" of (\w+?)(?:Backward\d+)?,", found["source"] or "")
    if source is not None and source[1] not in _VIEWS_OF_WEIGHTS:
        return None
    shape = sorted(int(size) for size in found["shape"].split(", ") if size)
    now, expected = int(found["version"]), int(found["expected"])
    for weight in weights:
        tensor = weight.ref()
        if tensor is None or not weight.optimizers or sorted(tensor.shape) != shape or tensor._version != now:
            continue
        if expected < weight.stepped_version:  # the step came after the forward pass
            return weight
    return None


def _location(trace: TracebackType | None) -> Location | None:
    """Return the innermost line of the user's code in a traceback."""
    inner = library = None
    while trace is not None:
        code = trace.tb_frame.f_code
        if is_user_file(code.co_filename):
            location = Location(code.co_filename, trace.tb_lineno, code.co_name)
            if any(part in code.co_filename for part in _INSTALLED):
                library = location
            else:
                inner = location
        trace = trace.tb_next
    return inner or library


def _quote(message: str) -> str:
    """Return the beginning of a message: its first sentence or line, if that is short enough."""
    line = message.partition("\n")[0].strip()
    if len(line) <= LONGEST:
        return line
    sentence = re.match(r".{20,}?[.;!](?= )", line[:LONGEST])
    return sentence[0].rstrip(";") if sentence else line[: LONGEST - 1].rstrip() + "…"
