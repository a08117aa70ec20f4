"""``panic``: stop every process at once, and start again."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from enable_with_segment.db.clock import utc_now
from enable_with_segment.oauth_app.cli.output import AsJson, print_json, run, say, settings_or_exit, stop
from enable_with_segment.oauth_app.runtime.emergency_stop import erase_everything, lift_stop, stop_everything
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_control_store

_CONFIRMATION = "ERASE"


def panic(
    erase: Annotated[
        bool, typer.Option("--erase", help="Also destroy every token and key; asks first, and can't be undone.")
    ] = False,
    lift: Annotated[bool, typer.Option("--lift", help="Let the service run again.")] = False,
    reason: Annotated[str, typer.Option(help="Why; kept in the audit.")] = "not given",
    as_json: AsJson = False,
) -> None:
    """Stop all use of Segment and refuse every event (503), in every process within a second.

    Segment sends refused events again for about four hours, so a short stop loses nothing. It works without
    ENCRYPTION_KEYS.

    Example: enable-with-segment panic --reason "a laptop with the keys was stolen"
    """
    if erase and lift:
        stop(["--erase and --lift exclude each other"])
    settings = settings_or_exit()
    if erase:
        say("Every install token and API key will be destroyed. Every customer has to connect again.", error=True)
        if typer.prompt(f"Type {_CONFIRMATION} to go on", err=True) != _CONFIRMATION:
            stop(["nothing was erased"], 1)
    done = run(_panic(settings, erase=erase, lift=lift, reason=reason))
    if as_json:
        print_json(done)
        return
    if lift:
        say("The service runs again." if done["changed"] else "The service was not stopped.")
        return
    say("Stopped: every process notices within a second." if done["changed"] else "It was stopped already.")
    if erase:
        say(f"Destroyed {done['tokens']} install tokens and {done['api_keys']} API keys.")
    say("To start again: enable-with-segment panic --lift")


async def _panic(settings: Settings, *, erase: bool, lift: bool, reason: str) -> dict[str, Any]:
    async with open_control_store(settings) as control:
        if lift:
            changed = await lift_stop(control, actor="cli", reason=reason, now=utc_now())
            return {"stopped": False, "changed": changed}
        changed = await stop_everything(control, actor="cli", reason=reason, now=utc_now())
        done: dict[str, Any] = {"stopped": True, "changed": changed}
        if erase:
            erased = await erase_everything(control, actor="cli", reason=reason, now=utc_now())
            done |= {"tokens": erased.tokens, "api_keys": erased.api_keys}
        return done
