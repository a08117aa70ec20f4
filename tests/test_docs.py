"""Documentation is part of the change: these fail when a setting, a command or a case is not documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import enable_with_segment
from enable_with_segment.oauth_app.cli import app
from enable_with_segment.oauth_app.runtime.settings import Settings
from tests import security_page
from tests.conformance import PAGE, page

_OF_THE_INSIDE = {"architecture.md", "CONTRIBUTING.md"}
"""Pages for people who change the service."""

DOCS = Path(__file__).parent.parent / "docs"
ROOT = DOCS.parent


def _commands(command: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if not hasattr(command, "list_commands"):
        yield path, command.help or ""
        return
    for name in command.list_commands(None):
        yield from _commands(command.get_command(None, name), f"{path} {name}".strip())


COMMANDS = dict(_commands(typer.main.get_command(app)))


def test_the_conformance_page_is_made_from_the_tests() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "out of date: run make conformance"


def test_the_security_page_is_made_from_the_tests() -> None:
    made = security_page.page()
    assert security_page.PAGE.read_text(encoding="utf-8") == made, "out of date: run make conformance"


def test_every_case_of_receiving_is_covered() -> None:
    rows = [line for line in page().splitlines() if re.match(r"\| (\d+) \|", line)]
    missing = [line.split("|")[1].strip() for line in rows if "not covered" in line]
    assert [number for number in missing if int(number) <= 113] == []


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(name: str) -> None:
    assert f"`{name.upper()}`" in (DOCS / "configuration.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_every_command_is_documented_and_has_an_example(path: str) -> None:
    assert f"enable-with-segment {path}" in (DOCS / "commands.md").read_text(encoding="utf-8")
    assert path in COMMANDS[path].partition("Example:")[2]


@pytest.mark.parametrize("page_path", sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")]), ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(page_path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|mailto:|#)([^)#]+)", page_path.read_text(encoding="utf-8")):
        assert (page_path.parent / target).exists(), f"{page_path.name} links to {target}"


def test_partners_are_told_to_import_what_is_public_only() -> None:
    written = [path for path in [*DOCS.glob("*.md"), *ROOT.glob("*.md")] if path.name not in _OF_THE_INSIDE]
    written += (ROOT / "examples").rglob("*.py")
    for path in written:
        text = path.read_text(encoding="utf-8")
        inside = set(re.findall(r"enable_with_segment\.(\w+)", text)) - {"testing"}
        assert inside == set(), f"{path.name} names a package of the inside"
        for several, one_line in re.findall(r"from enable_with_segment import (?:\(([^)]*)\)|([\w, ]+))", text):
            imported = {name.strip() for name in (several or one_line).split(",")} - {""}
            assert imported <= set(enable_with_segment.__all__), path.name


def test_the_changelog_speaks_of_this_version() -> None:
    from importlib.metadata import version

    assert f"## {version('enable-with-segment')}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_module_that_the_architecture_names_exists() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*/?(?:[a-z_]+\.py)?)`", text))
    places = [ROOT, ROOT / "oauth_app", ROOT / "subscriptions"]
    paths = {name for name in named if "/" in name}
    assert len(paths) > 30
    assert [name for name in sorted(paths) if not any((place / name).exists() for place in places)] == []


def _anchors(page_path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page_path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page_path", sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")]), ids=lambda path: path.name)
def test_links_to_headings_lead_to_one(page_path: Path) -> None:
    found = re.findall(r"\]\(([\w./-]*\.md)?#([\w-]+)\)", page_path.read_text(encoding="utf-8"))
    lost = [
        f"{name}#{anchor}"
        for name, anchor in found
        if anchor not in _anchors((page_path.parent / name) if name else page_path)
    ]
    assert lost == []
