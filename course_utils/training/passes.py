"""Passes over a loader: one after another, with the place in them, so that a resumed run goes on at that place."""

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset, default_collate

from course_utils.data import Batches
from course_utils.training.distributed import Shard
from course_utils.training.loaders import Batch, Loader, no_batches, samplers, set_epoch
from course_utils.training.rng import RandomStates, State, is_generator

# Their order depends on the number of the pass alone, or never changes.
FIXED_ORDER = (Batches, Shard, list, tuple)
# How many items of a list, or numbers of a tensor, are compared to see whether its owner has reordered it.
COMPARED = 64
STATE_DICT = "state_dict() and load_state_dict()"


class _Start(NamedTuple):
    """What a pass began from: random states if its order needs them, what else it depends on, and its workers."""

    random: State | None
    order: dict[str, int]
    workers: bool


class Passes:
    """The passes over a loader, one after another, and the place in them.

    A loader fixes its order when a pass begins. A resumed run therefore begins the pass again from the random states
    of that moment, skips the batches that were taken, and continues from the random states at the break. A loader
    with `state_dict` and `load_state_dict` keeps its place itself, and nothing is skipped. So does an
    `IterableDataset` or a sampler that has them, if the DataLoader has no workers, which read ahead.

    Args:
        loader: yields batches in each pass.
        prepare: makes a `Batch` of what it yields.
        others: loaders, such as the one of validation, whose generators the random states include.

    Attributes:
        number: whole passes done.
        position: batches taken in this pass.
        random_states: the states of all generators that the run draws from.
        inexact: why a resumed run cannot repeat the order, or cannot know that it does; None if it repeats it.
    """

    def __init__(self, loader: Loader, prepare: Callable[[object], Batch], *, others: Sequence[object] = ()):
        self.loader, self.number, self.position = loader, 0, 0
        self.random_states = RandomStates(loader, *others)
        self.inexact = _why_inexact(loader)
        self._prepare = prepare
        self._keeper = _keeper_of_the_place(loader)
        self._kept: Any = None  # the keeper's state, from when it was loaded until the first batch after that
        self._batches: Iterator[object] | None = None
        self._ended = False  # by a short take; the next one returns no batches
        self._start = _Start(None, {}, self._has_workers())
        self._draws_order = type(loader) not in FIXED_ORDER
        self._drawn_from: list[str] | None = None  # the random states that change when batches are taken

    def take(self, n: int) -> list[Batch]:
        """Return the next n batches: fewer at the end of a pass, then once none, and then those of the next pass.

        If loading fails or is interrupted, the place and the random states are those before the call.

        Raises:
            ValueError: a pass yields no batches, or fewer than the run has taken from it.
        """
        if self._ended:
            return self._end_pass()
        # Reading all random states takes a third of a small step: within a pass, only those are read that were seen to
        # change when its first batches were taken.
        needs_all = self._batches is None and (self.position > 0 or self._draws_order)
        before = self.random_states.get_state(None if needs_all else self._drawn_from)
        kept = self._state_of_keeper() if n > 1 else None
        try:
            if self._batches is None:
                self._batches = self._begin_pass(before)
            batches = [self._prepare(batch) for batch in itertools.islice(self._batches, n)]
        except BaseException:
            self._go_back(before, kept)
            raise
        if self._drawn_from is None:
            self._drawn_from = self.random_states.changed_since(before)
        if not batches and not self.position:
            if self._kept is None:
                raise no_batches("train", self.number + 1)
            # Loaded at the end of a pass, the keeper has yielded what was left of that pass: nothing.
            self._kept = self._batches = None
            self.random_states.set_state(before)
            return self.take(n)
        self._kept = None
        if not batches:
            return self._end_pass()
        self.position += len(batches)
        self._ended = len(batches) < n
        return batches

    def state_dict(self) -> State:
        """Return the place, the random states at the start of the pass and now, and the loader's own state."""
        start = self._start
        if not self.position:
            set_epoch(self.loader, self.number)  # as the next pass does, so that equal orders compare as equal
            start = _Start(None, _order(self.loader, by_itself=True), start.workers)
        start = start._replace(order=start.order | _order(self.loader, by_itself=False))
        return {
            "number": self.number,
            "position": self.position,
            "ended": self._ended,
            "start": start._asdict(),
            "now": self.random_states.get_state(),
            "kept": self._state_of_keeper(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned. Until the next `take`, restore the random states after each use.

        Raises:
            ValueError: the loader here has other generators, or only one of the two keeps its place itself.
        """
        if (state["kept"] is None) != (self._keeper is None):
            then, now = ("did not keep", "keeps") if state["kept"] is None else ("kept", "does not keep")
            raise ValueError(
                f"the saved run's loader {then} its place itself, with state_dict(), and this one {now} it: "
                "continue with a loader of the same kind"
            )
        self.random_states.set_state(state["now"])
        self.number, self.position, self._ended = state["number"], state["position"], state["ended"]
        self._start, self._batches = _Start(**state["start"]), None
        set_epoch(self.loader, self.number)
        if self._keeper is not None:
            self._load_keeper(state["kept"])
        changed = []
        if self._keeper is None:
            order = _order(self.loader, by_itself=True) | _order(self.loader, by_itself=False)
            changed = [name for name, then in self._start.order.items() if order.get(name, then) != then]
        if self._start.workers and not self._keeps_workers():
            changed.append("persistent_workers")
        if changed:
            self.inexact = (
                f"{', '.join(changed)} was not the same when the pass began as it is now, and only a class with "
                f"{STATE_DICT} can keep what it changes"
            )

    def _begin_pass(self, now: State) -> Iterator[object]:
        """Begin a pass or, in the middle of one, begin it again and skip the batches that were taken."""
        set_epoch(self.loader, self.number)
        if not self.position:
            random = now if self._draws_order else None
            self._start = _Start(random, _order(self.loader, by_itself=True), self._start.workers)
        if self._start.workers and self._keeps_workers() and not self._has_workers():
            # Starting the workers draws a number, which a pass that found them running did not draw.
            iter(self.loader)
            self.random_states.set_state(now)
        elif self._has_workers() and not self._start.workers:
            self._drop_workers()
        if not self.position:
            return iter(self.loader)
        if self._keeper is None and self._start.random is not None:
            self.random_states.set_state(self._start.random)
        batches = iter(self.loader)
        if self._keeper is None:
            skipped = sum(1 for _ in itertools.islice(batches, self.position))
            if skipped < self.position:
                raise ValueError(
                    f"train yielded {skipped} batches in pass {self.number + 1}, of which the run has taken "
                    f"{self.position}: continue with the same data"
                )
        self.random_states.set_state(now)
        return batches

    def _end_pass(self) -> list[Batch]:
        self.number, self.position, self._ended = self.number + 1, 0, False
        self._batches = None
        self._start = _Start(None, {}, self._keeps_workers())
        return []

    def _go_back(self, before: State, kept: object) -> None:
        """Return to the place before a `take` that failed; the next one finds it as a resumed run does."""
        self._batches = None
        if self._has_workers():
            self._drop_workers()
        if self._keeper is not None:
            self._load_keeper(self._state_of_keeper() if kept is None else kept)
        self.random_states.set_state(before)

    def _state_of_keeper(self) -> object:
        return self._keeper.state_dict() if self._keeper is not None and self._kept is None else self._kept

    def _load_keeper(self, kept: object) -> None:
        self._keeper.load_state_dict(kept)
        self._kept = kept

    def _keeps_workers(self) -> bool:
        """Return whether a pass leaves its worker processes to the next one, as with `persistent_workers=True`."""
        return isinstance(self.loader, DataLoader) and self.loader.persistent_workers and self._keeper is None

    def _has_workers(self) -> bool:
        """Return whether the worker processes of an earlier pass are running."""
        return self._keeps_workers() and getattr(self.loader, "_iterator", None) is not None

    def _drop_workers(self) -> None:
        """End the worker processes that wait for the next pass; it will start others."""
        self.loader._iterator = None  # type: ignore[attr-defined]  # only a DataLoader gets here


def _keeper_of_the_place(loader: object) -> Any:
    """Return what keeps the place in a pass itself: a loader, or what it reads from without reading ahead; or None."""
    parts = [loader]
    if isinstance(loader, DataLoader) and not loader.num_workers:
        parts += [loader.dataset] if isinstance(loader.dataset, IterableDataset) else samplers(loader)
    return next((part for part in parts if hasattr(part, "state_dict") and hasattr(part, "load_state_dict")), None)


def _why_inexact(loader: object) -> str | None:
    """Return why the order of a loader cannot be repeated, or cannot be known to be; None if it can."""
    if _keeper_of_the_place(loader) is not None:
        return None
    if isinstance(loader, DataLoader) and loader.persistent_workers and not _draws_nothing(loader):
        return (
            "the processes of persistent_workers=True keep random numbers of their own, which the data set may use, "
            "so only persistent_workers=False is exact"
        )
    for part in _order_makers(loader):
        if not _is_repeatable(part):
            return (
                f"{type(part).__name__} may keep a state that cannot be seen from outside, "
                f"so its class has to have {STATE_DICT}"
            )
    return None


def _order_makers(loader: object) -> list[object]:
    """Return the parts that decide in which order the data come."""
    dataset = getattr(loader, "dataset", None)
    ordered = isinstance(dataset, IterableDataset) or type(dataset) in (list, tuple)
    return [loader, *samplers(loader), *([dataset] if ordered else [])]


def _is_known(part: object) -> bool:
    """Return whether a part is a list, or one of this course's and PyTorch's classes that order data."""
    if isinstance(part, DataLoader):
        return type(part).__iter__ is DataLoader.__iter__
    from_torch = type(part).__module__.startswith("torch.utils.data") and not isinstance(part, IterableDataset)
    return from_torch or type(part) in (*FIXED_ORDER, range)


def _is_repeatable(part: object) -> bool:
    """Return whether a part orders its data by what is restored: random numbers or the number of the pass."""
    draws = any(map(is_generator, getattr(part, "__dict__", {}).values()))
    return draws or _is_known(part) or hasattr(part, "set_epoch")


def _draws_nothing(loader: DataLoader[Any]) -> bool:
    """Return whether a DataLoader's rows are known to be the same each time."""
    datasets: list[object] = [loader.dataset]
    while datasets:
        dataset = datasets.pop()
        if type(dataset) is Subset:
            datasets.append(dataset.dataset)
        elif type(dataset) is ConcatDataset:
            datasets += dataset.datasets
        elif type(dataset) not in (TensorDataset, list, tuple):
            return False
    return loader.collate_fn is default_collate


def _order(loader: object, *, by_itself: bool) -> dict[str, int]:
    """Return checksums of what the order depends on besides random numbers, such as a sampler's list of rows.

    Args:
        by_itself: of the parts whose own code may change them when a pass begins; else of lists and PyTorch's samplers,
            which only their owner changes.
    """
    found: dict[str, int | None] = {}
    dataset = getattr(loader, "dataset", None)
    for part in _order_makers(loader):
        if isinstance(part, DataLoader) or hasattr(part, "set_epoch") or by_itself == _is_known(part):
            continue
        if type(part) in (list, tuple):
            found[f"the order of a {type(part).__name__}"] = _checksum(part)
        for name, value in getattr(part, "__dict__", {}).items():
            if value is not dataset:
                found[f"{type(part).__name__}.{name}"] = _checksum(value)
    return {name: value for name, value in found.items() if value is not None}


def _checksum(value: Any, depth: int = 3) -> int | None:
    """Return a checksum of at most `COMPARED` evenly spaced items of plain values, lists and arrays; else None."""
    if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_nested):
        return None
    if hasattr(value, "reshape") and hasattr(value, "tolist"):
        value = value.reshape(-1)
        value = value[:: len(value) // COMPARED + 1].tolist()
    elif type(value) is dict:
        value = list(value.values())
    if type(value) in (list, tuple):
        items = value[:: len(value) // COMPARED + 1]
        value = repr([len(value), *(_checksum(each, depth - 1) for each in items if depth)])
    elif not isinstance(value, (bool, int, float, str)):
        return None
    return zlib.crc32(repr(value).encode())
