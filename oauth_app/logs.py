"""Log output: one line each, and a last net that masks anything that looks like a credential."""

from __future__ import annotations

import logging
import re
import sys

_MASKED = "•••"
_CREDENTIALS = (
    re.compile(r"(?i)(\bbasic )[a-z0-9+/=_-]{6,}"),
    re.compile(r"(?i)(\bbearer )[^\s\"',]{6,}"),
    re.compile(r"(\bew(?:st?|h)_)[A-Za-z0-9]{8,}"),
    re.compile(r"(\bwhsec_)[A-Za-z0-9+/=]{8,}"),
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


def configure_logging(level: str) -> None:
    """Log to standard error at ``level``.

    HTTP clients and database drivers stay at warnings even at DEBUG: what they log holds headers and whole events.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)-7s %(name)s  %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "aiosqlite", "sqlalchemy", "alembic", "asyncio", "authlib"):
        logging.getLogger(noisy).setLevel("WARNING")
