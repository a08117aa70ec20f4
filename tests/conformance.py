"""Writes ``docs/conformance.md``: which contract case is shown by which test, read from the tests' names.

A test shows case 45 when its name begins with ``test_case_045_``; several cases are named ``test_cases_045_046_``.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "conformance.md"
SECTIONS = (
    ("OAuth start and callback", 1, 20),
    ("Code exchange", 21, 33),
    ("Refresh", 34, 42),
    ("Destination provisioning", 43, 62),
    ("Receiving: authentication and framing", 63, 77),
    ("Receiving: content", 78, 101),
    ("Deletion", 102, 107),
    ("HMAC variants", 108, 113),
    ("Streams", 114, 119),
    ("Operations", 120, 124),
)
_NAME = re.compile(r"test_cases?_((?:\d{3}_)+)(\w+)")


def named_tests() -> Iterator[tuple[str, str]]:
    """Give every test's name and its file, from the sources alone."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name, path.relative_to(ROOT).as_posix()


def shown() -> dict[int, list[tuple[str, str]]]:
    """Return for each case the tests that show it: what the name says, and the file."""
    found: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for name, path in named_tests():
        match = _NAME.fullmatch(name)
        if match is not None:
            for number in match[1].split("_")[:-1]:
                found[int(number)].append((match[2].replace("_", " "), path))
    return found


def page() -> str:
    """Return the page's text."""
    found = shown()
    last = SECTIONS[-1][2]
    covered = sum(number in found for number in range(1, last + 1))
    lines = [
        "# Conformance",
        "",
        "How Segment behaves is written down as 124 numbered cases for a partner's service. Each row names the tests",
        "that show a case, against a real socket or the ASGI application with the sandbox behind it. This page is made",
        "from the tests' names by `make conformance`; a test fails when it is out of date.",
        "",
        f"**{covered} of {last} cases are covered.**",
    ]
    for title, first, end in SECTIONS:
        lines += ["", f"## {title}", "", "| Case | Shown by | In |", "|---|---|---|"]
        lines += [_row(number, found.get(number, [])) for number in range(first, end + 1)]
    return "\n".join(lines) + "\n"


def _row(number: int, tests: list[tuple[str, str]]) -> str:
    if not tests:
        return f"| {number} | **not covered yet** | |"
    names = "<br>".join(dict.fromkeys(name for name, _ in tests))
    files = "<br>".join(dict.fromkeys(f"`{file}`" for _, file in tests))
    return f"| {number} | {names} | {files} |"
