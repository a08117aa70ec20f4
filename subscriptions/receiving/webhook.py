"""The endpoint that Segment delivers to: a plain ASGI callable, to be mounted at ``/subscriptions``.

An event is answered 202 once it is durable, and everything else happens later. A 4xx is final for Segment: the event
is lost (contract 5.6). So it is only given for what the sender did; our own trouble is 503 with ``Retry-After``.

This is what the service does all day. Most deliveries have the same few headers, arrive in one piece and carry a key
that was looked up a moment ago, so each of those steps first looks whether it can be done without waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from enable_with_segment.components.errors import DeliveryRefused
from enable_with_segment.subscriptions.receiving.answers import Answers, unexpected
from enable_with_segment.subscriptions.receiving.authorization import presented_key
from enable_with_segment.subscriptions.receiving.body import ClientGone, Receive, read_body
from enable_with_segment.subscriptions.receiving.concurrency_limit import ConcurrencyLimit
from enable_with_segment.subscriptions.receiving.exchange import (
    WAITING_SINCE,
    Headers,
    Scope,
    Send,
    accept,
    path_below_mount,
)
from enable_with_segment.subscriptions.receiving.fast_path import STORING, FastPath
from enable_with_segment.subscriptions.receiving.intake import Intake
from enable_with_segment.subscriptions.receiving.load_shedding import STATUS, LoadShedding, message_of
from enable_with_segment.subscriptions.receiving.permit import Permit
from enable_with_segment.subscriptions.receiving.reception import Reception
from enable_with_segment.subscriptions.receiving.store_trouble import store_trouble
from enable_with_segment.subscriptions.receiving.watchdog import Watchdog

_LOOKING_UP = "looking up an API key"
_READING = "reading a body"


@dataclass(frozen=True, slots=True)
class WebhookLimits:
    """What one delivery may cost.

    ``body_bytes`` holds for the packed and the unpacked body. ``body_seconds`` is how long its arrival may take,
    ``store_seconds`` how long our stores may, looking up the key and storing the event together: Segment waits about 5
    seconds (contract 5.7). Beyond ``deliveries_at_once``, or ``memory_bytes`` of their bodies, a delivery is refused at
    once and unread instead of answered late, so that memory stays bounded and what was accepted is answered in time.
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
        self._intake = Intake(reception)
        self._keys = reception.api_keys.key_cache
        self.concurrency_limit = self._concurrency_limit = ConcurrencyLimit(
            self._limits.deliveries_at_once,
            most_bytes=self._limits.memory_bytes,
            body_bytes=self._limits.body_bytes,
        )
        """What is in hand; for others who take deliveries in the same event loop."""
        self.watchdog = self._watchdog = Watchdog(
            min(self._limits.body_seconds, self._limits.store_seconds), on_look=self._concurrency_limit.turn_took
        )
        """Tells the concurrency_limit how long turns of the event loop take, while it is awake."""
        self.load_shedding = LoadShedding(
            self._concurrency_limit,
            self._sender_of,
            reception.answered,
            self._answers.prepared,
            body_bytes=self._limits.body_bytes,
            body_seconds=self._limits.body_seconds,
        )
        """For an HTTP server that can refuse deliveries by itself."""

    def fast_path(self, *, is_open: Callable[[], bool]) -> FastPath:
        """Return what an HTTP server may hand complete deliveries to, as long as ``is_open`` says so."""
        return FastPath(
            self._intake,
            self._reception,
            self._concurrency_limit,
            self._watchdog,
            self._answers,
            is_open=is_open,
            body_bytes=self._limits.body_bytes,
            store_seconds=self._limits.store_seconds,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        component = path_below_mount(scope)
        headers = Headers(scope["headers"])
        permit = Permit.acquire(
            self._concurrency_limit,
            self._keys,
            self._place_of(headers),
            content_length=headers.get(b"content-length"),
            content_encoding=headers.get(b"content-encoding"),
        )
        if permit is None:
            await self._answers.give(send, component, STATUS, message_of(self._concurrency_limit))
            return
        try:
            await self._receive(component, scope, headers, permit, receive)
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
            permit.release()
        await self._answers.give(send, component, status, message)

    async def _receive(self, component: str, scope: Scope, headers: Headers, permit: Permit, receive: Receive) -> None:
        """Make one event durable.

        Raises:
            DeliveryRefused: it is not.
        """
        reception = self._reception
        if scope["method"] != "POST":
            raise DeliveryRefused(405, "Deliveries are sent with POST.")
        subscription = self._intake.subscription(component)
        wait = self._watchdog.watch(_LOOKING_UP, self._limits.store_seconds, since=scope.get(WAITING_SINCE))
        try:
            with wait:
                place = permit.place
                known = None if place is None else self._keys.recent(place)
                lookup = known or await self._keys.look_up(presented_key(headers.all(b"authorization")), place=place)
                permit.recognised()
                holder = self._intake.holder(lookup, subscription, headers)
                left = wait.left()
                wait.go_on(_READING, self._limits.body_seconds)
                body = await read_body(
                    receive,
                    encoding=headers.get(b"content-encoding"),
                    content_length=headers.get(b"content-length"),
                    limit=self._limits.body_bytes,
                )
                record = self._intake.record(body, headers, subscription, holder)
                started = reception.observer.clock()
                wait.go_on(STORING, left)
                appended = await reception.event_log.append(record)
        except (DeliveryRefused, ClientGone):
            raise
        except Exception as error:
            # Raised elsewhere: an error in a variable of a frame that it went through keeps that frame, here with the
            # headers and the key in them, until the collector comes by.
            _refuse_in_trouble(wait.doing, error)
            raise
        reception.observer.stored(record, appended, started=started)
        reception.received(holder.install_id)

    def _sender_of(self, headers: Headers) -> str:
        return self._keys.sender(self._place_of(headers))

    def _place_of(self, headers: Headers) -> bytes | None:
        credentials = headers.only(b"authorization")
        return None if credentials is None else self._keys.place(credentials)


def _refuse_in_trouble(doing: str, error: Exception) -> None:
    """Refuse a delivery for trouble with our stores and for what is late; return if it is a bug.

    Raises:
        DeliveryRefused: with 503.
    """
    if doing != _READING:
        raise store_trouble(doing, error) from error
    if isinstance(error, TimeoutError):
        raise DeliveryRefused(503, "The body did not arrive in time. Try again.") from error
