"""Whom an event came from: the account and install that its API key belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import installs
from enable_with_segment.db.database import Database

_CACHE = timedelta(seconds=5)
_CACHE_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class InstallContext:
    """What a handler knows about the sender.

    ``account`` is the partner's own identifier of its customer. ``install_id`` and the three fields after it are
    empty when the customer pasted a key by hand instead of clicking the button.
    """

    account: str
    component: str
    install_id: str | None = None
    workspace_name: str | None = None
    source_name: str | None = None
    status: str | None = None


class InstallContexts:
    """Reads contexts from the control store, and remembers each for five seconds."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock
        self._cache: dict[str, tuple[datetime, InstallContext]] = {}
        self._without_install: dict[tuple[str, str], InstallContext] = {}

    def known(self, account: str, component: str, install_id: str | None) -> InstallContext | None:
        """Return a context that is there without waiting; ``None`` when it has to be read."""
        if install_id is None:
            context = self._without_install.get((account, component))
            if context is None:
                if len(self._without_install) >= _CACHE_SIZE:
                    self._without_install.clear()
                context = self._without_install[account, component] = InstallContext(account, component)
            return context
        remembered = self._cache.get(install_id)
        if remembered is None or remembered[0] <= self._clock():
            return None
        context = remembered[1]
        return context if (context.account, context.component) == (account, component) else None

    async def find(self, *, account: str, component: str, install_id: str | None) -> InstallContext:
        """Return the context of an event. The account and component are the event's own, never the install's."""
        if install_id is None:
            return InstallContext(account, component)
        now = self._clock()
        remembered = self._cache.get(install_id)
        if remembered is not None and remembered[0] > now:
            return remembered[1]
        async with self._database.transaction() as session:
            install = await installs.get(session, install_id)
        context = InstallContext(account, component, install_id)
        if install is not None and (install.account, install.component) == (account, component):
            context = InstallContext(
                account, component, install_id, install.workspace_name, install.source_name, install.status.value
            )
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[install_id] = (now + _CACHE, context)
        return context
