"""The command line, ``enable-with-segment``: a table of commands, each of which is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, ClassVar, TypeAlias

import typer
from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        function: ``module:function`` of this package.
        summary: the first line of its docstring, for the overview.
    """

    function: str
    summary: str


@dataclass(frozen=True, slots=True)
class Group:
    """Commands of one noun."""

    summary: str
    commands: Mapping[str, Command]


Commands: TypeAlias = Mapping[str, Command | Group]

COMMANDS: Commands = {
    "serve": Command("serve:serve", "Run the service: the pages, the webhook, and the dispatcher."),
    "sandbox": Command("sandbox:sandbox", "Run a local Segment: OAuth, Config API, ingestion, delivery."),
    "demo": Command("demo:demo", "Run a local Segment and the service, and walk a customer's whole journey."),
    "migrate": Command("stores:migrate", "Bring both stores to the newest schema."),
    "connect-link": Command("accounts:connect_link", "Make a single-use link that connects a customer."),
    "api-keys": Group(
        "API keys that Segment sends with every delivery.",
        {
            "create": Command("accounts:create_key", "Make an API key that a customer pastes into Segment."),
            "list": Command("accounts:list_keys", "List API keys, the newest first."),
            "rotate": Command("accounts:rotate_key", "Replace a pasted key."),
            "revoke": Command("accounts:revoke_key", "Revoke a key at once."),
        },
    ),
    "accounts": Group(
        "Suspend a customer's account, and let it work again.",
        {
            "suspend": Command("accounts:suspend", "Answer an account's deliveries 403."),
            "resume": Command("accounts:resume", "Accept an account's deliveries again."),
        },
    ),
    "installs": Group(
        "Connected workspaces.",
        {
            "list": Command("installs:list_installs", "List installs, the newest first."),
            "show": Command("installs:show", "Show one install."),
            "reconcile": Command("installs:reconcile", "Compare the destination in Segment with what it should be."),
            "refresh": Command("installs:refresh", "Refresh the install token now."),
            "keep": Command("installs:keep_install", "Undo a disconnect, or a removal that Segment reported."),
            "rotate-key": Command("installs:rotate_key", "Replace the install's API key in Segment."),
            "disconnect": Command("installs:disconnect", "Switch the install's destination off in Segment."),
        },
    ),
    "events": Group(
        "Received events.",
        {
            "list": Command("events:list_events", "List received events, the newest first."),
            "show": Command("events:show", "Show everything known of a messageId."),
            "tail": Command("events:tail", "Print events as they arrive, until Ctrl-C."),
            "prove": Command("events:prove", "Check that every messageId of a file was received and handled."),
            "replay": Command("replay:replay", "Hand events to the handlers once more."),
            "pause": Command("replay:pause", "Hand out no more events, or none to one handler."),
            "resume": Command("replay:resume", "Hand out events again after: events pause."),
            "erase": Command("erasure:erase", "Erase a person everywhere."),
        },
    ),
    "dead-letters": Group(
        "Events that handlers kept failing on.",
        {
            "list": Command("events:list_dead_letters", "List events that were given up, with the reason."),
            "groups": Command("events:list_groups", "Group what was given up by its cause."),
            "retry": Command("replay:retry", "Let dead letters be tried again."),
        },
    ),
    "encryption-keys": Group(
        "Keys for stored secrets (ENCRYPTION_KEYS).",
        {
            "generate": Command("encryption_keys:generate", "Print a new key for ENCRYPTION_KEYS."),
            "status": Command("encryption_keys:status", "Show which keys are configured."),
            "rotate": Command("encryption_keys:rotate", "Print the next value of ENCRYPTION_KEYS."),
            "reencrypt": Command("encryption_keys:reencrypt", "Encrypt every stored secret anew."),
        },
    ),
    "doctor": Command("doctor:doctor", "Check settings, keys, stores and network."),
    "api-tokens": Group(
        "Tokens for your backend to use the HTTP API.",
        {
            "create": Command("operators:create_token", "Make a token for the HTTP API."),
            "list": Command("operators:list_tokens", "List tokens, the newest first."),
            "revoke": Command("operators:revoke_token", "Revoke a token at once."),
        },
    ),
    "audit": Group("Who did what, and when.", {"list": Command("operators:list_audit", "List entries of the audit.")}),
    "dashboard-link": Command("operators:dashboard_link", "Make a link that signs you in to the dashboard."),
    "panic": Command("panic:panic", "Stop all use of Segment and refuse every event."),
}


class CommandsOnDemand(TyperGroup):
    """A group that imports a command's module when that command is asked for: most of them need half the service."""

    table: ClassVar[Commands] = {}

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - Typer's signature
        """Every command, in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - Typer's signature
        """One command; ``None`` if there is none of this name."""
        found = self.table.get(cmd_name)
        if found is not None and cmd_name not in self.commands:
            made = _group(found) if isinstance(found, Group) else _command(cmd_name, found)
            self.commands = {**self.commands, cmd_name: made}
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's signature
        """Write the overview, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.table.items()])


def functions_of(commands: Commands) -> Iterator[tuple[str, str]]:
    """Yield every command's words, such as ``events list``, with its ``module:function``."""
    for name, entry in commands.items():
        if isinstance(entry, Group):
            yield from ((f"{name} {word}", function) for word, function in functions_of(entry.commands))
        else:
            yield name, entry.function


def _on_demand(commands: Commands) -> type[CommandsOnDemand]:
    return type("Commands", (CommandsOnDemand,), {"table": commands})


def _group(entry: Group) -> Any:
    made = typer.Typer(cls=_on_demand(entry.commands), help=entry.summary, no_args_is_help=True, rich_markup_mode=None)
    made.callback()(lambda: None)
    return typer.main.get_group(made)


def _command(name: str, entry: Command) -> Any:
    module, _, function = entry.function.partition(":")
    made = typer.Typer(rich_markup_mode=None)
    made.command(name)(getattr(import_module(f"{__name__}.{module}"), function))
    return typer.main.get_command(made)


app = typer.Typer(
    cls=_on_demand(COMMANDS),
    name="enable-with-segment",
    help="The partner side of Segment: connect workspaces, receive their events, lose none.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415 - no other command needs it

        typer.echo(f"enable-with-segment {version('enable-with-segment')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """Run the command line; exit status 0 for success, 1 for failure, 2 for wrong use or settings."""
    app(prog_name="enable-with-segment")
