"""What commands print: JSON for programs, tables for people, and problems in sentences.

What a command needs of the service is imported when it runs, not here: ``--help`` and ``events list`` must be quick.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from enable_with_segment.oauth_app.runtime.settings import Settings

T = TypeVar("T")

_WIDTH_OF_A_FILE = 200

Reason = Annotated[str | None, typer.Option("--reason", help="Why; kept in the audit.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

FAILED = 1
WRONG_USE = 2


def settings_or_exit() -> Settings:
    """Read the settings; when they are wrong, say how and exit with status 2."""
    from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid  # noqa: PLC0415 - see above
    from enable_with_segment.oauth_app.runtime.settings import load_settings  # noqa: PLC0415 - see above

    try:
        return load_settings()
    except SettingsInvalid as problem:
        stop(problem.problems)


def say(text: str, *, error: bool = False) -> None:
    """Print lines to standard output, or standard error; control characters of stored text become ``�`` (DA-3)."""
    typer.echo("\n".join(_printable(line) for line in text.split("\n")), err=error)


def stop(problems: Sequence[str], status: int = WRONG_USE) -> NoReturn:
    """Print problems to standard error and exit."""
    for problem in problems:
        typer.secho("error:", fg="red", nl=False, err=True)
        say(f" {problem}", error=True)
    raise typer.Exit(status)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; print a problem that an operator can solve as a sentence, without a traceback."""
    try:
        return asyncio.run(work)
    except Exception as error:
        problem = problem_of(error)
        if problem is None:
            raise
        stop(problem.sentences, problem.status)


@dataclass(frozen=True, slots=True)
class Problem:
    """Sentences to print, and the status to exit with."""

    sentences: Sequence[str]
    status: int


def problem_of(error: Exception) -> Problem | None:
    """Return an error as sentences; ``None`` for one that only a traceback explains."""
    from enable_with_segment.components.errors import SubscriptionError  # noqa: PLC0415 - only after a failure
    from enable_with_segment.components.partner_call import PartnerFunctionFailed  # noqa: PLC0415
    from enable_with_segment.db.event_log.records import (  # noqa: PLC0415
        EventLogOutdated,
        EventLogUnavailable,
        RetryCutShort,
    )
    from enable_with_segment.db.identifiers import AccountInvalid  # noqa: PLC0415
    from enable_with_segment.db.problems import StoreProblem, TablesInUse  # noqa: PLC0415
    from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid  # noqa: PLC0415

    match error:
        case SettingsInvalid():
            return Problem(error.problems, WRONG_USE)
        case TablesInUse():
            sentence = str(error)
            return Problem([sentence[0].upper() + sentence[1:]], FAILED)
        case StoreProblem() | EventLogOutdated() | SubscriptionError() | AccountInvalid() | PartnerFunctionFailed():
            return Problem([str(error)], WRONG_USE)
        case RetryCutShort():
            sentence = f"{error}, and the others were not. Check EVENT_LOG_URL and run the command again."
            return Problem([sentence[0].upper() + sentence[1:]], FAILED)
        case EventLogUnavailable() | OSError():
            return _no_answer(error)
    if "sqlalchemy" in sys.modules:  # otherwise it cannot have raised anything
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

        if isinstance(error, SQLAlchemyError):
            return _no_answer(error)
    return None


def _no_answer(error: Exception) -> Problem:
    cause = type(getattr(error, "orig", None) or error).__name__
    return Problem([f"the database does not answer ({cause}). Check DATABASE_URL and EVENT_LOG_URL."], FAILED)


def checked_account(account: str | None) -> str | None:
    """Refuse an account that cannot be; a callback for options and arguments that name one."""
    from enable_with_segment.db.identifiers import AccountInvalid, check_account  # noqa: PLC0415 - see above

    try:
        return None if account is None else check_account(account)
    except AccountInvalid as problem:
        stop([str(problem)])


def print_json(value: object) -> None:
    """Print one JSON value on one line."""
    typer.echo(json.dumps(value, default=_plain, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows as a table, or a sentence when there are none."""
    if not rows:
        say(empty)
        return
    from rich.console import Console  # noqa: PLC0415 - JSON needs no Rich
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_shown(value)) for value in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE).print(table)


def progress_bar() -> Progress:
    """Return a progress bar on standard error; it prints nothing where that is not a terminal."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True, highlight=False)
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return _printable(str(value))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "�" for character in text)


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
