"""Taking a delivery that is there as a whole, without a request, a task or a coroutine being made of it.

Those cost more than everything that has to be known of a delivery. So an HTTP server may offer here what it has read
in one piece. Only what needs no waiting and nobody's refusal is taken; with all else nothing has happened yet, and the
server makes a request of it as usual. So what is refused, and in which words, is decided in one place, ``Webhook``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from enable_with_segment.db.event_log.records import Appended, NewEvent
from enable_with_segment.subscriptions.receiving.answers import Answers, unexpected
from enable_with_segment.subscriptions.receiving.concurrency_limit import ConcurrencyLimit
from enable_with_segment.subscriptions.receiving.exchange import NO_BODY, Headers
from enable_with_segment.subscriptions.receiving.intake import Intake
from enable_with_segment.subscriptions.receiving.prepared_answer import PreparedAnswer
from enable_with_segment.subscriptions.receiving.reception import Reception
from enable_with_segment.subscriptions.receiving.store_trouble import store_trouble
from enable_with_segment.subscriptions.receiving.watchdog import Watchdog

logger = logging.getLogger(__name__)

STORING = "storing an event"

Answer: TypeAlias = Callable[[PreparedAnswer], None]


class FastPath:
    """Takes deliveries for the same components, from the same stores and within the same limits as the webhook.

    Args:
        is_open: told ``False``, nothing is taken this way.
        body_bytes: the largest body.
        store_seconds: how long storing the event may take.
    """

    def __init__(
        self,
        intake: Intake,
        reception: Reception,
        concurrency_limit: ConcurrencyLimit,
        watchdog: Watchdog,
        answers: Answers,
        *,
        is_open: Callable[[], bool],
        body_bytes: int,
        store_seconds: float,
    ) -> None:
        self.intake = intake
        self.reception = reception
        self.concurrency_limit = concurrency_limit
        self.watchdog = watchdog
        self.answers = answers
        self.accepted = PreparedAnswer(202, NO_BODY)
        self.store_seconds = store_seconds
        self._keys = reception.api_keys.key_cache
        self._is_open = is_open
        self._body_bytes = body_bytes

    def take(self, component: str, headers: Headers, body: bytes, answer: Answer) -> bool:
        """Take a delivery that was sent with POST, or leave it.

        Args:
            body: all of it; without ``Transfer-Encoding``.
            answer: called once, after this returned ``True`` and once the event is durable or cannot be.
        """
        credentials = headers.only(b"authorization")
        if credentials is None or headers.get(b"content-encoding") is not None or len(body) > self._body_bytes:
            return False
        place = self._keys.place(credentials)
        lookup = self._keys.recent(place)
        if lookup is None or not self._is_open():
            return False
        sender = self._keys.sender(place)
        admitted = self.concurrency_limit.acquire(headers.get(b"content-length"), None, sender)
        if admitted is None:
            return False
        try:
            subscription = self.intake.subscription(component)
            holder = self.intake.holder(lookup, subscription, headers)
            record = self.intake.record(body, headers, subscription, holder)
        except Exception:  # refused, or a bug: that comes up again in the other way, and is answered there
            self.concurrency_limit.release(admitted, sender)
            return False
        _Taken(self, component, record, (admitted, sender), answer)
        return True


class _Taken:
    """A delivery between its way into the event log and its answer; the event log's ``Waiter``.

    A future and its callbacks would cost more than both together.
    """

    __slots__ = (
        "_admitted",
        "_answer",
        "_component",
        "_is_answered",
        "_record",
        "_started",
        "_until",
        "_way",
    )

    def __init__(
        self, way: FastPath, component: str, record: NewEvent, admitted: tuple[int, str], answer: Answer
    ) -> None:
        self._way = way
        self._component = component
        self._record = record
        self._admitted = admitted
        self._answer = answer
        self._is_answered = False
        self._started = way.reception.observer.clock()
        way.watchdog.wake()
        self._until = way.watchdog.loop.time() + way.store_seconds
        way.watchdog.waits[self] = None
        try:
            way.reception.event_log.append_for(self, record)
        except Exception as error:  # whoever offered it has not been told yet that it was taken
            way.watchdog.loop.call_soon(self.set_exception, error)

    def look(self, now: float) -> None:
        """Wait no longer, if it is overdue."""
        if now >= self._until:
            self.cancel()

    def done(self) -> bool:
        """Tell whether it was answered."""
        return self._is_answered

    def set_result(self, appended: Appended) -> None:
        """Answer that it is durable."""
        self._finish(appended)

    def set_exception(self, error: Exception) -> None:
        """Answer what was in the way."""
        self._finish(error)

    def cancel(self) -> None:
        """Answer that nobody knows what became of it."""
        self._finish(TimeoutError())

    def _finish(self, outcome: Appended | Exception) -> None:
        """Answer once; others wait for the same commit, so nothing is raised."""
        if self._is_answered:
            return
        self._is_answered = True
        # What failed may hold this for as long as the collector has not come by; it must not hold the connection too.
        way, give, self._answer = self._way, self._answer, _given
        del way.watchdog.waits[self]
        way.concurrency_limit.release(*self._admitted)
        try:
            answer = self._answer_to(outcome)
            give(answer)
            way.reception.answered(self._component, answer.status)
        except Exception:
            logger.exception("A delivery could not be answered, or nobody be told of it")

    def _answer_to(self, outcome: Appended | Exception) -> PreparedAnswer:
        way, reception = self._way, self._way.reception
        if isinstance(outcome, Exception):
            refused = store_trouble(STORING, outcome)
            return way.answers.prepared(refused.status, refused.message)
        try:
            reception.observer.stored(self._record, outcome, started=self._started)
            reception.received(self._record.install_id)
        except Exception as error:
            return way.answers.prepared(*unexpected("A delivery", error))
        return way.accepted


def _given(_answer: PreparedAnswer) -> None:
    """Stand in for an answer that was given."""
