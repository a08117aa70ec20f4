"""``events replay|pause|resume`` and ``dead-letters retry``: handling events again, or not for a while."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from enable_with_segment.components.errors import SubscriptionError
from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import audit, pauses
from enable_with_segment.db.event_log.records import EventFilter
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.oauth_app.cli.output import (
    AsJson,
    Reason,
    checked_account,
    print_json,
    print_table,
    progress_bar,
    run,
    say,
    settings_or_exit,
    stop,
)
from enable_with_segment.oauth_app.operators.actions import Act, note
from enable_with_segment.oauth_app.runtime.component import component_name, load_component
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_stores
from enable_with_segment.subscriptions.archive.dead_letter_groups import has_group, retry_group
from enable_with_segment.subscriptions.archive.replay import (
    ComponentPaused,
    HandlerGone,
    ReplayCounts,
    Replayer,
    ReplayNotFound,
    ReplayRequest,
)

_ACTOR = "cli"
_HASTEN_AT_ONCE = 1_000

HandlerName = Annotated[str | None, typer.Option(help="One handler: its function's name, or its whole key.")]


class HandlerUnknown(SubscriptionError):
    """The component has no such handler, or several; the text names them."""


def replay(
    *,
    since: Annotated[str | None, typer.Option("--from", help="Received at or after, as in 2026-03-01T00:00Z.")] = None,
    before: Annotated[str | None, typer.Option("--to", help="Received before.")] = None,
    event_type: Annotated[str | None, typer.Option("--type", help="Only this type, such as track.")] = None,
    event: Annotated[str | None, typer.Option(help="Only track events of this name, as it was sent.")] = None,
    account: Annotated[str | None, typer.Option(callback=checked_account, help="Only events of this account.")] = None,
    state: Annotated[EventState | None, typer.Option(help="Only events in this state.")] = None,
    group: Annotated[str | None, typer.Option(help="Only this group of: dead-letters groups")] = None,
    handler: HandlerName = None,
    rate: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many events a second.")] = 200,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    resume: Annotated[str | None, typer.Option(help="Go on with a replay that was cut off: its id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Hand events to the handlers once more: a time range, what a filter lets through, or a group of dead letters.

    It counts first, lets go at most --rate events a second and none while others are behind, and can be stopped with
    Ctrl-C and resumed. A component that is paused has to be resumed first. With --handler only that one is called, with
    the events that it takes; what others made of them stays: an event that another one failed is a dead letter again.

    Example: enable-with-segment events replay --from 2026-03-01 --type track --dry-run
    """
    chosen = (since, before, event_type, event, account, state, group, handler)
    if resume is None and not any(chosen):
        stop(["say which events: --from, --to, --type, --event, --account, --state, --group or --handler"])
    if resume is not None and (any(chosen) or dry_run):
        stop(["--resume goes on as the replay was begun; it takes no filter"])
    settings = settings_or_exit()
    wanted = EventFilter(
        account=account,
        component=component_name(settings),
        type=event_type,
        state=state,
        event=event,
        received_from=_instant("--from", since),
        received_before=_instant("--to", before),
    )
    request = ReplayRequest(wanted, None, group, rate)
    try:
        counts, replay_id, revived = run(_replay(settings, request, handler, dry_run=dry_run, resume=resume))
    except (ReplayNotFound, ComponentPaused, HandlerGone) as problem:
        stop([str(problem)], 1)
    if as_json:
        counted = None if counts is None else asdict(counts)
        print_json({"replay": replay_id, "revived": revived, "dry_run": dry_run, "counts": counted})
        return
    if counts is not None:
        _tell_counts(counts)
    if dry_run:
        say("Nothing was changed. Leave out --dry-run to replay them.")
    elif replay_id is not None:
        say(f"{revived} events were handed out again (replay {replay_id}).")


def pause(handler: HandlerName = None, as_json: AsJson = False) -> None:
    """Hand out no more events, or none to one handler; every process obeys within two seconds.

    Events are still received and kept. Other handlers get theirs.

    Example: enable-with-segment events pause --handler record_order
    """
    settings = settings_or_exit()
    changed, _ = run(_pause(settings, handler, paused=True))
    _tell_pause(settings, handler, changed=changed, paused=True, as_json=as_json)


def resume(handler: HandlerName = None, as_json: AsJson = False) -> None:
    """Hand out events again after: events pause. Those that waited are due at once.

    Example: enable-with-segment events resume --handler record_order
    """
    settings = settings_or_exit()
    changed, others = run(_pause(settings, handler, paused=False))
    _tell_pause(settings, handler, changed=changed, paused=False, as_json=as_json)
    for other in others:
        told = f"{component_name(settings)} as a whole" if other is None else f"handler {other}"
        option = "" if other is None else f" --handler {shlex.quote(other)}"
        say(f"But {told} is paused: enable-with-segment events resume{option}", error=as_json)


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
    say(f"{count} will be tried again.")


async def _replay(
    settings: Settings, request: ReplayRequest, handler: str | None, *, dry_run: bool, resume: str | None
) -> tuple[ReplayCounts | None, str | None, int]:
    if handler is not None:
        request = ReplayRequest(request.wanted, _one_handler(settings, handler), request.group, request.rate)
    async with open_stores(settings) as stores:
        handlers = () if settings.handlers is None else load_component(settings).handlers
        replayer = Replayer(stores.event_log, stores.control, handlers=handlers)
        counts, replay_id = None, resume
        if replay_id is None:
            counts = await replayer.count(request)
            if dry_run or counts.events == 0:
                return counts, None, 0
            replay_id = await replayer.begin(request, total=counts.events, actor=_ACTOR)
        with progress_bar() as progress:
            going = progress.add_task("replaying", total=None if counts is None else counts.events)
            told_to_wait = False

            def wait_for(behind: int) -> None:
                nonlocal told_to_wait
                if not told_to_wait:
                    say(f"Waiting for {behind} live events to be handled first. Is the service running?", error=True)
                told_to_wait = True

            try:
                revived = await replayer.run(
                    replay_id, progress=lambda more: progress.advance(going, more), waiting=wait_for
                )
            except (asyncio.CancelledError, ComponentPaused):
                say(f"Stopped. Go on with: enable-with-segment events replay --resume {replay_id}", error=True)
                raise
        return counts, replay_id, revived


async def _pause(settings: Settings, handler: str | None, *, paused: bool) -> tuple[bool, Sequence[str | None]]:
    """Tell whether anything changed, and which handlers are paused beside that; ``None`` is the whole component."""
    if handler is not None:
        _handler_keys(settings, handler)
    component, now = component_name(settings), utc_now()
    async with open_stores(settings) as stores:
        async with stores.control.transaction() as session:
            if paused:
                changed = await pauses.add(session, component=component, handler=handler, actor=_ACTOR, now=now)
            else:
                changed = await pauses.remove(session, component=component, handler=handler)
            paused_now = [row.handler or None for row in await pauses.get_all(session) if row.component == component]
            if changed:
                action = "events.pause" if paused else "events.resume"
                subject = component if handler is None else f"{component} {handler}"
                await audit.add(session, actor=_ACTOR, action=action, subject=subject, now=now)
        if changed and not paused:
            await asyncio.sleep(1.0)  # until every process knows, or it would put the events back once more
            hastened = _HASTEN_AT_ONCE
            while hastened == _HASTEN_AT_ONCE:
                hastened = await stores.event_log.hasten(component, now=utc_now(), limit=_HASTEN_AT_ONCE)
    known = load_component(settings).handlers if settings.handlers is not None else ()
    others = [other for other in paused_now if other is None or any(handler.is_called(other) for handler in known)]
    return changed, [other for other in others if other != handler]


def _handler_keys(settings: Settings, name: str) -> list[str]:
    handlers = load_component(settings).handlers
    keys = [handler.key for handler in handlers if handler.is_called(name)]
    if not keys:
        known = ", ".join(sorted(handler.key for handler in handlers))
        raise HandlerUnknown(f"there is no handler '{name}'; there are {known}")
    return keys


def _one_handler(settings: Settings, name: str) -> str:
    keys = _handler_keys(settings, name)
    if len(keys) > 1:
        raise HandlerUnknown(f"there are several handlers '{name}'; name one of {', '.join(keys)}")
    return keys[0]


def _instant(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        stop([f"{option} cannot be read: write it as 2026-03-01 or 2026-03-01T14:30Z"])
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


def _tell_counts(counts: ReplayCounts) -> None:
    rows: list[tuple[object, ...]] = [("events", "", counts.events)]
    for what, parts in (("type", counts.types), ("state", counts.states), ("account", counts.accounts)):
        largest = sorted(parts.items(), key=lambda part: -part[1])[:20]
        rows += [(what, name, count) for name, count in largest]
    if counts.left_out:
        rows.append(("left out", "pending, erased or a delete", counts.left_out))
    print_table(["", "", "count"], rows, empty="")


def _tell_pause(settings: Settings, handler: str | None, *, changed: bool, paused: bool, as_json: bool) -> None:
    component = component_name(settings)
    if as_json:
        print_json({"component": component, "handler": handler, "paused": paused, "changed": changed})
        return
    subject = component if handler is None else f"{component}, handler {handler}"
    if paused:
        told = "gets no more events." if changed else "was paused already."
    else:
        told = "gets events again." if changed else "was not paused."
    say(f"{subject} {told}")


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
