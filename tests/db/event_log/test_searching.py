"""What an operator looks for is looked for a little at a time, and following the pages finds all of it once."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enable_with_segment.db.event_log.log import SegmentLimits, StoredEventLog
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.records import (
    EventFilter,
    EventLogUnavailable,
    EventPage,
    EventRecord,
    Settlement,
)
from enable_with_segment.db.event_log.searching import SearchBounds, search
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.db.event_log.states import EventState
from tests.db.event_log.events import COMPONENTS, NOON, SMALL, later, new_event
from tests.db.event_log.turns import turns_of_others

BOUNDS = SearchBounds(events_in_step=4, steps=2)
_IN_COMMIT = 5

_ACCOUNTS = st.sampled_from(["acme", "globex"])
_TYPES = st.sampled_from(["identify", "track", "page"])
_STATES = st.sampled_from(EventState)
_LOGS = st.lists(st.tuples(_ACCOUNTS, _TYPES, _STATES, st.integers(-3, 40)), min_size=1, max_size=45)
_FILTERS = st.builds(
    EventFilter,
    account=st.none() | _ACCOUNTS | st.just("nobody"),
    component=st.none() | st.sampled_from(["acme-crm", "other"]),
    install_id=st.none() | st.sampled_from(["ins_acme", "ins_globex"]),
    type=st.none() | _TYPES,
    event=st.none() | st.sampled_from(["Event 1", "Event 2"]),
    state=st.none() | _STATES,
    message_id=st.none() | st.sampled_from(["m-0", "m-7", "m-nobody"]),
    received_from=st.none() | st.integers(0, 40).map(lambda minutes: later(minutes=minutes)),
    received_before=st.none() | st.integers(0, 40).map(lambda minutes: later(minutes=minutes)),
)


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[StoredEventLog]:
    """A log that looks through 4 events in a step and 8 in a search; on SQLite with segments of 10."""
    url = database_url.replace("control.db", "events.db")
    opened = open_event_log(url, segment_limits=SMALL, search_bounds=BOUNDS)
    yield opened
    await opened.close()


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[SqliteEventLog]:
    """The same, on SQLite only."""
    opened = SqliteEventLog(tmp_path / "events.db", limits=SMALL, bounds=BOUNDS)
    yield opened
    await opened.close()


async def _fill(log: StoredEventLog, events: list[tuple[str, str, EventState, int]], *, prefix: str = "m") -> None:
    new = [
        new_event(
            f"{prefix}-{number}", scope=f"install:ins_{account}", account=account, key_id=f"key_{account}"
        )._replace(
            install_id=f"ins_{account}", type=kind, event=f"Event {number % 3}", received_at=later(minutes=minutes)
        )
        for number, (account, kind, _, minutes) in enumerate(events)
    ]
    state_of = {}
    for start in range(0, len(new), _IN_COMMIT):
        stored = await asyncio.gather(*(log.append(event) for event in new[start : start + _IN_COMMIT]))
        for answer, (_, _, state, _) in zip(stored, events[start : start + _IN_COMMIT], strict=True):
            state_of[answer.event_id] = state
    claimed = await log.claim(COMPONENTS, limit=100, lease="a", now=later(days=1), until=later(days=2))
    ended = [Settlement(event.id, "a", state_of[event.id], later(days=1)) for event in claimed]
    assert all(await log.settle_all([end for end in ended if end.state is not EventState.PENDING]))


async def _follow(log: StoredEventLog, wanted: EventFilter, limit: int) -> list[EventRecord]:
    """Read page after page, each from where the one before it ended."""
    found: list[EventRecord] = []
    page = await log.search(wanted, limit=limit)
    while True:
        assert len(page.records) <= limit
        found += page.records
        if page.before_id is None:
            return found
        assert all(record.id >= page.before_id for record in page.records)
        assert page.back_to is not None
        before, page = page.before_id, await log.search(wanted, limit=limit, before_id=page.before_id)
        assert page.before_id is None or page.before_id < before


def _matches(record: EventRecord, wanted: EventFilter) -> bool:
    names = ("account", "component", "install_id", "type", "event", "state", "message_id")
    if any(getattr(wanted, name) not in (None, getattr(record, name)) for name in names):
        return False
    is_after = wanted.received_from is None or record.received_at >= wanted.received_from
    return is_after and (wanted.received_before is None or record.received_at < wanted.received_before)


@given(_LOGS, st.lists(_FILTERS, min_size=4, max_size=12), st.integers(1, 6), st.integers(1, 15))
@settings(max_examples=40)
def test_following_the_pages_finds_every_event_once(
    events: list[tuple[str, str, EventState, int]], filters: list[EventFilter], limit: int, in_step: int
) -> None:
    async def check(folder: Path) -> None:
        bounds = SearchBounds(events_in_step=in_step, steps=2)
        log = SqliteEventLog(folder / "events.db", limits=SegmentLimits(events=7), bounds=bounds)
        await _fill(log, events)
        everything = list(reversed(await log.tail(0, EventFilter(), limit=100)))
        assert len(everything) == len(events)
        for wanted in [EventFilter(), *filters]:
            expected = [record for record in everything if _matches(record, wanted)]
            assert await _follow(log, wanted, limit) == expected
            assert await log.find(wanted, limit=limit) == expected[:limit]
        await log.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(Path(folder)))


_EVERY_FILTER = [
    EventFilter(),
    *(EventFilter(state=state) for state in EventState),
    *(EventFilter(state=state, account="globex") for state in EventState),
    EventFilter(account="globex", type="track"),
    EventFilter(install_id="ins_acme"),
    EventFilter(event="Event 2", received_from=later(minutes=5), received_before=later(minutes=20)),
    EventFilter(message_id="m-17"),
    EventFilter(message_id="m-17", state=EventState.DEAD_LETTER),
]


async def test_pages_find_the_same_on_both_engines(log: StoredEventLog) -> None:
    states, kinds = list(EventState), ["identify", "track", "page"]
    await _fill(log, [("globex" if n % 5 == 0 else "acme", kinds[n % 3], states[n % 6], n) for n in range(35)])
    everything = list(reversed(await log.tail(0, EventFilter(), limit=100)))
    for wanted in _EVERY_FILTER:
        expected = [record for record in everything if _matches(record, wanted)]
        for limit in (1, 3, 100):
            assert await _follow(log, wanted, limit) == expected
        assert await log.find(wanted, limit=2) == expected[:2]


async def test_a_search_stops_after_so_many_events_and_says_where(log: StoredEventLog) -> None:
    rare = [("globex", "track", EventState.HANDLED, 0)]
    await _fill(log, rare + [("acme", "track", EventState.HANDLED, minute) for minute in range(1, 30)])
    ids = [record.id for record in await log.tail(0, EventFilter(), limit=100)]
    page = await log.search(EventFilter(account="globex"))
    assert page == EventPage((), ids[-8], later(minutes=22)), "the eight newest were looked at"
    older = await log.search(EventFilter(account="globex"), before_id=page.before_id)
    assert (older.records, older.back_to) == ((), later(minutes=14))
    (found,) = await log.find(EventFilter(account="globex"))
    assert (found.id, found.received_at) == (ids[0], NOON)


async def test_what_has_an_index_is_found_at_once_however_old_it_is(log: StoredEventLog) -> None:
    old = [("acme", "track", state, 0) for state in EventState if state is not EventState.HANDLED]
    await _fill(log, old + [("acme", "track", EventState.HANDLED, minute) for minute in range(1, 40)])
    for state in EventState:
        page = await log.search(EventFilter(state=state), limit=5)
        if state is not EventState.HANDLED:
            assert [(record.state, record.received_at) for record in page.records] == [(state, NOON)]
            assert page.before_id is None
    by_message = await log.search(EventFilter(message_id="m-0"))
    assert [record.message_id for record in by_message.records] == ["m-0"]


async def test_events_that_an_index_leads_to_are_bounded_as_well(log: StoredEventLog) -> None:
    for state in EventState:
        events = [("globex", "track", state, 0), *[("acme", "track", state, minute) for minute in range(1, 20)]]
        await _fill(log, events, prefix=state.value)
        page = await log.search(EventFilter(state=state, account="globex", type="track"))
        assert page.records == ()
        assert page.back_to is not None, "it stopped on the way"
        assert page.back_to >= later(minutes=11), "at most eight were looked at"


async def test_others_get_their_turn_between_the_steps_of_a_search(log: StoredEventLog) -> None:
    await _fill(log, [("acme", "track", EventState.HANDLED, minute) for minute in range(40)])
    found, turns = await turns_of_others(log.find(EventFilter(type="page")))
    assert found == []
    assert turns >= 9, "once between each two of ten steps"


async def test_what_an_index_alone_can_decide_is_looked_through_further(small: SqliteEventLog) -> None:
    """Accounts stand in the index of a state; a type stands in the row that it leads to, which takes much longer."""
    for state in (EventState.UNSUPPORTED, EventState.SUPPRESSED, EventState.DEAD_LETTER):
        await _fill(small, [("globex", "track", state, 0), *[("acme", "track", state, 1)] * 7], prefix=state.value)
        page = await small.search(EventFilter(state=state, account="globex", component="acme-crm"))
        assert [record.account for record in page.records] == ["globex"], "eight were looked at"
        by_type = await small.search(EventFilter(state=state, account="globex", type="track"))
        assert (by_type.records, by_type.back_to) == ((), later(minutes=1)), "two were looked at"


async def test_what_an_index_of_postgresql_can_decide_is_looked_through_further(postgresql_url: str) -> None:
    """That of rare states knows senders and types; the name of an event stands in the row that it leads to."""
    log = open_event_log(postgresql_url, search_bounds=SearchBounds(events_in_step=10, steps=2))
    for state in (EventState.UNSUPPORTED, EventState.SUPPRESSED, EventState.REPEATED_DELETE, EventState.DEAD_LETTER):
        await _fill(log, [("globex", "page", state, 0), *[("acme", "track", state, 1)] * 12], prefix=state.value)
        for wanted in (EventFilter(account="globex"), EventFilter(install_id="ins_globex"), EventFilter(type="page")):
            page = await log.search(replace(wanted, state=state))
            assert [record.account for record in page.records] == ["globex"], "all thirteen were looked at"
        by_name = await log.search(EventFilter(state=state, account="globex", event="Event 0"))
        assert (by_name.records, by_name.back_to) == ((), later(minutes=1)), "two were looked at"
    await log.close()


async def test_a_search_that_takes_long_takes_no_further_step(log: StoredEventLog) -> None:
    await _fill(log, [("acme", "track", EventState.HANDLED, minute) for minute in range(40)])
    ids = [record.id for record in await log.tail(0, EventFilter(), limit=100)]

    async def step(before_id: int | None, limit: int) -> EventPage:
        return await log.search(EventFilter(type="page"), limit=limit, before_id=before_id)

    for seconds, steps in ((1.0, 1), (1.5, 2), (9.0, 3)):
        bounds, clock = SearchBounds(events_in_step=8, steps=3, seconds=seconds), partial(next, iter(range(9)))
        page = await search(step, bounds, limit=5, before_id=None, clock=clock)
        assert page == EventPage((), ids[-8 * steps], later(minutes=40 - 8 * steps))


async def test_of_the_segments_those_that_never_saw_a_message_are_not_asked_for_it(
    small: SqliteEventLog, tmp_path: Path
) -> None:
    await _fill(small, [("acme", "track", EventState.HANDLED, minute) for minute in range(25)])
    spoilt = apsw.Connection(str(tmp_path / "events.db.000000000000001"))
    spoilt.execute("DROP VIEW messages")
    spoilt.close()
    for message_id, count in (("m-17", 1), ("m-never", 0)):
        assert len(await small.show(message_id)) == count
        assert len((await small.search(EventFilter(message_id=message_id))).records) == count
        assert (await small.prove([message_id])).missing == (() if count else (message_id,))
    with pytest.raises(EventLogUnavailable):
        await small.show("m-3")


_OF_VERSION_2 = """
CREATE INDEX dead_letters ON events (id) WHERE state = 5;
CREATE INDEX rare ON events (state) WHERE state > 1 AND state < 5;
PRAGMA user_version = 2;
"""


@pytest.mark.parametrize("earlier", ["PRAGMA user_version = 1", _OF_VERSION_2], ids=["version 1", "version 2"])
async def test_a_file_of_an_earlier_version_gets_the_indexes_of_rare_states(tmp_path: Path, earlier: str) -> None:
    log = SqliteEventLog(tmp_path / "events.db", bounds=BOUNDS)
    states = (EventState.UNSUPPORTED, EventState.DEAD_LETTER)
    await _fill(log, [(account, "track", state, 0) for state in states for account in ("globex", *["acme"] * 7)])
    await log.close()
    connection = apsw.Connection(str(tmp_path / "events.db.000000000000001"))
    connection.execute(f"DROP INDEX rare; DROP INDEX dead_letters; {earlier}")
    connection.close()
    log = SqliteEventLog(tmp_path / "events.db", bounds=BOUNDS)
    for state in states:
        (found,) = (await log.search(EventFilter(state=state, account="globex"))).records
        assert found.account == "globex"
    await log.close()
