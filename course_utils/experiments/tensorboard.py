"""TensorBoard as a program of its own beside the notebook: for its learner alone, gone when the notebook is gone."""

import atexit
import contextlib
import importlib.util
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections import deque
from pathlib import Path

HOST = "127.0.0.1"
# TensorBoard's command, which is often not on PATH in a notebook, and a thread that ends the program as soon as the
# pipe from the notebook's kernel closes: the system closes it even when the kernel is killed. The secret of the address
# comes through that pipe, because every user of a machine can read the command lines of all programs; the mask keeps
# it secret in the file in which TensorBoard notes where it listens, and the signal lets it take that file away.
PROGRAM = """\
import os, runpy, signal, sys, threading, time
sys.argv.append("--path_prefix=/" + sys.stdin.readline().strip())
os.umask(0o077)
def end_with_the_pipe():
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3)
    os._exit(0)
threading.Thread(target=end_with_the_pipe, daemon=True).start()
runpy.run_module("tensorboard.main", run_name="__main__", alter_sys=True)
"""
ADDRESS = re.compile(r"TensorBoard \S+ at (http://\S+)")
# Requests to this machine go through no proxy.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class TensorBoardServer:
    """A running TensorBoard that reads one folder and the folders in it.

    It listens on 127.0.0.1, so no other machine can see it. TensorBoard knows no passwords, so a secret stands at the
    beginning of each of its addresses: without it, other users of the machine and pages in the learner's browser are
    told "Not found". JupyterLab's square stop button does not end it, and it never outlives the process that started
    it.

    Args:
        folder: what it reads; the folder may come into being later.
        port: where it listens; None takes any free port. Where the port is taken, a free one is used and `note`
            says so.
        reload_seconds: how often it looks for new data; TensorBoard's own default is 5.
        fast_reader: read the files with the second program that `tensorboard` in a terminal uses. It is made for large
            runs, may draw fewer points, and has a port of its own on 127.0.0.1, which asks for no secret.

    Attributes:
        url: its address, secret and all, once `wait` has returned.
        note: what was done otherwise than asked, in one sentence, or "".
        found_folder: whether the folder was there at the start.

    Raises:
        ImportError: tensorboard is not installed.
        ValueError: the port is no port.
    """

    def __init__(
        self, folder: str | Path, *, port: int | None = None, reload_seconds: float = 5.0, fast_reader: bool = False
    ):
        if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535):
            raise ValueError(f"port must be a whole number from 1 to 65535 or None, got {port!r}")
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError("TensorBoard is not installed: pip install tensorboard")
        self.folder, self.note, self.url = Path(folder).resolve(), "", ""
        if port is not None and _taken(port):
            self.note = f"Port {port} is taken by another program, so TensorBoard chose a free one."
            port = None
        options = ["--logdir", str(self.folder), "--host", HOST, "--port", str(port or 0)]
        options += ["--reload_interval", str(reload_seconds), f"--load_fast={'auto' if fast_reader else 'false'}"]
        # The square button signals all processes of the kernel's group, so this one gets a group of its own.
        apart = (
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **apart,
        )
        with contextlib.suppress(BrokenPipeError):  # it has ended already: `wait` tells its last words
            self._process.stdin.write(secrets.token_urlsafe(24).encode() + b"\n")
            self._process.stdin.flush()
        self.found_folder = self.folder.exists()
        self._said: deque[str] = deque(maxlen=20)
        self._listening = threading.Event()
        # Its words are read to the end: a full pipe would stop it.
        self._reader = threading.Thread(target=self._read, name="tensorboard-words", daemon=True)
        self._reader.start()
        atexit.register(self.stop)

    def _read(self) -> None:
        for line in self._process.stderr:
            words = line.decode("utf-8", errors="replace").rstrip()
            self._said.append(words)
            if found := ADDRESS.search(words):
                self.url = found[1] if found[1].endswith("/") else found[1] + "/"
                self._listening.set()
        self._listening.set()

    @property
    def alive(self) -> bool:
        """Whether the program runs."""
        return self._process.poll() is None

    def wait(self, timeout: float = 60.0) -> "TensorBoardServer":
        """Wait until it answers.

        Raises:
            RuntimeError: it ended instead; the message holds its last words.
            TimeoutError: it did not answer within `timeout` seconds.
        """
        if not self._listening.wait(timeout):
            self.stop()
            raise TimeoutError(f"TensorBoard did not answer within {timeout} s and was ended: run the cell again")
        if not self.url or not self.alive:
            status = self._process.wait(timeout)
            last = "\n".join(list(self._said)[-5:]) or "it said nothing"
            raise RuntimeError(f"TensorBoard ended at its start (exit status {status}): {last}")
        return self

    def tags(self) -> dict[str, list[str]]:
        """The names of the curves that it has found so far, by run; the folder itself is the run "."."""
        found = self._ask("data/plugin/scalars/tags")
        return {run: sorted(tags) for run, tags in found.items()}

    def scalars(self, run: str, tag: str) -> list[tuple[int, float]]:
        """The points of one curve that it would draw now, as (step, value); none while it has not found the curve."""
        if tag not in self.tags().get(run, []):
            return []
        query = urllib.parse.urlencode({"run": run, "tag": tag})
        return [(step, float(value)) for _, step, value in self._ask(f"data/plugin/scalars/scalars?{query}")]

    def wait_for(self, run: str, tag: str, points: int = 1, timeout: float = 30.0) -> list[tuple[int, float]]:
        """Wait until a curve has at least so many points, or until `timeout` seconds are over; return its points."""
        end = time.monotonic() + timeout
        while len(found := self.scalars(run, tag)) < points and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def stop(self) -> None:
        """End the program; a second call does nothing."""
        atexit.unregister(self.stop)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        self._process.stderr.close()

    def _ask(self, path: str) -> dict | list:
        self.wait()
        with _opener.open(self.url + path, timeout=10) as answer:
            return json.load(answer)


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        if os.name != "nt":  # a program that has just ended leaves its port waiting for a minute: that is not taken
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


_boards: dict[Path, TensorBoardServer] = {}
_lock = threading.Lock()


def open_board(folder: str | Path, *, port: int | None = None, reload_seconds: float = 5.0) -> TensorBoardServer:
    """Give the TensorBoard of a folder: the one that runs, or a new one. So a cell that is run twice starts one.

    Takes the arguments of `TensorBoardServer`; if one is running already, they change nothing. One whose folder has
    been deleted is ended.
    """
    place = Path(folder).resolve()
    with _lock:
        for other in _boards.values():
            if other.found_folder and not other.folder.exists():
                other.stop()
        running = _boards.get(place)
        if running is None or not running.alive:
            running = _boards[place] = TensorBoardServer(place, port=port, reload_seconds=reload_seconds)
        return running
