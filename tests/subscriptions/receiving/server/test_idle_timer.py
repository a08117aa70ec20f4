"""One timer of the loop for the many short rests of a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from enable_with_segment.subscriptions.receiving.server.idle_timer import IdleTimer

SECONDS = 5


class FakeLoop:
    """The part of an event loop that knows the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[FakeTimer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., None], *arguments: object) -> FakeTimer:
        self.timers.append(FakeTimer(self, when, lambda: callback(*arguments)))
        return self.timers[-1]

    def go_on(self, seconds: float) -> None:
        until = self.now + seconds
        while self.timers and min(timer.when for timer in self.timers) <= until:
            due = min(self.timers, key=lambda timer: timer.when)
            self.timers.remove(due)
            self.now = max(self.now, due.when)
            due.callback()
        self.now = until


class FakeTimer:
    def __init__(self, loop: FakeLoop, when: float, callback: Callable[[], None]) -> None:
        self.loop = loop
        self.when = when
        self.callback = callback

    def cancel(self) -> None:
        self.loop.timers.remove(self)


class Resting(RuleBasedStateMachine):
    """Whatever happens, exactly the rests that last too long are ended, and at the right instant."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = FakeLoop()
        self.timer = IdleTimer(cast("Any", self.loop), SECONDS)
        self.since: float | None = None
        self.ends: list[float] = []
        self.expected: list[float] = []

    @rule()
    def rest(self) -> None:
        self.timer.rest(self._end)
        self.since = self.loop.now

    def _end(self) -> None:
        self.ends.append(self.loop.now)

    @rule()
    def wake(self) -> None:
        self.timer.wake()
        self.since = None

    @rule()
    def stop(self) -> None:
        self.timer.stop()
        self.since = None
        assert not self.loop.timers

    @rule(seconds=st.sampled_from([0.0, 0.001, 1, 4, 4.999, 5, 6, 20]))
    def go_on(self, seconds: float) -> None:
        if self.since is not None and self.since + SECONDS <= self.loop.now + seconds:
            self.expected.append(self.since + SECONDS)
            self.since = None
        self.loop.go_on(seconds)

    @invariant()
    def ends_come_in_time(self) -> None:
        assert self.ends == self.expected
        assert len(self.loop.timers) <= 1


TestResting = Resting.TestCase


def test_a_thousand_rests_need_one_timer() -> None:
    loop, ends = FakeLoop(), []
    timer = IdleTimer(cast("Any", loop), SECONDS)
    made = 0
    for _ in range(1_000):
        before = len(loop.timers)
        timer.rest(lambda: ends.append(loop.now))
        made += len(loop.timers) - before
        loop.go_on(0.001)
        timer.wake()
    assert made == 1
    assert ends == []
