"""Telling the demo's story: a headline for each step, below it what went over the wire, secrets masked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from enable_with_segment.oauth_app.demo.browser import Hop
from enable_with_segment.oauth_app.observability.logs import redact

_CHALLENGES = re.compile(r"((?:consent|login)_(?:challenge|verifier)=)[^&\s]+")
_LONGEST_URL = 100


class Narrator:
    """Writes to the terminal; when the demo's result goes to standard output as JSON, the story goes to stderr."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._number = 0

    @contextmanager
    def step(self, headline: str) -> Iterator[None]:
        """One step: its headline, and a spinner while it lasts when a person watches."""
        self._number += 1
        self._console.print(f"\n[bold green]{self._number}.[/] [bold]{escape(headline)}[/]")
        with self._console.status("…", spinner="dots"):
            yield

    def say(self, text: str) -> None:
        """A line of the story."""
        self._console.print(f"   {escape(text)}", soft_wrap=True)

    def wire(self, method: str, url: str, answer: object) -> None:
        """One request and how it was answered."""
        told = _CHALLENGES.sub(r"\1•••", redact(url))
        if len(told) > _LONGEST_URL:
            told = f"{told[:_LONGEST_URL]}…"
        self._console.print(f"   [dim]{method:<6}{escape(told)}  →  {escape(str(answer))}[/]", soft_wrap=True)

    def hop(self, hop: Hop) -> None:
        """One request of the customer's browser."""
        self.wire(hop.method, hop.url, hop.status)

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """A closing table."""
        table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None)
        for name, value in rows:
            table.add_row(f"[dim]{escape(name)}[/]", escape(value))
        self._console.print()
        self._console.print(table)

    def addresses(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """What to open or type, each whole on a line of its own so that it can be copied."""
        self._console.print(f"\n[bold]{escape(title)}[/]")
        for name, address in rows:
            self._console.print(f"   [dim]{escape(name)}[/]")
            self._console.print(f"   {escape(address)}", soft_wrap=True)
