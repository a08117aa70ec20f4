"""The endpoint for Segment's signed Webhooks destinations (contract 5.12): a plain ASGI callable beside ``Webhook``.

The key stands in the path, ``/subscriptions/{component}/{key}``, or in a Basic header that the customer's mapping
sets. It tells the account, and with which secret the body has to be signed. A batch is signed over its first element
alone, so the key is what the other elements stand on. After that everything is as for any other delivery: the same
event log, dedupe and handlers.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from enable_with_segment.components.errors import DeliveryRefused
from enable_with_segment.components.event import Event
from enable_with_segment.components.event_reader import check_event, parse_event
from enable_with_segment.components.setting import SettingValue
from enable_with_segment.components.subscription import Subscription
from enable_with_segment.db.clock import Clock
from enable_with_segment.db.encryption import EncryptionError
from enable_with_segment.db.event_log.records import NewEvent
from enable_with_segment.installs.key_cache import KeyHolder
from enable_with_segment.subscriptions.receiving.answers import Answers, unexpected
from enable_with_segment.subscriptions.receiving.authorization import check_key, presented_key
from enable_with_segment.subscriptions.receiving.body import ClientGone, Receive, check_content_type, read_body
from enable_with_segment.subscriptions.receiving.concurrency_limit import ConcurrencyLimit
from enable_with_segment.subscriptions.receiving.delivery import new_event
from enable_with_segment.subscriptions.receiving.exchange import WAITING_SINCE, Headers, Scope, Send, path_below_mount
from enable_with_segment.subscriptions.receiving.load_shedding import STATUS, message_of
from enable_with_segment.subscriptions.receiving.permit import Permit
from enable_with_segment.subscriptions.receiving.reception import Reception
from enable_with_segment.subscriptions.receiving.settings_reader import SettingsReader
from enable_with_segment.subscriptions.receiving.signature import (
    BatchInvalid,
    SignedTextTooLong,
    elements,
    is_batch,
    is_signed_with,
    signed_text,
)
from enable_with_segment.subscriptions.receiving.store_trouble import store_trouble
from enable_with_segment.subscriptions.receiving.watchdog import Watchdog

_Result = TypeVar("_Result")

logger = logging.getLogger(__name__)

METHODS = ("POST", "PUT", "PATCH")
INVALID = "invalid"
"""The type under which an element of a batch is stored that cannot be used; the dispatcher makes it a dead letter."""
_AT_ONCE = 200
_BYTES_IN_A_TURN = 256 * 1024
_LARGE_BYTES = 1024 * 1024
_NO_BYTES = b"0"
"""Bodies are larger here, and memory is set aside for them once it is known whose they are."""


@dataclass(frozen=True, slots=True)
class SignedWebhookLimits:
    """What one delivery may cost (contract 5.8): a batch has up to 4,000 events of 32 KB, packed or not.

    ``single_bytes`` holds for an event by itself and for a batch's first, on which its signature stands. The others may
    be as large as the batch: they cost no more memory than it does, and a 413 would be final for their neighbours too.
    Segment waits 5 seconds for a single event and 10 for a batch; ``store_seconds`` and ``batch_seconds`` are what our
    stores may take of that, looking up the key and storing everything together.
    ``memory_bytes`` is what all bodies may take that are in memory at the same moment; more are answered 503.
    """

    body_bytes: int = 32 * 1024 * 1024
    memory_bytes: int = 256 * 1024 * 1024
    single_bytes: int = 1024 * 1024
    batch_events: int = 4_000
    body_seconds: float = 10.0
    store_seconds: float = 3.5
    batch_seconds: float = 8.0
    retry_after_seconds: int = 10


class SignedWebhook:
    """Receives signed deliveries for components.

    Args:
        concurrency_limit: the plain webhook's; both share one count, which shrinks while the event loop lags.
        watchdog: the plain webhook's, by which that count grows back.
    """

    def __init__(
        self,
        reception: Reception,
        concurrency_limit: ConcurrencyLimit,
        watchdog: Watchdog,
        *,
        limits: SignedWebhookLimits | None = None,
    ) -> None:
        self._reception = reception
        self._concurrency_limit = concurrency_limit
        self._watchdog = watchdog
        self._limits = limits or SignedWebhookLimits()
        self._answers = Answers(reception, methods=METHODS, retry_after_seconds=self._limits.retry_after_seconds)
        self._settings = SettingsReader()
        self._keys = reception.api_keys.key_cache
        self._memory = ConcurrencyLimit(
            sys.maxsize, most_bytes=self._limits.memory_bytes, body_bytes=self._limits.body_bytes
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        component, _, key = path_below_mount(scope).partition("/")
        key = key.strip()  # blanks around it came with it when a customer pasted the address (WH-23)
        self._watchdog.wake()
        permit = Permit.acquire(
            self._concurrency_limit,
            self._keys,
            self._place_of(key, scope),
            content_length=_NO_BYTES,
            content_encoding=None,
        )
        if permit is None:
            await self._answers.give(send, component, STATUS, message_of(self._concurrency_limit))
            return
        try:
            status, message = 202, await self._receive(component, key, permit, scope, receive)
        except DeliveryRefused as refused:
            status, message = refused.status, refused.message
        except ClientGone:
            return
        except Exception as error:
            status, message = unexpected("A signed delivery", error)
        finally:
            permit.release()
        await self._answers.give(send, component, status, message)

    def _place_of(self, key: str, scope: Scope) -> bytes | None:
        presented = key.encode("utf-8", "surrogatepass") or Headers(scope["headers"]).only(b"authorization")
        return self._keys.place(presented) if presented else None

    async def _receive(self, component: str, key: str, permit: Permit, scope: Scope, receive: Receive) -> str:
        if scope["method"] not in METHODS:
            raise DeliveryRefused(405, "Deliveries are sent with POST, PUT or PATCH.")
        subscription = self._reception.components.get(component)
        if subscription is None or "/" in key:
            raise DeliveryRefused(404, "There is no such endpoint.")
        headers = Headers(scope["headers"])
        clock = asyncio.get_running_loop().time
        since = scope.get(WAITING_SINCE, clock())
        lookup = await self._own(
            "looking up an API key",
            self._keys.look_up(key or _key_in(headers), place=permit.place),
            until=since + self._limits.store_seconds,
        )
        permit.recognised()
        holder = check_key(lookup, subscription.name)
        signature = _presented_signature(headers)
        check_content_type(headers.get(b"content-type"))
        with self._reserved(headers, self._keys.sender(permit.place)):
            began = clock()
            body = await self._read(headers, receive)
            since += clock() - began  # that was the sender's own time
            await self._check_signature(holder, body, signature)
            return await self._take(body, headers, holder, subscription, since)

    async def _take(
        self, body: bytes, headers: Headers, holder: KeyHolder, subscription: Subscription, since: float
    ) -> str:
        settings = self._settings.read(headers.get(b"x-segment-settings"), subscription)
        if is_batch(body):
            until = since + self._limits.batch_seconds
            return await self._store_batch(body, holder, settings, subscription, until=until)
        event = self._usable(body, subscription)
        if event.type not in subscription.handled_types:
            raise DeliveryRefused(501, "Events of this type are not supported.")
        record = self._record(event, body, holder, settings)
        await self._store([record], holder, until=since + self._limits.store_seconds)
        return "Accepted."

    @contextmanager
    def _reserved(self, headers: Headers, sender: str) -> Iterator[None]:
        """Set memory aside for a body: what its length says, or the most it may be where the length says little.

        By now the sender is known.
        """
        length, encoding = headers.get(b"content-length"), headers.get(b"content-encoding")
        reserved = self._memory.acquire(length, encoding, sender)
        if reserved is None:
            raise DeliveryRefused(503, "Too much is arriving at the same moment. Try again.")
        try:
            yield
        finally:
            self._memory.release(reserved, sender)

    async def _check_signature(self, holder: KeyHolder, body: bytes, signature: bytes) -> None:
        """Refuse what is not signed with the secret of the key: the whole body, or a batch's first element (WH-22).

        An event that is too large to be verified is a 413, whatever its signature: a 401 would send the customer to
        look for a wrong secret. It gives nothing away, for it is said to the holder of a key only, and rests on nothing
        but what was sent.
        """
        try:
            secret = self._reception.api_keys.signing_secret(holder)
        except EncryptionError as error:
            logger.error("The signing secret of %s cannot be opened: %s", holder.key_id, error)  # noqa: TRY400
            raise DeliveryRefused(503, "We cannot take events right now. Try again.") from None
        if secret is None:
            raise DeliveryRefused(401, "This API key has no signing secret; it is for deliveries that are not signed.")
        first, is_too_large = None, False
        try:
            # A sender that has not proved anything yet gets no more than the first event looked at.
            first = signed_text(body, most=self._limits.single_bytes)
        except SignedTextTooLong:
            is_too_large = True
        except BatchInvalid:
            pass
        is_signed = False
        if is_batch(body):
            sign_whole = partial(is_signed_with, secret, body, signature)
            is_signed = await asyncio.to_thread(sign_whole) if len(body) > _LARGE_BYTES else sign_whole()
        if first is not None:
            is_signed |= is_signed_with(secret, first, signature)
        if is_signed:
            return
        if is_too_large:
            raise DeliveryRefused(413, f"An event is larger than {self._limits.single_bytes} bytes.")
        raise DeliveryRefused(401, "X-Signature does not fit the body. Copy the shared secret again.")

    async def _store_batch(
        self,
        body: bytes,
        holder: KeyHolder,
        settings: Mapping[str, SettingValue],
        subscription: Subscription,
        *,
        until: float,
    ) -> str:
        """Store every element; one that cannot be used is stored as invalid, and never spoils the others.

        A batch that is too long, or is no array after all, is refused before anything of it is stored.
        """
        count = await self._count(body)
        invalid = 0
        remaining = elements(body)
        while part := await _next_elements(remaining):
            records: list[NewEvent] = []
            parsed_bytes = 0
            for text in part:
                parsed_bytes += len(text)
                if parsed_bytes > _BYTES_IN_A_TURN:
                    parsed_bytes = 0
                    await asyncio.sleep(0)
                try:
                    event = self._usable(text, subscription)
                except DeliveryRefused:
                    event, invalid = _invalid_event(text, self._reception.clock), invalid + 1
                records.append(self._record(event, text, holder, settings))
            await self._store(records, holder, until=until)
        if invalid:
            logger.warning("Component %s: %d of %d events of a batch are invalid", subscription.name, invalid, count)
            return f"Accepted {count - invalid} of {count} events; the others are kept and shown to the operator."
        return f"Accepted {count} events."

    async def _count(self, body: bytes) -> int:
        count = 0
        try:
            for text in elements(body):
                if text is None:
                    await asyncio.sleep(0)
                    continue
                count += 1
                if count > self._limits.batch_events:
                    raise DeliveryRefused(413, f"The batch has more than {self._limits.batch_events} events.")
                if count % _AT_ONCE == 0:
                    await asyncio.sleep(0)
        except BatchInvalid as problem:
            raise DeliveryRefused(400, f"The batch cannot be read: {problem}.") from None
        return count

    def _usable(self, text: bytes, subscription: Subscription) -> Event:
        if len(text) > self._limits.single_bytes:
            raise DeliveryRefused(413, f"An event is larger than {self._limits.single_bytes} bytes.")
        event = parse_event(text, received_at=self._reception.clock(), display_name=subscription.display_name)
        check_event(event)
        return event

    def _record(self, event: Event, text: bytes, holder: KeyHolder, settings: Mapping[str, SettingValue]) -> NewEvent:
        return new_event(event, text, holder=holder, settings=settings, person_hash=self._reception.person_hash)

    async def _store(self, records: Iterable[NewEvent], holder: KeyHolder, *, until: float) -> None:
        """Store events together; they share a commit, and the answer waits for it."""

        observer, event_log = self._reception.observer, self._reception.event_log

        async def append(record: NewEvent) -> None:
            started = observer.clock()
            appended = await event_log.append(record)
            observer.stored(record, appended, started=started)

        await self._own("storing events", asyncio.gather(*(append(record) for record in records)), until=until)
        self._reception.received(holder.install_id)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                return await read_body(
                    receive,
                    encoding=headers.get(b"content-encoding"),
                    content_length=headers.get(b"content-length"),
                    limit=self._limits.body_bytes,
                )
        except TimeoutError:
            raise DeliveryRefused(503, "The body did not arrive in time. Try again.") from None

    async def _own(self, doing: str, work: Awaitable[_Result], *, until: float) -> _Result:
        """Await our own store; whatever goes wrong there is worth a retry, so it is a 503."""
        try:
            async with asyncio.timeout_at(until):
                return await work
        except Exception as error:
            raise store_trouble(doing, error) from error


async def _next_elements(remaining: Iterator[bytes | None]) -> list[bytes]:
    """Return the next elements of a batch, and pause where reading them takes long."""
    part: list[bytes] = []
    for text in remaining:
        if text is None:
            await asyncio.sleep(0)
            continue
        part.append(text)
        if len(part) == _AT_ONCE:
            break
    return part


def _key_in(headers: Headers) -> str:
    return presented_key(headers.all(b"authorization"))


def _presented_signature(headers: Headers) -> bytes:
    values = headers.all(b"x-signature")
    if not values:
        raise DeliveryRefused(401, "The request has no X-Signature. Set the shared secret in the destination.")
    if len(values) > 1:
        raise DeliveryRefused(401, "The request has more than one X-Signature.")
    return values[0].strip().lower()


def _invalid_event(text: bytes, clock: Clock) -> Event:
    """Return what stands in for an element that cannot be used; its bytes are kept beside it.

    It keeps the ids that can be read, so that duplicates are recognised and a deletion covers it.
    """
    now = clock()
    standing_in: dict[str, object] = {"type": INVALID}
    found = None
    if len(text) <= _LARGE_BYTES:
        with suppress(DeliveryRefused):
            found = parse_event(text, received_at=now)
    if found is not None:
        standing_in |= {"userId": found.user_id, "anonymousId": found.anonymous_id, "messageId": found.message_id}
    if not standing_in.get("messageId"):
        standing_in["messageId"] = f"{INVALID}-{hashlib.sha256(text).hexdigest()[:32]}"
    return Event(standing_in, received_at=now)
