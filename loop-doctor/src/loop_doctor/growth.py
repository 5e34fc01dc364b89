"""Notice a number that keeps growing, such as the number of graphs that stay alive."""

import sys
import weakref
from collections.abc import Callable
from types import FrameType

from loop_doctor.call_sites import Location
from loop_doctor.holders import Holder, find_holder

MANY = 6  # a loop may well hold a handful of losses in its variables
BLOCK = 3  # looks over which the smallest number of live graphs is taken


class GraphMarker:
    """An object that is attached to a node of the graph and dies with it."""

    __slots__ = ("__weakref__",)


class GrowthDetector:
    """Watches a number that is looked at again and again, and notices when it keeps growing."""

    def __init__(self) -> None:
        self.peak = 0
        self.lasting = 0  # the largest value that the number never fell below during a block of looks
        self.num_rising = 0
        self.location: Location | None = None
        self.holder: Holder | None = None  # what keeps the graphs, if that was found
        self._searched = 0  # the number for which it was looked for last
        self._least, self._last_least, self.num_looks = sys.maxsize, 0, 0

    def grows(self) -> bool:
        """Return whether the number is sure to grow."""
        return self.num_rising >= 3 and self.lasting >= MANY

    def look_for_holder(self, number: int, user_frames: Callable[[], list[FrameType]]) -> None:
        """Look in the user's own frames for what keeps this many graphs, once it is sure that their number grows."""
        if self.holder is None and number >= 2 * self._searched and self.grows():
            self._searched = number
            self.holder = find_holder(user_frames(), number)

    def count(self, number: int, location: Location | None) -> None:
        """Look at the number. It grows when the least value of each block rises, block after block."""
        if number > self.peak:
            self.peak = number
        if number < self._least:
            self._least = number
        self.num_looks += 1
        if self.num_looks % BLOCK == 0:
            self.lasting = max(self.lasting, self._least)
            if self._least > self._last_least:
                self.num_rising += 1
                self.location = self.location or location
            elif self._least < self._last_least and self.num_rising < 3:
                self.num_rising, self.location = 0, None
            self._last_least, self._least = self._least, sys.maxsize


class LiveGraphs(GrowthDetector):
    """Counts the graphs that are alive, by the markers attached to them."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}  # marker: the look since which it has been alive
        self._followed: dict[int, weakref.ref[GraphMarker]] = {}
        self._used: set[int] = set()  # those that a backward call has gone through
        self.used = GrowthDetector()

    def follow(self, marker: GraphMarker, on_death: Callable[[int], None] | None = None) -> None:
        """Follow a marker until it dies, then call `on_death` with its id."""
        key = id(marker)
        self._alive[key] = self.num_looks

        def gone(_: weakref.ref[GraphMarker]) -> None:
            self._alive.pop(key, None)
            self._followed.pop(key, None)
            self._used.discard(key)
            if on_death is not None:
                on_death(key)

        self._followed[key] = weakref.ref(marker, gone)

    def release(self, key: int, *, used: bool) -> None:
        """Note that a gradient went through this graph: it was kept for a purpose, and so was what piled up before."""
        since = self._alive.pop(key, self.num_looks)
        if used:
            self._used.add(key)
        if self.num_looks - since >= 2 * BLOCK:
            self.num_rising, self.lasting, self.location, self._last_least = 0, 0, None, sys.maxsize

    def look(self, location: Location | None, user_frames: Callable[[], list[FrameType]]) -> None:
        """Count the graphs that are alive now, and look for what keeps them once it is sure that their number grows."""
        self.count(len(self._alive), location)
        if self.num_rising >= 3:
            self.look_for_holder(len(self._alive), user_frames)

    def piles_up(self) -> bool:
        """Return whether more graphs are alive than a loop's own variables hold."""
        return len(self._alive) >= BLOCK

    def look_at_used(self, location: Location | None, user_frames: Callable[[], list[FrameType]]) -> None:
        """Count the graphs that are alive although a backward call has used them: once a step, or the count jumps."""
        if len(self._used) < BLOCK and not self.used.num_looks:
            return  # a loop's own variables hold as many
        self.used.count(len(self._used), location)
        if self.used.num_rising >= 3:
            self.used.look_for_holder(min(len(self._used), self.used.num_looks), user_frames)

    def forget(self) -> None:
        """Stop following all markers."""
        self._alive.clear()
        self._used.clear()
        self._followed.clear()
