"""Fetch JupyterHub's proxy with npm, as hub/package-lock.json pins it; do nothing if it is already there.

    python tools/proxy.py

The proxy is a Node.js program, so pip cannot install it. The lock file pins each of its packages with a checksum and
holds no address: npm asks the registry that it is configured for.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WANTED = ROOT / "hub"
INSTALLED = ROOT / "build" / "class-proxy"
PROGRAM = "node_modules/configurable-http-proxy"
# No script of any package runs, and nothing is sent or fetched that the lock file does not name.
NPM_CI = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
GET_NODE = "Install it from nodejs.org, or with `conda install -c conda-forge nodejs`, and run this again."


class NodeMissing(RuntimeError):
    """Node.js or npm is missing or too old."""


class NpmFailed(RuntimeError):
    """npm could not fetch the proxy."""


def least_node() -> int:
    """Return the oldest Node.js that the proxy runs on, as the lock file has it."""
    lock = json.loads((WANTED / "package-lock.json").read_text(encoding="utf-8"))
    return int(re.search(r"\d+", lock["packages"][PROGRAM]["engines"]["node"])[0])


def find_node() -> str:
    """Return the path of a Node.js that is new enough.

    Raises:
        NodeMissing: it is not on PATH, does not run, or is too old; the message quotes the version found.
    """
    least, node = least_node(), shutil.which("node")
    if node is None:
        raise NodeMissing(
            f"A class needs Node.js {least} or newer for JupyterHub's proxy, but there is no node on PATH. {GET_NODE}"
        )
    found = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    version = re.fullmatch(r"v(\d+)\..*", found)
    if version is None or int(version[1]) < least:
        raise NodeMissing(
            f"A class needs Node.js {least} or newer for JupyterHub's proxy, but {node} reports {found!r}. {GET_NODE}"
        )
    return node


def is_there() -> bool:
    """Return whether the installed proxy is the one that the lock file pins."""
    try:
        return (INSTALLED / "package-lock.json").read_bytes() == (WANTED / "package-lock.json").read_bytes()
    except OSError:
        return False


def ensure() -> list[str]:
    """Fetch the proxy unless it is there; return the command that starts it.

    It is fetched into a folder beside its place and then renamed, so an interruption leaves nothing half made.

    Raises:
        NodeMissing: Node.js or npm is missing or too old.
        NpmFailed: npm could not fetch it; its messages are on the terminal.
    """
    node = find_node()
    if not is_there():
        npm = shutil.which("npm")
        if npm is None:
            raise NodeMissing(f"A class needs npm, but there is none on PATH, only {node}. {GET_NODE}")
        print("Fetching JupyterHub's proxy with npm, once: about 10 MB.", flush=True)
        scratch = INSTALLED.with_name(INSTALLED.name + ".new")
        for folder in (scratch, INSTALLED):
            shutil.rmtree(folder, ignore_errors=True)
        scratch.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(WANTED / name, scratch)
        done = subprocess.run([npm, *NPM_CI], cwd=scratch)
        if done.returncode != 0:
            raise NpmFailed(
                f"npm could not fetch JupyterHub's proxy (exit status {done.returncode}); its messages are above. "
                "It needs its registry once: run this again when the machine has a network."
            )
        scratch.rename(INSTALLED)
    return [node, str(INSTALLED / PROGRAM / "bin" / "configurable-http-proxy")]


if __name__ == "__main__":
    try:
        print(" ".join(ensure()))
    except (NodeMissing, NpmFailed) as error:
        sys.exit(str(error))
