"""An SQLite log as one process has it open: its files, and the events that the process has handed out."""

from __future__ import annotations

from dataclasses import dataclass

from enable_with_segment.db.event_log.sqlite.catalogue import Catalogue
from enable_with_segment.db.event_log.sqlite.leases import Leases
from enable_with_segment.db.event_log.sqlite.segments import Segments


@dataclass(frozen=True, slots=True)
class Store:
    """The open files and the leases. The files may be opened anew; the leases last as long as the process."""

    catalogue: Catalogue
    segments: Segments
    leases: Leases

    def close(self) -> None:
        """Close the files."""
        self.catalogue.close()
        self.segments.close()
