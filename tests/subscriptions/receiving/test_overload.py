"""More deliveries than can be answered in time: the rest is refused at once, with 503 and Retry-After."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from enable_with_segment.db.control import api_keys
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.records import Appended, NewEvent
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.http_client import httpx
from enable_with_segment.subscriptions.receiving.concurrency_limit import TURN_SECONDS, ConcurrencyLimit, admissible
from enable_with_segment.subscriptions.receiving.webhook import WebhookLimits
from tests.subscriptions.receiver import Open, Receiver, Recorder, basic

EVENT = {"type": "identify", "userId": "u-1"}


class HeldUpLog(SqliteEventLog):
    """A log whose commits wait until they may go on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go = asyncio.Event()
        self.three = asyncio.Barrier(4)
        self.waiting = 0
        self.most_waiting = 0

    async def append(self, event: NewEvent) -> Appended:
        self.waiting += 1
        self.most_waiting = max(self.waiting, self.most_waiting)
        if self.waiting <= 3 and not self.go.is_set():
            await self.three.wait()
        await self.go.wait()
        try:
            return await super().append(event)
        finally:
            self.waiting -= 1


@pytest.fixture
async def held_up(tmp_path: Path) -> AsyncIterator[HeldUpLog]:
    """An empty log of that kind."""
    log = HeldUpLog(tmp_path / "held-up.db")
    yield log
    await log.close()


async def test_wh_11_what_is_too_much_at_once_is_refused_early(
    on_sqlite: Open, recorder: Recorder, held_up: HeldUpLog
) -> None:
    limits = WebhookLimits(deliveries_at_once=3)
    async with on_sqlite(recorder.subscription, event_log=held_up, webhook_limits=limits) as receiver:
        taken = [asyncio.create_task(receiver.deliver({**EVENT, "messageId": f"m-{n}"})) for n in range(3)]
        await held_up.three.wait()  # until all three of them wait for a commit
        refused = [await receiver.deliver({**EVENT, "messageId": f"late-{n}"}) for n in range(6)]
        assert {response.status_code for response in refused} == {503}
        assert all(int(response.headers["retry-after"]) > 0 for response in refused)
        held_up.go.set()
        answers = Counter(response.status_code for response in await asyncio.gather(*taken))
        assert answers == {202: 3}
        assert (await receiver.deliver({**EVENT, "messageId": "after"})).status_code == 202
        assert (await held_up.prove(["m-0", "m-1", "m-2", "after"])).missing == ()


async def test_wh_14_places_that_one_sender_holds_are_free_again_within_the_limits(
    on_sqlite: Open, recorder: Recorder
) -> None:
    async with on_sqlite(recorder.subscription, webhook_limits=WebhookLimits(deliveries_at_once=3)) as receiver:
        loud, quiet = receiver.key, await receiver.mint("quiet")
        reading = asyncio.Barrier(4)
        statuses: list[int] = []

        async def never_sent() -> NoReturn:
            await reading.wait()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: MutableMapping[str, Any]) -> None:
            if "status" in message:
                statuses.append(message["status"])

        headers = [(b"authorization", basic(loud).encode()), (b"content-length", b"100")]
        scope = {"type": "http", "method": "POST", "path": "/acme-crm", "headers": headers}
        held = [asyncio.create_task(receiver.webhook(scope, never_sent, send)) for _ in range(3)]
        await reading.wait()  # until all three of them wait for their bodies
        assert (await receiver.deliver({**EVENT, "messageId": "m-1"}, key=quiet)).status_code == 503
        watchdog = receiver.webhook.watchdog
        for wait in tuple(watchdog.waits):
            wait.look(watchdog.loop.time() + WebhookLimits().body_seconds)  # as if so much time had passed
        await asyncio.gather(*held)
        assert statuses == [503] * 3
        assert (await receiver.deliver({**EVENT, "messageId": "m-1"}, key=quiet)).status_code == 202


async def test_wh_14_who_sends_too_much_leaves_places_for_everybody_else(
    on_sqlite: Open, recorder: Recorder, held_up: HeldUpLog
) -> None:
    limits = WebhookLimits(deliveries_at_once=20)
    async with on_sqlite(recorder.subscription, event_log=held_up, webhook_limits=limits) as receiver:
        loud, others = receiver.key, [await receiver.mint(f"customer-{number}") for number in range(4)]

        def send(key: str, name: str) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(receiver.deliver({**EVENT, "messageId": name}, key=key))

        flood = [send(loud, f"m-{number}") for number in range(60)]
        await held_up.three.wait()
        while sum(task.done() for task in flood) < 44:  # noqa: ASYNC110  whoever is refused is done
            await asyncio.sleep(0)
        quiet = [send(key, "m-1") for key in others]
        assert (await send(loud, "one more")).status_code == 503
        held_up.go.set()
        assert [(await task).status_code for task in quiet] == [202] * 4
        assert Counter([(await task).status_code for task in flood]) == {202: 16, 503: 44}
        assert (await send(loud, "after")).status_code == 202


async def test_wh_14_made_up_keys_leave_places_for_customers(
    on_sqlite: Open, recorder: Recorder, held_up: HeldUpLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is another one, and together they are one sender, while what they are worth is looked up."""
    limits = WebhookLimits(deliveries_at_once=20)
    async with on_sqlite(recorder.subscription, event_log=held_up, webhook_limits=limits) as receiver:
        await _recognise(receiver, receiver.key)
        read, go_on = api_keys.read_by_hashes, asyncio.Event()

        async def read_slowly(*arguments: Any) -> Any:
            await go_on.wait()
            return await read(*arguments)

        monkeypatch.setattr(api_keys, "read_by_hashes", read_slowly)
        made_up = [asyncio.create_task(receiver.deliver(EVENT, key=f"key_{number}")) for number in range(60)]
        while sum(task.done() for task in made_up) < 44:  # noqa: ASYNC110  whoever is refused is done
            await asyncio.sleep(0)
        customer = [asyncio.create_task(receiver.deliver({**EVENT, "messageId": f"m-{n}"})) for n in range(3)]
        await held_up.three.wait()
        held_up.go.set()
        assert [(await task).status_code for task in customer] == [202] * 3
        go_on.set()
        assert Counter([(await task).status_code for task in made_up]) == {401: 16, 503: 44}


async def test_wh_14_one_key_presented_in_many_ways_is_one_sender(
    on_sqlite: Open, recorder: Recorder, held_up: HeldUpLog
) -> None:
    """The password of Basic authentication is ignored, so anybody who has a key has many presentations of it."""
    limits = WebhookLimits(deliveries_at_once=20)
    async with on_sqlite(recorder.subscription, event_log=held_up, webhook_limits=limits) as receiver:
        other = await receiver.mint("customer-1")
        for key in (receiver.key, other):
            await _recognise(receiver, key)

        def send(name: str) -> asyncio.Task[httpx.Response]:
            authorization = httpx.BasicAuth(receiver.key, name)
            return asyncio.create_task(receiver.client.post("/subscriptions/acme-crm", json=EVENT, auth=authorization))

        flood = [send(str(number)) for number in range(60)]
        await held_up.three.wait()
        while sum(task.done() for task in flood) < 44:  # noqa: ASYNC110  whoever is refused is done
            await asyncio.sleep(0)
        quiet = asyncio.create_task(receiver.deliver({**EVENT, "messageId": "m-1"}, key=other))
        await asyncio.sleep(0.05)
        held_up.go.set()
        assert (await quiet).status_code == 202
        assert Counter([(await task).status_code for task in flood]) == {202: 16, 503: 44}


async def test_wh_14_customers_are_no_strangers_after_somebody_elses_key_was_revoked(
    on_sqlite: Open, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = WebhookLimits(deliveries_at_once=20)
    async with on_sqlite(recorder.subscription, webhook_limits=limits) as receiver:
        await _recognise(receiver, receiver.key)
        read, go_on = api_keys.read_by_hashes, asyncio.Event()

        async def read_slowly(database: Database, hashes: Sequence[str]) -> Any:
            if receiver.api_keys.key_cache.hash(receiver.key) not in hashes:
                await go_on.wait()
            return await read(database, hashes)

        monkeypatch.setattr(api_keys, "read_by_hashes", read_slowly)
        made_up = [asyncio.create_task(receiver.deliver(EVENT, key=f"key_{number}")) for number in range(60)]
        while sum(task.done() for task in made_up) < 44:  # noqa: ASYNC110  whoever is refused is done
            await asyncio.sleep(0)
        receiver.api_keys.key_cache.forget()
        customer = asyncio.create_task(receiver.deliver(EVENT))
        await asyncio.sleep(0.05)
        go_on.set()
        assert (await customer).status_code == 202
        assert Counter([(await task).status_code for task in made_up]) == {401: 16, 503: 44}


async def test_wh_14_large_bodies_of_one_sender_leave_memory_for_the_others(
    on_sqlite: Open, recorder: Recorder, held_up: HeldUpLog
) -> None:
    limits = WebhookLimits(memory_bytes=100_000, body_bytes=10_000)
    async with on_sqlite(recorder.subscription, event_log=held_up, webhook_limits=limits) as receiver:
        other = await receiver.mint("customer-1")
        for key in (receiver.key, other):
            await _recognise(receiver, key)
        event = {**EVENT, "traits": {"pad": "x" * 9_000}}
        flood = [asyncio.create_task(receiver.deliver({**event, "messageId": f"m-{n}"})) for n in range(20)]
        await held_up.three.wait()
        while sum(task.done() for task in flood) < 12:  # noqa: ASYNC110  whoever is refused is done
            await asyncio.sleep(0)
        quiet = asyncio.create_task(receiver.deliver({**event, "messageId": "m-1"}, key=other))
        await asyncio.sleep(0.05)
        held_up.go.set()
        assert (await quiet).status_code == 202
        assert Counter([(await task).status_code for task in flood]) == {202: 8, 503: 12}


async def _recognise(receiver: Receiver, key: str) -> None:
    recognition = receiver.api_keys.key_cache
    await recognition.look_up(key, place=recognition.place(basic(key).encode()))


async def _nothing_is_read() -> NoReturn:
    raise AssertionError("a refused delivery is not read")


async def test_what_is_too_large_for_the_memory_left_is_refused_unread(
    on_sqlite: Open, recorder: Recorder, held_up: HeldUpLog
) -> None:
    limits = WebhookLimits(memory_bytes=100_000, body_bytes=50_000)
    async with on_sqlite(recorder.subscription, event_log=held_up, webhook_limits=limits) as receiver:
        event = {**EVENT, "traits": {"pad": "x" * 30_000}}
        keys = [receiver.key, await receiver.mint("customer-1"), await receiver.mint("customer-2")]
        for key in keys:
            await _recognise(receiver, key)
        taken = [asyncio.create_task(receiver.deliver({**event, "messageId": "m-1"}, key=key)) for key in keys]
        await held_up.three.wait()  # they hold a little more than 90,000 bytes
        sent: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        for headers in (
            [(b"content-length", b"20000")],
            [],
            [(b"content-length", b"9"), (b"content-encoding", b"gzip")],
        ):
            scope = {"type": "http", "method": "POST", "path": "/acme-crm", "headers": headers}
            await receiver.webhook(scope, _nothing_is_read, send)
        assert [message["status"] for message in sent if "status" in message] == [503, 503, 503]
        held_up.go.set()
        assert {response.status_code for response in await asyncio.gather(*taken)} == {202}
        assert (await receiver.deliver({**event, "messageId": "after"})).status_code == 202


async def test_many_times_more_than_can_be_taken_is_answered_202_or_503_and_nothing_of_it_is_lost(
    on_sqlite: Open, recorder: Recorder, held_up: HeldUpLog
) -> None:
    """The short form of ``benchmarks/overload.py``; a sender alone gets three quarters of the places."""
    limits = WebhookLimits(deliveries_at_once=40)
    async with on_sqlite(recorder.subscription, event_log=held_up, webhook_limits=limits) as receiver:
        offered = {
            f"m-{n}": asyncio.create_task(receiver.deliver({**EVENT, "messageId": f"m-{n}"})) for n in range(300)
        }
        await held_up.three.wait()
        while sum(task.done() for task in offered.values()) < 269:  # noqa: ASYNC110  whoever is refused is done
            await asyncio.sleep(0)
        held_up.go.set()
        answers = {message_id: (await task).status_code for message_id, task in offered.items()}
        assert Counter(answers.values()) == {202: 31, 503: 269}
        assert held_up.most_waiting == 31
        acknowledged = [message_id for message_id, status in answers.items() if status == 202]
        assert (await held_up.prove(acknowledged)).missing == ()
        assert (await receiver.deliver({**EVENT, "messageId": "after"})).status_code == 202


def test_fewer_are_let_in_while_the_event_loop_cannot_keep_up() -> None:
    assert admissible(1_000, 1_000, 2 * TURN_SECONDS) == 500
    assert admissible(1_000, 1_000, 100.0) == 500, "at most half as many at a time"
    assert admissible(210, 1_000, 100.0) == 200, "a slow disk must not shut the door"
    assert admissible(3, 3, 100.0) == 3
    assert admissible(500, 1_000, TURN_SECONDS / 2) == 500
    assert admissible(500, 1_000, 0.0) == 1_000
    assert admissible(800, 1_000, 0.0) == 1_000


def test_what_left_makes_room_again() -> None:
    limit = ConcurrencyLimit(2, most_bytes=1_000, body_bytes=600)
    first = limit.acquire(b"400", None)
    assert first == 400
    assert limit.acquire(None, None) == 600, "a body of unknown length counts as the largest"
    assert limit.acquire(b"0", None) is None, "two are there"
    limit.release(first)
    assert limit.acquire(b"401", None) is None
    assert limit.acquire(b"400", None) == 400
    alone = ConcurrencyLimit(2, most_bytes=100, body_bytes=600)
    assert alone.acquire(b"500", None) == 500, "one is always let in"
