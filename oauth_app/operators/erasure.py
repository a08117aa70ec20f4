"""An operator's erasure of a person: a delete that is stored once, and then waited for."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.routing import Mount

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import audit
from enable_with_segment.db.event_log.records import AnotherProcessWrites
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.runtime.component import component_name, load_component
from enable_with_segment.oauth_app.runtime.factories import api_keys_of
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import Stores, open_stores
from enable_with_segment.subscriptions.archive.erasure import (
    REQUESTED,
    ErasureReceipt,
    ErasureRefused,
    delete_message,
    find_receipt,
    send_delete,
)
from enable_with_segment.subscriptions.receiving.person_hash import PersonHash
from enable_with_segment.subscriptions.receiving.reception import Reception
from enable_with_segment.subscriptions.receiving.webhook import Webhook

_POLL_SECONDS = 0.2
_SERVICE_SECONDS = 10.0

#: The service got nothing of the delete. Whatever else goes wrong on the way may do so after it was stored.
_NOT_REACHED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL)


class ErasureOrder:
    """One delete of an operator's own.

    Args:
        actor: who asks for it, as the audit names them.
        reason: why, for the audit.

    Attributes:
        message_id: the delete's messageId.
        is_stored: whether the delete was stored, and will be carried out whatever goes wrong here after that;
            ``None`` when the service was asked and gave no answer.
    """

    def __init__(self, settings: Settings, account: str, user_id: str, *, actor: str, reason: str | None) -> None:
        self._settings = settings
        self._account = account
        self._actor = actor
        self._reason = reason
        self._component = component_name(settings)
        self._message = delete_message(user_id, now=utc_now())
        self.message_id: str = self._message["messageId"]
        self.is_stored: bool | None = False

    async def carry_out(self, wait: float) -> ErasureReceipt:
        """Have the delete stored and wait for its end, so many seconds at most.

        The stores are opened once for each: who has written to an SQLite log keeps others from it, and a service that
        is started meanwhile is the one that is waited for.

        Raises:
            ErasureRefused: nobody stored it, or it cannot be found.
            EventLogUnavailable, SQLAlchemyError, OSError, SettingsInvalid, SchemaOutdated: a store fails.
        """
        await self._request()
        deadline = time.monotonic() + wait
        async with open_stores(self._settings) as stores:
            while True:
                receipt = await find_receipt(stores.event_log, stores.control, self.message_id)
                if receipt is None:
                    raise ErasureRefused("the delete cannot be found in the event log; check EVENT_LOG_URL")
                if receipt.state is not EventState.PENDING or time.monotonic() >= deadline:
                    return receipt
                await asyncio.sleep(_POLL_SECONDS)

    async def _request(self) -> None:
        async with open_stores(self._settings) as stores:
            may_write = await _may_write(stores)
            api_keys = api_keys_of(self._settings, stores)
            async with stores.control.transaction() as session:
                minted = await api_keys.mint(session, account=self._account, component=self._component)
                await audit.add(
                    session,
                    actor=self._actor,
                    action=REQUESTED,
                    subject=f"delete {self.message_id}",
                    now=utc_now(),
                    reason=self._reason,
                    detail={"account": self._account, "component": self._component},
                )
            try:
                await self._deliver(stores, minted.api_key, may_write=may_write)
            finally:
                async with stores.control.transaction() as session:
                    await api_keys.revoke(session, minted.id, actor=self._actor)

    async def _deliver(self, stores: Stores, api_key: str, *, may_write: bool) -> None:
        """Hand the delete to a webhook of our own, or to the service's: if only that may write, or our store fails."""
        not_here = "another process writes to the event log"
        if may_write:
            try:
                await self._deliver_here(stores, api_key)
            except ErasureRefused as refused:
                if refused.status != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise  # the service would say the same
                not_here = f"it could not be stored from here ({refused})"
            else:
                return
        try:
            await self._deliver_to_service(api_key)
        except (ErasureRefused, httpx.HTTPError, httpx.InvalidURL) as problem:
            why = str(problem) if isinstance(problem, ErasureRefused) else f"no answer, {type(problem).__name__}"
            raise ErasureRefused(
                f"{not_here}, and the service at {self._settings.base_url} did not take the delete ({why:.200}). "
                "Have the service running where BASE_URL leads to it, or stop whatever else writes, and try again."
            ) from problem

    async def _deliver_here(self, stores: Stores, api_key: str) -> None:
        reception = Reception(
            {self._component: load_component(self._settings)},
            api_keys_of(self._settings, stores),
            stores.event_log,
            PersonHash(stores.secrets.person_hash),
        )
        transport = httpx.ASGITransport(app=Starlette(routes=[Mount("/subscriptions", app=Webhook(reception))]))
        async with httpx.AsyncClient(transport=transport, base_url=self._settings.base_url) as here:
            await send_delete(here, self._component, api_key, self._message)
        self.is_stored = True

    async def _deliver_to_service(self, api_key: str) -> None:
        async with httpx.AsyncClient(base_url=self._settings.base_url, timeout=_SERVICE_SECONDS) as service:
            try:
                await send_delete(service, self._component, api_key, self._message)
            except (httpx.HTTPError, httpx.InvalidURL) as problem:
                self.is_stored = False if isinstance(problem, _NOT_REACHED) else None
                raise
        self.is_stored = True


async def _may_write(stores: Stores) -> bool:
    try:
        await stores.event_log.become_writer()
    except AnotherProcessWrites:
        return False
    return True
