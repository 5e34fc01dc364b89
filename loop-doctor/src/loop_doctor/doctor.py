"""The loop doctor: a context manager and a cell magic."""

import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from loop_doctor.card import as_html, as_text, what_was_seen
from loop_doctor.codes import check_codes
from loop_doctor.explain import Finding, explain
from loop_doctor.meanings import meaning_of
from loop_doctor.records import Record
from loop_doctor.rules import diagnoses
from loop_doctor.watch import Watch

ANOTHER_WATCHES = "another LoopDoctor is watching: leave its block first, because two would see each other's hooks"

_one_at_a_time = threading.Lock()


class LoopDoctor:
    """Watches the training loop inside a `with` block, and reports what is wrong with it.

    It needs no change to the loop and leaves no trace: all hooks are removed at the end, also after an error, and
    gradients, random numbers, modes and results are the same with and without it. One doctor watches at a time, and
    it watches the thread that opened the block.

    >>> with LoopDoctor() as doctor:
    ...     pass
    >>> print(doctor)
    Loop doctor: nothing wrong was seen
    Seen: no optimizer, 0 backward calls, no model.
    The block made no backward call and no optimizer step, so there was no loop to examine.

    Args:
        harmless: also report habits that are often taken for mistakes and that change nothing here.
        ignore: codes that are not reported.

    Raises:
        ValueError: `ignore` has an unknown code.
        RuntimeError: another doctor is watching, or this one has already watched a block.
    """

    def __init__(self, *, harmless: bool = False, ignore: Iterable[str] = ()):
        self.harmless, self.ignore = harmless, check_codes([ignore] if isinstance(ignore, str) else ignore)
        self._watch: Watch | None = None
        self._record: Record | None = None

    def __enter__(self) -> "LoopDoctor":
        if self._record is not None or self._watch is not None:
            raise RuntimeError("this LoopDoctor has already watched a block: create a new one for each block")
        if not _one_at_a_time.acquire(blocking=False):
            raise RuntimeError(ANOTHER_WATCHES)
        self._watch = Watch()
        try:
            self._watch.begin()
        except BaseException as error:
            self._watch.end(error)
            self._watch = None
            _one_at_a_time.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        watch = self._watch
        if watch is None:
            raise RuntimeError("this LoopDoctor is not watching: enter its block before you leave it")
        try:
            watch.end(error, trace)
        finally:
            self._record = watch.record
            self._watch = None
            _one_at_a_time.release()

    def _seen(self) -> Record:
        if self._watch is not None:
            raise RuntimeError("the block is still open: read the findings after the block")
        if self._record is None:
            raise RuntimeError(
                "this LoopDoctor has not watched a block yet: put `with LoopDoctor() as doctor:` around your loop"
            )
        return self._record

    @property
    def findings(self) -> list[Finding]:
        """What was found, causes first; a writer that was closed after the block is no longer reported."""
        return [
            explain(diagnosis, consequences)
            for diagnosis, consequences in diagnoses(self._seen())
            if diagnosis.code not in self.ignore and (self.harmless or diagnosis.code != "harmless-here")
        ]

    @property
    def curves(self) -> dict[str, str]:
        """What the values of each scalar tag are, and those printed values that are made of losses."""
        return {name: meaning_of(tag.meaning()) for name, tag in self._seen().ledger.curves().items()}

    @property
    def seen(self) -> list[str]:
        """What was seen at all, and what limits the findings, as sentences."""
        return what_was_seen(self._seen())

    def __repr__(self) -> str:
        if self._watch is not None:
            return "LoopDoctor that is watching a block"
        if self._record is None:
            return "LoopDoctor that has not watched a block yet"
        return as_text(self.findings, self.curves, self._record)

    def _repr_html_(self) -> str | None:
        return None if self._record is None else as_html(self.findings, self.curves, self._record)


def load_ipython_extension(shell: Any) -> None:
    """Add the cell magic `%%doctor`, which runs a cell and shows the doctor's card after it, or before its error."""
    from IPython.display import display

    def doctor(line: str, cell: str) -> LoopDoctor:
        """Run the cell under the loop doctor; `%%doctor harmless` reports harmless habits too."""
        if line.strip() not in ("", "harmless"):
            raise ValueError(f"%%doctor accepts nothing or the word harmless, got {line.strip()!r}")
        watching = LoopDoctor(harmless=line.strip() == "harmless")
        # The line of the magic itself counts, so that the numbers are those that JupyterLab shows.
        source = "\n" + shell.transform_cell(cell)
        code = compile(source, shell.compile.cache(source, shell.execution_count), "exec")
        try:
            with watching:
                exec(code, shell.user_ns)  # noqa: S102  the cell under the magic
        except BaseException:
            display(watching)  # type: ignore[no-untyped-call]
            raise
        return watching

    shell.register_magic_function(doctor, "cell")
