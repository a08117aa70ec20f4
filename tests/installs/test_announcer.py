"""The partner's on_install functions: each is called and retried alone, in a queue that nothing else waits in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from sqlmodel import select

from enable_with_segment import Subscription
from enable_with_segment.db.control import outbox
from enable_with_segment.db.control.tables import Install, OutboxEntry
from enable_with_segment.db.database import Database
from enable_with_segment.installs.announcer import InstallAnnouncer
from enable_with_segment.installs.connection_state import ANNOUNCE
from enable_with_segment.installs.outbox_worker import OutboxWorker
from tests.installs.provisioning.stage import TestClock
from tests.rows import an_install


class Announcements:
    """One install, a subscription, and the worker that calls its functions."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = TestClock()
        self.crm = Subscription("acme-crm")
        self.called: list[str] = []
        announcer = InstallAnnouncer(database, {"acme-crm": self.crm}, seconds=0.05)
        self.worker = OutboxWorker(
            database, announcer.outbox_handlers(), owner="a", clock=self.clock, jitter=lambda: 0.0
        )

    def on_install(self, name: str, then: Callable[[], Awaitable[None]] | None = None) -> None:
        async def function(change: str) -> None:
            self.called.append(f"{name} {change}")
            if then is not None:
                await then()

        function.__name__ = name
        self.crm.on_install()(function)

    async def announce(self, times: int = 1) -> None:
        now = self.clock()
        async with self.database.transaction() as session:
            if await session.get(Install, "ins_1") is None:
                session.add(an_install("ins_1", now=now, account="acct_1"))
            for _ in range(times):
                await outbox.add(session, ANNOUNCE, "ins_1", now=now, payload={"change": "connected"})

    async def waiting(self) -> list[tuple[object, str | None]]:
        async with self.database.transaction() as session:
            found = (await session.exec(select(OutboxEntry).where(OutboxEntry.finished_at == None))).all()  # noqa: E711
        return [(entry.payload.get("function"), entry.last_error) for entry in found]


@pytest.fixture
def announcements(database: Database) -> Announcements:
    return Announcements(database)


async def _hangs() -> None:
    await asyncio.Event().wait()


async def _exits() -> None:
    raise SystemExit(1)


async def test_a_function_that_fails_is_retried_alone(announcements: Announcements) -> None:
    announcements.on_install("good")
    announcements.on_install("exits", _exits)
    announcements.on_install("hangs", _hangs)
    await announcements.announce()
    await announcements.worker.run_due()
    assert sorted(announcements.called) == ["exits connected", "good connected", "hangs connected"]
    assert sorted(await announcements.waiting(), key=str) == [
        ("exits", "PartnerFunctionFailed: the on_install function 'exits' raised SystemExit"),
        ("hangs", "PartnerFunctionFailed: the on_install function 'hangs' took longer than 0.05 s"),
    ]
    announcements.clock.advance(seconds=2)
    await announcements.worker.run_due()
    assert announcements.called.count("good connected") == 1
    assert announcements.called.count("exits connected") == 2


async def test_two_functions_of_one_name_are_both_called(announcements: Announcements) -> None:
    announcements.on_install("same")
    announcements.on_install("same")
    await announcements.announce()
    await announcements.worker.run_due()
    assert (announcements.called, await announcements.waiting()) == (["same connected"] * 2, [])


async def test_a_function_that_was_removed_is_waited_for_no_longer(announcements: Announcements) -> None:
    announcements.on_install("good")
    async with announcements.database.transaction() as session:
        payload = {"change": "connected", "function": "removed"}
        await outbox.add(session, ANNOUNCE, "ins_1", now=announcements.clock(), payload=payload)
    await announcements.worker.run_due()
    assert (announcements.called, await announcements.waiting()) == ([], [])


async def test_work_at_segment_does_not_wait_for_functions_that_hang(announcements: Announcements) -> None:
    announcements.on_install("hangs", _hangs)
    await announcements.announce(times=20)
    provisioned = asyncio.Event()

    async def provision(_: OutboxEntry) -> None:
        provisioned.set()

    at_segment = OutboxWorker(
        announcements.database, {"provision": provision}, owner="b", clock=announcements.clock, poll=timedelta(hours=1)
    )
    async with announcements.database.transaction() as session:
        await outbox.add(session, "provision", "ins_1", now=announcements.clock())
    assert await at_segment.run_due() == 1
    assert provisioned.is_set()
    assert announcements.called == [], "they are another worker's"
    await announcements.worker.run_due()
    assert len(announcements.called) == 20
