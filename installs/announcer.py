"""Telling the partner's functions about installs: an outbox step, so that a change is neither lost nor made up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from enable_with_segment.components.install_context import InstallContext
from enable_with_segment.components.install_function import StateChange
from enable_with_segment.components.subscription import Subscription
from enable_with_segment.db.control import installs
from enable_with_segment.db.control.tables import OutboxEntry
from enable_with_segment.db.database import Database
from enable_with_segment.installs.connection_state import ANNOUNCE


class InstallAnnouncer:
    """Calls the functions registered with ``Subscription.on_install``.

    A function that raises is called again, and so are the others of the same change: at least once, like handlers.
    """

    def __init__(self, database: Database, components: Mapping[str, Subscription]) -> None:
        self._database = database
        self._components = components

    def outbox_handlers(self) -> dict[str, Callable[[OutboxEntry], Awaitable[None]]]:
        """Return the handlers for the outbox, by kind of entry."""
        return {ANNOUNCE: self._announce}

    async def _announce(self, entry: OutboxEntry) -> None:
        async with self._database.transaction() as session:
            install = await installs.get(session, entry.install_id)
        component = None if install is None else self._components.get(install.component)
        if install is None or component is None:
            return
        context = InstallContext(
            install.account,
            install.component,
            install.id,
            install.workspace_name,
            install.source_name,
            install.status.value,
        )
        change = StateChange(entry.payload["change"])
        for function in component.install_functions:
            if change in function.changes:
                await function.call(
                    context, change, reason=entry.payload.get("reason"), detail=entry.payload.get("detail")
                )
