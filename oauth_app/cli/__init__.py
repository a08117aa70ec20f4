"""The command line: ``enable-with-segment``. One module for each noun."""

from __future__ import annotations

import typer

from oauth_app.cli import (
    accounts,
    api_tokens,
    demo,
    doctor,
    encryption_keys,
    events,
    installs,
    operators,
    panic,
    sandbox,
    serve,
    stores,
)

app = typer.Typer(
    name="enable-with-segment",
    help="The partner side of Segment: connect workspaces, receive their events, lose none.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
serve.register(app)
sandbox.register(app)
demo.register(app)
stores.register(app)
accounts.register(app)
installs.register(app)
events.register(app)
encryption_keys.register(app)
doctor.register(app)
api_tokens.register(app)
operators.register(app)
panic.register(app)


def main() -> None:
    """Run the command line; exit status 0 for success, 1 for failure, 2 for wrong use or settings."""
    app()
