"""Run nbval in a process of its own and read what it found."""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from nbval_then_drive import REPEAT_ALL, SAMPLE

from notebooks import CELL_TIMEOUT, ROOT, kernel_environment

SANITIZE = Path(__file__).with_name("nbval_sanitize.cfg")
DRIVING = Path(__file__).with_name("nbval_then_drive.py")


def nbval(folder: Path, *, drive_into: Path, cuda: bool = False, repeat_all: bool = True) -> dict[str, list[str]]:
    """Compare every stored output of a folder's notebooks with a fresh run, and drive each notebook afterwards.

    Args:
        folder: the folder of the notebooks.
        drive_into: an empty folder, for what `nbval_then_drive.read` returns.
        cuda: whether the kernels may see a graphics card.
        repeat_all: whether the second run repeats the cells tagged `run-once`, too.

    Returns:
        For each notebook's file name the messages of the cells that failed; empty if its outputs were reproduced.

    Raises:
        RuntimeError: nbval itself failed.
    """
    found: dict[str, list[str]] = {path.name: [] for path in sorted(folder.glob("*.ipynb"))}
    with tempfile.TemporaryDirectory() as scratch:
        report, settings = Path(scratch) / "report.xml", Path(scratch) / "pytest.ini"
        # The project's own pytest settings are for its Python tests.
        settings.write_text("[pytest]\n")
        command = [
            sys.executable,
            str(DRIVING),
            str(drive_into),
            REPEAT_ALL if repeat_all else SAMPLE,
            "--nbval",
            "--nbval-current-env",
            f"--nbval-sanitize-with={SANITIZE}",
            f"--nbval-cell-timeout={CELL_TIMEOUT}",
            # One notebook's cells must stay in one kernel: loadfile sends a whole notebook to one worker.
            "-n",
            str(min(2, len(found))),
            "--dist",
            "loadfile",
            "-p",
            "no:cacheprovider",
            "-q",
            "--color=no",
            f"--junitxml={report}",
            "-c",
            str(settings),
            "--rootdir",
            str(folder),
            str(folder),
        ]
        done = subprocess.run(
            command, cwd=ROOT, env=kernel_environment(Path(scratch), cuda=cuda), capture_output=True, text=True
        )
        # 0: all cells agree, 1: some differ; anything else means that nothing was compared.
        if done.returncode not in (0, 1):
            raise RuntimeError(f"nbval ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        for case in ElementTree.parse(report).iter("testcase"):
            name = case.get("classname", "").removesuffix(".ipynb").rsplit(".", 1)[-1].rsplit("/", 1)[-1] + ".ipynb"
            for bad in [*case.iter("failure"), *case.iter("error")]:
                found[name].append(f"{case.get('name')}: {bad.text}")
        return found
