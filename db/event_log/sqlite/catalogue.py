"""The catalogue: what belongs to no segment. The senders of events, and the tombstones."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from enable_with_segment.db.event_log.deletion import Tenant, Tombstone
from enable_with_segment.db.event_log.instants import to_instant, to_microseconds
from enable_with_segment.db.event_log.records import NewEvent
from enable_with_segment.db.event_log.sqlite.connection import (
    closed_on_failure,
    open_connection,
    open_to_read,
    outdated,
    transaction,
)

_CACHE = 4 * 1024 * 1024
_CHUNK = 1_000

_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS origins (
  id INTEGER PRIMARY KEY,
  scope INTEGER NOT NULL,
  scope_name TEXT NOT NULL,
  account TEXT NOT NULL,
  component TEXT NOT NULL,
  key_id TEXT NOT NULL,
  install_id TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS origin ON origins (scope_name, account, component, key_id);
CREATE TABLE erasures (
  account TEXT NOT NULL,
  component TEXT NOT NULL,
  person_hash TEXT NOT NULL,
  erased_through INTEGER NOT NULL,
  requested_at INTEGER NOT NULL,
  event_id INTEGER NOT NULL,
  completed_at INTEGER,
  PRIMARY KEY (account, component, person_hash, event_id)
) WITHOUT ROWID;
CREATE INDEX erasures_of_event ON erasures (event_id);
PRAGMA user_version = 2;
"""
#: In version 1 the newest deletion of a person took over what the others had noted.
_UPGRADE = f"""
ALTER TABLE erasures RENAME TO erasures_1;
DROP INDEX erasures_of_event;
{_SCHEMA}
INSERT INTO erasures SELECT * FROM erasures_1;
DROP TABLE erasures_1;
"""  # noqa: S608  our own names


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent an event. ``scope`` is the space in which message ids are unique; several keys may share one."""

    id: int
    scope: int
    account: str
    component: str
    key_id: str
    install_id: str | None
    scope_name: str
    tenant: Tenant = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tenant", Tenant(self.account, self.component))


class Catalogue:
    """The open catalogue. Origins are few and kept in memory; tombstones are looked up."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        self.connection = (open_to_read if read_only else open_connection)(path, cache_bytes=_CACHE)
        self._by_identity: dict[tuple[str, str, str, str], Origin] = {}
        self._by_id: dict[int, Origin] = {}
        with closed_on_failure(self.close):
            if read_only and self._version() != _VERSION:
                raise outdated(path)
            if self._version() < _VERSION:
                with transaction(self.connection):
                    version = self._version()  # another process may have opened the file just before
                    if version < _VERSION:
                        self.connection.execute(_UPGRADE if version else _SCHEMA)
            self._load()

    def origin_of(self, event: NewEvent) -> Origin:
        """Return the origin of an event, written down first if it is new."""
        identity = (event.scope, event.account, event.component, event.key_id)
        known = self._by_identity.get(identity)
        return known if known is not None else self._add(event)

    def origin(self, origin_id: int) -> Origin:
        """Return an origin by its id."""
        if origin_id not in self._by_id:  # another process has added it
            self._load()
        return self._by_id[origin_id]

    def origins(self) -> Collection[Origin]:
        """Return every origin."""
        self._load()
        return self._by_id.values()

    def origins_of(self, components: Collection[str], *, skip: Collection[str] = ()) -> list[int] | None:
        """Return the ids of the origins of some components but for some scopes; ``None`` when that is all there are."""
        chosen = [
            origin.id
            for origin in self._by_id.values()
            if origin.component in components and origin.scope_name not in skip
        ]
        return None if len(chosen) == len(self._by_id) else chosen

    def tombstones(self, tenant: Tenant, subjects: Collection[str]) -> dict[str, list[Tombstone]]:
        """Return the deletions of some ids, the newest first and without their states, for the ids that have any."""
        found: dict[str, list[Tombstone]] = {}
        for chunk in chunks(sorted(subjects)):
            rows = self.connection.execute(
                "SELECT person_hash, event_id, erased_through, requested_at, completed_at FROM erasures"  # noqa: S608
                f" WHERE account = ? AND component = ? AND person_hash IN ({','.join('?' * len(chunk))})"
                " ORDER BY event_id DESC",
                (*tenant, *chunk),
            )
            for subject, event_id, through, requested, completed in rows:
                at = None if completed is None else to_instant(completed)
                tombstone = Tombstone(event_id, to_instant(through), to_instant(requested), at, None)
                found.setdefault(subject, []).append(tombstone)
        return found

    def write_tombstones(
        self, event_id: int, tenant: Tenant, hashes: Iterable[str], *, through: datetime, requested_at: datetime
    ) -> None:
        """Add ids to what a deletion covers; those that it covers already stay as they are."""
        with transaction(self.connection):
            self.connection.executemany(
                "INSERT INTO erasures VALUES (?, ?, ?, ?, ?, ?, NULL) ON CONFLICT DO NOTHING",
                [
                    (*tenant, subject, to_microseconds(through), to_microseconds(requested_at), event_id)
                    for subject in sorted(hashes)
                ],
            )

    def extend_tombstones(self, event_id: int, hashes: Collection[str], through: datetime) -> None:
        """Make a deletion cover more time of some of its ids."""
        until = to_microseconds(through)
        with transaction(self.connection):
            self.connection.executemany(
                "UPDATE erasures SET erased_through = ? WHERE event_id = ? AND person_hash = ? AND erased_through < ?",
                [(until, event_id, subject, until) for subject in sorted(hashes)],
            )

    def discard_unstored(self, next_id: int) -> None:
        """Remove the tombstones of deletes that were never stored: another event gets their id."""
        self.connection.execute("DELETE FROM erasures WHERE event_id >= ?", (next_id,))

    def complete(self, deletions: Iterable[tuple[int, datetime]]) -> None:
        """Note that the work of deletions is done, and since when."""
        completed = [(to_microseconds(at), event_id) for event_id, at in deletions]
        if completed:
            with transaction(self.connection):
                self.connection.executemany("UPDATE erasures SET completed_at = ? WHERE event_id = ?", completed)

    def covered_by(self, event_id: int) -> dict[str, datetime]:
        """Return the ids that a deletion covers, and through when."""
        rows = self.connection.execute(
            "SELECT person_hash, erased_through FROM erasures WHERE event_id = ?", (event_id,)
        )
        return {subject: to_instant(through) for subject, through in rows}

    def has_tombstones(self) -> bool:
        """Return True if there is any tombstone."""
        return self.connection.execute("SELECT 1 FROM erasures LIMIT 1").fetchone() is not None

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def _version(self) -> int:
        ((version,),) = self.connection.execute("PRAGMA user_version").fetchall()
        return int(version or 0)

    def _load(self) -> None:
        rows = self.connection.execute(
            "SELECT id, scope, account, component, key_id, install_id, scope_name FROM origins"
        )
        for values in rows:
            origin = Origin(*values)
            self._by_id[origin.id] = origin
            self._by_identity[origin.scope_name, origin.account, origin.component, origin.key_id] = origin

    def _add(self, event: NewEvent) -> Origin:
        with transaction(self.connection):
            self.connection.execute(
                "INSERT INTO origins (scope, scope_name, account, component, key_id, install_id) VALUES ("
                " coalesce((SELECT scope FROM origins WHERE scope_name = ?1),"
                " (SELECT coalesce(max(scope), 0) + 1 FROM origins)), ?1, ?2, ?3, ?4, ?5)",
                (event.scope, event.account, event.component, event.key_id, event.install_id),
            )
        self._load()
        return self._by_identity[event.scope, event.account, event.component, event.key_id]


def chunks(values: list[str]) -> Iterable[list[str]]:
    """Cut a list into pieces that fit into one statement."""
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))
