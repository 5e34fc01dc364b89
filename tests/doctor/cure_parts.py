"""What a proof of a fix is made of: a faulty loop, the fix that the doctor prints for it, and the same loop written
correctly from the start.

A loop is a text. What is between the lines `# cure` and `# end` is replaced by the printed fix, and so nothing but the
printed words decides whether the loop is right afterwards.
"""

import itertools
import linecache
import re
import textwrap
from dataclasses import dataclass
from typing import Any

import torch
from loop_doctor import LoopDoctor
from torch import nn

PRELUDE = """
import torch
import torch.nn.functional as F
from case_parts import *
from torch import nn
from torch.utils.tensorboard import SummaryWriter
"""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Cure:
    """One fix, and the loops that prove it.

    Attributes:
        code: what the doctor must report about the faulty loop, alone.
        faulty: the loop; the lines from `# cure` to `# end` are those that the fix replaces.
        right: the loop written correctly, without the doctor's words.
        fill: what a reader writes in the place of a part of the printed fix, such as `…`.
        name: distinguishes several proofs of one code.
    """

    code: str
    faulty: str
    right: str
    fill: tuple[tuple[str, str], ...] = ()
    name: str = ""


CURES: list[Cure] = []


def cure(code: str, faulty: str, right: str, fill: dict[str, str] | None = None, name: str = "") -> None:
    """Register a proof."""
    CURES.append(Cure(code, textwrap.dedent(faulty), textwrap.dedent(right), tuple((fill or {}).items()), name))


def with_fix(case: Cure, fix: str) -> str:
    """Return the faulty loop with the printed fix in its place."""
    for part, written in case.fill:
        assert part in fix, f"{part!r} is not in the printed fix:\n{fix}"
        fix = fix.replace(part, written)
    pattern = re.compile(r"^( *)# cure\n.*?^ *# end\n", re.MULTILINE | re.DOTALL)
    assert pattern.search(case.faulty), "the loop has no lines from `# cure` to `# end`"
    return pattern.sub(lambda match: textwrap.indent(fix + "\n", match[1]), case.faulty)


def run(text: str, folder: Any) -> tuple[LoopDoctor, Any]:
    """Run a loop under the doctor from the same seed; return the doctor, and what is to be compared.

    That is what the loop calls `result`, or else the weights and buffers of `model`.
    """
    file, source = f"<loop {next(_numbers)}>", PRELUDE + text
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    folder.mkdir()
    space: dict[str, Any] = {"folder": folder, "__name__": "loop"}
    torch.manual_seed(0)
    with LoopDoctor() as doctor:
        exec(compile(source, file, "exec"), space)
    model = space.get("model")
    weights = dict(model.state_dict()) if isinstance(model, nn.Module) else None
    return doctor, space.get("result", weights)
