"""The environment and ``.env`` as :class:`Settings` reads them, without pydantic, which takes 0.3 s to import.

Commands that only read the event log need one setting. A test compares the two readers.
"""

from __future__ import annotations

import os
from pathlib import Path

from enable_with_segment.db.store_url import DEFAULT_DATABASE_URL, DatabaseUrlInvalid, StoreUrl, event_log_beside

ENV_FILE = ".env"


class SettingsInvalid(Exception):
    """The environment cannot be used. ``problems`` holds one sentence for each setting, without its value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_environment() -> dict[str, str]:
    """Return every variable that has a value, by its name in lower case; the environment wins over ``.env``."""
    variables: dict[str, str] = {}
    if Path(ENV_FILE).is_file():
        from dotenv import dotenv_values  # noqa: PLC0415 - only where there is such a file

        variables |= {name.lower(): value for name, value in dotenv_values(ENV_FILE).items() if value}
    return variables | {name.lower(): value for name, value in os.environ.items() if value}


def event_log_url() -> str:
    """Return where the event log lives, as ``Settings.effective_event_log_url`` does.

    Raises:
        SettingsInvalid: a URL names no supported database.
    """
    variables = read_environment()
    urls = {name: variables[name] for name in ("database_url", "event_log_url") if name in variables}
    problems = []
    for name, url in urls.items():
        try:
            StoreUrl.parse(url)
        except DatabaseUrlInvalid as problem:
            problems.append(f"{name.upper()}: {problem}")
    if problems:
        raise SettingsInvalid(problems)
    return urls.get("event_log_url") or event_log_beside(urls.get("database_url", DEFAULT_DATABASE_URL))
