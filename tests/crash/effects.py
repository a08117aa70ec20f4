"""What the handlers did to the world outside, and how often they were called for it.

An effect is keyed by the event's message id and stored in one transaction with its key, as the handler of a partner
would do it; so a handler that is called again does nothing. Each call is counted beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import apsw

_TABLES = """
    CREATE TABLE IF NOT EXISTS done (handler TEXT, message_id TEXT, PRIMARY KEY (handler, message_id)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS effects (handler TEXT, message_id TEXT);
    CREATE TABLE IF NOT EXISTS calls (handler TEXT, message_id TEXT);
"""


class Effects:
    """A file of the handlers' own. It outlives a process that is killed, which is all that is asked of it."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path))
        self._connection.set_busy_timeout(10_000)
        self._connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF")
        self._connection.execute(_TABLES)

    def apply(self, handler: str, message_ids: Sequence[str]) -> None:
        """Note a call, and let each message have its effect unless it had it before."""
        with self._connection:
            for message_id in message_ids:
                self._connection.execute("INSERT INTO calls VALUES (?, ?)", (handler, message_id))
                self._connection.execute("INSERT OR IGNORE INTO done VALUES (?, ?)", (handler, message_id))
                if self._connection.changes():
                    self._connection.execute("INSERT INTO effects VALUES (?, ?)", (handler, message_id))

    def note_call(self, handler: str, message_id: str) -> int:
        """Note a call that will have no effect; returns how many calls there were for the message."""
        self._connection.execute("INSERT INTO calls VALUES (?, ?)", (handler, message_id))
        counted = self._connection.execute(
            "SELECT count(*) FROM calls WHERE handler = ? AND message_id = ?", (handler, message_id)
        )
        return int(counted.get or 0)

    def counted(self, handler: str) -> dict[str, int]:
        """How often each message had its effect."""
        rows = self._connection.execute(
            "SELECT message_id, count(*) FROM effects WHERE handler = ? GROUP BY message_id", (handler,)
        )
        return {str(message_id): int(count) for message_id, count in rows}

    def called_again(self, handler: str) -> int:
        """How many messages a handler was called for more than once."""
        rows = self._connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM calls WHERE handler = ? GROUP BY message_id HAVING count(*) > 1)",
            (handler,),
        )
        return int(rows.get or 0)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
