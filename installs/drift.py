"""How a destination in Segment differs from what we left there. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from enable_with_segment.installs.provisioning.decision import HeldKey
from enable_with_segment.segment_api.destination import Destination


class Drift(StrEnum):
    """What somebody changed; stored as the reason of the connection state *drifted*."""

    DELETED = "destination_deleted"
    DISABLED = "destination_disabled"
    REKEYED = "destination_rekeyed"


SENTENCES: Mapping[Drift, str] = {
    Drift.DELETED: "The destination was deleted in your Segment workspace, so no events arrive.",
    Drift.DISABLED: "The destination was switched off in your Segment workspace, so no events arrive.",
    Drift.REKEYED: "The destination holds another API key now, so its events no longer come to this account.",
}


def drift_of(destination: Destination | None, key: HeldKey) -> Drift | None:
    """Return what changed. A masked key whose end fits counts as ours; settings are the customer's own affair."""
    if destination is None:
        return Drift.DELETED
    if key is HeldKey.ANOTHER:
        return Drift.REKEYED
    return None if destination.enabled else Drift.DISABLED
