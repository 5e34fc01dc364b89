"""Several processes that train one model: who this one is, its part of the data, and sums over all of them."""

import contextlib
import os
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from course_utils.data import Batches
from course_utils.devices import resolve_device


def size() -> int:
    """How many processes train together; 1 where `torch.distributed` was not started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if size() > 1 else 0


def local_device(device: str | torch.device) -> torch.device:
    """Resolve a device; among several processes, "auto" and "cuda" mean this process's own GPU."""
    resolved = resolve_device(device)
    if size() > 1 and resolved.type == "cuda" and str(device) in ("auto", "cuda"):
        resolved = resolve_device(f"cuda:{os.environ.get('LOCAL_RANK', rank())}")
        torch.cuda.set_device(resolved)
    return resolved


@contextlib.contextmanager
def joined(device: str | torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, and leave them at the end; alone, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "nccl" if resolve_device(device).type == "cuda" else "gloo"
    own_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and os.environ.get("GROUP_WORLD_SIZE") == "1"
    if own_store:
        # torchrun keeps one store over its restarts, with the addresses of processes that are gone: each start of the
        # processes gets a part of its own (pytorch/pytorch issue 135712).
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        store = dist.PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        where = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
        dist.init_process_group(backend, store=store, **where)
    else:
        dist.init_process_group(backend)
    try:
        yield
    finally:
        dist.destroy_process_group()


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a model so that `backward()` averages the gradients over all processes; alone, return it as it is."""
    if size() == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


class Shard:
    """This process's part of `data.Batches`: of each batch every `size`-th row, so that the parts make the batch.

    The processes take the same order from the same seed and epoch, a new one each epoch. Where a last batch has fewer
    rows than there are processes, those left without one repeat its first row in training, and skip it otherwise.
    """

    def __init__(self, batches: Batches, *, repeat: bool):
        self.batches, self.repeat = batches, repeat

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next pass takes."""
        self.batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self.batches
        x, y = batches.dataset.tensors
        rows = batches.order(batches.epoch)
        batches.epoch += 1
        for index in rows.split(batches.batch_size):
            part = index[rank() :: size()]
            if not len(part):
                if not self.repeat:
                    continue
                part = index[:1]
            yield (x[part] if batches.transform is None else batches.transform(x[part])), y[part]


def shard(train: Iterable, valid: Iterable | None) -> tuple[Iterable, Iterable | None]:
    """Give this process its part of the training and validation data.

    `data.Batches` are cut here. A DataLoader must come with a `DistributedSampler`; other iterables are taken as
    already cut, and for validation whole data is fine, since the same mean comes out.

    Raises:
        ValueError: a DataLoader that would give every process the same data, or loaders of unequal length.
    """
    if size() == 1:
        return train, valid
    if isinstance(train, DataLoader) and type(train.sampler) in (RandomSampler, SequentialSampler):
        raise ValueError(
            f"{size()} processes would each train on all of the data: give the DataLoader "
            "sampler=DistributedSampler(dataset, shuffle=True) in place of shuffle=True"
        )
    lengths: list[int] = [0] * size()
    dist.all_gather_object(lengths, len(train))
    if len(set(lengths)) > 1:
        raise ValueError(f"the processes have {lengths} batches each: they must have the same number")
    return (
        Shard(train, repeat=True) if isinstance(train, Batches) else train,
        Shard(valid, repeat=False) if isinstance(valid, Batches) else valid,
    )


def all_reduce_sum(rows: list[list[float]], device: torch.device) -> list[list[float]]:
    """Add up rows of numbers over all processes; each gets the sums."""
    if size() == 1:
        return rows
    numbers = torch.tensor(rows, dtype=torch.float64, device=device)
    dist.all_reduce(numbers)
    return numbers.tolist()


def share(num_samples: int, reduction: str, device: torch.device) -> Tensor | float:
    """What this process's loss counts with `num_samples` rows, so that the average over processes is the joined loss.

    With `reduction="mean"` that is the number of processes times this one's share of all rows; the number stays on the
    device. With "sum" it is the number of processes.
    """
    if reduction == "sum" or size() == 1:
        return float(size())
    total = torch.full((), float(num_samples), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return num_samples * size() / total


def synchronised_last(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Iterable[tuple[Tensor, Tensor]]:
    """Give a step's micro-batches one after the other; the processes exchange gradients with the last one alone."""
    return _synchronised_last(network, batches) if type(network) is nn.parallel.DistributedDataParallel else batches


def _synchronised_last(
    network: nn.parallel.DistributedDataParallel, batches: list[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    with network.no_sync():
        yield from batches[:-1]
    yield batches[-1]


def set_epoch(train: Iterable, epoch: int) -> None:
    """Tell the loader, and its samplers such as `DistributedSampler`, which epoch begins."""
    for each in (train, getattr(train, "sampler", None), getattr(train, "batch_sampler", None)):
        if hasattr(each, "set_epoch"):
            each.set_epoch(epoch)


def any_process(value: bool, device: torch.device) -> bool:
    """Whether at least one process says so."""
    return value if size() == 1 else all_reduce_sum([[float(value)]], device)[0][0] > 0


def gather(value: object) -> list:
    """Collect one plain value of each process, in the order of their ranks."""
    if size() == 1:
        return [value]
    values: list = [None] * size()
    dist.all_gather_object(values, value)
    return values


def own(values: list) -> object:
    """This process's value of those that `gather` collected; the first one's where there were fewer processes."""
    return values[rank()] if rank() < len(values) else values[0]


def broadcast(value: bool) -> bool:
    """What the first process says, known to all."""
    if size() == 1:
        return value
    answer = [value]
    dist.broadcast_object_list(answer)
    return answer[0]
