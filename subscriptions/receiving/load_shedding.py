"""What an HTTP server has to know to refuse deliveries by itself, before it makes a request of them.

Making a request of what arrives costs the server more than the rest of a refusal, so under overload it pays to ask
here first. What is answered is what ``Webhook`` answers in the same situation, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable

from enable_with_segment.subscriptions.receiving.concurrency_limit import ConcurrencyLimit
from enable_with_segment.subscriptions.receiving.exchange import Headers
from enable_with_segment.subscriptions.receiving.prepared_answer import PreparedAnswer

STATUS = 503
MESSAGE = "Too many deliveries at the same moment. Try again."
SHUT_MESSAGE = "Too many events wait to be handled. Try again."


def message_of(concurrency_limit: ConcurrencyLimit) -> str:
    """Return why a delivery is refused."""
    return SHUT_MESSAGE if concurrency_limit.is_shut else MESSAGE


class LoadShedding:
    """The decision, the answer, and whoever wants to know of it.

    Args:
        concurrency_limit: tells what is too much; the webhook's own.
        sender_of: returns a delivery's sender by its headers, under the name that the concurrency limit counts.
        answered: told the component and the status of each answer.
        prepared: puts the answer of ``Webhook`` together, of a status and a message.
        body_bytes: beyond so many bytes a refused body is not waited for any more.
        body_seconds: nor after so long.
    """

    def __init__(
        self,
        concurrency_limit: ConcurrencyLimit,
        sender_of: Callable[[Headers], str],
        answered: Callable[[str, int], None],
        prepared: Callable[[int, str], PreparedAnswer],
        *,
        body_bytes: int,
        body_seconds: float,
    ) -> None:
        self.concurrency_limit = concurrency_limit
        self.answered = answered
        self.body_bytes = body_bytes
        self.body_seconds = body_seconds
        self._sender_of = sender_of
        self._answers = {message: prepared(STATUS, message) for message in (MESSAGE, SHUT_MESSAGE)}

    def refuses(self, headers: Headers) -> bool:
        """Tell whether a delivery with these headers is too much now."""
        length, encoding = headers.get(b"content-length"), headers.get(b"content-encoding")
        return self.concurrency_limit.refuses(length, encoding, self._sender_of(headers))

    @property
    def answer(self) -> PreparedAnswer:
        """What ``Webhook`` answers to the same."""
        return self._answers[message_of(self.concurrency_limit)]
