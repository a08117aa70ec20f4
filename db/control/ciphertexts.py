"""Every encrypted column of the control store, and which keys are in use there.

The columns are found, not listed: a column whose name ends in ``_ciphertext`` is encrypted, and its ciphertexts are
bound to its table, its name and the row's primary key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Column, ColumnElement, Table, and_, case, func, literal, not_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from enable_with_segment.db.control.tables import ControlTable
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionError, EncryptionKeys, Place, ciphertext_prefix

SUFFIX = "_ciphertext"


@dataclass(frozen=True, slots=True)
class CiphertextColumn:
    """One encrypted column."""

    table: Table
    column: Column[str]
    key: Column[str]

    def place(self, row: str) -> Place:
        """Where the ciphertext of a row is bound to."""
        return Place(self.table.name, self.column.name, row)

    def not_of_key(self, key_id: str) -> ColumnElement[bool]:
        """The condition that a row has a ciphertext that was not made with a key."""
        made_with_it = self.column.startswith(ciphertext_prefix(key_id), autoescape=True)
        return and_(self.column.is_not(None), not_(made_with_it))

    def __str__(self) -> str:
        return f"{self.table.name}.{self.column.name}"


@dataclass(frozen=True, slots=True)
class KeyUse:
    """How many ciphertexts of a column carry a key id, and whether one of them opens.

    ``key_id`` is empty for text that is not a ciphertext of this service.
    """

    table: str
    column: str
    key_id: str
    rows: int
    opens: bool


@cache
def ciphertext_columns() -> tuple[CiphertextColumn, ...]:
    """Return every encrypted column, in a fixed order.

    Raises:
        TypeError: a table with an encrypted column has no single primary key to bind its ciphertexts to.
    """
    found: list[CiphertextColumn] = []
    for table in sorted(ControlTable.metadata.tables.values(), key=lambda table: table.name):
        for column in table.columns:
            if not column.name.endswith(SUFFIX):
                continue
            keys = list(table.primary_key.columns)
            if len(keys) != 1:
                raise TypeError(f"{table.name} needs a single primary key to bind {column.name} to")
            found.append(CiphertextColumn(table, column, keys[0]))
    return tuple(found)


async def keys_in_use(database: Database, keys: EncryptionKeys) -> list[KeyUse]:
    """Return what every encrypted column holds, by key id; one ciphertext of each key is opened, as a sample.

    Each column is read in a transaction of its own, so that the service never waits for all of them.
    """
    uses: list[KeyUse] = []
    for encrypted in ciphertext_columns():
        key_id = _key_id(encrypted.column, database.dialect)
        statement = (
            select(key_id, func.count(), func.min(encrypted.key))
            .where(encrypted.column.is_not(None))
            .group_by(key_id)
            .order_by(key_id)
        )
        async with database.engine.connect() as connection:
            for found, rows, sample in (await connection.execute(statement)).all():
                opens = await _opens(connection, keys, encrypted, sample)
                uses.append(KeyUse(encrypted.table.name, encrypted.column.name, found, rows, opens))
    return uses


async def count_all(database: Database) -> int:
    """Count every ciphertext."""
    return sum([await _count(database, encrypted, encrypted.column.is_not(None)) for encrypted in ciphertext_columns()])


async def count_not_of_key(database: Database, key_id: str) -> int:
    """Count the ciphertexts that were not made with a key."""
    return sum([await _count(database, encrypted, encrypted.not_of_key(key_id)) for encrypted in ciphertext_columns()])


def used_key_ids(uses: Sequence[KeyUse]) -> set[str]:
    """The key ids that stored ciphertexts carry."""
    return {use.key_id for use in uses if use.key_id}


async def _count(database: Database, encrypted: CiphertextColumn, condition: ColumnElement[bool]) -> int:
    async with database.engine.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(encrypted.table).where(condition)) or 0


def _key_id(column: Column[str], dialect: str) -> ColumnElement[str]:
    """The key id within a ciphertext, read by the database; empty where the text has another form."""
    if dialect == "postgresql":
        key_id = func.split_part(column, ".", 2)
    else:
        rest = func.substr(column, 4)
        key_id = func.substr(rest, 1, func.instr(rest, ".") - 1)
    return case((column.like("v1.%.%"), key_id), else_=literal(""))


async def _opens(connection: AsyncConnection, keys: EncryptionKeys, encrypted: CiphertextColumn, row: str) -> bool:
    ciphertext = await connection.scalar(select(encrypted.column).where(encrypted.key == row))
    if ciphertext is None:  # gone since it was counted
        return True
    try:
        keys.decrypt(ciphertext, encrypted.place(row))
    except EncryptionError:
        return False
    return True
