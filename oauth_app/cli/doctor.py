"""``doctor``: is this deployment fit for production?"""

from __future__ import annotations

from typing import Annotated

import typer

from enable_with_segment.oauth_app.cli.output import FAILED, AsJson, print_json, run, say
from enable_with_segment.oauth_app.doctor import Finding, Level, accept, examine

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "red"}


def doctor(
    online: Annotated[bool, typer.Option("--online", help="Also look at BASE_URL from outside.")] = False,
    accepted: Annotated[
        list[str] | None, typer.Option("--accept", help="A check whose failure you have decided on; repeat for more.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check settings, keys, stores and network. Each finding says what to do; exit status 1 on a failure.

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
    typer.secho(f"{finding.level.value:<7}", fg=_COLOURS[finding.level], nl=False)
    say(f"  {finding.check}: {finding.message}")
    if finding.advice:
        say(f"         {finding.advice}")
