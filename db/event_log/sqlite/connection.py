"""Opening an SQLite file durably, and the one way to write to it.

The driver brings an SQLite of its own, new enough (3.51.3) not to corrupt a write-ahead log when two connections
write or checkpoint at the same moment, so the command line may work beside the server.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import apsw

from enable_with_segment.db.event_log.records import EventLogOutdated
from enable_with_segment.db.private_file import make_private

FIRST_SOUND_SQLITE = 3_051_003
_CHECKPOINT_BYTES = 8 * 1024 * 1024
_PAGE_BYTES = 8192
BUSY_MILLISECONDS = 5_000

if apsw.SQLITE_VERSION_NUMBER < FIRST_SOUND_SQLITE:  # pragma: no cover
    raise ImportError(f"SQLite {apsw.sqlite_lib_version()} can corrupt a write-ahead log; install a newer apsw")


def open_connection(path: Path, *, cache_bytes: int) -> apsw.Connection:
    """Open a file so that a commit is on the disk when it returns."""
    make_private(path)
    connection = apsw.Connection(str(path))
    with closed_on_failure(connection.close):
        _set_up(connection, cache_bytes)
    return connection


def open_to_read(path: Path, *, cache_bytes: int) -> apsw.Connection:
    """Open a file that is there, without writing to it or beside it.

    Without a write-ahead log no process has it open, and SQLite would make one even for a reader: then the file is
    read as it stands. What is written after that is not seen, so a reader that waits for it has to open it again.
    """
    alone = not path.with_name(f"{path.name}-wal").exists()
    address = f"file:{quote(str(path.absolute()))}?mode=ro{'&immutable=1' if alone else ''}"
    connection = apsw.Connection(address, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    with closed_on_failure(connection.close):
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        connection.execute(f"PRAGMA cache_size={-cache_bytes // 1024}")
        connection.execute("PRAGMA temp_store=MEMORY")
    return connection


def outdated(path: Path) -> EventLogOutdated:
    """Return what a reader is told of a file of another schema."""
    return EventLogOutdated(f"{path} is not at the newest schema; run: enable-with-segment migrate")


def _set_up(connection: apsw.Connection, cache_bytes: int) -> None:
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
    _write_ahead(connection)
    for pragma in (
        "synchronous=FULL",
        f"cache_size={-cache_bytes // 1024}",
        f"wal_autocheckpoint={_CHECKPOINT_BYTES // _PAGE_BYTES}",
        "secure_delete=ON",
        "foreign_keys=OFF",
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _write_ahead(connection: apsw.Connection) -> None:
    """Begin a write-ahead log. Of two processes that make a new file at the same moment one has to try again.

    Each reads the file and wants it for itself, so SQLite lets neither wait for the other.
    """
    until = time.monotonic() + BUSY_MILLISECONDS / 1_000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except apsw.BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(random.uniform(0.001, 0.01))  # noqa: S311  so that they do not meet again
        else:
            return


@contextmanager
def closed_on_failure(close: Callable[[], None]) -> Iterator[None]:
    """Close what could be opened in part only: what it has locked would stay so until somebody collects it."""
    try:
        yield
    except BaseException:
        close()
        raise


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """Commit on a clean exit and roll back on an exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def flush_recovered(connection: apsw.Connection) -> None:
    """Have on the disk what a write-ahead log held when its file was opened.

    A commit whose flush failed is refused, and may all the same be found by whoever opens the file next: in the
    system's memory, from where no later flush of that log takes it to the disk. So it is copied into the file, that is
    flushed, and then the log is begun anew: what the disk holds of the old one would hide what was copied.
    """
    frames = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()[0][1]
    if int(frames or 0) > 0:
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
        with transaction(connection):  # a commit that changes nothing
            connection.execute(f"PRAGMA user_version = {version}")
