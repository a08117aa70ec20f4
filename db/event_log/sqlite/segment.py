"""One segment: an SQLite file that holds the events received while it was the newest one.

Ids run on from segment to segment, and a segment's name carries its first id. Bodies stand apart from what is looked
at and changed often.

Messages and people are found through sorted runs: an index over both would change two pages at random places for
each event, and writing those cost more than everything else about it. So the newest events have no index entry; every
few thousand of them are sorted and added as one run, at the end of its table. The views ``messages`` and ``people``
look through all runs and those newest events.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import apsw

from enable_with_segment.db.event_log.sqlite.bloom_filter import BloomFilter
from enable_with_segment.db.event_log.sqlite.connection import (
    BUSY_MILLISECONDS,
    closed_on_failure,
    open_connection,
    open_to_read,
    outdated,
    transaction,
)

logger = logging.getLogger(__name__)

_RUN = 8_192
_ACTIVE_CACHE = 64 * 1024 * 1024
_SEALED_CACHE = 1024 * 1024

#: Version 1 had no index of rare states, and that of version 2 and the one of dead letters did not know origins.
_SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY,
  key BLOB NOT NULL,
  scope INTEGER NOT NULL,
  origin INTEGER NOT NULL,
  received_at INTEGER NOT NULL,
  occurred_at INTEGER NOT NULL,
  message_id TEXT,
  type TEXT NOT NULL,
  event TEXT,
  person_hash TEXT,
  device_hash TEXT,
  previous_hash TEXT,
  settings TEXT,
  available_at INTEGER NOT NULL,
  state INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0,
  finished_at INTEGER,
  last_error TEXT,
  outcomes TEXT,
  duplicates INTEGER NOT NULL DEFAULT 0,
  differing_duplicates INTEGER NOT NULL DEFAULT 0,
  replays INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS waiting ON events (origin, available_at) WHERE state = 0;
DROP INDEX IF EXISTS dead_letters;
DROP INDEX IF EXISTS rare;
CREATE INDEX dead_letters ON events (id, origin) WHERE state = 5;
CREATE INDEX rare ON events (state, id, origin) WHERE state > 1 AND state < 5;
CREATE TABLE IF NOT EXISTS bodies (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS seal (keys BLOB NOT NULL, newest INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS runs (run INTEGER PRIMARY KEY, through INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS message_runs (
  run INTEGER, key BLOB, scope INTEGER, id INTEGER, PRIMARY KEY (run, key, scope)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS person_runs (
  run INTEGER, subject TEXT, id INTEGER, PRIMARY KEY (run, subject, id)
) WITHOUT ROWID;
CREATE VIEW IF NOT EXISTS messages AS
  SELECT key, scope, id FROM message_runs WHERE run IN (SELECT run FROM runs)
  UNION ALL
  SELECT key, scope, id FROM events WHERE id > (SELECT coalesce(max(through), 0) FROM runs);
CREATE VIEW IF NOT EXISTS people AS
  SELECT subject, id FROM person_runs WHERE run IN (SELECT run FROM runs)
  UNION ALL
  SELECT coalesce(person_hash, device_hash) AS subject, id FROM events
  WHERE id > (SELECT coalesce(max(through), 0) FROM runs);
PRAGMA user_version = 3;
"""

_INDEX_MESSAGES = """
INSERT INTO message_runs SELECT :run, key, scope, id FROM events WHERE id > :after ORDER BY key, scope
"""
_INDEX_PEOPLE = """
INSERT INTO person_runs SELECT :run, coalesce(person_hash, device_hash) AS subject, id FROM events
WHERE id > :after AND subject IS NOT NULL ORDER BY subject, id
"""


@dataclass(slots=True)
class Commits:
    """How the segments of a log commit: whether each waits for the disk, and which take part in a transaction."""

    flushed: bool = True
    begun: list[Segment] = field(default_factory=list)


class Segment:
    """An open segment.

    Attributes:
        first_id: the lowest id an event in it can have.
        next_id: the id its next event gets.
        count: how many events it holds.
        waiting: how many of them are pending.
        holds_deleted: whether its write-ahead log may hold what was deleted for good; after a restart nobody knows.
    """

    def __init__(
        self, path: Path, first_id: int, *, capacity: int, commits: Commits | None = None, read_only: bool = False
    ) -> None:
        self.path = path
        self.first_id = first_id
        self.holds_deleted = self._write_ahead_log().exists() and self._write_ahead_log().stat().st_size > 0
        self._capacity = capacity
        self._commits = commits or Commits()
        self._flushed = True
        self._read_only = read_only
        self.connection = (open_to_read if read_only else open_connection)(path, cache_bytes=_ACTIVE_CACHE)
        with closed_on_failure(self.close):
            self._look_around()

    def _look_around(self) -> None:
        """Learn what the file holds."""
        version = self._number("PRAGMA user_version")
        if self._read_only and version != _SCHEMA_VERSION:
            raise outdated(self.path)
        if version < _SCHEMA_VERSION:
            with transaction(self.connection):
                self.connection.execute(_SCHEMA)
        self._version = self._data_version()
        self.waiting = self._count_waiting()
        self.next_id = max(self.first_id - 1, self._number("SELECT max(id) FROM events")) + 1
        self.count = self.next_id - self.first_id
        self.oldest = self._number("SELECT received_at FROM events ORDER BY id LIMIT 1")
        self.newest = self._number("SELECT newest FROM seal")
        self.sealed = self.newest > 0
        if self.sealed:
            self._shrink_cache()
        else:
            self.newest = self._number("SELECT received_at FROM events ORDER BY id DESC LIMIT 1")

    @cached_property
    def keys(self) -> BloomFilter:
        """The message keys in it."""
        if self.sealed:
            stored = self.first("SELECT keys FROM seal")
            assert stored is not None  # noqa: S101  that is what being sealed means
            return BloomFilter(bytearray(stored[0]))
        made = BloomFilter.for_keys(self._capacity)
        for (key,) in self.connection.execute("SELECT key FROM events"):
            made.add(key)
        return made

    def select(self, statement: str, values: Sequence[Any] = ()) -> Generator[tuple[Any, ...], None, None]:
        """Run a query; what is not read to its end has to be closed."""
        cursor = self.connection.execute(statement, values)
        try:
            yield from cursor
        finally:
            cursor.close()

    def first(self, statement: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Return the first row of a query."""
        row: tuple[Any, ...] | None = self.connection.execute(statement, values).fetchone()
        return row

    @property
    def is_outdated(self) -> bool:
        """Whether another process has written to it since it was looked at."""
        return self._data_version() != self._version

    def begin(self) -> None:
        """Start a transaction, if none is open; :meth:`Segments.commit` ends it."""
        if self.connection.in_transaction:
            return
        if self._flushed is not self._commits.flushed:
            self._flushed = self._commits.flushed
            self.connection.execute(f"PRAGMA synchronous={'FULL' if self._flushed else 'NORMAL'}")
        self.connection.execute("BEGIN IMMEDIATE")
        self._commits.begun.append(self)

    @cached_property
    def tail(self) -> dict[tuple[bytes, int], int]:
        """The ids of the newest events, those that are in no run yet, by message."""
        rows = self.select("SELECT key, scope, id FROM events WHERE id > (SELECT coalesce(max(through), 0) FROM runs)")
        return {(key, scope): event_id for key, scope, event_id in rows}

    def find(self, key: bytes, scope: int) -> int | None:
        """Return the id of a message's event, if it is in this segment."""
        event_id = None if self.sealed else self.tail.get((key, scope))
        if event_id is not None:
            return event_id
        row = self.first(
            "SELECT id FROM message_runs WHERE run IN (SELECT run FROM runs) AND key = ? AND scope = ?", (key, scope)
        )
        return None if row is None else int(row[0])

    def may_hold(self, key: bytes) -> bool:
        """Tell whether a message may be in this segment, as far as that is known: the filter is not read for it."""
        return "keys" not in vars(self) or key in self.keys

    def may_hold_since(self, instant: int) -> bool:
        """Tell whether it may hold events received at an instant or later."""
        return not self.sealed or self.newest >= instant

    def index_tail(self) -> bool:
        """Add the newest events as a run, once there are enough; returns whether the tail is to be emptied then."""
        if len(self.tail) < _RUN:
            return False
        self.begin()
        self._add_run()
        return True

    def _add_run(self) -> None:
        after = self._number("SELECT max(through) FROM runs")
        run = self._number("SELECT max(run) FROM runs") + 1
        self.connection.execute(_INDEX_MESSAGES, {"run": run, "after": after})
        self.connection.execute(_INDEX_PEOPLE, {"run": run, "after": after})
        through = max(after, self._number("SELECT max(id) FROM events"))
        self.connection.execute("INSERT INTO runs VALUES (?, ?)", (run, through))

    def seal(self) -> None:
        """Take no more events: write the filter down, so that it need not be made again."""
        if self.sealed:
            return
        with transaction(self.connection):
            self._add_run()
            self.connection.execute("INSERT INTO seal VALUES (?, ?)", (self.keys.bits, self.newest))
        self.sealed = True
        self.tail.clear()
        self._shrink_cache()

    def refresh(self) -> None:
        """Notice what another process changed."""
        version = self._data_version()
        if version != self._version:
            self._version = version
            self.recount()

    def recount(self) -> None:
        """Learn from the file how many events are pending."""
        self.waiting = self._count_waiting()

    def forget_deleted(self) -> bool:
        """Remove what was deleted from the write-ahead log as well; tells whether that could be done now.

        It waits for nobody: while somebody reads from that log, it has to be asked again later. The deletion itself is
        committed, so trouble here is no failure.
        """
        self.connection.set_busy_timeout(0)
        try:
            is_busy = self._number("PRAGMA wal_checkpoint(TRUNCATE)")
        except apsw.Error as error:
            logger.warning("What was erased is still in a write-ahead log (%s)", type(error).__name__)
            return False
        finally:
            self.connection.set_busy_timeout(BUSY_MILLISECONDS)
        self.holds_deleted = bool(is_busy)
        return not is_busy

    def close(self) -> None:
        """Close the file."""
        self.holds_deleted = False
        self.connection.close()

    def files(self) -> Iterator[Path]:
        """Name the file and what SQLite keeps beside it."""
        for suffix in ("", "-wal", "-shm"):
            yield self.path.with_name(self.path.name + suffix)

    def bytes(self) -> int:
        """Return how much of the disk it takes."""
        return sum(file.stat().st_size for file in self.files() if file.exists())

    def _write_ahead_log(self) -> Path:
        return self.path.with_name(f"{self.path.name}-wal")

    def _shrink_cache(self) -> None:
        self.connection.execute(f"PRAGMA cache_size={-_SEALED_CACHE // 1024}")

    def _data_version(self) -> int:
        return self._number("PRAGMA data_version")

    def _count_waiting(self) -> int:
        return self._number("SELECT count(*) FROM events WHERE state = 0")

    def _number(self, statement: str) -> int:
        row = self.connection.execute(statement).fetchone()
        return 0 if row is None or row[0] is None else int(row[0])


def placeholders(count: int) -> str:
    """Return ``?,?,?`` for a list of values."""
    return ",".join("?" * count)
