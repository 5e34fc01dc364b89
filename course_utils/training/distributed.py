"""Several processes that train one model: the rank of this one, its part of the data, and sums over all of them."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from course_utils.data import Batches
from course_utils.devices import resolve_device
from course_utils.training.loaders import Loader, num_batches

T = TypeVar("T")


def world_size() -> int:
    """Return how many processes train together; 1 if `torch.distributed` was not started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def local_device(device: str | torch.device) -> torch.device:
    """Resolve a device; among several processes, "auto" and "cuda" mean the GPU of this process."""
    resolved = resolve_device(device)
    if world_size() > 1 and resolved.type == "cuda" and str(device) in ("auto", "cuda"):
        resolved = resolve_device(f"cuda:{os.environ.get('LOCAL_RANK', rank())}")
        torch.cuda.set_device(resolved)
    return resolved


@contextlib.contextmanager
def process_group(device: str | torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, and leave them at the end; a process of its own does nothing here."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "nccl" if resolve_device(device).type == "cuda" else "gloo"
    has_agent_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if has_agent_store and os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun keeps one store over its restarts, with the addresses of processes that are gone. A prefix gives
        # each restart its own part of the store (pytorch/pytorch issue 135712).
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store),
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
    else:
        dist.init_process_group(backend)
    try:
        yield
    finally:
        dist.destroy_process_group()


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a model so that `backward()` averages the gradients over all processes; return it as it is in only one."""
    if world_size() == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


class Shard:
    """This process's part of `data.Batches`: every `world_size`-th row of each batch; together the parts are the batch.

    All processes use the same order, from the same seed and epoch, and a new one each epoch. If a last batch has fewer
    rows than there are processes, those left without a row repeat its first one in training and skip it otherwise.
    """

    def __init__(self, batches: Batches, *, repeat: bool):
        self.batches, self.repeat = batches, repeat

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next pass uses."""
        self.batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self.batches
        x, y = batches.dataset.tensors
        rows = batches.order(batches.epoch)
        batches.epoch += 1
        for index in rows.split(batches.batch_size):
            part = index[rank() :: world_size()]
            if not len(part):
                if not self.repeat:
                    continue
                part = index[:1]
            yield (x[part] if batches.transform is None else batches.transform(x[part])), y[part]


def shard(train: Loader, valid: Loader | None) -> tuple[Loader, Loader | None]:
    """Return this process's part of the training and validation data.

    `data.Batches` are split here. A DataLoader needs a `DistributedSampler`; other loaders count as already split.
    Validation data may be whole in every process, since the mean is the same.

    Raises:
        ValueError: a DataLoader that would give every process the same data, or loaders of unequal length.
    """
    if world_size() == 1:
        return train, valid
    if isinstance(train, DataLoader) and type(train.sampler) in (RandomSampler, SequentialSampler):
        raise ValueError(
            f"{world_size()} processes would each train on all of the data: give the DataLoader "
            "sampler=DistributedSampler(dataset, shuffle=True) in place of shuffle=True"
        )
    lengths = all_gather(num_batches(train))
    if len(set(lengths)) > 1:
        raise ValueError(f"the processes have {lengths} batches each: they must have the same number")
    return (
        Shard(train, repeat=True) if isinstance(train, Batches) else train,
        Shard(valid, repeat=False) if isinstance(valid, Batches) else valid,
    )


def shares(counts: Sequence[float | Tensor], reduction: str, device: torch.device) -> list[float | Tensor]:
    """Return what to multiply each micro-batch's loss by, so that together their gradients are those of one batch.

    With `reduction="mean"` that is the micro-batch's part of the count of the whole step, over all processes; a sum is
    taken as it is. `backward()` divides by the number of processes, so the factors contain it.

    Args:
        counts: what the mean of each of this process's micro-batches divides by: numbers, or tensors of shape ().
        device: where the processes exchange numbers.
    """
    size = world_size()
    if reduction == "sum" or (size == 1 and len(counts) == 1):
        return [float(size)] * len(counts)
    dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no double precision
    parts = [count.to(dtype) if isinstance(count, Tensor) else count for count in counts]
    total: float | Tensor = sum(parts)
    if size > 1:
        total = torch.as_tensor(total, dtype=dtype).to(device, copy=True)
        dist.all_reduce(total)
    # If no label counts at all, the loss is NaN, as in PyTorch.
    return [part * size / (total if isinstance(total, Tensor) else total or math.nan) for part in parts]


def exchange_gradients(network: nn.Module, *, when: bool) -> None:
    """Let the next `backward()` average the gradients over the processes or, in all but a step's last one, not yet."""
    if isinstance(network, nn.parallel.DistributedDataParallel):
        network.require_backward_grad_sync = when


def all_reduce_sum(rows: list[list[float]], device: torch.device) -> list[list[float]]:
    """Return the sums of rows of numbers over all processes."""
    if world_size() == 1:
        return rows
    numbers = torch.tensor(rows, dtype=torch.float64, device=device)
    dist.all_reduce(numbers)
    sums: list[list[float]] = numbers.tolist()
    return sums


def any_process(value: bool, device: torch.device) -> bool:
    """Return whether the value is true in at least one process."""
    return value if world_size() == 1 else all_reduce_sum([[float(value)]], device)[0][0] > 0


def all_gather(value: T) -> list[T]:
    """Return the plain values of all processes, in the order of their ranks."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    dist.all_gather_object(values, value)
    return values


def of_this_rank(values: Sequence[T]) -> T:
    """Return this process's value of those that `all_gather` returned; the first if there were fewer processes then."""
    return values[rank()] if rank() < len(values) else values[0]


def broadcast(value: bool) -> bool:
    """Return the value of the first process, in every process."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]
