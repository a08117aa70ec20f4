"""What a check has found, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence on what is, and one on what to do (empty where nothing is to be done). Neither holds a secret."""

    check: str
    level: Level
    message: str
    advice: str = ""


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, message)


def warning(check: str, message: str, advice: str) -> Finding:
    """Somebody should look at it."""
    return Finding(check, Level.WARNING, message, advice)


def failure(check: str, message: str, advice: str) -> Finding:
    """Not fit for production."""
    return Finding(check, Level.FAILURE, message, advice)


def accept(findings: Sequence[Finding], accepted: Collection[str]) -> list[Finding]:
    """Return the findings with the failures of accepted checks turned into warnings."""
    return [
        replace(finding, level=Level.WARNING, message=f"{finding.message} (accepted)")
        if finding.level is Level.FAILURE and finding.check in accepted
        else finding
        for finding in findings
    ]
