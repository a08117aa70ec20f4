"""Trouble with our own stores while a delivery waits: worth a retry, so it is a 503 and never another 4xx."""

from __future__ import annotations

import logging

from sqlalchemy.exc import SQLAlchemyError

from db.event_log.records import EventLogUnavailable
from subscriptions.errors import DeliveryRefused

logger = logging.getLogger(__name__)


def store_trouble(doing: str, error: Exception) -> DeliveryRefused:
    """Log what went wrong while ``doing`` something, and return the refusal to raise."""
    # Of a database's error the name only: its text may quote what was to be stored.
    expected = isinstance(error, EventLogUnavailable | SQLAlchemyError | OSError)
    name = type(error.__cause__ or error).__name__
    logger.warning("Answering 503: %s failed (%s)", doing, name, exc_info=None if expected else error)
    return DeliveryRefused(503, "We cannot take events right now. Try again.")
