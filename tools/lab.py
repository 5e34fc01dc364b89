"""Open JupyterLab on the first lesson, on this machine alone.

    python tools/lab.py                 on port 8888, or the next one that is free
    python tools/lab.py --port 9000     on this port, or not at all
    python tools/lab.py --no-browser    only print the address
    python tools/lab.py --locale zh_CN  with JupyterLab's own menus and dialogs in Chinese

Ctrl-C in the terminal stops it.
"""

import argparse
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = "127.0.0.1"
# For each language a folder of settings that JupyterLab reads beside the learner's own, as defaults.
LOCALES = Path(__file__).resolve().parent / "locales"
FIRST = "notebooks/00_start_here.ipynb"


def free_port(text: str, target: str = "lab") -> int:
    """Return a port's number after checking that it is free; `target` is the make target that the message names.

    Raises:
        ValueError: the text is not a port, or the port is taken; the message quotes it.
    """
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ValueError(f"A port is a whole number from 1 to 65535, got {text!r}.")
    port = int(text)
    with socket.socket() as probe:
        if os.name == "posix":
            # A server that has just stopped leaves its port waiting for a minute: that does not count as taken. On
            # Windows the same option would let two servers share a port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            raise ValueError(
                f"Port {port} is taken. Name another one, as in: make {target} PORT={port % 65535 + 1}"
            ) from error
    return port


def command(port: int | None, *, browser: bool = True) -> list[str]:
    """Return the command that starts JupyterLab; its token stays on."""
    options = [
        f"--ServerApp.ip={ADDRESS}",
        f"--ServerApp.root_dir={ROOT}",
        f"--LabApp.default_url=/lab/tree/{FIRST}",
        # No request leaves the machine, neither for news nor for newer versions.
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
        # In a container everyone is root, and nobody outside this machine can reach the server.
        options.append("--allow-root")
    return [sys.executable, "-m", "jupyterlab", *options]


def locale_variables(locale: str) -> dict[str, str]:
    """Return the variable that puts JupyterLab's own menus and dialogs into a language, "zh_CN" or "en".

    The learner's settings stay as they are, and a language chosen there, under Settings > Language, wins.

    Raises:
        ValueError: it is another language, or its translation is not installed; the message quotes it.
    """
    known = sorted(folder.name for folder in LOCALES.iterdir())
    if locale not in known:
        raise ValueError(f"JupyterLab's menus come in {' or '.join(known)}, got {locale!r}. Try: make lab LOCALE=zh_CN")
    if locale != "en" and importlib.util.find_spec(f"jupyterlab_language_pack_{locale}") is None:
        raise ValueError(f"{sys.executable} has no translation for {locale!r}. Install it: make lab LOCALE={locale}")
    paths = [str(LOCALES / locale), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    return {"JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, paths))}


def can_write(folder: Path) -> bool:
    """Return whether files can be created in a folder, which is created first if missing, for this user only."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def places() -> dict[str, Path]:
    """Return the folders in which JupyterLab and its kernels keep their files, by the variables that move them."""
    from jupyter_core import paths

    home = Path.home()
    return {
        "JUPYTER_CONFIG_DIR": Path(paths.jupyter_config_dir()),  # settings, and the layout of the page
        "JUPYTER_DATA_DIR": Path(paths.jupyter_data_dir()),
        "JUPYTER_RUNTIME_DIR": Path(paths.jupyter_runtime_dir()),  # the secrets of running servers and kernels
        "IPYTHONDIR": Path(os.environ.get("IPYTHONDIR") or home / ".ipython"),
        "MPLCONFIGDIR": Path(os.environ.get("MPLCONFIGDIR") or home),
    }


def writable_folder() -> Path:
    """Return a folder that can be written in: in the environment, or else a temporary one."""
    own = Path(sys.prefix) / "jupyter-home"
    return own if can_write(own) else Path(tempfile.mkdtemp(prefix="jupyter-home-"))


def replacement_folders() -> tuple[dict[str, str], str]:
    """Return variables that move everything out of a home folder that cannot be written in, and a sentence about it.

    The new folders are in the environment, where the next start finds them again, or else in a temporary folder. A user
    without any home folder (as often in a container) gets one there.

    Returns:
        The variables to set and the sentence to print; {} and "" if the home folder can be written in.

    Raises:
        OSError: no folder at all can be written in.
    """
    try:
        Path.home()
    except RuntimeError:
        own = writable_folder()
        return {"HOME": str(own)}, f"This user has no home folder: JupyterLab keeps its settings in {own} instead."
    closed = {name: folder for name, folder in places().items() if not can_write(folder)}
    if not closed:
        return {}, ""
    own = writable_folder()
    for name in closed:
        (own / name.lower()).mkdir(mode=0o700, exist_ok=True)
    first = next(iter(closed.values()))
    sentence = f"{first} cannot be written in: JupyterLab keeps its settings in {own} instead."
    return {name: str(own / name.lower()) for name in closed}, sentence


def main() -> None:
    """Check what JupyterLab needs, then become JupyterLab."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", help="the port to listen on")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--locale", help="the language of JupyterLab's own menus: en or zh_CN")
    chosen = parser.parse_args()
    if importlib.util.find_spec("jupyterlab") is None:
        sys.exit(f"{sys.executable} has no JupyterLab. Start with `make lab`, which installs what is missing.")
    try:
        port = None if chosen.port is None else free_port(chosen.port)
        language = {} if chosen.locale is None else locale_variables(chosen.locale)
        variables, sentence = replacement_folders()
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    os.environ.update(variables | language)
    if sentence:
        print(sentence, flush=True)
    if not can_write(ROOT):
        print(f"{ROOT} cannot be written in: lessons run, but neither they nor your answers can be saved.", flush=True)
    # Notebooks start `tensorboard` and `python` by name, so the environment's own must come first.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    print("JupyterLab is starting; Ctrl-C stops it.", flush=True)
    os.chdir(ROOT)
    jupyterlab = command(port, browser=not chosen.no_browser)
    if os.name != "posix":
        # There, execv does not quote arguments that contain spaces.
        sys.exit(subprocess.call(jupyterlab))
    os.execv(sys.executable, jupyterlab)


if __name__ == "__main__":
    main()
