"""One browser and one JupyterLab for all tests of this folder, over a copy of the lessons."""

import shutil

import pytest
from lab_page import NotebookPage
from running import BROWSERS, ROOT, find_browser, running_browser, running_server


@pytest.fixture(scope="session")
def browser():
    program = find_browser()
    if program is None:
        pytest.skip(f"no browser on this machine (looked for {', '.join(BROWSERS)}): the lessons were not seen in one")
    with running_browser(program) as running:
        yield running


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jupyter") / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    with running_server(folder) as running:
        yield running


@pytest.fixture(scope="module")
def lesson(request, browser, server):
    """The module's LESSON after Run All; what went wrong on the page until its end is an error of this fixture."""
    opened = NotebookPage(browser, server, request.module.LESSON)
    try:
        opened.run_all()
        yield opened
        assert opened.faults == []
    finally:
        opened.close()
