"""What an install's destination should be, put together before Segment is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from enable_with_segment.components.subscription import Subscription
from enable_with_segment.installs.reasons import Reason
from enable_with_segment.segment_api.errors import SegmentError


@dataclass(frozen=True, slots=True)
class Component:
    """A component as provisioning uses it.

    Attributes:
        name: the Subscription's name.
        destination_slug: the destination's slug in Segment's catalog.
        default_settings: settings of a new destination, by key; the customer's own choices replace them.
    """

    name: str
    destination_slug: str
    default_settings: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, subscription: Subscription, destination_slug: str) -> Component:
        """Describe a Subscription. A setting without a default is left to the catalog's own default."""
        defaults = {setting.key: setting.default for setting in subscription.settings if setting.default is not None}
        return cls(subscription.name, destination_slug, defaults)


@dataclass(frozen=True, slots=True)
class Plan:
    """The destination as it should be, and what earlier runs found out about it.

    Attributes:
        install_id, account: whose it is.
        name, slug: the destination's full name, and its slug in the catalog.
        key_id, api_key: the account's key, by our id and in clear.
        defaults: the component's settings for a new destination.
        chosen: the customer's settings.
        applied: the chosen settings were written earlier. What the customer changed in Segment since then stays.
        ours, verified, established: see ``installs.provisioning.decision.next_step``.
        made_at: when this run began.
    """

    install_id: str
    account: str
    name: str
    slug: str
    key_id: str
    api_key: str
    defaults: Mapping[str, object]
    chosen: Mapping[str, object]
    applied: bool
    ours: bool
    verified: bool
    established: bool
    made_at: datetime

    @property
    def pending(self) -> Mapping[str, object]:
        """The settings that an existing destination still has to be given."""
        return {} if self.applied else self.chosen

    def desired(self, *, ours: bool, applied: bool) -> dict[str, object]:
        """Return the plan in the form that is stored: no secret in it."""
        return {"enabled": True, "settings": dict(self.chosen), "applied": applied, "ours": ours}

    def __repr__(self) -> str:
        return f"Plan(name={self.name!r}, key_id={self.key_id!r})"


class ProvisioningEnded(SegmentError):
    """A run is over without a connection, for a reason that the install's record will give."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail

    @property
    def is_final(self) -> bool:
        """Whether another run would end the same way, because the reason is not one of Segment's answers."""
        return self.reason in {Reason.KEY_DIFFERS, Reason.COMPONENT_UNKNOWN, Reason.SCOPE_WITHOUT_SOURCE}
