"""How a door answers its deliveries: the headers that belong to a status, and who is told of it."""

from __future__ import annotations

import logging

from enable_with_segment.db.identifiers import incident_id
from enable_with_segment.subscriptions.receiving.exchange import RawHeaders, Send, answer, message_body, message_headers
from enable_with_segment.subscriptions.receiving.prepared_answer import PreparedAnswer
from enable_with_segment.subscriptions.receiving.reception import Reception

logger = logging.getLogger(__name__)


class Answers:
    """The answers of one door.

    Args:
        methods: those that the door takes.
        challenge: the scheme that a 401 asks for; ``None`` where the key may stand in the path.
    """

    def __init__(
        self,
        reception: Reception,
        *,
        methods: tuple[str, ...],
        retry_after_seconds: int,
        challenge: bytes | None = None,
    ) -> None:
        self._reception = reception
        self._headers: dict[int, RawHeaders] = {
            405: ((b"allow", ", ".join(methods).encode()),),
            415: ((b"accept-encoding", b"gzip, identity"),),
            503: ((b"retry-after", str(retry_after_seconds).encode()),),
        }
        if challenge is not None:
            self._headers[401] = ((b"www-authenticate", challenge),)

    async def give(self, send: Send, component: str, status: int, message: str) -> None:
        """Answer, and tell the observer."""
        self._reception.answered(component, status)
        await answer(send, status, message, extra=self._headers.get(status, ()))

    def prepared(self, status: int, message: str) -> PreparedAnswer:
        """Return the same answer for a server that writes it by itself; whoever hands it over tells the observer."""
        body = message_body(message)
        return PreparedAnswer(status, (*message_headers(body), *self._headers.get(status, ())), body)


def unexpected(what: str, error: Exception) -> tuple[int, str]:
    """Log a bug under an incident's id; returns status and message, which tell nothing of it but the id."""
    incident = incident_id()
    logger.error("%s failed unexpectedly (incident %s)", what, incident, exc_info=error)
    return 500, f"Something went wrong on our side (incident {incident})."
