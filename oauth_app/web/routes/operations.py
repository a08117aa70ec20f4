"""What is neither a customer's page nor Segment's endpoint: the root, the button script, health and readiness."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from enable_with_segment.oauth_app.observability.readiness import examine
from enable_with_segment.oauth_app.web.services import services_of

_BUTTON = (Path(__file__).parent.parent / "button.js").read_text(encoding="utf-8")


def routes() -> list[Route]:
    """The routes of this room."""
    return [
        Route("/", home, methods=["GET"]),
        Route("/button.js", button, methods=["GET"]),
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
    ]


async def home(request: Request) -> Response:
    """Say what stands here."""
    return services_of(request).pages.home()


async def button(_request: Request) -> Response:
    """The script that draws the "Enable with Segment" button on a partner's page."""
    return Response(
        _BUTTON,
        media_type="text/javascript; charset=utf-8",
        headers={"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"},
    )


async def healthz(_request: Request) -> Response:
    """The process answers."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """Whether the service can take events, and how many wait; 503 with the names of what is in the way."""
    services = services_of(request)
    found = await examine(
        services.settings,
        services.database,
        services.event_log,
        services.recent_backlog,
        services.backlog_limit,
        job_troubles=services.background.troubles,
    )
    return JSONResponse(found.as_json(services.clock()), status_code=200 if found.ready else 503)
