"""Open JupyterLab on the first lesson, on this machine alone.

    python tools/lab.py                 on port 8888, or the next one that is free
    python tools/lab.py --port 9000     on this port, or not at all
    python tools/lab.py --no-browser    only print the address

Ctrl-C in the terminal stops it.
"""

import argparse
import os
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = "127.0.0.1"
FIRST = ("notebooks/00_start_here.ipynb", "notebooks/02_learning_rate.ipynb")


def free_port(text: str) -> int:
    """Read a port's number, and make sure that no other program listens there.

    Raises:
        ValueError: it is no port, or it is taken; the message quotes it.
    """
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ValueError(f"A port is a whole number from 1 to 65535, got {text!r}.")
    port = int(text)
    with socket.socket() as probe:
        # A server that has just stopped leaves its port waiting for a minute: that is not taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            raise ValueError(
                f"Port {port} is taken: name another one, as in  make lab PORT={port % 65535 + 1}"
            ) from error
    return port


def first_page() -> str:
    """Give the page to open: the start of the course, or the first lesson that is there."""
    return next((f"/lab/tree/{name}" for name in FIRST if (ROOT / name).exists()), "/lab")


def command(port: int | None, *, browser: bool = True) -> list[str]:
    """Give the command that starts JupyterLab; its token stays on."""
    options = [
        f"--ServerApp.ip={ADDRESS}",
        f"--ServerApp.root_dir={ROOT}",
        f"--LabApp.default_url={first_page()}",
        # No request leaves the machine: neither for news nor for newer versions.
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        # The address is still printed, and so is whatever goes wrong.
        "--ServerApp.log_level=WARN",
        "--LabApp.log_level=WARN",
    ]
    if port is not None:
        options += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if not browser:
        options.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # In a container everybody is root, and nobody outside this machine can reach the server.
        options.append("--allow-root")
    return [sys.executable, "-m", "jupyterlab", *options]


def main() -> None:
    """Check the port, then become JupyterLab."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", help="the port to listen on")
    parser.add_argument("--no-browser", action="store_true", help="open no browser")
    chosen = parser.parse_args()
    try:
        port = None if chosen.port is None else free_port(chosen.port)
    except ValueError as error:
        sys.exit(str(error))
    # Notebooks start `tensorboard` and `python` by name, so the environment's own must come first.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    print("JupyterLab starts; Ctrl-C stops it.", flush=True)
    os.chdir(ROOT)
    os.execv(sys.executable, command(port, browser=not chosen.no_browser))


if __name__ == "__main__":
    main()
