"""What was seen in one block: counters, first places and first numbers. It does not grow with the run."""

import sys
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from loop_doctor.ledger import AT_ONCE, Ledger, Series

BLOCK = 3  # looks over which the least number of living graphs is taken

Value = TypeVar("Value")


class Known(Generic[Value]):
    """What is known of objects, each for as long as it lives.

    `WeakKeyDictionary` makes a reference for each look, and asks the object for its hash.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[weakref.ref, Value]] = {}

    def get(self, thing: object) -> Value | None:
        """Give what is known of this very object, or None."""
        held = self._held.get(id(thing))
        return held[1] if held is not None and held[0]() is thing else None

    def put(self, thing: object, value: Value) -> Value:
        """Know this of an object from now on."""
        key = id(thing)
        self._held[key] = (weakref.ref(thing, lambda _: self._held.pop(key, None)), value)
        return value


@dataclass(frozen=True)
class Place:
    """Where in the learner's code something happened."""

    file: str
    line: int
    function: str


@dataclass
class Tally:
    """How often something was seen, where first, and the first time's facts."""

    count: int = 0
    place: Place | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def note(self, place: Place | None, **facts: Any) -> None:
        """Count once more; the first place and facts are kept."""
        if self.count == 0:
            self.place, self.facts = place, facts
        self.count += 1


class Parameter:
    """One weight tensor, and what its gradient looked like when it was last seen.

    A gradient is known by its mark: a number for the tensor object and its version, which every change in place raises.
    """

    __slots__ = (
        "after",
        "before",
        "changed",
        "gradient",
        "held",
        "is_weight",
        "lost",
        "name",
        "number",
        "optimizers",
        "received",
        "ref",
        "shape",
        "stale",
        "stale_at",
        "used",
        "used_at",
        "version",
        "watched_at",
        "watched_value",
    )

    def __init__(self, parameter: Tensor, name: str):
        self.ref = weakref.ref(parameter)
        self.name, self.shape = name, tuple(parameter.shape)
        self.is_weight = isinstance(parameter, nn.Parameter)
        self.version = parameter._version
        self.before: tuple[int, int] | None = None  # the mark as a backward call found it
        self.after: tuple[int, int] | None = None  # and as it left it
        self.used: tuple[int, int] | None = None  # the mark as the last step left it
        self.used_at = 0
        self.held: int | None = None  # the step whose gradient a backward call found here
        self.stale: int | None = None  # the step whose gradient is still in this one
        self.stale_at: Place | None = None  # the backward call that added to it
        self.gradient: weakref.ref[Tensor] | None = None
        self.number = 0
        self.received = 0
        self.changed = False
        self.optimizers: list[OptimizerRecord] = []
        self.watched_at: int | None = None  # one number of the weights, for changes that raise no version
        self.watched_value = 0.0

    def mark(self) -> tuple[int, int] | None:
        """The gradient as it is now."""
        parameter = self.ref()
        if parameter is None or (gradient := parameter.grad) is None:
            return None
        # An address would not do: a new tensor often lies where the last one lay.
        if self.gradient is None or self.gradient() is not gradient:
            self.gradient = weakref.ref(gradient)
            self.number += 1
        return self.number, gradient._version

    def empty(self) -> bool:
        """Whether the gradient is None or all zeros."""
        parameter = self.ref()
        if parameter is None or parameter.grad is None:
            return True
        gradient = parameter.grad
        if gradient.is_meta:
            return False
        with torch.no_grad():
            return not bool((gradient._values() if gradient.is_sparse else gradient).any())

    def cleared(self) -> bool:
        """Whether the gradient that the last backward call left has been taken away."""
        mark = self.mark()
        return mark is None or (mark != self.after and self.empty())


class Micro(NamedTuple):
    """One backward call that waits for a step: which way it came, whether its loss was scaled, and whether it went
    through a graph that an earlier call had gone through."""

    way: object
    scaled: bool
    again: bool


@dataclass(eq=False)
class OptimizerRecord:
    """What one optimizer did."""

    name: str
    parameters: list[Parameter] = field(default_factory=list)
    made_at: Place | None = None
    place: Place | None = None
    backward_place: Place | None = None
    num_steps: int = 0
    num_zero_grads: int = 0
    stepped_first: bool = False  # its first step came before its first zero_grad()
    num_closures: int = 0
    pending: list["Micro"] = field(default_factory=list)  # backward calls since the last step
    ways: set[object] = field(default_factory=set)  # of the backward calls that a step used
    groups: Counter = field(default_factory=Counter)  # how many backward calls made one step
    unscaled: Tally = field(default_factory=Tally)
    num_rewritten: int = 0  # steps before which the learner's own lines had changed the gradients
    pending_at: int = 0  # how many steps of any kind there had been when the last one that waits came
    lost: Tally = field(default_factory=Tally)  # backward calls whose gradients were cleared before any step at all
    stale: Tally = field(default_factory=Tally)
    cleared: Tally = field(default_factory=Tally)
    empty: Tally = field(default_factory=Tally)
    repeated: Tally = field(default_factory=Tally)
    dropped: Tally = field(default_factory=Tally)
    zeroed_after_step: Tally = field(default_factory=Tally)
    left_over: int = 0
    received: int = 0
    largest_move: float = 0.0
    num_large_moves: int = 0
    moves: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # that wait on an accelerator
    lr: float = 0.0

    def note_move(self, distance: Tensor, length: Tensor) -> None:
        """Note how far a step went, and how long the weights were; from an accelerator they are read later."""
        self.moves.append((distance, length))
        if distance.is_cpu or len(self.moves) >= AT_ONCE:
            self.fetch_moves()

    def fetch_moves(self) -> None:
        """Take the moves that wait into the counts, in one go."""
        moves, self.moves = self.moves, []
        for distance, length in torch.stack([torch.stack(move) for move in moves]).tolist() if moves else []:
            move = distance / length if length > 0 else 0.0
            self.largest_move = max(self.largest_move, move)
            self.num_large_moves += move > 0.5


@dataclass(eq=False)
class RootRecord:
    """One model that was called by the learner's own code."""

    name: str
    ref: "weakref.ref[nn.Module]"
    parameters: dict[str, Parameter] = field(default_factory=dict)
    sensitive: list[str] = field(default_factory=list)  # layers that behave otherwise in eval mode
    calls_dropout: bool = False  # as a function, which is no layer
    dropped: str = ""  # the function's name, where eval mode turned it off
    num_calls: int = 0
    steps_in_eval: Tally = field(default_factory=Tally)
    num_steps_in_train: int = 0
    calls_without_backward: Tally = field(default_factory=Tally)
    calls_in_eval: int = 0
    evaluated_in_train: Tally = field(default_factory=Tally)


@dataclass(eq=False)
class WriterRecord:
    """One TensorBoard writer."""

    ref: "weakref.ref[Any]"
    folder: str
    made_inside: bool
    place: Place | None
    num_written: int = 0
    closed_at: Place | None = None
    num_closes: int = 0
    written_after_close: Tally = field(default_factory=Tally)
    closed_again: Tally = field(default_factory=Tally)
    num_since_close: int = 0

    def open(self) -> bool:
        """Whether it is open now, or was when it went out of sight."""
        writer = self.ref()
        if writer is None:
            return self.closed_at is None or self.num_since_close > 0
        return writer.all_writers is not None


class Marker:
    """Hangs on a node of the graph and dies with it."""

    __slots__ = ("__weakref__",)


class Growing:
    """A number that is looked at again and again: whether it grows and grows."""

    def __init__(self) -> None:
        self.peak = 0
        self.lasting = 0  # the largest that it was all through a block of looks
        self.num_rising = 0
        self.place: Place | None = None
        self._least, self._last_least, self._looks = sys.maxsize, 0, 0

    def count(self, number: int, place: Place | None) -> None:
        """Look at the number; it grows where the least of block after block rises and never falls."""
        if number > self.peak:
            self.peak = number
        if number < self._least:
            self._least = number
        self._looks += 1
        if self._looks % BLOCK == 0:
            self.lasting = max(self.lasting, self._least)
            if self._least > self._last_least:
                self.num_rising += 1
                self.place = self.place or place
            elif self._least < self._last_least and self.num_rising < 3:
                self.num_rising, self.place = 0, None
            self._last_least, self._least = self._least, sys.maxsize


class Kept(Growing):
    """Counts graphs that stay alive, by the markers that hang on them."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}  # since which look
        self._followed: dict[int, weakref.ref] = {}

    def hang(self, marker: Marker, then: Callable[[int], None] | None = None) -> None:
        """Follow a marker until it dies, and call `then` with its id."""
        key = id(marker)
        self._alive[key] = self._looks

        def gone(_: weakref.ref) -> None:
            self._alive.pop(key, None)
            self._followed.pop(key, None)
            if then is not None:
                then(key)

        self._followed[key] = weakref.ref(marker, gone)

    def release(self, key: int) -> None:
        """A backward call came for this graph: it was kept for a purpose, and so was what piled up before."""
        since = self._alive.pop(key, self._looks)
        if self._looks - since >= 2 * BLOCK:
            self.num_rising, self.lasting, self.place, self._last_least = 0, 0, None, sys.maxsize

    def look(self, place: Place | None) -> None:
        """Count what is alive."""
        self.count(len(self._alive), place)

    def piling(self) -> bool:
        """Whether more is alive than a loop holds by its names."""
        return len(self._alive) >= BLOCK

    def forget(self) -> None:
        """Follow no marker any longer."""
        self._alive.clear()
        self._followed.clear()


@dataclass(eq=False, slots=True)
class Call:
    """One call of a model that built a graph, and whether a backward call ever came for it."""

    root: RootRecord
    eval_mode: bool
    place: Place | None
    from_model: bool = False  # its input was another model's output
    reached: bool = False


@dataclass(eq=False)
class Record:
    """All that was seen in one block."""

    ledger: Ledger = field(default_factory=Ledger)
    optimizers: list[OptimizerRecord] = field(default_factory=list)
    roots: list[RootRecord] = field(default_factory=list)
    writers: list[WriterRecord] = field(default_factory=list)
    losses: dict[object, Series] = field(default_factory=dict)  # the series that backward calls began from
    num_backwards: int = 0
    num_gradients: int = 0
    num_graphs_read: int = 0
    num_steps: int = 0
    num_scaler_steps: int = 0
    num_manual_updates: int = 0
    num_parameters_reached: int = 0
    backward_place: Place | None = None
    unchanged: list[tuple[str, int]] = field(default_factory=list)  # got gradients, never changed
    manual_stale: Tally = field(default_factory=Tally)
    losses_kept: Kept = field(default_factory=Kept)
    outputs_kept: Kept = field(default_factory=Kept)
    passed_again: Growing = field(default_factory=Growing)  # outputs that one backward call met for a second time
    strays: list[Parameter] = field(default_factory=list)  # got gradients, in no model that was called, never changed
    softmax: Tally = field(default_factory=Tally)
    scalar_images: Tally = field(default_factory=Tally)
    early_schedulers: Tally = field(default_factory=Tally)
    num_scheduler_steps: int = 0
    waits: Counter = field(default_factory=Counter)
    num_waits: int = 0
    other_threads: bool = False
    tensorboardx: bool = False
    interrupted: bool = False
