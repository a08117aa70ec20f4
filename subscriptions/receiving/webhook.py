"""The endpoint that Segment delivers to: a plain ASGI callable, to be mounted at ``/subscriptions``.

An event is answered 202 once it is durable, and everything else happens later. A 4xx is final for Segment: the event
is lost (contract 5.6). So it is only given for what the sender did; our own trouble is 503 with ``Retry-After``.

This is what the service does all day. Most deliveries have the same few headers, arrive in one piece and carry a key
that was looked up a moment ago, so each of those steps first looks whether it can be done without waiting.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NoReturn

from subscriptions.errors import DeliveryRefused
from subscriptions.event import EVENT_TYPES
from subscriptions.event_reader import check_event, parse_event
from subscriptions.key_recognition import KeyLookup
from subscriptions.receiving.answers import Answers, unexpected
from subscriptions.receiving.authorization import check_key, presented_key
from subscriptions.receiving.body import ClientGone, Receive, check_content_type, read_body
from subscriptions.receiving.delivery import new_event
from subscriptions.receiving.early_refusal import MESSAGE, STATUS, EarlyRefusal
from subscriptions.receiving.exchange import Headers, Scope, Send, accept, path_below_mount
from subscriptions.receiving.pressure import Pressure
from subscriptions.receiving.reception import Reception
from subscriptions.receiving.settings_reader import SettingsReader
from subscriptions.receiving.store_trouble import store_trouble
from subscriptions.receiving.watchdog import Wait, Watchdog
from subscriptions.subscription import Subscription

logger = logging.getLogger(__name__)

_MOST_TYPES_LOGGED = 100
_LOOKING_UP = "looking up an API key"
_READING = "reading a body"
_STORING = "storing an event"


@dataclass(frozen=True, slots=True)
class WebhookLimits:
    """What one delivery may cost.

    ``body_bytes`` holds for the packed and the unpacked body. ``body_seconds`` is how long its arrival may take,
    ``store_seconds`` how long looking up the key and storing the event may take: Segment waits about 5 seconds
    (contract 5.7). Beyond ``deliveries_at_once``, or ``memory_bytes`` of their bodies, a delivery is refused at once
    and unread instead of answered late, so that memory stays bounded and what was accepted is answered in time.
    ``retry_after_seconds`` goes into the header of every 503.
    """

    deliveries_at_once: int = 1_000
    memory_bytes: int = 64 * 1024 * 1024
    body_bytes: int = 1024 * 1024
    body_seconds: float = 10.0
    store_seconds: float = 3.5
    retry_after_seconds: int = 10


class Webhook:
    """Receives deliveries for components."""

    def __init__(self, reception: Reception, *, limits: WebhookLimits | None = None) -> None:
        self._reception = reception
        self._limits = limits or WebhookLimits()
        self._answers = Answers(
            reception,
            methods=("POST",),
            retry_after_seconds=self._limits.retry_after_seconds,
            challenge=b'Basic realm="deliveries", charset="UTF-8"',
        )
        self._keys = reception.api_keys.recognition
        self.pressure = self._pressure = Pressure(
            self._limits.deliveries_at_once,
            most_bytes=self._limits.memory_bytes,
            body_bytes=self._limits.body_bytes,
        )
        """What is in hand; for others who take deliveries in the same event loop."""
        self._watchdog = Watchdog(
            min(self._limits.body_seconds, self._limits.store_seconds), on_look=self._pressure.turn_took
        )
        self.early_refusal = EarlyRefusal(
            self._pressure,
            reception.answered,
            retry_after_seconds=self._limits.retry_after_seconds,
            body_bytes=self._limits.body_bytes,
            body_seconds=self._limits.body_seconds,
        )
        """For an HTTP server that can refuse deliveries by itself."""
        self._settings = SettingsReader()
        self._logged_types: set[tuple[str, str]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        component = path_below_mount(scope)
        headers = Headers(scope["headers"])
        admitted = self._pressure.admit(headers.get(b"content-length"), headers.get(b"content-encoding"))
        if admitted is None:
            await self._answers.give(send, component, STATUS, MESSAGE)
            return
        try:
            await self._receive(component, scope, headers, receive)
        except DeliveryRefused as refused:
            status, message = refused.status, refused.message
        except ClientGone:
            return
        except Exception as error:
            status, message = unexpected("A delivery", error)
        else:
            self._reception.answered(component, 202)
            await accept(send)
            return
        finally:
            self._pressure.leave(admitted)
        await self._answers.give(send, component, status, message)

    async def _receive(self, component: str, scope: Scope, headers: Headers, receive: Receive) -> None:
        """Make one event durable.

        Raises:
            DeliveryRefused: it is not.
        """
        reception = self._reception
        if scope["method"] != "POST":
            raise DeliveryRefused(405, "Deliveries are sent with POST.")
        subscription = reception.components.get(component)
        if subscription is None:
            raise DeliveryRefused(404, "There is no such endpoint.")
        wait = self._watchdog.watch(_LOOKING_UP, self._limits.store_seconds)
        try:
            with wait:
                lookup = self._known_key(headers) or await self._look_up_key(headers)
                holder = check_key(lookup, subscription.name)
                if holder.signing_secret_ciphertext is not None:
                    self._refuse_unsigned()
                check_content_type(headers.get(b"content-type"))
                wait.go_on(_READING, self._limits.body_seconds)
                body = await read_body(
                    receive,
                    encoding=headers.get(b"content-encoding"),
                    content_length=headers.get(b"content-length"),
                    limit=self._limits.body_bytes,
                )
                event = parse_event(body, received_at=reception.clock(), display_name=subscription.display_name)
                check_event(event)
                settings = self._settings.read(headers.get(b"x-segment-settings"), subscription)
                if event.type not in subscription.handled_types:
                    self._refuse_type(subscription, event.type)
                record = new_event(event, body, holder=holder, settings=settings, person_hash=reception.person_hash)
                started = reception.observer.clock()
                wait.go_on(_STORING, self._limits.store_seconds)
                appended = await reception.event_log.append(record)
        except (DeliveryRefused, ClientGone):
            raise
        except Exception as error:
            trouble = _trouble(wait, error)
            if trouble is None:
                raise
            raise trouble from error
        reception.observer.stored(record, duplicate=appended.event_id is None, started=started)
        reception.received(holder.install_id)

    def _known_key(self, headers: Headers) -> KeyLookup | None:
        credentials = headers.only(b"authorization")
        return None if credentials is None else self._keys.recent(credentials)

    async def _look_up_key(self, headers: Headers) -> KeyLookup:
        key = presented_key(headers.all(b"authorization"))
        return await self._keys.look_up(key, presentation=headers.only(b"authorization"))

    def _refuse_unsigned(self) -> NoReturn:
        raise DeliveryRefused(401, "Deliveries with this API key have to be signed.")

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


def _trouble(wait: Wait, error: Exception) -> DeliveryRefused | None:
    """Return the refusal for trouble with our stores and for what is late; ``None`` for a bug."""
    if wait.doing != _READING:
        return store_trouble(wait.doing, error)
    if isinstance(error, TimeoutError):
        return DeliveryRefused(503, "The body did not arrive in time. Try again.")
    return None
