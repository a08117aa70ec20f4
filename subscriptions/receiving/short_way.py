"""Taking a delivery that is there as a whole, without a request, a task or a coroutine being made of it.

Those cost more than everything that has to be known of a delivery. So an HTTP server may offer here what it has read
in one piece. Only what needs no waiting and nobody's refusal is taken; with all else nothing has happened yet, and the
server makes a request of it as usual. So what is refused, and in which words, is decided in one place, ``Webhook``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from db.event_log.records import Appended, NewEvent
from subscriptions.receiving.answers import Answers, unexpected
from subscriptions.receiving.exchange import NO_BODY, Headers
from subscriptions.receiving.intake import Intake
from subscriptions.receiving.prepared_answer import PreparedAnswer
from subscriptions.receiving.pressure import Pressure
from subscriptions.receiving.reception import Reception
from subscriptions.receiving.store_trouble import store_trouble
from subscriptions.receiving.watchdog import Watchdog

STORING = "storing an event"

Answer: TypeAlias = Callable[[PreparedAnswer], None]


class ShortWay:
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
        pressure: Pressure,
        watchdog: Watchdog,
        answers: Answers,
        *,
        is_open: Callable[[], bool],
        body_bytes: int,
        store_seconds: float,
    ) -> None:
        self.intake = intake
        self.reception = reception
        self.pressure = pressure
        self.watchdog = watchdog
        self.answers = answers
        self.accepted = PreparedAnswer(202, NO_BODY)
        self.store_seconds = store_seconds
        self._keys = reception.api_keys.recognition
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
        lookup = self._keys.recent(credentials)
        if lookup is None or not self._is_open():
            return False
        admitted = self.pressure.admit(headers.get(b"content-length"), None)
        if admitted is None:
            return False
        try:
            subscription = self.intake.subscription(component)
            holder = self.intake.holder(lookup, subscription, headers)
            record = self.intake.record(body, headers, subscription, holder)
        except Exception:  # refused, or a bug: that comes up again in the other way, and is answered there
            self.pressure.leave(admitted)
            return False
        _Taken(self, component, record, admitted, answer)
        return True


class _Taken:
    """A delivery between its way into the event log and its answer."""

    __slots__ = ("_admitted", "_answer", "_component", "_record", "_started", "_storing", "_until", "_way")

    def __init__(self, way: ShortWay, component: str, record: NewEvent, admitted: int, answer: Answer) -> None:
        self._way = way
        self._component = component
        self._record = record
        self._admitted = admitted
        self._answer = answer
        self._started = way.reception.observer.clock()
        way.watchdog.wake()
        loop = way.watchdog.loop
        self._until = loop.time() + way.store_seconds
        way.watchdog.waits[self] = None
        self._storing: asyncio.Future[Appended]
        try:
            self._storing = asyncio.ensure_future(way.reception.event_log.append(record), loop=loop)
        except Exception as error:
            self._storing = loop.create_future()
            self._storing.set_exception(error)
        self._storing.add_done_callback(self._finish)

    def look(self, now: float) -> None:
        """Wait no longer, if it is overdue."""
        if now >= self._until:
            self._storing.cancel()

    def _finish(self, storing: asyncio.Future[Appended]) -> None:
        way = self._way
        del way.watchdog.waits[self]
        way.pressure.leave(self._admitted)
        try:
            answer = self._outcome(storing)
        except Exception as error:
            answer = way.answers.prepared(*unexpected("A delivery", error))
        way.reception.answered(self._component, answer.status)
        self._answer(answer)

    def _outcome(self, storing: asyncio.Future[Appended]) -> PreparedAnswer:
        way, reception = self._way, self._way.reception
        try:
            appended = storing.result()
        except asyncio.CancelledError:
            refused = store_trouble(STORING, TimeoutError())
        except Exception as error:
            refused = store_trouble(STORING, error)
        else:
            duplicate = appended.event_id is None
            reception.observer.stored(self._record, duplicate=duplicate, started=self._started)
            reception.received(self._record.install_id)
            return way.accepted
        return way.answers.prepared(refused.status, refused.message)
