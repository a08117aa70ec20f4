"""The command line: ``enable-with-segment``. One module for each noun, imported when a command of it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class Entry:
    """A command or a group of commands: the module of this package that registers it, and what the overview says."""

    module: str
    summary: str


COMMANDS = {
    "serve": Entry("serve", "Run the service: the pages, the webhook, and the dispatcher."),
    "sandbox": Entry("sandbox", "Run a local Segment to develop and test against."),
    "demo": Entry("demo", "Walk a customer's whole journey on this machine."),
    "migrate": Entry("stores", "Bring both stores to the newest schema."),
    "connect-link": Entry("accounts", "Make a single-use link that connects a customer."),
    "api-keys": Entry("accounts", "API keys that Segment sends with every delivery."),
    "accounts": Entry("suspensions", "Suspend a customer's account, and let it work again."),
    "installs": Entry("installs", "Connected workspaces."),
    "events": Entry("events", "Received events."),
    "dead-letters": Entry("events", "Events that handlers kept failing on."),
    "encryption-keys": Entry("encryption_keys", "Keys for stored secrets."),
    "doctor": Entry("doctor", "Check a deployment, and say what to do."),
    "api-tokens": Entry("api_tokens", "Tokens for your backend to use the HTTP API."),
    "audit": Entry("operators", "Who did what, and when."),
    "dashboard-link": Entry("operators", "Make a link that signs you in to the dashboard."),
    "panic": Entry("panic", "Stop all use of Segment and refuse every event."),
}


class CommandsOnDemand(TyperGroup):
    """Imports the module of the command that was asked for, and no other: most of them need half the service."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - Typer's signature
        """Every command, in the order of the overview."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - Typer's signature
        """One command; ``None`` if there is none of this name."""
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            found = typer.Typer(rich_markup_mode=None)
            import_module(f"{__name__}.{COMMANDS[cmd_name].module}").register(found)
            self.commands = {**self.commands, **typer.main.get_group(found).commands}
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's signature
        """Write the overview, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


app = typer.Typer(
    cls=CommandsOnDemand,
    name="enable-with-segment",
    help="The partner side of Segment: connect workspaces, receive their events, lose none.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _options() -> None:
    """There are no options before the command; Typer wants a place for them all the same."""


def main() -> None:
    """Run the command line; exit status 0 for success, 1 for failure, 2 for wrong use or settings."""
    app(prog_name="enable-with-segment")
