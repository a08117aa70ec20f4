"""The page at `/`: what is in the sandbox, for a person."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from enable_with_segment.segment_sandbox.console.pages import page

if TYPE_CHECKING:
    from enable_with_segment.segment_sandbox.sandbox import Sandbox

RECENT = 25


class Overview:
    """One page with workspaces, sources, destinations and the latest deliveries."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def routes(self) -> list[Route]:
        return [Route("/", self.show, methods=["GET"])]

    async def show(self, _: Request) -> Response:
        world = self._sandbox.state.world
        return page(
            "overview.html",
            profile=self._sandbox.state.profile,
            now=self._sandbox.state.now().strftime("%Y-%m-%d %H:%M:%S UTC"),
            time_scale=self._sandbox.state.clock.scale,
            workspaces=[(w, world.sources_of(w.name)) for w in world.workspaces.values()],
            installs=list(world.installs.values()),
            destinations=list(world.destinations.values()),
            catalog=world.catalog,
            deliveries=list(islice(reversed(self._sandbox.deliveries.log), RECENT)),
            drops=list(islice(reversed(self._sandbox.ingestion.drops), RECENT)),
        )
