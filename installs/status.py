"""What a customer is told about an install: a pure reading of its record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from enable_with_segment.db.control.tables import Install, InstallStatus
from enable_with_segment.installs.acts import InstallAct, why_not
from enable_with_segment.installs.connection_state import ConnectionState
from enable_with_segment.installs.drift import SENTENCES, Drift
from enable_with_segment.installs.reasons import Reason

_REFRESH_SECONDS = 2
_WATCHED_FOR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the progress list."""

    text: str
    mark: Literal["done", "now", "ask", "bad", "open"]


@dataclass(frozen=True, slots=True)
class ToldStatus:
    """A status in words. ``{partner}`` stands for the partner's name."""

    heading: str
    sentence: str
    steps: tuple[Step, ...]
    bad: bool = False
    confirm_overwrite: bool = False
    can_retry: bool = False
    retry_label: str = "Try again"
    reconnect: bool = False
    refresh_seconds: int | None = None


def tell_status(install: Install, *, now: datetime) -> ToldStatus:
    """Put an install's status into words, marks and the next step it offers."""
    allowed = Step("Allowed in Segment", "done")
    waiting = Step("Receiving events", "open")
    refresh = _REFRESH_SECONDS if now - install.updated_at < _WATCHED_FOR else None
    detail = install.status_detail
    works = install.status in {InstallStatus.CONNECTED, InstallStatus.RECEIVING}
    if works and install.connection_state == ConnectionState.DRIFTED and install.connection_reason in set(Drift):
        return _tell_drift(Drift(install.connection_reason), allowed)
    match install.status:
        case InstallStatus.PROVISIONING:
            return ToldStatus(
                "Setting up the connection…",
                detail or "Segment said yes. We are setting up the destination in your workspace now.",
                (allowed, Step("Setting up the destination", "now"), waiting),
                refresh_seconds=refresh,
            )
        case InstallStatus.AWAITING_CONFIRMATION:
            return ToldStatus(
                "One question first",
                detail or "The destination is already set up with another API key. Should this account’s key be used?",
                (allowed, Step("The destination holds another key", "ask"), waiting),
                confirm_overwrite=why_not(InstallAct.CONFIRM, install) is None,
            )
        case InstallStatus.CONNECTED:
            return ToldStatus(
                "Connected to Segment",
                "Everything is set up. The first event will show up here as soon as your source sends one.",
                (
                    allowed,
                    Step("Destination set up and switched on", "done"),
                    Step("Waiting for the first event", "now"),
                ),
                refresh_seconds=refresh,
            )
        case InstallStatus.RECEIVING:
            return ToldStatus(
                "Receiving events",
                "{partner} is receiving this source’s events.",
                (
                    allowed,
                    Step("Destination set up and switched on", "done"),
                    Step("Receiving events", "done"),
                ),
            )
        case InstallStatus.NEEDS_RECONNECT:
            return ToldStatus(
                "Please connect again",
                detail or "Segment no longer accepts our access to this workspace.",
                (Step("Segment withdrew the access", "bad"), Step("Connect again", "open")),
                bad=True,
                reconnect=True,
            )
        case InstallStatus.DISCONNECTING:
            return ToldStatus(
                "Disconnecting…",
                detail or "The destination is being switched off in your Segment workspace.",
                (Step("Switching the destination off", "now"), Step("Erasing our access", "open")),
                refresh_seconds=refresh,
            )
        case InstallStatus.DISCONNECTED:
            left_on = install.status_reason == Reason.DESTINATION_LEFT_ON
            return ToldStatus(
                "Disconnected",
                detail or "{partner} no longer receives events from this source.",
                (
                    Step("Switch the destination off in Segment", "ask")
                    if left_on
                    else Step("The connection was switched off", "done"),
                ),
                reconnect=True,
            )
        case InstallStatus.FAILED:
            return ToldStatus(
                "The connection isn’t finished yet",
                detail or "Something went wrong while the destination was set up.",
                (allowed, Step("Setting up the destination didn’t work", "bad"), waiting),
                bad=True,
                can_retry=why_not(InstallAct.RETRY, install) is None,
            )


def _tell_drift(drift: Drift, allowed: Step) -> ToldStatus:
    return ToldStatus(
        "Something was changed in Segment",
        SENTENCES[drift],
        (allowed, Step("The destination isn’t as it was set up", "bad"), Step("Receiving events", "open")),
        bad=True,
        can_retry=True,
        retry_label="Set it up again",
    )
