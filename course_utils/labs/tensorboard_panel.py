"""TensorBoard beside a lesson: inside JupyterLab and as a separate page, on the learner's real run."""

import html
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from course_utils import plots
from course_utils.experiments.event_files import read_folder
from course_utils.experiments.tensorboard import TensorBoardServer, open_server
from course_utils.labs.base import Lab, html_box, still_picture

HEIGHT = 640
MAX_CURVES = 5


class TensorBoardPanel(Lab):
    """TensorBoard on a folder of runs, shown below the cell and, by a link, as a separate page.

    It is reachable only from this machine and ends with the kernel. If the kernel runs on another machine than the
    browser, the page cannot be reached; the still picture can.

    Args:
        folder: the folder of the runs; it may be created later.
        port: the port that TensorBoard listens on; None picks a free one.
        reload_seconds: how often it looks for new data; TensorBoard's own default is 5.
        pictured: the runs in the still picture; by default the first ones.

    Attributes:
        start, end: the buttons.
        server: the running `TensorBoardServer`, or None.
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
        self.server: TensorBoardServer | None = None
        self.start = widgets.Button(description="Start", icon="play", tooltip="start TensorBoard on this folder")
        self.end = widgets.Button(description="End", icon="stop", tooltip="end TensorBoard; the files stay")
        self._message, self._frame = html_box(), html_box()
        self._frame.layout.min_height = f"{HEIGHT}px"
        self._lock = threading.Lock()
        super().__init__(
            [widgets.HBox([self.start, self.end, self._message]), self._frame],
            controls={"start": self.start, "end": self.end},
            css_class="tensorboard-panel",
        )
        self.on_change(self.start, self._request_start)
        self.on_change(self.end, self._request_end)
        self._request_start()

    @property
    def url(self) -> str:
        """The address of the page, or "" if no server is running."""
        return self.server.url if self.server is not None and self.server.alive else ""

    def _request_start(self) -> None:
        self.clear_error()
        self.start.disabled, self.end.disabled = True, False
        self._message.value = "TensorBoard is starting …"
        self.computing.submit(self._start)

    def _start(self, cancelled: Callable[[], bool]) -> None:
        try:
            with self._lock:
                server = open_server(self.folder, port=self._port, reload_seconds=self._reload_seconds)
            server.wait()
        except Exception:
            self._show_ended("TensorBoard did not start:")
            raise
        if cancelled():
            return
        self.server = server
        address = html.escape(server.url)
        self._message.value = (
            f'{html.escape(server.note)} <a href="{address}" target="_blank" rel="noopener">open it as a page of its '
            "own</a>, on this machine alone"
        )
        self._frame.value = (
            f'<iframe src="{address}" title="TensorBoard" width="100%" height="{HEIGHT}" '
            'style="border: 1px solid var(--lab-grid)"></iframe>'
        )

    def _request_end(self) -> None:
        self.computing.submit(self._end)

    def _end(self, cancelled: Callable[[], bool]) -> None:
        server, self.server = self.server, None
        if server is not None:
            server.stop()
        self._show_ended("TensorBoard has ended. The files are still there.")

    def _show_ended(self, words: str) -> None:
        self._frame.value, self._message.value = "", words
        self.start.disabled, self.end.disabled = False, True

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draw the curves in the folder's files without TensorBoard, for readers without a kernel."""
        curves = self._curves()
        (ax,) = plots.new_axes(width=6.0, height=3.0)
        for (name, points), color, style in zip(
            curves.items(), (plots.BLUE, plots.ORANGE, plots.GREEN, plots.RED, plots.PINK), plots.LINES, strict=False
        ):
            steps, values = zip(*points, strict=True)
            ax.plot(steps, values, style, color=color, linewidth=1.4, label=name)
        if curves:
            ax.legend(frameon=False, fontsize=9)
        ax.set(title="The curves in the run's files", xlabel="step (global_step)", ylabel="value")
        shown = ", ".join(curves) or "none yet"
        alt = f"The curves that TensorBoard finds in the run's files: {shown}."
        return still_picture(ax, text="TensorBoardPanel: run the cell to open TensorBoard here", alt=alt)

    def _curves(self) -> dict[str, list[tuple[int, float]]]:
        """Return the first curves of the folder and its subfolders, named "run: tag"."""
        found = {}
        for folder in sorted({path.parent for path in Path(self.folder).rglob("*tfevents*")}):
            run = folder.relative_to(self.folder).as_posix()
            if self._pictured is not None and run not in self._pictured:
                continue
            for tag, points in read_folder(folder).scalars.items():
                found[tag if run == "." else f"{run}: {tag}"] = points
        return dict(list(found.items())[:MAX_CURVES])

    def close(self) -> None:
        """End TensorBoard and take the panel off the page."""
        if self in Lab.alive:
            self.computing.cancel()
            server, self.server = self.server, None
            if server is not None:
                server.stop()
        super().close()
