"""What a handler may raise, and what goes wrong around handlers.

::

    SubscriptionError
    ├── HandlerInvalid          a handler cannot be registered (raised at import)
    ├── SubscriptionNotLoaded   HANDLERS names nothing usable
    ├── DeliveryRefused         a delivery gets an answer other than 202 (raised and caught inside the webhook)
    └── HandlerError            a handler says what it thinks of an event
        ├── EventNotSupported     recorded as unsupported, never tried again
        ├── InvalidEventPayload   a dead letter at once: the event cannot be used
        ├── ValidationError       a dead letter at once: a field of the event is wrong
        └── RetryError            tried again later, after ``retry_after`` when it is given

The four handler errors carry the names that Segment's own Functions use. Any other exception of a handler means
*try again with backoff*; an event that keeps failing becomes a dead letter with the last reason.
"""

from __future__ import annotations

from datetime import timedelta


class SubscriptionError(Exception):
    """Base of every error in this package."""


class HandlerInvalid(SubscriptionError):
    """A handler cannot be registered; the text says what to change."""


class SubscriptionNotLoaded(SubscriptionError):
    """``module:attribute`` names nothing usable; the text says which part is wrong."""


class DeliveryRefused(SubscriptionError):
    """A delivery is answered with ``status`` and a message that the customer may see (contract 5.5)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class HandlerError(SubscriptionError):
    """Base of what a handler raises on purpose. The text is kept with the event, so leave personal data out."""


class EventNotSupported(HandlerError):
    """This handler has no use for the event: it is recorded as unsupported and not tried again."""


class InvalidEventPayload(HandlerError):
    """The event cannot be used as it is: it becomes a dead letter at once."""


class ValidationError(HandlerError):
    """A field of the event is missing or wrong: it becomes a dead letter at once."""


class RetryError(HandlerError):
    """Try this event again later.

    Args:
        retry_after: how long to wait, in seconds or as a ``timedelta``; without it the usual backoff applies.
    """

    def __init__(self, message: str = "try again later", *, retry_after: float | timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after if isinstance(retry_after, timedelta | None) else timedelta(seconds=retry_after)
