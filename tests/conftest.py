"""What holds for every test of the project."""

import logging
import os
import shutil
import signal
import tempfile
from collections import Counter

import pytest
import torch


def pytest_configure(config):
    """Keep the tests out of the learner's own folder and the checkout, and each worker on one core."""
    config.learner = tempfile.mkdtemp(prefix="learner-")
    os.environ["COURSE_LEARNER_DIR"] = config.learner
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.path.join(config.learner, ".hypothesis")
    # What `make test` was called with, such as PYTHON=python3.13, would reach each make that a test calls.
    for name in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "PYTHON", "PORT", "LOCALE", "LEARNERS"):
        os.environ.pop(name, None)
    torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # In a job that a shell runs in the background Ctrl-C does nothing; some tests press it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config):
    shutil.rmtree(config.learner, ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begin with the files that have the most slow tests: at the end, one would keep a single worker busy."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


class _Keeper(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def _no_lost_callback_error():
    """Fail a test in which a widget's callback raised and ipywidgets only logged it.

    Setting `slider.value` hands an error on to the caller; `Button.click()` and a message from the front end do not.
    """
    keeper, logger = _Keeper(), logging.getLogger("traitlets")
    logger.addHandler(keeper)
    yield
    logger.removeHandler(keeper)
    if keeper.records:
        pytest.fail(
            "a widget's callback failed and only the log knew: " + keeper.records[0].getMessage(), pytrace=False
        )
