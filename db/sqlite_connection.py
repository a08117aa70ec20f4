"""A connection to SQLite that lets go of the file when it is closed, whoever still holds one of its cursors.

``sqlite3_close_v2`` only marks a connection as closed while one of its statements is half read: its transaction and
its locks stay until that statement is gone. A task that is cancelled between the running of a ``SELECT`` and the
fetching of its rows leaves such a statement behind, and the traceback of the cancellation keeps it alive.
"""

from __future__ import annotations

import sqlite3
from typing import Any
from weakref import WeakSet

_PRAGMAS = ("journal_mode=DELETE", "synchronous=FULL", "foreign_keys=ON")


class ReleasingConnection(sqlite3.Connection):
    """A connection that lets go, and for the rest is as SQLite makes it: the file may belong to somebody else.

    It is closed by one call in the thread of the driver, which nothing that is cancelled in the event loop leaves half
    done.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        """Return a new cursor, and remember it for as long as somebody else does."""
        cursor = super().cursor(factory)
        self._cursors.add(cursor)
        return cursor

    def execute(self, *arguments: Any) -> Any:
        """Run one statement by a cursor of its own (the one that is inherited would not be remembered)."""
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        """Run one statement with many parameters, as ``execute`` does."""
        return self.cursor().executemany(*arguments)

    def close(self) -> None:
        """End every statement, undo the open transaction, and let go of the file."""
        for cursor in list(self._cursors):
            cursor.close()
        super().close()


class SqliteConnection(ReleasingConnection):
    """A connection to a store of ours: configured, and one that begins no transaction by itself.

    It is made by one call too, PRAGMAs included, so that none is ever used that lacks some.
    """

    busy_milliseconds = 10_000

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.isolation_level = None
        try:
            for pragma in (f"busy_timeout={self.busy_milliseconds}", *_PRAGMAS):
                self.execute(f"PRAGMA {pragma}").close()
        except BaseException:
            self.close()  # the error's traceback holds it, and with it the file, until the collector comes by
            raise


class ImpatientSqliteConnection(SqliteConnection):
    """One that waits for no lock."""

    busy_milliseconds = 0
