"""Moving every stored ciphertext to the current key while the service runs.

A ciphertext is replaced by compare-and-set on itself, so a token that was refreshed meanwhile is left as it is. Which
rows are still to be done is read from the rows themselves, so there is no progress to save: stopped at any point and
run again, the work ends in the same state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from sqlalchemy import ColumnElement, Update, bindparam, select, update

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import audit
from enable_with_segment.db.control.ciphertexts import (
    CiphertextColumn,
    ciphertext_columns,
    count_not_of_key,
    keys_in_use,
    used_key_ids,
)
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionError, EncryptionKeys

Progress: TypeAlias = Callable[[int], None]
Sleep: TypeAlias = Callable[[float], Awaitable[None]]

REPLACED = "encryption_key.replaced"
"""The audit action that says: ciphertexts of this key are moved to another; it is never to encrypt again."""

_MOST_PASSES = 3
_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast rows are rewritten: ``batch`` in one short transaction, at most ``rate`` a second (no limit if empty).

    After each batch the store is left alone for as long as the batch took, so that the service always gets its turn.
    """

    batch: int = 200
    rate: float | None = None

    def pause_after(self, rows: int, seconds: float) -> float:
        """Return the seconds to wait after a batch of ``rows`` that took ``seconds``."""
        at_this_rate = 0.0 if self.rate is None else rows / self.rate
        return max(seconds, at_this_rate - seconds)


@dataclass(slots=True)
class ReencryptionReport:
    """What a run did. ``unreadable`` names at most twenty rows that no configured key opens."""

    current_key_id: str
    rewritten: int = 0
    remaining: int = 0
    unreadable_rows: int = 0
    unreadable: list[str] = field(default_factory=list)
    verified: int | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing carries another key id, and everything that was looked at opens."""
        return self.remaining == 0 and self.unreadable_rows == 0

    def name(self, encrypted: CiphertextColumn, row: str) -> None:
        """Note a row that does not open."""
        self.unreadable_rows += 1
        if len(self.unreadable) < _MOST_NAMED:
            self.unreadable.append(f"{encrypted} of {row}")


class Reencryption:
    """One run.

    Args:
        sleep: waits between batches.
    """

    def __init__(
        self, database: Database, keys: EncryptionKeys, *, pace: Pace | None = None, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._database = database
        self._keys = keys
        self._pace = pace or Pace()
        self._sleep = sleep
        self._report = ReencryptionReport(keys.current_key_id)

    async def run(self, on_progress: Progress = lambda _rows: None) -> ReencryptionReport:
        """Rewrite every ciphertext that another key than the current one made, and count what is left afterwards.

        Rows that a process with an older configuration writes meanwhile are taken up again, three times at most.

        Args:
            on_progress: called with the number of rows done, after each batch.
        """
        report = self._report
        await self._note_replaced_keys()
        for _ in range(_MOST_PASSES):
            report.unreadable_rows, report.unreadable = 0, []
            for encrypted in ciphertext_columns():
                await self._rewrite(encrypted, on_progress)
            report.remaining = await count_not_of_key(self._database, report.current_key_id)
            if report.remaining <= report.unreadable_rows:
                break
        await self._note_result()
        return report

    async def verify(self, on_progress: Progress = lambda _rows: None) -> ReencryptionReport:
        """Open every ciphertext with the current key alone, and add to the report what does not open."""
        report, alone = self._report, self._keys.only_current()
        report.verified, report.unreadable_rows, report.unreadable = 0, 0, []
        for encrypted in ciphertext_columns():
            async for rows, seconds in self._batches(encrypted, encrypted.column.is_not(None)):
                for row, ciphertext in rows:
                    if _opened(alone, encrypted, row, ciphertext) is None:
                        report.name(encrypted, row)
                    else:
                        report.verified += 1
                on_progress(len(rows))
                await self._give_way(len(rows), seconds)
        return report

    async def _rewrite(self, encrypted: CiphertextColumn, on_progress: Progress) -> None:
        unlike_current = encrypted.not_of_key(self._keys.current_key_id)
        async for rows, reading in self._batches(encrypted, unlike_current):
            started = time.monotonic()
            changes: list[dict[str, str]] = []
            for row, ciphertext in rows:
                clear = _opened(self._keys, encrypted, row, ciphertext)
                if clear is None:
                    self._report.name(encrypted, row)
                    continue
                after = self._keys.encrypt(clear, encrypted.place(row))
                changes.append({"row": row, "before": ciphertext, "after": after})
            if changes:
                async with self._database.engine.begin() as connection:
                    await connection.execute(_compare_and_set(encrypted), changes)
            self._report.rewritten += len(changes)
            on_progress(len(rows))
            await self._give_way(len(rows), reading + time.monotonic() - started)

    async def _batches(
        self, encrypted: CiphertextColumn, condition: ColumnElement[bool]
    ) -> AsyncIterator[tuple[Sequence[tuple[str, str]], float]]:
        """Walk a column in the order of its rows; yields rows with their ciphertexts, and the seconds reading took."""
        wanted = select(encrypted.key, encrypted.column).where(condition).order_by(encrypted.key)
        statement = wanted.limit(self._pace.batch)
        while True:
            started = time.monotonic()
            async with self._database.engine.connect() as connection:
                rows = [(row, ciphertext) for row, ciphertext in (await connection.execute(statement)).all()]
            if not rows:
                return
            yield rows, time.monotonic() - started
            statement = wanted.where(encrypted.key > rows[-1][0]).limit(self._pace.batch)

    async def _give_way(self, rows: int, seconds: float) -> None:
        await self._sleep(self._pace.pause_after(rows, seconds))

    async def _note_replaced_keys(self) -> None:
        """Write to the audit, before anything is moved, which keys are being replaced."""
        uses = await keys_in_use(self._database, self._keys)
        now = utc_now()
        async with self._database.transaction() as session:
            known = await audit.subjects(session, action=REPLACED)
            for key_id in sorted(used_key_ids(uses) - known - {self._keys.current_key_id}):
                await audit.add(session, actor="operator", action=REPLACED, subject=key_id, now=now)

    async def _note_result(self) -> None:
        report = self._report
        async with self._database.transaction() as session:
            await audit.add(
                session,
                actor="operator",
                action="encryption_keys.reencrypt",
                subject=report.current_key_id,
                now=utc_now(),
                detail={"rows": report.rewritten, "remaining": report.remaining},
            )


def _compare_and_set(encrypted: CiphertextColumn) -> Update:
    return (
        update(encrypted.table)
        .where(encrypted.key == bindparam("row"), encrypted.column == bindparam("before"))
        .values({encrypted.column: bindparam("after")})
    )


def _opened(keys: EncryptionKeys, encrypted: CiphertextColumn, row: str, ciphertext: str) -> str | None:
    try:
        return keys.decrypt(ciphertext, encrypted.place(row))
    except EncryptionError:
        return None
