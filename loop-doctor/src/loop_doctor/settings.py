"""The settings of the command: `[tool.loop-doctor]` of the nearest pyproject.toml, below the command line."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loop_doctor.codes import LEVELS, FailOn, check_codes, fails
from loop_doctor.explain import Finding
from loop_doctor.messages import PROBLEM

FORMATS = ("text", "json", "github", "sarif")
NAMES = ("fail-on", "format", "harmless", "ignore")


@dataclass(frozen=True)
class Settings:
    """How a run is reported.

    Attributes:
        format: one of `FORMATS`.
        fail_on: "problem", "hint", "never", or the codes that fail a run.
        ignore: the codes that are not reported.
        harmless: whether harmless habits are reported.
    """

    format: str = "text"
    fail_on: FailOn = PROBLEM
    ignore: frozenset[str] = frozenset()
    harmless: bool = False

    def fails(self, finding: Finding) -> bool:
        """Return whether a finding fails the run."""
        return fails(finding, self.fail_on)


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the table of the nearest pyproject.toml of this folder or one above; empty if there is none.

    Raises:
        ValueError: the file is not TOML, or the table has an unknown name.
    """
    file = next(
        (each / "pyproject.toml" for each in (folder, *folder.parents) if (each / "pyproject.toml").is_file()), None
    )
    if file is None:
        return {}
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("loop-doctor", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise ValueError(f"tool.loop-doctor in {file} must be a table, got {table!r}")
    for name in table.keys() - NAMES:
        raise ValueError(f"unknown setting {name!r} in {file}: the settings are {', '.join(NAMES)}")
    return table


def make_settings(table: Mapping[str, Any]) -> Settings:
    """Check the settings, by the names they have in pyproject.toml.

    Raises:
        ValueError: a setting has a wrong value.
    """
    form, harmless = table.get("format", "text"), table.get("harmless", False)
    if form not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {form!r}")
    if not isinstance(harmless, bool):
        raise ValueError(f"harmless must be true or false, got {harmless!r}")
    return Settings(form, _fail_on(table.get("fail-on", PROBLEM)), _codes("ignore", table.get("ignore", [])), harmless)


def _fail_on(value: object) -> FailOn:
    if isinstance(value, str) and value in LEVELS:
        return value
    return _codes("fail-on", value)


def _codes(name: str, value: object) -> frozenset[str]:
    codes = [code.strip() for code in value.split(",")] if isinstance(value, str) else value
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise ValueError(f"{name} must be a list of codes, got {value!r}")
    try:
        return check_codes(codes)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
