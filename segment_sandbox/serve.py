"""Running the sandbox on a socket, with uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette

from segment_sandbox.config import LOOPBACK_HOSTS, SandboxConfig
from segment_sandbox.sandbox import Sandbox

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8889


class NotLoopback(ValueError):
    """The sandbox lets anybody log in as anybody, so it serves only this machine unless told otherwise."""


class _Server(uvicorn.Server):
    """A server that says when it listens, and leaves signals to whoever runs it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@asynccontextmanager
async def listening(app: Starlette, host: str = DEFAULT_HOST, port: int = 0) -> AsyncIterator[str]:
    """Serve an application in this event loop while the block runs, and give its base URL."""
    bound = _bind(host, port)
    server = _Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve([bound]))
    ready = asyncio.create_task(server.listening.wait())
    try:
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            raise RuntimeError("The sandbox's server stopped while it started.")
        yield base_url(bound)
    finally:
        server.should_exit = True
        ready.cancel()
        await task
        bound.close()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def base_url(bound: socket.socket) -> str:
    """`http://host:port` of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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
        async with listening(Sandbox(config).app, host, port) as url:
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
