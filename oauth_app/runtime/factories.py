"""Objects over open stores that commands, and a partner's own backend, build for themselves.

They are apart from ``oauth_app.runtime.wiring``, which imports the whole service.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from enable_with_segment.db.database import Database
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.connect_links import ConnectLinks
from enable_with_segment.oauth_app.operators.sign_in_links import SignInLinks
from enable_with_segment.oauth_app.runtime.component import component_name, declared_settings, load_api_key_hook
from enable_with_segment.oauth_app.runtime.settings import Settings, load_settings
from enable_with_segment.oauth_app.runtime.stores import Stores, open_control_store


@asynccontextmanager
async def open_connect_links(settings: Settings | None = None) -> AsyncIterator[ConnectLinks]:
    """Open the control store to make connect links in your own backend, for as long as the block lasts::

        async with open_connect_links() as links:
            link = await links.create("acct_42", return_to="https://app.acme.example/settings")

    It needs the settings of the service (``BASE_URL``, ``DATABASE_URL``, ``HANDLERS`` or ``SEGMENT_DESTINATION``,
    ``RETURN_ORIGINS``), and no ``ENCRYPTION_KEYS``.

    Args:
        settings: read from the environment when left out.

    Raises:
        SettingsInvalid: a setting is missing or wrong.
        StoreMissing, SchemaOutdated: the service has not made the control store yet, or it has to be migrated.
    """
    chosen = settings or load_settings()
    async with open_control_store(chosen) as control:
        yield connect_links_of(chosen, control)


def connect_links_of(settings: Settings, control: Database) -> ConnectLinks:
    """Build the connect links over an open control store."""
    return ConnectLinks(
        control,
        component=component_name(settings),
        base_url=settings.base_url,
        lifetime=timedelta(minutes=settings.connect_link_minutes),
        declared_settings=declared_settings(settings),
        return_origins=settings.return_origins,
    )


def api_keys_of(settings: Settings, stores: Stores) -> ApiKeys:
    """Build the API keys over open stores."""
    hook = load_api_key_hook(settings)
    return ApiKeys(stores.control, stores.encryption, stores.secrets.api_key_lookup, hook=hook)


def sign_in_links_of(settings: Settings, control: Database) -> SignInLinks | None:
    """Build the sign-in links of the dashboard; ``None`` unless the service is only reached from this machine."""
    return SignInLinks(control, base_url=settings.base_url) if settings.on_loopback else None
