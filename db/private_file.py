"""Files that only the service's own user may read: they hold what customers' events hold."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def make_private(path: Path) -> None:
    """Make an empty file readable by its owner alone, before SQLite makes it readable by everybody.

    A file that is there is left as it is, and not even opened: closing it would end SQLite's locks on it. What SQLite
    keeps beside a database gets the rights of the database.
    """
    with suppress(OSError):  # SQLite says better than we could what is wrong with the place
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
