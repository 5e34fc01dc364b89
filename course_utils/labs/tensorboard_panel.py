"""TensorBoard beside a lesson: inside JupyterLab and as a page of its own, on the learner's real run."""

import html
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from course_utils import plots
from course_utils.experiments.event_files import read_folder
from course_utils.experiments.tensorboard import TensorBoardServer, open_board
from course_utils.labs.base import Lab

HEIGHT = 640
MOST_CURVES = 5


class TensorBoardPanel(Lab):
    """TensorBoard on a folder of runs, shown below the cell and, by a link, as a page of its own.

    It listens on this machine alone and ends with the kernel. Where the kernel runs on another machine than the
    browser, the page cannot be reached; the figure that stands in for it can.

    Args:
        folder: the folder of the runs; it may come into being later.
        port: where TensorBoard listens; None takes any free port.
        reload_seconds: how often it looks for new data; TensorBoard's own default is 5.
        pictured: the runs in the figure that stands in for the page; by default the first ones.

    Attributes:
        start, end: the buttons.
        board: the running `TensorBoardServer`, or None.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        port: int | None = None,
        reload_seconds: float = 5.0,
        pictured: Collection[str] | None = None,
    ):
        self.folder, self._port, self._reload_seconds = Path(folder), port, reload_seconds
        self._pictured = pictured
        self.board: TensorBoardServer | None = None
        self.start = widgets.Button(description="Start", icon="play", tooltip="start TensorBoard on this folder")
        self.end = widgets.Button(description="End", icon="stop", tooltip="end TensorBoard; the files stay")
        self._say, self._frame = widgets.HTML(), widgets.HTML()
        self._frame.layout.min_height = f"{HEIGHT}px"
        self._lock = threading.Lock()
        super().__init__(
            [widgets.HBox([self.start, self.end, self._say]), self._frame],
            controls={"start": self.start, "end": self.end},
            css_class="tensorboard-panel",
        )
        self.when(self.start, self._ask_to_start)
        self.when(self.end, self._end)
        self._ask_to_start()

    @property
    def url(self) -> str:
        """The address of the page, or "" while there is none."""
        return self.board.url if self.board is not None and self.board.alive else ""

    def _ask_to_start(self) -> None:
        self.clear_error()
        self.start.disabled, self.end.disabled = True, False
        self._say.value = "TensorBoard is starting …"
        self.computing.submit(self._start)

    def _start(self, stale: Callable[[], bool]) -> None:
        try:
            with self._lock:
                board = open_board(self.folder, port=self._port, reload_seconds=self._reload_seconds)
            board.wait()
        except Exception:
            self._show_ended("TensorBoard did not start:")
            raise
        if stale():
            return
        self.board = board
        address = html.escape(board.url)
        self._say.value = (
            f'{html.escape(board.note)} <a href="{address}" target="_blank" rel="noopener">open it as a page of its '
            "own</a>, on this machine alone"
        )
        self._frame.value = (
            f'<iframe src="{address}" title="TensorBoard" width="100%" height="{HEIGHT}" '
            'style="border: 1px solid var(--lab-grid)"></iframe>'
        )

    def _end(self) -> None:
        self.computing.submit(self._stop_board)

    def _stop_board(self, stale: Callable[[], bool]) -> None:
        board, self.board = self.board, None
        if board is not None:
            board.stop()
        self._show_ended("TensorBoard has ended. The files are still there.")

    def _show_ended(self, words: str) -> None:
        self._frame.value, self._say.value = "", words
        self.start.disabled, self.end.disabled = False, True

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The curves in the folder's files, drawn without TensorBoard: what a reader without a kernel sees."""
        curves = self._curves()
        (ax,) = plots.new_axes(width=6.0, height=3.0)
        for (name, points), colour, style in zip(
            curves.items(), (plots.BLUE, plots.ORANGE, plots.GREEN, plots.RED, plots.PINK), plots.LINES, strict=False
        ):
            steps, values = zip(*points, strict=True)
            ax.plot(steps, values, style, color=colour, linewidth=1.4, label=name)
        if curves:
            ax.legend(frameon=False, fontsize=9)
        ax.set(title="The curves in the run's files", xlabel="step (global_step)", ylabel="value")
        shown = ", ".join(curves) or "none yet"
        alt = f"The curves that TensorBoard finds in the run's files: {shown}."
        words = "TensorBoardPanel: run the cell to open TensorBoard here"
        return {"image/png": plots.png(ax), "text/plain": words}, {"image/png": {"alt": alt}}

    def _curves(self) -> dict[str, list[tuple[int, float]]]:
        """The first curves of the folder and of the folders in it, named run: tag."""
        found = {}
        for place in sorted({path.parent for path in Path(self.folder).rglob("*tfevents*")}):
            run = place.relative_to(self.folder).as_posix()
            if self._pictured is not None and run not in self._pictured:
                continue
            for tag, points in read_folder(place).scalars.items():
                found[tag if run == "." else f"{run}: {tag}"] = points
        return dict(list(found.items())[:MOST_CURVES])

    def close(self) -> None:
        """End TensorBoard and take the panel off the page."""
        if self in Lab.alive:
            self.computing.cancel()
            board, self.board = self.board, None
            if board is not None:
                board.stop()
        super().close()
