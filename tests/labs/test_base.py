"""The common ground of the labs: the newest job wins, errors are seen, a still picture is always there."""

import threading

import ipywidgets as widgets
import pytest

from course_utils.labs.base import Lab, Throttle, Worker, layers


class Doubling(Lab):
    """A lab as small as can be: it writes twice its slider's value."""

    def __init__(self):
        self.slider = widgets.IntSlider(min=0, max=10)
        self.button = widgets.Button(description="fail")
        self.shown = widgets.HTML()
        super().__init__(
            [self.slider, self.shown], controls={"slider": self.slider, "button": self.button}, css_class="doubling-lab"
        )
        self.on_change(self.slider, lambda: self.draw())
        self.on_change(self.button, self.fail)

    def _draw_front(self):
        if self.slider.value == 7:
            raise ValueError("seven <is> not drawn")
        self.shown.value = str(2 * self.slider.value)

    def _draw_back(self):
        self.behind = self.slider.value

    def fail(self):
        raise KeyError("pressed")

    def picture(self):
        return {"image/png": b"\x89PNG", "text/plain": "Doubling"}, {"image/png": {"alt": "twice"}}


def test_the_newest_job_wins_and_those_between_are_dropped():
    ran, first_runs, go_on = [], threading.Event(), threading.Event()
    worker = Worker("test", on_error=ran.append)

    def first(cancelled):
        first_runs.set()
        go_on.wait(60)
        ran.append(("first", cancelled()))

    worker.submit(first)
    assert first_runs.wait(60)
    for number in range(100):
        worker.submit(lambda cancelled, number=number: ran.append((number, cancelled())))
    go_on.set()
    worker.settle(60)
    # The first was cancelled; of the hundred that waited only the last ran, and it was not cancelled.
    assert ran == [("first", True), (99, False)]
    assert not worker.busy


def test_cancel_stops_the_running_job_and_drops_the_waiting_one():
    ran, runs = [], threading.Event()
    worker = Worker("test", on_error=ran.append)

    def until_cancelled(cancelled):
        runs.set()
        while not cancelled():
            pass
        ran.append("stopped")

    worker.submit(until_cancelled)
    assert runs.wait(60)
    worker.cancel()
    worker.settle(60)
    assert ran == ["stopped"]


def test_a_job_that_raises_is_reported_and_the_worker_goes_on():
    errors, ran = [], []
    worker = Worker("test", on_error=errors.append)
    worker.submit(lambda cancelled: 1 / 0)
    worker.settle(60)
    worker.submit(lambda cancelled: ran.append("next"))
    worker.settle(60)
    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert ran == ["next"]


def test_a_worker_whose_report_fails_is_not_busy_and_runs_the_next_job(monkeypatch):
    ran, uncaught, go_on = [], [], threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda given: uncaught.append(given.exc_type))

    def refuse(error):
        raise LookupError("the report failed")

    worker = Worker("test", on_error=refuse)
    worker.submit(lambda cancelled: go_on.wait(60) and 1 / 0)
    (thread,) = [each for each in threading.enumerate() if each.name == "test"]
    go_on.set()
    worker.settle(60)
    thread.join(60)
    assert uncaught == [LookupError]
    worker.submit(lambda cancelled: ran.append("next"))
    worker.settle(60)
    assert ran == ["next"]


def test_settle_says_who_is_still_busy():
    end = threading.Event()
    worker = Worker("slow-worker", on_error=print)
    worker.submit(lambda cancelled: end.wait(60))
    with pytest.raises(TimeoutError, match=r"slow-worker was still busy after 0\.05 s"):
        worker.settle(0.05)
    end.set()
    worker.settle(60)


def test_many_threads_may_submit_at_once():
    ran = []
    worker = Worker("test", on_error=ran.append)
    threads = [threading.Thread(target=lambda n=n: worker.submit(lambda cancelled: ran.append(n))) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.submit(lambda cancelled: ran.append("last"))
    worker.settle(60)
    assert ran[-1] == "last"
    assert len(ran) <= 51


def test_a_control_is_followed():
    lab = Doubling()
    lab.slider.value = 4
    lab.settle()
    assert lab.shown.value == "8"


def test_a_wish_for_the_back_is_not_lost_when_the_hand_moves_on():
    lab, go_on = Doubling(), threading.Event()
    lab.drawing.submit(lambda cancelled: go_on.wait(60))  # the drawing worker is busy
    lab.slider.value = 2
    lab.draw(back=True)
    lab.slider.value = 3
    go_on.set()
    lab.settle()
    assert (lab.behind, lab.shown.value) == (3, "6")
    lab.slider.value = 4
    lab.settle()
    assert (lab.behind, lab.shown.value) == (3, "8")  # the back is drawn only where it is asked for
    lab.close()


def test_an_error_in_a_worker_is_shown_escaped_and_raised_by_settle():
    lab = Doubling()
    lab.slider.value = 7
    with pytest.raises(ValueError, match="seven <is> not drawn"):
        lab.settle()
    shown = lab.children[-1].value
    assert "seven &lt;is&gt; not drawn" in shown
    assert "<is>" not in shown
    lab.clear_error()
    assert lab.children[-1].value == ""
    lab.settle()


def test_an_error_in_a_button_is_shown_and_raised_by_settle():
    lab = Doubling()
    lab.button.click()
    assert "KeyError" in lab.children[-1].value
    with pytest.raises(KeyError, match="pressed"):
        lab.settle()


def test_the_output_holds_a_still_picture_beside_the_widget():
    data, metadata = Doubling()._repr_mimebundle_()
    assert data["image/png"] == b"\x89PNG"
    assert data["text/plain"] == "Doubling"
    assert "application/vnd.jupyter.widget-view+json" in data
    assert metadata == {"image/png": {"alt": "twice"}}


def test_closing_takes_a_lab_off_the_list():
    lab = Doubling()
    assert lab in Lab.alive
    lab.close()
    assert lab not in Lab.alive


def test_layers_lie_in_one_cell_of_the_grid():
    back, front = widgets.HTML("back"), widgets.HTML("front")
    box = layers(back, front)
    assert box.children == (back, front)
    assert back.layout.grid_area == front.layout.grid_area == "1 / 1 / 2 / 2"


def test_the_first_redraw_is_due_at_once_and_the_next_only_after_the_interval():
    redraw = Throttle(interval=1e6)
    assert [redraw.due(), redraw.due()] == [True, False]
