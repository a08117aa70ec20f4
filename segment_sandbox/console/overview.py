"""The page at `/`: what is in the sandbox, for a person."""

from __future__ import annotations

from itertools import islice

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from enable_with_segment.segment_sandbox.console.pages import page
from enable_with_segment.segment_sandbox.delivery.deliveries import Deliveries
from enable_with_segment.segment_sandbox.state import State
from enable_with_segment.segment_sandbox.tracking.ingestion import Ingestion

RECENT = 25


class Overview:
    """One page with workspaces, sources, destinations and the latest deliveries."""

    def __init__(self, state: State, deliveries: Deliveries, ingestion: Ingestion) -> None:
        self._state = state
        self._deliveries = deliveries
        self._ingestion = ingestion

    def routes(self) -> list[Route]:
        return [Route("/", self.show, methods=["GET"])]

    async def show(self, _: Request) -> Response:
        world = self._state.world
        return page(
            "overview.html",
            profile=self._state.profile,
            now=self._state.now().strftime("%Y-%m-%d %H:%M:%S UTC"),
            time_scale=self._state.clock.scale,
            workspaces=[(w, world.sources_of(w.name)) for w in world.workspaces.values()],
            installs=list(world.installs.values()),
            destinations=list(world.destinations.values()),
            catalog=world.catalog,
            deliveries=list(islice(reversed(self._deliveries.log), RECENT)),
            drops=list(islice(reversed(self._ingestion.drops), RECENT)),
        )
