"""Connect links: what a partner hands to a customer so that an install is tied to the right account."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from enable_with_segment.components.setting import Setting
from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import accounts, audit, connect_links, installs
from enable_with_segment.db.control.tables import ConnectLink
from enable_with_segment.db.database import Database
from enable_with_segment.db.identifiers import check_account
from enable_with_segment.installs.chosen_settings import check_chosen_settings
from enable_with_segment.installs.return_to import check_return_to


class ReconnectRefused(ValueError):
    """The install to reconnect is not one of the account's."""


@dataclass(frozen=True, slots=True)
class MintedLink:
    """A new connect link: a URL that works once, until ``expires_at``."""

    url: str
    account: str
    expires_at: datetime


class ConnectLinks:
    """Mints and shows connect links for one component.

    Args:
        declared_settings: what the component declares; ``None`` where its code is not at hand.
    """

    def __init__(
        self,
        database: Database,
        *,
        component: str,
        base_url: str,
        lifetime: timedelta,
        declared_settings: Sequence[Setting] | None,
        return_origins: Collection[str] = (),
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._component = component
        self._base_url = base_url
        self._lifetime = lifetime
        self._declared_settings = declared_settings
        self._return_origins = tuple(return_origins)
        self._clock = clock

    async def create(
        self,
        account: str,
        *,
        return_to: str | None = None,
        settings: Mapping[str, Any] | None = None,
        reconnects: str | None = None,
        actor: str = "service",
    ) -> MintedLink:
        """Make a single-use link for an account (added if it is new).

        Args:
            account: the partner's own identifier of its customer, 1 to 200 printable characters.
            return_to: where the finished page leads back to (``installs.return_to``).
            settings: values for the component's custom settings, over their defaults; any spelling of a name will do.
            reconnects: an install of the account to be connected anew, on the same workspace and source only (OA-20).

        Raises:
            ReconnectRefused: ``reconnects`` is no install of this account.
            AccountInvalid: see :func:`check_account`.
            ReturnAddressRefused: ``return_to`` is on an origin that is not allowed.
            ChosenSettingRefused: the component declares no such setting, or not such a value. All four are
                ``ValueError``, with a sentence that says what is allowed.
        """
        check_account(account)
        chosen = check_chosen_settings(self._declared_settings, settings or {}, component=self._component)
        if return_to is not None:
            parts = urlsplit(self._base_url)
            check_return_to(
                return_to, own_origin=f"{parts.scheme}://{parts.netloc}", allowed_origins=self._return_origins
            )
        token = secrets.token_urlsafe(32)
        now = self._clock()
        expires_at = now + self._lifetime
        async with self._database.transaction() as session:
            if reconnects is not None:
                install = await installs.get(session, reconnects)
                if install is None or (install.account, install.component) != (account, self._component):
                    raise ReconnectRefused(f"account {account} has no install {reconnects}")
            await accounts.ensure(session, account, now=now)
            await connect_links.purge(session, before=now - timedelta(days=1))
            await connect_links.add(
                session,
                token,
                account=account,
                component=self._component,
                return_to=return_to,
                settings=chosen,
                reconnects=reconnects,
                now=now,
                expires_at=expires_at,
            )
            await audit.add(session, actor=actor, action="connect_link.mint", subject=account, now=now)
        return MintedLink(f"{self._base_url}/connect/{token}", account, expires_at)

    async def look(self, token: str) -> ConnectLink | None:
        """Return a usable link without using it up, so that mail scanners and previews do no harm.

        ``FlowStarts.start_by_link`` uses it up.
        """
        async with self._database.transaction() as session:
            return await connect_links.find_usable(session, token, component=self._component, now=self._clock())
