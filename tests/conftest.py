"""What every test of the project stands under."""

import logging
import os
import shutil
import signal
import tempfile

import pytest
import torch


def pytest_configure(config):
    """Keep the tests out of the learner's own folder, and one test out of the other's core."""
    config.learner = tempfile.mkdtemp(prefix="learner-")
    os.environ["COURSE_LEARNER_DIR"] = config.learner
    # What `make test` was called with, such as PYTHON=python3.13, would reach each make that a test calls.
    for name in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "PYTHON", "PORT", "LOCALE", "LEARNERS", "TORCH", "TIMES"):
        os.environ.pop(name, None)
    torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # In a job that a shell runs in the background Ctrl-C does nothing; some tests press it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config):
    shutil.rmtree(config.learner, ignore_errors=True)


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
