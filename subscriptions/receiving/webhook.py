"""The endpoint that Segment delivers to: a plain ASGI callable, to be mounted at ``/subscriptions``.

An event is answered 202 once it is durable, and everything else happens later. A 4xx is final for Segment: the event
is lost (contract 5.6). So it is only given for what the sender did; our own trouble is 503 with ``Retry-After``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from db.clock import Clock, utc_now
from db.event_log.log import EventLog
from db.identifiers import new_id
from subscriptions.api_keys import ApiKeys, KeyHolder
from subscriptions.errors import DeliveryRefused
from subscriptions.event import EVENT_TYPES
from subscriptions.event_reader import check_event, parse_event
from subscriptions.observer import Observer
from subscriptions.receiving.authorization import check_key, presented_key
from subscriptions.receiving.body import ClientGone, Receive, check_content_type, read_body
from subscriptions.receiving.delivery import new_event
from subscriptions.receiving.exchange import Headers, Scope, Send, answer, path_below_mount
from subscriptions.receiving.person_hash import PersonHash
from subscriptions.receiving.settings_reader import SettingsReader
from subscriptions.receiving.store_trouble import store_trouble
from subscriptions.receiving.watchdog import Watchdog
from subscriptions.subscription import Subscription

_Result = TypeVar("_Result")
Received: TypeAlias = Callable[[str | None], None]

logger = logging.getLogger(__name__)

_MOST_TYPES_LOGGED = 100


@dataclass(frozen=True, slots=True)
class WebhookLimits:
    """What one delivery may cost.

    ``body_bytes`` holds for the packed and the unpacked body. ``body_seconds`` is how long its arrival may take,
    ``store_seconds`` how long looking up the key and storing the event may take: Segment waits about 5 seconds
    (contract 5.7). Beyond ``deliveries_at_once`` a delivery is refused at once instead of answered late, so that memory
    stays bounded and what was accepted is answered in time. ``retry_after_seconds`` goes into the header of every 503.
    """

    deliveries_at_once: int = 1_000
    body_bytes: int = 1024 * 1024
    body_seconds: float = 10.0
    store_seconds: float = 3.5
    retry_after_seconds: int = 10


class Webhook:
    """Receives deliveries for components.

    Args:
        components: the subscriptions by the name in the path.
        on_received: called after an event is durable, with its install's id, or ``None`` for a key without install.
        observer: told of every answer and every stored event.
    """

    def __init__(
        self,
        components: Mapping[str, Subscription],
        api_keys: ApiKeys,
        event_log: EventLog,
        person_hash: PersonHash,
        *,
        limits: WebhookLimits | None = None,
        on_received: Received | None = None,
        observer: Observer | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._components = components
        self._api_keys = api_keys
        self._event_log = event_log
        self._person_hash = person_hash
        self._limits = limits or WebhookLimits()
        self._on_received = on_received
        self._observer = observer or Observer()
        self._clock = clock
        self._body_watchdog = Watchdog(self._limits.body_seconds)
        self._store_watchdog = Watchdog(self._limits.store_seconds)
        self._settings = SettingsReader()
        self._running = 0
        self._logged_types: set[tuple[str, str]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        component = path_below_mount(scope)
        self._running += 1
        try:
            if self._running > self._limits.deliveries_at_once:
                status, message = 503, "Too many deliveries at the same moment. Try again."
            else:
                await self._receive(component, scope, receive)
                status, message = 202, "Accepted."
        except DeliveryRefused as refused:
            status, message = refused.status, refused.message
        except ClientGone:
            return
        except Exception:
            incident = new_id("inc")
            logger.exception("A delivery failed unexpectedly (incident %s)", incident)
            status, message = 500, f"Something went wrong on our side (incident {incident})."
        finally:
            self._running -= 1
        self._observer.answered(component if component in self._components else "", status)
        await self._answer(send, status, message)

    async def _receive(self, component: str, scope: Scope, receive: Receive) -> None:
        if scope["method"] != "POST":
            raise DeliveryRefused(405, "Deliveries are sent with POST.")
        subscription = self._components.get(component)
        if subscription is None:
            raise DeliveryRefused(404, "There is no such endpoint.")
        headers = Headers(scope["headers"])
        holder = await self._authorize(presented_key(headers.all(b"authorization")), subscription)
        check_content_type(headers.get(b"content-type"))
        body = await self._read(headers, receive)
        event = parse_event(body, received_at=self._clock(), display_name=subscription.display_name)
        check_event(event)
        settings = self._settings.read(headers.get(b"x-segment-settings"), subscription)
        if event.type not in subscription.handled_types:
            self._log_missing_handler(subscription, event.type)
            raise DeliveryRefused(501, "Events of this type are not supported.")
        record = new_event(event, body, holder=holder, settings=settings, person_hash=self._person_hash)
        started = self._observer.clock()
        appended = await self._within_store_time("storing an event", self._event_log.append(record))
        self._observer.stored(record, duplicate=appended.duplicate, started=started)
        if self._on_received is not None:
            self._on_received(holder.install_id)

    async def _authorize(self, key: str, subscription: Subscription) -> KeyHolder:
        lookup = self._api_keys.recent(key)
        if lookup is None:
            lookup = await self._within_store_time("looking up an API key", self._api_keys.look_up(key))
        holder = check_key(lookup, subscription.name)
        if holder.signed:
            raise DeliveryRefused(401, "Deliveries with this API key have to be signed.")
        return holder

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        reading = read_body(
            receive,
            encoding=headers.get(b"content-encoding"),
            content_length=headers.get(b"content-length"),
            limit=self._limits.body_bytes,
        )
        try:
            return await self._body_watchdog.guard(reading)
        except TimeoutError:
            raise DeliveryRefused(503, "The body did not arrive in time. Try again.") from None

    async def _within_store_time(self, doing: str, work: Awaitable[_Result]) -> _Result:
        """Await our own store; whatever goes wrong there is worth a retry, so it is a 503."""
        try:
            return await self._store_watchdog.guard(work)
        except Exception as error:
            raise store_trouble(doing, error) from error

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

    async def _answer(self, send: Send, status: int, message: str) -> None:
        extra = _EXTRA_HEADERS.get(status, ())
        if status == 503:
            extra = (*extra, (b"retry-after", str(self._limits.retry_after_seconds).encode()))
        await answer(send, status, message, extra=extra)


_EXTRA_HEADERS: Mapping[int, tuple[tuple[bytes, bytes], ...]] = {
    401: ((b"www-authenticate", b'Basic realm="deliveries", charset="UTF-8"'),),
    405: ((b"allow", b"POST"),),
    415: ((b"accept-encoding", b"gzip, identity"),),
}
