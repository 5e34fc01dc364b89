"""The passes over a loader, one after another, and the place in them, from which a resumed run continues."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from course_utils.training.loaders import Batch, Loader, no_batches, set_epoch
from course_utils.training.order import FIXED_ORDER, STATE_DICT, checksums, keeper_of_the_place, why_inexact
from course_utils.training.rng import RandomStates, State

# The first takes within a pass show which random states such takes change.
WATCHED = 16


class _Start(NamedTuple):
    """How a pass began.

    Attributes:
        random: the random states at that moment; None if the order does not depend on them.
        order: checksums of what else the order depends on.
        workers: whether worker processes of an earlier pass were running.
    """

    random: State | None
    order: dict[str, int]
    workers: bool


class Passes:
    """The passes over a loader, one after another, and the place in them.

    A loader fixes its order when a pass begins. A resumed run therefore begins the pass again from the random states
    of that moment, skips the batches that were taken, and continues from the random states at the break. A loader
    with `state_dict` and `load_state_dict` keeps its place itself, so nothing is skipped. An `IterableDataset` or a
    sampler with these methods does too, unless the DataLoader has workers, which read ahead.

    Args:
        loader: yields batches in each pass.
        prepare: makes a `Batch` of what it yields.
        others: loaders, such as the one of validation, whose generators the random states include.

    Attributes:
        number: whole passes done.
        position: batches taken in this pass.
        random_states: the states of all generators that the run draws from.
        inexact: why a resumed run may not repeat the order; None if it does.
    """

    def __init__(self, loader: Loader, prepare: Callable[[object], Batch], *, others: Sequence[object] = ()):
        self.loader, self.number, self.position = loader, 0, 0
        self.random_states = RandomStates(loader, *others)
        self.inexact = why_inexact(loader)
        self._prepare = prepare
        self._keeper = keeper_of_the_place(loader)
        self._kept: Any = None  # the keeper's state, from when it was loaded until the first batch after that
        self._batches: Iterator[object] | None = None
        self._ended = False  # by a short take; the next one returns no batches
        self._start = _Start(None, {}, self._has_workers())
        self._draws_order = type(loader) not in FIXED_ORDER
        self._drawn_from: set[str] = set()  # the random states that change when batches are taken within a pass
        self._watched = 0  # how many times that was looked for

    def take(self, n: int) -> list[Batch]:
        """Return the next n batches: fewer at the end of a pass, then once none, and then those of the next pass.

        If loading fails or is interrupted, the place and the random states are those before the call.

        Raises:
            ValueError: a pass yields no batches, or fewer than the run has taken from it.
        """
        if self._ended:
            return self._end_pass()
        # Reading all random states takes a third of a small step. Within a pass, read only those that changed when the
        # first batches were taken.
        begins, watches = self._batches is None, self._watched < WATCHED
        reads_all = watches or (begins and (self.position > 0 or self._draws_order))
        before: State = {}
        if reads_all or self._drawn_from:
            before = self.random_states.get_state(None if reads_all else self._drawn_from)
        kept = self._state_of_keeper() if n > 1 else None
        try:
            if self._batches is None:
                self._batches = self._begin_pass(before)
            batches = [self._prepare(batch) for batch in itertools.islice(self._batches, n)]
        except BaseException:
            self._go_back(before, kept)
            raise
        if watches and not begins:
            self._watched += 1
            self._drawn_from.update(self.random_states.changed_since(before))
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
            start = _Start(None, checksums(self.loader, by_itself=True), start.workers)
        start = start._replace(order=start.order | checksums(self.loader, by_itself=False))
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
            order = checksums(self.loader, by_itself=True) | checksums(self.loader, by_itself=False)
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
            self._start = _Start(random, checksums(self.loader, by_itself=True), self._start.workers)
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
                    f"train yielded only {skipped} batches in pass {self.number + 1}, but the run has already taken "
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
