"""The text of a call that the user's code is making, as evidence next to what was seen while it ran."""

import itertools
import linecache
import re
from types import FrameType

MAX_LINES = 12
MAX_ASSIGNMENTS = 8


def call_text(frame: FrameType) -> str:
    """Return the call that a frame is making, and the lines that assign to the names in it."""
    file = frame.f_code.co_filename
    position = next(itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), None)
    first, last = (position[0], position[1]) if position is not None else (None, None)
    if first is None or last is None or last - first > MAX_LINES:
        return ""
    lines = linecache.getlines(file)
    text = "".join(lines[first - 1 : last])
    names = set(re.findall(r"(?<![\w.])[A-Za-z_]\w*(?!\s*[(=\w.])", text))
    # Assignments in the same function, the nearest ones first, and those outside functions.
    before = lines[frame.f_code.co_firstlineno - 1 : first - 1][::-1] + [line for line in lines if line[:1].strip()]
    assigned = [line for line in before if names & set(re.findall(r"(?:^|;)\s*(\w+)\s*=(?!=)", line))]
    return text + "".join(assigned[:MAX_ASSIGNMENTS])
