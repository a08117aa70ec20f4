"""Answers that are given once everything that had arrived has been read."""

from __future__ import annotations

import asyncio

import pytest

from enable_with_segment.subscriptions.receiving.server.pending_answers import PendingAnswers


class Connection:
    def __init__(self, paid: list[Connection], *, fails: bool = False) -> None:
        self.paid = paid
        self.fails = fails

    def answer_pending(self) -> None:
        if self.fails:
            raise ZeroDivisionError
        self.paid.append(self)


async def test_all_are_paid_in_order_after_what_the_loop_does_now(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    owed = PendingAnswers.of(loop)
    assert PendingAnswers.of(loop) is owed
    paid: list[Connection] = []
    connections = [Connection(paid, fails=number == 1) for number in range(4)]
    for connection in connections:
        owed.add(connection, loop)
    assert paid == []
    await asyncio.sleep(0)
    assert paid == [connections[0], *connections[2:]]
    assert caplog.text.count("An answer could not be written") == 1
    owed.add(connections[3], loop)
    await asyncio.sleep(0)
    assert paid[3:] == [connections[3]]


def test_each_loop_has_its_own() -> None:
    async def mine() -> PendingAnswers:
        return PendingAnswers.of(asyncio.get_running_loop())

    assert asyncio.run(mine()) is not asyncio.run(mine())
