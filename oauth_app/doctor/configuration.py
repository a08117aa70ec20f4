"""Checks of the settings themselves; nothing is opened or asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from enable_with_segment.components.errors import SubscriptionError
from enable_with_segment.components.subscription import Subscription
from enable_with_segment.db.store_url import StoreUrl
from enable_with_segment.oauth_app.doctor.finding import Finding, failure, ok, warning
from enable_with_segment.oauth_app.runtime.component import load_component
from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.settings_typos import misspelt_settings
from enable_with_segment.segment_api.urls import is_loopback


def is_public(settings: Settings) -> bool:
    """Whether other machines reach this deployment: its address is not one of this machine."""
    return not is_loopback(urlsplit(settings.base_url).hostname or "")


def check_configuration(settings: Settings) -> Iterator[Finding]:
    """Judge the settings that need nothing but themselves."""
    yield check_names()
    yield check_base_url(settings)
    yield check_segment_app(settings)
    yield check_log_level(settings)
    yield check_store_engine(settings)


def check_names() -> Finding:
    """No setting in ``.env`` is misspelt: it would not be read, and nobody would hear of it."""
    found = misspelt_settings(Path.cwd())
    if not found:
        return ok("settings", "Every setting can be read.")
    return warning("settings", " ".join(found), "Correct the name, or give a variable of your own another one.")


def check_base_url(settings: Settings) -> Finding:
    """The public address is https; plain http is refused by the settings except on this machine (OP-5)."""
    if is_public(settings):
        return ok("base-url", f"BASE_URL is {settings.base_url}.")
    return warning(
        "base-url",
        f"BASE_URL is {settings.base_url}, which only this machine can reach.",
        "In production set BASE_URL to the public https address of the service.",
    )


def check_segment_app(settings: Settings) -> Finding:
    """The redirect URL, to be compared with what is registered: it has to be equal byte for byte (contract 2.3)."""
    if settings.oauth_enabled:
        return ok("segment-app", f"Register this redirect URL with your Segment App: {settings.redirect_uri}")
    return warning(
        "segment-app",
        "No Segment App is configured, so customers can only paste API keys.",
        "If you have an App, set SEGMENT_CLIENT_ID, SEGMENT_CLIENT_SECRET and SEGMENT_DESTINATION.",
    )


def check_log_level(settings: Settings) -> Finding:
    """Debugging is off (OP-5)."""
    if settings.log_level != "DEBUG":
        return ok("log-level", f"LOG_LEVEL is {settings.log_level}.")
    judge = failure if is_public(settings) else warning
    return judge("log-level", "LOG_LEVEL is DEBUG.", "Set LOG_LEVEL to INFO in production.")


def check_store_engine(settings: Settings) -> Finding:
    """SQLite serves one process on one machine, so it is not for production unless somebody decided so (OP-5)."""
    urls = {"DATABASE_URL": settings.database_url, "EVENT_LOG_URL": settings.effective_event_log_url}
    embedded = [name for name, url in urls.items() if StoreUrl.parse(url).backend == "sqlite"]
    if not embedded:
        return ok("sqlite", "The stores are on a database server.")
    message = f"SQLite is used ({', '.join(embedded)}): one process on one machine."
    if not is_public(settings):
        return ok("sqlite", message)
    return failure(
        "sqlite",
        message,
        "Set DATABASE_URL to postgresql+asyncpg://user:password@host/name; or, if one machine with backups of its disk "
        "is what you want, say so: enable-with-segment doctor --accept sqlite",
    )


def check_handlers(settings: Settings) -> Finding:
    """The handlers load, and one of them takes deletions, which Segment requires (contract 7.1)."""
    try:
        subscription = load_component(settings)
    except SettingsInvalid as problem:
        return failure("handlers", problem.problems[0], "Set HANDLERS, then run this again.")
    except SubscriptionError as problem:
        return failure("handlers", str(problem), "Correct HANDLERS or the module it names.")
    except Exception as problem:  # the partner's module is any code at all
        return failure(
            "handlers",
            f"HANDLERS: importing the module fails ({type(problem).__name__}).",
            "Import the module in Python to see the error.",
        )
    return check_delete_handler(subscription)


def check_delete_handler(subscription: Subscription) -> Finding:
    """There is a handler for deletions (OP-5)."""
    if "delete" in subscription.handled_types:
        return ok("handlers", f"{subscription!r} is loaded and handles deletions.")
    return failure(
        "handlers",
        f"Component '{subscription.name}' has no handler for delete events, which Segment requires.",
        f'Write one: @{subscription.name.replace("-", "_")}.on("delete") async def forget(event, install): ...',
    )
