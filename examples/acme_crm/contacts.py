"""Acme's contacts: a small SQLite file that stands for the partner's own product.

A contact has any number of ids. Traits keep the time they are from, so that a late event never overwrites a newer
one; a trait that was sent as ``null`` is remembered as cleared.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS contacts (id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ids (
    account TEXT, value TEXT, known BOOLEAN, contact INTEGER NOT NULL REFERENCES contacts ON DELETE CASCADE,
    PRIMARY KEY (account, value));
CREATE TABLE IF NOT EXISTS traits (
    contact INTEGER REFERENCES contacts ON DELETE CASCADE, name TEXT, value TEXT NOT NULL, at TEXT NOT NULL,
    PRIMARY KEY (contact, name));
CREATE TABLE IF NOT EXISTS activities (
    account TEXT, key TEXT, contact INTEGER NOT NULL REFERENCES contacts ON DELETE CASCADE,
    type TEXT NOT NULL, name TEXT, at TEXT NOT NULL, was_there BOOLEAN NOT NULL, PRIMARY KEY (account, key));
CREATE TABLE IF NOT EXISTS purchases (
    account TEXT, order_id TEXT, contact INTEGER NOT NULL REFERENCES contacts ON DELETE CASCADE,
    revenue TEXT NOT NULL, currency TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (account, order_id));
CREATE TABLE IF NOT EXISTS members (
    contact INTEGER REFERENCES contacts ON DELETE CASCADE, company TEXT, PRIMARY KEY (contact, company));
CREATE TABLE IF NOT EXISTS company_traits (
    account TEXT, company TEXT, name TEXT, value TEXT NOT NULL, at TEXT NOT NULL,
    PRIMARY KEY (account, company, name));
"""


@dataclass(frozen=True, slots=True)
class Contact:
    """A person as Acme's users see them."""

    account: str
    ids: tuple[str, ...]
    name: str | None
    email: str | None
    traits: Mapping[str, Any]
    companies: tuple[str, ...]
    activities: int
    last_seen: str | None
    revenue: Mapping[str, Decimal]


class ContactBook:
    """The contacts of one account, inside one transaction. Open it with :meth:`open`."""

    def __init__(self, connection: sqlite3.Connection, account: str) -> None:
        self._db = connection
        self._account = account

    @classmethod
    @contextmanager
    def open(cls, account: str) -> Iterator[ContactBook]:
        """Begin a transaction; it is committed at the end, or rolled back when something was raised."""
        with _connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield cls(connection, account)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def contact_of(self, user_id: str | None, anonymous_id: str | None) -> int:
        """Return the contact of an event, added if it is new.

        An event with both ids ties the device to the person, unless the device is another person's already: two
        people may share a computer.
        """
        device = self._find(anonymous_id)
        if user_id is None:
            return device or self._add(anonymous_id, known=False)
        contact = self._find(user_id)
        if contact is None:
            contact = device if device and not self._is_known(device) else self._add()
            self._name(contact, user_id, known=True)
        if device is None and anonymous_id is not None:
            self._name(contact, anonymous_id, known=False)
        elif device is not None and device != contact and not self._is_known(device):
            contact = self._join(contact, device)
        return contact

    def merge(self, user_id: str, previous_id: str) -> None:
        """Make two ids one contact, whichever of them are known yet."""
        contact, previous = self.contact_of(user_id, None), self._find(previous_id)
        if previous is None:
            self._name(contact, previous_id, known=False)
        elif previous != contact:
            self._join(contact, previous)

    def set_traits(self, contact: int, traits: Mapping[str, Any], *, at: datetime) -> None:
        """Take over traits that are newer than what is there."""
        self._db.executemany(
            "INSERT INTO traits VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value, at = excluded.at"
            " WHERE (excluded.at, excluded.value) > (at, value)",
            [(contact, _spelled_once(name), json.dumps(value), _text(at)) for name, value in traits.items()],
        )

    def add_activity(
        self, contact: int, key: str, type: str, name: str | None, *, at: datetime, was_there: bool
    ) -> None:
        """Note something that happened, once."""
        self._db.execute(
            "INSERT INTO activities VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (self._account, key, contact, type, name, _text(at), was_there),
        )

    def set_purchase(self, contact: int, order_id: str, revenue: Decimal, currency: str, *, at: datetime) -> None:
        """Note an order; a newer message about the same order wins."""
        self._db.execute(
            "INSERT INTO purchases VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET revenue = excluded.revenue, currency = excluded.currency, at = excluded.at WHERE excluded.at > at",
            (self._account, order_id, contact, str(revenue), currency, _text(at)),
        )

    def join_company(self, contact: int, company: str, traits: Mapping[str, Any], *, at: datetime) -> None:
        """Make a contact a member of a company, and take over the company's newer traits."""
        self._db.execute("INSERT INTO members VALUES (?, ?) ON CONFLICT DO NOTHING", (contact, company))
        self._db.executemany(
            "INSERT INTO company_traits VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET value = excluded.value, at = excluded.at WHERE (excluded.at, excluded.value) > (at, value)",
            [
                (self._account, company, _spelled_once(name), json.dumps(value), _text(at))
                for name, value in traits.items()
            ],
        )

    def forget(self, user_id: str | None) -> None:
        """Erase a contact and everything about it, under all its ids."""
        contact = self._find(user_id)
        if contact is not None:
            self._db.execute("DELETE FROM contacts WHERE id = ?", (contact,))

    def _find(self, value: str | None) -> int | None:
        found = self._db.execute(
            "SELECT contact FROM ids WHERE account = ? AND value = ?", (self._account, value)
        ).fetchone()
        return int(found[0]) if found else None

    def _add(self, value: str | None = None, *, known: bool = False) -> int:
        (contact,) = self._db.execute("INSERT INTO contacts (account) VALUES (?) RETURNING id", (self._account,))
        if value is not None:
            self._name(contact[0], value, known=known)
        return int(contact[0])

    def _name(self, contact: int, value: str, *, known: bool) -> None:
        self._db.execute(
            "INSERT INTO ids VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (self._account, value, known, contact)
        )

    def _is_known(self, contact: int) -> bool:
        return self._db.execute("SELECT 1 FROM ids WHERE contact = ? AND known", (contact,)).fetchone() is not None

    def _join(self, contact: int, other: int) -> int:
        """Move everything of ``other`` to ``contact``; of each trait the newer value stays."""
        for table in ("ids", "activities", "purchases"):
            self._db.execute(f"UPDATE {table} SET contact = ? WHERE contact = ?", (contact, other))  # noqa: S608
        self._db.execute("UPDATE OR IGNORE members SET contact = ? WHERE contact = ?", (contact, other))
        self._db.execute(
            "INSERT INTO traits SELECT ?, name, value, at FROM traits WHERE contact = ? ON CONFLICT DO UPDATE"
            " SET value = excluded.value, at = excluded.at WHERE (excluded.at, excluded.value) > (at, value)",
            (contact, other),
        )
        self._db.execute("DELETE FROM contacts WHERE id = ?", (other,))
        return contact


def list_contacts(account: str | None = None) -> list[Contact]:
    """Return the contacts of an account, or of all."""
    with _connect() as connection:
        rows = connection.execute(
            "SELECT id, account FROM contacts WHERE ? IS NULL OR account = ? ORDER BY id", (account, account)
        ).fetchall()
        return [_read(connection, contact, owner) for contact, owner in rows]


def company_traits(account: str, company: str) -> dict[str, Any]:
    """Return what is known about a company; cleared traits are left out."""
    with _connect() as connection:
        rows = connection.execute(
            "SELECT name, value FROM company_traits WHERE account = ? AND company = ?", (account, company)
        ).fetchall()
    return _traits(rows)


def _read(connection: sqlite3.Connection, contact: int, account: str) -> Contact:
    def rows(query: str) -> list[Any]:
        return connection.execute(query, (contact,)).fetchall()

    traits = _traits(rows("SELECT name, value FROM traits WHERE contact = ?"))
    revenue: dict[str, Decimal] = {}
    for currency, amount in rows("SELECT currency, revenue FROM purchases WHERE contact = ?"):
        revenue[currency] = revenue.get(currency, Decimal(0)) + Decimal(amount)
    full_name = " ".join(str(part) for part in (traits.get("firstname"), traits.get("lastname")) if part)
    return Contact(
        account=account,
        ids=tuple(value for (value,) in rows("SELECT value FROM ids WHERE contact = ? ORDER BY value")),
        name=traits.get("name") or full_name or None,
        email=traits.get("email"),
        traits=traits,
        companies=tuple(name for (name,) in rows("SELECT company FROM members WHERE contact = ? ORDER BY company")),
        activities=rows("SELECT count(*) FROM activities WHERE contact = ?")[0][0],
        last_seen=rows("SELECT max(at) FROM activities WHERE contact = ? AND was_there")[0][0],
        revenue=revenue,
    )


def _traits(rows: list[Any]) -> dict[str, Any]:
    found = {name: json.loads(value) for name, value in sorted(rows)}
    return {name: value for name, value in found.items() if value is not None}


@contextmanager
def _connect() -> Iterator[sqlite3.Connection]:
    path = Path(os.environ.get("ACME_CRM_DATABASE", "data/acme_crm.db"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.executescript(_SCHEMA)
        yield connection


def _spelled_once(name: str) -> str:
    """Reduce a trait's name to what its spellings have in common: ``First Name``, ``first_name``, ``firstName``."""
    return "".join(character for character in name if character.isalnum()).casefold()


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")
