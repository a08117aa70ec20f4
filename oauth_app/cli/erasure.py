"""``events erase``: a delete of an operator's own, and the receipt for it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.oauth_app.cli.output import (
    FAILED,
    AsJson,
    Reason,
    checked_account,
    print_json,
    print_table,
    problem_of,
    run,
    say,
    settings_or_exit,
    stop,
)
from enable_with_segment.oauth_app.operators.erasure import ErasureOrder
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.subscriptions.archive.erasure import ErasureReceipt, ErasureRefused

_ACTOR = "cli"


def erase(
    account: Annotated[str, typer.Option(callback=checked_account, help="The account whose person it is.")],
    user_id: Annotated[str, typer.Option("--user-id", help="The person's userId; never logged or kept in clear.")],
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until it is done.")] = 60.0,
    reason: Reason = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Erase a person everywhere: event log, dead letters, your handlers and sinks. Prints a receipt.

    It takes the way of a delete that Segment sends, so later copies of old events don't bring the person back.
    Exit status 1 when it is not done within --wait.

    Example: enable-with-segment events erase --account acct_42 --user-id cust_20418 --json
    """
    settings = settings_or_exit()
    try:
        receipt = run(_erase(settings, account, user_id, wait, reason))
    except ErasureRefused as problem:
        stop([f"nothing was erased: {problem}"], FAILED)
    if as_json:
        print_json({**asdict(receipt), "complete": receipt.complete})
    else:
        rows = [(name.replace("_", " "), value) for name, value in asdict(receipt).items() if name != "handlers"]
        rows += [(f"handler {name}", state.value) for name, state in receipt.handlers.items()]
        print_table(["", ""], rows, empty="")
        if not receipt.complete:
            say(_what_is_missing(receipt))
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


async def _erase(settings: Settings, account: str, user_id: str, wait: float, reason: str | None) -> ErasureReceipt:
    order = ErasureOrder(settings, account, user_id, actor=_ACTOR, reason=reason)
    try:
        return await order.carry_out(wait)
    except asyncio.CancelledError:
        if order.is_stored is not False:
            say(_fate(order), error=True)
        raise
    except Exception as problem:
        if order.is_stored is False:
            raise
        problems = problem_of(problem)
        why = [f"{problem!s}" or type(problem).__name__] if problems is None else problems.sentences
        stop([*why, _fate(order)], FAILED)


def _fate(order: ErasureOrder) -> str:
    look = f"Look with: enable-with-segment events show {order.message_id}"
    if order.is_stored:
        return f"the delete {order.message_id} is stored all the same and will be carried out. {look}"
    return f"it is not known whether the delete {order.message_id} was stored. {look}"
