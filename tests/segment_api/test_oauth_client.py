"""Authlib is imported in one place, and says nothing of its plans there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _imports_authlib(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        if any(name.partition(".")[0] == "authlib" for name in names):
            return True
    return False


def test_authlib_is_imported_in_one_place() -> None:
    modules = [path for folder in ("oauth_app", "segment_api") for path in (ROOT / folder).rglob("*.py")]
    assert [path.relative_to(ROOT).as_posix() for path in modules if _imports_authlib(path)] == [
        "segment_api/oauth_client.py"
    ]


@pytest.mark.parametrize(
    "module",
    ["enable_with_segment.oauth_app.operators.identity_provider", "enable_with_segment.segment_api.authorization_code"],
)
def test_whoever_uses_it_is_imported_without_a_warning(module: str) -> None:
    command = [sys.executable, "-W", "error", "-c", f"import {module}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    assert (done.returncode, done.stderr) == (0, "")
