"""What was seen in one block: counters, first locations and first numbers. It does not grow with the run."""

import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from loop_doctor.call_sites import Location
from loop_doctor.growth import GrowthDetector, LiveGraphs
from loop_doctor.ledger import AT_ONCE, Ledger, Series
from loop_doctor.parameters import Parameter


@dataclass
class Tally:
    """How often something was seen, where first, and the facts of that first time."""

    count: int = 0
    location: Location | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def note(self, location: Location | None, **facts: Any) -> None:
        """Count once more; the first location and facts are kept."""
        if self.count == 0:
            self.location, self.facts = location, facts
        self.count += 1


class PendingBackward(NamedTuple):
    """One backward call that has not been followed by a step yet.

    Attributes:
        path: which line, through which models, to which weights.
        scaled: whether its loss was scaled.
        again: whether it went through a graph that an earlier call had gone through.
    """

    path: object
    scaled: bool
    again: bool


@dataclass(eq=False)
class OptimizerRecord:
    """What one optimizer did."""

    name: str
    parameters: list[Parameter] = field(default_factory=list)
    made_at: Location | None = None
    location: Location | None = None
    backward_location: Location | None = None
    num_steps: int = 0
    num_zero_grads: int = 0
    stepped_first: bool = False  # its first step came before its first zero_grad()
    num_closures: int = 0
    pending: list[PendingBackward] = field(default_factory=list)  # backward calls since the last step
    paths: set[object] = field(default_factory=set)  # of the backward calls that a step used
    groups: Counter[int] = field(default_factory=Counter)  # how many backward calls made up one step
    unscaled: Tally = field(default_factory=Tally)
    num_rewritten: int = 0  # steps before which the user's own lines had changed the gradients
    pending_at: int = 0  # the number of steps of any kind before the last pending backward call
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

    def all_cleared(self) -> bool:
        """Return whether every gradient that a backward call left is gone."""
        marked = [parameter for parameter in self.parameters if parameter.after is not None]
        return bool(marked) and all(parameter.cleared() for parameter in marked)

    def as_left(self) -> bool:
        """Return whether no gradient is stale, and the first one is as the last backward call left it."""
        first = None
        for parameter in self.parameters:
            if parameter.stale is not None:
                return False
            first = parameter if first is None and parameter.after is not None else first
        return first is not None and first.mark() == first.after

    def pending_paths_known(self) -> bool:
        """Return whether all pending backward calls came by a path that a step has used."""
        return {backward.path for backward in self.pending} <= self.paths

    def note_move(self, distance: Tensor, length: Tensor) -> None:
        """Note how far a step moved the weights, and their length; on an accelerator these are read later."""
        self.moves.append((distance, length))
        if distance.is_cpu or len(self.moves) >= AT_ONCE:
            self.fetch_moves()

    def fetch_moves(self) -> None:
        """Count the waiting moves, all in one transfer."""
        moves, self.moves = self.moves, []
        for distance, length in torch.stack([torch.stack(move) for move in moves]).tolist() if moves else []:
            move = distance / length if length > 0 else 0.0
            self.largest_move = max(self.largest_move, move)
            self.num_large_moves += move > 0.5


@dataclass(eq=False)
class ModelRecord:
    """One model that the user's own code called."""

    name: str
    ref: "weakref.ref[nn.Module]"
    parameters: dict[str, Parameter] = field(default_factory=dict)
    sensitive: list[str] = field(default_factory=list)  # layers that behave differently in eval mode
    calls_dropout: bool = False  # as a function, not as a layer
    dropped: str = ""  # the function's name, if eval mode turned it off
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
    location: Location | None
    num_written: int = 0
    closed_at: Location | None = None
    num_closes: int = 0
    written_after_close: Tally = field(default_factory=Tally)
    closed_again: Tally = field(default_factory=Tally)
    num_since_close: int = 0

    def open(self) -> bool:
        """Return whether it is open now, or was when it was last seen."""
        writer = self.ref()
        if writer is None:
            return self.closed_at is None or self.num_since_close > 0
        return writer.all_writers is not None


@dataclass(eq=False)
class Record:
    """Everything that was seen in one block."""

    ledger: Ledger = field(default_factory=Ledger)
    optimizers: list[OptimizerRecord] = field(default_factory=list)
    models: list[ModelRecord] = field(default_factory=list)
    writers: list[WriterRecord] = field(default_factory=list)
    losses: dict[object, Series] = field(default_factory=dict)  # the series that backward calls started from
    num_backwards: int = 0
    num_gradients: int = 0
    num_graphs_read: int = 0
    num_steps: int = 0
    num_scaler_steps: int = 0
    num_manual_updates: int = 0
    num_parameters_reached: int = 0
    backward_location: Location | None = None
    unchanged: list[tuple[str, int]] = field(default_factory=list)  # received gradients, never changed
    manual_stale: Tally = field(default_factory=Tally)
    losses_kept: LiveGraphs = field(default_factory=LiveGraphs)
    outputs_kept: LiveGraphs = field(default_factory=LiveGraphs)
    passed_again: GrowthDetector = field(default_factory=GrowthDetector)  # outputs a backward call met a second time
    strays: list[Parameter] = field(default_factory=list)  # received gradients, in no model that was called, unchanged
    softmax: Tally = field(default_factory=Tally)
    scalar_images: Tally = field(default_factory=Tally)
    early_schedulers: Tally = field(default_factory=Tally)
    num_scheduler_steps: int = 0
    waits: Counter[Location | None] = field(default_factory=Counter)
    num_waits: int = 0
    other_threads: bool = False
    tensorboardx: bool = False
    interrupted: bool = False
