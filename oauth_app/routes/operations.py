"""What is neither a customer's page nor Segment's endpoint: the root, the button script, health and readiness."""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from db.database import Database
from db.event_log.log import StoredEventLog
from db.event_log.records import EventLogUnavailable
from db.migrate import is_current
from oauth_app.services import services_of

logger = logging.getLogger(__name__)

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
    """Both stores answer and have the newest schema; 503 with the names of what does not."""
    services = services_of(request)
    checks = {
        "control_store": await _is_current(services.database),
        "event_log": await _answers(services.event_log),
    }
    ready = all(checks.values())
    return JSONResponse({"ready": ready, "checks": checks}, status_code=200 if ready else 503)


async def _is_current(database: Database) -> bool:
    try:
        return await is_current(database, "control")
    except (SQLAlchemyError, OSError):
        logger.warning("the control store does not answer", exc_info=True)
        return False


async def _answers(event_log: StoredEventLog) -> bool:
    try:
        await event_log.check()
    except EventLogUnavailable as problem:
        logger.warning("the event log does not answer: %s", problem)
        return False
    return True
