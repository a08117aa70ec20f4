"""``doctor``: is this deployment fit for production?"""

from __future__ import annotations

from typing import Annotated

import typer

from enable_with_segment.oauth_app.cli.output import FAILED, AsJson, out, print_json, run
from enable_with_segment.oauth_app.doctor import Finding, Level, accept, examine

_MARKS = {
    Level.OK: "[green]ok[/green]     ",
    Level.WARNING: "[yellow]warning[/yellow]",
    Level.FAILURE: "[red]failure[/red]",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    online: Annotated[bool, typer.Option("--online", help="Also look at BASE_URL from outside.")] = False,
    accepted: Annotated[
        list[str] | None, typer.Option("--accept", help="A check whose failure you have decided on; repeat for more.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check settings, keys, stores and network, and say what to do about each finding; status 1 on a failure.

    Example: enable-with-segment doctor --online
    """
    findings = accept(run(_examine(online)), accepted or [])
    failed = any(finding.level is Level.FAILURE for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": findings})
    else:
        for finding in findings:
            _tell(finding)
    if failed:
        raise typer.Exit(FAILED)


async def _examine(online: bool) -> list[Finding]:
    return [finding async for finding in examine(online=online)]


def _tell(finding: Finding) -> None:
    out.print(_MARKS[finding.level], end="  ")
    out.print(f"{finding.check}: {finding.message}", markup=False, soft_wrap=True)
    if finding.advice:
        out.print(f"         {finding.advice}", markup=False, soft_wrap=True)
