"""An operator's erasure of a person: a delete that is stored once, and then waited for."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping

from enable_with_segment.components.event_reader import parse_event
from enable_with_segment.components.setting import SettingValue
from enable_with_segment.components.subscription import Subscription
from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import audit
from enable_with_segment.db.event_log.records import AnotherProcessWrites, EventLogUnavailable
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.http_client import httpx
from enable_with_segment.installs.key_cache import KeyHolder
from enable_with_segment.oauth_app.runtime.component import load_component
from enable_with_segment.oauth_app.runtime.factories import api_keys_of
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import Stores, open_stores
from enable_with_segment.subscriptions.archive.erasure import (
    REQUESTED,
    ErasureReceipt,
    ErasureRefused,
    delete_message,
    find_receipt,
)
from enable_with_segment.subscriptions.receiving.delivery import new_event
from enable_with_segment.subscriptions.receiving.person_hash import PersonHash

_POLL_SECONDS = 0.2
_SERVICE_SECONDS = 10.0
_KEY_ID = "operator"
"""What stands in the log where events of customers have the id of an API key."""

#: The service got nothing of the delete. Whatever else goes wrong on the way may do so after it was stored.
_NOT_REACHED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL)


class ErasureOrder:
    """One delete of an operator's own.

    It is appended to the event log as if Segment had sent it. An SQLite log takes events from one process only: while
    the service runs, the delete is handed to that, at ``BASE_URL``.

    Args:
        actor: who asks for it, as the audit names them.
        reason: why, for the audit.

    Attributes:
        message_id: the delete's messageId.
        is_stored: whether the delete was stored, and will be carried out whatever goes wrong here after that;
            ``None`` if that is not known.

    Raises:
        SettingsInvalid: HANDLERS is not set.
        SubscriptionError: the handlers cannot be loaded.
    """

    def __init__(self, settings: Settings, account: str, user_id: str, *, actor: str, reason: str | None) -> None:
        self._settings = settings
        self._account = account
        self._actor = actor
        self._reason = reason
        self._subscription = load_component(settings)
        message = delete_message(user_id, now=utc_now())
        self._body = json.dumps(message).encode()
        self.message_id: str = message["messageId"]
        self.is_stored: bool | None = False

    async def carry_out(self, wait: float) -> ErasureReceipt:
        """Store the delete and wait for its end, ``wait`` seconds at most.

        The stores are opened once for each. A process that appends to an SQLite log keeps others from it, and a
        service that is started meanwhile is the one that has to carry the delete out.

        Raises:
            ErasureRefused: it was not stored, or cannot be found.
            EventLogUnavailable, SQLAlchemyError, OSError, SettingsInvalid, SchemaOutdated: a store fails.
        """
        async with open_stores(self._settings) as stores:
            await self._store(stores)
        deadline = time.monotonic() + wait
        async with open_stores(self._settings) as stores:
            while True:
                receipt = await find_receipt(stores.event_log, stores.control, self.message_id)
                if receipt is None:
                    raise ErasureRefused("the delete cannot be found in the event log; check EVENT_LOG_URL")
                if receipt.state is not EventState.PENDING or time.monotonic() >= deadline:
                    return receipt
                await asyncio.sleep(_POLL_SECONDS)

    async def _store(self, stores: Stores) -> None:
        component = self._subscription.name
        if "delete" not in self._subscription.handled_types:
            raise ErasureRefused(f"component '{component}' has no handler for delete events")
        async with stores.control.transaction() as session:
            await audit.add(
                session,
                actor=self._actor,
                action=REQUESTED,
                subject=f"delete {self.message_id}",
                now=utc_now(),
                reason=self._reason,
                detail={"account": self._account, "component": component},
            )
        try:
            await self._append(stores)
        except AnotherProcessWrites as problem:
            await self._hand_to_service(stores, str(problem))
        except EventLogUnavailable as problem:
            if type(problem) is EventLogUnavailable:  # not one of those that refuse beforehand
                self.is_stored = None
            await self._hand_to_service(stores, f"the delete could not be stored ({problem})")

    async def _append(self, stores: Stores) -> None:
        event = parse_event(self._body, received_at=utc_now(), display_name=self._subscription.display_name)
        holder = KeyHolder(_KEY_ID, self._account, self._subscription.name, None)
        settings = _defaults(self._subscription)
        person_hash = PersonHash(stores.secrets.person_hash)
        record = new_event(event, self._body, holder=holder, settings=settings, person_hash=person_hash)
        await stores.event_log.append(record)
        self.is_stored = True

    async def _hand_to_service(self, stores: Stores, not_here: str) -> None:
        """Send the delete to the service that runs, with an API key of this one delivery."""
        api_keys = api_keys_of(self._settings, stores)
        async with stores.control.transaction() as session:
            minted = await api_keys.mint(session, account=self._account, component=self._subscription.name)
        try:
            await self._send(minted.api_key)
        except (ErasureRefused, httpx.HTTPError, httpx.InvalidURL) as problem:
            why = str(problem) if isinstance(problem, ErasureRefused) else f"no answer, {type(problem).__name__}"
            raise ErasureRefused(
                f"{not_here}, and the service at {self._settings.base_url} did not take the delete ({why:.200}). "
                "Start the service where BASE_URL leads to it, or stop the process that writes, and try again."
            ) from problem
        finally:
            async with stores.control.transaction() as session:
                await api_keys.revoke(session, minted.id, actor=self._actor)

    async def _send(self, api_key: str) -> None:
        async with httpx.AsyncClient(base_url=self._settings.base_url, timeout=_SERVICE_SECONDS) as service:
            try:
                response = await service.post(
                    f"/subscriptions/{self._subscription.name}",
                    content=self._body,
                    headers={"Content-Type": "application/json"},
                    auth=(api_key, ""),
                )
            except (httpx.HTTPError, httpx.InvalidURL) as problem:
                if not isinstance(problem, _NOT_REACHED):
                    self.is_stored = None
                raise
        if not response.is_success:
            raise ErasureRefused(f"the answer was {response.status_code}: {response.text[:200]}")
        self.is_stored = True


def _defaults(subscription: Subscription) -> Mapping[str, SettingValue]:
    """What handlers find in ``settings``: the declared defaults, because no customer's destination sent the delete."""
    return {setting.key: setting.default for setting in subscription.settings}
