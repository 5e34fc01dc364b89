"""Accuracies: how many rows of an evaluation were classified right, to recognize them among the metrics."""

import inspect
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from loop_doctor.call_sites import CallSites
from loop_doctor.graph import tensors_in, wrapped
from loop_doctor.watchers.scope import Scope

MAX_KINDS = 8


class AccuracyWatcher:
    """Counts right answers while `wanted`: what a model answers for the batch that a DataLoader delivered last.

    Without a DataLoader, it looks for labels in the user's variables, if the loop is not in a function: Python would
    keep the tensors of a function's variables alive after a look at them.
    """

    def __init__(self, scope: Scope, sites: CallSites):
        self._scope, self._sites = scope, sites
        self.wanted = False
        self._labels: dict[str, Tensor] = {}  # copies
        self._right: dict[tuple[int, str], tuple[Tensor, int]] = {}

    def delivered(self, iterator: object, batch: Any) -> None:
        """Keep the labels of a batch that a DataLoader's iterator delivered, if they are wanted."""
        if self.wanted:
            # Each loader counts for itself: the accuracy on the training data is another one.
            source = id(getattr(iterator, "_index_sampler", None))
            self._labels = {f"{source} {place}": label for place, label in self._scope.unseen(_labels, batch)}

    def evaluated(self, model: int, output: Any) -> None:
        """Count the right answers of a model that was called for an evaluation."""
        logits = next(tensors_in(output), None)
        if logits is None or logits.ndim != 2 or logits.size(1) < 2 or logits.is_meta or wrapped(logits):
            return
        found = {name: label for name, label in self._labels.items() if label.shape == logits.shape[:1]}
        labels = found or self._labels_in_variables(logits)
        answers = self._scope.unseen(_answers, logits) if labels else logits
        for name, label in labels.items():
            right, rows = self._right.get((model, name), (None, 0))
            if right is not None or len(self._right) < MAX_KINDS:
                now = self._scope.unseen(_num_equal, answers, label)
                self._right[model, name] = (now if right is None else right + now, rows + len(label))

    def _labels_in_variables(self, logits: Tensor) -> dict[str, Tensor]:
        """Return the tensors with one whole number per row in the user's variables outside functions."""
        frames = self._sites.user_frames(1)
        if not frames or frames[0].f_code.co_flags & inspect.CO_OPTIMIZED:
            return {}
        variables = frames[0].f_locals
        names = [name for name in frames[0].f_code.co_names if name in variables]
        found = {name: variables[name] for name in names if isinstance(variables[name], Tensor)}
        labels = {name: label for name, label in found.items() if _is_label(label) and label.shape == logits.shape[:1]}
        return dict(islice(labels.items(), MAX_KINDS))

    def shares(self) -> list[float]:
        """Return the shares of right answers since the last call."""
        counted, self._right = self._right, {}
        return [float(right) / rows for right, rows in counted.values()]


def _answers(logits: Tensor) -> Tensor:
    return logits.detach().argmax(1)


def _num_equal(answers: Tensor, labels: Tensor) -> Tensor:
    return (answers == labels.to(answers.device)).sum()


def _is_label(tensor: Tensor) -> bool:
    return tensor.dtype == torch.int64 and tensor.ndim == 1 and not tensor.is_meta and not wrapped(tensor)


def _labels(batch: Any) -> list[tuple[int, Tensor]]:
    """Return copies of the tensors in a batch that may be labels, with their places."""
    parts = islice(tensors_in(batch), MAX_KINDS)
    return [(place, part.clone()) for place, part in enumerate(parts) if _is_label(part)]
