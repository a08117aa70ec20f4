"""What goes into the event log and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from enable_with_segment.db.event_log.states import EventState, HandlerState

#: Outcomes after which a handler is called again.
UNFINISHED = (HandlerState.RETRY, HandlerState.UNKNOWN)
#: Outcomes that a retry of a dead letter forgets, so that these handlers are called again.
RETRIED = (HandlerState.FAILED, HandlerState.SKIPPED, *UNFINISHED)
#: Leases are seconds long. One that runs for more than this was taken while the clock was ahead.
LONGEST_LEASE = timedelta(minutes=10)

#: What is left to such a lease: enough for a holder that lives to renew it.
LEFT_TO_IT = timedelta(minutes=1)


class EventLogUnavailable(Exception):
    """The log cannot take or give events now: the store is down, or too many events are waiting. Try again."""


class CommitsTooSlow(EventLogUnavailable):
    """The last commit took so long that an event let in now would be answered too late."""


class DiskNearlyFull(EventLogUnavailable):
    """There is room left only for handling what is stored already."""


class TooManyWaiting(EventLogUnavailable):
    """As many events as memory is meant to hold wait for their commit."""


class AnotherProcessWrites(EventLogUnavailable):
    """Only one process writes to an SQLite log, and another one does; what is stored can be read all the same."""


class EventLogOutdated(EventLogUnavailable):
    """A shared log is not at the newest revision; the text says how to bring it there."""


class RetryCutShort(EventLogUnavailable):
    """The log failed while dead letters were made pending, after ``retried`` of them had been."""

    def __init__(self, retried: int) -> None:
        super().__init__(f"the event log failed after {retried} dead letters were made pending")
        self.retried = retried


class ReplayPolicy(StrEnum):
    """What becomes of an event that was handled before, when Segment replays it from its archive (contract 5.11).

    A replayed event that is not in the log is new, under either policy.
    """

    HOLD = "hold"
    """It is counted and not handled again, like any other duplicate."""
    DISPATCH = "dispatch"
    """It is handed to the handlers again."""


class NewEvent(NamedTuple):
    """A received event on its way in. Hashes are keyed, and made by the caller.

    A named tuple, because one is made for every delivery and a frozen dataclass takes three times as long.
    """

    scope: str
    """The install, or the key where there is no install: the space in which message ids are unique."""
    dedupe_key: bytes
    """16 bytes from ``message_key``."""
    received_at: datetime
    occurred_at: datetime
    account: str
    component: str
    key_id: str
    install_id: str | None
    message_id: str | None
    type: str
    event: str | None
    person_hash: str | None
    device_hash: str | None
    previous_hash: str | None
    body: bytes
    settings: Mapping[str, Any]
    replay: bool = False
    """Whether Segment says that it sends the event from its archive."""


class Appended(NamedTuple):
    """The answer to an append, given after the commit. ``event_id`` is empty for a duplicate."""

    event_id: int | None
    differs: bool = False
    """Whether a duplicate has another body than the event in the log. Of replays this is not asked."""

    @property
    def duplicate(self) -> bool:
        """Whether the event was in the log before."""
        return self.event_id is None


@dataclass(frozen=True, slots=True)
class HandlerResult:
    """What one handler made of an event."""

    handler: str
    state: HandlerState
    error: str | None = None
    due_at: datetime | None = None
    """When it may be called again; empty when it is finished."""


@dataclass(frozen=True, slots=True)
class HandlerRecord:
    """One handler's newest outcome for an event."""

    handler: str
    state: HandlerState
    attempts: int
    at: datetime
    error: str | None
    due_at: datetime | None = None
    since: datetime | None = None
    """When the first attempt with a result ended."""
    results: int = 0
    """How many of the attempts ended with a result; the others ended with whoever made them."""

    @property
    def finished(self) -> bool:
        """Whether the handler need not be called again."""
        return self.state not in UNFINISHED


@dataclass(frozen=True, slots=True)
class ClaimedEvent:
    """An event that this process may work on until its lease ends."""

    id: int
    lease: str
    type: str
    account: str
    component: str
    key_id: str
    install_id: str | None
    received_at: datetime
    body: bytes
    settings: Mapping[str, Any]
    attempts: int
    """How many attempts there were before this one."""
    finished: tuple[HandlerResult, ...]
    """Outcomes of handlers that earlier attempts finished with; those are not called again."""
    suppressed: bool
    """Whether a deletion covers the event."""
    scope: str = ""
    """Who sent it: the install, or the key where there is no install."""
    unfinished: tuple[HandlerRecord, ...] = ()
    """Handlers that earlier attempts were not finished with."""
    interrupted: bool = False
    """Whether the attempt before this one ended without a result."""
    erased_through: datetime | None = None
    """Up to when the person was deleted, where a deletion covers the event."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How an attempt ended. ``available_at`` is when a pending event may be tried again.

    ``attempted`` is whether any handler was called; otherwise the event was only put back, and nothing is counted.
    ``keeps_lease`` is whether whoever holds the event goes on with it, and only what handlers made of it is noted.
    ``ends_deletion`` is whether everything that the event was to erase is wiped; its own body goes with it.
    """

    event_id: int
    lease: str
    state: EventState
    at: datetime
    results: tuple[HandlerResult, ...] = ()
    error: str | None = None
    available_at: datetime | None = None
    attempted: bool = True
    keeps_lease: bool = False
    ends_deletion: bool = False

    @property
    def erases_content(self) -> bool:
        """Whether nothing is kept of what was received, nor of what handlers said, which may quote it."""
        return self.ends_deletion or self.state is EventState.SUPPRESSED


@dataclass(frozen=True, slots=True)
class Predecessor:
    """An earlier event of the same person that is still pending; ``finished`` are the handlers done with it."""

    id: int
    type: str
    event: str | None
    finished: frozenset[str]


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """What erasing a person touched in the log, beside the deletion itself; numbers only."""

    merged_ids: int
    events: int


@dataclass(frozen=True, slots=True)
class Deletion:
    """The deletion that does the work of a delete message: its own, or another one of that person."""

    event_id: int
    completed: bool
    """Whether everything of the person is wiped, up to when they were deleted."""
    detail: EventDetail | None
    """The event that does it, as long as the log has it."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events an operator wants to see; empty fields let everything through."""

    account: str | None = None
    component: str | None = None
    install_id: str | None = None
    type: str | None = None
    state: EventState | None = None
    message_id: str | None = None
    event: str | None = None
    received_from: datetime | None = None
    received_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An event as an operator sees it, without its body."""

    id: int
    message_id: str | None
    received_at: datetime
    occurred_at: datetime
    account: str
    component: str
    key_id: str
    install_id: str | None
    type: str
    event: str | None
    state: EventState
    attempts: int
    available_at: datetime
    finished_at: datetime | None
    last_error: str | None
    duplicates: int
    differing_duplicates: int
    replays: int
    erased: bool


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events that match, the newest first, and how far back was looked for them.

    ``before_id`` is where to go on: events not looked at yet have lower ids. It is ``None`` at the end of the log.
    """

    records: tuple[EventRecord, ...] = ()
    before_id: int | None = None
    back_to: datetime | None = None
    """When the oldest event that was looked at was received; ``None`` at the end of the log."""


@dataclass(frozen=True, slots=True)
class EventDetail:
    """An event with its body and the outcome of each handler."""

    record: EventRecord
    body: bytes | None
    settings: Mapping[str, Any]
    handlers: tuple[HandlerRecord, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """Which of some message ids are not in the log, and which are there but not finished with."""

    checked: int
    missing: tuple[str, ...]
    unhandled: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What still has to be handled, and what was given up; cheap to ask for, however long the log is."""

    pending: int
    dead_letters: int
    oldest_received_at: datetime | None
    """When the oldest pending event was received; ``None`` when nothing is pending."""


@dataclass(frozen=True, slots=True)
class EventCounts:
    """How many events there are, by state, and how many could be worked on right now."""

    by_state: Mapping[EventState, int] = field(default_factory=dict)
    duplicates: int = 0
    due: int = 0

    @property
    def total(self) -> int:
        """All events in the log."""
        return sum(self.by_state.values())

    def __add__(self, other: EventCounts) -> EventCounts:
        states = [*self.by_state, *(state for state in other.by_state if state not in self.by_state)]
        return EventCounts(
            by_state={state: self.by_state.get(state, 0) + other.by_state.get(state, 0) for state in states},
            duplicates=self.duplicates + other.duplicates,
            due=self.due + other.due,
        )
