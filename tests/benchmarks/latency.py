"""How long the picture takes to follow the hand, measured inside the browser."""

import random
import statistics
import time
from dataclasses import dataclass, field

from notebook_page import NotebookPage
from playwright.sync_api import Locator

QUIET = 1500  # milliseconds without a new picture after which none will come
STORM_MOVES, STORM_SECONDS = 200, 3.5

# Before each frame is painted the page reads what the picture shows: a change is dated by the frame that shows it.
# A move is dated by the page itself when the event arrives, so the test's own way to the browser does not count.
SAMPLER = """selector => {
  const log = window.sampled = { moves: [], ups: [], pictures: [] };
  const read = () => {
    const picture = document.querySelector(selector);
    if (!picture) return null;
    if (picture.tagName !== "IMG") return picture.dataset.shown;
    return picture.complete && picture.naturalWidth ? picture.src : null;
  };
  let last = read();
  document.addEventListener("pointermove", () => log.moves.push(performance.now()), true);
  document.addEventListener("pointerup", () => log.ups.push(performance.now()), true);
  const frame = () => {
    const now = read();
    if (now !== null && now !== last) {
      last = now;
      log.pictures.push(performance.now());
    }
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}"""


@dataclass
class Storm:
    """What came of many moves in a short time.

    Attributes:
        pictures: how many were shown.
        late: how many of them after the release.
        settled: milliseconds from the release to the last new picture; 0 if it was there already.
    """

    pictures: int
    late: int
    settled: float


@dataclass
class Latencies:
    """Milliseconds from the move's event to the frame that shows the new picture, one for each drag."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def p95(self) -> float:
        return statistics.quantiles(self.values, n=20, method="inclusive")[-1]


class Hand:
    """A mouse on one slider, and a sampler on one picture (an SVG with `data-shown`, or an image)."""

    def __init__(self, notebook: NotebookPage, slider: Locator, picture: str, *, seed: int = 0):
        self.page = notebook.page
        self.picture = picture
        self.handle, self.track = slider.locator(".noUi-handle"), slider.locator(".noUi-base")
        self.page.locator(picture).scroll_into_view_if_needed()
        self.handle.scroll_into_view_if_needed()
        self.random = random.Random(seed)
        self.page.evaluate(SAMPLER, picture)

    def _log(self) -> dict[str, list[float]]:
        return self.page.evaluate("window.sampled")

    def _x(self, share: float) -> float:
        return self._box["x"] + share * self._box["width"]

    def _take(self) -> float:
        """Press the mouse on the handle; returns where it stands, as a share of the track."""
        self._box = self.track.bounding_box()
        handle = self.handle.bounding_box()
        x, self._y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        self.page.mouse.move(x, self._y)
        self.page.mouse.down()
        return (x - self._box["x"]) / self._box["width"]

    def _wait_for_quiet(self, milliseconds: float) -> None:
        self.page.wait_for_function(
            "quiet => performance.now() - Math.max(0, ...window.sampled.pictures, ...window.sampled.moves) > quiet",
            arg=milliseconds,
            timeout=30_000,
        )

    def drags(self, count: int) -> Latencies:
        """Drag to `count` places, each at least an eighth of the track away, and time the first picture of each."""
        found = Latencies()
        for _ in range(count):
            here = self._take()
            share = self.random.choice([new for new in (i / 40 for i in range(1, 40)) if abs(new - here) > 0.125])
            self._wait_for_quiet(300)
            before = self._log()
            self.page.mouse.move(self._x(share), self._y)
            self.page.wait_for_function(
                "count => window.sampled.pictures.length > count", arg=len(before["pictures"]), timeout=30_000
            )
            after = self._log()
            found.values.append(after["pictures"][len(before["pictures"])] - after["moves"][len(before["moves"])])
            self.page.mouse.up()
        return found

    def storm(self) -> Storm:
        """Move to and fro 200 times in 3.5 seconds, release, and see when the last picture comes."""
        self._take()
        self._wait_for_quiet(300)
        before = self._log()
        start = time.perf_counter()
        for index in range(STORM_MOVES):
            # Three times over the track and back; the last move ends at another place than all before.
            turn = 6 * (index + 1) / STORM_MOVES % 2
            self.page.mouse.move(self._x(0.03 + 0.94 * (turn if turn <= 1 else 2 - turn)), self._y)
            self.page.wait_for_timeout(
                max(0.0, 1000 * (start + STORM_SECONDS * (index + 1) / STORM_MOVES - time.perf_counter()))
            )
        self.page.mouse.up()
        self._wait_for_quiet(QUIET)
        after = self._log()
        pictures = after["pictures"][len(before["pictures"]) :]
        released = after["ups"][-1]
        late = sum(shown > released for shown in pictures)
        return Storm(len(pictures), late, max(0.0, pictures[-1] - released))
