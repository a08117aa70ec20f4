"""Store URLs, read without a database driver: which engine a URL names, and which SQLite file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

Backend: TypeAlias = Literal["sqlite", "postgresql"]

_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]*)?")

DEFAULT_DATABASE_URL = "sqlite+aiosqlite:///./data/control.db"


class DatabaseUrlInvalid(ValueError):
    """The URL names no supported database; the text says which forms are."""


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """What a store's URL names. ``file`` is the path of the SQLite file as it is written there, empty for others."""

    backend: Backend
    file: str = ""

    @property
    def path(self) -> Path | None:
        """The SQLite file; ``None`` for PostgreSQL and for SQLite in memory."""
        return Path(self.file) if self.file else None

    @classmethod
    def parse(cls, url: str) -> StoreUrl:
        """Read a URL such as ``sqlite:///./data/control.db``; the driver's name is ignored.

        Raises:
            DatabaseUrlInvalid: not SQLite and not PostgreSQL, or not a URL. The text never holds the password.
        """
        scheme, separator, rest = url.partition("://")
        name = scheme.partition("+")[0]
        if not separator or not name.isidentifier():
            raise DatabaseUrlInvalid(_forms("the value is not a URL"))
        if name in ("postgresql", "postgres"):
            if not _HOST.fullmatch(re.split("[/?]", rest, maxsplit=1)[0].rpartition("@")[2]):
                raise DatabaseUrlInvalid(_forms("the host or the port is malformed"))
            return cls("postgresql")
        if name not in get_args(Backend):
            raise DatabaseUrlInvalid(_forms(f"'{name}' is not supported"))
        before, _, file = rest.partition("?")[0].partition("/")
        if before:
            raise DatabaseUrlInvalid(_forms("an SQLite URL has three slashes before the path"))
        return cls("sqlite", file)


def event_log_beside(database_url: str) -> str:
    """Return where the event log lives when no setting says so: beside the control store.

    On SQLite that is ``events.db`` in the same folder, on PostgreSQL the same database.
    """
    file = StoreUrl.parse(database_url).file
    folder, slash, _ = file.rpartition("/")
    return f"sqlite+aiosqlite:///{folder}{slash}events.db" if file else database_url


def _forms(problem: str) -> str:
    return f"{problem}; use {DEFAULT_DATABASE_URL} or postgresql+asyncpg://user:password@host/name"
