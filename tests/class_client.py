"""A class as a process, and a learner who speaks to it as a browser does: for tests/test_class.py and its benchmark."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import requests

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 180  # seconds for one request on a busy machine


@contextlib.contextmanager
def running_class(folder: Path, names: list[str]) -> Iterator[tuple[subprocess.Popen, str]]:
    """Run a class for the length of a block; yield its process and its address.

    Raises:
        RuntimeError: it did not start, or left processes behind.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "tools" / "classroom.py"), "--learners", " ".join(names)]
    command += ["--folder", str(folder), "--port", str(port)]
    with (folder / "class.log").open("w") as log:
        hub = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    url, deadline, alive = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE, []
    try:
        while not _answers(f"{url}/hub/health"):
            if hub.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The class did not start:\n{(folder / 'class.log').read_text()}")
            time.sleep(0.1)
        yield hub, url
    finally:
        if hub.poll() is None:
            family = psutil.Process(hub.pid).children(recursive=True)
            hub.send_signal(signal.SIGINT)
            _, alive = psutil.wait_procs([psutil.Process(hub.pid), *family], timeout=60)
            for process in alive:
                process.kill()
            hub.wait()
    if alive:
        raise RuntimeError(f"Ctrl-C has ended the class, but not these processes: {alive}")


def _answers(address: str) -> bool:
    with contextlib.suppress(requests.RequestException), requests.Session() as session:
        session.trust_env = False  # no proxy stands between this machine and itself
        return session.get(address, timeout=5).ok
    return False


class Learner:
    """A simulated learner; after `log_in`, `ask` carries the learner's token."""

    def __init__(self, url: str, name: str, password: str):
        self.url, self.name, self.password, self.token = url, name, password, ""
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy stands between this machine and itself

    def ask(self, method: str, path: str, **options) -> requests.Response:
        return self.session.request(method, self.url + path, timeout=PATIENCE, **options)

    def log_in(self) -> None:
        """Fill in the login form, then ask for a token.

        Raises:
            requests.HTTPError: the hub refused the name or the password.
        """
        self.ask("GET", "/hub/login")
        form = {"username": self.name, "password": self.password, "_xsrf": self.session.cookies["_xsrf"]}
        self.ask("POST", "/hub/login", data=form, allow_redirects=False).raise_for_status()
        self.ask("GET", "/hub/home")
        guard = {"X-XSRFToken": self.session.cookies["_xsrf"]}
        made = self.ask("POST", f"/hub/api/users/{self.name}/tokens", json={}, headers=guard)
        made.raise_for_status()
        self.token = made.json()["token"]
        self.session.cookies.clear()
        self.session.headers["Authorization"] = f"token {self.token}"

    def start_server(self) -> None:
        """Start this learner's server and wait until it is ready."""
        self.ask("POST", f"/hub/api/users/{self.name}/server").raise_for_status()
        while not self.ask("GET", f"/hub/api/users/{self.name}").json()["servers"][""]["ready"]:
            time.sleep(0.1)
