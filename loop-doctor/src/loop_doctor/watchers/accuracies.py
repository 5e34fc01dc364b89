"""Accuracies: how many rows of an evaluation were classified right, to recognize them among the metrics."""

from typing import Any

import torch
from torch import Tensor

from loop_doctor.call_sites import CallSites
from loop_doctor.graph import tensors_in, wrapped
from loop_doctor.watchers.scope import Scope

FRAMES = 2  # labels are in the function that calls the model, or in the one that called it
MAX_KINDS = 8


class AccuracyWatcher:
    """Counts right answers while `wanted`, by the labels in the variables of the function that calls a model."""

    def __init__(self, scope: Scope, sites: CallSites):
        self._scope, self._sites = scope, sites
        self.wanted = False
        self._right: dict[tuple[int, str], tuple[Tensor, int]] = {}

    def evaluated(self, model: int, output: Any) -> None:
        """Count the right answers of a model that was called for an evaluation."""
        logits = next(tensors_in(output), None)
        if logits is None or logits.ndim != 2 or logits.size(1) < 2 or logits.is_meta or wrapped(logits):
            return
        labels = self._labels(logits)
        if not labels:
            return
        answers = self._scope.unseen(_answers, logits)
        for name, label in labels.items():
            right, rows = self._right.get((model, name), (None, 0))
            if right is not None or len(self._right) < MAX_KINDS:
                now = self._scope.unseen(_num_equal, answers, label)
                self._right[model, name] = (now if right is None else right + now, rows + len(label))

    def _labels(self, logits: Tensor) -> dict[str, Tensor]:
        """Return the tensors with one whole number per row in the user's variables."""
        found: dict[str, Tensor] = {}
        for frame in self._sites.user_frames(FRAMES):
            for name, value in list(frame.f_locals.items()):
                parts = tensors_in(value) if isinstance(value, Tensor | dict | list | tuple) else ()
                for place, part in zip(range(MAX_KINDS), parts, strict=False):
                    if part.dtype == torch.int64 and part.shape == logits.shape[:1] and part.device == logits.device:
                        found.setdefault(f"{name} {place}", part)
        return dict(list(found.items())[:MAX_KINDS])

    def shares(self) -> list[float]:
        """Return the shares of right answers since the last call."""
        counted, self._right = self._right, {}
        return [float(right) / rows for right, rows in counted.values()]


def _answers(logits: Tensor) -> Tensor:
    return logits.detach().argmax(1)


def _num_equal(answers: Tensor, labels: Tensor) -> Tensor:
    return (answers == labels).sum()
