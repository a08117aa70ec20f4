"""Names in ``.env`` that were probably meant to be a setting."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from dotenv import dotenv_values

from enable_with_segment.oauth_app.runtime.settings import Settings

_ALIKE = 0.85
"""From ``difflib``: a letter too few or too many in a name of eight. A partner's own names stand in the same file."""


def misspelt(names: Iterable[str], known: Iterable[str]) -> list[tuple[str, str]]:
    """Return the names that are almost a known one, each with that one; capitals make no difference."""
    all_known = sorted({name.upper() for name in known})
    found = []
    for name in names:
        meant = get_close_matches(name.upper(), all_known, n=1, cutoff=_ALIKE)
        if meant and meant[0] != name.upper():
            found.append((name, meant[0]))
    return found


def misspelt_settings(folder: Path) -> list[str]:
    """Return a sentence for each name in a folder's ``.env`` that is no setting, but almost one."""
    names = [name for name in dotenv_values(folder / ".env", interpolate=False) if name]
    pairs = misspelt(names, Settings.model_fields)
    return [f".env sets {name}, which is no setting and is not read; is {meant} meant?" for name, meant in pairs]
