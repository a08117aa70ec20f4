"""What a step of the flow comes to, for the routes to show; and the operator's line about one that failed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TypeAlias

from enable_with_segment.db.identifiers import incident_id
from enable_with_segment.installs.record import InstallChoice
from enable_with_segment.oauth_app.flow.failures import FAILURES, FailureReason

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FlowStarted:
    """Send the browser to ``url`` and give it the cookie; both are secrets of this one flow."""

    url: str = field(repr=False)
    cookie_name: str
    cookie_value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FlowConnected:
    """The install is saved; its status page shows how provisioning goes on."""

    install_id: str


@dataclass(frozen=True, slots=True)
class FlowPending:
    """The same callback is being worked on by an earlier request; ask again in a moment."""


@dataclass(frozen=True, slots=True)
class FlowFailed:
    """The flow ended without a connection.

    Attributes:
        return_to: the partner's page.
        incident: names the log line.
        choices: installs of the account, one of which Segment means.
    """

    reason: FailureReason
    return_to: str | None = None
    incident: str | None = None
    choices: tuple[InstallChoice, ...] = ()


@dataclass(frozen=True, slots=True)
class ManualKey:
    """An API key to paste into Segment by hand; shown once."""

    account: str
    api_key: str = field(repr=False)
    return_to: str | None


FlowOutcome: TypeAlias = FlowConnected | FlowPending | FlowFailed


def note_failure(reason: FailureReason, **facts: str | None) -> str:
    """Write the operator's line about a failed flow; returns the incident's id, which the page shows too."""
    incident = incident_id()
    level = logging.ERROR if FAILURES[reason].alarm else logging.WARNING
    told = ", ".join(f"{name}={value[:100]!r}" for name, value in facts.items() if value)
    logger.log(level, "install flow failed: %s (incident %s%s)", reason.value, incident, f", {told}" if told else "")
    return incident
