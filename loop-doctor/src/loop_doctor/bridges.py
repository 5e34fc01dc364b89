"""What the callbacks for other libraries share: one doctor for each training run."""

from collections.abc import Iterable

from loop_doctor.codes import check_codes, check_fail_on, fails
from loop_doctor.doctor import LoopDoctor


class Bridge:
    """Watches one training run after another, with a new LoopDoctor for each.

    Args:
        fail_on: raise an error after a run with such findings: `"problem"`, `"hint"`, `"never"`, or codes.
        ignore: codes that are not reported.
    """

    def __init__(self, fail_on: str | Iterable[str], ignore: str | Iterable[str]):
        self._fail_on = check_fail_on(fail_on)
        self._ignore = check_codes([ignore] if isinstance(ignore, str) else ignore)
        self.watching = False
        self.doctor: LoopDoctor | None = None

    def enter(self) -> None:
        """Begin to watch a run."""
        doctor = LoopDoctor(ignore=self._ignore)
        doctor.__enter__()
        self.doctor, self.watching = doctor, True

    def leave(self, error: BaseException | None = None, *, show: bool = True) -> None:
        """Stop watching, and print the card; nothing happens if no run is watched.

        Raises:
            RuntimeError: the run ended well, and its findings count as a failure.
        """
        if self.doctor is None or not self.watching:
            return
        self.watching = False
        self.doctor.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
        if show:
            print(self.doctor)
        failures = [finding for finding in self.doctor.findings if fails(finding, self._fail_on)]
        if failures and error is None:
            codes = ", ".join(finding.code for finding in failures)
            raise RuntimeError(f"the loop doctor found {codes}: see its card")
