"""Run nbval, strictly, in a process of its own, and read what it found."""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from notebooks import CELL_TIMEOUT, ROOT, kernel_environment

SANITIZE = Path(__file__).with_name("nbval_sanitize.cfg")
DRIVING = Path(__file__).with_name("nbval_then_drive.py")


def nbval(folder: Path, *, cuda: bool = False, drive_into: Path | None = None) -> dict[str, list[str]]:
    """Compare every stored output of a folder's notebooks with a fresh run.

    Args:
        folder: the folder of the notebooks.
        cuda: whether the kernels may see a graphics card.
        drive_into: an empty folder; with it each notebook is driven after its run, and `nbval_then_drive.read` gives
            what came of it.

    Returns:
        for each notebook's file name the messages of the cells that failed; empty if its outputs were reproduced.

    Raises:
        RuntimeError: nbval itself did not run, or collected no cell.
    """
    found: dict[str, list[str]] = {path.name: [] for path in sorted(folder.glob("*.ipynb"))}
    with tempfile.TemporaryDirectory() as scratch:
        report, settings = Path(scratch) / "report.xml", Path(scratch) / "pytest.ini"
        # The project's own pytest settings are for its Python tests.
        settings.write_text("[pytest]\n")
        program = [str(DRIVING), str(drive_into)] if drive_into else ["-m", "pytest"]
        command = [
            sys.executable,
            *program,
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
        cases = list(ElementTree.parse(report).iter("testcase"))
        if not cases:
            raise RuntimeError(f"nbval found no cell in {str(folder)!r}:\n{done.stdout}")
        for case in cases:
            name = case.get("classname", "").removesuffix(".ipynb").rsplit(".", 1)[-1].rsplit("/", 1)[-1] + ".ipynb"
            for bad in [*case.iter("failure"), *case.iter("error")]:
                found[name].append(f"{case.get('name')}: {bad.text}")
        return found
