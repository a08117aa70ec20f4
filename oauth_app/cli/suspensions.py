"""``accounts``: a customer's events are refused for a while, and accepted again."""

from __future__ import annotations

from typing import Annotated

import typer

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import accounts as stored_accounts
from enable_with_segment.oauth_app.cli.output import Reason, out, run, settings_or_exit, stop
from enable_with_segment.oauth_app.operators.actions import Act, note
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_stores

Name = Annotated[str, typer.Argument(help="Your own identifier of the customer's account.")]

accounts = typer.Typer(help="Suspend a customer's account, and let it work again.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(accounts, name="accounts")


@accounts.command("suspend")
def suspend(name: Name, reason: Reason = None) -> None:
    """Answer an account's deliveries 403 from the next second on. Segment does not send those events again.

    Example: enable-with-segment accounts suspend acct_42 --reason "unpaid since March"
    """
    run(_note_and_set(settings_or_exit(), name, Act.SUSPEND_ACCOUNT, reason))
    out.print(f"{name} is suspended: its deliveries are answered 403, and lost.")


@accounts.command("resume")
def resume(name: Name, reason: Reason = None) -> None:
    """Accept an account's deliveries again.

    Example: enable-with-segment accounts resume acct_42
    """
    run(_note_and_set(settings_or_exit(), name, Act.RESUME_ACCOUNT, reason))
    out.print(f"{name} works again.")


async def _note_and_set(settings: Settings, name: str, act: Act, reason: str | None) -> None:
    async with open_stores(settings) as stores, stores.control.transaction() as session:
        now = utc_now()
        try:
            await stored_accounts.set_suspended(session, name, now if act is Act.SUSPEND_ACCOUNT else None)
        except KeyError:
            stop([f"there is no account {name}"], 1)
        await note(session, act, name, actor="cli", reason=reason, now=now)
