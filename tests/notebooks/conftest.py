"""What the tests of the lessons share: the lessons, the tool that makes them, and a sound little lesson to break."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import samples  # noqa: E402

import notebooks  # noqa: E402  (the line above makes it findable)


@pytest.fixture(scope="session", params=sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def stored(request: pytest.FixtureRequest) -> Path:
    """Each lesson of the course."""
    return request.param


@pytest.fixture(scope="session", params=["cpu", "cuda"])
def cuda(request: pytest.FixtureRequest) -> bool:
    """Whether the kernel may see a graphics card: a test that asks runs once without and once with it."""
    if request.param == "cpu":
        return False
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here: the lessons were run on the CPU only")
    return True


@pytest.fixture(scope="session")
def _sound(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    path = tmp_path_factory.mktemp("sound") / "sound.ipynb"
    nbformat.write(samples.lesson(), path)
    notebooks.execute(path)
    return nbformat.read(path, as_version=4)


@pytest.fixture
def sound(_sound: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The sound little lesson, run and stored; each test gets its own to break."""
    return copy.deepcopy(_sound)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a notebook, or one of the given cells, into a fresh folder."""

    def write_notebook(*cells: nbformat.NotebookNode, name: str = "lesson.ipynb") -> Path:
        whole = cells[0] if "cells" in cells[0] else nbformat.v4.new_notebook(cells=list(cells))
        nbformat.write(whole, tmp_path / name)
        return tmp_path / name

    return write_notebook
