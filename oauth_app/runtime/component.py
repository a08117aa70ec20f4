"""The partner's Subscription and hooks, loaded from the settings that name them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enable_with_segment.components.setting import Setting
from enable_with_segment.components.subscription import Subscription, load_subscription
from enable_with_segment.installs.api_keys import ApiKeyHook
from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid
from enable_with_segment.oauth_app.runtime.settings import Settings

if TYPE_CHECKING:
    from enable_with_segment.oauth_app.web.services import PartnerSession


def load_component(settings: Settings) -> Subscription:
    """Import the subscription that HANDLERS names; modules in the working directory are found, too.

    Raises:
        SettingsInvalid: HANDLERS is not set.
        SubscriptionNotLoaded: there is no such module or attribute.
    """
    if settings.handlers is None:
        raise SettingsInvalid(
            [
                "HANDLERS is not set. Name your Subscription as module:attribute; "
                "to try the service first, in a checkout of it: HANDLERS=examples.acme_crm.handlers:crm"
            ]
        )
    _find_modules_here()
    return load_subscription(settings.handlers)


def component_name(settings: Settings) -> str:
    """Return the component's name: that of the subscription, or the destination's slug where none is configured.

    Raises:
        SettingsInvalid: neither HANDLERS nor SEGMENT_DESTINATION is set.
    """
    if settings.handlers is None and settings.segment_destination is not None:
        return settings.segment_destination
    return load_component(settings).name


def declared_settings(settings: Settings) -> Sequence[Setting] | None:
    """Return the custom settings that the component declares; ``None`` where HANDLERS does not name it."""
    return None if settings.handlers is None else load_component(settings).settings


def load_partner_session(settings: Settings) -> PartnerSession | None:
    """Import the function that PARTNER_SESSION names, which knows who is signed in to the partner's product.

    Raises:
        SettingsInvalid: there is no such module or attribute, or it cannot be called.
    """
    if settings.partner_session is None:
        return None
    hook: PartnerSession = _load_function("PARTNER_SESSION", settings.partner_session)
    return hook


def load_api_key_hook(settings: Settings) -> ApiKeyHook | None:
    """Import the function that API_KEY_HOOK names, which makes API keys.

    Raises:
        SettingsInvalid: there is no such module or attribute, or it cannot be called.
    """
    if settings.api_key_hook is None:
        return None
    hook: ApiKeyHook = _load_function("API_KEY_HOOK", settings.api_key_hook)
    return hook


def _load_function(setting: str, reference: str) -> Any:
    _find_modules_here()
    module_name, _, attribute = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute, None)
    except ModuleNotFoundError as problem:
        raise SettingsInvalid([f"{setting} names a module that is not there: {problem.name}"]) from None
    if not callable(found):
        raise SettingsInvalid([f"{setting}: '{attribute}' is not a function of {module_name}"])
    return found


def _find_modules_here() -> None:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def signed_url(settings: Settings, component: str, api_key: str) -> str:
    """Return the address that a customer pastes into a Webhooks destination; the key in it is a secret."""
    return f"{settings.base_url}/subscriptions/{component}/{api_key}"
