"""Open JupyterLab on the first lesson, on this machine alone.

python tools/lab.py                 on port 8888, or the next one that is free
python tools/lab.py --port 9000     on this port, or not at all
python tools/lab.py --no-browser    only print the address
"""

import argparse
import os
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = "127.0.0.1"
FIRST = ("notebooks/00_start_here.ipynb", "notebooks/02_learning_rate.ipynb")


def port_number(text: str) -> int:
    """Read a port's number.

    Raises:
        argparse.ArgumentTypeError: it is none; the message quotes it.
    """
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a whole number from 1 to 65535, got {text!r}")
    return int(text)


def is_taken(port: int) -> bool:
    """Say whether another program listens on this port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return True
    return False


def first_lesson() -> str:
    """Give the notebook to open: the start, or the first lesson that is there."""
    return next((name for name in FIRST if (ROOT / name).exists()), "notebooks")


def command(port: int | None, *, browser: bool = True) -> list[str]:
    """Give the command that starts JupyterLab; its token stays on."""
    options = [
        f"--ServerApp.ip={ADDRESS}",
        # No request leaves the machine: neither for news nor for newer versions.
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    if port is not None:
        options += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if not browser:
        options.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # In a container everybody is root, and nobody outside this machine can reach the server.
        options.append("--allow-root")
    return [sys.executable, "-m", "jupyterlab", *options, first_lesson()]


def main(arguments: list[str] | None = None) -> None:
    """Check the port, then become JupyterLab."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=port_number, help="the port to listen on")
    parser.add_argument("--no-browser", action="store_true", help="open no browser")
    chosen = parser.parse_args(arguments)
    if chosen.port is not None and is_taken(chosen.port):
        sys.exit(f"Port {chosen.port} is taken: name another one, as in  make lab PORT={chosen.port % 65535 + 1}")
    os.chdir(ROOT)
    # Notebooks start `tensorboard` and `python` by name, so the environment's own must come first.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.execv(sys.executable, command(chosen.port, browser=not chosen.no_browser))


if __name__ == "__main__":
    main()
