"""One process appends to an SQLite event log and hands its events out; others may look, and retry dead letters."""

from __future__ import annotations

from pathlib import Path

import apsw

from enable_with_segment.db.event_log.records import AnotherProcessWrites
from enable_with_segment.db.event_log.sqlite.connection import closed_on_failure
from enable_with_segment.db.private_file import make_private


class WriterLock:
    """A lock that ends with the process, however that dies: an exclusive transaction on a file of its own."""

    def __init__(self, catalogue: Path) -> None:
        self._path = catalogue.with_name(f"{catalogue.name}.writer")
        self._connection: apsw.Connection | None = None

    def acquire(self) -> bool:
        """Become the writing process, or stay it; tells whether it is so only now.

        Raises:
            AnotherProcessWrites: another process is.
            apsw.Error, OSError: the file fails.
        """
        if self._connection is not None:
            return False
        make_private(self._path)
        connection = apsw.Connection(str(self._path))
        with closed_on_failure(connection.close):
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except apsw.BusyError:
                raise AnotherProcessWrites("another process writes to this event log") from None
        self._connection = connection
        return True

    def release(self) -> None:
        """Let another process write."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
