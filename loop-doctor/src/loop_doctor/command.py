"""The command `loop-doctor`: run a script under the doctor, or explain a code."""

import argparse
import contextlib
import os
import sys
import traceback
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from loop_doctor.codes import check_codes
from loop_doctor.doctor import LoopDoctor
from loop_doctor.formats import Report, as_github, as_json, as_sarif
from loop_doctor.messages import COURSE, MESSAGES
from loop_doctor.rules import RULES
from loop_doctor.script import run_module, run_script
from loop_doctor.settings import FORMATS, Settings, make_settings, read_settings

EPILOG = """\
examples:
  loop-doctor run train.py --epochs 1
  loop-doctor run -m package.train --epochs 1
  loop-doctor run --format sarif --output doctor.sarif --fail-on hint train.py

The options of loop-doctor come before the script, the script's own after it. The report goes to stderr, so that it does
not mix with what the script writes to stdout; --output sends it to a file, or to stdout with `--output -`. The formats
json and sarif are for other programs, so they need --output. Settings can also be given in [tool.loop-doctor] of the
nearest pyproject.toml; the command line wins.

exit status:
  0    nothing at or above --fail-on was found
  1    something was, or the script ended with an error
  2    wrong usage
  130  Ctrl-C
  n    the script called sys.exit(n)
"""
FORMATTERS = {"json": as_json, "github": as_github, "sarif": as_sarif}


class UsageError(Exception):
    """Something in the command line or in the settings is wrong."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    command = argparse.ArgumentParser(
        prog="loop-doctor", description="Watch a PyTorch training loop while it runs, and name the mistakes in it."
    )
    commands = command.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run a script and report what is wrong with its training loop",
        description="Run a Python script or module, watch its training loop, and report what is wrong with it. The "
        "script runs as usual: it trains, and it writes its files.",
        usage="loop-doctor run [OPTIONS] SCRIPT.py [ARGS ...]\n       loop-doctor run [OPTIONS] -m MODULE [ARGS ...]",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.set_defaults(do=_run)
    run.add_argument("--format", metavar="FORMAT", help=f"{', '.join(FORMATS)} (default: text)")
    run.add_argument("--output", metavar="FILE", help="write the report to a file; - is stdout")
    run.add_argument("--fail-on", metavar="WHAT", help="problem, hint, never, or CODE,CODE (default: problem)")
    run.add_argument("--ignore", metavar="CODE,CODE", help="do not report these codes")
    run.add_argument("--harmless", action="store_true", default=None, help="report harmless habits too")
    run.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a module")
    run.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT.py", help="the script and its arguments")
    explain = commands.add_parser("explain", help="explain a code, or list all codes")
    explain.set_defaults(do=_explain)
    explain.add_argument("code", nargs="?", metavar="CODE")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        return int(options.do(options))
    except UsageError as error:
        print(f"loop-doctor: error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    target = options.module or options.script
    if target[:1] == ["--"]:
        target = target[1:]
    if not target:
        raise UsageError("name a script, or a module after -m: loop-doctor run train.py")
    settings, output = _settings(options), _output(options.output)
    if settings.format in ("json", "sarif") and output is None:
        raise UsageError(f"--format {settings.format} needs --output FILE: the script writes to stdout and stderr too")
    # Kept, because a script can close or replace them, fork, or change its directory.
    stderr, process, folder = sys.stderr, os.getpid(), os.getcwd()
    print(f"loop-doctor: running {target[0]}", file=stderr, flush=True)
    doctor = LoopDoctor(harmless=settings.harmless, ignore=settings.ignore)
    run = run_module if options.module else run_script
    try:
        _, ended = run(target[0], target[1:], doctor)
    except (OSError, ModuleNotFoundError) as error:
        raise UsageError(error) from None
    except SyntaxError as error:
        traceback.print_exception(error.with_traceback(None))
        return 1
    code = _exit_code(ended)
    if stderr.closed:  # the script closed it; that leaves its file descriptor open
        stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    if os.getpid() == process:  # a child that the script forked has nothing to report
        with contextlib.chdir(folder):
            _write(doctor, settings, output, _report(doctor, ended, code), stderr)
    _show(ended, stderr)
    if os.getpid() != process or (ended is not None and code):
        return code
    return int(any(settings.fails(finding) for finding in doctor.findings))


def _settings(options: argparse.Namespace) -> Settings:
    given = {name: getattr(options, name.replace("-", "_")) for name in ("fail-on", "format", "harmless", "ignore")}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return make_settings({**read_settings(Path.cwd()), **given})
    except ValueError as error:
        raise UsageError(error) from None


def _output(name: str | None) -> Path | str | None:
    """Return where the report goes: a file by its full path, "-" for stdout, or None for stderr."""
    if name is None or name == "-":
        return name
    path = Path(name).absolute()
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(f"the report cannot be written to {name!r}: name a file in a folder that exists")
    return path


def _report(doctor: LoopDoctor, ended: BaseException | None, code: int) -> Report:
    error = None
    if ended is not None and not isinstance(ended, SystemExit):
        error = "".join(traceback.format_exception_only(ended)).strip()
    return Report(doctor.findings, doctor.curves, doctor.seen, code, error)


def _write(doctor: LoopDoctor, settings: Settings, output: Path | str | None, report: Report, stderr: TextIO) -> None:
    form = FORMATTERS.get(settings.format)
    text = str(doctor) if form is None else form(report)
    if isinstance(output, Path):
        try:
            output.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            print(f"{doctor}\nloop-doctor: error: the report could not be written: {error}", file=stderr)
            return
        print(f"{str(doctor).splitlines()[0]}\nloop-doctor: the report is in {output}", file=stderr)
    elif text:
        sys.stdout.flush()
        print(text, file=sys.stdout if output else stderr, flush=True)


def _exit_code(ended: BaseException | None) -> int:
    """Return the exit status that Python itself would give."""
    if ended is None:
        return 0
    if isinstance(ended, KeyboardInterrupt):
        return 130
    if isinstance(ended, SystemExit):
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 1


def _show(ended: BaseException | None, stderr: TextIO) -> None:
    """Show how the script ended, as Python does."""
    if isinstance(ended, SystemExit):
        if ended.code is not None and not isinstance(ended.code, int):
            print(ended.code, file=stderr)
    elif ended is not None:
        traceback.print_exception(ended, file=stderr)


def _explain(options: argparse.Namespace) -> int:
    if options.code is None:
        width = max(map(len, RULES))
        for code, rule in RULES.items():
            print(f"{code:<{width}}  {MESSAGES[code].level:<7}  {' '.join(rule.summary.split())}")
        return 0
    try:
        check_codes([options.code])
    except ValueError as error:
        raise UsageError(error) from None
    print(explanation(options.code))
    return 0


class _Blank:
    """Fills in a field of a message that only a run has a value for."""

    def __format__(self, spec: str) -> str:
        return "…"


def explanation(code: str) -> str:
    """Return all that is known of a code."""
    message = MESSAGES[code]
    lines = [f"{code} ({message.level})", message.message, "", "It is reported when:"]
    lines += [f"    {' '.join(RULES[code].summary.split())}", "", "Fix:"]
    blanks: defaultdict[str, _Blank] = defaultdict(_Blank)
    for number, fix in enumerate(dict.fromkeys(text.format_map(blanks) for text in message.fix.values())):
        lines += ["", "or:", ""] if number else []
        lines += [f"    {line}" for line in fix.splitlines()]
    return "\n".join([*lines, "", f"Lesson: {message.lesson} of “{COURSE}”"])
