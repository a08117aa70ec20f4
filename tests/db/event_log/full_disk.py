"""A disk without room, for the test's own process."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path


@contextmanager
def largest_file_is(size: int) -> Iterator[None]:
    """No file may grow beyond this many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full_disk(folder: Path) -> AbstractContextManager[None]:
    """No file may become 50,000 bytes larger than the folder's largest: room for small things, none for large ones."""
    return largest_file_is(max(path.stat().st_size for path in folder.iterdir()) + 50_000)
