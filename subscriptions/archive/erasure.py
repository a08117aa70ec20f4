"""Erasing a person because an operator asks for it: a delete of our own, which takes the way of every other one."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from db.control import audit
from db.database import Database
from db.event_log.log import EventArchive
from db.event_log.tables import EventState, HandlerState
from db.identifiers import new_id

REQUESTED, ERASED = "person.erase", "person.erased"


class ErasureRefused(Exception):
    """The delete was not accepted; the text says with which answer."""


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """What was erased where, without personal data.

    ``state`` is the delete's own: ``handled`` once everything is done. ``stored_events`` were wiped from the log, dead
    letters among them, for the person and ``merged_ids`` other ids. ``handlers`` are the partner's own, sinks among
    them, with what they answered.
    """

    message_id: str
    account: str
    component: str
    state: EventState
    requested_at: datetime
    erased_through: datetime
    completed_at: datetime | None
    stored_events: int | None
    merged_ids: int | None
    handlers: dict[str, HandlerState]

    @property
    def complete(self) -> bool:
        """Whether nothing of the person is left. A repeated delete was the work of the one before it."""
        return self.state in (EventState.HANDLED, EventState.REPEATED_DELETE)


def delete_message(user_id: str, *, now: datetime) -> dict[str, Any]:
    """Return a delete as Segment sends it (contract 7.1), with an id that is told apart from Segment's."""
    return {
        "type": "delete",
        "channel": "server",
        "messageId": f"delete-operator-{new_id('era')}",
        "userId": user_id,
        "timestamp": now.isoformat(),
    }


async def send_delete(client: httpx.AsyncClient, component: str, api_key: str, message: dict[str, Any]) -> None:
    """Hand a delete to the endpoint of a component.

    Raises:
        ErasureRefused: another answer than 2xx.
        httpx.HTTPError: no answer.
    """
    response = await client.post(
        f"/subscriptions/{component}",
        content=json.dumps(message).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": "Basic " + base64.b64encode(f"{api_key}:".encode()).decode(),
        },
    )
    if not response.is_success:
        raise ErasureRefused(f"the service answered {response.status_code}: {response.text[:200]}")


async def find_receipt(archive: EventArchive, database: Database, message_id: str) -> ErasureReceipt | None:
    """Return how far an erasure has come; ``None`` when there is no such delete."""
    details = [detail for detail in await archive.show(message_id) if detail.record.type == "delete"]
    if not details:
        return None
    detail = details[0]
    async with database.transaction() as session:
        noted = await audit.list_newest(session, action=ERASED, subject=f"event {detail.record.id}", limit=1)
    counts = noted[0].detail if noted else {}
    record = detail.record
    return ErasureReceipt(
        message_id=message_id,
        account=record.account,
        component=record.component,
        state=record.state,
        requested_at=record.received_at,
        erased_through=min(record.occurred_at, record.received_at),
        completed_at=record.finished_at,
        stored_events=counts.get("events"),
        merged_ids=counts.get("merged_ids"),
        handlers={handler.handler: handler.state for handler in detail.handlers},
    )
