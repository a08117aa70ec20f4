"""Deleting a user as a customer orders it: one `delete` message to every connected destination (contract 7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from enable_with_segment.segment_sandbox.clock import timestamp
from enable_with_segment.segment_sandbox.delivery.anomalies import go_time
from enable_with_segment.segment_sandbox.delivery.deliveries import Deliveries, Delivery
from enable_with_segment.segment_sandbox.state import State
from enable_with_segment.segment_sandbox.tracking.events import Event

RegulationType = Literal["DELETE_ONLY", "SUPPRESS_WITH_DELETE"]


@dataclass(slots=True)
class Regulation:
    """A customer's order to delete, with the deliveries it led to."""

    id: str
    type: RegulationType
    workspace: str
    user_id: str
    created_at: datetime
    deliveries: list[Delivery] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """JSON-ready; the statuses are derived from the partners' answers (contract 7.2)."""
        return {
            "id": self.id,
            "type": self.type,
            "workspace": self.workspace,
            "created_at": timestamp(self.created_at),
            "overall_status": overall_status([destination_status(d) for d in self.deliveries]),
            "destinations": [
                {
                    "name": delivery.destination,
                    "status": destination_status(delivery),
                    "message_id": delivery.message_id,
                    "delivery_id": delivery.id,
                }
                for delivery in self.deliveries
            ],
        }


def destination_status(delivery: Delivery) -> str:
    """How far one destination is with the deletion."""
    if delivery.pending:
        return "RUNNING" if delivery.attempts else "INITIALIZED"
    return "FINISHED" if delivery.state == "succeeded" else "FAILED"


def overall_status(statuses: list[str]) -> str:
    """The regulation's status: failed as soon as one destination failed."""
    if any(status == "FAILED" for status in statuses):
        return "FAILED"
    if all(status == "FINISHED" for status in statuses):
        return "FINISHED"
    return "RUNNING"


def delete_message(user_id: str, project_id: str, number: int, job: int, now: datetime) -> Event:
    """The message of contract 7.1, with its Go-style `originalTimestamp`."""
    at = timestamp(now)
    return {
        "type": "delete",
        "channel": "server",
        "messageId": f"delete-reg-{number}::job-{job}-{project_id}",
        "projectId": project_id,
        "userId": user_id,
        "context": None,
        "integrations": None,
        "timestamp": at,
        "receivedAt": at,
        "sentAt": at,
        "originalTimestamp": go_time(at),
    }


class Erasure:
    """The regulations that were ordered."""

    def __init__(self, state: State, deliveries: Deliveries) -> None:
        self._state = state
        self._deliveries = deliveries
        self.regulations: dict[str, Regulation] = {}

    def reset(self) -> None:
        self.regulations.clear()

    def order(self, workspace: str, user_id: str, kind: RegulationType) -> Regulation:
        """Send a delete to each enabled destination of each source in the workspace."""
        state = self._state
        number, now = state.identifiers.number(), state.now()
        regulation = Regulation(f"reg-{number}", kind, workspace, user_id, now)
        self.regulations[regulation.id] = regulation
        if kind == "SUPPRESS_WITH_DELETE":
            state.world.workspaces[workspace].suppressed_user_ids.add(user_id)
        if not state.switches.delete_fan_out:
            return regulation
        for source in state.world.sources_of(workspace):
            for destination in list(state.world.destinations_of(source.name)):
                if destination.enabled and "delete" in state.world.catalog[destination.slug].supported_types:
                    job = len(regulation.deliveries) + 1
                    message = delete_message(user_id, source.project_id, number, job, now)
                    regulation.deliveries.append(self._deliveries.send("delete", destination, message))
            for webhook in state.world.webhooks_of(source.name):
                # Deletions reach classic Webhooks destinations, and no Actions ones.
                if webhook.enabled and webhook.variant == "classic":
                    message = delete_message(user_id, source.project_id, number, len(regulation.deliveries) + 1, now)
                    sent = self._deliveries.send_to_webhook(webhook, message, "delete")
                    regulation.deliveries.append(sent)
        return regulation
