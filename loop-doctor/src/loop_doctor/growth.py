"""Notice a number that keeps growing, such as the number of graphs that stay alive."""

import sys
import weakref
from collections.abc import Callable

from loop_doctor.call_sites import Location

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
        self._least, self._last_least, self._looks = sys.maxsize, 0, 0

    def count(self, number: int, location: Location | None) -> None:
        """Look at the number. It grows when the least value of each block rises, block after block."""
        if number > self.peak:
            self.peak = number
        if number < self._least:
            self._least = number
        self._looks += 1
        if self._looks % BLOCK == 0:
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

    def follow(self, marker: GraphMarker, on_death: Callable[[int], None] | None = None) -> None:
        """Follow a marker until it dies, then call `on_death` with its id."""
        key = id(marker)
        self._alive[key] = self._looks

        def gone(_: weakref.ref[GraphMarker]) -> None:
            self._alive.pop(key, None)
            self._followed.pop(key, None)
            if on_death is not None:
                on_death(key)

        self._followed[key] = weakref.ref(marker, gone)

    def release(self, key: int) -> None:
        """Note a backward call through this graph: it was kept for a purpose, and so was what piled up before."""
        since = self._alive.pop(key, self._looks)
        if self._looks - since >= 2 * BLOCK:
            self.num_rising, self.lasting, self.location, self._last_least = 0, 0, None, sys.maxsize

    def look(self, location: Location | None) -> None:
        """Count the graphs that are alive now."""
        self.count(len(self._alive), location)

    def piles_up(self) -> bool:
        """Return whether more graphs are alive than a loop's own variables hold."""
        return len(self._alive) >= BLOCK

    def forget(self) -> None:
        """Stop following all markers."""
        self._alive.clear()
        self._followed.clear()
