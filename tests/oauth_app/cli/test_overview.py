"""The overview of commands tells the truth, and costs next to nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from enable_with_segment.oauth_app.cli import COMMANDS, Command, Commands, Group
from enable_with_segment.oauth_app.cli.demo import program


def _commands(commands: Commands) -> Iterator[tuple[str, Command]]:
    for name, entry in commands.items():
        if isinstance(entry, Group):
            yield from ((f"{name} {word}", command) for word, command in _commands(entry.commands))
        else:
            yield name, entry


@pytest.mark.parametrize(("words", "command"), list(_commands(COMMANDS)), ids=str)
def test_the_overview_says_what_a_command_says_of_itself(words: str, command: Command) -> None:
    module, _, function = command.function.partition(":")
    said = getattr(import_module(f"enable_with_segment.oauth_app.cli.{module}"), function).__doc__ or ""
    assert said.startswith(command.summary.removesuffix(".")), words


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], {"sqlalchemy", "pydantic", "starlette", "httpx", "enable_with_segment.segment_sandbox"}),
        (["sandbox", "--help"], {"sqlalchemy", "enable_with_segment.oauth_app.runtime.settings"}),
        (
            ["connect-link", "--help"],
            {
                "authlib",
                "uvicorn",
                "enable_with_segment.segment_sandbox",
                "enable_with_segment.oauth_app.runtime.wiring",
            },
        ),
        (
            ["dashboard-link", "--help"],
            {
                "authlib",
                "uvicorn",
                "enable_with_segment.segment_sandbox",
                "enable_with_segment.oauth_app.runtime.wiring",
            },
        ),
        (
            ["panic", "--help"],
            {
                "authlib",
                "httpx",
                "uvicorn",
                "enable_with_segment.segment_sandbox",
                "enable_with_segment.oauth_app.runtime.wiring",
            },
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_imports_only_what_it_needs(arguments: list[str], unwanted: set[str]) -> None:
    program = (
        "import sys\n"
        "from enable_with_segment.oauth_app.cli import app\n"
        f"app({arguments!r}, standalone_mode=False)\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own program
    assert "Usage" in done.stdout
    assert unwanted.isdisjoint(done.stderr.split())


def test_an_unknown_command_is_wrong_use() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "enable_with_segment", "nope"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "No such command 'nope'" in done.stderr


def test_the_demo_names_the_command_line_as_this_shell_finds_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    beside = tmp_path / ".venv" / "bin" / "enable-with-segment"
    beside.parent.mkdir(parents=True)
    beside.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(beside.with_name("python")))
    monkeypatch.setenv("PATH", "/usr/bin")
    assert program() == ".venv/bin/enable-with-segment"
    monkeypatch.setenv("PATH", str(beside.parent))
    assert program() == "enable-with-segment"


def test_the_demo_says_where_it_can_be_run(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from enable_with_segment.oauth_app.cli import app\n"
        "sys.modules['examples'] = None\n"  # as where the package is installed without its repository
        "app(['demo', '--once'])\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)  # noqa: S603 - ours
    assert done.returncode == 2
    assert "make demo" in done.stderr
    assert not (tmp_path / "data").exists()
