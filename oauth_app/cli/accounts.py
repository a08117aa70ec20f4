"""``connect-link``, ``api-keys`` and ``accounts``: connecting a customer's account, and suspending it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import accounts as stored_accounts
from enable_with_segment.db.control import api_keys as stored_keys
from enable_with_segment.db.control.tables import ApiKey
from enable_with_segment.installs.api_keys import MintedKey
from enable_with_segment.installs.chosen_settings import ChosenSettingRefused, read_chosen_settings
from enable_with_segment.installs.connect_links import MintedLink, ReconnectRefused
from enable_with_segment.installs.return_to import ReturnAddressRefused
from enable_with_segment.oauth_app.cli.output import (
    AsJson,
    Reason,
    checked_account,
    print_json,
    print_table,
    run,
    say,
    settings_or_exit,
    stop,
)
from enable_with_segment.oauth_app.operators.actions import Act, note
from enable_with_segment.oauth_app.runtime.component import component_name, declared_settings, signed_url
from enable_with_segment.oauth_app.runtime.factories import api_keys_of, open_connect_links
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_control_store, open_stores

Account = Annotated[
    str, typer.Option("--account", callback=checked_account, help="Your own identifier of the customer's account.")
]
Name = Annotated[str, typer.Argument(callback=checked_account, help="Your own identifier of the customer's account.")]


def connect_link(
    account: Account,
    return_to: Annotated[str | None, typer.Option(help="Where the finished page leads back to.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="A setting that your Subscription declares, as key=value; repeat for more.")
    ] = None,
    reconnect: Annotated[
        str | None, typer.Option(help="Connect this install anew, on the same workspace and source only.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a single-use link that connects a customer's workspace to an account.

    Example: enable-with-segment connect-link --account acct_42 --return-to /settings/segment
    """
    settings = settings_or_exit()
    if not settings.oauth_enabled:
        stop(["SEGMENT_CLIENT_ID, SEGMENT_CLIENT_SECRET and SEGMENT_DESTINATION must be set for connect links"])
    try:
        link = run(_connect_link(settings, account, return_to, _pairs(setting or []), reconnect))
    except (ChosenSettingRefused, ReconnectRefused, ReturnAddressRefused) as problem:
        stop([str(problem)])
    if as_json:
        print_json({"url": link.url, "account": link.account, "expires_at": link.expires_at})
        return
    typer.echo(link.url)
    say(f"Works once, until {link.expires_at:%H:%M} UTC.", error=True)


def create_key(
    account: Account,
    signed: Annotated[bool, typer.Option("--signed", help="For a Webhooks destination: an URL and a secret.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make an API key that a customer pastes into Segment. It is shown only now.

    With --signed it is for a Webhooks destination: the customer pastes the URL and the shared secret.

    Example: enable-with-segment api-keys create --account acct_42 --json
    """
    settings = settings_or_exit()
    minted = run(_create_key(settings, account, signed=signed))
    component = component_name(settings)
    if as_json:
        shown = {"api_key": minted.api_key, "account": account, "component": component, "id": minted.id}
        print_json({**shown, **_signed_destination(settings, minted)})
        return
    _print_minted(settings, minted)
    say(f"{minted.id} for {component}. Copy it now: it is not shown again.", error=True)


def list_keys(
    account: Annotated[str | None, typer.Option(callback=checked_account, help="Only keys of this account.")] = None,
    as_json: AsJson = False,
) -> None:
    """List API keys, the newest first. The keys themselves are not shown.

    Example: enable-with-segment api-keys list --account acct_42
    """
    found = run(_list_keys(settings_or_exit(), account))
    if as_json:
        print_json([_described(key) for key in found])
        return
    print_table(
        ["id", "ends in", "signed", "account", "component", "install", "created", "expires", "revoked"],
        [
            (
                k.id,
                k.last_four,
                "yes" if k.signing_secret_ciphertext else None,
                k.account,
                k.component,
                k.install_id,
                k.created_at,
                k.expires_at,
                k.revoked_at,
            )
            for k in found
        ],
        empty="There are no API keys yet. Make one with: enable-with-segment api-keys create --account ACCOUNT",
    )


def rotate_key(
    key_id: Annotated[str, typer.Argument(help="The key's id, from: api-keys list")],
    overlap_hours: Annotated[int, typer.Option(min=0, help="How long the old key goes on working.")] = 24,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Replace a pasted key. Prints a new one; the old one works until the overlap ends.

    The key of an install is pushed to Segment: use "installs rotate-key" for it.

    Example: enable-with-segment api-keys rotate key_0a1b2c --overlap-hours 48
    """
    settings = settings_or_exit()
    minted = run(_rotate_key(settings, key_id, timedelta(hours=overlap_hours), reason))
    if as_json:
        shown = {"api_key": minted.api_key, "id": minted.id, "replaces": key_id}
        print_json({**shown, **_signed_destination(settings, minted)})
        return
    _print_minted(settings, minted)
    say(f"{minted.id} replaces {key_id}, which works for {overlap_hours} more hours.", error=True)


def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The key's id, from: api-keys list")], reason: Reason = None
) -> None:
    """Revoke a key at once; deliveries with it are answered 401.

    Example: enable-with-segment api-keys revoke key_0a1b2c
    """
    if not run(_revoke_key(settings_or_exit(), key_id, reason)):
        stop([f"there is no usable key {key_id}"], 1)
    say(f"{key_id} is revoked.")


def suspend(name: Name, reason: Reason = None) -> None:
    """Answer an account's deliveries 403 from the next second on. Segment does not send those events again.

    Example: enable-with-segment accounts suspend acct_42 --reason "unpaid since March"
    """
    run(_note_and_set(settings_or_exit(), name, Act.SUSPEND_ACCOUNT, reason))
    say(f"{name} is suspended: its deliveries are answered 403, and lost.")


def resume(name: Name, reason: Reason = None) -> None:
    """Accept an account's deliveries again.

    Example: enable-with-segment accounts resume acct_42
    """
    run(_note_and_set(settings_or_exit(), name, Act.RESUME_ACCOUNT, reason))
    say(f"{name} works again.")


def _pairs(given: list[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for pair in given:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            stop([f"--setting takes key=value, not '{pair}'"])
        pairs.append((key, text))
    return pairs


def _signed_destination(settings: Settings, minted: MintedKey) -> dict[str, str]:
    """What a customer pastes into a Webhooks destination; nothing for an ordinary key."""
    if minted.signing_secret is None:
        return {}
    url = signed_url(settings, component_name(settings), minted.api_key)
    return {"url": url, "signing_secret": minted.signing_secret}


def _print_minted(settings: Settings, minted: MintedKey) -> None:
    signed = _signed_destination(settings, minted)
    if not signed:
        typer.echo(minted.api_key)
        return
    typer.echo(f"URL            {signed['url']}")
    typer.echo(f"Shared secret  {signed['signing_secret']}")


def _described(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "last_four": key.last_four,
        "signed": key.signing_secret_ciphertext is not None,
        "account": key.account,
        "component": key.component,
        "install": key.install_id,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


async def _connect_link(
    settings: Settings, account: str, return_to: str | None, pairs: list[tuple[str, str]], reconnects: str | None
) -> MintedLink:
    chosen = read_chosen_settings(declared_settings(settings), pairs, component=component_name(settings))
    async with open_connect_links(settings) as links:
        return await links.create(account, return_to=return_to, settings=chosen, reconnects=reconnects, actor="cli")


async def _create_key(settings: Settings, account: str, *, signed: bool) -> MintedKey:
    async with open_stores(settings) as stores, stores.control.transaction() as session:
        return await api_keys_of(settings, stores).mint(
            session, account=account, component=component_name(settings), signed=signed, actor="cli"
        )


async def _list_keys(settings: Settings, account: str | None) -> list[ApiKey]:
    async with open_control_store(settings) as control, control.transaction() as session:
        return await stored_keys.list_all(session, account=account)


async def _rotate_key(settings: Settings, key_id: str, overlap: timedelta, reason: str | None) -> MintedKey:
    async with open_stores(settings) as stores, stores.control.transaction() as session:
        service = api_keys_of(settings, stores)
        key = await stored_keys.get(session, key_id)
        if key is None or key.revoked_at is not None:
            stop([f"there is no usable key {key_id}"], 1)
        if key.install_id is not None:
            stop([f"{key_id} belongs to {key.install_id}; use: installs rotate-key {key.install_id}"])
        await note(session, Act.ROTATE_KEY, key_id, actor="cli", reason=reason, now=service.now())
        minted = await service.mint(
            session,
            account=key.account,
            component=key.component,
            signed=key.signing_secret_ciphertext is not None,
            actor="cli",
        )
        await service.expire(session, key_id, at=service.now() + overlap, actor="cli")
        return minted


async def _revoke_key(settings: Settings, key_id: str, reason: str | None) -> bool:
    async with open_stores(settings) as stores, stores.control.transaction() as session:
        await note(session, Act.REVOKE_API_KEY, key_id, actor="cli", reason=reason, now=utc_now())
        return await api_keys_of(settings, stores).revoke(session, key_id, actor="cli")


async def _note_and_set(settings: Settings, name: str, act: Act, reason: str | None) -> None:
    async with open_control_store(settings) as control, control.transaction() as session:
        now = utc_now()
        try:
            await stored_accounts.set_suspended(session, name, now if act is Act.SUSPEND_ACCOUNT else None)
        except KeyError:
            stop([f"there is no account {name}"], 1)
        await note(session, act, name, actor="cli", reason=reason, now=now)
