"""Running the sandbox as a program: where it may listen, when it is ready, how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import sys
from collections.abc import Callable

from enable_with_segment.segment_sandbox.config import LOOPBACK_HOSTS, SandboxConfig
from enable_with_segment.segment_sandbox.sandbox import Sandbox

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8889


class NotLoopback(ValueError):
    """The sandbox lets anybody log in as anybody, so it serves only this machine unless told otherwise."""


async def serve(
    config: SandboxConfig,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    on_ready: Callable[[str], None] = lambda _: None,
    allow_public: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT. `on_ready` gets the base URL once the socket listens.

    Raises `NotLoopback` for a host that others can reach, unless `allow_public`, and `OSError` when the
    address cannot be bound.
    """
    if not allow_public and not is_loopback(host):
        raise NotLoopback(f"{host} is not a loopback address: anybody there could log in. Allow it explicitly.")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C still ends the loop
            loop.add_signal_handler(name, stop.set)
    try:
        async with Sandbox(config).listening(port, host) as url:
            on_ready(url)
            await stop.wait()
    finally:
        for name in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(name)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach this host name or address."""
    if host in LOOPBACK_HOSTS:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def run(
    config: SandboxConfig, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT, *, allow_public: bool = False
) -> None:
    """Serve in the foreground and print one line when ready. Raises what `serve` raises."""

    def announce(url: str) -> None:
        sys.stdout.write(f"Segment sandbox ready on {url} (profile {config.profile})\n")
        sys.stdout.flush()

    asyncio.run(serve(config, host, port, on_ready=announce, allow_public=allow_public))
