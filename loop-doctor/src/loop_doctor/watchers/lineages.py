"""Optimizers that one line makes again and again, each for the same weights as the one before."""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from loop_doctor.call_sites import Location
from loop_doctor.records import Record
from loop_doctor.records.optimizers import OptimizerRecord
from loop_doctor.watchers.epochs import EpochWatcher

SURE = 8  # optimizers of one line after which nothing is compared any more
NUMBERS = 8  # how many weights of a tensor are compared


@dataclass
class _Lineage:
    """The optimizers that one line has made for the same weights."""

    last: OptimizerRecord
    settings: str
    count: int = 1
    data: "weakref.ref[Any] | None" = None  # the dataset that the last one learned from
    data_before: "weakref.ref[Any] | None" = None  # and the one before it
    weights: list[Tensor] | None = None  # some of the weights as the last one left them
    rewound: bool = False


class Lineages:
    """Follows the optimizers of each line, from one to the next."""

    def __init__(self, record: Record, epochs: EpochWatcher):
        self._record, self._epochs = record, epochs
        self._lineages: dict[Location, _Lineage] = {}
        self._followed: dict[int, _Lineage] = {}  # by the optimizer's record, as long as its steps are looked at

    def finish(self) -> None:
        """Release the copies of weights."""
        self._lineages.clear()
        self._followed.clear()

    def made(self, record: OptimizerRecord, optimizer: Optimizer) -> None:
        """Note that a line has made an optimizer."""
        location, settings = record.made_at, _settings(optimizer)
        if location is None:
            return
        lineage = self._lineages.get(location)
        if lineage is not None:
            self._followed.pop(id(lineage.last), None)
        if lineage is None or not _same_weights(lineage.last, record) or lineage.settings != settings:
            self._lineages[location] = self._followed[id(record)] = _Lineage(record, settings)
            return
        lineage.rewound = lineage.rewound or not self._goes_on(lineage)
        lineage.count += 1
        lineage.last, lineage.weights = record, None
        lineage.data, lineage.data_before = None, lineage.data
        if lineage.count < SURE and not lineage.rewound:
            self._followed[id(record)] = lineage
        if not lineage.rewound and lineage.count > 2:
            recreated = self._record.recreated
            kind = f"torch.optim.{record.name}" if hasattr(torch.optim, record.name) else record.name
            recreated.note(location, name=record.name, kind=kind, weights=len(record.parameters))
            recreated.count = max(recreated.count, lineage.count)

    def stepped(self, record: OptimizerRecord, optimizer: Optimizer) -> None:
        """Note a step: how many passes over the data the optimizer has seen, and what it left."""
        number = self._epochs.num_passes
        if record.last_pass != number:
            record.last_pass, record.passes = number, record.passes + 1
        if record.num_steps <= 2:
            record.keeps_state = _keeps_state(optimizer)
        lineage = self._followed.get(id(record))
        if lineage is None:
            return
        if lineage.data is None:
            lineage.data = self._epochs.dataset()
        if lineage.count > 1:
            lineage.weights = _some(record)
        elif record.num_steps > 2:
            del self._followed[id(record)]

    def _goes_on(self, lineage: _Lineage) -> bool:
        """Return whether the next optimizer takes over exactly what the last one left, in a pass of the same data."""
        last = lineage.last
        if not last.num_steps or not last.keeps_state or last.loaded or last.num_closures or last.passes > 1:
            return False
        if lineage.data is not None and lineage.data_before is not None and lineage.data() is not lineage.data_before():
            return False  # such as one task after another
        if any(p.ref() is None or p.ref()._version != p.version for p in last.parameters):  # type: ignore[union-attr]
            return False
        if lineage.weights is not None:
            now = _some(last)
            return len(now) == len(lineage.weights) and all(map(torch.equal, now, lineage.weights))
        return True


def _same_weights(last: OptimizerRecord, record: OptimizerRecord) -> bool:
    return len(last.parameters) == len(record.parameters) and all(
        one is other for one, other in zip(last.parameters, record.parameters, strict=True)
    )


def _settings(optimizer: Optimizer) -> str:
    """Return the settings of all groups as a text; a tensor counts by its kind alone, to be read nowhere."""
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return repr([{key: type(v) if isinstance(v, Tensor) else v for key, v in group.items()} for group in groups])


def _keeps_state(optimizer: Optimizer) -> bool:
    """Return whether an optimizer remembers more than the number of its steps."""
    states = [state for state in list(optimizer.state.values())[:2] if isinstance(state, dict)]
    return any(isinstance(value, Tensor) and key != "step" for state in states for key, value in state.items())


def _some(record: OptimizerRecord) -> list[Tensor]:
    """Return copies of a few numbers of the first and the last weight tensor."""
    tensors = [p.ref() for p in (record.parameters[:1] + record.parameters[-1:])]
    return [tensor.detach().flatten()[:NUMBERS].clone() for tensor in tensors if tensor is not None]
