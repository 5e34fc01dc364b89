"""Lesson 07's first lab: where a point is between `add_scalar` and TensorBoard, and what a crash takes with it."""

import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from course_utils import plots
from course_utils.experiments.event_files import EventFile, event_paths, read_file
from course_utils.experiments.writer_process import TAG, WriterProcess
from course_utils.labs import svg
from course_utils.labs.base import Lab

WIDTH, HEIGHT = 880, 300
QUEUE = 10  # SummaryWriter's own default
FIRST_POINTS = 6
# How often the lab looks at the disk while something is under way, in seconds.
LOOK = 0.05
START_TIMEOUT = 60.0
# From here on, in milliseconds a record, the disk counts as slow; a crash counts if so many points were added to it.
SLOW, ENOUGH = 100, 5
COLUMNS, ROWS = 40, 4
SHOWN_FILES = 5
WIDE = widgets.Layout(width="98%")


class WriterLab(Lab):
    """Add points, flush, close, or kill the process that owns the writer, and see the bytes on the disk at each moment.

    A real `SummaryWriter` lives in a process of its own. The files are real, and what TensorBoard would read of them
    is read with TensorBoard's reader. The one thing added is a slow disk, because a good one is faster than a hand.

    Attributes:
        count, disk: the sliders: points for each click, and milliseconds that each record takes to be written.
        add_points, flush_writer, close_writer, crash, start_over: the buttons.
        added, lost: the points that `add_scalar` took since the start, and those that a crash took.
        files: the event files as TensorBoard's reader finds them.
        reached: whether the goal is reached.
    """

    def __init__(self):
        style = {"description_width": "120px"}
        self.count = widgets.IntSlider(
            value=10,
            min=1,
            max=COLUMNS,
            description="points to add",
            layout=WIDE,
            style=style,
            tooltip="how many points one click adds, from 1 to 40",
        )
        self.disk = widgets.IntSlider(
            value=200,
            min=0,
            max=1000,
            step=50,
            description="disk, ms a record",
            layout=WIDE,
            style=style,
            tooltip="how long each record takes to be written: 0 is this disk, 1000 a very slow network drive",
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
        self._drawn, self._words = widgets.HTML(), widgets.HTML()
        self._drawn.add_class("lab-front")
        self._lock = threading.RLock()
        self._process: WriterProcess | None = None
        row = widgets.HBox([getattr(self, name) for name in buttons], layout=widgets.Layout(flex_flow="row wrap"))
        controls = {"count": self.count, "disk": self.disk, **{name: getattr(self, name) for name in buttons}}
        super().__init__(
            [self.count, self.disk, row, self._drawn, self._words], controls=controls, css_class="writer-lab"
        )
        self.lost_in_a_crash = self.saved_from_a_crash = False
        self._fresh_folder()
        self.when(self.count, self.draw)
        self.when(self.disk, self._set_disk)
        self.when(self.add_points, self._add)
        self.when(self.flush_writer, self._flush)
        self.when(self.close_writer, self._close_writer)
        self.when(self.crash, self._crash)
        self.when(self.start_over, self._start_over)
        # A few points before any click, so that there is something to see.
        self._ask_for(FIRST_POINTS)
        self._flush()
        self.settle(START_TIMEOUT)
        self._set_disk()
        self.settle(START_TIMEOUT)

    @property
    def reached(self) -> bool:
        return self.lost_in_a_crash and self.saved_from_a_crash

    @property
    def on_disk(self) -> set[int]:
        """The steps that TensorBoard's reader finds."""
        return {step for file in self.files for step, _ in file.scalars.get(TAG, [])}

    @property
    def waiting(self) -> int:
        """How many points were added and are neither on the disk nor lost."""
        return self.added - len(self.on_disk) - len(self.lost)

    # What the hand asks for. A command goes down the pipe at once; a worker watches what becomes of it.

    def _fresh_folder(self) -> None:
        with self._lock:
            self._folder = tempfile.TemporaryDirectory(prefix="writer-lab-", ignore_cleanup_errors=True)
            self.files: list[EventFile] = []
            self.added, self.lost, self._next = 0, set(), 0
            self._told = "A fresh writer has opened its first file."
            self._new_life()

    def _new_life(self) -> None:
        """Start a process with a writer of its own in the lab's folder."""
        self._process = WriterProcess(self._folder.name, max_queue=QUEUE)
        # What the process has not answered yet, and how many points were added to a slow disk.
        self._asked = ["ready"]
        self._points_at_risk = 0
        self._broken = False  # the writer's own thread has died: what waits will wait for ever

    def _set_disk(self) -> None:
        with self._lock:
            self._process.slow_disk(self.disk.value / 1000)
            self._asked.append("slow_disk")
        self._watch()

    def _add(self) -> None:
        self.clear_error()
        with self._lock:
            if self.disk.value >= SLOW:
                self._points_at_risk += self.count.value
        self._ask_for(self.count.value)

    def _ask_for(self, count: int) -> None:
        with self._lock:
            self._process.add(range(self._next, self._next + count))
            self._asked.append("add")
            self._next += count
            self._told = f"add_scalar is called {count} times."
        self._watch()

    def _flush(self) -> None:
        with self._lock:
            self._process.flush()
            self._asked.append("flush")
            self._told = "flush() waits until the queue is empty."
        self._watch()

    def _close_writer(self) -> None:
        with self._lock:
            self._process.close()
            self._asked.append("close")
            self._told = "close() waits until the queue is empty, and then ends the writer."
        self._watch()

    def _crash(self) -> None:
        with self._lock:
            self._process.kill()
            self._look()
            gone = set(range(self.added)) - self.on_disk - self.lost
            self.lost |= gone
            if gone:
                self._told = f"The process was killed. {_points(len(gone))} still waited, and nothing brings them back."
                self.lost_in_a_crash = True
            else:
                self._told = "The process was killed, and no point is lost: all were on disk before."
                self.saved_from_a_crash |= self._points_at_risk >= ENOUGH
            self._told += " A new process goes on in the same folder, with a file of its own."
            # Calls that the killed program had not made yet were never made.
            self._next = self.added
            self._new_life()
            self._set_disk()

    def _start_over(self) -> None:
        self.clear_error()
        with self._lock:
            self._process.kill()
            self._folder.cleanup()
            self._fresh_folder()
            self._set_disk()

    # What the worker does.

    def _watch(self) -> None:
        self.computing.submit(self._follow)

    def _follow(self, stale: Callable[[], bool]) -> None:
        """Look at the process and at the disk until nothing is under way any more."""
        while not stale():
            with self._lock:
                self._look()
                self.draw()
                if self._broken or (not self._asked and self.waiting == 0):
                    return
                if not self._process.alive:
                    raise RuntimeError("the process that owns the writer has ended by itself: press 'start over'")
            time.sleep(LOOK)

    def _look(self) -> None:
        """Hear what the process says, and read what is on the disk."""
        for kind, what in self._process.said():
            if kind == "added":
                self.added = what + 1
            elif kind == "failed":
                self._asked.pop(0)
                self._broken = True
                raise RuntimeError(f"the writer's process met {what}: press 'start over'")
            else:
                self._asked.remove("ready" if kind == "ready" else what)
                if what == "flush":
                    self._told = "flush() has returned: every point that was added before is on disk."
                elif what == "close":
                    self._told = "close() has returned: all is on disk. The next add_scalar opens another file."
                elif what == "add":
                    self._told = TAKEN
        known = {file.path: file for file in self.files}
        self.files = []
        for path in event_paths(self._folder.name):
            before = known.get(path)
            same = before is not None and before.size == path.stat().st_size and not before.trouble
            self.files.append(before if same else read_file(path))

    # What is drawn and said.

    def _draw_front(self) -> None:
        with self._lock:
            added, waiting, on_disk, lost = self.added, self.waiting, self.on_disk, set(self.lost)
            files, asked, told, reached = list(self.files), list(self._asked), self._told, self.reached
        size = sum(file.size for file in files)
        body = [
            _box(0, "your program", f"{added}", "points added"),
            _box(1, "queue, in memory", f"{waiting}", "points wait"),
            _box(2, "event files, on disk", f"{size:,} B", f"in {len(files)} file{'s' * (len(files) != 1)}"),
            _box(3, "TensorBoard's reader", f"{len(on_disk)}", "points read"),
            *(_arrow(index) for index in range(3)),
            svg.text(439, 30, f"{self.disk.value / 1000:g} s" if self.disk.value else "", anchor="middle", size=11),
            *_dots(added, on_disk, lost, self.count.value),
            *_file_list(files),
        ]
        shown = f"{added} {waiting} {len(on_disk)} {len(lost)} {len(files)} {self.count.value} {self.disk.value}"
        alt = f"{self._alt()} The next click adds {self.count.value}; a record takes {self.disk.value} ms."
        self._drawn.value = svg.picture(WIDTH, HEIGHT, "".join(body), alt=alt, data_shown=shown)
        if "add" in asked and waiting > QUEUE:
            told = f"The queue holds {QUEUE} records and is full: add_scalar itself now waits for the disk."
        elif waiting == 0 and told is TAKEN:
            told = f"All {added - len(lost)} points that the reader can have are on disk. Nobody called flush or close."
        self._words.value = (
            f'<div class="lab-words" aria-live="polite">{told}<br>{self._goal() if not reached else REACHED}</div>'
        )

    def _goal(self) -> str:
        goal = (
            f"Goal: with a disk of at least {SLOW} ms a record, lose points in a crash; then add {ENOUGH} or more, "
            "crash again, and lose none."
        )
        if self.lost_in_a_crash:
            return goal + " <b>First half done ✓</b>"
        return goal + (" <b>Second half done ✓</b>" if self.saved_from_a_crash else "")

    def _alt(self) -> str:
        files = f"{len(self.files)} event file{'s' * (len(self.files) != 1)}"
        return (
            f"{_points(self.added)} were added; {self.waiting} wait in memory, {len(self.lost)} are lost, and "
            f"TensorBoard's reader finds {len(self.on_disk)} in {files} of {sum(file.size for file in self.files)} "
            "bytes."
        )

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        (ax,) = plots.new_axes(width=7.0, height=2.2)
        numbers = {
            "your program: points added": self.added,
            "queue: points that wait": self.waiting,
            "lost in a crash": len(self.lost),
            "TensorBoard's reader: points on disk": len(self.on_disk),
        }
        colours = (plots.BLUE, plots.ORANGE, plots.RED, plots.GREEN)
        bars = ax.barh(list(numbers), list(numbers.values()), color=colours)
        ax.bar_label(bars, padding=4)
        ax.invert_yaxis()
        ax.set(title="From add_scalar to TensorBoard", xlabel="points", xlim=(0, 1.15 * max(self.added, 1)))
        words = "WriterLab: run the cell, then add points, flush, close or crash"
        return {"image/png": plots.png(ax), "text/plain": words}, {"image/png": {"alt": self._alt()}}

    def close(self) -> None:
        """Kill the writer's process and take the widget off the page."""
        if self in Lab.alive:
            self.computing.cancel()
            with self._lock:
                if self._process is not None:
                    self._process.kill()
                    self._folder.cleanup()
        super().close()


TAKEN = "Every call of add_scalar has returned. The writer's thread brings the points to disk."
REACHED = "<b>Goal reached ✓</b> A crash takes what waits in memory. What flush() or time brought to the disk stays."


def _points(count: int) -> str:
    return f"{count} point{'s' * (count != 1)}"


def _box(index: int, title: str, number: str, words: str) -> str:
    left = 4 + index * 226
    return "".join(
        [
            f'<rect x="{left}" y="6" width="192" height="84" rx="6" fill="none" stroke="var(--lab-grid)"/>',
            svg.text(left + 96, 27, title, anchor="middle", size=13, colour="faint"),
            svg.text(left + 96, 56, number, anchor="middle", size=23, weight="600", colour="accent"),
            svg.text(left + 96, 78, words, anchor="middle", size=12),
        ]
    )


def _arrow(index: int) -> str:
    left = 200 + index * 226
    return svg.line(f"M{left} 48H{left + 26}M{left + 19} 42L{left + 26} 48L{left + 19} 54", colour="faint", width=1.6)


def _dots(added: int, on_disk: set[int], lost: set[int], to_add: int) -> list[str]:
    """One mark for each point, the latest rows: a disc on disk, a ring while it waits, a cross when lost.

    Small dots stand where the next click will add.
    """
    first = max(0, -(-(added + to_add) // COLUMNS) - ROWS) * COLUMNS
    parts = [
        svg.text(4, 122, f"points, from step {first} on", size=12),
        '<circle cx="300" cy="118" r="5" fill="var(--lab-accent)"/>',
        svg.text(310, 122, "on disk", size=12),
        '<circle cx="380" cy="118" r="4.5" fill="none" stroke="var(--lab-slow)" stroke-width="2"/>',
        svg.text(390, 122, "waits in memory", size=12),
        svg.line("M506 114l8 8m0 -8l-8 8", colour="bad", width=2.2),
        svg.text(519, 122, "lost", size=12),
        '<circle cx="566" cy="118" r="2" fill="var(--lab-faint)"/>',
        svg.text(575, 122, "the next click", size=12),
    ]
    for step in range(first, added + to_add):
        row, column = divmod(step - first, COLUMNS)
        x, y = 12 + column * 21.9, 142 + row * 20
        if step >= added:
            parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="2" fill="var(--lab-faint)"/>')
        elif step in on_disk:
            parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="var(--lab-accent)"/>')
        elif step in lost:
            parts.append(svg.line(f"M{x - 4:.1f} {y - 4}l8 8m0 -8l-8 8", colour="bad", width=2.2))
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
