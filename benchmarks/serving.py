"""The service as it is measured: its own application, in a role, and on a slower disk if asked for.

``serve`` refuses a web role over SQLite, because nobody would ever dispatch the events. Here that is wanted: it shows
what receiving costs by itself.
"""

from __future__ import annotations

import os

from starlette.applications import Starlette

from benchmarks import slow_disk
from oauth_app.application import create_application
from oauth_app.logs import configure_logging
from oauth_app.settings import load_settings


def application() -> Starlette:
    """Build the application from the environment."""
    milliseconds = float(os.environ.get("BENCH_SLOW_FSYNC_MS", "0"))
    if milliseconds:
        slow_disk.install(milliseconds)
    settings = load_settings()
    configure_logging(settings.log_level)
    return create_application(settings, "web" if os.environ.get("BENCH_ROLE") == "web" else "all")
