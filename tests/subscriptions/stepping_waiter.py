"""Somebody who stands between an event log and whoever waits for it without a task."""

from __future__ import annotations

from collections.abc import Callable

from enable_with_segment.db.event_log.group_commit import Waiter
from enable_with_segment.db.event_log.records import Appended, EventLogUnavailable


class SteppingWaiter:
    """Passes everything on, a result only after a step of its own.

    Args:
        step: raises ``EventLogUnavailable`` if nobody is to hear of the result; that is passed on instead.
    """

    def __init__(self, waiter: Waiter[Appended], step: Callable[[], None]) -> None:
        self._waiter = waiter
        self._step = step

    def done(self) -> bool:
        return self._waiter.done()

    def set_result(self, appended: Appended) -> None:
        try:
            self._step()
        except EventLogUnavailable as error:
            self._waiter.set_exception(error)
        else:
            self._waiter.set_result(appended)

    def set_exception(self, error: Exception) -> None:
        self._waiter.set_exception(error)

    def cancel(self) -> None:
        self._waiter.cancel()
