"""Why a store cannot be used as it is. Each text is a sentence that says what to do."""

from __future__ import annotations

from pathlib import Path


class StoreProblem(Exception):
    """A store cannot be used as it is."""


class StoreMissing(StoreProblem):
    """The SQLite file that a command was to read does not exist."""

    @classmethod
    def at(cls, store: str, path: Path) -> StoreMissing:
        """Name the file that was looked for."""
        return cls(
            f"there is no {store} at {path.absolute()}. "
            "DATABASE_URL and EVENT_LOG_URL say where the stores are. "
            "The service makes them when it starts, and so does: enable-with-segment migrate"
        )


class SchemaOutdated(StoreProblem):
    """A store is not at the newest revision."""


class TablesInUse(StoreProblem):
    """A store was not migrated, because others held its tables all the time; the text says who."""
