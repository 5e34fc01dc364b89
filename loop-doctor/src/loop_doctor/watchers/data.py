"""Data: which line begins each pass of a DataLoader, how far it goes, and what its batches are used for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, dataloader

from loop_doctor.call_sites import CallSites
from loop_doctor.identity_map import IdentityMap
from loop_doctor.records import Record
from loop_doctor.records.data import SiteRecord, SourceRecord
from loop_doctor.watchers.accuracies import AccuracyWatcher
from loop_doctor.watchers.epochs import EpochWatcher
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope
from loop_doctor.watchers.unused_loaders import unused_loaders

MAX_SITES = 256
COMPARED = 64  # numbers of each tensor that are compared
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


@dataclass(eq=False, slots=True)
class Pass:
    """One pass over the data, and how much had happened when it delivered its last batch."""

    site: SiteRecord
    num: int = 0
    waiting: bool = False  # for what its last batch is used for
    backwards: int = 0
    steps: int = 0
    calls: int = 0


class DataWatcher:
    """Watches the passes of all DataLoaders, and shows each batch to the watchers of epochs and of accuracies."""

    def __init__(
        self, record: Record, scope: Scope, sites: CallSites, epochs: EpochWatcher, accuracies: AccuracyWatcher
    ):
        self._record, self._scope, self._sites = record, scope, sites
        self._epochs, self._accuracies = epochs, accuracies
        self._passes: IdentityMap[Pass] = IdentityMap()
        self._sources: IdentityMap[SourceRecord] = IdentityMap()
        self._known: dict[tuple[object, int], SiteRecord] = {}
        self._open: dict[int, Pass] = {}  # the last pass of each line
        self._unused: list[tuple[SiteRecord, str, SourceRecord]] = []

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place."""
        patches.wrap(DataLoader, "__iter__", self._iterate)
        patches.wrap(dataloader._BaseDataLoaderIter, "__next__", self._deliver)

    def finish(self) -> None:
        """Settle the last passes, and see which loaders were never used."""
        for last in self._open.values():
            self._settle(last)
        for site, name, source in self._unused:
            site.unused = site.unused or ("" if source.num_passes else name)
        sources = {id(site.source): site.source for site in self._record.data.sites}.values()
        self._record.data.num_sources_only_evaluated = sum(s.num_evaluated > 0 and not s.num_trained for s in sources)
        self._open, self._known, self._unused = {}, {}, []
        self._passes, self._sources = IdentityMap(), IdentityMap()

    def _iterate(self, original: AnyFunction) -> AnyFunction:
        def iterate(loader: DataLoader[Any]) -> Any:
            iterator = original(loader)
            if self._scope.sees():
                self._begin(loader, iterator)
            return iterator

        return iterate

    def _begin(self, loader: DataLoader[Any], iterator: object) -> None:
        source = self._source(loader)
        source.num_passes += 1
        site = self._site(loader, source)
        if site is None:
            return
        last = self._open.get(id(site))
        if last is not None:
            self._settle(last)
        for other in self._open.values():  # one that ended with a `break` would wait until its next pass
            if other.waiting and (self._record.num_backwards > other.backwards or self._calls() > other.calls):
                self._settle(other)
        site.num_passes += 1
        self._open[id(site)] = self._passes.put(iterator, Pass(site))
        if source.num_trained and not site.num_trained and not site.looked_around:
            site.looked_around = True
            frames = self._sites.user_frames(2)
            found = unused_loaders(frames, DataLoader)
            del frames
            others = [(name, self._source(other)) for name, other in found]
            self._unused += [(site, name, other) for name, other in others if other is not source]

    def _source(self, loader: DataLoader[Any]) -> SourceRecord:
        owner = _owner(loader)
        return self._sources.get(owner) or self._sources.put(owner, SourceRecord())

    def _site(self, loader: DataLoader[Any], source: SourceRecord) -> SiteRecord | None:
        """Return the record of the line that is running, for this source."""
        location = self._sites.current()
        if location is None:
            return None
        key = location, id(source)
        site = self._known.get(key)
        if site is None and len(self._known) < MAX_SITES:
            site = self._known[key] = SiteRecord(location, source)
            if type(loader.sampler) is SequentialSampler and type(loader.batch_sampler) is BatchSampler:
                site.num_batches, site.batch_size = len(loader), loader.batch_size
            self._record.data.sites.append(site)
        return site

    def _deliver(self, original: AnyFunction) -> AnyFunction:
        def deliver(iterator: Any) -> Any:
            if not self._scope.sees():
                return original(iterator)
            current = self._passes.get(iterator)
            if current is not None:
                self._settle(current)
            batch = original(iterator)
            self._epochs.delivered(iterator)
            self._accuracies.delivered(iterator, batch)
            if current is not None:
                self._follow(current, batch)
            return batch

        return deliver

    def _follow(self, current: Pass, batch: Any) -> None:
        """Note how much had happened when a pass delivered this batch."""
        record = self._record
        current.num += 1
        current.waiting = True
        current.backwards, current.steps, current.calls = record.num_backwards, record.num_steps, self._calls()
        if current.site.num_batches > 1:
            self._look_at(current, batch)

    def _calls(self) -> int:
        return sum([model.num_calls for model in self._record.models])

    def _look_at(self, current: Pass, batch: Any) -> None:
        """Look at a batch of a loader with a fixed order: rarely at what is the same, once through the labels."""
        site = current.site
        if current.num == 1 and site.num_passes & (site.num_passes - 1) == 0:
            found = self._scope.unseen(_fingerprint, batch)
            site.same = found if site.same is None else site.same & found
        if site.num_passes == 1 and site.labels.sorted:
            labels = self._scope.unseen(_labels, batch)
            if labels is None:
                site.labels.sorted = False
            else:
                site.labels.look(labels)

    def _settle(self, current: Pass) -> None:
        """Note what the last batch of a pass was used for."""
        if not current.waiting:
            return
        current.waiting = False
        site, source, record = current.site, current.site.source, self._record
        later = current.num > 1
        source.num_later += later
        if record.num_backwards > current.backwards:
            steps = record.num_steps - current.steps
            source.num_trained += 1
            source.num_later_trained += later
            site.num_trained += 1
            site.num_steps += min(steps, 1)
            # More steps than that belong to other batches: this one was only shown at the beginning of an epoch.
            site.num_first_trained += not later and 1 <= steps <= 2 * len(record.optimizers)
        elif self._calls() > current.calls:
            source.num_evaluated += 1
            site.num_evaluated += 1
            if not later:
                site.num_repeats += site.evaluated_at == current.backwards
                site.evaluated_at = current.backwards


def _owner(loader: DataLoader[Any]) -> Any:
    """Return the dataset, or the loader if the dataset is a list or anything else that cannot be followed."""
    dataset = loader.dataset
    return dataset if type(dataset).__weakrefoffset__ else loader


def _tensors(batch: Any) -> Iterator[Tensor]:
    values = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else (batch,)
    for value in values:
        if isinstance(value, Tensor) and value.is_cpu and value.layout is torch.strided and value.numel():
            yield value


def _fingerprint(batch: Any) -> set[int]:
    """Return a number for each tensor in a batch, for those that are not all the same number."""
    found = set()
    for place, tensor in enumerate(_tensors(batch)):
        numbers = tuple(tensor.detach().flatten()[:COMPARED].tolist())
        if len(set(numbers)) > 1:
            found.add(hash((place, tensor.shape, numbers)))
    return found


def _labels(batch: Any) -> list[int] | None:
    """Return the labels in a batch: its only whole numbers, one for each row."""
    found = [tensor for tensor in _tensors(batch) if tensor.dtype in INTEGERS and tensor.ndim == 1]
    if len(found) != 1:
        return None
    labels: list[int] = found[0].tolist()
    return labels
