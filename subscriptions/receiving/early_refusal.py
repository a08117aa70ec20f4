"""What an HTTP server has to know to refuse deliveries by itself, before it makes a request of them.

Making a request of what arrives costs the server more than the rest of a refusal, so under overload it pays to ask
here first. What is answered is what ``Webhook`` answers in the same situation, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable

from subscriptions.receiving.prepared_answer import PreparedAnswer
from subscriptions.receiving.pressure import Pressure

STATUS = 503
MESSAGE = "Too many deliveries at the same moment. Try again."


class EarlyRefusal:
    """The decision, the answer, and whoever wants to know of it.

    Args:
        pressure: tells what is too much; the webhook's own.
        answered: told the component and the status of each answer.
        answer: what ``Webhook`` answers to the same.
        body_bytes: beyond so many bytes a refused body is not waited for any more.
        body_seconds: nor after so long.
    """

    def __init__(
        self,
        pressure: Pressure,
        answered: Callable[[str, int], None],
        answer: PreparedAnswer,
        *,
        body_bytes: int,
        body_seconds: float,
    ) -> None:
        self.pressure = pressure
        self.answered = answered
        self.body_bytes = body_bytes
        self.body_seconds = body_seconds
        self.answer = answer
