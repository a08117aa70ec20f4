"""The command line over stores in a folder."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.oauth_app.cli import app


class Shell:
    """Runs commands over stores in a folder."""

    def __init__(self, folder: Path) -> None:
        self.environment = {
            "DATABASE_URL": f"sqlite+aiosqlite:///{folder}/control.db",
            "ENCRYPTION_KEYS": generate_encryption_key(),
            "HANDLERS": "tests.oauth_app.operations:crm",
            "BASE_URL": "http://localhost:8888",
        }

    def run(self, line: str, *, typed: str = "", **environment: str) -> Result:
        """Run a command with something typed in."""
        return CliRunner().invoke(app, line.split(), input=typed, env={**self.environment, **environment})

    def json(self, line: str, *, typed: str = "") -> object:
        """Run a command that has to succeed; returns what it printed as JSON."""
        done = self.run(line, typed=typed)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)
