"""Parts that need nothing but open stores: what commands, and a partner's own code, build for themselves.

They are apart from ``oauth_app.runtime.wiring`` because that imports the whole service, which a command has no use for.
"""

from __future__ import annotations

from datetime import timedelta

from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.connect_links import ConnectLinks
from enable_with_segment.oauth_app.operators.sign_in_links import SignInLinks
from enable_with_segment.oauth_app.runtime.component import component_name, declared_settings, load_api_key_hook
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import Stores


def api_keys_of(settings: Settings, stores: Stores) -> ApiKeys:
    """Build the API keys over open stores."""
    hook = load_api_key_hook(settings)
    return ApiKeys(stores.control, stores.encryption, stores.secrets.api_key_lookup, hook=hook)


def connect_links_of(settings: Settings, stores: Stores) -> ConnectLinks:
    """Build the connect links over open stores."""
    return ConnectLinks(
        stores.control,
        component=component_name(settings),
        base_url=settings.base_url,
        lifetime=timedelta(minutes=settings.connect_link_minutes),
        declared_settings=declared_settings(settings),
        return_origins=settings.return_origins,
    )


def sign_in_links_of(settings: Settings, stores: Stores) -> SignInLinks | None:
    """Build the sign-in links of the dashboard; ``None`` unless the service is only reached from this machine."""
    return SignInLinks(stores.control, base_url=settings.base_url) if settings.on_loopback else None
