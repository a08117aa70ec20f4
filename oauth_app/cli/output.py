"""What commands print: JSON for programs, tables for people, and problems in one clear voice.

Whatever a command needs of the service is imported when it runs, not here: asking for help must not wait for it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from enable_with_segment.oauth_app.runtime.settings import Settings

T = TypeVar("T")

_WIDTH_OF_A_FILE = 200

out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)
err = Console(stderr=True, highlight=False)

Reason = Annotated[str | None, typer.Option("--reason", help="Why; kept in the audit.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

FAILED = 1
WRONG_USE = 2


def settings_or_exit() -> Settings:
    """Read the settings; when they are wrong, say how and exit with status 2."""
    from enable_with_segment.oauth_app.runtime.settings import SettingsInvalid, load_settings  # noqa: PLC0415 - see above

    try:
        return load_settings()
    except SettingsInvalid as problem:
        stop(problem.problems)


def stop(problems: Sequence[str], status: int = WRONG_USE) -> NoReturn:
    """Print problems to standard error and exit."""
    for problem in problems:
        err.print(f"[red]error:[/red] {escape(problem)}", soft_wrap=True)
    raise typer.Exit(status)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; what an operator can mend is told in a sentence instead of a traceback."""
    try:
        return asyncio.run(work)
    except Exception as error:
        from enable_with_segment.oauth_app.cli.problems import told  # noqa: PLC0415 - only a command that failed has use for it

        problem = told(error)
        if problem is None:
            raise
        stop(problem.sentences, problem.status)


def print_json(value: object) -> None:
    """Print one JSON value on one line."""
    typer.echo(json.dumps(value, default=_plain, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows as a table; control characters of stored text never reach the terminal (DA-3)."""
    if not rows:
        out.print(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_shown(value)) for value in row))
    out.print(table)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return "".join(character if character.isprintable() else "�" for character in str(value))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
