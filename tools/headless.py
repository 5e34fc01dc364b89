"""Start a real JupyterLab on a port of this machine, and a headless Chromium to open it in."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_TIMEOUT = 60  # seconds
# A container has neither a GPU nor a sandbox. The other options keep the browser itself off the network.
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# No dialogs at the first start, and every cell stays in the page while it is scrolled.
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "notebook-extension/tracker": {"windowingMode": "defer"},
}


@dataclass(frozen=True)
class Server:
    """A running JupyterLab.

    Attributes:
        url: its address, ending in a slash.
        token: the token that each request must carry.
        folder: the folder that it serves.
    """

    url: str
    token: str
    folder: Path


def find_browser() -> str | None:
    """Return the path of a Chromium or Chrome on this machine, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextlib.contextmanager
def running_browser(program: str) -> Iterator[Browser]:
    """Start a headless browser and close it when the block ends."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=BROWSER_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def running_server(folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Start JupyterLab on a folder, with its own settings, runtime files and learner folder; stop it afterwards.

    Args:
        folder: the folder that it serves.
        variables: additional environment variables.

    Raises:
        RuntimeError: JupyterLab exited or did not answer within a minute; the message holds the end of its log.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, contextlib.ExitStack() as stack:
        own = Path(home)
        for name, settings in SETTINGS.items():
            path = own / "config/lab/user-settings/@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings))
        environment = dict(os.environ)
        environment.update(
            JUPYTER_CONFIG_DIR=str(own / "config"),
            JUPYTER_DATA_DIR=str(own / "data"),
            JUPYTER_RUNTIME_DIR=str(own / "runtime"),
            JUPYTERLAB_WORKSPACES_DIR=str(own / "workspaces"),
            IPYTHONDIR=str(own / "ipython"),
            COURSE_LEARNER_DIR=str(own / "learner"),
            CUDA_VISIBLE_DEVICES="",
            OMP_NUM_THREADS="1",
            LC_ALL="C.UTF-8",  # JupyterLab takes its language from the locale
            **(variables or {}),
        )
        port, token = _free_port(), secrets.token_hex(16)
        log = stack.enter_context((own / "server.log").open("w+"))
        process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("watched.py")),
                "--no-browser",
                "--allow-root",
                "--ip=127.0.0.1",
                f"--port={port}",
                "--ServerApp.port_retries=0",
                f"--IdentityProvider.token={token}",
                f"--ServerApp.root_dir={folder}",
                "--LabApp.expose_app_in_browser=True",
                "--LabApp.news_url=None",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            ],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        stack.callback(_stop, process)
        url = f"http://127.0.0.1:{port}/"
        _wait(process, f"{url}api/status?token={token}", own / "server.log")
        yield Server(url, token, folder)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(process: subprocess.Popen, url: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine is reached without a proxy
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end and process.poll() is None:
        try:
            opener.open(url, timeout=30).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise RuntimeError(
        f"JupyterLab did not answer within {START_TIMEOUT} s (exit status {process.poll()}). The end of its log:\n"
        f"{log.read_text()[-4000:]}"
    )


def _stop(process: subprocess.Popen) -> None:
    process.stdin.close()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
