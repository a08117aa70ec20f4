"""The deletion rules: whom a deletion covers, when it may begin, which events it erases. The same on every engine.

A deletion is a delete, or a late merge: an alias that arrives after its person was deleted, and deletes its other id.
It covers an id, every id that was merged into that by alias, and the devices they were seen on, as far as that is known
when its handlers are first called. Tombstones keep later events of all of them from the handlers. What becomes known
after that is not part of it: an alias that arrives then is a deletion of its own.

The rules run inside a transaction of the engine, which answers the questions of :class:`DeletionStore`. On a shared
store other processes may decide at the same time. So it locks what a decision rests on until the commit. Where another
process has locked that, nothing is decided, and the event waits for the next claim (:class:`Undecided`). Nobody can
lock what is stored meanwhile. So a deletion begins in a later transaction than the one that writes its tombstones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from enable_with_segment.db.event_log.records import NewEvent
from enable_with_segment.db.event_log.states import EventState

#: A further delete message within this time is the same deletion: Segment sends one for each source (contract 7.1).
SAME_DELETION = timedelta(hours=24)

#: States of events that are not finished; an event that is erased in one of them becomes suppressed.
UNFINISHED = (EventState.PENDING, EventState.DEAD_LETTER)


class Undecided(Exception):
    """Another process is about to change what the decision rests on."""


class _Uncommitted(Undecided):
    """The tombstones were written just now, and no other process can see them yet."""


class Tenant(NamedTuple):
    """The space in which ids of people and devices are known."""

    account: str
    component: str


class Link(NamedTuple):
    """What one event tells about its person: the id that was merged into theirs, and the device they were seen on."""

    previous_hash: str | None
    device_hash: str | None


class Tombstone(NamedTuple):
    """One deletion of an id. ``state`` is that of the deletion's event; ``None`` after that was dropped."""

    event_id: int
    through: datetime
    """Covers what happened up to then."""
    requested_at: datetime
    completed_at: datetime | None
    state: EventState | None


class Candidate(NamedTuple):
    """A delete, or an alias of a person who was deleted, that is due."""

    event_id: int
    type: str
    tenant: Tenant
    person: str
    other: str | None
    """The id that an alias merges into the person."""
    occurred_at: datetime
    received_at: datetime
    has_begun: bool
    """Whether handlers may have been called with it."""


class Decisions(NamedTuple):
    """What becomes of candidates."""

    late_merges: dict[int, datetime]
    """The aliases that are deletions, and through when."""
    waiting: set[int]
    """The events that must not be handed out now."""
    needs_commit: bool
    """Whether some wait only for the commit of their tombstones."""


class Repetition(NamedTuple):
    """A delete that looks like a further message of an earlier deletion."""

    event_id: int
    delete: NewEvent
    first_id: int
    known_through: datetime
    """Through when that deletion covered the person before."""


class DeletionStore(Protocol):
    """The questions that an engine answers inside one transaction."""

    is_shared: bool
    """Whether other processes decide at the same time."""

    async def covered_by(self, deletion_id: int) -> dict[str, datetime]:
        """Return the ids that a deletion covers, and through when."""
        ...

    async def tombstones(self, tenant: Tenant, subject: str) -> Sequence[Tombstone]:
        """Return the deletions of one id, the newest first."""
        ...

    async def write_tombstones(
        self, deletion_id: int, tenant: Tenant, hashes: Iterable[str], *, through: datetime, requested_at: datetime
    ) -> None:
        """Add ids to what a deletion covers; those that it covers already stay as they are."""
        ...

    async def extend_tombstones(self, deletion_id: int, hashes: Collection[str], through: datetime) -> None:
        """Make a deletion cover more time of some of its ids."""
        ...

    async def links(self, tenant: Tenant, people: Collection[str], through: datetime) -> Collection[Link]:
        """Return what events of some people tell about them that happened up to an instant."""
        ...

    async def may_have_links(self, deletion: Candidate, covered: Collection[str]) -> bool:
        """Return False if no event that was stored after a deletion links its ids to another one."""
        ...

    async def has_newer(self, tenant: Tenant, hashes: Collection[str], instant: datetime) -> bool:
        """Return True if an event of some ids is stored, other than a delete, that happened after an instant."""
        ...

    async def has_waiting_delete(self, event_ids: Collection[int]) -> bool:
        """Return True if one of some events is a pending delete with which no handler can have been called.

        Raises:
            Undecided: another process works on one of them.
        """
        ...

    async def has_to_wait(self, deletion: Candidate, covered: dict[str, datetime], *, for_merges: bool) -> bool:
        """Return True if another event that a deletion covers is leased, or may be before the commit.

        Args:
            for_merges: also if one of them is a pending alias that is no deletion.
        """
        ...


def reach(occurred_at: datetime, received_at: datetime) -> datetime:
    """Return through when a delete covers. A device clock that runs ahead must not suppress future events."""
    return min(occurred_at, received_at)


def id_to_delete(event_type: str, person: str, other: str | None) -> str | None:
    """Return the id that an event deletes: a delete its person, a late merge its other id if that is another one."""
    if event_type == "delete":
        return person
    return None if other == person else other


def erased_through(
    event_type: str, occurred_at: datetime, *, person: datetime | None, merge: datetime | None
) -> datetime | None:
    """Return through when the deletion covers that keeps an event from its handlers; ``None`` if there is none.

    A delete is always handed out. A late merge is handed out as a deletion (``subscriptions.dispatch.late_merge``).

    Args:
        person: through when the event's person, or device, was deleted.
        merge: the same for a late merge.
    """
    if event_type == "delete":
        return None
    if event_type == "alias":
        return merge
    return person if person is not None and occurred_at <= person else None


def is_erasable(event_type: str, state: EventState, *, is_deletion: bool, spares_deletes: bool) -> bool:
    """Return True if a deletion erases an event that it covers.

    It does not where the event is still to end in a deletion itself, because handlers need the id in its body. That is
    true of a late merge in the dead letters, too: its other id is not deleted before an operator retries it.

    Args:
        is_deletion: whether the event has tombstones of its own.
        spares_deletes: keep dead-lettered deletes: no handler has done yet what they ask for.
    """
    if state is EventState.PENDING:
        return event_type not in ("delete", "alias")
    if state is EventState.DEAD_LETTER:
        return not ((event_type == "alias" and is_deletion) or (event_type == "delete" and spares_deletes))
    return True


def work_of(event_id: int, through: datetime, tombstones: Iterable[Tombstone]) -> Tombstone | None:
    """Return the deletion that does the work of a delete: its own, else another that covers as much.

    Of several the first that was completed, by a handler if possible; while none is completed, the newest.

    Args:
        tombstones: the deletions of the person, the newest first.
    """
    covering = [one for one in tombstones if one.through >= through]
    own = [one for one in covering if one.event_id == event_id]
    completed = [one for one in covering if one.completed_at is not None]
    completed.sort(key=lambda one: (one.state is EventState.UNSUPPORTED, one.completed_at))
    return next(iter([*own, *completed, *covering]), None)


async def covered_ids(store: DeletionStore, tenant: Tenant, person: str, through: datetime) -> set[str]:
    """Return an id, every id that was merged into it by alias up to an instant, and the devices they were seen on."""
    people, devices, frontier = {person}, set[str](), {person}
    while frontier:
        links = await store.links(tenant, frontier, through)
        devices |= {link.device_hash for link in links if link.device_hash is not None}
        frontier = {link.previous_hash for link in links if link.previous_hash is not None} - people
        people |= frontier
    return people | devices


async def request(store: DeletionStore, event_id: int, delete: NewEvent) -> Repetition | None:
    """Write the tombstones of a delete that was just stored, or recognise a further message of the same deletion.

    Segment sends a message for each source (contract 7.1). A further one within a day is the same deletion, unless
    something newer of the person has been stored or the first one was given up. It extends that deletion.
    """
    if delete.person_hash is None:
        raise ValueError("a delete names no person")
    tenant = Tenant(delete.account, delete.component)
    through = reach(delete.occurred_at, delete.received_at)
    hashes = await covered_ids(store, tenant, delete.person_hash, through)
    first = next(iter(await store.tombstones(tenant, delete.person_hash)), None)
    if (
        first is None
        or first.state not in (EventState.PENDING, EventState.HANDLED)
        or delete.received_at - first.requested_at > SAME_DELETION
        or await store.has_newer(tenant, hashes, first.through)
    ):
        await store.write_tombstones(event_id, tenant, hashes, through=through, requested_at=delete.received_at)
        return None
    await store.extend_tombstones(first.event_id, hashes, through)
    return Repetition(event_id, delete, first.event_id, first.through)


async def decide(store: DeletionStore, candidates: Iterable[Candidate]) -> Decisions:
    """Decide which deletes and aliases are handed out, and which aliases as deletions."""
    late_merges: dict[int, datetime] = {}
    waiting: set[int] = set()
    needs_commit = False
    for candidate in candidates:
        through: datetime | None = reach(candidate.occurred_at, candidate.received_at)
        try:
            if candidate.type == "alias":
                through = await _late_merge(store, candidate)
                if through is not None:
                    late_merges[candidate.event_id] = through
            if through is not None and not await _may_begin(store, candidate, through):
                waiting.add(candidate.event_id)
        except Undecided as reason:
            waiting.add(candidate.event_id)
            needs_commit = needs_commit or isinstance(reason, _Uncommitted)
    return Decisions(late_merges, waiting, needs_commit)


async def _late_merge(store: DeletionStore, merge: Candidate) -> datetime | None:
    """Return through when the person of an alias was deleted; ``None`` if the alias is handed out as such.

    It is handed out as such while a delete that covers it waits for its handlers: they learn what else to erase. Once
    it is a deletion, it stays one.
    """
    own = await store.covered_by(merge.event_id)
    if own:
        return own.get(merge.other or "", max(own.values()))  # version 1 noted not all of them for each
    covering = [one for one in await store.tombstones(merge.tenant, merge.person) if one.through >= merge.occurred_at]
    if not covering or await store.has_waiting_delete([one.event_id for one in covering]):
        return None
    return max(one.through for one in covering)


async def _may_begin(store: DeletionStore, deletion: Candidate, through: datetime) -> bool:
    """Return True if a deletion may begin, after its tombstones are written.

    It waits while an event that it covers is leased: the event's handler could write the person back after they were
    erased. A delete that has not begun waits for the merges that are handed out before it, too.
    """
    whom = id_to_delete(deletion.type, deletion.person, deletion.other)
    if whom is None:
        return True
    covered = await store.covered_by(deletion.event_id)
    for_merges = deletion.type == "delete" and not deletion.has_begun
    if await store.has_to_wait(deletion, covered, for_merges=for_merges):
        return False
    if covered and (deletion.has_begun or not await store.may_have_links(deletion, covered)):
        return True
    through = covered.get(whom, through)
    unknown = await covered_ids(store, deletion.tenant, whom, through) - covered.keys()
    if not unknown:
        return True
    await store.write_tombstones(
        deletion.event_id, deletion.tenant, unknown, through=through, requested_at=deletion.received_at
    )
    if store.is_shared:
        raise _Uncommitted
    covered |= dict.fromkeys(unknown, through)
    return not await store.has_to_wait(deletion, covered, for_merges=deletion.type == "delete")
