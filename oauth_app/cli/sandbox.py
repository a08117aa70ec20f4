"""``sandbox``: a Segment that runs on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from enable_with_segment.oauth_app.cli.output import stop
from enable_with_segment.segment_sandbox.config import ConfigError, SandboxConfig
from enable_with_segment.segment_sandbox.serve import DEFAULT_HOST, DEFAULT_PORT, NotLoopback
from enable_with_segment.segment_sandbox.serve import run as run_sandbox
from enable_with_segment.segment_sandbox.switches import UnknownSwitch


def sandbox(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = DEFAULT_HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on.")] = DEFAULT_PORT,
) -> None:
    """Run a local Segment: OAuth, Config API, ingestion, delivery. Its settings are SANDBOX_* (docs/sandbox.md).

    Example: SANDBOX_PROFILE=hostile enable-with-segment sandbox --port 8889
    """
    try:
        run_sandbox(SandboxConfig.from_environment(), host, port)
    except (ConfigError, UnknownSwitch, NotLoopback) as problem:
        stop([str(problem)])
    except OSError as problem:
        stop([f"cannot listen on {host}:{port}: {problem.strerror}. Is something else running there?"], 1)
