"""Imports what the processes of :mod:`tests.forks` need, also what the service imports only when it needs it."""

from __future__ import annotations

import gc
from importlib import import_module

import aiosqlite  # noqa: F401  SQLAlchemy imports it when it meets a URL
import asyncpg  # noqa: F401  the same
import rich.progress
import rich.table  # noqa: F401

import enable_with_segment.db.event_log.postgresql.log
import enable_with_segment.db.event_log.sqlite
import enable_with_segment.db.migrate  # noqa: F401
from enable_with_segment.oauth_app.cli import COMMANDS, functions_of

for _module in {function.partition(":")[0] for _, function in functions_of(COMMANDS)} - {"demo", "sandbox"}:
    import_module(f"enable_with_segment.oauth_app.cli.{_module}")

gc.freeze()  # a collection in a fork would copy all of it
