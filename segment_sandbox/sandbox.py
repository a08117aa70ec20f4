"""The sandbox as one object: its state, its application, and running it on a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette

from segment_sandbox.application import SandboxApplication
from segment_sandbox.config import SandboxConfig
from segment_sandbox.config_api import ConfigApi
from segment_sandbox.control import Control
from segment_sandbox.identity import Identity
from segment_sandbox.identity_routes import IdentityRoutes
from segment_sandbox.state import State


class Sandbox:
    """A Segment you can run.

    Use `app` through `httpx.ASGITransport` for requests in process, or on a real socket:

        async with Sandbox().listening() as base_url: ...
    """

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self.config = config or SandboxConfig()
        self.state = State(self.config)
        self.identity = Identity(self.state)
        self.config_api = ConfigApi(self)
        self.app: Starlette = SandboxApplication(
            lambda: self.state,
            [
                *Control(self).routes(),
                *IdentityRoutes(self).routes(),
                *self.config_api.routes(),
            ],
            self._lifespan,
        )

    def reset(self) -> None:
        """Start again from the configuration: every install, token, event, fault and changed switch is gone."""
        self.state = State(self.config)
        self.identity = Identity(self.state)
        self.config_api.reset()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver events while this block runs. `listening`, and a server's lifespan, do this by themselves."""
        yield

    @asynccontextmanager
    async def listening(self, port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[str]:
        """Serve on a real socket in this event loop and give its base URL. Port 0 picks a free one."""
        from segment_sandbox.serve import listening  # noqa: PLC0415  # serve builds on this class

        async with listening(self.app, host, port) as base_url:
            yield base_url

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self.running():
            yield


def create_app(config: SandboxConfig | None = None) -> Starlette:
    """The sandbox as an ASGI application; its state is in memory, so run it in one process."""
    return Sandbox(config).app
