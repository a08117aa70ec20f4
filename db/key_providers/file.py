"""Keys in a file, as container platforms mount secrets: one ``id:base64`` a line, ``#`` begins a comment."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from enable_with_segment.db.encryption import EncryptionKeys, EncryptionKeysInvalid, parse_key_entries

_LARGEST_FILE = 64 * 1024


class KeyFile:
    """Keys read from a file that other users of the machine can neither read nor write."""

    setting = "ENCRYPTION_KEYS_FILE"

    def __init__(self, path: Path) -> None:
        self._path = path

    async def configured(self) -> Mapping[str, bytes]:
        try:
            # Opened once and judged by its descriptor, so that what is judged is what is read.
            with self._path.open("rb") as file:
                problem = file_problem(os.fstat(file.fileno()), our_user=os.geteuid())
                text = "" if problem else file.read(_LARGEST_FILE).decode()
        except (OSError, UnicodeDecodeError) as error:
            problem, text = f"cannot be read ({type(error).__name__})", ""
        if problem:
            raise EncryptionKeysInvalid(f"{self.setting}: the file {problem}")
        return parse_key_entries(join_lines(text), setting=self.setting)

    async def load(self) -> EncryptionKeys:
        return EncryptionKeys(await self.configured(), setting=self.setting)


def join_lines(text: str) -> str:
    """Turn lines into the form with commas; empty lines and comments are left out."""
    lines = (line.partition("#")[0].strip().rstrip(",") for line in text.splitlines())
    return ",".join(line for line in lines if line)


def file_problem(found: os.stat_result, *, our_user: int) -> str | None:
    """Return what is wrong with a key file's kind, owner or permissions; ``None`` if nothing is.

    Its group may read it, because that is how orchestrators hand secrets to a process that is not root.
    """
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if found.st_uid not in {0, our_user}:
        return "belongs to another user; chown it to the user of the service, or to root"
    if found.st_mode & 0o027:
        return f"has the permissions {stat.S_IMODE(found.st_mode):04o}; chmod 600 (or 640) it"
    if found.st_size > _LARGEST_FILE:
        return "is larger than 64 KiB"
    return None
