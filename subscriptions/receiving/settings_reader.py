"""A component's settings as a delivery brings them: read from the header, checked, and remembered."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from enable_with_segment.components.errors import DeliveryRefused
from enable_with_segment.components.setting import SettingInvalid, SettingValue, resolve_settings
from enable_with_segment.components.subscription import Subscription
from enable_with_segment.subscriptions.receiving.settings_header import read_settings_header

logger = logging.getLogger(__name__)

_MOST_REMEMBERED, _LARGEST_REMEMBERED = 1_000, 1_024


class SettingsReader:
    """Reads ``X-Segment-Settings``; what a customer's deliveries say again and again is read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Mapping[str, SettingValue]] = {}

    def read(self, header: bytes | None, subscription: Subscription) -> Mapping[str, SettingValue]:
        """Return the declared settings with their values.

        Raises:
            DeliveryRefused: 400 naming a required setting that is missing or cannot be used; anything else that is
                wrong with the header is logged and never loses an event.
        """
        text = header or b""
        known = self._known.get((subscription.name, text))
        if known is not None:
            return known
        received = read_settings_header(text)
        if received.problem is not None:
            logger.warning("Component %s: X-Segment-Settings is left out, %s", subscription.name, received.problem)
        try:
            resolved = resolve_settings(subscription.settings, received.values)
        except SettingInvalid as error:
            raise DeliveryRefused(400, str(error)) from None
        if resolved.ignored:
            logger.warning("Component %s: unusable settings %s", subscription.name, ", ".join(resolved.ignored))
        elif received.problem is None and len(text) <= _LARGEST_REMEMBERED:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[subscription.name, text] = resolved.values
        return resolved.values
