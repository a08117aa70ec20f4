"""The sandbox as one object: its state, its application, and running it on a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox.application import SandboxApplication
from enable_with_segment.segment_sandbox.config import SandboxConfig
from enable_with_segment.segment_sandbox.config_api.endpoints import ConfigApi
from enable_with_segment.segment_sandbox.console.overview import Overview
from enable_with_segment.segment_sandbox.control.actions import ControlActions
from enable_with_segment.segment_sandbox.control.conditions import Control
from enable_with_segment.segment_sandbox.control.seed import ControlSeed
from enable_with_segment.segment_sandbox.control.state import ControlState
from enable_with_segment.segment_sandbox.control.webhooks import ControlWebhooks
from enable_with_segment.segment_sandbox.delivery.courier import Courier
from enable_with_segment.segment_sandbox.delivery.deliveries import Deliveries
from enable_with_segment.segment_sandbox.delivery.erasure import Erasure
from enable_with_segment.segment_sandbox.oauth.identity import Identity
from enable_with_segment.segment_sandbox.oauth.routes import IdentityRoutes
from enable_with_segment.segment_sandbox.server import listening
from enable_with_segment.segment_sandbox.state import State
from enable_with_segment.segment_sandbox.tracking.ingestion import Ingestion


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
        self.config_api = ConfigApi(self.state, self.identity)
        self.deliveries = Deliveries(self.state)
        self.courier = Courier(self.state, self.deliveries, delivery_transport)
        self.ingestion = Ingestion(self.state, self.deliveries)
        self.erasure = Erasure(self.state, self.deliveries)
        self.app: Starlette = SandboxApplication(
            self.state,
            [
                *Control(self.state, self.deliveries, self.reset).routes(),
                *ControlState(self.state, self.deliveries, self.courier, self.ingestion).routes(),
                *ControlSeed(self.state).routes(),
                *ControlActions(self.state, self.deliveries, self.courier, self.ingestion, self.erasure).routes(),
                *ControlWebhooks(self.state).routes(),
                *Overview(self.state, self.deliveries, self.ingestion).routes(),
                *IdentityRoutes(self.state, self.identity).routes(),
                *self.config_api.routes(),
                *self.ingestion.routes(),
            ],
            self._lifespan,
        )

    def reset(self) -> None:
        """Start again from the configuration: every install, token, event, fault and changed switch is gone."""
        for part in (self.state, self.identity, self.config_api, self.deliveries, self.ingestion, self.erasure):
            part.reset()
        self.deliveries.wake()

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
