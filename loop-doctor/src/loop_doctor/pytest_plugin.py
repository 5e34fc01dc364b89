"""The plugin for pytest: a fixture, a marker and the option --loop-doctor.

pytest imports this module at every start, so PyTorch and the doctor are imported only when a test is watched.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from loop_doctor.explain import Finding

NAME = "loop_doctor"
MARKER = (
    'loop_doctor(fail_on="problem", ignore=(), watch=True): watch this test with the loop doctor. fail_on is '
    '"problem", "hint", "never" or a list of codes; the codes in ignore are not reported; watch=False leaves the '
    "test alone."
)
OWN_DOCTOR = (
    "The plugin of the loop doctor was already watching this test. Mark a test that opens a LoopDoctor of its own with "
    "@pytest.mark.loop_doctor(watch=False)."
)


class WatchedTest:
    """What the fixture `loop_doctor` gives to a test: the findings about what the test has done so far."""

    def __init__(self, item: pytest.Item):
        from loop_doctor.codes import check_fail_on
        from loop_doctor.doctor import LoopDoctor

        marker = item.get_closest_marker(NAME)
        options = {} if marker is None else marker.kwargs
        if unknown := options.keys() - {"fail_on", "ignore", "watch"}:
            raise ValueError(f"the marker loop_doctor accepts fail_on, ignore and watch, got {min(unknown)!r}")
        self._item = item
        self._watching = False
        self.doctor = LoopDoctor(ignore=options.get("ignore", ()))
        self._fail_on = check_fail_on(options.get("fail_on", "problem"))

    @property
    def findings(self) -> list["Finding"]:
        """What was found, without the ignored codes. Reading it ends the watch."""
        self.leave(None)
        return self.doctor.findings

    @property
    def failures(self) -> list["Finding"]:
        """The findings that make the test fail. Reading them ends the watch."""
        from loop_doctor.codes import fails

        return [finding for finding in self.findings if fails(finding, self._fail_on)]

    def enter(self) -> None:
        """Begin to watch."""
        self.doctor.__enter__()
        self._watching = True

    def leave(self, error: BaseException | None) -> None:
        """Stop watching, if that has not happened yet."""
        if self._watching:
            self._watching = False
            self.doctor.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    def report(self) -> None:
        """Note the findings for the summary and for the report of the test."""
        findings = self.findings
        self._item.user_properties += [(NAME, f"{each.code} ({each.level}): {each.where}") for each in findings]
        if findings:
            self._item.add_report_section("call", "loop doctor", str(self.doctor))


_watched = pytest.StashKey[WatchedTest]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("loop doctor").addoption(
        "--loop-doctor", action="store_true", help="watch every test with the loop doctor, and fail on problems"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def loop_doctor(request: pytest.FixtureRequest) -> WatchedTest:
    """Watch the training in the body of this test, and fail the test if there are problems."""
    return _watched_test(request.node)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Watch the body of the test."""
    if not _is_watched(item):
        return (yield)
    test = _watched_test(item)
    test.enter()
    try:
        result = yield
    except BaseException as error:
        test.leave(error)
        if not isinstance(error, pytest.skip.Exception):
            test.report()
        _explain_own_doctor(error)
        raise
    test.leave(None)
    test.report()
    if test.failures:
        pytest.fail(_summary(test), pytrace=False)
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List the findings of all tests that were watched."""
    if not config.getoption("--loop-doctor"):
        return
    # Those of other processes too: pytest-xdist sends the reports with their properties.
    reports = [
        each for group in terminalreporter.stats.values() for each in group if isinstance(each, pytest.TestReport)
    ]
    found = [(each.nodeid, line) for each in reports if each.when == "call" for line in _lines(each)]
    terminalreporter.section("loop doctor")
    if not found:
        terminalreporter.write_line("Nothing wrong was seen.")
    for nodeid, line in sorted(found):
        terminalreporter.write_line(f"{nodeid}: {line}")


def _lines(report: pytest.TestReport) -> list[str]:
    return [str(line) for name, line in report.user_properties if name == NAME]


def _is_watched(item: pytest.Item) -> bool:
    marker = item.get_closest_marker(NAME)
    if marker is not None:
        return bool(marker.kwargs.get("watch", True))
    return item.config.getoption("--loop-doctor") or _watched in item.stash


def _watched_test(item: pytest.Item) -> WatchedTest:
    if _watched not in item.stash:
        item.stash[_watched] = WatchedTest(item)
    return item.stash[_watched]


def _summary(test: WatchedTest) -> str:
    codes = ", ".join(finding.code for finding in test.failures)
    return f"the loop doctor found {codes}: its card is below"


def _explain_own_doctor(error: BaseException) -> None:
    from loop_doctor.doctor import ANOTHER_WATCHES

    if isinstance(error, RuntimeError) and error.args == (ANOTHER_WATCHES,):
        error.add_note(OWN_DOCTOR)
