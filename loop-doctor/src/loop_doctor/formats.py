"""The report for other programs: JSON, GitHub's annotations, and SARIF."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loop_doctor.explain import Finding
from loop_doctor.messages import MESSAGES, PROBLEM
from loop_doctor.rules import RULES

JSON_VERSION = 1
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass(frozen=True)
class Report:
    """What a run under the doctor has shown.

    Attributes:
        findings: what was found, causes first.
        curves: what the values of each scalar tag are.
        seen: what was seen at all, and what limits the findings, as sentences.
        exit_code: the script's own exit code.
        error: the error that ended the script, as Python names it, or None.
    """

    findings: list[Finding]
    curves: dict[str, str]
    seen: list[str]
    exit_code: int = 0
    error: str | None = None


def as_json(report: Report) -> str:
    """Return the report as JSON."""
    return json.dumps(
        {
            "version": JSON_VERSION,
            "findings": [asdict(finding) for finding in report.findings],
            "curves": report.curves,
            "seen": report.seen,
            "script": {"exit_code": report.exit_code, "error": report.error},
        },
        indent=2,
    )


def as_github(report: Report) -> str:
    """Return one workflow command for each finding, which GitHub shows as an annotation at its line."""
    return "\n".join(_annotation(finding) for finding in report.findings)


def _annotation(finding: Finding) -> str:
    place = {"file": _relative(finding.file), "line": finding.line} if finding.file else {}
    properties = ",".join(f"{name}={_property(value)}" for name, value in {**place, "title": finding.code}.items())
    text = f"{finding.message}\n{finding.evidence}\nFix:\n{finding.fix}"
    return f"::{'error' if finding.level == PROBLEM else 'warning'} {properties}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: object) -> str:
    return _data(str(value)).replace(":", "%3A").replace(",", "%2C")


def as_sarif(report: Report) -> str:
    """Return the report as SARIF 2.1.0; the locations are relative to the current folder."""
    codes = list(RULES)
    driver = {"name": "loop-doctor", "rules": [_sarif_rule(code) for code in codes]}
    invocation: dict[str, Any] = {
        "executionSuccessful": report.error is None and report.exit_code == 0,
        "exitCode": report.exit_code,
    }
    run = {
        "tool": {"driver": driver},
        "invocations": [invocation],
        "results": [_sarif_result(finding, codes.index(finding.code)) for finding in report.findings],
        "columnKind": "unicodeCodePoints",
    }
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _sarif_rule(code: str) -> dict[str, Any]:
    return {
        "id": code,
        "shortDescription": {"text": " ".join(RULES[code].summary.split())},
        "fullDescription": {"text": MESSAGES[code].message},
        "defaultConfiguration": {"level": _sarif_level(MESSAGES[code].level)},
    }


def _sarif_result(finding: Finding, index: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": _sarif_level(finding.level),
        "message": {"text": f"{finding.message} {finding.evidence}\n\nFix:\n{finding.fix}"},
        "locations": [],
    }
    if finding.file and finding.line:
        place = {"artifactLocation": {"uri": _uri(finding.file)}, "region": {"startLine": finding.line}}
        result["locations"] = [{"physicalLocation": place}]
    return result


def _sarif_level(level: str) -> str:
    return "error" if level == PROBLEM else "note"


def _uri(file: str) -> str:
    relative = _relative(file)
    return Path(relative).as_uri() if os.path.isabs(relative) else quote(Path(relative).as_posix())


def _relative(file: str) -> str:
    """Return a file relative to the current folder if it is below it."""
    return os.path.relpath(file) if Path(file).is_relative_to(Path.cwd()) else file
