"""What every lab stands on: a worker, a still picture, a place for errors, a stop, and a way to wait for it all.

JupyterLab may call a widget's callback on the main thread at one moment and on another thread at the next, beside a
cell that is still running. So a callback here never draws and never computes. It notes the newest value and leaves
the work to a `Worker`; nothing in this folder uses pyplot, `interact` or an `Output` widget.
"""

import atexit
import contextlib
import html
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import ipywidgets as widgets
from IPython import get_ipython

from course_utils import palette

Job = Callable[[Callable[[], bool]], None]

STYLE = f"""<style>
.course-lab {{ --lab-ink: var(--jp-ui-font-color1, #222); --lab-faint: var(--jp-ui-font-color2, #666);
  --lab-grid: var(--jp-border-color2, #ddd); {palette.variables("light")} max-width: 900px; padding: 4px 0 8px; }}
body[data-jp-theme-light="false"] .course-lab {{ {palette.variables("dark")} }}
.course-lab :focus-visible {{ outline: 2px solid var(--lab-ink) !important; outline-offset: -2px; }}
.course-lab .noUi-handle:focus-visible {{ outline-offset: 2px; }}
.course-lab .widget-slider .noUi-handle {{ border-color: var(--lab-faint); }}
.course-lab svg {{ display: block; width: 100%; height: auto; font-family: var(--jp-ui-font-family, sans-serif); }}
.course-lab .lab-words {{ color: var(--lab-ink); line-height: 1.45; min-height: 2.9em; }}
.course-lab .lab-front {{ pointer-events: none; }}
.course-lab .lab-error pre {{ color: var(--lab-bad); white-space: pre-wrap; border-left: 3px solid; padding: 4px 8px; }}
</style>"""


class Worker:
    """One thread at a time that runs the newest job; a job that waits is dropped when a newer one comes.

    The running job is handed `stale`, a function that turns true when a newer job waits or `cancel` was called;
    a long job asks it now and then and returns early. The thread ends when no job is left.

    Args:
        name: the thread's name.
        on_error: called with an exception that a job raised.
    """

    def __init__(self, name: str, on_error: Callable[[Exception], None]):
        self._name, self._on_error = name, on_error
        self._idle = threading.Condition()
        self._waiting: Job | None = None
        self._thread: threading.Thread | None = None
        self._stop_running = threading.Event()

    def submit(self, job: Job) -> None:
        """Run `job(stale)` as soon as the running job has ended, unless a newer job comes first."""
        with self._idle:
            self._waiting = job
            self._stop_running.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def cancel(self) -> None:
        """Drop the job that waits and tell the running one to stop."""
        with self._idle:
            self._waiting = None
            self._stop_running.set()

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return self._thread is not None

    def settle(self, timeout: float) -> None:
        """Wait until no job runs or waits.

        Raises:
            TimeoutError: that took longer than `timeout` seconds.
        """
        with self._idle:
            if not self._idle.wait_for(lambda: self._thread is None, timeout):
                raise TimeoutError(f"{self._name} was still busy after {timeout} s")

    def _run(self) -> None:
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


class Lab(widgets.VBox):
    """A displayable lab: controls on top, a picture that follows them, and the picture alone where no kernel runs.

    A subclass makes its widgets, passes them on, and answers `picture`. Two workers serve it: `self.drawing` for
    what must follow the hand, `self.computing` for what takes longer, so that a sweep never holds up the slider.

    Args:
        children: the rows of the lab.
        controls: its controls by name; a test moves each of them.
        css_class: a class name for styles and for tests.
        buttons: what starts long computations; with any, a row with "Stop", a progress bar and words is added.
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
            description="Stop", icon="stop", disabled=True, tooltip="stop what is being computed; what is shown stays"
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
        self.when(self.halt, self.stop)
        Lab.alive.add(self)

    def tell(self, share: float, words: str) -> None:
        """Show how much of a long computation is done (0 to 1) and say it in words; "Stop" can be pressed."""
        self._bar.value, self._status.value = share, html.escape(words)
        if self.halt.disabled:
            self.halt.disabled, self._bar.layout.visibility = False, "visible"
        _listen_for_the_stop_button()

    def told(self, words: str = "") -> None:
        """Take the progress bar away: the computation has ended."""
        self._bar.value, self._bar.layout.visibility, self.halt.disabled = 0.0, "hidden", True
        self._status.value = html.escape(words)

    def when(self, control: widgets.Widget, react: Callable[[], None]) -> None:
        """Call `react()` when the control's value changes or the button is clicked; an error is shown in the lab."""

        def guarded(_: Any) -> None:
            try:
                react()
            except Exception as error:
                self.show_error(error)

        if isinstance(control, widgets.Button):
            control.on_click(guarded)
        else:
            control.observe(guarded, names="value")

    def draw(self, *, back: bool = False) -> None:
        """Ask for a drawing of `_draw_front`, which follows the hand, and of `_draw_back`, which lies behind it.

        The newest wish wins; a wish for the back is not lost when a move of the hand comes right after it.
        """
        if back:
            self._back_is_due = True
        self.drawing.submit(self._draw_due)

    def _draw_due(self, stale: Callable[[], bool]) -> None:
        if self._back_is_due:
            self._back_is_due = False
            self._draw_back()
        self._draw_front()

    def show_error(self, error: Exception) -> None:
        """Keep an error for `settle` and show it below the lab, where JupyterLab alone would hide it."""
        self.errors.append(error)
        frames = traceback.extract_tb(error.__traceback__)
        where = f"\n{frames[-1].name}, line {frames[-1].lineno}: {frames[-1].line}" if frames else ""
        text = html.escape(f"{type(error).__name__}: {error}{where}")
        self._error_box.value = f'<pre role="alert">{text}</pre>'

    def clear_error(self) -> None:
        """Take the shown error away."""
        self._error_box.value = ""

    def stop(self) -> None:
        """Stop what is being computed; what is shown stays."""
        self.computing.cancel()

    def settle(self, timeout: float = 60.0) -> None:
        """Wait until everything asked for is computed and drawn.

        Raises:
            TimeoutError: it took longer than `timeout` seconds.
            Exception: the first error that a callback or a worker met since the last `settle`.
        """
        end = time.monotonic() + timeout
        # A finished computation asks for a drawing, so the drawing is waited for last.
        for worker in (self.computing, self.drawing):
            worker.settle(max(0.0, end - time.monotonic()))
        if self.errors:
            error, self.errors = self.errors[0], []
            raise error

    def picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is shown without a kernel: `(data, metadata)` by MIME type, with a `text/plain` that never varies."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the workers and take the widget off the page."""
        if self in Lab.alive:  # a lab whose making failed half-way has no workers
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
    """Let running jobs end before the interpreter does: a thread that dies inside PyTorch takes the process with it."""
    for lab in list(Lab.alive):
        for worker in (lab.computing, lab.drawing):
            worker.cancel()
            with contextlib.suppress(TimeoutError):
                worker.settle(2.0)


def _listen_for_the_stop_button() -> None:
    """Make JupyterLab's own stop button stop the labs too.

    Between two cells the kernel ignores the signal that this button sends. Only the main thread may change that, and
    only while no cell runs, so the change is asked for there; it is left alone while a cell runs.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return

    def stop_all(signum: int, frame: object) -> None:
        for lab in list(Lab.alive):
            lab.stop()

    def listen() -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, stop_all)

    kernel.io_loop.add_callback(listen)


def layers(*pictures: widgets.HTML) -> widgets.GridBox:
    """Lay pictures of the same size one over the other, so that only the one that changes is sent again."""
    for picture in pictures:
        picture.layout.grid_area = "1 / 1 / 2 / 2"
        picture.layout.margin = "0"
    return widgets.GridBox(list(pictures), layout=widgets.Layout(grid_template_columns="100%", width="100%"))
