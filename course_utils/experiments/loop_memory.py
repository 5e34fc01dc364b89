"""What autograd keeps alive, step by step, in a loop that adds up its losses."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from course_utils import data, models
from course_utils.experiments.autograd_graph import KeptTensors, nodes
from course_utils.experiments.digits import seeded_model

NUM_STEPS = 300
MODELS: dict[str, Callable[[], nn.Module]] = {
    "small": models.MLP,
    "wide": lambda: models.MLP(hidden=(512, 512)),
    "cnn": models.CNN,
}
# The loop is stopped before its graphs hold more bytes than this, or more than a quarter of the free memory.
MAX_BYTES = 150_000_000


class LoopVariant(NamedTuple):
    """One way to write the loop.

    Attributes:
        model: a name in `MODELS`.
        loop: "training" or "validation".
        added: what is added to `running_loss`: "loss", "loss.detach()" or "loss.item()".
        no_grad: whether the loop runs under `torch.no_grad()`.
    """

    model: str
    loop: str
    added: str
    no_grad: bool = False

    @property
    def source(self) -> str:
        """The loop's source code: the lab shows this text, and `measure` runs it."""
        steps = ["loss = loss_fn(model(x), y)"]
        if self.loop == "training":
            steps += ["optimizer.zero_grad()", "loss.backward()", "optimizer.step()"]
        steps.append(f"running_loss += {self.added}")
        lines = ["for x, y in batches:", *(f"    {line}" for line in steps)]
        if self.no_grad:
            lines = ["with torch.no_grad():", *(f"    {line}" for line in lines)]
        return "\n".join(["running_loss = 0.0", *lines])


@dataclass
class MemoryTrace:
    """What one loop was measured to keep.

    Attributes:
        points: after each step, the number of live graph nodes and the bytes kept for backward.
        outcome: "" while the loop runs; then "finished", "stopped", "full" (stopped because it kept too much) or the
            text of the error that ended it.
        process_growth: by how many bytes the whole process grew, as reported by the operating system.
        bytes_left: the bytes still kept after the loop's names were deleted.
    """

    points: list[tuple[int, int]] = field(default_factory=list)
    outcome: str = ""
    process_growth: int = 0
    bytes_left: int = 0

    @property
    def flat(self) -> bool:
        """Whether the finished loop kept no more nodes after its last step than after its first."""
        return self.outcome == "finished" and self.points[-1][0] == self.points[0][0]


def measure(
    variant: LoopVariant,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    follow: Callable[[MemoryTrace], None] = lambda trace: None,
) -> MemoryTrace:
    """Run a loop and count, after each step, what autograd keeps alive.

    Args:
        cancelled: checked after each step; the loop stops when it returns True.
        follow: called with the unfinished trace after each step.

    Raises:
        RuntimeError: the loop failed in another way than `backward()` without a graph.
    """
    model = seeded_model(MODELS[variant.model], 0)
    images, labels = data.load("digits").train.dataset.tensors
    batches = [pair for pair in zip(images.split(64), labels.split(64), strict=True) if len(pair[0]) == 64]
    loss_fn, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1)
    trace, names = MemoryTrace(), dict[str, Any]()
    # The first use of all this loads libraries into the process; their memory is not the loop's.
    torch.autograd.grad(loss_fn(model(batches[0][0]), batches[0][1]), list(model.parameters()))
    process = psutil.Process()
    limit = min(MAX_BYTES, psutil.virtual_memory().available // 4)
    size_before = process.memory_info().rss
    kept = KeptTensors([*model.parameters(), images, labels])

    def watched() -> Iterator[tuple[Tensor, Tensor]]:
        in_sum, known, before = 0, set[Node](), 0
        for step in range(NUM_STEPS):
            yield batches[step % len(batches)]
            # Here the step is done. Only the nodes that it added are visited; all others were counted before.
            total, new = names["running_loss"], set[Node]()
            if isinstance(total, Tensor) and total.grad_fn is not None:
                new = nodes(total, stop=known)
                in_sum += len(new)
                known = {total.grad_fn} | {node for node in known | new if not node.next_functions}
            trace.points.append((in_sum + len(nodes(names["loss"], stop=new | known)), kept.bytes))
            if cancelled():
                trace.outcome = "stopped"
                return
            if 2 * kept.bytes - before > limit:  # one more step like this one would exceed the limit
                trace.outcome = "full"
                return
            before = kept.bytes
            follow(trace)
        trace.outcome = "finished"

    names.update(torch=torch, model=model, loss_fn=loss_fn, optimizer=optimizer, batches=watched())
    with kept:
        try:
            exec(variant.source, names)
        except RuntimeError as error:
            if not (variant.no_grad and variant.loop == "training"):
                raise
            trace.outcome = str(error)  # backward() finds no graph: the learner should see that, so it is not raised
    trace.process_growth = process.memory_info().rss - size_before
    names.clear()
    trace.bytes_left = kept.bytes
    return trace
