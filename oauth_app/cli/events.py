"""``events list|show|tail|prove`` and ``dead-letters list|groups``: what was received, and what became of it.

They open the event log alone, to read it: without keys, without a migration, and creating nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.records import EventDetail, EventFilter, EventPage, Proof
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.oauth_app.cli.output import AsJson, checked_account, print_json, print_table, run, say, stop
from enable_with_segment.oauth_app.runtime.environment import event_log_url
from enable_with_segment.subscriptions.archive.dead_letter_groups import DeadLetterGroup, find_groups
from enable_with_segment.subscriptions.archive.receipts import HandlerReceipt, Receipt, receipt_of

if TYPE_CHECKING:
    from enable_with_segment.db.event_log.log import EventArchive

Limit = Annotated[int, typer.Option(min=1, max=10_000, help="The most events to show.")]
Before = Annotated[int | None, typer.Option(min=1, help="Only ids below this: to go on where a list ended.")]
_PROVE_AT_ONCE = 5_000
_POLL_SECONDS = 0.5


def list_events(
    account: Annotated[str | None, typer.Option(callback=checked_account, help="Only events of this account.")] = None,
    event_type: Annotated[str | None, typer.Option("--type", help="Only this type, such as track.")] = None,
    state: Annotated[EventState | None, typer.Option(help="Only events in this state.")] = None,
    limit: Limit = 50,
    *,
    before: Before = None,
    as_json: AsJson = False,
) -> None:
    """List received events, the newest first. Where a filter matches few, it says how far back it looked.

    Example: enable-with-segment events list --account acct_42 --type track
    """
    wanted = EventFilter(account=account, type=event_type, state=state)
    _print_page(run(_search(wanted, limit, before)), as_json=as_json)


def show(message_id: Annotated[str, typer.Argument(help="The event's messageId.")], as_json: AsJson = False) -> None:
    """Show everything known of a messageId: when it came, which handlers ran, with which result.

    Example: enable-with-segment events show ajs-next-6d0c1f3a --json
    """
    found = run(_show(message_id))
    if not found:
        stop([f"no event with messageId {message_id} was received"], 1)
    if as_json:
        print_json([{**asdict(detail), "receipt": receipt_of(detail)} for detail in found])
        return
    for detail in found:
        record, receipt = detail.record, receipt_of(detail)
        print_table(
            ["", ""],
            [
                ("message id", record.message_id),
                ("account", record.account),
                ("type", f"{record.type} {record.event or ''}".strip()),
                ("received", f"{receipt.received_at:%Y-%m-%d %H:%M:%S}, and committed before it was answered"),
                ("state", record.state.value),
                ("finished", _finished(receipt)),
                ("attempts", record.attempts),
                ("duplicates", record.duplicates),
                ("copies with another body", record.differing_duplicates),
                ("replays", record.replays),
                ("last error", record.last_error),
                *((f"handler {h.handler}", _outcome(h)) for h in receipt.handlers),
                ("body", "erased" if detail.body is None else detail.body.decode("utf-8", "replace")),
            ],
            empty="",
        )


def tail(as_json: AsJson = False) -> None:
    """Print events as they arrive, until Ctrl-C.

    Example: enable-with-segment events tail
    """
    run(_tail(as_json=as_json))


def prove(
    file: Annotated[Path, typer.Argument(help="A file with one messageId a line; - for standard input.")],
    as_json: AsJson = False,
) -> None:
    """Check that every messageId of a file was received and handled. Exit status 1 if not.

    Example: enable-with-segment events prove sent-ids.txt --json
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        stop([f"{file} cannot be read: {problem}"])
    proof = run(_prove([line.strip() for line in text.splitlines() if line.strip()]))
    if as_json:
        print_json({"checked": proof.checked, "missing": proof.missing, "unhandled": proof.unhandled})
    else:
        say(f"{proof.checked} checked, {len(proof.missing)} missing, {len(proof.unhandled)} unhandled")
        for name, ids in (("missing", proof.missing), ("unhandled", proof.unhandled)):
            for message_id in ids[:20]:
                say(f"  {name}: {message_id}")
    if proof.missing or proof.unhandled:
        raise typer.Exit(1)


def list_dead_letters(limit: Limit = 50, before: Before = None, as_json: AsJson = False) -> None:
    """List events that were given up, with the reason.

    Example: enable-with-segment dead-letters list
    """
    wanted = EventFilter(state=EventState.DEAD_LETTER)
    _print_page(run(_search(wanted, limit, before)), as_json=as_json)


def list_groups(
    account: Annotated[str | None, typer.Option(callback=checked_account, help="Only events of this account.")] = None,
    as_json: AsJson = False,
) -> None:
    """Group what was given up by its cause, the largest group first.

    Example: enable-with-segment dead-letters groups
    """
    found = run(_groups(EventFilter(account=account)))
    if as_json:
        print_json([{**asdict(group), "accounts": sorted(group.accounts)} for group in found])
        return
    print_table(
        ["group", "events", "accounts", "first", "last", "cause"],
        [(g.id, g.count, len(g.accounts), g.first_received_at, g.last_received_at, g.cause) for g in found],
        empty="There are no dead letters.",
    )


def _finished(receipt: Receipt) -> str | None:
    if receipt.handled_after is not None:
        return f"{receipt.finished_at:%Y-%m-%d %H:%M:%S}, after {receipt.handled_after.total_seconds():.3f} s"
    return None if receipt.next_attempt_at is None else f"not yet; next attempt {receipt.next_attempt_at:%H:%M:%S}"


def _outcome(handler: HandlerReceipt) -> str:
    times = "" if handler.attempts <= 1 else f", attempt {handler.attempts}"
    again = "" if handler.next_attempt_at is None else f", next attempt at {handler.next_attempt_at:%H:%M:%S}"
    error = "" if handler.error is None else f": {handler.error}"
    noted = f"noted {handler.after.total_seconds():.3f} s after it was received"
    return f"{handler.state.value}, {noted}{times}{again}{error}"


def _print_page(page: EventPage, *, as_json: bool) -> None:
    if as_json:
        print_json(page.records)
    else:
        print_table(
            ["id", "received", "account", "type", "event", "state", "attempts", "messageId", "last error"],
            [
                (r.id, r.received_at, r.account, r.type, r.event, r.state.value, r.attempts, r.message_id, r.last_error)
                for r in page.records
            ],
            empty="No event matches." if page.before_id is None else "No event matches so far.",
        )
    if page.before_id is not None and page.back_to is not None:
        # Not among the events, so that a program that reads those does not stumble over it.
        say(f"Searched back to {page.back_to:%Y-%m-%d %H:%M:%S}. Older events: --before {page.before_id}", error=True)


@asynccontextmanager
async def _event_log() -> AsyncIterator[EventArchive]:
    log = open_event_log(event_log_url(), read_only=True)
    try:
        await log.check()
        yield log
    finally:
        await log.close()


async def _search(wanted: EventFilter, limit: int, before_id: int | None) -> EventPage:
    async with _event_log() as log:
        return await log.search(wanted, limit=limit, before_id=before_id)


async def _show(message_id: str) -> list[EventDetail]:
    async with _event_log() as log:
        return await log.show(message_id)


async def _prove(message_ids: Sequence[str]) -> Proof:
    missing: list[str] = []
    unhandled: list[str] = []
    async with _event_log() as log:
        for start in range(0, len(message_ids), _PROVE_AT_ONCE):
            part = await log.prove(message_ids[start : start + _PROVE_AT_ONCE])
            missing += part.missing
            unhandled += part.unhandled
    return Proof(len(message_ids), tuple(missing), tuple(unhandled))


async def _groups(wanted: EventFilter) -> list[DeadLetterGroup]:
    async with _event_log() as log:
        return await find_groups(log, wanted)


async def _tail(*, as_json: bool) -> None:
    last: int | None = None
    while True:
        # Opened anew each time: an SQLite file that no process writes to is read without its write-ahead log.
        async with _event_log() as log:
            if last is None:
                newest = await log.find(EventFilter(), limit=1)
                last = newest[0].id if newest else 0
            for record in await log.tail(last, EventFilter()):
                last = record.id
                if as_json:
                    print_json(record)
                else:
                    say(f"{record.received_at:%H:%M:%S}  {record.account}  {record.type} {record.event or ''}")
        await asyncio.sleep(_POLL_SECONDS)
