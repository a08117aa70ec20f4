"""The outbox: written with its cause, claimed by one, finished by whoever holds the lease."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import outbox
from enable_with_segment.db.control.tables import OutboxEntry
from enable_with_segment.db.database import Database

LEASE = timedelta(minutes=1)


async def put(database: Database, install_id: str = "ins_1") -> str:
    async with database.transaction() as session:
        return await outbox.add(session, "provision", install_id, now=utc_now(), payload={"overwrite": True})


async def claim(database: Database, owner: str, *, later: timedelta = timedelta(0)) -> OutboxEntry | None:
    async with database.transaction() as session:
        return await outbox.claim(session, kinds=["provision"], owner=owner, now=utc_now() + later, lease=LEASE)


async def test_an_entry_disappears_with_the_transaction_that_wrote_it(database: Database) -> None:
    async def fail() -> None:
        async with database.transaction() as session:
            await outbox.add(session, "provision", "ins_1", now=utc_now())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await claim(database, "a") is None


async def test_a_claimed_entry_carries_its_payload_and_counts_attempts(database: Database) -> None:
    entry_id = await put(database)
    claimed = await claim(database, "a")
    assert claimed is not None
    assert (claimed.id, claimed.payload, claimed.attempts, claimed.lease_owner) == (
        entry_id,
        {"overwrite": True},
        1,
        "a",
    )


async def test_of_many_claims_at_once_one_gets_the_entry(database: Database) -> None:
    await put(database)
    claimed = await asyncio.gather(*(claim(database, f"owner-{n}") for n in range(20)))
    assert sum(entry is not None for entry in claimed) == 1


async def test_many_claims_at_once_get_different_entries(database: Database) -> None:
    ids = {await put(database, f"ins_{n}") for n in range(10)}
    claimed = await asyncio.gather(*(claim(database, f"owner-{n}") for n in range(10)))
    got = {entry.id for entry in claimed if entry is not None}
    # A claim may skip a row that another is just taking; what is left is there for the next.
    while (entry := await claim(database, "last")) is not None:
        assert entry.id not in got
        got.add(entry.id)
    assert got == ids


async def test_the_entry_that_was_due_first_comes_first(database: Database) -> None:
    ids = [await put(database, f"ins_{n}") for n in range(3)]
    claimed = [await claim(database, "a") for _ in ids]
    assert [entry.id for entry in claimed if entry is not None] == ids


async def test_a_lease_that_ran_out_is_taken_over_and_the_late_holder_changes_nothing(database: Database) -> None:
    entry_id = await put(database)
    assert await claim(database, "slow") is not None
    assert await claim(database, "quick", later=LEASE / 2) is None
    assert await claim(database, "quick", later=LEASE) is not None
    async with database.transaction() as session:
        assert not await outbox.finish(session, entry_id, owner="slow", now=utc_now())
        assert not await outbox.postpone(session, entry_id, owner="slow", until=utc_now(), error="late")
    async with database.transaction() as session:
        assert await outbox.finish(session, entry_id, owner="quick", now=utc_now())


async def test_a_finished_entry_is_never_claimed_again(database: Database) -> None:
    entry_id = await put(database)
    await claim(database, "a")
    async with database.transaction() as session:
        await outbox.finish(session, entry_id, owner="a", now=utc_now(), error="given up")
        assert await outbox.open_of_install(session, "ins_1") == []
        assert await outbox.next_due(session) is None
    assert await claim(database, "a", later=timedelta(days=1)) is None


async def test_a_postponed_entry_waits(database: Database) -> None:
    entry_id = await put(database)
    await claim(database, "a")
    until = utc_now() + timedelta(minutes=5)
    async with database.transaction() as session:
        assert await outbox.postpone(session, entry_id, owner="a", until=until, error="not now")
        assert await outbox.next_due(session) == until
        (waiting,) = await outbox.open_of_install(session, "ins_1")
    assert waiting.last_error == "not now"
    assert await claim(database, "a", later=timedelta(minutes=4)) is None
    again = await claim(database, "a", later=timedelta(minutes=6))
    assert again is not None
    assert again.attempts == 2


async def test_leases_can_be_freed_at_a_start(database: Database) -> None:
    await put(database)
    assert await claim(database, "dead") is not None
    async with database.transaction() as session:
        await outbox.release_leases(session, kinds=["provision"])
    assert await claim(database, "alive") is not None
