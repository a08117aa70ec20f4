"""``events erase``: a delete of an operator's own, and the receipt for it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Annotated

import httpx
import typer
from starlette.applications import Starlette
from starlette.routing import Mount

from db.clock import utc_now
from db.control import audit
from db.event_log.tables import EventState
from oauth_app.cli.output import AsJson, out, print_json, print_table, run, settings_or_exit, stop
from oauth_app.component import component_name, load_component
from oauth_app.parts import api_keys_of
from oauth_app.settings import Settings
from oauth_app.stores import Stores, open_stores
from subscriptions.archive.erasure import (
    REQUESTED,
    ErasureReceipt,
    ErasureRefused,
    delete_message,
    find_receipt,
    send_delete,
)
from subscriptions.receiving.person_hash import PersonHash
from subscriptions.receiving.reception import Reception
from subscriptions.receiving.webhook import Webhook

_ACTOR = "cli"
_POLL_SECONDS = 0.2


def register(events: typer.Typer) -> None:
    """Add the command to the group of events."""
    events.command()(erase)


def erase(
    account: Annotated[str, typer.Option(help="The account whose person it is.")],
    user_id: Annotated[str, typer.Option("--user-id", help="The person's userId; never logged or kept in clear.")],
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until it is done.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Erase a person everywhere: the log, dead letters, your handlers and sinks. Prints a receipt.

    It takes the way of a delete that Segment sends, so later copies of old events don't bring the person back.
    Exit status 1 when it is not done within --wait.

    Example: enable-with-segment events erase --account acct_42 --user-id cust_20418 --json
    """
    try:
        receipt = run(_erase(settings_or_exit(), account, user_id, wait))
    except (ErasureRefused, httpx.HTTPError) as problem:
        stop([f"nothing was erased: {problem!s:.200}" if str(problem) else "nothing was erased: no answer"], 1)
    if as_json:
        print_json({**asdict(receipt), "complete": receipt.complete})
    else:
        rows = [(name.replace("_", " "), value) for name, value in asdict(receipt).items() if name != "handlers"]
        rows += [(f"handler {name}", state.value) for name, state in receipt.handlers.items()]
        print_table(["", ""], rows, empty="")
        if not receipt.complete:
            out.print(_what_is_missing(receipt))
    if not receipt.complete:
        raise typer.Exit(1)


def _what_is_missing(receipt: ErasureReceipt) -> str:
    look = f"enable-with-segment events show {receipt.done_by or receipt.message_id}"
    match receipt.state:
        case EventState.UNSUPPORTED:
            return (
                "What is stored here is erased, but no handler erased anything: your product may still know the person."
            )
        case EventState.DEAD_LETTER:
            return (
                f"Given up by a handler, so nothing is erased here yet. Why: {look}\n"
                "Once that is mended: enable-with-segment dead-letters retry"
            )
    return f"Not done yet. Look again with: {look}"


async def _erase(settings: Settings, account: str, user_id: str, wait: float) -> ErasureReceipt:
    message_id = await _request(settings, account, user_id)
    deadline = time.monotonic() + wait
    async with open_stores(settings) as stores:
        while True:
            receipt = await find_receipt(stores.event_log, stores.control, message_id)
            if receipt is None:
                raise ErasureRefused("the delete cannot be found in the event log; check EVENT_LOG_URL")
            if receipt.state is not EventState.PENDING or time.monotonic() >= deadline:
                return receipt
            await asyncio.sleep(_POLL_SECONDS)


async def _request(settings: Settings, account: str, user_id: str) -> str:
    """Have the delete stored; returns its messageId.

    In stores of its own: who has written to an SQLite log keeps others from it, and a service that is started
    meanwhile is the one that is waited for.
    """
    component = component_name(settings)
    message = delete_message(user_id, now=utc_now())
    message_id: str = message["messageId"]
    async with open_stores(settings) as stores:
        api_keys = api_keys_of(settings, stores)
        async with stores.control.transaction() as session:
            minted = await api_keys.mint(session, account=account, component=component)
            detail = {"account": account, "component": component}
            await audit.add(
                session, actor=_ACTOR, action=REQUESTED, subject=f"delete {message_id}", now=utc_now(), detail=detail
            )
        try:
            await _deliver(settings, stores, component, minted.api_key, message)
        finally:
            async with stores.control.transaction() as session:
                await api_keys.revoke(session, minted.id, actor=_ACTOR)
    return message_id


async def _deliver(
    settings: Settings, stores: Stores, component: str, api_key: str, message: dict[str, object]
) -> None:
    """Hand the delete to the webhook: to one of our own, or to the service's if only that may write to the log."""
    reception = Reception(
        {component: load_component(settings)},
        api_keys_of(settings, stores),
        stores.event_log,
        PersonHash(stores.secrets.person_hash),
    )
    transport = httpx.ASGITransport(app=Starlette(routes=[Mount("/subscriptions", app=Webhook(reception))]))
    async with httpx.AsyncClient(transport=transport, base_url=settings.base_url) as here:
        try:
            await send_delete(here, component, api_key, message)
        except ErasureRefused:
            async with httpx.AsyncClient(base_url=settings.base_url, timeout=10) as service:
                await send_delete(service, component, api_key, message)
