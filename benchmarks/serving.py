"""The service as it is measured: its own application, in a role, and on a slower disk if asked for.

``serve`` refuses a web role over SQLite, because nobody would ever dispatch the events. Here that is wanted: it shows
what receiving costs by itself.
"""

from __future__ import annotations

import os

from benchmarks import slow_disk
from enable_with_segment.oauth_app.cli import serve


def application() -> object:
    """Build the application from the environment."""
    milliseconds = float(os.environ.get("BENCH_SLOW_FSYNC_MS", "0"))
    if milliseconds:
        slow_disk.install(milliseconds)
    return serve.application()
