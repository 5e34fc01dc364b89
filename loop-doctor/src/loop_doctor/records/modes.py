"""In which mode the layers of one model were, in training and in evaluations."""

from dataclasses import dataclass, field

from loop_doctor.call_sites import Location
from loop_doctor.parameters import Parameter


@dataclass
class FrozenNorms:
    """The batch norm layers whose weights are frozen, and that were in train mode in training.

    Attributes:
        names: the layers, as they were at the last look.
        part: the largest part of the model that holds all of them and nothing that is trained, or "".
        weights: their weights and biases.
        location: the call of train() that put them into train mode, or the first call of the model.
        in_train: how often all of them were in train mode and had taken in new batches.
        num_fed: how often a frozen model's output went into another model.
    """

    names: tuple[str, ...] = ()
    part: str = ""
    weights: list[Parameter] = field(default_factory=list)
    location: Location | None = None
    in_train: int = 0
    num_fed: int = 0


@dataclass
class Evaluations:
    """The runs of calls without gradients in train mode, with no backward call between the calls of one run.

    Attributes:
        at: how many backward calls had been made when the current run began, or -1.
        num_calls: the calls of the current run.
        num_fresh: those of them for which a DataLoader had delivered a new batch.
        num_losses: those of them whose output went into a loss function.
        excluded: whether the current run is something else than an evaluation.
        passes: the ids of the datasets that the current run has gone through.
        with_losses: runs in which losses were computed.
        over_loaders: runs over several batches of a DataLoader.
        calls: the calls in all these runs.
        names: the layers that were in train mode.
    """

    at: int = -1
    num_calls: int = 0
    num_fresh: int = 0
    num_losses: int = 0
    excluded: bool = False
    passes: set[int] = field(default_factory=set)
    location: Location | None = None
    began_at: Location | None = None
    with_losses: int = 0
    over_loaders: int = 0
    calls: int = 0
    most_calls: int = 0
    names: list[str] = field(default_factory=list)

    def close(self) -> None:
        """End the current run, and count it if it was an evaluation."""
        with_losses = self.num_losses >= self.num_calls > 0
        over_loader = self.num_fresh >= 2 and self.num_fresh >= self.num_calls - 1
        if not self.excluded and (with_losses or over_loader):
            self.with_losses += with_losses
            self.over_loaders += over_loader
            self.calls += self.num_calls
            self.most_calls = max(self.most_calls, self.num_calls if with_losses else 0)
            self.location = self.location or self.began_at
        self.at, self.num_calls, self.num_fresh, self.num_losses = -1, 0, 0, 0
        self.passes.clear()
