"""``events`` and ``dead-letters``: what was received, what became of it, and trying again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.event_log.records import EventDetail, EventFilter, EventPage, Proof
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.oauth_app.cli import erasure, replay
from enable_with_segment.oauth_app.cli.output import (
    AsJson,
    Reason,
    err,
    out,
    print_json,
    print_table,
    run,
    settings_or_exit,
    stop,
)
from enable_with_segment.oauth_app.operators.actions import Act, note
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_stores
from enable_with_segment.subscriptions.archive.dead_letter_groups import (
    DeadLetterGroup,
    find_groups,
    has_group,
    retry_group,
)
from enable_with_segment.subscriptions.archive.receipts import HandlerReceipt, Receipt, receipt_of

events = typer.Typer(help="Received events.", no_args_is_help=True)
dead_letters = typer.Typer(help="Events that handlers kept failing on.", no_args_is_help=True)

Limit = Annotated[int, typer.Option(min=1, max=10_000, help="The most events to show.")]
Before = Annotated[int | None, typer.Option(min=1, help="Only ids below this: to go on where a list ended.")]
_PROVE_AT_ONCE = 5_000


def register(app: typer.Typer) -> None:
    """Add both groups."""
    replay.register(events)
    erasure.register(events)
    app.add_typer(events, name="events")
    app.add_typer(dead_letters, name="dead-letters")


@events.command("list")
def list_events(
    account: Annotated[str | None, typer.Option(help="Only events of this account.")] = None,
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
    _print_page(run(_search(settings_or_exit(), wanted, limit, before)), as_json=as_json)


@events.command()
def show(message_id: Annotated[str, typer.Argument(help="The event's messageId.")], as_json: AsJson = False) -> None:
    """Show everything known of a messageId: when it came, which handlers ran, with which result.

    Example: enable-with-segment events show ajs-next-6d0c1f3a --json
    """
    found = run(_show(settings_or_exit(), message_id))
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


@events.command()
def tail(as_json: AsJson = False) -> None:
    """Print events as they arrive, until Ctrl-C.

    Example: enable-with-segment events tail
    """
    run(_tail(settings_or_exit(), as_json=as_json))


@events.command()
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
    proof = run(_prove(settings_or_exit(), [line.strip() for line in text.splitlines() if line.strip()]))
    if as_json:
        print_json({"checked": proof.checked, "missing": proof.missing, "unhandled": proof.unhandled})
    else:
        out.print(f"{proof.checked} checked, {len(proof.missing)} missing, {len(proof.unhandled)} unhandled")
        for name, ids in (("missing", proof.missing), ("unhandled", proof.unhandled)):
            for message_id in ids[:20]:
                out.print(f"  {name}: {message_id}", markup=False)
    if proof.missing or proof.unhandled:
        raise typer.Exit(1)


@dead_letters.command("list")
def list_dead_letters(limit: Limit = 50, before: Before = None, as_json: AsJson = False) -> None:
    """List events that were given up, with the reason.

    Example: enable-with-segment dead-letters list
    """
    wanted = EventFilter(state=EventState.DEAD_LETTER)
    _print_page(run(_search(settings_or_exit(), wanted, limit, before)), as_json=as_json)


@dead_letters.command()
def groups(
    account: Annotated[str | None, typer.Option(help="Only events of this account.")] = None,
    as_json: AsJson = False,
) -> None:
    """Group what was given up by its cause, the largest group first.

    Example: enable-with-segment dead-letters groups
    """
    found = run(_groups(settings_or_exit(), EventFilter(account=account)))
    if as_json:
        print_json([{**asdict(group), "accounts": sorted(group.accounts)} for group in found])
        return
    print_table(
        ["group", "events", "accounts", "first", "last", "cause"],
        [(g.id, g.count, len(g.accounts), g.first_received_at, g.last_received_at, g.cause) for g in found],
        empty="There are no dead letters.",
    )


@dead_letters.command()
def retry(
    event_ids: Annotated[list[int] | None, typer.Argument(help="Ids from: dead-letters list")] = None,
    *,
    group: Annotated[str | None, typer.Option(help="A group of: dead-letters groups")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    reason: Reason = None,
) -> None:
    """Let dead letters be tried again, after their cause was mended.

    Example: enable-with-segment dead-letters retry --all
    """
    if [bool(event_ids), group is not None, everything].count(True) != 1:
        stop(["name the ids to retry, or --group, or --all"])
    count = run(_retry(settings_or_exit(), None if everything else event_ids, group, reason))
    out.print(f"{count} will be tried again.")


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
        err.print(f"Searched back to {page.back_to:%Y-%m-%d %H:%M:%S}. Older events: --before {page.before_id}")


async def _search(settings: Settings, wanted: EventFilter, limit: int, before_id: int | None) -> EventPage:
    async with open_stores(settings) as stores:
        return await stores.event_log.search(wanted, limit=limit, before_id=before_id)


async def _show(settings: Settings, message_id: str) -> list[EventDetail]:
    async with open_stores(settings) as stores:
        return await stores.event_log.show(message_id)


async def _prove(settings: Settings, message_ids: Sequence[str]) -> Proof:
    missing: list[str] = []
    unhandled: list[str] = []
    async with open_stores(settings) as stores:
        for start in range(0, len(message_ids), _PROVE_AT_ONCE):
            part = await stores.event_log.prove(message_ids[start : start + _PROVE_AT_ONCE])
            missing += part.missing
            unhandled += part.unhandled
    return Proof(len(message_ids), tuple(missing), tuple(unhandled))


async def _groups(settings: Settings, wanted: EventFilter) -> list[DeadLetterGroup]:
    async with open_stores(settings) as stores:
        return await find_groups(stores.event_log, wanted)


async def _retry(settings: Settings, event_ids: Sequence[int] | None, group: str | None, reason: str | None) -> int:
    if group is not None:
        subject = f"group:{group}"
    else:
        subject = "event:all" if event_ids is None else f"event:{','.join(map(str, event_ids[:20]))}"
    async with open_stores(settings) as stores:
        if group is not None and not await has_group(stores.event_log, group):
            stop([f"there is no group '{group}'; list them with: enable-with-segment dead-letters groups"])
        async with stores.control.transaction() as session:
            await note(session, Act.RETRY_DEAD_LETTERS, subject, actor="cli", reason=reason, now=utc_now())
        if group is not None:
            return await retry_group(stores.event_log, group, now=utc_now())
        return await stores.event_log.retry_dead_letters(event_ids, now=utc_now())


async def _tail(settings: Settings, *, as_json: bool) -> None:
    async with open_stores(settings) as stores:
        newest = await stores.event_log.find(EventFilter(), limit=1)
        last = newest[0].id if newest else 0
        while True:
            for record in await stores.event_log.tail(last, EventFilter()):
                last = record.id
                if as_json:
                    print_json(record)
                else:
                    name = record.event or ""
                    out.print(f"{record.received_at:%H:%M:%S}  {record.account}  {record.type} {name}", markup=False)
            await asyncio.sleep(0.5)
