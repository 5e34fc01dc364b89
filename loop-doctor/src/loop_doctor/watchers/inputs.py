"""What goes into a loss: the inputs of loss functions, their shapes, and terms that have no gradient."""

from types import FrameType
from typing import Any

import torch
from torch import Tensor

from loop_doctor.call_sites import CallSites, Location
from loop_doctor.loss_graph import crossed_differences, is_probability, open_sums, wrong_inputs
from loop_doctor.parameters import Parameter
from loop_doctor.records import Record
from loop_doctor.records.parts import Tally
from loop_doctor.watchers.close_look import TERM, CloseLook, crossed, nothing_in_the_way, remove
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope

LOOKS, EVERY = 8, 64  # at the first backward calls of a line, and then at every 64th
FOR_PARTS = frozenset({3, 4, 8, 9, 16, 17, 32})  # after these backward calls, weights without a gradient are looked for
MAX_CLOSE = 12  # close looks in one run
MAX_LINES = 256
COMPARED = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
LOOKED_AT = (*COMPARED, "kl_div")  # loss functions whose inputs are looked at

Line = tuple[str, int]


class InputWatcher:
    """Watches what goes into losses, and looks closely at a step if something seems to be missing."""

    def __init__(self, record: Record, scope: Scope, sites: CallSites):
        self._record, self._scope, self._sites = record, scope, sites
        self._looks: dict[int, int] = {}
        self._candidates: dict[int, Parameter] = {}  # that had no gradient yet; their tensors may be gone at the end
        self._calls: list[tuple[Tally, dict[str, Any], list[tuple[Line, Location]]]] = []
        self._look: CloseLook | None = None
        self._num_close = 0
        self._open = False  # whether the loss of the current backward call has an open sum
        self._looked = False  # whether a close look at the current step has just ended
        self._inside = False  # loss.backward()
        self._due = False  # whether a close look begins after it
        self._unreached: frozenset[int] = frozenset()

    def install(self, patches: Patches) -> None:
        """See that no close look outlives the block or the step that it looks at.

        While loss.backward() runs, PyTorch has taken the innermost mode off its stack, and puts it back afterwards:
        a look ends before that, and the next one begins after it.
        """
        patches.wrap(Tensor, "backward", self._around_backward)
        patches.on_removal(self.end_close_look)

    def _around_backward(self, original: AnyFunction) -> AnyFunction:
        def backward(*args: Any, **kwargs: Any) -> Any:
            if self._inside or not self._scope.sees():  # with a mode, PyTorch calls this once more from inside
                return original(*args, **kwargs)
            if self._look is not None:
                self.end_close_look()
            self._inside = True
            try:
                return original(*args, **kwargs)
            finally:
                self._inside = False
                if self._due:
                    self._begin_close_look()

        return backward

    def called(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at what a loss function was given."""
        inputs = args[0] if args else kwargs.get("input")
        target = args[1] if len(args) > 1 else kwargs.get("target")
        if not isinstance(inputs, Tensor) or not isinstance(target, Tensor):
            return
        if name in COMPARED:
            if inputs.shape != target.shape and crossed(inputs.shape, target.shape):
                result = tuple(torch.broadcast_shapes(inputs.shape, target.shape))
                shapes = {"one": tuple(inputs.shape), "two": tuple(target.shape), "result": result}
                self._note_call(self._record.inputs.broadcasts, {"name": f"{name}()", **shapes})
        elif name == "kl_div" and inputs.grad_fn is not None and is_probability(inputs):
            self._note_call(self._record.inputs.wrong.setdefault("divergence", Tally()), {})

    def _note_call(self, tally: Tally, facts: dict[str, Any]) -> None:
        """Wait for the backward call, which shows which line is part of the loop and not of a loss function."""
        if len(self._calls) < 16:
            frames = self._sites.user_frames()
            lines = [(_function(frame), self._sites.location_of(frame)) for frame in frames]
            del frames
            self._calls.append((tally, facts, lines))

    def look_at(self, loss: Tensor, line: int, location: Location | None, frames: list[FrameType]) -> None:
        """Look at the loss that a backward call starts from."""
        self.end_close_look()
        if self._calls:
            self._place_calls(frames)
        looks = self._looks.get(line, 0)
        if looks >= LOOKS and self._record.num_backwards % EVERY and not self._looked:
            return
        self._looked = False
        if len(self._looks) < MAX_LINES:
            self._looks[line] = looks + 1
        record, node = self._record, loss.grad_fn
        for kind in wrong_inputs(node, may_wait=looks < LOOKS):
            tally = record.softmax if kind == "softmax" else record.inputs.wrong.setdefault(kind, Tally())
            tally.note(location)
        record.num_losses_read += 1
        self._open = self._look_at_sums(node, line) or crossed_differences(node)

    def _place_calls(self, frames: list[FrameType]) -> None:
        around = {_function(frame) for frame in frames}
        calls, self._calls = self._calls, []
        for tally, facts, lines in calls:
            inner = lines[0][1] if lines else None
            shared = next((place for function, place in lines if function in around), inner)
            tally.note(shared, **facts)

    def _look_at_sums(self, node: Any, line: int) -> bool:
        """Return whether a term without a gradient may be part of this loss; a number is such a term, too."""
        record, found = self._record.inputs, False
        for each in open_sums(node):
            found = True
            if TERM in each.metadata:
                place = each.metadata[TERM]
                if place in record.terms:
                    record.terms[place].count += 1
                    record.term_paths[place] = line
        if not found:
            record.whole_sums.add(line)
        return found

    def after_backward(self) -> None:
        """Begin a close look at the coming step if the loss has an open sum, or if weights got no gradient."""
        for_parts = self._record.num_backwards in FOR_PARTS
        if not (self._open or for_parts) or self._num_close >= MAX_CLOSE:
            return
        self._unreached = self._without_gradients() if for_parts else frozenset()
        self._due, self._open = self._open or bool(self._unreached), False
        if not self._inside:
            self._begin_close_look()

    def _begin_close_look(self) -> None:
        due, self._due = self._due, False
        if due and self._scope.active and self._look is None and nothing_in_the_way():
            self._num_close += 1
            self._look = CloseLook(self._record, self._sites, self._scope.sees, self._unreached)
            self._look.begin()

    def end_close_look(self) -> None:
        """End the close look, if there is one."""
        if self._look is not None and remove(self._look):
            self._look, self._looked = None, True

    def _without_gradients(self) -> frozenset[int]:
        """Return the weights that stepping optimizers hold and that never received a gradient."""
        found = set()
        for optimizer in self._record.optimizers:
            if not optimizer.num_steps:
                continue
            for parameter in optimizer.parameters:
                weight = parameter.ref()
                if not parameter.received and weight is not None and weight.requires_grad:
                    found.add(id(weight))
                    self._candidates[id(weight)] = parameter
        return frozenset(found)

    def finish(self) -> None:
        """Name the weights behind a cut that never received a gradient."""
        record = self._record.inputs
        behind = set().union(*(cut.weights for cut in record.cuts.values()))
        for key, parameter in self._candidates.items():
            if (
                key in behind
                and not parameter.received
                and any(optimizer.num_steps >= 2 for optimizer in parameter.optimizers)
            ):
                record.never_reached[key] = parameter.name
        self._calls.clear()


def _function(frame: FrameType) -> Line:
    code = frame.f_code
    return code.co_filename, code.co_firstlineno
