"""Log output: one line each, and a last net that masks anything that looks like a credential."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Literal

_MASKED = "•••"
_CREDENTIALS = (
    re.compile(r"(?i)(\bbasic )[a-z0-9+/=_-]{6,}"),
    re.compile(r"(?i)(\bbearer )[^\s\"',]{6,}"),
    re.compile(r"(\bew(?:st?|h)_)[A-Za-z0-9]{8,}"),
    re.compile(r"(\bwhsec_)[A-Za-z0-9+/=]{8,}"),
    re.compile(r"(?i)(\bwrite_?key\b[\"': =]+)[a-z0-9]{8,}"),
    re.compile(r"(?i)(\bx-(?:signature|segment-settings)\b[\"': =]+)[a-z0-9+/=_-]{6,}"),
    re.compile(r"(?i)([?&](?:code|state|code_verifier|code_challenge)=)[^\s&\"']+"),
    re.compile(r"(/(?:connect|status|sign-in)/)[A-Za-z0-9_.-]{16,}"),
)


def redact(text: str) -> str:
    """Mask credentials, codes, states and link tokens in a line of text."""
    for pattern in _CREDENTIALS:
        text = pattern.sub(rf"\1{_MASKED}", text)
    return text


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback included, and redacts the whole."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line; what was passed as ``extra`` stands beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        line |= {
            key: value if isinstance(value, bool | int | float) else redact(str(value))
            for key, value in record.__dict__.items()
            if key not in _STANDARD and key not in line
        }
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


# The HTTP server's own "color_message" is its message once more, for terminals.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def configure_logging(level: str, form: Literal["text", "json"] = "text") -> None:
    """Log to standard error at ``level``, as text or as JSON lines.

    HTTP clients and database drivers stay at warnings even at DEBUG: what they log holds headers and whole events.
    """
    handler = logging.StreamHandler(sys.stderr)
    text = RedactingFormatter("%(asctime)s %(levelname)-7s %(name)s  %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "aiosqlite", "sqlalchemy", "alembic", "asyncio", "authlib"):
        logging.getLogger(noisy).setLevel("WARNING")
