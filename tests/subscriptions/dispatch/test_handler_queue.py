"""A handler's queue: how much it takes, who goes next, and what it gives back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from enable_with_segment import Event, InstallContext
from enable_with_segment.components.handler import make_handler
from enable_with_segment.db.event_log.records import ClaimedEvent
from enable_with_segment.subscriptions.dispatch.attempt import Attempt
from enable_with_segment.subscriptions.dispatch.circuit import CircuitPolicy
from enable_with_segment.subscriptions.dispatch.handler_queue import Call, HandlerQueue

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


class Seconds:
    """A clock that goes forward when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def _take(event: Event) -> None: ...


async def _take_many(events: list[Event]) -> None: ...


def queue(clock: Seconds, *, places: int = 4, batch: int | None = None, ordered: bool = False) -> HandlerQueue:
    handler = make_handler(
        _take if batch is None else _take_many, type="track", event=None, batch=batch, ordered=ordered
    )
    policy = CircuitPolicy(failures=2, first=timedelta(seconds=5))
    return HandlerQueue("acme-crm", handler, places=places, seconds=2.0, circuit_policy=policy, monotonic=clock)


def attempt(event_id: int, sender: str = "a", *, user: str = "u", region: str = "eu") -> Attempt:
    claimed = ClaimedEvent(
        event_id,
        "lease",
        "track",
        sender,
        "acme-crm",
        sender,
        None,
        NOON,
        b"{}",
        {"region": region},
        0,
        (),
        suppressed=False,
        scope=sender,
    )
    return Attempt(claimed, Event({"type": "track", "userId": user}), InstallContext(sender, "acme-crm"))


def calls(subject: HandlerQueue, now: datetime = NOON) -> list[Call]:
    begun = []
    while (call := subject.next_call(now)) is not None:
        begun.append(call)
    return begun


def ids(attempts: list[Attempt]) -> list[int]:
    return [one.claimed.id for one in attempts]


def test_one_sender_leaves_places_for_others() -> None:
    subject = queue(Seconds())
    for number in range(10):
        subject.put(attempt(number))
    assert len(calls(subject)) == 2
    subject.put(attempt(90, "b"))
    subject.put(attempt(91, "c"))
    assert [call.sender for call in calls(subject)] == ["b", "c"]


def test_a_lane_takes_what_its_handler_gets_through_in_two_seconds() -> None:
    clock = Seconds()
    subject = queue(clock)
    for number in range(100):
        assert subject.has_room()
        subject.put(attempt(number))
    begun = calls(subject)
    clock.now = 0.5  # 98 wait; if the two that run ended now it would be 4 a second
    assert not subject.has_room()
    assert len(subject.shed()) == 98 - 8
    clock.now = 60.0
    assert ids(subject.shed()) == [9, 8, 7, 6]  # as many may wait as there are places
    assert not subject.has_room()
    for call in begun:
        subject.ended(call, failed=False, now=NOON)
    calls(subject)
    assert subject.has_room()


def test_a_burst_of_quick_calls_is_not_taken_for_a_slow_handler() -> None:
    clock = Seconds()
    subject = queue(clock, places=32)
    for number in range(1_000):
        subject.put(attempt(number))
    for _ in range(20):
        begun = calls(subject)
        clock.now += 0.02
        assert subject.has_room()
        assert subject.shed() == []
        for call in begun:
            subject.ended(call, failed=False, now=NOON)


def test_a_batch_holds_events_of_one_sender_with_the_same_settings() -> None:
    subject = queue(Seconds(), batch=3)
    for number in range(4):
        subject.put(attempt(number, region="us" if number == 1 else "eu"))
        subject.put(attempt(number + 10, "b"))
    begun = [(call.sender, ids(call.attempts)) for call in calls(subject)]
    assert begun == [("a", [0, 2, 3]), ("b", [10, 11, 12]), ("a", [1])]


def test_behind_an_open_circuit_nothing_waits_and_one_probe_goes_first() -> None:
    subject = queue(Seconds())
    for number in range(3):
        subject.put(attempt(number))
    for call in calls(subject):
        subject.ended(call, failed=True, now=NOON)
    assert calls(subject) == []
    ((refused, until),) = subject.turned_away(NOON)
    assert (refused.claimed.id, until) == (2, NOON + timedelta(seconds=5))
    later = NOON + timedelta(seconds=5)
    for number in range(3, 6):
        subject.put(attempt(number))
    (probe,) = calls(subject, later)
    assert probe.probe
    subject.ended(probe, failed=None, now=later)  # cut off: the next one is the probe
    (probe,) = calls(subject, later)
    subject.ended(probe, failed=False, now=later)
    assert len(calls(subject, later)) == 1


def test_a_person_is_one_at_a_time_and_stops_behind_one_that_waits() -> None:
    subject = queue(Seconds(), ordered=True)
    first, second, third = (attempt(number) for number in range(3))
    for one in (first, second, third):
        subject.put(one)
    subject.put(attempt(9, user="v"))
    assert [ids(call.attempts) for call in calls(subject)] == [[0], [9]]
    assert subject.is_in_line(third, 0)
    assert not subject.is_in_line(attempt(8, "b"), 0)
    assert subject.next_in_line(second, go_on=True) == []  # it is not its turn
    assert subject.next_in_line(first, go_on=True) == []
    assert subject.is_in_line(third, 1)
    assert subject.next_in_line(second, go_on=False) == [third]
    assert not subject.is_in_line(third, 1)


def test_a_lane_that_was_let_go_keeps_what_it_learned() -> None:
    subject = queue(Seconds())
    for number in range(8):
        subject.put(attempt(number))
    for call in calls(subject):
        subject.ended(call, failed=True, now=NOON)
    subject.reset()
    assert calls(subject) == []
    assert not subject.circuit("a").admits(NOON)
    assert subject.take_all() == []
