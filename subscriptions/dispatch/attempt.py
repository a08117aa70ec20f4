"""One attempt at one event, from the claim to the settlement."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from enable_with_segment.components.event import Event
from enable_with_segment.components.handler import Handler
from enable_with_segment.components.install_context import InstallContext
from enable_with_segment.db.event_log.records import ClaimedEvent
from enable_with_segment.subscriptions.dispatch.outcome import Verdict, Waiting


@dataclass(slots=True, eq=False)
class Attempt:
    """What happens to a claimed event: which of its handlers were called, and which have to wait."""

    claimed: ClaimedEvent
    event: Event
    install: InstallContext
    handlers: tuple[Handler, ...] = ()
    """Those that are left to call."""
    calls_left: int = 0
    verdicts: list[Verdict] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)

    @property
    def sender(self) -> str:
        """Whom the event is from: the install, or the key where there is no install."""
        return self.claimed.scope

    @property
    def person(self) -> str | None:
        """Whose event it is, for handlers that want a person's events in order."""
        return self.event.user_id or self.event.anonymous_id

    @property
    def is_deletion(self) -> bool:
        """Whether the person is wiped from the log at its end: a delete, or a merge that came after one."""
        return self.claimed.type == "delete" or self.claimed.suppressed

    def wait(self, handler: str, until: datetime, reason: str) -> None:
        """Note that a handler is not called this time."""
        self.waiting.append(Waiting(handler, until, reason))

    def own_wait(self, handler: str, now: datetime) -> Waiting | None:
        """Return what a handler's last attempt at the event left it to wait for, as long as that is not over."""
        record = next((record for record in self.claimed.unfinished if record.handler == handler), None)
        # A wait that began later than now is one that the clock was set back in; nobody knows how long it has been.
        if record is None or record.due_at is None or not record.at <= now < record.due_at:
            return None
        return Waiting(handler, record.due_at, record.error or "waits for its next attempt")

    def finished(self, handler: str) -> bool:
        """Tell whether a handler is done with the event, as far as this attempt shows."""
        return all(other.handler != handler for other in self.waiting)
