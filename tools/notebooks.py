"""Execute the lessons and clean what they store, or check what is stored without executing anything.

    python tools/notebooks.py notebooks            run each notebook from top to bottom and store clean outputs
    python tools/notebooks.py --check notebooks    only read: is each notebook fit to be committed?

A path is a notebook or a folder of notebooks. Running a notebook a second time changes no byte of it.
"""

import argparse
import base64
import contextlib
import copy
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from matplotlib.image import imread
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
CELL_TIMEOUT = 120  # seconds; the slowest cell of the course takes a fifth of it on two cores
MAX_BYTES = 300_000
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

# A cell that should show a picture and does not is invisible to a comparison of texts, so whatever
# looks like drawing must have a picture beside it. `no-picture` says that a cell only prepares one.
DRAWS = re.compile(r"\bplot_\w+\(|\bplt\.|\bsubplots\(|\bFigure\(|\b[A-Z]\w*Lab\(|\b(?:fig|figure)\.savefig\(")
DEFINES = re.compile(r"^\s*(?:def|class|from|import)\b.*$", re.MULTILINE)
NO_PICTURE = "no-picture"
RAISES = "raises-exception"
RAW_WIDGET = re.compile(r"^\w+\(children=\(")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b|\b(?:localhost|127\.0\.0\.1):\d+")
ABSOLUTE = re.compile(r"(?<![\w./:~<])/(?:home|root|Users|tmp|var|usr|opt|mnt|srv|private)/|\b[A-Za-z]:\\\w")
# The same rule as in tests/notebooks/nbval_sanitize.cfg; a test compares the two.
MEASURED = re.compile(r"[ ]*\u2248[ ]*[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")
MARKDOWN_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)]*)\)")
HTML_IMAGE = re.compile(r"<img\b[^>]*>", re.IGNORECASE)
HTML_ALT = re.compile(r"""\balt\s*=\s*(?:"[^"]*\S[^"]*"|'[^']*\S[^']*')""", re.IGNORECASE)
# Code for a kernel that waits until every lab has computed and drawn what it was asked for. A lab that works in the
# background reports its errors here and nowhere else.
SETTLE_LABS = """
import sys as _sys
if "course_utils.labs.base" in _sys.modules:
    _failed = []
    for _lab in list(_sys.modules["course_utils.labs.base"].Lab.alive):
        try:
            _lab.settle(timeout={timeout})
        except Exception as _error:
            _failed.append(_error)
    if _failed:
        raise _failed[0]
"""


def find(paths: list[Path]) -> list[Path]:
    """List the notebooks that the paths name, those of a folder in the order of their names.

    Raises:
        FileNotFoundError: a path is not there, or a folder holds no notebook.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
            if not inside:
                raise FileNotFoundError(
                    f"no notebook in the folder {str(path)!r}: name a folder that holds .ipynb files"
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"no such notebook or folder: {str(path)!r}")
    return found


def kernel_environment(folder: Path, *, cuda: bool = False) -> dict[str, str]:
    """Make the environment in which a lesson runs the same way on every machine.

    `folder` is an empty folder: the learner's own files and IPython's profile go there, so that
    neither yesterday's predictions nor somebody's start-up file can change an output. One thread
    keeps sums in one order. Without `cuda` no graphics card is seen.
    """
    environment = dict(os.environ)
    environment.update(
        COURSE_LEARNER_DIR=str(folder / "learner"),
        IPYTHONDIR=str(folder / "ipython"),
        OMP_NUM_THREADS="1",
    )
    if not cuda:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


@contextlib.contextmanager
def running_kernel(cwd: Path, *, cuda: bool = False) -> Iterator[KernelManager]:
    """Start a fresh kernel of this very Python in the folder `cwd`; it is gone when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        manager = KernelManager(
            # No folder to search leaves the one kernel that belongs to this Python: a kernel that
            # somebody installed under the same name elsewhere would test another environment.
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[])
        )
        manager.start_kernel(
            cwd=str(cwd),
            env=kernel_environment(Path(folder), cuda=cuda),
            # ipykernel warns at every start that it talks over TCP; errors are still reported.
            extra_arguments=["--log-level=ERROR"],
        )
        try:
            yield manager
        finally:
            manager.shutdown_kernel(now=True)


def run_cells(notebook: NotebookNode, kernel: KernelManager, *, skip: str = "") -> NotebookNode:
    """Run the cells of a notebook in a running kernel, from top to bottom; the outputs go into `notebook`.

    Cells with the tag `skip` are left out and keep their outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised and is not tagged raises-exception.
        nbclient.exceptions.CellTimeoutError: a cell took more than 120 seconds.
    """
    kernel.client_class = "jupyter_client.asynchronous.AsyncKernelClient"  # the kind that NotebookClient waits for
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=CELL_TIMEOUT,
        record_timing=False,
        coalesce_streams=True,
        skip_cells_with_tag=skip,
        resources={},
    )
    try:
        return client.execute()
    finally:
        # The kernel is the caller's, so the client leaves its own channels open.
        client.kc.stop_channels()


def execute(path: Path) -> None:
    """Run one notebook in a fresh kernel on the CPU, in its own folder, and store it clean."""
    stored = nbformat.read(path, as_version=4)
    notebook = copy.deepcopy(stored)
    with running_kernel(path.resolve().parent) as kernel:
        run_cells(notebook, kernel)
    clean(notebook)
    for before, after in zip(stored.cells, notebook.cells, strict=True):
        # A number that was measured differs a little each time; a new one is no news for a reader of the diff.
        if _without_measured(before.get("outputs")) == _without_measured(after.get("outputs")):
            after.update({"outputs": before.outputs} if "outputs" in before else {})
    text = nbformat.writes(notebook) + "\n"
    if text != path.read_text(encoding="utf-8"):
        path.write_text(text, encoding="utf-8", newline="\n")


def _without_measured(outputs: list[NotebookNode] | None) -> str:
    return MEASURED.sub("\u2248", json.dumps(outputs, sort_keys=True, ensure_ascii=False))


def clean(notebook: NotebookNode) -> None:
    """Take out of a notebook that was just run all that differs from run to run or serves no reader.

    The view of a widget points to a model in a kernel that is gone: a viewer that finds it shows
    "Loading widget" or an error instead of the picture beside it, so it goes.
    """
    notebook.metadata = NotebookNode(
        kernelspec=NotebookNode(display_name="Python 3 (ipykernel)", language="python", name="python3"),
        language_info=NotebookNode(name="python"),
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    taken = set()
    for cell in notebook.cells:
        cell.id = _stable_id(cell, taken)
        for key in ("execution", "ExecuteTime", "collapsed", "scrolled", "trusted"):
            cell.metadata.pop(key, None)
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                output.traceback = _portable_traceback(output.traceback)
            data = output.get("data", {})
            if len(data) > 1:
                data.pop(WIDGET_VIEW, None)
            if "image/png" in data:
                data["image/png"] = data["image/png"].strip()


def _stable_id(cell: NotebookNode, taken: set[str]) -> str:
    """Name a cell after its content, so that the same lesson has the same ids however it was made."""
    text = f"{cell.cell_type}\n{cell.source}"
    turn = 0
    while (name := hashlib.sha256(f"{text}\n{turn}".encode()).hexdigest()[:8]) in taken:
        turn += 1
    taken.add(name)
    return name


def _portable_traceback(traceback: list[str]) -> list[str]:
    """Keep of a traceback what a reader can see in the notebook: frames in files name paths of one machine."""
    return [part for part in traceback if not ANSI.sub("", part).startswith("File ")]


def problems(path: Path) -> list[str]:
    """List what keeps a stored notebook from being committed, one sentence each; nothing is executed."""
    notebook = nbformat.read(path, as_version=4)
    found = []
    size = path.stat().st_size
    if size >= MAX_BYTES:
        found.append(f"the file has {size} bytes, {MAX_BYTES} are too many: store fewer or smaller pictures")
    if "widgets" in notebook.metadata:
        found.append("metadata.widgets is stored: run `make notebooks`, which drops it")
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code_cells]
    if None in counts:
        found.append(f"{counts.count(None)} of {len(counts)} code cells were never run: run `make notebooks`")
    elif counts != list(range(1, len(counts) + 1)):
        found.append(f"the cells were not run once each from top to bottom: their counts are {counts}")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel is not python3: run `make notebooks`")
    for index, cell in enumerate(notebook.cells):
        said = _markdown_problems(cell) if cell.cell_type == "markdown" else _code_problems(cell)
        found += [f"cell {index}: {sentence}" for sentence in said]
    return found


def _markdown_problems(cell: NotebookNode) -> list[str]:
    found = [
        f"the image {target!r} has no alt text"
        for alt, target in MARKDOWN_IMAGE.findall(cell.source)
        if not alt.strip()
    ]
    return found + [f"{tag} has no alt text" for tag in HTML_IMAGE.findall(cell.source) if not HTML_ALT.search(tag)]


def _code_problems(cell: NotebookNode) -> list[str]:
    if cell.cell_type != "code" or cell.execution_count is None:
        return []
    found = []
    tags = cell.metadata.get("tags", [])
    errors = [output for output in cell.outputs if output.output_type == "error"]
    if errors and RAISES not in tags:
        found.append(f"{errors[0].ename}: {errors[0].evalue} was raised and the cell is not tagged {RAISES}")
    if RAISES in tags and not errors:
        found.append(f"it is tagged {RAISES} and raised nothing")
    for output in cell.outputs:
        if output.get("name") == "stderr":
            found.append(f"stderr is stored: {output.text.strip()[:80]!r}")
        for mime, text in _texts(output):
            found += _text_problems(mime, text)
    return found + picture_problems(cell)


def picture_problems(cell: NotebookNode) -> list[str]:
    """List what is wrong with the pictures of one code cell that was run, a missing one included."""
    found = []
    outputs = [output for output in cell.outputs if "data" in output]
    shown = [output for output in outputs if "image/png" in output.data]
    if not shown and NO_PICTURE not in cell.metadata.get("tags", []):
        drawing = DRAWS.search(DEFINES.sub("", cell.source))
        if drawing:
            found.append(f"it draws ({drawing[0]!r}) and shows no picture; if it should not, tag it {NO_PICTURE}")
    for output in outputs:
        text = output.data.get("text/plain", "")
        if "image/png" not in output.data and (text.startswith("<Figure") or RAW_WIDGET.match(text)):
            found.append(f"{text[:40]!r} is all that a reader without a kernel sees: it needs a picture")
    for output in shown:
        fault = picture_fault(output.data["image/png"])
        if fault:
            found.append(fault)
        if not output.metadata.get("image/png", {}).get("alt", "").strip():
            found.append("the picture has no alt text: display it with metadata={'image/png': {'alt': …}}")
    return found


def picture(data: str) -> np.ndarray:
    """Decode a stored PNG: rows x columns x 3 or 4, values from 0 to 1.

    Raises:
        ValueError: the text is not base64, or the bytes are not a whole PNG.
    """
    try:
        pixels = imread(io.BytesIO(base64.b64decode(data, validate=True)), format="png")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"not a whole PNG: {error}") from error
    return pixels if pixels.ndim == 3 else pixels[..., None]


def picture_fault(data: str) -> str | None:
    """Say what is wrong with one stored PNG: broken, tiny, huge or a single color; None if nothing is."""
    try:
        pixels = picture(data)
    except ValueError as error:
        return f"the picture is broken: {error}"
    height, width = pixels.shape[:2]
    if not (100 <= width <= 2400 and 60 <= height <= 2400):
        return f"the picture is {width} x {height} pixels: between 100 x 60 and 2400 x 2400 can be read"
    if (pixels == pixels[0, 0]).all():
        return "the picture is blank: every pixel has the same color"
    return None


def _texts(output: NotebookNode) -> Iterator[tuple[str, str]]:
    if output.output_type == "stream":
        yield output.name, output.text
    elif output.output_type == "error":
        yield "traceback", "\n".join([output.evalue, *output.traceback])
    for mime, value in output.get("data", {}).items():
        if not mime.startswith("image/png"):
            yield mime, value if isinstance(value, str) else str(value)


def _text_problems(mime: str, text: str) -> list[str]:
    if mime == WIDGET_VIEW:
        return ["a widget view is stored, which points to a kernel that is gone: run `make notebooks`"]
    text = ANSI.sub("", text)
    here = re.compile("|".join(re.escape(str(place)) for place in {ROOT, Path.home(), Path(sys.prefix)}))
    found = []
    for what, pattern in (
        ("a memory or network address", ADDRESS),
        ("a path of one machine", ABSOLUTE),
        ("a path of this machine", here),
    ):
        if hit := pattern.search(text):
            line = text[: hit.end() + 40].splitlines()[-1]
            found.append(f"{mime} holds {what}: {line.strip()[-100:]!r}")
            break
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code is 1 if --check found something, else 0."""
    parser = argparse.ArgumentParser(prog="tools/notebooks.py", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, help="notebooks, or folders of notebooks")
    parser.add_argument("--check", action="store_true", help="execute nothing, list what is wrong with what is stored")
    options = parser.parse_args(arguments)
    failed = False
    for path in find(options.paths):
        if not options.check:
            print(f"{path}: running", flush=True)
            execute(path)
        for sentence in problems(path):
            failed = True
            print(f"{path}: {sentence}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
