"""The panel with TensorBoard: it shows the address of a server that serves the run, and says where it does not."""

import re
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
from torch.utils.tensorboard import SummaryWriter

from course_utils.labs import TensorBoardPanel, tensorboard_panel


@pytest.fixture
def runs(tmp_path):
    for name in ("a", "b"):
        with SummaryWriter(str(tmp_path / name)) as writer:
            for step in range(4):
                writer.add_scalar("loss/train", 1.0 / (step + 1), step)
    return tmp_path


@pytest.fixture
def panel(runs):
    made = TensorBoardPanel(runs, reload_seconds=1)
    yield made
    made.close()


@pytest.fixture
def quick_server(monkeypatch):
    """A server that is there at once, for tests of what surrounds it."""
    server = SimpleNamespace(url="http://127.0.0.1:1/x/", note="", alive=True, wait=lambda: None, stop=lambda: None)
    monkeypatch.setattr(tensorboard_panel, "open_server", lambda *_, **__: server)
    return server


def answers(url):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return opener.open(url, timeout=30).read().decode("utf-8")
    except urllib.error.URLError:
        return ""


def test_it_frames_and_links_the_running_server(panel):
    panel.settle(60)
    assert (
        re.search(r'<iframe src="(http://127\.0\.0\.1:\d+/[\w-]+/)" title="TensorBoard"', panel._frame.value)[1]
        == panel.url
    )
    assert f'<a href="{panel.url}" target="_blank"' in panel._message.value
    assert "TensorBoard" in answers(panel.url)
    assert len(panel.server.wait_for("a", "loss/train", 4)) == 4
    assert (panel.start.disabled, panel.end.disabled) == (True, False)


def test_it_ends_and_starts_again(panel):
    panel.settle(60)
    first = panel.url
    panel.end.click()
    panel.settle(60)
    assert panel._frame.value == panel.url == ""
    assert "has ended. The files are still there" in panel._message.value
    assert answers(first) == ""
    assert (panel.start.disabled, panel.end.disabled) == (False, True)
    panel.start.click()
    panel.settle(60)
    assert "TensorBoard" in answers(panel.url)


def test_two_panels_on_one_folder_share_the_server(panel, runs):
    panel.settle(60)
    second = TensorBoardPanel(runs)
    second.settle(60)
    assert second.url == panel.url


def test_a_note_of_the_server_is_shown(runs, quick_server):
    quick_server.note = "Port 6006 is taken by another program, so TensorBoard chose a free one."
    panel = TensorBoardPanel(runs, port=6006)
    try:
        panel.settle(60)
        assert "Port 6006 is taken by another program" in panel._message.value
    finally:
        panel.close()


def test_a_server_that_does_not_start_is_told(runs, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(tensorboard_panel, "open_server", fail)
    panel = TensorBoardPanel(runs)
    with pytest.raises(RuntimeError, match="no such luck"):
        panel.settle(60)
    assert "TensorBoard did not start" in panel._message.value
    assert "no such luck" in panel._error_box.value
    assert not panel.start.disabled
    panel.close()


def test_the_still_picture_shows_the_curves_of_the_files(quick_server, panel):
    data, metadata = panel.picture()
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"].endswith("a: loss/train, b: loss/train.")
    assert [len(points) for points in panel._curves().values()] == [4, 4]


def test_the_still_picture_can_be_of_chosen_runs(runs, quick_server):
    panel = TensorBoardPanel(runs, pictured=["b"])
    try:
        assert list(panel._curves()) == ["b: loss/train"]
        panel.settle(60)
    finally:
        panel.close()


def test_a_folder_without_files_has_a_picture_too(tmp_path):
    panel = TensorBoardPanel(tmp_path / "later")
    try:
        assert panel.picture()[1]["image/png"]["alt"].endswith("none yet.")
        panel.settle(60)
        assert panel.server.tags() == {}
    finally:
        panel.close()
