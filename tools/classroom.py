"""Start JupyterHub for a class, on this machine alone.

    python tools/classroom.py                                  eight learners, learner1 to learner8
    python tools/classroom.py --learners 20                    twenty
    python tools/classroom.py --learners "ada grace alan"      these
    python tools/classroom.py --port 9000                      on this port and the two after it

Ctrl-C in the terminal ends it, with all servers and kernels. The learners' work stays in the class's folder.
"""

import argparse
import json
import os
import re
import secrets
import shlex
import sys
import tomllib
from pathlib import Path
from urllib.parse import quote, urlencode

import proxy
import psutil
from lab import ADDRESS, FIRST, ROOT, free_port

CONFIG = ROOT / "hub" / "jupyterhub_config.py"
FOLDER = ROOT / "class"
PORT = 8000
LEARNERS = "8"
IDLE_MINUTES = 60
MOST_LEARNERS = 1000
# JupyterHub refuses shorter ones.
SHORTEST_PASSWORD = 8
# Without those that look alike.
LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


def refuse_windows() -> None:
    """Raise ValueError on Windows, where JupyterHub does not run."""
    if os.name == "nt":
        raise ValueError("JupyterHub does not run on Windows: start the class in WSL, or on another machine.")


def read_learners(text: str) -> list[str]:
    """Return the learners' names from their number, or from a list separated by spaces or commas.

    Raises:
        ValueError: the text is neither; the message quotes it.
    """
    if re.fullmatch(r"[+-]?[\d.]+", text):
        if not text.isdecimal() or not 1 <= int(text) <= MOST_LEARNERS:
            raise ValueError(f"The number of learners is a whole number from 1 to {MOST_LEARNERS}, got {text!r}.")
        return [f"learner{number}" for number in range(1, int(text) + 1)]
    names = re.split(r"[\s,]+", text.strip(" \t\n,"))
    for name in names:
        # The name is also a folder and part of an address; JupyterHub writes capitals in lower case.
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
            raise ValueError(
                "LEARNERS is a number, or names of lower-case letters, digits, - and _ that begin with a letter, as in "
                f'make class LEARNERS="ada grace alan", got {name!r}.'
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Each learner needs a name of their own; the list repeats {', '.join(twice)}.")
    return names


def read_minutes(text: str) -> int:
    """Return the seconds after which an idle kernel ends, from minutes.

    Raises:
        ValueError: the text is not a number above 0; the message quotes it.
    """
    if not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) * 60 < 1:
        raise ValueError(f"The idle time is a number of minutes above 0, got {text!r}.")
    return round(float(text) * 60)


def password_in(folder: Path) -> str:
    """Return the class's password; the first start makes one.

    Raises:
        ValueError: the password in the file is too short.
    """
    path = folder / "password"
    if not path.exists():
        made = "-".join("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(3))
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(made + "\n")
    password = path.read_text(encoding="utf-8").strip()
    if len(password) < SHORTEST_PASSWORD:
        raise ValueError(
            f"The password in {path} has {len(password)} characters. Write one of {SHORTEST_PASSWORD} or more there, "
            "or delete the file to get a new one."
        )
    return password


def close_to_others(folder: Path) -> None:
    """Make the class's folder if it is missing, and give it mode 0700: no other user of the system gets in.

    Raises:
        ValueError: it is open to other users and holds something else than a class, such as /tmp, which others need.
        OSError: it cannot be made, or its mode cannot be changed.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    of_others = not (folder / "password").exists() and any(folder.iterdir())
    if of_others and folder.stat().st_mode & 0o077:
        raise ValueError(
            f"{folder} holds other files, and other users can open it, so a class cannot keep its password there. "
            "Name a new folder with --folder, or close this one first, if it is yours alone, with: "
            f"chmod 700 {shlex.quote(str(folder))}"
        )
    folder.chmod(0o700)


def left_over(folder: Path, name: str, mark: str) -> psutil.Process | None:
    """Return the process whose ID is in a file of the class, or None if that process has ended.

    Args:
        folder: the class's folder.
        name: the file.
        mark: a part of the process's command line, because the ID may belong to another program by now.
    """
    try:
        process = psutil.Process(int((folder / name).read_text(encoding="utf-8")))
        return process if any(mark in part for part in process.cmdline()) else None
    except (OSError, ValueError, psutil.Error):
        return None


def clear_away(folder: Path) -> None:
    """End the proxy of a class whose hub was killed, because it holds the port. The new hub reconnects to the servers.

    Raises:
        ValueError: the class is running; the message names its process.
    """
    running = left_over(folder, "hub.pid", CONFIG.name)
    if running:
        raise ValueError(
            f"The class in {folder} is already running, as process {running.pid}. "
            f"End it with Ctrl-C in its terminal, or with: kill {running.pid}"
        )
    orphan = left_over(folder, "proxy.pid", "configurable-http-proxy")
    if orphan:
        print(f"The last class was killed, but its proxy, process {orphan.pid}, is running: ending it.", flush=True)
        orphan.terminate()
        _, alive = psutil.wait_procs([orphan], timeout=10)
        for process in alive:
            process.kill()
    for name in ("hub.pid", "proxy.pid"):
        # JupyterHub would end whatever process has this ID by now.
        (folder / name).unlink(missing_ok=True)


def free_ports(text: str) -> int:
    """Return the port of the class after checking that it and the next two are free.

    Raises:
        ValueError: the text is not a port, or one of the three is taken.
    """
    port = free_port(text, "class")
    for other in (port + 1, port + 2):
        try:
            free_port(str(other), "class")
        except ValueError as error:
            raise ValueError(f"A class on port {port} also needs ports {port + 1} and {port + 2}. {error}") from error
    return port


def repository() -> str:
    """Return the public address of the course's repository, or "" while it has none."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["course"]["repository"]


def handout_link(hub: str, address: str) -> str:
    """Return the nbgitpuller link that updates a learner's copy of the course and opens it.

    Args:
        hub: the address of the JupyterHub, without a slash at the end.
        address: the address of the repository.
    """
    folder = address.removesuffix(".git").rsplit("/", 1)[-1]
    query = {"repo": address, "targetpath": folder, "urlpath": f"lab/tree/{folder}/{FIRST}"}
    return f"{hub}/hub/user-redirect/git-pull?{urlencode(query, quote_via=quote)}"


def announcement(port: int, learners: list[str], password: str, folder: Path) -> str:
    """Return what the teacher needs to know."""
    hub = f"http://{ADDRESS}:{port}"
    names = ", ".join(learners) if len(learners) <= 12 else f"{learners[0]} … {learners[-1]} ({len(learners)})"
    lines = [
        f"The class opens at {hub} in a few seconds; Ctrl-C ends it.",
        f"  learners   {names}",
        f"  password   {password}   (the same for everyone; in {folder / 'password'})",
        f"  their work {folder / 'homes'}",
    ]
    if repository():
        lines.append(f"  hand out   {handout_link(hub, repository())}")
    lines.append(
        "Only this machine can reach it. All servers run as one user of the system, so it is for trying things"
    )
    lines.append("out, or for learners who trust each other. docs/class.md describes what a class of strangers needs.")
    if os.geteuid() == 0:
        lines.append("You are root, so every learner will be root on this machine. Better start it as another user.")
    return "\n".join(lines)


def main() -> None:
    """Check everything that can be checked, then become JupyterHub."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learners", default=LEARNERS, help="how many, or their names (%(default)s)")
    parser.add_argument("--port", default=str(PORT), help="the port to listen on (%(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the class keeps its files (class)")
    parser.add_argument("--idle-minutes", default=str(IDLE_MINUTES), help="when unused kernels end (%(default)s)")
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    try:
        refuse_windows()
        learners, idle_seconds = read_learners(chosen.learners), read_minutes(chosen.idle_minutes)
        command = proxy.ensure()
        close_to_others(folder)
        password = password_in(folder)
        clear_away(folder)
        port = free_ports(chosen.port)
    except (ValueError, proxy.NodeMissing, proxy.NpmFailed) as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"The class's folder {folder} cannot be used ({error.strerror}). Name another one with --folder.")
    print(announcement(port, learners, password, folder), flush=True)
    settings = {"port": port, "learners": learners, "idle_seconds": idle_seconds, "proxy": command}
    os.environ["COURSE_CLASS"] = json.dumps(settings)
    # Notebooks start `tensorboard` and `python` by name, so the environment's own must come first.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.chdir(folder)
    os.execv(sys.executable, [sys.executable, "-m", "jupyterhub", "-f", str(CONFIG)])


if __name__ == "__main__":
    main()
