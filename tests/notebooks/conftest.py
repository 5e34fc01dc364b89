"""What the tests of the lessons share: the lessons, the tool that makes them, and a small sound lesson to break."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import samples

import notebooks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", params=sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def stored(request: pytest.FixtureRequest) -> Path:
    """Each lesson of the course."""
    return request.param


@pytest.fixture(scope="session", params=["cpu", "cuda", pytest.param("in-full", marks=pytest.mark.proof)])
def way(request: pytest.FixtureRequest) -> str:
    """How the lessons run: on the CPU, with a graphics card, or on the CPU with each cell in the second run, too."""
    if request.param == "cuda":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device here: the lessons ran on the CPU only")
    return request.param


@pytest.fixture(scope="session")
def _sound(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    path = tmp_path_factory.mktemp("sound") / "sound.ipynb"
    nbformat.write(samples.lesson(), path)
    notebooks.execute(path)
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def sound_lesson(_sound: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The small sound lesson, run and stored, for a module to break."""
    return copy.deepcopy(_sound)


@pytest.fixture
def sound(_sound: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The small sound lesson, run and stored, for a test to break."""
    return copy.deepcopy(_sound)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a notebook, or one made of the given cells, into a fresh folder."""
    return functools.partial(samples.write, tmp_path)
