"""The sandbox as one object: its state, its application, and running it on a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette

from segment_sandbox.application import SandboxApplication
from segment_sandbox.config import SandboxConfig
from segment_sandbox.config_api import ConfigApi
from segment_sandbox.control import Control
from segment_sandbox.control_actions import ControlActions
from segment_sandbox.control_seed import ControlSeed
from segment_sandbox.control_state import ControlState
from segment_sandbox.control_webhooks import ControlWebhooks
from segment_sandbox.courier import Courier
from segment_sandbox.deliveries import Deliveries
from segment_sandbox.erasure import Erasure
from segment_sandbox.identity import Identity
from segment_sandbox.identity_routes import IdentityRoutes
from segment_sandbox.ingestion import Ingestion
from segment_sandbox.overview import Overview
from segment_sandbox.server import listening
from segment_sandbox.state import State


class Sandbox:
    """A Segment you can run.

    Use `app` through `httpx.ASGITransport` for requests in process, or on a real socket:

        async with Sandbox().listening() as base_url: ...
    """

    def __init__(
        self, config: SandboxConfig | None = None, *, delivery_transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """`delivery_transport` carries deliveries instead of the network, such as an `httpx.ASGITransport`."""
        self.config = config or SandboxConfig()
        self.state = State(self.config)
        self.identity = Identity(self.state)
        self.config_api = ConfigApi(self)
        self.courier = Courier(self, delivery_transport)
        self.deliveries = Deliveries(self)
        self.ingestion = Ingestion(self)
        self.erasure = Erasure(self)
        self.app: Starlette = SandboxApplication(
            lambda: self.state,
            [
                *Control(self).routes(),
                *ControlState(self).routes(),
                *ControlSeed(self).routes(),
                *ControlActions(self).routes(),
                *ControlWebhooks(self).routes(),
                *Overview(self).routes(),
                *IdentityRoutes(self).routes(),
                *self.config_api.routes(),
                *self.ingestion.routes(),
            ],
            self._lifespan,
        )

    def reset(self) -> None:
        """Start again from the configuration: every install, token, event, fault and changed switch is gone."""
        self.state = State(self.config)
        self.identity = Identity(self.state)
        self.config_api.reset()
        self.deliveries.reset()
        self.ingestion.reset()
        self.erasure.reset()
        self.courier.wake()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver events while this block runs. `listening`, and a server's lifespan, do this by themselves."""
        async with self.courier.running():
            yield

    @asynccontextmanager
    async def listening(self, port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[str]:
        """Serve on a real socket in this event loop and give its base URL. Port 0 picks a free one."""
        async with listening(self.app, host, port) as base_url:
            yield base_url

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self.running():
            yield


def create_app(config: SandboxConfig | None = None) -> Starlette:
    """The sandbox as an ASGI application; its state is in memory, so run it in one process."""
    return Sandbox(config).app
