"""Imports what the processes of :mod:`tests.forks` need."""

from __future__ import annotations

import gc
from importlib import import_module

import aiosqlite  # noqa: F401  SQLAlchemy imports it when it meets a URL
import asyncpg  # noqa: F401  the same

from enable_with_segment.oauth_app.cli import COMMANDS

for _module in {entry.module for entry in COMMANDS.values()} - {"demo", "sandbox"}:
    import_module(f"enable_with_segment.oauth_app.cli.{_module}")

gc.freeze()  # a collection in a fork would copy all of it
