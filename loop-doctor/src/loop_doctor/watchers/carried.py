"""Forward passes that a later backward call goes through again: recurrent states, and closures that keep a loss."""

import weakref
from types import CodeType
from typing import Any

from torch import Tensor

from loop_doctor.call_sites import Location
from loop_doctor.messages.endings import CHANGED_IN_PLACE, SECOND_BACKWARD
from loop_doctor.records import OptimizerRecord, Record
from loop_doctor.watchers.patches import AnyFunction

MAX_NODES = 10_000  # of one graph that are looked at
SURE = 10  # passes in a row after which nothing more is looked at
FOLLOWED = 64  # calls of one line in a row that are looked at
KEY = "loop doctor use"
FAILURES = (SECOND_BACKWARD, CHANGED_IN_PLACE)

# Nodes that show a weight in another shape or type: the operation that uses it comes after them.
_VIEWS = frozenset(
    f"{name}Backward0"
    for name in (
        "Alias",
        "AsStrided",
        "Expand",
        "Permute",
        "ReshapeAlias",
        "Select",
        "Slice",
        "Squeeze",
        "T",
        "ToCopy",
        "Transpose",
        "Unsqueeze",
        "View",
    )
)


Uses = dict[Any, list[Tensor]]  # operations, and the weights that each of them uses
Marks = dict[Any, tuple["Use", list[Tensor]]]


class Use:
    """One operation of a graph that uses weights, as a backward call found it first.

    Attributes:
        weights: the ids of the weights; they live as long as the node that carries this mark.
        versions: the sum of their versions.
        line: the path by which the program came to the backward call.
        updates: how many updates of weights there had been.
        length: how many forward passes in a row, each built on the one before, end here.
    """

    __slots__ = ("length", "line", "updates", "versions", "weights")

    def __init__(self, weights: list[Tensor], line: int, updates: int, length: int):
        self.weights = frozenset(map(id, weights))
        self.versions = _versions(weights)
        self.line, self.updates, self.length = line, updates, length


class CarriedWatcher:
    """Looks whether a backward call goes through a forward pass that an earlier call has gone through."""

    def __init__(self, record: Record):
        self._record = record
        self._looks: dict[int, int] = {}
        self._following: dict[int, int] = {}  # lines whose every call is looked at, and how many more

    def look(self, roots: list[Tensor], line: int, location: Location | None, closure: OptimizerRecord | None) -> None:
        """Look at the graphs of a backward call that is about to begin, if it is one of those to look at."""
        before = self._looks.get(line, 0)
        self._looks[line] = number = before + 1
        # The first, second, fourth, eighth … call of a line, and the one after each of them.
        due = not number & before or not before & (before - 1)
        if not (due or line in self._following) or self._record.carried.length >= SURE:
            return
        new, old = _walk([root.grad_fn for root in roots if root.grad_fn is not None])
        if closure is not None and old and _stale(new, old, closure):
            self._record.carried.stale.note(location)
        updates = self._record.num_steps + self._record.num_manual_updates
        length = self._length(new, old, line, updates)
        self._follow(line, location, length)
        for node, weights in new.items():
            node.metadata[KEY] = Use(weights, line, updates, max(length, 1))

    def failed(self, message: str) -> None:
        """Note that the backward call that was looked at last failed, if that is because of an earlier pass."""
        carried = self._record.carried
        if carried.last == self._record.num_backwards and any(e.pattern.search(message) for e in FAILURES):
            carried.num_failures += 1

    def watched_closure(self, closure: AnyFunction, optimizer: OptimizerRecord) -> AnyFunction:
        """Return a closure that does the same, and notices if it returns a loss again that it has returned before."""
        record = self._record
        last: tuple[weakref.ref[Tensor], int, int] | None = None

        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal last
            weights = _versions([weight for p in optimizer.parameters if (weight := p.ref()) is not None])
            calls = record.num_backwards + record.num_gradients
            loss = closure(*args, **kwargs)
            if (
                not isinstance(loss, Tensor)
                or loss.is_inference()
                or record.num_backwards + record.num_gradients > calls
            ):
                last = None
                return loss
            if last is not None and last[0]() is loss and last[1] == loss._version and last[2] != weights:
                record.carried.stored.note(_last_line(closure) or optimizer.location)
            last = weakref.ref(loss), loss._version, weights
            return loss

        return watched

    def _length(self, new: Uses, old: Marks, line: int, updates: int) -> int:
        """Return how many passes in a row end here, each built on the one before with the same weights; 0 if one."""
        if not new or not old:
            return 0
        weights = {id(weight) for some in new.values() for weight in some}
        length = 0
        for node in _built_on(new, old):
            use, its_weights = old[node]
            if use.line == line and use.weights & weights:
                later = use.updates != updates or use.versions != _versions(its_weights)
                length = max(length, use.length + later)
        return length

    def _follow(self, line: int, location: Location | None, length: int) -> None:
        """Look at the next call of this line too if this one was built on an earlier pass."""
        carried = self._record.carried
        left = self._following.pop(line, None)
        if not length:
            carried.num_cuts += left is not None
            return
        carried.num_links += 1
        if left != 0:
            self._following[line] = FOLLOWED if left is None else left - 1
        if length > 1:
            carried.last = self._record.num_backwards
            carried.location = carried.location or location
            carried.length = max(carried.length, length)


def _walk(roots: list[Any]) -> tuple[Uses, Marks]:
    """Return the operations of a graph that use weights: those without a mark, and the first ones with a mark."""
    new: Uses = {}
    old: Marks = {}
    waiting, seen = list(roots), set(roots)
    while waiting and len(seen) < MAX_NODES:
        node = waiting.pop()
        weights = _weights_of(node)
        if weights:
            mark = node.metadata.get(KEY)
            if mark is not None:
                old[node] = mark, weights
                continue
            new[node] = weights
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                waiting.append(below)
    return new, old


def _built_on(new: Uses, old: Marks) -> set[Any]:
    """Return the marked operations whose results the new operations depend on."""
    waiting = [below for node in new for below, _ in node.next_functions if below is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        for below, _ in () if node in old else node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                waiting.append(below)
    return seen & old.keys()


def _weights_of(node: Any) -> list[Tensor]:
    """Return the weights that an operation uses."""
    found = []
    for below, _ in node.next_functions:
        while below is not None and below.name() in _VIEWS and below.next_functions:
            below = below.next_functions[0][0]
        if type(below).__name__ == "AccumulateGrad":
            found.append(below.variable)
    return found


def _versions(weights: list[Tensor]) -> int:
    return sum(weight._version for weight in weights)


def _stale(new: Uses, old: Marks, optimizer: OptimizerRecord) -> bool:
    """Return whether all uses of an optimizer's weights are older than the last change of these weights."""
    held = {id(parameter.ref()) for parameter in optimizer.parameters}
    if any(id(weight) in held for weights in new.values() for weight in weights):
        return False
    uses = [(use, weights) for use, weights in old.values() if use.weights & held]
    return bool(uses) and all(use.versions != _versions(weights) for use, weights in uses)


def _last_line(closure: AnyFunction) -> Location | None:
    """Return the line on which a function ends, which is the one that returns the loss in a short closure."""
    code = getattr(closure, "__code__", None)
    if not isinstance(code, CodeType):
        return None
    line = max((line for _, _, line in code.co_lines() if line is not None), default=code.co_firstlineno)
    return Location(code.co_filename, line, code.co_name)
