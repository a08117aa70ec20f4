"""What operators ask an event log, for measurements: a list with each kind of filter."""

from __future__ import annotations

from datetime import UTC, datetime

from enable_with_segment.db.event_log.records import EventFilter
from enable_with_segment.db.event_log.states import EventState

RARE = "rare"
"""The account of one event in 100,000."""

FILTERS = {
    "no filter": EventFilter(),
    **{f"state {state.value}": EventFilter(state=state) for state in EventState},
    **{f"state {state.value}, rare account": EventFilter(state=state, account=RARE) for state in EventState},
    **{
        f"state {state.value}, type that never came": EventFilter(state=state, type="alias")
        for state in EventState
        if state is not EventState.HANDLED
    },
    "rare account": EventFilter(account=RARE),
    "account that sent nothing": EventFilter(account="nobody"),
    "type that never came": EventFilter(type="alias"),
    "event that never came": EventFilter(event="Never"),
    "messageId that never came": EventFilter(message_id="never"),
    "rare account, received long ago": EventFilter(account=RARE, received_before=datetime(2026, 1, 1, tzinfo=UTC)),
}
