"""TensorBoard beside the notebook: on this machine alone, on a free port, never left behind."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from torch.utils.tensorboard import SummaryWriter

from course_utils.experiments import tensorboard
from course_utils.experiments.tensorboard import TensorBoardServer, open_server

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with SummaryWriter(str(folder / "first")) as writer:
        for step in range(30):
            writer.add_scalar("loss/train", 1 / (step + 1), step)
    return folder


@pytest.fixture(scope="module")
def server(runs):
    """One server for the tests that only ask; found on a PATH that holds no tensorboard."""
    path, os.environ["PATH"] = os.environ["PATH"], ""
    try:
        running = TensorBoardServer(runs, reload_seconds=1).wait()
    finally:
        os.environ["PATH"] = path
    yield running
    running.stop()


def answers(url):
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30).close()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True


def gone(url, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not answers(url):
            return True
        time.sleep(0.1)
    return False


def test_it_serves_the_curves_of_the_folder(server):
    points = server.wait_for("first", "loss/train", 30)
    assert [step for step, _ in points] == list(range(30))
    assert [value for _, value in points] == pytest.approx([1 / (step + 1) for step in range(30)])
    assert server.tags() == {"first": ["loss/train"]}
    assert server.scalars("first", "nothing") == []
    assert server.scalars("nowhere", "loss/train") == []
    assert server.note == ""


def test_it_shows_new_points_without_a_close(server, runs):
    writer = SummaryWriter(str(runs / "live"))
    try:
        for step in range(5):
            writer.add_scalar("loss/train", 1.0, step)
        assert len(server.wait_for("live", "loss/train", 5)) == 5
    finally:
        writer.close()


def status(url):
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_it_has_one_port_and_that_is_of_this_machine_alone(server):
    family = [psutil.Process(server._process.pid), *psutil.Process(server._process.pid).children(recursive=True)]
    listening = [
        tuple(connection.laddr)
        for process in family
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == [("127.0.0.1", int(re.match(r"http://127\.0\.0\.1:(\d+)/", server.url)[1]))]


def test_without_its_secret_it_answers_nothing(server, runs):
    origin, secret = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/([\w-]{32})/", server.url).groups()
    pages = ("", "data/runs", "data/plugin/scalars/tags", "data/logdir", "index.js")
    assert {status(f"{origin}/{secret}/{page}") for page in pages} == {200}
    for wrong in ("", f"{secret[:-1]}/", f"{secret}x/", f"{secret.swapcase()}/", f"x/../{secret[:-1]}/"):
        assert {status(f"{origin}/{wrong}{page}") for page in pages} == {404}
    with socket.socket() as raw:  # as no browser sends it: a path that climbs out again
        raw.connect(("127.0.0.1", int(origin.rpartition(":")[2])))
        raw.sendall(b"GET /x/../data/runs HTTP/1.0\r\n\r\n")
        assert b" 404 " in raw.recv(100)


@pytest.mark.skipif(os.name == "nt", reason="command lines and modes of files are those of POSIX")
def test_other_users_of_the_machine_cannot_find_its_secret(server):
    secret = server.url.split("/")[3]
    assert all(secret not in word for word in psutil.Process(server._process.pid).cmdline())
    noted = Path(tempfile.gettempdir()) / ".tensorboard-info" / f"pid-{server._process.pid}.info"
    assert secret in noted.read_text(encoding="utf-8")
    assert noted.stat().st_mode & 0o077 == 0


def test_the_fast_reader_can_be_asked_for(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for _ in range(5):
            writer.add_scalar("loss", 1.0, 3)
    fast, plain = (
        TensorBoardServer(tmp_path, reload_seconds=1, fast_reader=True),
        TensorBoardServer(tmp_path, reload_seconds=1),
    )
    try:
        # It keeps one of the points of one step, which tells the two apart.
        assert fast.wait_for(".", "loss") == [(3, 1.0)]
        assert plain.wait_for(".", "loss") == [(3, 1.0)] * 5
    finally:
        fast.stop()
        plain.stop()


def test_a_taken_port_is_told_and_another_one_is_used(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = TensorBoardServer(tmp_path, port=port)
        try:
            server.wait()
            assert server.note == f"Port {port} is taken by another program, so TensorBoard chose a free one."
            assert f":{port}/" not in server.url
            assert answers(server.url)
        finally:
            server.stop()


def test_a_free_port_is_used_with_a_secret_of_its_own_and_no_note_is_left_behind(server, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    other = TensorBoardServer(tmp_path, port=port)
    try:
        assert other.wait().url.startswith(f"http://127.0.0.1:{port}/")
        assert other.note == ""
        assert other.url.split("/")[3] != server.url.split("/")[3]
        noted = Path(tempfile.gettempdir()) / ".tensorboard-info" / f"pid-{other._process.pid}.info"
        end = time.monotonic() + 60  # it is written just after the port is open
        while not noted.exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert noted.exists()
    finally:
        other.stop()
    assert not noted.exists()


@pytest.mark.parametrize("port", [0, 70000, "6006", True])
def test_what_is_no_port_is_told(tmp_path, port):
    with pytest.raises(ValueError, match=f"port must be a whole number from 1 to 65535 or None, got {port!r}"):
        TensorBoardServer(tmp_path, port=port)


def test_without_tensorboard_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="TensorBoard is not installed: pip install tensorboard"):
        TensorBoardServer(tmp_path)


def test_a_program_that_ends_at_its_start_tells_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "PROGRAM", "raise SystemExit('no such option')")
    server = TensorBoardServer(tmp_path)
    with pytest.raises(RuntimeError, match=r"ended while starting \(exit status 1\): no such option"):
        server.wait()
    server.stop()


def test_a_program_that_never_answers_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "PROGRAM", "import time; time.sleep(60)")
    server = TensorBoardServer(tmp_path)
    with pytest.raises(TimeoutError, match=r"did not answer within 0.3 s and was ended"):
        server.wait(0.3)
    assert not server.alive


# A program that starts at once and, like TensorBoard, ends when its pipe closes.
QUICK = "import sys; sys.stdin.read()"


def test_a_cell_that_is_run_twice_starts_one_and_a_stopped_one_is_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "PROGRAM", QUICK)
    first = open_server(tmp_path)
    assert open_server(str(tmp_path)) is first
    first.stop()
    first.stop()
    assert not first.alive
    second = open_server(tmp_path)
    assert second is not first
    assert second.alive
    second.stop()
    assert not second.alive


def test_a_server_whose_folder_was_deleted_is_ended_when_another_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "PROGRAM", QUICK)
    (tmp_path / "old").mkdir()
    old, later = open_server(tmp_path / "old"), open_server(tmp_path / "later")
    (tmp_path / "old").rmdir()
    new = open_server(tmp_path / "new")
    try:
        assert not old.alive
        assert later.alive
        assert new.alive
    finally:
        later.stop()
        new.stop()


KERNEL = """\
import sys, time
from course_utils.experiments.tensorboard import TensorBoardServer
server = TensorBoardServer(sys.argv[1]).wait()
while True:
    try:
        print(server.url, server._process.pid, flush=True)
        time.sleep(100)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="process groups and signals are those of POSIX")
def test_the_square_button_leaves_it_and_the_end_of_the_kernel_ends_it(tmp_path):
    command = [sys.executable, "-c", KERNEL, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as kernel:
        try:
            url, pid = kernel.stdout.readline().split()
            family = [psutil.Process(int(pid)), *psutil.Process(int(pid)).children(recursive=True)]
            os.killpg(kernel.pid, signal.SIGINT)
            assert kernel.stdout.readline() == "interrupted\n"
            time.sleep(0.5)
            assert answers(url)
        finally:
            kernel.kill()
    assert gone(url)
    assert psutil.wait_procs(family, timeout=15)[1] == []
