"""So many events wait to be handled that no more are let in, until enough of them have been handled."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest

from enable_with_segment.db.event_log.recent_backlog import RecentBacklog
from enable_with_segment.db.event_log.records import EventLogUnavailable, Settlement
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.subscriptions.receiving.backlog_limit import BacklogLimit
from enable_with_segment.subscriptions.receiving.concurrency_limit import TURN_SECONDS, ConcurrencyLimit
from tests.db.event_log.events import COMPONENTS
from tests.subscriptions.answers import message
from tests.subscriptions.receiver import Open, Receiver, Recorder, basic, track
from tests.subscriptions.signed_sender import TRACK, Sender

SHUT = "Too many events wait to be handled. Try again."


async def _handle(receiver: Receiver, count: int) -> None:
    """Be done with some events."""
    now = receiver.clock()
    claimed = await receiver.log.claim(COMPONENTS, limit=count, lease="a", now=now, until=now + timedelta(minutes=1))
    settlements = [Settlement(event.id, "a", EventState.HANDLED, now) for event in claimed]
    assert list(await receiver.log.settle_all(settlements)) == [True] * count


async def test_wh_11_a_full_backlog_refuses_everybody_and_opens_below_nine_tenths(
    opened: Open, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(recorder.subscription) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        limit = BacklogLimit(RecentBacklog(receiver.log), receiver.webhook.concurrency_limit, most=10)
        await receiver.deliver_tracks("m", 9)
        await limit.look()
        assert (await receiver.deliver(track("last"))).status_code == 202
        await limit.look()
        refused = [
            await receiver.deliver(track("late")),
            await receiver.deliver({"type": "delete", "userId": "u-1", "messageId": "d"}),
            await sender.send(TRACK),
            await sender.send([TRACK, TRACK]),
        ]
        assert [(answer.status_code, message(answer), answer.headers["retry-after"]) for answer in refused] == [
            (503, SHUT, "10")
        ] * 4
        await _handle(receiver, 1)
        await limit.look()
        assert (await receiver.deliver(track("late"))).status_code == 503, "nine tenths are too many still"
        await _handle(receiver, 1)
        await limit.look()
        assert (await receiver.deliver(track("late"))).status_code == 202
        assert (await sender.send(TRACK)).status_code == 202
        assert (await receiver.log.prove(["d"])).missing == ("d",)
    told = [record.getMessage() for record in caplog.records if record.name.endswith("backlog_limit")]
    assert told == [
        "Answering 503: 10 events or more wait to be handled, as many as MOST_PENDING_EVENTS allows;"
        " deliveries are taken again when less than 90 % of them do",
        "Deliveries are taken again: 8 events wait to be handled",
    ]


async def _nothing_is_read() -> NoReturn:
    raise AssertionError("a refused delivery is not read")


async def test_what_a_full_backlog_refuses_is_not_read_nor_its_key_looked_up(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await receiver.deliver_tracks("m", 1)
    await BacklogLimit(RecentBacklog(receiver.log), receiver.webhook.concurrency_limit, most=1).look()
    monkeypatch.delattr(type(receiver.api_keys.key_cache), "look_up")
    sent: list[MutableMapping[str, Any]] = []

    async def send(part: MutableMapping[str, Any]) -> None:
        sent.append(part)

    headers = [(b"authorization", basic("never-seen").encode()), (b"content-length", b"200")]
    scope = {"type": "http", "method": "POST", "path": "/acme-crm", "headers": headers}
    await receiver.webhook(scope, _nothing_is_read, send)
    assert sent[0]["status"] == 503


async def test_a_log_that_cannot_count_leaves_the_door_as_it_is(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(*_arguments: object) -> NoReturn:
        raise EventLogUnavailable("it is away")

    limit = BacklogLimit(RecentBacklog(receiver.log), receiver.webhook.concurrency_limit, most=1)
    with monkeypatch.context() as patched:
        patched.setattr(receiver.log, "count_pending", away)
        await limit.look()
    reached = [limit.is_reached]
    await receiver.deliver_tracks("m", 1)
    await limit.look()
    with monkeypatch.context() as patched:
        patched.setattr(receiver.log, "count_pending", away)
        for _ in range(5):
            await limit.look()
    reached.append(limit.is_reached)
    assert sum("cannot be counted" in text for text in caplog.messages) == 2, "once each time"
    await _handle(receiver, 1)
    await limit.look()
    assert [*reached, limit.is_reached] == [False, True, False]


class Ticks:
    """A clock that goes on when somebody counts or sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) == 4:
            raise asyncio.CancelledError


class SlowlyCounted(SqliteEventLog):
    """A log that takes its time for counting."""

    def __init__(self, path: Path, ticks: Ticks, seconds: list[float]) -> None:
        super().__init__(path)
        self._ticks = ticks
        self._seconds = seconds

    async def count_pending(self, most: int) -> int:
        self._ticks.now += self._seconds.pop(0)
        return await super().count_pending(most)


async def test_it_looks_every_two_seconds_and_less_often_where_counting_takes_long(tmp_path: Path) -> None:
    ticks = Ticks()
    log = SlowlyCounted(tmp_path / "events.db", ticks, [0.0, 3.0, 30.0, 0.05])
    concurrency = ConcurrencyLimit(1, most_bytes=1, body_bytes=1)
    limit = BacklogLimit(RecentBacklog(log, clock=ticks), concurrency, most=1, sleep=ticks.sleep)
    with pytest.raises(asyncio.CancelledError):
        await limit.run()
    assert ticks.slept == [2.0, 60.0, 120.0, 2.0]
    await log.close()


def test_short_turns_do_not_open_what_is_shut() -> None:
    limit = ConcurrencyLimit(1_000, most_bytes=1_000, body_bytes=600)
    held = limit.acquire(b"0", None)
    assert held is not None
    limit.shut()
    assert (limit.near_limit, limit.refuses(b"0", None), limit.acquire(b"0", None)) == (True, True, None)
    limit.turn_took(2 * TURN_SECONDS)
    assert limit.most == 0
    limit.release(held)
    assert limit.acquire(b"0", None) is None, "not even one is let in"
    limit.open()
    assert limit.most == 500
    assert not limit.near_limit
    limit.turn_took(0.0)
    assert limit.most == 1_000
