"""Lesson 07's first lab: where a point is between `add_scalar` and TensorBoard, and which points a crash loses."""

import threading
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from course_utils import plots
from course_utils.experiments.event_files import EventFile
from course_utils.experiments.writer_process import WriterSession
from course_utils.labs import svg
from course_utils.labs.base import GOAL_REACHED, WRAP, Lab, html_box, sentences, slider_options, still_picture

HEIGHT = 300
QUEUE = 10  # SummaryWriter's own default
FIRST_POINTS = 6
# How often the lab looks at the disk while something is going on, in seconds.
POLL_INTERVAL = 0.05
START_TIMEOUT = 60.0
# A disk counts as slow from so many milliseconds per record; a crash counts if so many points were added to one.
SLOW, ENOUGH = 100, 5
COLUMNS, ROWS = 40, 4
SHOWN_FILES = 5
TAKEN = "Every call of add_scalar has returned. The writer's thread brings the points to disk."
# What the lab says when the process has answered a command.
ANSWERS = {
    "flush": "flush() has returned: every point that was added before is on disk.",
    "close": "close() has returned: all is on disk. The next add_scalar opens another file.",
    "add": TAKEN,
}
REACHED = f"{GOAL_REACHED} A crash takes what waits in memory. What flush() or time brought to the disk stays."


class WriterLab(Lab):
    """Add points, flush, close, or kill the process that owns the writer, and see the bytes on disk at each moment.

    A real `SummaryWriter` runs in a separate process. The files are real, and TensorBoard's own reader reads them. Only
    the slow disk is artificial, because a good disk is faster than a hand.

    Attributes:
        count, disk: the sliders: points per click, and milliseconds that the writing of each record takes.
        add_points, flush_writer, close_writer, crash, start_over: the buttons.
        session: the process, its files, and what became of each point.
        reached: whether the goal is reached.
    """

    session: WriterSession

    def __init__(self):
        self.count = widgets.IntSlider(
            value=10,
            min=1,
            max=COLUMNS,
            description="points to add",
            tooltip="how many points one click adds, from 1 to 40",
            **slider_options("120px"),
        )
        self.disk = widgets.IntSlider(
            value=200,
            min=0,
            max=1000,
            step=50,
            description="disk, ms a record",
            tooltip="how long each record takes to be written: 0 is this disk, 1000 a very slow network drive",
            **slider_options("120px"),
        )
        buttons = {
            "add_points": ("add_scalar", "plus", "call add_scalar once for each point"),
            "flush_writer": ("flush()", "download", "wait until all points are on disk"),
            "close_writer": ("close()", "times", "wait until all points are on disk, and end the writer"),
            "crash": ("crash", "bolt", "kill the process that owns the writer"),
            "start_over": ("start over", "refresh", "a new writer in an empty folder"),
        }
        for name, (words, icon, tooltip) in buttons.items():
            setattr(self, name, widgets.Button(description=words, icon=icon, tooltip=tooltip))
        self._drawn, self._words = html_box("lab-front"), html_box()
        self._lock = threading.RLock()
        row = widgets.HBox([getattr(self, name) for name in buttons], layout=WRAP)
        controls = {"count": self.count, "disk": self.disk, **{name: getattr(self, name) for name in buttons}}
        super().__init__(
            [self.count, self.disk, row, self._drawn, self._words], controls=controls, css_class="writer-lab"
        )
        self.lost_in_a_crash = self.saved_from_a_crash = False
        self._begin()
        self.on_change(self.count, self.draw)
        self.on_change(self.disk, self._set_disk)
        self.on_change(self.add_points, self._add)
        self.on_change(self.flush_writer, self._flush)
        self.on_change(self.close_writer, self._close_writer)
        self.on_change(self.crash, self._crash)
        self.on_change(self.start_over, self._start_over)
        # A few points before any click, so that there is something to see.
        self._add_points(FIRST_POINTS)
        self._flush()
        self.settle(START_TIMEOUT)
        self._set_disk()
        self.settle(START_TIMEOUT)

    @property
    def reached(self) -> bool:
        return self.lost_in_a_crash and self.saved_from_a_crash

    # Callbacks: a command goes down the pipe at once; a worker watches what becomes of it.

    def _begin(self) -> None:
        with self._lock:
            self.session = WriterSession(max_queue=QUEUE)
            self._points_at_risk = 0  # since the process started, and added to a slow disk
            self._message = "A fresh writer has opened its first file."

    def _set_disk(self) -> None:
        with self._lock:
            self.session.slow_disk(self.disk.value / 1000)
        self._watch()

    def _add(self) -> None:
        self.clear_error()
        with self._lock:
            if self.disk.value >= SLOW:
                self._points_at_risk += self.count.value
        self._add_points(self.count.value)

    def _add_points(self, count: int) -> None:
        with self._lock:
            self.session.add(count)
            self._message = f"add_scalar is called {count} times."
        self._watch()

    def _flush(self) -> None:
        with self._lock:
            self.session.flush()
            self._message = "flush() waits until the queue is empty."
        self._watch()

    def _close_writer(self) -> None:
        with self._lock:
            self.session.close_writer()
            self._message = "close() waits until the queue is empty, and then ends the writer."
        self._watch()

    def _crash(self) -> None:
        with self._lock:
            lost = len(self.session.crash())
            if lost:
                self._message = (
                    f"The process was killed. {_points(lost)} still waited, and nothing brings them back. A new "
                    "process goes on in the same folder, with a file of its own."
                )
                self.lost_in_a_crash = True
            else:
                self._message = (
                    "The process was killed, and no point is lost: all were on disk before. A new process goes on in "
                    "the same folder, with a file of its own."
                )
                self.saved_from_a_crash |= self._points_at_risk >= ENOUGH
            self._points_at_risk = 0
            self._set_disk()

    def _start_over(self) -> None:
        self.clear_error()
        with self._lock:
            self.session.end()
            self._begin()
            self._set_disk()

    # The job of the worker.

    def _watch(self) -> None:
        self.computing.submit(self._follow_session)

    def _follow_session(self, cancelled: Callable[[], bool]) -> None:
        """Watch the process and the disk until nothing more will happen."""
        while not cancelled():
            with self._lock:
                for command in self.session.poll():
                    self._message = ANSWERS.get(command, self._message)
                self.draw()
                if self.session.settled:
                    return
                if not self.session.process.alive:
                    raise RuntimeError("the process that owns the writer has ended by itself: press 'start over'")
            time.sleep(POLL_INTERVAL)

    # Drawing and sentences.

    def _draw_front(self) -> None:
        with self._lock:
            session = self.session
            added, waiting, on_disk, lost = session.added, session.waiting, session.on_disk, set(session.lost)
            files, pending, message, reached = list(session.files), list(session.pending), self._message, self.reached
        size = sum(file.size for file in files)
        body = [
            _box(0, "your program", f"{added}", "points added"),
            _box(1, "queue, in memory", f"{waiting}", "points wait"),
            _box(2, "event files, on disk", f"{size:,} B", f"in {_files(len(files))}"),
            _box(3, "TensorBoard's reader", f"{len(on_disk)}", "points read"),
            *(_arrow(index) for index in range(3)),
            svg.text(439, 30, f"{self.disk.value / 1000:g} s" if self.disk.value else "", anchor="middle", size=11),
            *_dots(added, on_disk, lost, self.count.value),
            *_file_list(files),
        ]
        shown = f"{added} {waiting} {len(on_disk)} {len(lost)} {len(files)} {self.count.value} {self.disk.value}"
        alt = f"{self._alt()} The next click adds {self.count.value}; a record takes {self.disk.value} ms."
        self._drawn.value = svg.picture(HEIGHT, "".join(body), alt=alt, data_shown=shown)
        if "add" in pending and waiting > QUEUE:
            message = f"The queue holds {QUEUE} records and is full: add_scalar itself now waits for the disk."
        elif waiting == 0 and message is TAKEN:
            message = (
                f"All {added - len(lost)} points that the reader can have are on disk. Nobody called flush or close."
            )
        self._words.value = sentences(f"{message}<br>{REACHED if reached else self._goal()}")

    def _goal(self) -> str:
        goal = (
            f"Goal: with a disk of at least {SLOW} ms a record, lose points in a crash; then add {ENOUGH} or more, "
            "crash again, and lose none."
        )
        if self.lost_in_a_crash:
            return goal + " <b>First half done ✓</b>"
        return goal + (" <b>Second half done ✓</b>" if self.saved_from_a_crash else "")

    def _alt(self) -> str:
        session = self.session
        return (
            f"{_points(session.added)} were added; {session.waiting} wait in memory, {len(session.lost)} are lost, and "
            f"TensorBoard's reader finds {len(session.on_disk)} in {_files(len(session.files), 'event file')} of "
            f"{sum(file.size for file in session.files)} bytes."
        )

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        (ax,) = plots.new_axes(width=7.0, height=2.2)
        numbers = {
            "your program: points added": self.session.added,
            "queue: points that wait": self.session.waiting,
            "lost in a crash": len(self.session.lost),
            "TensorBoard's reader: points on disk": len(self.session.on_disk),
        }
        colors = (plots.BLUE, plots.ORANGE, plots.RED, plots.GREEN)
        bars = ax.barh(list(numbers), list(numbers.values()), color=colors)
        ax.bar_label(bars, padding=4)
        ax.invert_yaxis()
        ax.set(title="From add_scalar to TensorBoard", xlabel="points", xlim=(0, 1.15 * max(self.session.added, 1)))
        text = "WriterLab: run the cell, then add points, flush, close or crash"
        return still_picture(ax, text=text, alt=self._alt())

    def close(self) -> None:
        """Kill the writer's process and take the widget off the page."""
        if self in Lab.alive:
            self.computing.cancel()
            with self._lock:
                self.session.end()
        super().close()


def _points(count: int) -> str:
    return "1 point" if count == 1 else f"{count} points"


def _files(count: int, name: str = "file") -> str:
    return f"1 {name}" if count == 1 else f"{count} {name}s"


def _box(index: int, title: str, number: str, words: str) -> str:
    left = 4 + index * 226
    return "".join(
        [
            f'<rect x="{left}" y="6" width="192" height="84" rx="6" fill="none" stroke="var(--lab-grid)"/>',
            svg.text(left + 96, 27, title, anchor="middle", size=13, color="faint"),
            svg.text(left + 96, 56, number, anchor="middle", size=23, weight="600", color="accent"),
            svg.text(left + 96, 78, words, anchor="middle", size=12),
        ]
    )


def _arrow(index: int) -> str:
    left = 200 + index * 226
    return svg.line(f"M{left} 48H{left + 26}M{left + 19} 42L{left + 26} 48L{left + 19} 54", color="faint", width=1.6)


def _dots(added: int, on_disk: set[int], lost: set[int], to_add: int) -> list[str]:
    """Draw the latest rows of points: a disc if on disk, a ring while it waits, a cross if lost.

    Small dots mark the points that the next click will add.
    """
    first = max(0, -(-(added + to_add) // COLUMNS) - ROWS) * COLUMNS
    parts = [
        svg.text(4, 122, f"points, from step {first} on", size=12),
        svg.dot(300, 118, 5),
        svg.text(310, 122, "on disk", size=12),
        '<circle cx="380" cy="118" r="4.5" fill="none" stroke="var(--lab-slow)" stroke-width="2"/>',
        svg.text(390, 122, "waits in memory", size=12),
        svg.line("M506 114l8 8m0 -8l-8 8", color="bad", width=2.2),
        svg.text(519, 122, "lost", size=12),
        svg.dot(566, 118, 2, color="faint"),
        svg.text(575, 122, "the next click", size=12),
    ]
    for step in range(first, added + to_add):
        row, column = divmod(step - first, COLUMNS)
        x, y = 12 + column * 21.9, 142 + row * 20
        if step >= added:
            parts.append(svg.dot(x, y, 2, color="faint"))
        elif step in on_disk:
            parts.append(svg.dot(x, y, 5))
        elif step in lost:
            parts.append(svg.line(f"M{x - 4:.1f} {y - 4}l8 8m0 -8l-8 8", color="bad", width=2.2))
        else:
            ring = 'fill="none" stroke="var(--lab-slow)" stroke-width="2"'
            parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="4.5" {ring}/>')
    return parts


def _file_list(files: list[EventFile]) -> list[str]:
    shown = files[-SHOWN_FILES:]
    number = len(files) - len(shown)
    parts = [
        svg.text(
            4, 232, "event files" if not number else f"the last {SHOWN_FILES} of {len(files)} event files", size=12
        )
    ]
    for index, file in enumerate(shown):
        left = 4 + index * 175
        parts.append(
            f'<rect x="{left}" y="242" width="165" height="48" rx="4" fill="none" stroke="var(--lab-grid)"/>'
            + svg.text(left + 10, 262, f"file {number + index + 1}", size=12, weight="600")
            + svg.text(left + 10, 280, f"{file.size:,} bytes, {_points(file.points)}", size=12)
        )
    return parts
