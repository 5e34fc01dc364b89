"""TensorBoard as a separate program beside the notebook: visible to its learner only, and ended with the kernel."""

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
from typing import IO, Any, cast

HOST = "127.0.0.1"
# TensorBoard's command, which is often not on PATH in a notebook, and a thread that ends the program as soon as the
# pipe from the notebook's kernel closes; the system closes it even when the kernel is killed. The address contains a
# secret, which comes through that pipe because every user of a machine can read all command lines. The umask protects
# the file in which TensorBoard notes its address, and the signal lets TensorBoard delete that file.
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
# Requests to this machine must not go through a proxy.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class TensorBoardServer:
    """A running TensorBoard that reads one folder and its subfolders.

    It listens on 127.0.0.1, so no other machine can reach it. TensorBoard has no passwords, so each of its addresses
    begins with a secret: without it, other users of the machine and other pages in the learner's browser get "Not
    found". JupyterLab's button "interrupt the kernel" does not end it, and it never outlives the process that started
    it.

    Args:
        folder: the folder of the runs; it may be created later.
        port: the port to listen on; None picks a free one. If it is taken, a free one is used and `note` reports it.
        reload_seconds: how often it looks for new data; TensorBoard's own default is 5.
        fast_reader: read the files with the second program that `tensorboard` in a terminal uses. It is made for large
            runs, may draw fewer points, and listens on its own port on 127.0.0.1, without a secret.

    Attributes:
        url: its address including the secret, once `wait` has returned.
        note: what differs from the request, in one sentence, or "".
        found_folder: whether the folder existed at the start.

    Raises:
        ImportError: tensorboard is not installed.
        ValueError: the port is not a port number.
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
        # "Interrupt the kernel" signals all processes of the kernel's group, so this one gets its own group.
        own_group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            own_group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **own_group,
        )
        self._stdin, self._stderr = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stderr)
        with contextlib.suppress(BrokenPipeError):  # it has ended already: `wait` reports its last messages
            self._stdin.write(secrets.token_urlsafe(24).encode() + b"\n")
            self._stdin.flush()
        self.found_folder = self.folder.exists()
        self._messages: deque[str] = deque(maxlen=20)
        self._listening = threading.Event()
        # Its messages are read to the end, because a full pipe would block it.
        self._reader = threading.Thread(target=self._read, name="tensorboard-messages", daemon=True)
        self._reader.start()
        atexit.register(self.stop)

    def _read(self) -> None:
        for line in self._stderr:
            message = line.decode("utf-8", errors="replace").rstrip()
            self._messages.append(message)
            if found := ADDRESS.search(message):
                self.url = found[1] if found[1].endswith("/") else found[1] + "/"
                self._listening.set()
        self._listening.set()

    @property
    def alive(self) -> bool:
        """Whether the program is running."""
        return self._process.poll() is None

    def wait(self, timeout: float = 60.0) -> "TensorBoardServer":
        """Wait until it answers.

        Raises:
            RuntimeError: it ended instead; the message contains its last messages.
            TimeoutError: it did not answer within `timeout` seconds.
        """
        if not self._listening.wait(timeout):
            self.stop()
            raise TimeoutError(f"TensorBoard did not answer within {timeout} s and was ended: run the cell again")
        if not self.url or not self.alive:
            status = self._process.wait(timeout)
            last = "\n".join(list(self._messages)[-5:]) or "it printed nothing"
            raise RuntimeError(f"TensorBoard ended while starting (exit status {status}): {last}")
        return self

    def tags(self) -> dict[str, list[str]]:
        """Return the names of the curves found so far, by run; the folder itself is the run "."."""
        found = self._request("data/plugin/scalars/tags")
        return {run: sorted(tags) for run, tags in found.items()}

    def scalars(self, run: str, tag: str) -> list[tuple[int, float]]:
        """Return the points (step, value) of one curve as it would be drawn now; none if it has not been found yet."""
        if tag not in self.tags().get(run, []):
            return []
        query = urllib.parse.urlencode({"run": run, "tag": tag})
        return [(step, float(value)) for _, step, value in self._request(f"data/plugin/scalars/scalars?{query}")]

    def wait_for(self, run: str, tag: str, points: int = 1, timeout: float = 30.0) -> list[tuple[int, float]]:
        """Wait until a curve has at least so many points, at most `timeout` seconds, and return its points."""
        end = time.monotonic() + timeout
        while len(found := self.scalars(run, tag)) < points and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def stop(self) -> None:
        """End the program; a second call does nothing."""
        atexit.unregister(self.stop)
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        self._stderr.close()

    def _request(self, path: str) -> Any:
        self.wait()
        with _opener.open(self.url + path, timeout=10) as response:
            return json.load(response)


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        if os.name != "nt":  # the port of a program that has just ended stays reserved for a minute, but is not taken
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


_servers: dict[Path, TensorBoardServer] = {}
_lock = threading.Lock()


def open_server(folder: str | Path, *, port: int | None = None, reload_seconds: float = 5.0) -> TensorBoardServer:
    """Return the TensorBoard of a folder, a running one if there is one: a cell that runs twice starts only one.

    Takes the arguments of `TensorBoardServer`; if one is running already, they change nothing. A server whose folder
    has been deleted is ended.
    """
    path = Path(folder).resolve()
    with _lock:
        for other in _servers.values():
            if other.found_folder and not other.folder.exists():
                other.stop()
        running = _servers.get(path)
        if running is None or not running.alive:
            running = _servers[path] = TensorBoardServer(path, port=port, reload_seconds=reload_seconds)
        return running
