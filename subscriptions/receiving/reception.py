"""What every door for deliveries needs: the components, who a key belongs to, and where events go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from enable_with_segment.components.subscription import Subscription
from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.event_log.log import EventLog
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.subscriptions.observer import Observer
from enable_with_segment.subscriptions.receiving.person_hash import PersonHash

Received: TypeAlias = Callable[[str | None], None]


@dataclass(frozen=True, slots=True)
class Reception:
    """Shared by ``Webhook`` and ``SignedWebhook``.

    Attributes:
        components: the subscriptions by the name in the path.
        on_received: called after an event is durable, with its install's id, or ``None`` for a key without install.
        observer: told of every answer and every stored event.
    """

    components: Mapping[str, Subscription]
    api_keys: ApiKeys
    event_log: EventLog
    person_hash: PersonHash
    on_received: Received | None = None
    observer: Observer = field(default_factory=Observer)
    clock: Clock = utc_now

    def answered(self, component: str, status: int) -> None:
        """Tell the observer of an answer; names that nobody has given to a component are not passed on."""
        self.observer.answered(component if component in self.components else "", status)

    def received(self, install_id: str | None) -> None:
        """Tell whoever wants to know that an event is durable."""
        if self.on_received is not None:
            self.on_received(install_id)
