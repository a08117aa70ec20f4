"""Where the tests keep their files: in memory where there is room, because they make thousands of stores.

Their processes are killed, the machine never is, so no test depends on what a disk keeps of a flush; and how long a
flush takes says something about the disk, not about the code. ``TEST_FOLDER`` names another place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

DISK = Path(tempfile.gettempdir())
"""Where temporary files usually are, for tests that want commits to take as long as they do."""
_MEMORY = Path("/dev/shm")  # noqa: S108  only folders with names of their own are made there
_ROOM = 2 * 1024**3


def settle() -> None:
    """Let temporary files of this process be made there from now on."""
    if named := os.environ.get("TEST_FOLDER"):
        tempfile.tempdir = named
    elif os.access(_MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(_MEMORY).free >= _ROOM:
        tempfile.tempdir = str(_MEMORY)
