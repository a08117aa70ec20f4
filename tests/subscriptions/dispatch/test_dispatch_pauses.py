"""A handler or a component that is paused gets nothing until it is resumed."""

from __future__ import annotations

from collections import Counter

from enable_with_segment import Event, Subscription
from enable_with_segment.db.control import pauses
from enable_with_segment.db.event_log.states import EventState
from tests.subscriptions.receiver import Open


async def test_a_paused_handler_gets_nothing_until_it_is_resumed(on_sqlite: Open) -> None:
    subscription, calls = Subscription("acme-crm"), Counter[str]()

    @subscription.on("track")
    async def paused(event: Event) -> None:
        calls["paused"] += 1

    @subscription.on("track")
    async def runs(event: Event) -> None:
        calls["runs"] += 1

    async with on_sqlite(subscription) as receiver:
        now = receiver.clock()
        async with receiver.database.transaction() as session:
            assert await pauses.add(session, component="acme-crm", handler="paused", actor="test", now=now)
            assert not await pauses.add(session, component="acme-crm", handler="paused", actor="test", now=now)
        await receiver.deliver_tracks("t", 3)
        await receiver.dispatcher.run_due()
        assert calls == {"runs": 3}
        record = (await receiver.records())[0]
        assert (record.state, record.last_error) == (EventState.PENDING, "paused (track): paused")
        async with receiver.database.transaction() as session:
            assert await pauses.remove(session, component="acme-crm", handler="paused")
            assert not await pauses.remove(session, component="acme-crm", handler="paused")
        receiver.clock.advance(seconds=1)
        await receiver.log.hasten("acme-crm", now=receiver.clock())
        await receiver.dispatcher.run_due()
        assert calls == {"runs": 3, "paused": 3}


async def test_a_paused_component_gets_nothing_at_all(on_sqlite: Open) -> None:
    subscription, calls = Subscription("acme-crm"), Counter[str]()

    @subscription.on("track")
    async def handle(event: Event) -> None:
        calls["handle"] += 1

    async with on_sqlite(subscription) as receiver:
        async with receiver.database.transaction() as session:
            await pauses.add(session, component="acme-crm", handler=None, actor="test", now=receiver.clock())
        await receiver.deliver_tracks("t", 2)
        assert await receiver.dispatcher.run_due() == 0
        async with receiver.database.transaction() as session:
            await pauses.remove(session, component="acme-crm", handler=None)
        assert await receiver.dispatcher.run_due() == 0  # known for another second
        receiver.clock.advance(seconds=1)
        assert await receiver.dispatcher.run_due() == 2


async def test_nothing_is_handed_out_while_nobody_knows_what_is_paused(on_sqlite: Open) -> None:
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def handle(event: Event) -> None: ...

    async with on_sqlite(subscription) as receiver:

        async def rename(old: str, new: str) -> None:
            async with receiver.database.engine.begin() as connection:
                await connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

        await receiver.deliver_tracks("t", 1)
        await rename("pauses", "elsewhere")
        assert await receiver.dispatcher.run_due() == 0
        await rename("elsewhere", "pauses")
        assert await receiver.dispatcher.run_due() == 1
        await rename("pauses", "elsewhere")  # from here on it goes by what it knows
        await receiver.deliver_tracks("later", 1)
        receiver.clock.advance(seconds=2)
        assert await receiver.dispatcher.run_due() == 1
