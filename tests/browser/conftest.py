"""One browser, one JupyterLab, and one notebook with every lab, for all tests of a worker."""

import shutil

import nbformat
import pytest
from headless import BROWSERS, ROOT, find_browser, running_browser, running_server
from notebook_page import NotebookPage

# The labs of the notebook that the tests share, by CSS class, each in a cell that runs when a test first asks for it.
LABS = {
    "optimizer-lab": "labs.OptimizerLab()",
    "learning-rate-lab": "rates = labs.LearningRateLab()\nrates",
    "quadratic-lab": "labs.QuadraticLab()",
    "schedule-lab": "labs.ScheduleLab()",
    "zero-grad-lab": "labs.ZeroGradLab()",
    "running-loss-lab": "labs.RunningLossLab()",
    "item-lab": "labs.ItemLab()",
    "writer-lab": "labs.WriterLab()",
    "tensorboard-panel": """\
with SummaryWriter("runs/first") as writer:
    for step in range(10):
        writer.add_scalar("loss", 1 / (1 + step), step)
labs.TensorBoardPanel("runs", reload_seconds=1)""",
    # Twice as long as by default, so that whatever a slow page does still meets a run in progress.
    "training-lab": "training = labs.TrainingLab(num_epochs=40)\ntraining",
    "prediction-lab": """\
labs.Prediction("08-by-keyboard", "Which rate ends lower?", ["the smaller", "the larger", "neither"])""",
}
SETUP = "from torch.utils.tensorboard import SummaryWriter\n\nfrom course_utils import labs"


@pytest.fixture(scope="session")
def browser():
    program = find_browser()
    if program is None:
        pytest.skip(f"no browser on this machine (looked for {', '.join(BROWSERS)})")
    with running_browser(program) as running:
        yield running


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jupyter") / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    with running_server(folder) as running:
        yield running


@pytest.fixture(scope="session")
def _notebook(browser, server):
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in (SETUP, *LABS.values())],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(made, server.folder / "labs.ipynb")
    page = NotebookPage(browser, server, "labs.ipynb")
    try:
        page.run_cell(0)
        yield page
    finally:
        page.close()


@pytest.fixture
def notebook(_notebook):
    """The notebook with the labs; whatever goes wrong on its page during a test is an error of the test."""
    yield _notebook
    faults = list(_notebook.faults)
    _notebook.faults.clear()
    assert faults == []


@pytest.fixture(scope="session")
def _shown():
    return set()


@pytest.fixture
def show(notebook, _shown):
    """A function that returns the lab with a CSS class, at rest."""

    def show_lab(css_class):
        if css_class not in _shown:
            notebook.run_cell(1 + list(LABS).index(css_class))
            _shown.add(css_class)
        return notebook.lab(css_class)

    return show_lab
