"""Who is worked on, whatever order events are handed out, taken over and given back in."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.db.event_log.deletion import Candidate, Tenant
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.db.event_log.sqlite.deletion import SqliteDeletions
from enable_with_segment.db.event_log.sqlite.leases import Lease, Leases
from tests.db.event_log.claims import claim, ended, store
from tests.db.event_log.events import NOON, later, settle

_TENANT = Tenant("acme", "crm")
_PEOPLE = {event_id: (None, "ann", "bob")[event_id % 3] for event_id in range(9)}
moves = st.lists(
    st.tuples(
        st.sampled_from(["add", "end", "take back", "renew", "pass"]),
        st.lists(st.integers(0, 8), max_size=4, unique=True),
        st.sampled_from(["lease a", "lease b"]),
    ),
    max_size=40,
)


@given(moves, st.dictionaries(st.sampled_from(["ann", "bob", "lead"]), st.integers(-2, 2), max_size=3))
def test_a_deletion_waits_for_just_the_events_of_its_people(
    moves: list[tuple[str, list[int], str]], erased: dict[str, int]
) -> None:
    leases, held, now = Leases(), dict[int, Lease](), NOON
    covered = {person: later(seconds=through) for person, through in erased.items()}
    for move, event_ids, name in moves:
        match move:
            case "add":
                until = now + timedelta(seconds=5)
                taken = {
                    one: Lease(name, until, _TENANT, _PEOPLE[one], later(seconds=one - 4), 0, None) for one in event_ids
                }
                leases.add(taken.items())
                held |= taken
            case "end" | "take back":
                (leases.end if move == "end" else leases.take_back)(event_ids, name)
                held = {one: lease for one, lease in held.items() if one not in event_ids or lease.name != name}
            case "renew":
                leases.renew(event_ids, name, now + timedelta(seconds=20))
            case _:
                now += timedelta(seconds=3)
        waits = any(
            lease.until > now and lease.subject in covered and lease.occurred_at <= covered[lease.subject]
            for lease in held.values()
        )
        if leases.still_waits(100, now):
            assert waits
        assert leases.has_to_wait(100, _TENANT, covered, now) is waits
        assert leases.still_waits(100, now) is waits
        assert not leases.has_to_wait(101, Tenant("other", "crm"), covered, now)
        assert len(leases) == len(held)


async def test_a_deletion_that_waits_is_not_looked_into_again_while_it_certainly_has_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, looked_into = SqliteEventLog(tmp_path / "events.db"), list[int]()
    has_to_wait = SqliteDeletions.has_to_wait

    async def count(
        self: SqliteDeletions, deletion: Candidate, covered: dict[str, datetime], *, for_merges: bool
    ) -> bool:
        looked_into.append(deletion.event_id)
        return await has_to_wait(self, deletion, covered, for_merges=for_merges)

    monkeypatch.setattr(SqliteDeletions, "has_to_wait", count)
    await store(log, "e-1", person_hash="ann")
    working = await claim(log)
    await store(log, "d-1", at=10, type="delete", person_hash="ann")
    for _ in range(5):
        assert await claim(log) == {}
    assert looked_into == [2]
    assert await settle(log, ended(working["e-1"]))
    assert list(await claim(log)) == ["d-1"]
    await log.close()
