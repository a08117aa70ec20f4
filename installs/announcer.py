"""Calls the partner's ``on_install`` functions: an outbox step, so that no change is lost or announced by mistake."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from enable_with_segment.components.install_context import InstallContext
from enable_with_segment.components.install_function import InstallFunction, StateChange
from enable_with_segment.components.partner_call import call_partner
from enable_with_segment.components.subscription import Subscription
from enable_with_segment.db.control import installs, outbox
from enable_with_segment.db.control.tables import OutboxEntry
from enable_with_segment.db.database import Database
from enable_with_segment.installs.connection_state import ANNOUNCE


class InstallAnnouncer:
    """Calls the functions registered with ``Subscription.on_install``, each at least once for a change.

    Each function of a change has an outbox entry of its own: one that fails is retried alone. They run in a worker of
    their own, so that they take no place from what is done at Segment.

    Args:
        seconds: how long one call may take.
    """

    def __init__(
        self,
        database: Database,
        components: Mapping[str, Subscription],
        *,
        seconds: float = 30.0,
    ) -> None:
        self._database = database
        self._components = components
        self._seconds = seconds

    def outbox_handlers(self) -> dict[str, Callable[[OutboxEntry], Awaitable[None]]]:
        """Return the handlers for the outbox, by kind of entry."""
        return {ANNOUNCE: self._announce}

    async def _announce(self, entry: OutboxEntry) -> None:
        change = StateChange(entry.payload["change"])
        async with self._database.transaction() as session:
            install = await installs.get(session, entry.install_id)
            component = None if install is None else self._components.get(install.component)
            if install is None or component is None:
                return
            functions = _registered(component, change)
            wanted = entry.payload.get("function")
            if wanted is None and len(functions) > 1:
                for name in functions:
                    payload = {**entry.payload, "function": name}
                    # As old as the change is: it is retried for 72 hours from then.
                    await outbox.add(session, ANNOUNCE, install.id, now=entry.created_at, payload=payload)
                return
        context = InstallContext(
            install.account,
            install.component,
            install.id,
            install.workspace_name,
            install.source_name,
            install.status.value,
        )
        reason, detail = entry.payload.get("reason"), entry.payload.get("detail")
        for name, function in functions.items():
            if wanted in {None, name}:
                call = partial(function.call, context, change, reason=reason, detail=detail)
                await call_partner(f"the on_install function '{name}'", call, seconds=self._seconds)


def _registered(component: Subscription, change: StateChange) -> dict[str, InstallFunction]:
    """Return the functions for a change by name; of several with the same name, the later ones are numbered."""
    found: dict[str, InstallFunction] = {}
    for function in component.install_functions:
        if change in function.changes:
            taken = sum(other.name == function.name for other in found.values())
            found[f"{function.name} ({taken + 1})" if taken else function.name] = function
    return found
