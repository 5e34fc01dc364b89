"""What all labs share: background workers, error display, a Stop button, a still picture, and a way to wait.

JupyterLab may call a widget's callback on the main thread at one moment and on another thread at the next, even while
a cell is running. So a callback here never draws and never computes: it notes the newest value and leaves the work to
a `Worker`. Nothing in this folder uses pyplot, `interact` or an `Output` widget.
"""

import atexit
import contextlib
import html
import math
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import ipywidgets as widgets
from IPython import get_ipython
from matplotlib.axes import Axes

from course_utils import palette, plots

Job = Callable[[Callable[[], bool]], None]

GOAL_REACHED = "<b>Goal reached ✓</b>"
WIDE = widgets.Layout(width="98%")
FIT = widgets.Layout(width="auto")
WRAP = widgets.Layout(flex_flow="row wrap")

STYLE = f"""<style>
.course-lab {{ --lab-ink: var(--jp-ui-font-color1, #222); --lab-faint: var(--jp-ui-font-color2, #666);
  --lab-grid: var(--jp-border-color2, #ddd); {palette.variables("light")} max-width: 900px; padding: 4px 0 8px; }}
body[data-jp-theme-light="false"] .course-lab {{ {palette.variables("dark")} }}
.course-lab :focus-visible {{ outline: 2px solid var(--lab-ink) !important; outline-offset: -2px; }}
.course-lab .noUi-handle:focus-visible {{ outline-offset: 2px; }}
.course-lab .widget-slider .noUi-handle {{ border-color: var(--lab-faint); }}
.course-lab svg {{ display: block; width: 100%; height: auto; font-family: var(--jp-ui-font-family, sans-serif); }}
.course-lab .lab-words {{ color: var(--lab-ink); line-height: 1.45; }}
.course-lab .lab-front {{ pointer-events: none; }}
.course-lab .lab-error pre {{ color: var(--lab-bad); white-space: pre-wrap; border-left: 3px solid; padding: 4px 8px; }}
</style>"""


class Worker:
    """A background thread that runs the newest job; a waiting job is dropped when a newer one arrives.

    The running job receives `cancelled`, a function that returns True once a newer job is waiting or `cancel` was
    called. A long job checks it now and then and returns early. The thread ends when no job is left.

    Args:
        name: the thread's name.
        on_error: called with any exception that a job raises.
    """

    def __init__(self, name: str, on_error: Callable[[Exception], None]):
        self._name, self._on_error = name, on_error
        self._idle = threading.Condition()
        self._waiting: Job | None = None
        self._thread: threading.Thread | None = None
        self._stop_running = threading.Event()

    def submit(self, job: Job) -> None:
        """Run `job(cancelled)` as soon as the running job has ended, unless a newer job arrives first."""
        with self._idle:
            self._waiting = job
            self._stop_running.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def cancel(self) -> None:
        """Drop the waiting job and ask the running one to stop."""
        with self._idle:
            self._waiting = None
            self._stop_running.set()

    @property
    def busy(self) -> bool:
        """Whether a job is running or waiting."""
        return self._thread is not None

    def settle(self, timeout: float) -> None:
        """Wait until no job is running or waiting.

        Raises:
            TimeoutError: this took longer than `timeout` seconds.
        """
        with self._idle:
            if not self._idle.wait_for(lambda: self._thread is None, timeout):
                raise TimeoutError(f"{self._name} was still busy after {timeout} s; wait longer or press Stop")

    def _run(self) -> None:
        try:
            self._run_jobs()
        except BaseException:
            # `on_error` failed, or the job ended the thread: the next job starts a new one.
            with self._idle:
                self._thread = self._waiting = None
                self._idle.notify_all()
            raise

    def _run_jobs(self) -> None:
        while True:
            with self._idle:
                job, self._waiting = self._waiting, None
                if job is None:
                    self._thread = None
                    self._idle.notify_all()
                    return
                stop = self._stop_running = threading.Event()
            try:
                job(stop.is_set)
            except Exception as error:
                self._on_error(error)


class Throttle:
    """Limits how often a picture that fills in is redrawn, so that the time goes to the training.

    Args:
        interval: the seconds between two redraws, at least.
    """

    def __init__(self, interval: float = 0.1):
        # The first redraw is due at once: a lab that shows nothing for a moment seems not to have heard.
        self._interval, self._last = interval, -math.inf

    def due(self) -> bool:
        """Return whether a redraw is due; if so, the next interval begins."""
        now = time.monotonic()
        if now - self._last <= self._interval:
            return False
        self._last = now
        return True


class Lab(widgets.VBox):
    """A displayable lab: controls above a picture that follows them, and a still picture for readers without a kernel.

    A subclass makes its widgets, passes them on, and implements `picture`. It has two workers: `self.drawing` for what
    must follow the pointer, `self.computing` for what takes longer, so that a sweep never holds up the slider.

    Args:
        children: the rows of the lab.
        controls: its controls by name; a test moves each of them.
        css_class: a class name for styles and for tests.
        buttons: the buttons that start long computations. If there are any, the lab adds a row with them, "Stop", a
            progress bar and a status text.
    """

    alive: ClassVar["weakref.WeakSet[Lab]"] = weakref.WeakSet()

    def __init__(
        self,
        children: list[widgets.Widget],
        *,
        controls: dict[str, widgets.Widget],
        css_class: str,
        buttons: Sequence[widgets.Button] = (),
    ):
        self._error_box = widgets.HTML()
        self._error_box.add_class("lab-error")
        self.halt = widgets.Button(
            description="Stop", icon="stop", disabled=True, tooltip="stop the computation; what is shown stays"
        )
        self._bar = widgets.FloatProgress(min=0, max=1, layout=widgets.Layout(width="160px", visibility="hidden"))
        self._status = widgets.HTML()
        self._status.add_class("lab-status")
        style = widgets.HTML(STYLE, layout=widgets.Layout(display="none"))
        actions = [widgets.HBox([*buttons, self.halt, self._bar, self._status])] if buttons else []
        super().__init__([style, *children, *actions, self._error_box])
        self.add_class("course-lab")
        self.add_class(css_class)
        self.controls = controls
        self.errors: list[Exception] = []
        self._back_is_due = False
        self.drawing = Worker(f"{css_class}-drawing", self.show_error)
        self.computing = Worker(f"{css_class}-computing", self.show_error)
        self.on_change(self.halt, self.stop)
        Lab.alive.add(self)

    def show_progress(self, fraction: float, text: str) -> None:
        """Show how much of a long computation is done, from 0 to 1, with a status text, and enable "Stop"."""
        self._bar.value, self._status.value = fraction, html.escape(text)
        if self.halt.disabled:
            self.halt.disabled, self._bar.layout.visibility = False, "visible"
        _stop_labs_on_interrupt()

    def end_progress(self, text: str = "") -> None:
        """Hide the progress bar when the computation has ended, and show a last status text."""
        self._bar.value, self._bar.layout.visibility, self.halt.disabled = 0.0, "hidden", True
        self._status.value = html.escape(text)

    def on_change(self, control: widgets.Widget, react: Callable[[], None]) -> None:
        """Call `react()` when the control's value changes or the button is clicked; show any error in the lab."""

        def guarded(_: Any) -> None:
            try:
                react()
            except Exception as error:
                self.show_error(error)

        if isinstance(control, widgets.Button):
            control.on_click(guarded)
        else:
            control.observe(guarded, names="value")

    def follow(self) -> None:
        """Redraw what follows the controls, and take away an error that was shown."""
        self.clear_error()
        self.draw()

    def draw(self, *, back: bool = False) -> None:
        """Request a drawing of `_draw_front`, which follows the controls, and with `back` of `_draw_back` as well.

        The newest request wins. A request for the back is kept when another request for the front follows it.
        """
        if back:
            self._back_is_due = True
        self.drawing.submit(self._draw_due)

    def _draw_due(self, cancelled: Callable[[], bool]) -> None:
        if self._back_is_due:
            self._back_is_due = False
            self._draw_back()
        self._draw_front()

    def _draw_front(self) -> None:
        """Draw what follows the controls."""

    def _draw_back(self) -> None:
        """Draw what lies behind it and changes seldom."""

    def show_error(self, error: Exception) -> None:
        """Keep an error for `settle`, and show it below the lab, because JupyterLab alone would hide it."""
        self.errors.append(error)
        frames = traceback.extract_tb(error.__traceback__)
        where = f"\n{frames[-1].name}, line {frames[-1].lineno}: {frames[-1].line}" if frames else ""
        text = html.escape(f"{type(error).__name__}: {error}{where}")
        self._error_box.value = f'<pre role="alert">{text}</pre>'

    def clear_error(self) -> None:
        """Hide the error that was shown."""
        self._error_box.value = ""

    def stop(self) -> None:
        """Stop the running computation; what is shown stays."""
        self.computing.cancel()

    def settle(self, timeout: float = 60.0) -> None:
        """Wait until everything requested is computed and drawn.

        Raises:
            TimeoutError: it took longer than `timeout` seconds.
            Exception: the first error that a callback or a worker raised since the last `settle`.
        """
        end = time.monotonic() + timeout
        # A finished computation requests a drawing, so wait for the drawing last.
        for worker in (self.computing, self.drawing):
            worker.settle(max(0.0, end - time.monotonic()))
        if self.errors:
            error, self.errors = self.errors[0], []
            raise error

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what is shown without a kernel: `(data, metadata)` by MIME type, with a constant `text/plain`."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the workers and take the widget off the page."""
        if self in Lab.alive:  # a lab whose constructor failed halfway has no workers
            Lab.alive.discard(self)
            self.drawing.cancel()
            self.computing.cancel()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        view = super()._repr_mimebundle_(**kwargs)
        data, metadata = self.picture()
        return {**view, **data}, metadata


@atexit.register
def _end_quietly() -> None:
    """Let running jobs end before the interpreter does: a thread killed inside PyTorch crashes the process."""
    for lab in list(Lab.alive):
        for worker in (lab.computing, lab.drawing):
            worker.cancel()
            with contextlib.suppress(TimeoutError):
                worker.settle(2.0)


def _stop_labs_on_interrupt() -> None:
    """Make JupyterLab's "interrupt the kernel" button stop the labs too.

    Between two cells the kernel ignores the signal that this button sends. Only the main thread may install a handler,
    so the kernel's event loop does it; while a cell is running, the cell's own handler stays in place.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return

    def stop_all(signum: int, frame: object) -> None:
        for lab in list(Lab.alive):
            lab.stop()

    def install() -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, stop_all)

    kernel.io_loop.add_callback(install)


def layers(*pictures: widgets.HTML) -> widgets.GridBox:
    """Stack pictures of the same size on top of each other, so that only the one that changes is sent again."""
    for picture in pictures:
        picture.layout.grid_area = "1 / 1 / 2 / 2"
        picture.layout.margin = "0"
    return widgets.GridBox(list(pictures), layout=widgets.Layout(grid_template_columns="100%", width="100%"))


def html_box(css_class: str = "") -> widgets.HTML:
    """Make an empty HTML widget, with a class for styles and tests."""
    box = widgets.HTML()
    if css_class:
        box.add_class(css_class)
    return box


def slider_options(description_width: str = "90px") -> dict[str, Any]:
    """Return the layout and style of a lab's sliders."""
    return {"layout": WIDE, "style": {"description_width": description_width}}


def log_slider(
    description: str,
    *,
    value: float,
    exponents: tuple[float, float],
    step: float,
    tooltip: str,
    base: int = 10,
    description_width: str = "90px",
) -> widgets.FloatLogSlider:
    """Make a slider from `base` to the first exponent to `base` to the second; `step` is in exponents."""
    low, high = exponents
    return widgets.FloatLogSlider(
        value=value,
        base=base,
        min=low,
        max=high,
        step=step,
        description=description,
        readout_format=".3g",
        tooltip=tooltip,
        **slider_options(description_width),
    )


def sentences(text: str, *, min_height: str = "2.9em") -> str:
    """Wrap a lab's sentences in the HTML that screen readers announce; the height keeps what is below in place."""
    return f'<div class="lab-words" style="min-height: {min_height}" aria-live="polite">{text}</div>'


def still_picture(ax: Axes, *, text: str, alt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figure of `ax` as a PNG with its alternative text, and a plain text for readers without pictures."""
    return {"image/png": plots.png(ax), "text/plain": text}, {"image/png": {"alt": alt}}
