"""A log that was filled at once looks like one that received and handled all that."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from benchmarks.filling import COMPONENT, add_pending, fill, handle, message_id_of, vacuum
from benchmarks.lists import questions
from benchmarks.questions import RARE
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import SegmentLimits
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.postgresql import partitions
from enable_with_segment.db.event_log.records import EventFilter
from enable_with_segment.db.event_log.states import EventState
from tests.db.event_log.events import later


async def test_a_filled_log_answers_everything_that_is_asked(postgresql_url: str) -> None:
    database = Database.open(postgresql_url)
    log = open_event_log(postgresql_url, segment_limits=SegmentLimits(events=1, age=timedelta.max))
    await fill(database, log, events=10_500, span=timedelta(days=3), through_log=300)
    await vacuum(database)
    counted = await log.counts(later())
    assert counted.by_state == {
        EventState.HANDLED: 10_500 - 103,
        EventState.UNSUPPORTED: 92,
        EventState.SUPPRESSED: 9,
        EventState.DEAD_LETTER: 1,
        EventState.REPEATED_DELETE: 1,
    }
    async with database.engine.connect() as connection:
        assert len(await partitions.find(connection)) > 2
    (rare,) = await log.find(EventFilter(account=RARE))
    (found,) = await log.show(message_id_of(rare.id))
    assert [(handler.handler, handler.state.value) for handler in found.handlers] == [("crm", "done")]
    assert found.body is not None
    assert (await log.prove([message_id_of(2_345), "never"])).missing == ("never",)
    (repeated,) = await log.find(EventFilter(state=EventState.REPEATED_DELETE))
    deletion = await log.deletion_of(repeated.id)
    assert deletion is not None
    assert (deletion.event_id, deletion.completed) == (repeated.id - 2, True)
    await add_pending(log, 50, prefix="waits")
    for ask in (await questions(log)).values():
        await ask()
    waiting = await log.find(EventFilter(state=EventState.PENDING))
    assert set(Counter(record.account for record in waiting).values()) == {2, 3}
    await handle(log)
    assert await log.due([COMPONENT], now=later(days=9_999)) == 0
    await log.close()
    await database.close()
