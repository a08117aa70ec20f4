"""Texts of senders as they fit into a column: message ids and names of events."""

from __future__ import annotations

_MOST = 200
_INSTEAD_OF_NUL = "\ufffd"


def storable(text: str) -> str:
    """Cut a text to a column's size and replace NUL, which PostgreSQL cannot store."""
    if len(text) <= _MOST and "\0" not in text:
        return text
    return text[:_MOST].replace("\0", _INSTEAD_OF_NUL)


def may_stand_for_others(stored: str) -> bool:
    """Tell whether several texts can have been stored as this one."""
    return len(stored) >= _MOST or _INSTEAD_OF_NUL in stored
