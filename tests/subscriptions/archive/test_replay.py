"""Replay of stored events, and dead letters by cause."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from enable_with_segment import Event, InvalidEventPayload, Subscription
from enable_with_segment.components.handler import Handler
from enable_with_segment.db.control import audit, pauses, replays
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.event_log.records import EventFilter
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.subscriptions.archive.dead_letter_groups import find_groups, retry_group
from enable_with_segment.subscriptions.archive.replay import (
    ComponentPaused,
    HandlerGone,
    Replayer,
    ReplayNotFound,
    ReplayRequest,
)
from tests.subscriptions.receiver import Receiver, open_receiver

SINGLE, STORE, ORDER = "single (track)", "store (track)", "order (track Order Completed)"


class Partner:
    """Two handlers for the same events, one of which may refuse them."""

    def __init__(self) -> None:
        self.subscription = Subscription("acme-crm")
        self.calls: list[tuple[str, str | None, bool]] = []
        self.refuses = False
        self.subscription.on("track")(self.handler("single"))
        self.subscription.on("track")(self.handler("store"))
        self.subscription.on("identify")(self.handler("people"))
        self.subscription.on("delete")(self.handler("forget"))

    def handler(self, name: str):  # type: ignore[no-untyped-def]
        async def handle(event: Event) -> None:
            if self.refuses and name == "store":
                raise InvalidEventPayload(f"order {event.message_id} has no price for 'sku-{event.message_id}'")
            self.calls.append((name, event.message_id, event.is_replay))

        handle.__name__ = name
        return handle

    def taken(self) -> list[tuple[str, str]]:
        """What was called since this was asked last."""
        calls = sorted((name, message_id or "") for name, message_id, _ in self.calls)
        self.calls.clear()
        return calls


@pytest.fixture
def partner() -> Partner:
    return Partner()


@pytest.fixture
async def receiver(database_url: str, encryption: EncryptionKeys, partner: Partner) -> AsyncIterator[Receiver]:
    """A service with six track events and an identify that were handled, one received each minute."""
    async with open_receiver(database_url, encryption, partner.subscription) as opened:
        for number in range(6):
            payload = {"type": "track", "userId": "u-1", "event": "Step", "messageId": f"m-{number}"}
            await opened.deliver(payload)
            opened.clock.advance(minutes=1)
        await opened.deliver({"type": "identify", "userId": "u-2", "messageId": "m-identify"})
        await opened.dispatcher.run_due()
        partner.calls.clear()
        yield opened


class Pauses:
    """What a replay does instead of sleeping: the dispatcher gets its turn."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await self.receiver.dispatcher.run_due()


def replayer(receiver: Receiver, handlers: Sequence[Handler] = ()) -> tuple[Replayer, Pauses]:
    pauses = Pauses(receiver)
    return Replayer(receiver.log, receiver.database, handlers=handlers, clock=receiver.clock, sleep=pauses), pauses


async def replayed(receiver: Receiver, request: ReplayRequest, handlers: Sequence[Handler] = ()) -> int:
    work, _ = replayer(receiver, handlers)
    replay_id = await work.begin(request, total=0, actor="test")
    count = await work.run(replay_id)
    await receiver.dispatcher.run_due()
    return count


async def test_a_dry_run_counts_and_changes_nothing(receiver: Receiver, partner: Partner) -> None:
    await receiver.deliver({"type": "track", "userId": "u", "event": "Step", "messageId": "waits"})
    work, _ = replayer(receiver)
    counts = await work.count(ReplayRequest(EventFilter(account="acme")))
    assert (counts.events, counts.left_out) == (7, 1)
    assert dict(counts.types) == {"track": 6, "identify": 1}
    assert (dict(counts.states), dict(counts.accounts)) == ({"handled": 7}, {"acme": 7})
    assert len(await receiver.records(state=EventState.HANDLED)) == 7


async def test_a_time_range_is_handled_again_and_not_marked_as_segments_replay(
    receiver: Receiver, partner: Partner
) -> None:
    start = receiver.clock() - timedelta(minutes=6)
    within = EventFilter(received_from=start + timedelta(minutes=1), received_before=start + timedelta(minutes=3))
    assert await replayed(receiver, ReplayRequest(within)) == 2
    assert {marked for _, _, marked in partner.calls} == {False}
    assert partner.taken() == [(name, f"m-{number}") for name in ("single", "store") for number in (1, 2)]


async def test_one_handler_gets_the_events_again_and_the_others_do_not(receiver: Receiver, partner: Partner) -> None:
    assert (
        await replayed(receiver, ReplayRequest(EventFilter(type="track"), handler=STORE), partner.subscription.handlers)
        == 6
    )
    assert partner.taken() == [("store", f"m-{number}") for number in range(6)]


async def test_a_replay_for_one_handler_counts_and_hands_out_only_what_it_takes(
    receiver: Receiver, partner: Partner
) -> None:
    partner.subscription.on("track", event="Order Completed")(partner.handler("order"))
    for number, name in enumerate(("Order Completed", "order completed ", "Order Refunded")):
        await receiver.deliver({"type": "track", "userId": "u", "event": name, "messageId": f"o-{number}"})
    await receiver.dispatcher.run_due()
    partner.taken()
    request = ReplayRequest(EventFilter(), handler=ORDER)
    work, _ = replayer(receiver, partner.subscription.handlers)
    counts = await work.count(request)
    assert (counts.events, counts.left_out, dict(counts.types)) == (2, 0, {"track": 2})
    assert (await work.count(ReplayRequest(EventFilter(type="identify"), handler=ORDER))).events == 0
    assert await replayed(receiver, request, partner.subscription.handlers) == 2
    assert partner.taken() == [("order", "o-0"), ("order", "o-1")]


async def test_a_replay_for_one_handler_leaves_what_another_one_failed_a_dead_letter(
    receiver: Receiver, partner: Partner
) -> None:
    partner.refuses = True
    await receiver.deliver({"type": "track", "userId": "u", "event": "Step", "messageId": "dead"})
    await receiver.dispatcher.run_due()
    partner.refuses = False
    partner.taken()
    (before,) = await receiver.records(state=EventState.DEAD_LETTER)
    request = ReplayRequest(EventFilter(state=EventState.DEAD_LETTER), handler=SINGLE)
    assert await replayed(receiver, request, partner.subscription.handlers) == 1
    assert partner.taken() == [("single", "dead")]
    (after,) = await receiver.records(state=EventState.DEAD_LETTER)
    assert after.last_error == before.last_error
    assert await receiver.log.retry_dead_letters(None, now=receiver.clock()) == 1
    await receiver.dispatcher.run_due()
    assert partner.taken() == [("store", "dead")]


async def test_of_two_handlers_that_are_new_a_replay_calls_the_one_it_is_for(
    receiver: Receiver, partner: Partner
) -> None:
    for name in ("first_new", "second_new"):
        partner.subscription.on("track")(partner.handler(name))
    await replayed(
        receiver, ReplayRequest(EventFilter(type="track"), handler="first_new (track)"), partner.subscription.handlers
    )
    assert partner.taken() == [("first_new", f"m-{number}") for number in range(6)]
    (event,) = await receiver.log.show("m-0")
    states = {outcome.handler: outcome.state.value for outcome in event.handlers}
    assert states == {SINGLE: "done", STORE: "done", "first_new (track)": "done", "second_new (track)": "skipped"}
    assert event.record.state is EventState.HANDLED
    await replayed(
        receiver, ReplayRequest(EventFilter(type="track"), handler="second_new (track)"), partner.subscription.handlers
    )
    assert partner.taken() == [("second_new", f"m-{number}") for number in range(6)]


async def test_a_replay_for_a_handler_that_is_gone_is_refused(receiver: Receiver, partner: Partner) -> None:
    work, _ = replayer(receiver, partner.subscription.handlers)
    request = ReplayRequest(EventFilter(), handler="renamed (track)")
    with pytest.raises(HandlerGone, match="renamed"):
        await work.count(request)
    replay_id = await work.begin(request, total=6, actor="test")
    with pytest.raises(HandlerGone, match="renamed"):
        await work.run(replay_id)
    assert len(await receiver.records(state=EventState.HANDLED)) == 7


async def test_a_replay_goes_no_faster_than_asked_and_lets_live_events_pass(
    receiver: Receiver, partner: Partner
) -> None:
    work, pauses = replayer(receiver)
    await receiver.deliver({"type": "identify", "userId": "u", "messageId": "live"})
    receiver.clock.advance(seconds=2)
    replay_id = await work.begin(ReplayRequest(EventFilter(type="track"), rate=10), total=6, actor="test")
    steps: list[int] = []
    behind: list[int] = []
    assert await work.run(replay_id, progress=steps.append, waiting=behind.append) == 6
    assert behind == [1]
    assert partner.taken()[0] == ("people", "live")
    assert steps == [2, 2, 2]
    assert pauses.seconds[0] == 0.2  # the live event was waiting
    assert sum(pauses.seconds[1:]) >= 6 / 10


async def test_a_replay_goes_on_beside_live_events_that_are_not_behind(receiver: Receiver) -> None:
    """Where events come all the time there is always one that is due."""
    await receiver.deliver({"type": "identify", "userId": "u", "messageId": "live"})
    waits: list[float] = []

    async def nobody_handles_it(seconds: float) -> None:
        waits.append(seconds)

    work = Replayer(receiver.log, receiver.database, clock=receiver.clock, sleep=nobody_handles_it)
    replay_id = await work.begin(ReplayRequest(EventFilter(type="track")), total=6, actor="test")
    assert await work.run(replay_id) == 6
    assert waits == [6 / 200]


async def _pause(receiver: Receiver, *, handler: str | None = None) -> None:
    async with receiver.database.transaction() as session:
        await pauses.add(session, component="acme-crm", handler=handler, actor="test", now=receiver.clock())


async def _resume(receiver: Receiver) -> None:
    async with receiver.database.transaction() as session:
        await pauses.remove(session, component="acme-crm", handler=None)


async def test_a_replay_of_a_paused_component_is_refused_before_it_begins(receiver: Receiver) -> None:
    await _pause(receiver)
    work, _ = replayer(receiver)
    with pytest.raises(ComponentPaused, match=r"acme-crm is paused.*events resume"):
        await work.begin(ReplayRequest(EventFilter(component="acme-crm")), total=6, actor="test")
    async with receiver.database.transaction() as session:
        assert await replays.list_newest(session) == []


async def test_a_replay_ends_when_its_component_is_paused_and_goes_on_after(
    receiver: Receiver, partner: Partner
) -> None:
    work, halts = replayer(receiver)
    replay_id = await work.begin(ReplayRequest(EventFilter(type="track"), rate=10), total=6, actor="test")
    await _pause(receiver)
    await receiver.deliver({"type": "identify", "userId": "u", "messageId": "live"})
    receiver.clock.advance(seconds=5)
    with pytest.raises(ComponentPaused):
        await work.run(replay_id)
    assert (halts.seconds, partner.taken()) == ([], [])
    await _resume(receiver)
    assert await work.run(replay_id) == 6


async def test_a_replay_goes_on_while_one_handler_is_paused(receiver: Receiver, partner: Partner) -> None:
    await _pause(receiver, handler="store")
    receiver.clock.advance(seconds=1)  # until the dispatcher knows
    assert await replayed(receiver, ReplayRequest(EventFilter(type="track"))) == 6
    assert partner.taken() == [("single", f"m-{number}") for number in range(6)]


async def test_a_replay_that_was_cut_off_goes_on_where_it_stood(receiver: Receiver, partner: Partner) -> None:
    work, _ = replayer(receiver)
    replay_id = await work.begin(ReplayRequest(EventFilter(type="track"), rate=10), total=6, actor="test")

    def cut_off(_: int) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await work.run(replay_id, progress=cut_off)
    await receiver.dispatcher.run_due()
    later = {"type": "track", "userId": "u", "event": "Step", "messageId": "later"}
    await receiver.deliver(later)
    await receiver.dispatcher.run_due()
    assert partner.taken() == [(name, f"{which}") for name in ("single", "store") for which in ("later", "m-0", "m-1")]
    assert await work.run(replay_id) == 6
    await receiver.dispatcher.run_due()
    assert partner.taken() == [(name, f"m-{number}") for name in ("single", "store") for number in range(2, 6)]
    with pytest.raises(ReplayNotFound):
        await work.run(replay_id)
    async with receiver.database.transaction() as session:
        (stored,) = await replays.list_newest(session)
        assert (stored.revived, stored.finished_at) == (6, receiver.clock())
        (entry,) = await audit.list_newest(session, action="events.replay")
        assert entry.subject == replay_id


async def test_erased_people_and_deletes_stay_as_they_are(receiver: Receiver, partner: Partner) -> None:
    await receiver.deliver({"type": "delete", "userId": "u-1", "messageId": "delete-1"})
    await receiver.dispatcher.run_due()
    partner.calls.clear()
    assert await replayed(receiver, ReplayRequest(EventFilter(account="acme"))) == 1
    assert partner.taken() == [("people", "m-identify")]


async def test_dead_letters_are_grouped_by_cause_and_a_group_is_retried(receiver: Receiver, partner: Partner) -> None:
    partner.refuses = True
    for number in range(3):
        await receiver.deliver({"type": "track", "userId": "u", "event": "Step", "messageId": f"dead-{number}"})
    await receiver.dispatcher.run_due()
    (group,) = await find_groups(receiver.log, EventFilter())
    assert (group.count, sorted(group.accounts)) == (3, ["acme"])
    assert group.cause == "store (track): order dead-… has no price for …"
    assert await find_groups(receiver.log, EventFilter(account="globex")) == []
    assert await retry_group(receiver.log, "elsewhere", now=receiver.clock()) == 0
    partner.refuses = False
    partner.calls.clear()
    assert await retry_group(receiver.log, group.id, now=receiver.clock()) == 3
    await receiver.dispatcher.run_due()
    assert partner.taken() == [("store", f"dead-{number}") for number in range(3)]


async def test_a_group_can_be_replayed_at_a_rate(receiver: Receiver, partner: Partner) -> None:
    partner.refuses = True
    await receiver.deliver({"type": "track", "userId": "u", "event": "Step", "messageId": "dead"})
    await receiver.dispatcher.run_due()
    (group,) = await find_groups(receiver.log, EventFilter())
    partner.refuses = False
    partner.calls.clear()
    request = ReplayRequest(EventFilter(state=EventState.DEAD_LETTER), handler=STORE, group=group.id)
    assert await replayed(receiver, request, partner.subscription.handlers) == 1
    assert partner.taken() == [("store", "dead")]
