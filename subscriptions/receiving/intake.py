"""From a delivery that is complete to the record that the event log stores. Nothing here waits."""

from __future__ import annotations

import logging
from typing import NoReturn

from enable_with_segment.components.errors import DeliveryRefused
from enable_with_segment.components.event import EVENT_TYPES
from enable_with_segment.components.event_reader import check_event, parse_event
from enable_with_segment.components.subscription import Subscription
from enable_with_segment.db.event_log.records import NewEvent
from enable_with_segment.installs.key_cache import KeyHolder, KeyLookup
from enable_with_segment.subscriptions.receiving.authorization import check_key
from enable_with_segment.subscriptions.receiving.body import check_content_type
from enable_with_segment.subscriptions.receiving.delivery import new_event
from enable_with_segment.subscriptions.receiving.exchange import Headers
from enable_with_segment.subscriptions.receiving.reception import Reception
from enable_with_segment.subscriptions.receiving.settings_reader import SettingsReader

logger = logging.getLogger(__name__)

_MOST_TYPES_LOGGED = 100


class Intake:
    """Decides what is taken; every way to the webhook asks the same one."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._settings = SettingsReader()
        self._logged_types: set[tuple[str, str]] = set()

    def subscription(self, component: str) -> Subscription:
        """Return the subscription of a name in a path.

        Raises:
            DeliveryRefused: 404.
        """
        subscription = self._reception.components.get(component)
        if subscription is None:
            raise DeliveryRefused(404, "There is no such endpoint.")
        return subscription

    def holder(self, lookup: KeyLookup, subscription: Subscription, headers: Headers) -> KeyHolder:
        """Return who sends, if the headers are those of a delivery that may be taken.

        Raises:
            DeliveryRefused: 401 or 403 for the key, 415 for the type of the body.
        """
        holder = check_key(lookup, subscription.name)
        if holder.signed:
            raise DeliveryRefused(401, "Deliveries with this API key have to be signed.")
        check_content_type(headers.get(b"content-type"))
        return holder

    def record(self, body: bytes, headers: Headers, subscription: Subscription, holder: KeyHolder) -> NewEvent:
        """Return the record of a body, unpacked.

        Raises:
            DeliveryRefused: 400 for an event or settings that cannot be used, 501 for a type without a handler.
        """
        reception = self._reception
        event = parse_event(body, received_at=reception.clock(), display_name=subscription.display_name)
        check_event(event)
        settings = self._settings.read(headers.get(b"x-segment-settings"), subscription)
        if event.type not in subscription.handled_types:
            self._refuse_type(subscription, event.type)
        return new_event(event, body, holder=holder, settings=settings, person_hash=reception.person_hash)

    def _refuse_type(self, subscription: Subscription, event_type: str) -> NoReturn:
        self._log_missing_handler(subscription, event_type)
        raise DeliveryRefused(501, "Events of this type are not supported.")

    def _log_missing_handler(self, subscription: Subscription, event_type: str) -> None:
        logged = (subscription.name, event_type)
        if logged in self._logged_types or len(self._logged_types) >= _MOST_TYPES_LOGGED:
            return
        self._logged_types.add(logged)
        if event_type not in EVENT_TYPES:
            logger.warning("Component %s got an event of unknown type %.40r: answered 501", *logged)
            return
        logger.warning(
            "Component %s has no handler for %s events, so they are answered 501. One could be:\n\n"
            '@subscription.on("%s")\nasync def on_%s(event, install): ...\n',
            *logged,
            event_type,
            event_type,
        )
