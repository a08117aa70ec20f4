"""What went wrong in a command, in the words of somebody who can mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from enable_with_segment.components.errors import SubscriptionError
from enable_with_segment.db.event_log.records import EventLogUnavailable, RetryCutShort
from enable_with_segment.db.migrate import TablesInUse
from enable_with_segment.oauth_app.cli.output import FAILED, WRONG_USE
from enable_with_segment.oauth_app.runtime.settings import SettingsInvalid
from enable_with_segment.oauth_app.runtime.stores import SchemaOutdated


@dataclass(frozen=True, slots=True)
class Problem:
    """Sentences to print, and the status to exit with."""

    sentences: Sequence[str]
    status: int


def told(error: Exception) -> Problem | None:
    """Put an error into words; ``None`` for one that only a traceback explains."""
    match error:
        case SettingsInvalid():
            return Problem(error.problems, WRONG_USE)
        case SchemaOutdated() | SubscriptionError():
            return Problem([str(error)], WRONG_USE)
        case TablesInUse():
            sentence = str(error)
            return Problem([sentence[0].upper() + sentence[1:]], FAILED)
        case RetryCutShort():
            sentence = f"{error}, and the others were not. Check EVENT_LOG_URL and run the command again."
            return Problem([sentence[0].upper() + sentence[1:]], FAILED)
        case SQLAlchemyError() | EventLogUnavailable() | OSError():
            cause = type(getattr(error, "orig", None) or error).__name__
            return Problem([f"the database does not answer ({cause}). Check DATABASE_URL and EVENT_LOG_URL."], FAILED)
        case _:
            return None
