"""A delivery that is taken without a request, while the event log fails or the process dies around its commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import pytest

from enable_with_segment.db.event_log.log import EventLog
from tests.subscriptions.flaky_log import FlakyLog
from tests.subscriptions.mortal_log import Life, mortal_log
from tests.subscriptions.receiver import Open, Receiver, Recorder
from tests.subscriptions.short_sender import offer

AroundLog: TypeAlias = Callable[[EventLog], EventLog]


async def take(receiver: Receiver, *message_ids: str) -> list[int]:
    """Offer deliveries to the short way at the same moment; it has to take them. Returns how they were answered."""
    async with asyncio.timeout(20):
        statuses = [(await answer).status for answer in await offer(receiver, *message_ids)]
    assert receiver.webhook.concurrency_limit.running == 0
    return statuses


async def in_log(receiver: Receiver) -> list[str | None]:
    return [record.message_id for record in await receiver.records()]


def failing(moment: str) -> AroundLog:
    def around(log: EventLog) -> EventLog:
        flaky = FlakyLog(log)
        flaky.failing = {moment}
        return flaky

    return around


def dying(steps: int | None) -> AroundLog:
    return lambda log: mortal_log(log, Life(steps))


@pytest.mark.parametrize(
    ("around_log", "statuses", "stored"),
    [
        (failing("append"), [503, 503], []),
        (failing("appended"), [503, 503], ["m-1", "m-2"]),
        (dying(0), [503, 503], []),
        (dying(1), [503, 503], ["m-1"]),
        (dying(2), [503, 503], ["m-1", "m-2"]),
        (dying(3), [202, 503], ["m-1", "m-2"]),
        (dying(None), [202, 202], ["m-1", "m-2"]),
    ],
    ids=[
        "fails before the commit",
        "fails after the commit",
        "dies before anything",
        "dies before the second is handed over",
        "dies after the commit",
        "dies between two answers",
        "lives",
    ],
)
async def test_nothing_is_accepted_that_is_not_known_to_be_stored(
    opened: Open, around_log: AroundLog, statuses: list[int], stored: list[str]
) -> None:
    async with opened(Recorder().subscription, around_log=around_log) as receiver:
        assert sorted(await take(receiver, "m-1", "m-2")) == statuses
        assert sorted(map(str, await in_log(receiver))) == stored
        assert receiver.received == [None] * statuses.count(202)


@pytest.mark.parametrize("moment", ["append", "appended"])
async def test_what_was_answered_503_is_stored_once_when_it_comes_again(opened: Open, moment: str) -> None:
    logs: list[FlakyLog] = []

    def around(log: EventLog) -> EventLog:
        logs.append(FlakyLog(log))
        return logs[0]

    async with opened(Recorder().subscription, around_log=around) as receiver:
        logs[0].failing = {moment}
        assert await take(receiver, "m-1") == [503]
        logs[0].failing = set()
        assert await take(receiver, "m-1") == [202]
        assert await in_log(receiver) == ["m-1"]
