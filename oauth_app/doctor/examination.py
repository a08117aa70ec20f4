"""The whole examination, in the order in which an operator would mend things."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.oauth_app.doctor.configuration import check_configuration, check_handlers
from enable_with_segment.oauth_app.doctor.dependencies import check_dependencies
from enable_with_segment.oauth_app.doctor.finding import Finding, failure
from enable_with_segment.oauth_app.doctor.network import check_clock, check_identity_provider, check_public_address
from enable_with_segment.oauth_app.doctor.stores import check_stores
from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid
from enable_with_segment.oauth_app.runtime.settings import Settings, load_settings


async def examine(
    *, online: bool = False, clock: Clock = utc_now, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Finding]:
    """Read the environment and yield what is found. Nothing is changed.

    Args:
        online: also look at ``BASE_URL`` as a caller from outside does.
        tls: how certificates are judged; by default with the machine's authorities.
    """
    for finding in check_dependencies():
        yield finding
    try:
        settings = load_settings()
    except SettingsInvalid as invalid:
        for problem in invalid.problems:
            yield failure("settings", problem, "Correct it; docs/configuration.md describes every setting.")
        return
    async for finding in _examine(settings, online=online, clock=clock, tls=tls):
        yield finding


async def _examine(
    settings: Settings, *, online: bool, clock: Clock, tls: ssl.SSLContext | None
) -> AsyncIterator[Finding]:
    for finding in check_configuration(settings):
        yield finding
    yield check_handlers(settings)
    async for finding in check_stores(settings):
        yield finding
    if settings.oauth_enabled:
        yield await check_clock(settings, clock)
    async for finding in check_identity_provider(settings):
        yield finding
    if online:
        async for finding in check_public_address(settings, clock, tls):
            yield finding
