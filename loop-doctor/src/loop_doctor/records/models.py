"""What was seen of one model."""

import weakref
from dataclasses import dataclass, field

from torch import nn

from loop_doctor.parameters import Parameter
from loop_doctor.records.modes import Evaluations, FrozenNorms
from loop_doctor.records.parts import Tally


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
    num_graphs: int = 0  # calls that built a graph
    num_frozen_calls: int = 0  # calls in train mode that built none, before any that did
    rows_evaluated: int = 0
    rows_trained: int = 0
    fresh: bool = False  # its weights were as a layer initializes them when it was first called
    steps_in_eval: Tally = field(default_factory=Tally)
    num_steps_in_train: int = 0
    off: list[str] = field(default_factory=list)  # layers of a trained part that were off in eval mode
    norms: FrozenNorms = field(default_factory=FrozenNorms)
    evaluations: Evaluations = field(default_factory=Evaluations)
    calls_without_backward: Tally = field(default_factory=Tally)
    calls_in_eval: int = 0
    left_out: Tally = field(default_factory=Tally)  # of every optimizer, while others' weights got gradients too
    evaluated_in_train: Tally = field(default_factory=Tally)
