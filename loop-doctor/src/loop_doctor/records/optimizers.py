"""What one optimizer did."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from loop_doctor.call_sites import Location
from loop_doctor.ledger import AT_ONCE
from loop_doctor.parameters import Parameter
from loop_doctor.records.models import ModelRecord
from loop_doctor.records.parts import Tally
from loop_doctor.records.scalers import ScalerRecord

MAX_RUN = 1024


class PendingBackward(NamedTuple):
    """One backward call that has not been followed by a step yet.

    Attributes:
        path: which line, through which models, to which weights.
        scaled: whether its loss was scaled.
        again: whether it went through a graph that an earlier call had gone through.
        models: the models that it went through, the last one first.
        steps: the optimizers whose weights it gave gradients to, and how many steps each had taken.
    """

    path: object
    scaled: bool
    again: bool
    models: tuple[ModelRecord, ...] = ()
    steps: tuple[tuple["OptimizerRecord", int], ...] = ()


@dataclass(eq=False)
class ClipRecord:
    """How the gradients of one optimizer were clipped.

    Attributes:
        late: clipped after a step had used them, and not used again.
        early: clipped before backward() had computed them.
        scaled: clipped while they still carried the factor of a GradScaler.
        micro: clipped again after each micro-batch of a step.
        num_in_place: steps before which they were clipped in the right place.
    """

    late: Tally = field(default_factory=Tally)
    early: Tally = field(default_factory=Tally)
    scaled: Tally = field(default_factory=Tally)
    micro: Tally = field(default_factory=Tally)
    num_in_place: int = 0


@dataclass(eq=False)
class OptimizerRecord:
    """What one optimizer did."""

    name: str
    parameters: list[Parameter] = field(default_factory=list)
    made_at: Location | None = None
    location: Location | None = None
    backward_location: Location | None = None
    own_backward: bool = False  # that backward call gave gradients to no other optimizer's weights
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
    num_frozen: int = 0  # of those steps, the ones at which all weights were frozen
    repeated: Tally = field(default_factory=Tally)
    dropped: Tally = field(default_factory=Tally)
    zeroed_after_step: Tally = field(default_factory=Tally)
    leaked: Tally = field(default_factory=Tally)  # steps that used what another optimizer's loss had left
    leak: tuple[Location | None, str] | None = None  # what the next step would use of that kind
    clips: ClipRecord = field(default_factory=ClipRecord)
    scaler: ScalerRecord | None = None  # whose factor the gradients carry
    scaler_updates: int = 0  # and how often that scaler had been updated when they were computed
    last_scaler: ScalerRecord | None = None
    num_scalers: Counter[Location | None] = field(default_factory=Counter)  # by the line that made them
    keeps_state: bool = False  # such as momentum
    loaded: bool = False  # its state came from elsewhere
    passes: int = 0  # over the data, in which it stepped
    last_pass: int = -1
    backwards_before: int = -1  # how many backward calls there were when its step with a closure began
    rests: Counter[int] = field(default_factory=Counter)  # how many stale steps came between two that were not
    stale_run: int = 0
    num_scaled_runs: int = 0
    left_over: int = 0
    received: int = 0
    first_move: float = 0.0
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

    def note_run(self, *, stale: bool) -> None:
        """Note whether a step used old gradients, and how many such steps came one after another."""
        if stale:
            self.stale_run = min(self.stale_run + 1, MAX_RUN)
            self.num_scaled_runs += all(backward.scaled for backward in self.pending)
        elif self.num_steps:
            self.rests[self.stale_run] += 1
            self.stale_run = 0

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
            self.first_move = self.first_move or move
            self.largest_move = max(self.largest_move, move)
            self.num_large_moves += move > 0.5
